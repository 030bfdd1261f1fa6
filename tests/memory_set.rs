//! `MemorySet` as its users see it: the example they know, what each operation answers, and what a failure leaves.

use std::{cell::Cell, cmp::Ordering, error::Error, ops::Range};

use memory_addr::{AddrRange, VirtAddr, va, va_range};
use stage2::{MappingBackend, MappingError, MappingResult, MemoryArea, MemorySet, areas::Backing};

/// A page table: what stands at each of the addresses below its length, and the call that fails, counted from now.
struct Table {
    entries: Vec<u8>,
    calls_until_failure: Option<usize>,
    calls: Vec<AddrRange<VirtAddr>>,
}

/// Writes flags into a [`Table`]; a call that fails changes nothing.
#[derive(Clone, Debug, PartialEq)]
struct Recorder;

impl Table {
    fn new(len: usize) -> Self {
        Self { entries: vec![0; len], calls_until_failure: None, calls: Vec::new() }
    }

    /// Makes the call after `calls` more, and all that follow it, fail.
    fn fail_after(&mut self, calls: usize) {
        self.calls.clear();
        self.calls_until_failure = Some(calls);
    }

    fn write(&mut self, start: VirtAddr, size: usize, flags: u8) -> bool {
        self.calls.push(AddrRange::from_start_size(start, size));
        match &mut self.calls_until_failure {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        self.entries.iter_mut().skip(start.as_usize()).take(size).for_each(|entry| *entry = flags);
        true
    }
}

impl MappingBackend for Recorder {
    type Addr = VirtAddr;
    type Flags = u8;
    type PageTable = Table;

    fn map(&self, start: VirtAddr, size: usize, flags: u8, table: &mut Table) -> bool {
        table.write(start, size, flags)
    }

    fn unmap(&self, start: VirtAddr, size: usize, table: &mut Table) -> bool {
        table.write(start, size, 0)
    }

    fn protect(&self, start: VirtAddr, size: usize, new_flags: u8, table: &mut Table) -> bool {
        table.write(start, size, new_flags)
    }
}

type Set = MemorySet<Recorder>;

fn area(start: usize, end: usize, flags: u8) -> MemoryArea<Recorder> {
    MemoryArea::new(start.into(), end - start, flags, Recorder)
}

/// Three areas with holes between them: `1` at 10..20, `2` at 30..40, `3` at 50..60.
fn three() -> (Set, Table) {
    let (mut set, mut table) = (Set::new(), Table::new(100));
    for (start, flags) in [(10, 1), (30, 2), (50, 3)] {
        set.map(area(start, start + 10, flags), &mut table, false).unwrap();
    }
    (set, table)
}

/// The areas as start, end and flags.
fn shown(set: &Set) -> Vec<(usize, usize, u8)> {
    set.iter().map(|area| (area.start().as_usize(), area.end().as_usize(), area.flags())).collect()
}

/// Fails unless the table holds what the set says.
fn assert_true(set: &Set, table: &Table) {
    for (at, &entry) in table.entries.iter().enumerate() {
        assert_eq!(entry, set.find(at.into()).map_or(0, MemoryArea::flags), "at {at}");
    }
}

mod known_interface {
    use super::*;

    #[test]
    #[rustfmt::skip]
    #[allow(clippy::items_after_statements, clippy::large_stack_arrays, reason = "it is theirs, unchanged")]
    fn the_example_that_users_of_memory_set_have_runs_unchanged() {
        use memory_addr::{va, va_range, VirtAddr};
        use stage2::{MappingBackend, MemoryArea, MemorySet};

        const MAX_ADDR: usize = 0x10000;

        /// A mock memory flags.
        type MockFlags = u8;
        /// A mock page table, which is a simple array that maps addresses to flags.
        type MockPageTable = [MockFlags; MAX_ADDR];

        /// A mock mapping backend that manipulates the page table on `map` and `unmap`.
        #[derive(Clone)]
        struct MockBackend;

        let mut pt = [0; MAX_ADDR];
        let mut memory_set = MemorySet::<MockBackend>::new();

        // Map [0x1000..0x5000).
        memory_set.map(
            /* area: */ MemoryArea::new(va!(0x1000), 0x4000, 1, MockBackend),
            /* page_table: */ &mut pt,
            /* unmap_overlap */ false,
        ).unwrap();
        // Unmap [0x2000..0x4000), will split the area into two parts.
        memory_set.unmap(va!(0x2000), 0x2000, &mut pt).unwrap();

        let areas = memory_set.iter().collect::<Vec<_>>();
        assert_eq!(areas.len(), 2);
        assert_eq!(areas[0].va_range(), va_range!(0x1000..0x2000));
        assert_eq!(areas[1].va_range(), va_range!(0x4000..0x5000));

        // Underlying operations to do when manipulating mappings.
        impl MappingBackend for MockBackend {
            type Addr = VirtAddr;
            type Flags = MockFlags;
            type PageTable = MockPageTable;
            fn map(&self, start: VirtAddr, size: usize, flags: MockFlags, pt: &mut MockPageTable) -> bool {
                for entry in pt.iter_mut().skip(start.as_usize()).take(size) {
                    if *entry != 0 { return false; }
                    *entry = flags;
                }
                true
            }
            fn unmap(&self, start: VirtAddr, size: usize, pt: &mut MockPageTable) -> bool {
                for entry in pt.iter_mut().skip(start.as_usize()).take(size) {
                    if *entry == 0 { return false; }
                    *entry = 0;
                }
                true
            }
            fn protect(&self, start: VirtAddr, size: usize, new_flags: MockFlags, pt: &mut MockPageTable) -> bool {
                for entry in pt.iter_mut().skip(start.as_usize()).take(size) {
                    if *entry == 0 { return false; }
                    *entry = new_flags;
                }
                true
            }
        }
    }

    #[test]
    fn a_set_can_be_a_constant_and_code_can_be_generic_over_its_backend() {
        struct Owner<B: MappingBackend> {
            set: MemorySet<B>,
        }
        fn flags_at<B: MappingBackend<Addr = VirtAddr>>(owner: &Owner<B>, at: usize) -> Option<B::Flags> {
            owner.set.find(va!(at)).map(MemoryArea::flags)
        }
        const EMPTY: Set = Set::new();
        let owner = Owner { set: EMPTY };
        assert_eq!(flags_at(&owner, 0), None);
        assert!(owner.set.is_empty() && Set::default().is_empty());
    }

    #[test]
    fn an_address_may_have_fewer_bits_than_a_word() {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        struct Narrow(u16);
        impl From<usize> for Narrow {
            fn from(addr: usize) -> Self {
                Self(addr.try_into().expect("a narrow address has 16 bits"))
            }
        }
        impl From<Narrow> for usize {
            fn from(addr: Narrow) -> Self {
                addr.0.into()
            }
        }
        #[derive(Clone)]
        struct Nothing;
        impl Backing for Nothing {
            type Addr = Narrow;
            type Flags = u8;
        }
        let mut set = MemorySet::new();
        for index in 0..1000 {
            set.insert(MemoryArea::new(Narrow(index * 32), 16, 1, Nothing)).unwrap();
        }
        let (start, end) = (Narrow(0), Narrow(u16::MAX));
        assert!(set.find(end).is_none() && set.find(Narrow(999 * 32 + 15)).is_some());
        let free = set.find_free_area(start, 32, AddrRange { start, end }, 16);
        assert_eq!(free, Some(Narrow(999 * 32 + 16)));
        assert!(set.plan(AddrRange { start, end }).unwrap().carve().iter().count() == 1000 && set.is_empty());
    }

    #[test]
    fn an_area_shows_what_it_was_made_of() {
        let area = MemoryArea::new(va!(0x1000), 0x2000, 7, Recorder);
        assert_eq!((area.start(), area.end(), area.size()), (va!(0x1000), va!(0x3000), 0x2000));
        assert_eq!((area.va_range(), area.flags(), area.backend()), (va_range!(0x1000..0x3000), 7, &Recorder));
        assert!(format!("{area:?}").contains("flags: 7"));
        let (set, _) = three();
        assert_eq!(format!("{set:?}").matches("MemoryArea").count(), 3);
    }

    #[test]
    fn errors_are_values_with_a_text() {
        for error in [MappingError::InvalidParam, MappingError::AlreadyExists, MappingError::BadState] {
            let (copy, dynamic): (_, &dyn Error) = (error, &error);
            assert_eq!(copy, error);
            assert!(!dynamic.to_string().is_empty());
        }
        let _: MappingResult = Ok(());
        let _: MappingResult<u8> = Ok(1);
    }
}

mod map {
    use super::*;

    #[test]
    fn an_overlap_is_refused_and_the_area_in_the_way_can_be_named_a8() {
        let (mut set, mut table) = three();
        table.calls.clear();
        for (start, end) in [(0, 11), (19, 30), (12, 13), (0, 100), (10, 20)] {
            assert_eq!(set.map(area(start, end, 9), &mut table, false), Err(MappingError::AlreadyExists));
            let range = AddrRange::new(start.into(), end.into());
            assert_eq!(set.overlap(range).map(MemoryArea::start), Some(va!(10)));
            let error = set.insert(area(start, end, 9)).unwrap_err().to_string();
            assert!(error.contains("VA:0xa..VA:0x14"), "{error}");
            assert!(error.contains(&format!("VA:{start:#x}..VA:{end:#x}")), "{error}");
        }
        assert!(table.calls.is_empty() && set.len() == 3);
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let (mut set, mut table) = three();
        set.map(area(0, 10, 4), &mut table, false).unwrap();
        set.map(area(20, 30, 5), &mut table, false).unwrap();
        assert_eq!(shown(&set), [(0, 10, 4), (10, 20, 1), (20, 30, 5), (30, 40, 2), (50, 60, 3)]);
        assert_true(&set, &table);
    }

    #[test]
    fn over_others_it_takes_their_place() {
        let (mut set, mut table) = three();
        set.map(area(15, 55, 9), &mut table, true).unwrap();
        assert_eq!(shown(&set), [(10, 15, 1), (15, 55, 9), (55, 60, 3)]);
        assert_true(&set, &table);
    }

    #[test]
    fn an_empty_area_is_refused() {
        let (mut set, mut table) = three();
        assert_eq!(set.map(area(5, 5, 9), &mut table, false), Err(MappingError::InvalidParam));
        assert_eq!(set.map(area(15, 15, 9), &mut table, true), Err(MappingError::InvalidParam));
        assert_eq!(set.insert(area(5, 5, 9)).unwrap_err().to_string(), "the range VA:0x5..VA:0x5 is empty");
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn an_area_that_failed_to_map_is_not_recorded_and_one_that_mapped_is_a3() {
        let (mut set, mut table) = three();
        table.fail_after(0);
        assert_eq!(set.map(area(60, 100, 9), &mut table, false), Err(MappingError::BadState));
        assert_eq!(table.calls, [va_range!(60..100)], "one call maps an area: no part is mapped and forgotten");
        assert_eq!(shown(&set), [(10, 20, 1), (30, 40, 2), (50, 60, 3)]);
        assert_true(&set, &table);
    }

    #[test]
    fn a_failure_over_others_keeps_every_part_that_is_still_mapped_a3() {
        let left = [
            vec![(10, 20, 1), (30, 40, 2), (50, 60, 3)],
            vec![(10, 15, 1), (30, 40, 2), (50, 60, 3)],
            vec![(10, 15, 1), (50, 60, 3)],
            vec![(10, 15, 1), (55, 60, 3)],
        ];
        for (calls, left) in left.into_iter().enumerate() {
            let (mut set, mut table) = three();
            table.fail_after(calls);
            assert_eq!(set.map(area(15, 55, 9), &mut table, true), Err(MappingError::BadState));
            assert_eq!(shown(&set), left, "the call that fails is the one after {calls}");
            assert_true(&set, &table);
        }
    }
}

mod unmap {
    use super::*;

    #[test]
    fn any_range_goes_across_areas_and_holes() {
        for (range, left) in [
            (0..100, vec![]),
            (0..10, vec![(10, 20, 1), (30, 40, 2), (50, 60, 3)]),
            (10..20, vec![(30, 40, 2), (50, 60, 3)]),
            (0..15, vec![(15, 20, 1), (30, 40, 2), (50, 60, 3)]),
            (15..55, vec![(10, 15, 1), (55, 60, 3)]),
            (32..34, vec![(10, 20, 1), (30, 32, 2), (34, 40, 2), (50, 60, 3)]),
            (32..32, vec![(10, 20, 1), (30, 40, 2), (50, 60, 3)]),
            (60..90, vec![(10, 20, 1), (30, 40, 2), (50, 60, 3)]),
        ] {
            let (mut set, mut table) = three();
            set.unmap(range.start.into(), range.len(), &mut table).unwrap();
            assert_eq!(shown(&set), left, "{range:?}");
            assert_true(&set, &table);
        }
    }

    #[test]
    fn a_failing_backend_costs_no_area_and_no_panic_a2() {
        let left = [
            vec![(10, 20, 1), (30, 40, 2), (50, 60, 3)],
            vec![(10, 15, 1), (30, 40, 2), (50, 60, 3)],
            vec![(10, 15, 1), (50, 60, 3)],
        ];
        for (calls, left) in left.into_iter().enumerate() {
            let (mut set, mut table) = three();
            table.fail_after(calls);
            assert_eq!(set.unmap(va!(15), 40, &mut table), Err(MappingError::BadState));
            assert_eq!(shown(&set), left, "the call that fails is the one after {calls}");
            assert_eq!(table.calls.len(), calls + 1, "nothing behind the failure is touched");
            assert_true(&set, &table);
            table.calls_until_failure = None;
            set.unmap(va!(15), 40, &mut table).unwrap();
            assert_true(&set, &table);
        }
    }

    #[test]
    fn a_failure_in_the_middle_of_an_area_leaves_it_whole_a2() {
        let (mut set, mut table) = three();
        table.fail_after(0);
        assert_eq!(set.unmap(va!(33), 3, &mut table), Err(MappingError::BadState));
        assert_eq!(shown(&set), [(10, 20, 1), (30, 40, 2), (50, 60, 3)]);
        assert_true(&set, &table);
    }

    #[test]
    fn clearing_keeps_what_a_failing_backend_left_mapped_a2() {
        let (mut set, mut table) = three();
        table.fail_after(1);
        assert_eq!(set.clear(&mut table), Err(MappingError::BadState));
        assert_eq!(shown(&set), [(30, 40, 2), (50, 60, 3)]);
        assert_true(&set, &table);
        table.calls_until_failure = None;
        set.clear(&mut table).unwrap();
        assert_true(&set, &table);
        set.clear(&mut table).unwrap();
        assert!(set.is_empty());
    }
}

mod protect {
    use super::*;

    #[test]
    fn areas_are_cut_where_the_flags_change_and_only_there() {
        let (mut set, mut table) = three();
        set.protect(va!(15), 40, |old| (old != 3).then_some(old + 4), &mut table).unwrap();
        assert_eq!(shown(&set), [(10, 15, 1), (15, 20, 5), (30, 40, 6), (50, 60, 3)]);
        assert_true(&set, &table);
        set.protect(va!(33), 2, |_| Some(9), &mut table).unwrap();
        assert_eq!(shown(&set), [(10, 15, 1), (15, 20, 5), (30, 33, 6), (33, 35, 9), (35, 40, 6), (50, 60, 3)]);
        assert_true(&set, &table);
    }

    #[test]
    fn an_area_whose_backend_fails_keeps_its_flags_a1() {
        let left = [
            vec![(10, 20, 1), (30, 40, 2), (50, 60, 3)],
            vec![(10, 15, 1), (15, 20, 9), (30, 40, 2), (50, 60, 3)],
            vec![(10, 15, 1), (15, 20, 9), (30, 40, 9), (50, 60, 3)],
        ];
        for (calls, left) in left.into_iter().enumerate() {
            let (mut set, mut table) = three();
            table.fail_after(calls);
            assert_eq!(set.protect(va!(15), 40, |_| Some(9), &mut table), Err(MappingError::BadState));
            assert_eq!(shown(&set), left, "the call that fails is the one after {calls}");
            assert_eq!(table.calls.len(), calls + 1, "nothing behind the failure is touched");
            assert_true(&set, &table);
        }
    }

    #[test]
    fn nothing_happens_in_an_empty_range_or_a_hole() {
        let (mut set, mut table) = three();
        table.calls.clear();
        set.protect(va!(15), 0, |_| Some(9), &mut table).unwrap();
        set.protect(va!(20), 10, |_| Some(9), &mut table).unwrap();
        assert_eq!(shown(&set), [(10, 20, 1), (30, 40, 2), (50, 60, 3)]);
        assert!(table.calls.is_empty());
    }
}

mod lookups {
    use super::*;

    #[test]
    fn an_area_is_found_from_its_first_address_to_its_last() {
        let (set, _) = three();
        for (at, start) in [(9, None), (10, Some(10)), (19, Some(10)), (20, None), (59, Some(50)), (60, None)] {
            assert_eq!(set.find(va!(at)).map(|area| area.start().as_usize()), start, "at {at}");
        }
        assert!(Set::new().find(va!(0)).is_none());
    }

    #[test]
    fn an_empty_or_inverted_range_overlaps_nothing() {
        let (mut set, _) = three();
        for range in [AddrRange { start: va!(15), end: va!(15) }, AddrRange { start: va!(35), end: va!(15) }] {
            assert!(!set.overlaps(range));
            assert_eq!(set.iter_range(range).count(), 0);
            assert!(set.plan(range).is_err());
        }
        assert_eq!(set.iter_range(va_range!(15..31)).count(), 2);
        assert!(set.overlaps(va_range!(19..20)) && !set.overlaps(va_range!(20..30)));
    }
}

mod free_areas {
    use super::*;

    /// The free range's start in a set with areas at 10..20, 30..40 and 50..60.
    fn find(hint: usize, size: usize, limit: Range<usize>, align: usize) -> Option<usize> {
        let limit = AddrRange { start: limit.start.into(), end: limit.end.into() };
        three().0.find_free_area(hint.into(), size, limit, align).map(VirtAddr::as_usize)
    }

    #[test]
    fn the_lowest_gap_from_the_hint_on_is_found() {
        assert_eq!(find(0, 10, 0..100, 1), Some(0));
        assert_eq!(find(1, 10, 0..100, 1), Some(20));
        assert_eq!(find(0, 11, 0..100, 1), Some(60));
        assert_eq!(find(35, 4, 0..100, 4), Some(40));
        assert_eq!(find(0, 8, 0..100, 8), Some(0));
        assert_eq!(find(1, 8, 0..100, 8), Some(40));
        assert_eq!(find(5, 4, 17..100, 2), Some(20));
    }

    #[test]
    fn the_limit_is_never_crossed_a4() {
        assert_eq!(find(0, 10, 0..10, 1), Some(0));
        assert_eq!(find(0, 10, 0..9, 1), None);
        assert_eq!(find(0, 10, 15..29, 1), None);
        assert_eq!(find(0, 10, 15..30, 1), Some(20));
        assert_eq!(find(0, 41, 0..100, 1), None);
        assert_eq!(find(200, 1, 0..100, 1), None);
        assert_eq!(find(22, 4, 0..26, 4), None);
        assert_eq!(find(0, 1, Range { start: 90, end: 5 }, 1), None);
    }

    #[test]
    fn an_alignment_that_is_none_finds_nothing_a4() {
        for align in [0, 3, 6, usize::MAX] {
            assert_eq!(find(0, 12, 0..100, align), None, "alignment {align}");
            assert_eq!(find(0, align, 0..100, align), None, "alignment {align}");
        }
        assert_eq!(find(0, 0, 0..100, 1), None);
        assert_eq!(find(0, 3, 0..100, 2), None);
    }

    #[test]
    fn nothing_wraps_at_the_top_of_the_address_space_a4() {
        const TOP: usize = usize::MAX;
        assert_eq!(find(TOP, 1, 0..TOP, 1), None);
        assert_eq!(find(TOP - 1, 1, 0..TOP, 1), Some(TOP - 1));
        assert_eq!(find(TOP - 10, 16, 0..TOP, 16), None);
        assert_eq!(find(TOP - 10, 1 << 63, 0..TOP, 1 << 63), None);
        let mut set = Set::new();
        set.insert(MemoryArea::new(va!(TOP - 8), 8, 1, Recorder)).unwrap();
        assert_eq!(set.find_free_area(va!(TOP - 8), 8, va_range!(0..TOP), 8), None);
        assert_eq!(set.find_free_area(va!(TOP - 20), 8, va_range!(0..TOP), 4), Some(va!(TOP - 19)));
    }
}

mod bad_ranges {
    use super::*;

    const TOP: usize = usize::MAX;

    #[test]
    fn a_size_that_overflows_is_an_error_a7() {
        let (mut set, mut table) = three();
        table.calls.clear();
        for (start, size) in [(1, TOP), (TOP, 1), (TOP, TOP), (15, TOP - 14)] {
            assert_eq!(set.unmap(va!(start), size, &mut table), Err(MappingError::InvalidParam));
            assert_eq!(set.protect(va!(start), size, |_| Some(9), &mut table), Err(MappingError::InvalidParam));
            let area = MemoryArea::try_new(va!(start), size, 9, Recorder);
            assert_eq!(area.map(|_| ()), Err(MappingError::InvalidParam));
        }
        assert!(table.calls.is_empty() && set.len() == 3);
    }

    #[test]
    #[should_panic(expected = "too large")]
    fn an_area_that_overflows_panics_when_it_is_made_as_its_users_know() {
        let _ = MemoryArea::new(va!(TOP), 1, 9, Recorder);
    }

    #[test]
    fn an_area_may_end_at_the_last_address_a7() {
        let (mut set, mut table) = three();
        set.map(MemoryArea::try_new(va!(TOP - 9), 9, 4, Recorder).unwrap(), &mut table, false).unwrap();
        assert_eq!(set.find(va!(TOP - 1)).map(MemoryArea::flags), Some(4));
        assert!(set.find(va!(TOP)).is_none());
        assert!(set.overlaps(va_range!(TOP - 1..TOP)));
        set.protect(va!(TOP - 1), 1, |_| Some(5), &mut table).unwrap();
        set.unmap(va!(TOP - 5), 5, &mut table).unwrap();
        assert_eq!(shown(&set)[3..], [(TOP - 9, TOP - 5, 4)]);
        set.unmap(va!(0), TOP, &mut table).unwrap();
        assert!(set.is_empty());
    }

    #[test]
    fn an_area_may_be_the_whole_address_space_a7() {
        let (mut set, mut table) = (Set::new(), Table::new(0));
        set.map(area(0, TOP, 1), &mut table, false).unwrap();
        set.unmap(va!(1), TOP - 2, &mut table).unwrap();
        assert_eq!(shown(&set), [(0, 1, 1), (TOP - 1, TOP, 1)]);
    }
}

mod linear_backends {
    use super::*;

    /// Maps to other addresses by a difference that wraps.
    #[derive(Clone)]
    struct Linear(usize);

    impl MappingBackend for Linear {
        type Addr = VirtAddr;
        type Flags = u8;
        type PageTable = Vec<(usize, usize)>;

        fn map(&self, start: VirtAddr, size: usize, _: u8, table: &mut Vec<(usize, usize)>) -> bool {
            table.extend((start.as_usize()..start.as_usize() + size).map(|at| (at, at.wrapping_add(self.0))));
            true
        }

        fn unmap(&self, start: VirtAddr, size: usize, table: &mut Vec<(usize, usize)>) -> bool {
            table.retain(|&(at, _)| !AddrRange::from_start_size(start, size).contains(at.into()));
            true
        }

        fn protect(&self, start: VirtAddr, size: usize, flags: u8, table: &mut Vec<(usize, usize)>) -> bool {
            self.unmap(start, size, table) && self.map(start, size, flags, table)
        }
    }

    #[test]
    fn the_right_part_of_a_cut_still_goes_where_it_did_above_and_below_its_target_a6() {
        for to in [0x9000_usize, 0x10] {
            let (mut set, mut table) = (MemorySet::new(), Vec::new());
            let backend = Linear(to.wrapping_sub(0x100));
            set.map(MemoryArea::new(va!(0x100), 0x20, 1, backend), &mut table, false).unwrap();
            set.unmap(va!(0x108), 4, &mut table).unwrap();
            set.protect(va!(0x110), 8, |_| Some(2), &mut table).unwrap();
            assert_eq!(set.len(), 4);
            assert_eq!(table.len(), 0x1c);
            assert!(table.iter().all(|&(at, target)| target == to + (at - 0x100)));
        }
    }
}

mod cost {
    use super::*;

    thread_local! {
        /// How often an address was compared or computed with.
        static USES: Cell<usize> = const { Cell::new(0) };
    }

    /// An address that counts its uses: every area that an operation looks at costs at least one.
    #[derive(Clone, Copy, Debug)]
    struct Counted(usize);

    impl Counted {
        fn used(self) -> usize {
            USES.set(USES.get() + 1);
            self.0
        }
    }

    impl From<usize> for Counted {
        fn from(addr: usize) -> Self {
            Self(addr)
        }
    }

    impl From<Counted> for usize {
        fn from(addr: Counted) -> Self {
            addr.used()
        }
    }

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            self.used().cmp(&other.0)
        }
    }

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }

    impl Eq for Counted {}

    const EVERYTHING: AddrRange<Counted> = AddrRange { start: Counted(0), end: Counted(usize::MAX) };

    /// Counts the calls in its page table.
    #[derive(Clone)]
    struct Calls;

    impl MappingBackend for Calls {
        type Addr = Counted;
        type Flags = u8;
        type PageTable = usize;

        fn map(&self, _: Counted, _: usize, _: u8, calls: &mut usize) -> bool {
            *calls += 1;
            true
        }

        fn unmap(&self, _: Counted, _: usize, calls: &mut usize) -> bool {
            *calls += 1;
            true
        }

        fn protect(&self, _: Counted, _: usize, _: u8, calls: &mut usize) -> bool {
            *calls += 1;
            true
        }
    }

    /// Areas of 8 addresses, one at every multiple of 16.
    fn areas(count: usize) -> MemorySet<Calls> {
        let mut set = MemorySet::new();
        for index in 0..count {
            set.map(MemoryArea::new(Counted(index * 16), 8, 1, Calls), &mut 0, false).unwrap();
        }
        set
    }

    /// How often an operation uses addresses, and how often it calls a backend.
    fn uses(operation: impl FnOnce(&mut usize)) -> (usize, usize) {
        let mut calls = 0;
        USES.set(0);
        operation(&mut calls);
        (USES.get(), calls)
    }

    #[test]
    fn an_edit_costs_what_it_touches_at_a_hundred_thousand_areas_a5() {
        const COUNT: usize = 100_000;
        // What two chunks' bookkeeping and the searches cost, whatever the number of areas.
        const BOUND: usize = 1500;
        let mut set = areas(COUNT);
        for index in [3, COUNT / 2, COUNT - 3] {
            let at = Counted(index * 16);
            let middle = Counted(index * 16 + 2);
            let (found, _) = uses(|_| assert!(set.find(middle).is_some()));
            assert!(found < 64, "find: {found}");
            let (protect, calls) = uses(|calls| set.protect(middle, 2, |_| Some(2), calls).unwrap());
            assert!(protect < BOUND && calls == 1, "protect: {protect}");
            let (unmap, calls) = uses(|calls| set.unmap(at, 40, calls).unwrap());
            assert!(unmap < BOUND && calls == 5, "unmap: {unmap}");
            let (map, calls) = uses(|calls| set.map(MemoryArea::new(at, 8, 1, Calls), calls, false).unwrap());
            assert!(map < BOUND && calls == 1, "map: {map}");
            let (free, _) = uses(|_| assert!(set.find_free_area(at, 8, EVERYTHING, 8).is_some()));
            assert!(free < BOUND, "find_free_area: {free}");
        }
    }

    #[test]
    fn a_search_for_a_large_gap_passes_over_small_ones_by_the_chunk_a5() {
        const COUNT: usize = 100_000;
        let set = areas(COUNT);
        let (free, _) = uses(|_| {
            let found = set.find_free_area(Counted(0), 16, EVERYTHING, 16);
            assert_eq!(found, Some(Counted(COUNT * 16)));
        });
        assert!(free < COUNT / 4, "{free}");
    }
}
