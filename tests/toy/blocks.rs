//! Blocks of regions, and of what was in a snapshot or is inherited: mapped as blocks where addresses agree, and split where
//! they must be.

use stage2::{Limits, SharedRegion, Snapshot, loan::Handover, region::RegionError, space::Populated};

use super::*;

/// What a region populates as a block.
const POPULATED: usize = 2 << 20;

/// A region in blocks of 2 MiB, of which each block of the board's begins with its number.
fn blocks(space: &GuestSpace<Machine>, count: usize) -> SharedRegion {
    let region = space.region(count * POPULATED).unwrap();
    region.populate(0, count * POPULATED, LeafPolicy::Largest).unwrap();
    let writer = region.writer().unwrap();
    (0..count * POPULATED / BLOCK).for_each(|number| writer.write_obj(number * BLOCK, number as u64).unwrap());
    region
}

fn shared(region: &SharedRegion, offset: usize) -> Mapping {
    Mapping::Shared { region: region.clone(), offset }
}

fn inherits(region: &SharedRegion, offset: usize) -> Mapping {
    Mapping::CopyOnWrite { region: region.clone(), offset }
}

/// How large the leaf at an address is.
fn size(space: &GuestSpace<Machine>, at: usize) -> usize {
    space.translate(gpa(at)).unwrap().size
}

/// How often a guest faults that reads each page of a range, or writes it.
fn touch(space: &GuestSpace<Machine>, start: usize, size: usize, access: Access) -> usize {
    let mut faults = 0;
    for at in (start..start + size).step_by(PAGE) {
        while space.translate(gpa(at)).is_none_or(|leaf| !leaf.flags.contains(access.flag())) {
            let fault = Fault { gpa: gpa(at), access, cause: Cause::Translation, origin: Origin::Instruction };
            assert!(matches!(space.fault(CpuId(0), fault), Ok(Outcome::Resolved | Outcome::Retry)));
            faults += 1;
        }
    }
    faults
}

mod of_regions {
    use super::*;

    #[test]
    fn are_mapped_where_addresses_agree() {
        let board = Board::new();
        let (one, two) = (board.space(), board.space());
        let region = blocks(&one, 1);
        assert_eq!(region.frames(), 512);
        one.map(range(LARGE, POPULATED), shared(&region, 0), RW).unwrap();
        assert_eq!(touch(&one, LARGE, POPULATED, Access::Write), POPULATED / BLOCK);
        assert_eq!((size(&one, LARGE + 5 * PAGE), one.stats().shared_frames), (BLOCK, 512));
        // A page further, none agrees.
        two.map(range(PAGE, POPULATED), shared(&region, 0), RW).unwrap();
        assert_eq!(touch(&two, PAGE, POPULATED, Access::Read), POPULATED / PAGE);
        // A part of the region, where the guest has it elsewhere; its first block and its last are not whole.
        two.map(range(2 * LARGE + PAGE, 3 * BLOCK), shared(&region, 4 * BLOCK + PAGE), RW).unwrap();
        assert_eq!(touch(&two, 2 * LARGE + PAGE, 3 * BLOCK, Access::Read), 31 + 2 + 1);
        for number in 5..7 {
            let at = 2 * LARGE + (number - 4) * BLOCK;
            assert_eq!((size(&two, at), two.load::<u64>(gpa(at))), (BLOCK, Ok(number as u64)));
        }
        one.store(gpa(LARGE + 6 * BLOCK + PAGE), 77_u64).unwrap();
        assert_eq!(two.load(gpa(2 * LARGE + 2 * BLOCK + PAGE)), Ok(77_u64));
    }

    #[test]
    fn are_pages_where_the_allocator_has_nothing_else() {
        for (pieces, largest) in [(Pieces::Whole, None), (Pieces::Any, Some(256))] {
            let board = Board::with(Reach::Everywhere, pieces);
            board.fragment(largest);
            let space = board.space();
            let region = blocks(&space, 1);
            space.map(range(0, POPULATED), shared(&region, 0), RW).unwrap();
            assert_eq!(touch(&space, 0, POPULATED, Access::Read), POPULATED / PAGE, "{pieces:?}");
            assert_eq!(region.frames(), 512);
        }
        let board = Board::new();
        let space = board.space();
        let region = space.region(POPULATED).unwrap();
        region.populate(0, POPULATED, LeafPolicy::Pages).unwrap();
        space.map(range(0, POPULATED), shared(&region, 0), RW).unwrap();
        assert_eq!(touch(&space, 0, BLOCK, Access::Read), 32);
    }

    /// They come side by side from the board, and must go back as they came.
    #[test]
    fn are_nothing_that_was_allocated_page_by_page() {
        let board = Board::new();
        let space = board.space();
        let region = space.region(BLOCK).unwrap();
        let writer = region.writer().unwrap();
        // Until the next frame is aligned to a block.
        while !(board.allocate(1, PAGE).unwrap().as_usize() + PAGE).is_multiple_of(BLOCK) {}
        (0..BLOCK).step_by(PAGE).for_each(|offset| writer.write_obj(offset, 1_u8).unwrap());
        drop(writer);
        space.map(range(0, BLOCK), shared(&region, 0), RW).unwrap();
        let at = |page: usize| {
            space.load::<u8>(gpa(page * PAGE)).unwrap();
            space.translate(gpa(page * PAGE)).unwrap().hpa.as_usize()
        };
        let first = at(0);
        assert!(first.is_multiple_of(BLOCK) && (0..32).all(|page| at(page) == first + page * PAGE), "as a block is");
        assert_eq!(size(&space, 0), PAGE);
        drop(region);
        space.make_private(range(0, BLOCK), Handover::Keep).unwrap();
        space.unmap(range(0, BLOCK)).unwrap();
    }

    #[test]
    fn come_only_where_nothing_is_yet() {
        let board = Board::new();
        let space = board.space();
        let region = space.region(3 * POPULATED).unwrap();
        region.writer().unwrap().write_obj(POPULATED + 9 * PAGE, 5_u64).unwrap();
        board.events();
        region.populate(PAGE, 3 * POPULATED - PAGE, LeafPolicy::Largest).unwrap();
        let large = board.events().iter().filter(|event| matches!(event, Event::Allocated(_, 512))).count();
        assert_eq!((large, region.frames()), (1, 3 * 512 - 1));
        assert_eq!(region.read_obj(POPULATED + 9 * PAGE), Ok(5_u64));
        region.populate(0, 3 * POPULATED, LeafPolicy::Largest).unwrap();
        assert_eq!(region.frames(), 3 * 512);
        let refused = |offset, size| region.populate(offset, size, LeafPolicy::Largest);
        assert_eq!(refused(8, PAGE), Err(RegionError::Unaligned { offset: 8, align: PAGE }));
        assert_eq!(refused(0, PAGE + 8), Err(RegionError::Unaligned { offset: PAGE + 8, align: PAGE }));
        assert!(matches!(refused(3 * POPULATED, PAGE), Err(RegionError::Beyond { .. })));
        assert_eq!(refused(PAGE, 0), Ok(()));
    }

    /// What is there already stays, and what could not be had can be tried again.
    #[test]
    fn that_cannot_be_had_are_named() {
        let board = Board::new();
        let space = board.space();
        let region = space.region(2 * POPULATED).unwrap();
        board.allow(Some(1));
        let (offset, size) = (POPULATED, POPULATED);
        let error = region.populate(0, 2 * POPULATED, LeafPolicy::Largest);
        assert_eq!(error, Err(RegionError::NoMemory { offset, size }));
        assert_eq!(region.frames(), 512);
        board.allow(None);
        region.populate(0, 2 * POPULATED, LeafPolicy::Largest).unwrap();
        assert_eq!(region.frames(), 1024);
    }

    /// A handle that writes while a block is zeroed has its page stay.
    #[test]
    fn are_given_up_where_another_cpu_was_first() {
        let board = Board::new();
        let space = board.space();
        let region = space.region(POPULATED).unwrap();
        let writer = region.writer().unwrap();
        board.on_allocation(move || writer.write_obj(3 * PAGE, 9_u64).unwrap());
        region.populate(0, POPULATED, LeafPolicy::Largest).unwrap();
        assert_eq!((region.frames(), region.read_obj(3 * PAGE)), (512, Ok(9_u64)));
        drop(region);
        drop(space);
        assert_eq!(board.allocated(), 0);
    }

    #[test]
    fn are_split_where_a_range_ends() {
        let board = Board::new();
        let (one, two) = (board.space(), board.space());
        let region = blocks(&one, 1);
        for space in [&one, &two] {
            space.map(range(0, POPULATED), shared(&region, 0), RW).unwrap();
            touch(space, 0, POPULATED, Access::Write);
        }
        one.unmap(range(3 * PAGE, PAGE)).unwrap();
        one.protect(range(BLOCK + PAGE, PAGE), READ).unwrap();
        assert_eq!((size(&one, 0), size(&one, BLOCK), size(&one, 2 * BLOCK)), (PAGE, PAGE, BLOCK));
        assert_eq!((size(&two, 0), size(&two, BLOCK)), (BLOCK, BLOCK));
        assert_eq!(one.translate(gpa(3 * PAGE)), None);
        assert_eq!((one.load(gpa(BLOCK)), two.load(gpa(BLOCK))), (Ok(1_u64), Ok(1_u64)));
        assert!(one.write_obj(gpa(BLOCK + PAGE), 1_u8).is_err());
        // A hole for all.
        region.discard(2 * BLOCK + PAGE, PAGE, [&*one, &*two]).unwrap();
        for space in [&one, &two] {
            assert_eq!((size(space, 2 * BLOCK), space.translate(gpa(2 * BLOCK + PAGE))), (PAGE, None));
            assert_eq!(space.load(gpa(2 * BLOCK)), Ok(2_u64));
        }
        assert_eq!(region.frames(), 511);
    }

    /// A large leaf of the board does not execute what is uncached.
    #[test]
    fn do_not_allow_what_only_pages_may() {
        let board = Board::new();
        let space = board.space();
        let region = blocks(&space, 1);
        let flags = READ | MappingFlags::EXECUTE | MappingFlags::UNCACHED;
        space.map(range(0, POPULATED), shared(&region, 0), flags).unwrap();
        assert_eq!(fault(&space, PAGE, Access::Execute), Outcome::Resolved);
        assert_eq!((size(&space, PAGE), space.translate(gpa(0))), (PAGE, None));
        assert_eq!(fault(&space, BLOCK, Access::Read), Outcome::Resolved);
        assert_eq!(size(&space, BLOCK), BLOCK);
        let execute =
            Fault { gpa: gpa(BLOCK), access: Access::Execute, cause: Cause::Permission, origin: Origin::Instruction };
        assert_eq!(space.fault(CpuId(0), execute), Ok(Outcome::Resolved));
        assert_eq!((size(&space, BLOCK), space.translate(gpa(BLOCK)).unwrap().flags), (PAGE, flags));
    }

    /// A device may use it before any guest does: H14, for all of the block.
    #[test]
    fn are_in_step_with_the_caches_as_a_whole() {
        let board = Board::new();
        let space = board.space();
        let region = blocks(&space, 1);
        board.synchronized();
        space.map(range(0, BLOCK), shared(&region, 0), RW | MappingFlags::UNCACHED).unwrap();
        assert_eq!(fault(&space, 0, Access::Read), Outcome::Resolved);
        let at = space.translate(gpa(0)).unwrap().hpa;
        assert_eq!(board.synchronized(), [(at, BLOCK, Content::Uncached)]);
    }

    /// Nothing is copied on the way there and back, and no block is split.
    #[test]
    fn become_private_and_shared_again() {
        let board = Board::new();
        let (one, two) = (board.space(), board.space());
        one.map(range(0, 2 * BLOCK), BLOCKS, RW).unwrap();
        one.store(gpa(BLOCK), 5_u64).unwrap();
        let region = one.make_shared(range(0, 2 * BLOCK)).unwrap();
        assert_eq!((size(&one, 0), size(&one, BLOCK)), (BLOCK, BLOCK));
        two.map(range(4 * BLOCK, 2 * BLOCK), shared(&region, 0), RW).unwrap();
        assert_eq!((touch(&two, 4 * BLOCK, 2 * BLOCK, Access::Write), size(&two, 4 * BLOCK)), (2, BLOCK));
        assert_eq!(two.load(gpa(5 * BLOCK)), Ok(5_u64));
        two.unmap(range(4 * BLOCK, 2 * BLOCK)).unwrap();
        drop(region);
        one.make_private(range(0, 2 * BLOCK), Handover::Keep).unwrap();
        assert_eq!((size(&one, BLOCK), one.load(gpa(BLOCK)), one.usage().frames), (BLOCK, Ok(5_u64), 64));
        one.unmap(range(PAGE, BLOCK)).unwrap();
        assert_eq!(one.usage().frames, 32);
    }

    /// The table that another CPU links is a page's, and what it holds must not be covered.
    #[test]
    fn are_not_mapped_over_a_page_that_another_cpu_was_first_with() {
        for number in 1..=3 {
            let board = Board::new();
            let space = Arc::new(board.space());
            let region = blocks(&space, 1);
            region.freeze().unwrap();
            space.map(range(0, BLOCK), inherits(&region, 0), RW).unwrap();
            drop(region);
            let other = Arc::clone(&space);
            // The CPU that reads has found an absent entry, and the other writes a page under it.
            format::on_absent(number, move || other.store(gpa(2 * PAGE), 9_u64).unwrap());
            let outcome = fault(&space, PAGE, Access::Read);
            assert!(matches!(outcome, Outcome::Resolved | Outcome::Retry), "{outcome:?}");
            assert_eq!((space.load(gpa(2 * PAGE)), space.load(gpa(0))), (Ok(9_u64), Ok(0_u64)), "{number}");
        }
    }
}

mod of_snapshots {
    use super::*;

    /// A guest in blocks, each of which begins with its number, and a snapshot of it.
    fn parent(board: &Board) -> (GuestSpace<Machine>, Snapshot) {
        let parent = board.space();
        parent.map(range(LARGE, 8 * BLOCK), BLOCKS, RW).unwrap();
        (0..8).for_each(|number| parent.store(gpa(LARGE + number * BLOCK), number as u64).unwrap());
        let snapshot = parent.snapshot().unwrap();
        (parent, snapshot)
    }

    fn sizes(space: &GuestSpace<Machine>) -> Vec<usize> {
        (0..8).map(|number| size(space, LARGE + number * BLOCK)).collect()
    }

    #[test]
    fn stay_until_they_are_written() {
        let board = Board::new();
        let (parent, snapshot) = parent(&board);
        let before = board.allocated();
        assert_eq!(sizes(&parent), [BLOCK; 8]);
        assert_eq!(touch(&parent, LARGE + 3 * BLOCK + PAGE, PAGE, Access::Write), 2, "one to split it, one to copy");
        let mut expected = [BLOCK; 8];
        expected[3] = PAGE;
        assert_eq!((sizes(&parent), board.allocated()), (expected.into(), before + 2), "a table and a page");
        assert_eq!((parent.stats().shared_frames, parent.stats().owned_frames), (255, 1));
        assert_eq!(snapshot.region().frames(), 256);
        // The next snapshot keeps those that are left.
        let second = parent.snapshot().unwrap();
        assert_eq!(sizes(&parent), expected);
        drop((snapshot, second));
    }

    #[test]
    fn are_blocks_of_those_that_inherit_them() {
        let board = Board::new();
        let (parent, snapshot) = parent(&board);
        let child = board.space();
        child.restore(&snapshot).unwrap();
        assert_eq!((touch(&child, LARGE, 8 * BLOCK, Access::Read), sizes(&child)), (8, [BLOCK; 8].into()));
        let before = board.allocated();
        child.store(gpa(LARGE + 5 * BLOCK + PAGE), 9_u64).unwrap();
        let mut expected = [BLOCK; 8];
        expected[5] = PAGE;
        assert_eq!((sizes(&child), board.allocated()), (expected.into(), before + 2));
        assert_eq!((child.load(gpa(LARGE + 5 * BLOCK)), child.usage().frames), (Ok(5_u64), 1));
        assert_eq!((sizes(&parent), parent.load(gpa(LARGE + 5 * BLOCK + PAGE))), ([BLOCK; 8].into(), Ok(0_u64)));
        // A page that is written before anything is read there is the only one.
        let other = board.space();
        other.restore(&snapshot).unwrap();
        other.store(gpa(LARGE + PAGE), 1_u64).unwrap();
        assert_eq!((size(&other, LARGE + PAGE), other.translate(gpa(LARGE))), (PAGE, None));
        assert_eq!(fault(&other, LARGE, Access::Read), Outcome::Resolved);
        assert_eq!(size(&other, LARGE), PAGE);
    }

    /// Also from a snapshot's region, at other addresses, and where only a part is mapped.
    #[test]
    fn are_blocks_wherever_addresses_agree() {
        let board = Board::new();
        let (_parent, snapshot) = parent(&board);
        let region = snapshot.region();
        let child = board.space();
        for (at, offset, expected) in
            [(BLOCK, 2 * BLOCK, BLOCK), (4 * BLOCK + PAGE, PAGE, PAGE), (8 * BLOCK, PAGE, PAGE)]
        {
            child.map(range(at, BLOCK), inherits(region, offset), RW).unwrap();
            touch(&child, at, BLOCK, Access::Read);
            assert_eq!(size(&child, at), expected, "{at:#x} from {offset:#x}");
        }
        assert_eq!(child.load(gpa(BLOCK)), Ok(2_u64));
    }

    #[test]
    fn are_the_guests_own_again_as_a_whole() {
        let board = Board::new();
        let (parent, snapshot) = parent(&board);
        let child = board.space();
        child.restore(&snapshot).unwrap();
        touch(&child, LARGE, 8 * BLOCK, Access::Read);
        drop((parent, snapshot));
        // A write takes its page alone.
        child.store(gpa(LARGE + PAGE), 9_u64).unwrap();
        assert_eq!((size(&child, LARGE), child.usage().frames), (PAGE, 1));
        // What is moved becomes its own as the block that it is.
        child.relocate(range(LARGE + BLOCK, BLOCK)).unwrap();
        assert_eq!((size(&child, LARGE + BLOCK), child.usage().frames), (BLOCK, 33));
        let region = child.make_shared(range(LARGE + 2 * BLOCK, BLOCK)).unwrap();
        assert_eq!((size(&child, LARGE + 2 * BLOCK), region.frames()), (BLOCK, 32));
        assert_eq!(child.load(gpa(LARGE + 2 * BLOCK)), Ok(2_u64));
        drop(region);
        child.unmap(range(LARGE, 8 * BLOCK)).unwrap();
        drop(child);
        assert_eq!(board.allocated(), 0);
    }

    /// What another guest reaches of a block is no reason to refuse the rest.
    #[test]
    fn are_split_where_others_reach_a_part() {
        let board = Board::new();
        let (parent, snapshot) = parent(&board);
        let (child, other) = (board.space(), board.space());
        child.restore(&snapshot).unwrap();
        touch(&child, LARGE, 2 * BLOCK, Access::Read);
        other.map(range(0, PAGE), inherits(snapshot.region(), 3 * PAGE), RW).unwrap();
        drop((parent, snapshot));
        let frozen = child.make_shared(range(LARGE + 3 * PAGE, PAGE)).err();
        assert!(matches!(frozen, Some(Error::State { .. })), "{frozen:?}");
        let region = child.make_shared(range(LARGE, 2 * PAGE)).unwrap();
        assert_eq!((region.frames(), child.usage().frames, size(&child, LARGE)), (2, 0, PAGE));
        assert_eq!(child.relocate(range(LARGE + 2 * PAGE, 2 * PAGE)), Ok(1));
        assert_eq!((child.usage().frames, size(&child, LARGE + BLOCK)), (1, BLOCK));
        other.store(gpa(0), 5_u64).unwrap();
        assert_eq!((other.load(gpa(0)), child.load(gpa(LARGE + 3 * PAGE))), (Ok(5_u64), Ok(0_u64)));
    }

    /// What the table for a split would cost is refused, and nothing changed.
    #[test]
    fn are_whole_where_the_limit_has_no_table_for_their_pages() {
        let board = Board::new();
        let (_parent, snapshot) = parent(&board);
        let child = board.space();
        child.restore(&snapshot).unwrap();
        touch(&child, LARGE, BLOCK, Access::Read);
        let tables = child.usage().table_frames;
        child.set_limits(Limits { table_frames: Some(tables), ..Limits::default() });
        let refused = child.store(gpa(LARGE), 5_u64);
        assert!(matches!(refused, Err(Error::Limit { limit, .. }) if limit == tables), "{refused:?}");
        assert_eq!((size(&child, LARGE), child.load(gpa(LARGE)), child.usage().frames), (BLOCK, Ok(0_u64), 0));
        child.set_limits(Limits::default());
        child.store(gpa(LARGE), 5_u64).unwrap();
    }

    #[test]
    fn are_populated_as_what_they_are() {
        let board = Board::new();
        let (_parent, snapshot) = parent(&board);
        let child = board.space();
        child.restore(&snapshot).unwrap();
        assert_eq!(child.populate(range(LARGE, 8 * BLOCK), Access::Read), Ok(Populated::Whole));
        assert_eq!((sizes(&child), child.usage().frames), ([BLOCK; 8].into(), 0));
        assert_eq!(child.populate(range(LARGE + BLOCK, 2 * PAGE), Access::Write), Ok(Populated::Whole));
        assert_eq!((size(&child, LARGE + BLOCK), size(&child, LARGE), child.usage().frames), (PAGE, BLOCK, 2));
    }

    /// A frozen block's area may be larger than what is inherited there by then: an area that ends in a block shows pages.
    #[test]
    fn are_pages_where_an_area_ends_in_them() {
        let board = Board::new();
        let (_parent, snapshot) = parent(&board);
        let child = board.space();
        child.restore(&snapshot).unwrap();
        child.unmap(range(LARGE + BLOCK - PAGE, 2 * PAGE)).unwrap();
        assert_eq!(touch(&child, LARGE, BLOCK - PAGE, Access::Read), 31);
        assert_eq!(touch(&child, LARGE + 2 * BLOCK, BLOCK, Access::Read), 1);
        assert_eq!(child.areas().unwrap().len(), 2);
    }
}
