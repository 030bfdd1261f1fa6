use std::vec::Vec;

use super::*;
use crate::arch::aarch64::Errata;
use crate::format::Owner;

const EXTRAS: [Features; 4] = [
    Features::empty(),
    Features::FORCED_WRITE_BACK,
    Features::EXECUTE_NEVER_BY_LEVEL,
    Features::FORCED_WRITE_BACK.union(Features::EXECUTE_NEVER_BY_LEVEL),
];
const TRACKINGS: [Tracking; 3] = [Tracking::Software, Tracking::AccessFlag, Tracking::DirtyState];
const LEVELS: [Level; 3] = [Level(0), Level(1), Level(2)];

const R: MappingFlags = MappingFlags::READ;
const W: MappingFlags = MappingFlags::WRITE;
const X: MappingFlags = MappingFlags::EXECUTE;
const RW: MappingFlags = R.union(W);
const RX: MappingFlags = R.union(X);
const RWX: MappingFlags = RW.union(X);
const DEV: MappingFlags = MappingFlags::DEVICE;
const NC: MappingFlags = MappingFlags::UNCACHED;

fn format(extra: Features, tracking: Tracking) -> Stage2 {
    let capabilities = Capabilities {
        physical_bits: 44,
        vmid_bits: 8,
        data_line: 64,
        features: Features::GRANULE_4K | Features::ACCESS_FLAG | Features::DIRTY_STATE | extra,
        errata: Errata::empty(),
    };
    Stage2::new(&capabilities, 40, Vmid(1)).unwrap().with_tracking(tracking).unwrap()
}

fn plain() -> Stage2 {
    format(Features::empty(), Tracking::Software)
}

fn formats() -> impl Iterator<Item = Stage2> {
    EXTRAS.into_iter().flat_map(|extra| TRACKINGS.map(|tracking| format(extra, tracking)))
}

fn all_flags() -> impl Iterator<Item = MappingFlags> {
    (0..=MappingFlags::all().bits()).map(MappingFlags::from_bits_retain)
}

fn expressible(format: &Stage2) -> Vec<MappingFlags> {
    all_flags().filter(|flags| format.check(*flags).is_ok()).collect()
}

const OWNERS: [Owner; 6] = [Owner::Space, Owner::Foreign, Owner::Shared, Owner::Frozen, Owner::OnLoan, Owner::Borrowed];

/// Every owner and use, at an address with its lowest and highest bits set.
fn leaves(level: Level, flags: MappingFlags) -> Vec<Leaf> {
    let at = PhysAddr::from_usize(1 << 43 | 1 << (12 + 9 * level.0));
    let mut leaves = Vec::new();
    for owner in OWNERS {
        for used in [Used::Not, Used::Accessed, Used::Dirty] {
            leaves.push(Leaf { at, flags, owner, used });
        }
    }
    leaves
}

fn leaf(at: usize, flags: MappingFlags) -> Leaf {
    Leaf { at: PhysAddr::from_usize(at), flags, owner: Owner::Foreign, used: Used::Accessed }
}

fn page(format: &Stage2, flags: MappingFlags, used: Used) -> u64 {
    format.leaf(Level::PAGE, &Leaf { used, ..leaf(0x4000_0000, flags) })
}

mod golden_words {
    use super::*;

    #[test]
    fn without_forced_write_back() {
        for (flags, word) in [
            (RWX, 0x0000_0000_4000_07ff),
            (RX, 0x0000_0000_4000_077f),
            (RW, 0x0040_0000_4000_07ff),
            (R, 0x0040_0000_4000_077f),
            (W, 0x0040_0000_4000_07bf),
            (X, 0x0000_0000_4000_073f),
            (RW | NC, 0x0040_0000_4000_07d7),
            (RW | DEV, 0x0040_0000_4000_07c7),
            (RW | DEV | NC, 0x0040_0000_4000_07c3),
        ] {
            assert_eq!(page(&plain(), flags, Used::Accessed), word, "{flags:?}");
        }
    }

    #[test]
    fn with_forced_write_back() {
        for (flags, word) in [
            (RWX, 0x0000_0000_4000_07db),
            (RW | NC, 0x0040_0000_4000_07d7),
            (RW | DEV, 0x0040_0000_4000_07c7),
            (RW | DEV | NC, 0x0040_0000_4000_07c3),
        ] {
            let format = format(Features::FORCED_WRITE_BACK, Tracking::Software);
            assert_eq!(page(&format, flags, Used::Accessed), word, "{flags:?}");
        }
    }

    #[test]
    fn a_block_lacks_bit_1_and_a_table_has_nothing_else() {
        assert_eq!(plain().leaf(Level(1), &leaf(0x4000_0000, RWX)), 0x4000_07fd);
        assert_eq!(plain().leaf(Level(2), &leaf(0x4000_0000, RWX)), 0x4000_07fd);
        assert_eq!(plain().table(PhysAddr::from_usize(0x8000_1000)), 0x8000_1003);
    }

    #[test]
    fn software_bits() {
        let owned = Leaf { owner: Owner::Space, used: Used::Dirty, ..leaf(0x4000_0000, RWX) };
        assert_eq!(plain().leaf(Level::PAGE, &owned), 0x0180_0000_4000_07ff);
        let lent = plain().leaf(Level::PAGE, &Leaf { owner: Owner::OnLoan, ..owned });
        assert_eq!((lent, plain().mark(Level::PAGE, lent)), (0x0380_0000_4000_07ff, 0x0380_0000_4000_07fe));
        let borrowed = Leaf { owner: Owner::Borrowed, ..leaf(0x4000_0000, RW) };
        assert_eq!(plain().leaf(Level::PAGE, &borrowed), 0x0240_0000_4000_07ff);
    }

    #[test]
    fn hardware_tracking() {
        let format = format(Features::empty(), Tracking::DirtyState);
        assert_eq!(page(&format, RWX, Used::Not), 0x0008_0000_4000_037f, "DBM, no AF, S2AP[1] clear");
        assert_eq!(page(&format, RWX, Used::Accessed), 0x0008_0000_4000_077f);
        assert_eq!(page(&format, RWX, Used::Dirty), 0x0008_0000_4000_07ff);
        assert_eq!(page(&format, RX, Used::Dirty), 0x0100_0000_4000_077f, "neither DBM nor S2AP[1]");
    }
}

#[path = "entry/every_flag_set.rs"]
mod every_flag_set;

#[path = "entry/faults_of_others.rs"]
mod faults_of_others;

mod kinds {
    use super::*;

    #[test]
    fn a_table_and_a_page_are_told_apart_by_the_level() {
        let at = PhysAddr::from_usize(0x8000_1000);
        let table = plain().table(at);
        for level in [1, 2, 3] {
            assert_eq!(plain().decode(Level(level), table), Entry::Table(at));
            let marked = plain().mark(Level(level), table);
            assert_eq!(plain().decode(Level(level), marked), Entry::Marked(Marked::Table(at)));
        }
        assert!(matches!(plain().decode(Level::PAGE, table), Entry::Leaf(_)));
    }

    #[test]
    fn busy_is_like_nothing_else() {
        let owner = Owner::Borrowed;
        let marked = plain().mark(Level::PAGE, plain().leaf(Level::PAGE, &Leaf { owner, ..leaf(0, RW) }));
        assert_eq!(marked & BUSY, BUSY, "the bit has two meanings");
        assert!(matches!(plain().decode(Level::PAGE, marked), Entry::Marked(Marked::Leaf(_))));
        for format in formats() {
            assert_eq!(format.busy() & VALID, 0);
            for level in 0..=3 {
                assert_eq!(format.decode(Level(level), format.busy()), Entry::Busy);
            }
        }
    }

    #[test]
    fn reserved_descriptors_are_nothing() {
        assert_eq!(plain().decode(Level::PAGE, 0x4000_07fd), Entry::Absent, "a block at the last level");
        assert_eq!(plain().decode(Level(3), 0x4000_07fd), Entry::Absent, "a block of 512 GiB");
    }
}

mod hardware_marks {
    use super::*;

    #[test]
    fn touching_sets_what_the_hardware_would() {
        for format in formats() {
            let fresh = page(&format, RWX, Used::Not);
            for (access, used) in
                [(Access::Read, Used::Accessed), (Access::Execute, Used::Accessed), (Access::Write, Used::Dirty)]
            {
                assert_eq!(format.touched(Level::PAGE, fresh, access), page(&format, RWX, used));
            }
            let read_only = page(&format, R, Used::Not);
            let written = format.touched(Level::PAGE, read_only, Access::Write);
            assert_eq!(written, page(&format, R, Used::Dirty), "the hypervisor writes what the guest may not");
        }
    }

    #[test]
    fn hardware_sets_the_access_flag_and_the_dirty_state_where_it_tracks_them() {
        for (tracking, set) in
            [(Tracking::Software, 0), (Tracking::AccessFlag, 1 << 10), (Tracking::DirtyState, 1 << 10 | 1 << 7)]
        {
            assert_eq!(format(Features::empty(), tracking).fields(Level::PAGE).hardware, set);
        }
    }
}

mod changes {
    use super::*;

    fn change(format: &Stage2, old: MappingFlags, new: MappingFlags) -> Change {
        format.change(Level::PAGE, page(format, old, Used::Accessed), page(format, new, Used::Accessed))
    }

    #[test]
    fn permissions_change_in_place_and_are_restricted_when_any_goes() {
        for format in formats() {
            for (old, new) in (0..64).map(|pair| (pair & 7, pair >> 3)) {
                let (old, new) = (MappingFlags::from_bits_retain(old), MappingFlags::from_bits_retain(new));
                let expected = if new.contains(old) { Change::Raise } else { Change::Restrict };
                if !old.is_empty() && !new.is_empty() {
                    assert_eq!(change(&format, old, new), expected, "{old:?} to {new:?}");
                }
            }
        }
    }

    #[test]
    fn memory_types_addresses_and_kinds_break() {
        for format in formats() {
            for other in [RW | NC, RW | DEV, RW | DEV | NC] {
                assert_eq!(change(&format, RW, other), Change::Break);
                assert_eq!(change(&format, other, RW), Change::Break);
            }
            let here = format.leaf(Level(1), &leaf(0x4000_0000, RW));
            let there = format.leaf(Level(1), &leaf(0x4020_0000, RW));
            assert_eq!(format.change(Level(1), here, there), Change::Break);
            let table = format.table(PhysAddr::from_usize(0x4000_0000));
            assert_eq!(format.change(Level(1), here, table), Change::Break);
        }
    }

    #[test]
    fn marks_that_go_have_to_be_forgotten() {
        let format = format(Features::empty(), Tracking::DirtyState);
        let [fresh, read, written] = [Used::Not, Used::Accessed, Used::Dirty].map(|used| page(&format, RWX, used));
        for (old, new) in [(written, read), (written, fresh), (read, fresh)] {
            assert_eq!(format.change(Level::PAGE, old, new), Change::Restrict);
            assert_eq!(format.change(Level::PAGE, new, old), Change::Raise);
        }
    }

    #[test]
    fn software_bits_change_without_an_invalidation() {
        let dirty = page(&plain(), RW, Used::Dirty);
        let clean = page(&plain(), RW, Used::Accessed);
        assert_eq!(plain().change(Level::PAGE, dirty, clean), Change::Raise);
        assert_eq!(plain().denials(), Denials::Cached);
    }
}
