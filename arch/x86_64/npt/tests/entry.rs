use std::vec::Vec;

use super::*;
use crate::format::Owner;

const LEVELS: [Level; 3] = [Level(0), Level(1), Level(2)];

const R: MappingFlags = MappingFlags::READ;
const W: MappingFlags = MappingFlags::WRITE;
const X: MappingFlags = MappingFlags::EXECUTE;
const RW: MappingFlags = R.union(W);
const RX: MappingFlags = R.union(X);
const RWX: MappingFlags = RW.union(X);
const DEV: MappingFlags = MappingFlags::DEVICE;
const NC: MappingFlags = MappingFlags::UNCACHED;

/// As Linux sets it: WB, WC, UC-, UC, WB, WP, UC-, WT.
const LINUX: u64 = 0x0407_0506_0007_0106;
/// UC and WC where the entry's highest bit for the PAT chooses; write-back by PWT.
const UPPER: u64 = 0x0001_0004_0404_0604;

fn with(features: Features, pat: u64) -> Npt {
    let capabilities = Capabilities { physical_bits: 48, guest_physical_bits: 48, asids: 16, features };
    Npt::new(&capabilities, Asid(1)).unwrap().with_pat(pat).unwrap()
}

fn plain() -> Npt {
    with(Features::all(), LINUX)
}

fn formats() -> [Npt; 3] {
    [plain(), with(Features::all(), super::super::PAT_AT_RESET), with(Features::all(), UPPER)]
}

fn all_flags() -> impl Iterator<Item = MappingFlags> {
    (0..=MappingFlags::all().bits()).map(MappingFlags::from_bits_retain)
}

fn expressible(format: &Npt) -> Vec<MappingFlags> {
    all_flags().filter(|flags| format.check(*flags).is_ok()).collect()
}

const OWNERS: [Owner; 6] = [Owner::Space, Owner::Foreign, Owner::Shared, Owner::Frozen, Owner::OnLoan, Owner::Borrowed];

/// Every owner and use, at an address with its lowest and highest bits set.
fn leaves(level: Level, flags: MappingFlags) -> Vec<Leaf> {
    let at = PhysAddr::from_usize(1 << 47 | 1 << (12 + 9 * level.0));
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

fn page(format: &Npt, flags: MappingFlags, used: Used) -> u64 {
    format.leaf(Level::PAGE, &Leaf { used, ..leaf(0x4000_0000, flags) })
}

mod golden_words {
    use super::*;

    #[test]
    fn of_pages() {
        for (flags, word) in [
            (RWX, 0x4000_0027),
            (RX, 0x4000_0025),
            (RW, 0x8000_0000_4000_0027),
            (R, 0x8000_0000_4000_0025),
            (RW | NC, 0x8000_0000_4000_002f),
            (RW | DEV, 0x8000_0000_4000_003f),
        ] {
            assert_eq!(page(&plain(), flags, Used::Accessed), word, "{flags:?}");
        }
    }

    #[test]
    fn of_marks_owners_blocks_and_tables() {
        assert_eq!(page(&plain(), RWX, Used::Not), 0x4000_0007);
        assert_eq!(page(&plain(), RWX, Used::Dirty), 0x4000_0067);
        let owned = Leaf { owner: Owner::Space, ..leaf(0x4000_0000, RWX) };
        assert_eq!(plain().leaf(Level::PAGE, &owned), 0x0010_0000_4000_0027);
        let lent = plain().leaf(Level::PAGE, &Leaf { owner: Owner::OnLoan, ..owned });
        assert_eq!((lent, plain().mark(Level::PAGE, lent)), (0x0110_0000_4000_0027, 0x0150_0000_4000_0026));
        let borrowed = Leaf { owner: Owner::Borrowed, ..leaf(0x4000_0000, RW) };
        assert_eq!(plain().leaf(Level::PAGE, &borrowed), 0x8100_0000_4000_0027);
        assert_eq!(plain().leaf(Level(1), &leaf(0x4000_0000, RWX)), 0x4000_00a7);
        assert_eq!(plain().leaf(Level(2), &leaf(0x4000_0000, RWX)), 0x4000_00a7);
        assert_eq!(plain().table(PhysAddr::from_usize(0x8000_1000)), 0x8000_1007);
    }

    #[test]
    fn of_memory_types_in_the_upper_half_of_the_pat() {
        let format = with(Features::all(), UPPER);
        assert_eq!(format.table(PhysAddr::from_usize(0x8000_1000)), 0x8000_100f, "write-back by PWT");
        // UC is in place 5: the highest bit, and PWT.
        assert_eq!(page(&format, RW | DEV, Used::Accessed), 0x8000_0000_4000_00af);
        let block = format.leaf(Level(1), &leaf(0x4000_0000, RW | DEV));
        assert_eq!(block, 0x8000_0000_4000_10af);
        // WC is in place 6: the highest bit, and PCD.
        assert_eq!(page(&format, RW | NC, Used::Accessed), 0x8000_0000_4000_00b7);
    }
}

#[path = "entry/every_flag_set.rs"]
mod every_flag_set;

#[path = "entry/faults_of_others.rs"]
mod faults_of_others;

mod kinds {
    use super::*;

    #[test]
    fn a_table_and_a_leaf_are_told_apart_by_bit_7_but_at_the_last_level() {
        let at = PhysAddr::from_usize(0x8000_1000);
        for format in formats() {
            let table = format.table(at);
            for level in [1, 2, 3] {
                // With what the hardware notes there.
                for table in [table, table | 1 << 5] {
                    assert_eq!(format.decode(Level(level), table), Entry::Table(at));
                    let marked = format.mark(Level(level), table);
                    assert_eq!(format.decode(Level(level), marked), Entry::Marked(Marked::Table(at)));
                }
            }
            assert!(matches!(format.decode(Level::PAGE, table), Entry::Leaf(_)));
        }
    }

    #[test]
    fn busy_is_like_nothing_else() {
        for format in formats() {
            assert_eq!(format.busy() & 1, 0);
            for level in 0..=3 {
                assert_eq!(format.decode(Level(level), format.busy()), Entry::Busy);
            }
        }
    }

    #[test]
    fn entries_with_reserved_bits_are_nothing() {
        assert_eq!(plain().decode(Level(3), 0x4000_00a7), Entry::Absent, "a leaf of 512 GiB");
        let marked = plain().mark(Level(3), 0x4000_00a7);
        assert_eq!(plain().decode(Level(3), marked), Entry::Absent);
    }
}

mod hardware_marks {
    use super::*;

    #[test]
    fn touching_sets_what_the_hardware_would() {
        let fresh = page(&plain(), RWX, Used::Not);
        for (access, used) in
            [(Access::Read, Used::Accessed), (Access::Execute, Used::Accessed), (Access::Write, Used::Dirty)]
        {
            assert_eq!(plain().touched(Level::PAGE, fresh, access), page(&plain(), RWX, used));
        }
    }

    #[test]
    fn hardware_always_sets_both() {
        for level in LEVELS {
            assert_eq!(plain().fields(level).hardware, 1 << 5 | 1 << 6);
        }
    }
}

mod changes {
    use super::*;

    #[test]
    fn permissions_change_in_place_and_are_restricted_when_any_goes() {
        for (old, new) in [R, RW, RX, RWX].into_iter().flat_map(|old| [R, RW, RX, RWX].map(|new| (old, new))) {
            let expected = if new.contains(old) { Change::Raise } else { Change::Restrict };
            let [before, after] = [old, new].map(|flags| page(&plain(), flags, Used::Accessed));
            assert_eq!(plain().change(Level::PAGE, before, after), expected, "{old:?} to {new:?}");
        }
    }

    #[test]
    fn memory_types_addresses_and_kinds_break() {
        let memory = [RW, RW | NC, RW | DEV];
        for format in [plain(), with(Features::all(), UPPER)] {
            for level in LEVELS {
                for (one, other) in memory.into_iter().flat_map(|one| memory.map(|other| (one, other))) {
                    let [before, after] = [one, other].map(|flags| format.leaf(level, &leaf(0x4000_0000, flags)));
                    let expected = if one == other { Change::Raise } else { Change::Break };
                    assert_eq!(format.change(level, before, after), expected, "{level} {one:?} to {other:?}");
                }
            }
        }
        let here = plain().leaf(Level(1), &leaf(0x4000_0000, RW));
        let there = plain().leaf(Level(1), &leaf(0x4020_0000, RW));
        assert_eq!(plain().change(Level(1), here, there), Change::Break);
        assert_eq!(plain().change(Level(1), here, plain().table(leaf(0x4000_0000, RW).at)), Change::Break);
    }

    #[test]
    fn marks_that_go_have_to_be_forgotten() {
        let [fresh, read, written] = [Used::Not, Used::Accessed, Used::Dirty].map(|used| page(&plain(), RWX, used));
        for (old, new) in [(written, read), (written, fresh), (read, fresh)] {
            assert_eq!(plain().change(Level::PAGE, old, new), Change::Restrict);
            assert_eq!(plain().change(Level::PAGE, new, old), Change::Raise);
        }
        assert_eq!(plain().denials(), Denials::Dropped);
    }
}
