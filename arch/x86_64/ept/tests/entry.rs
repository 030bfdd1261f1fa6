use std::vec::Vec;

use super::*;
use crate::arch::{x86_64::ept::Depth, x86_64::ept::Errata};
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

fn with(features: Features) -> Ept {
    Ept::new(&Capabilities { physical_bits: 46, features, errata: Errata::empty() }, Depth::Four).unwrap()
}

fn plain() -> Ept {
    with(Features::all())
}

fn formats() -> impl Iterator<Item = Ept> {
    let plain_only = with(Features::all() - Features::EXECUTE_ONLY);
    [plain(), plain_only].into_iter().flat_map(|format| {
        [Tracking::Software, Tracking::Hardware].into_iter().flat_map(move |tracking| {
            [Exceptions::Off, Exceptions::Suppressed]
                .map(|exceptions| format.with_tracking(tracking).unwrap().with_exceptions(exceptions))
        })
    })
}

fn all_flags() -> impl Iterator<Item = MappingFlags> {
    (0..=MappingFlags::all().bits()).map(MappingFlags::from_bits_retain)
}

fn expressible(format: &Ept) -> Vec<MappingFlags> {
    all_flags().filter(|flags| format.check(*flags).is_ok()).collect()
}

const OWNERS: [Owner; 6] = [Owner::Space, Owner::Foreign, Owner::Shared, Owner::Frozen, Owner::OnLoan, Owner::Borrowed];

/// Every owner and use, at an address with its lowest and highest bits set.
fn leaves(level: Level, flags: MappingFlags) -> Vec<Leaf> {
    let at = PhysAddr::from_usize(1 << 45 | 1 << (12 + 9 * level.0));
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

fn page(format: &Ept, flags: MappingFlags, used: Used) -> u64 {
    format.leaf(Level::PAGE, &Leaf { used, ..leaf(0x4000_0000, flags) })
}

mod golden_words {
    use super::*;

    #[test]
    fn of_pages() {
        for (flags, word) in [
            (RWX, 0x4000_0177),
            (RX, 0x4000_0175),
            (RW, 0x4000_0173),
            (R, 0x4000_0171),
            (X, 0x4000_0174),
            (RW | NC, 0x4000_014b),
            (RW | DEV, 0x4000_0103),
            (RW | DEV | NC, 0x4000_0143),
        ] {
            assert_eq!(page(&plain(), flags, Used::Accessed), word, "{flags:?}");
        }
    }

    #[test]
    fn of_marks_owners_blocks_and_tables() {
        assert_eq!(page(&plain(), RWX, Used::Not), 0x4000_0077);
        assert_eq!(page(&plain(), RWX, Used::Dirty), 0x4000_0377);
        let owned = Leaf { owner: Owner::Space, ..leaf(0x4000_0000, RWX) };
        assert_eq!(plain().leaf(Level::PAGE, &owned), 0x0010_0000_4000_0177);
        let lent = plain().leaf(Level::PAGE, &Leaf { owner: Owner::OnLoan, ..owned });
        // The access in bits 62:60, the address inverted.
        assert_eq!((lent, plain().mark(Level::PAGE, lent)), (0x0090_0000_4000_0177, 0x709f_ffff_bfff_f170));
        let borrowed = Leaf { owner: Owner::Borrowed, ..leaf(0x4000_0000, RW) };
        assert_eq!(plain().leaf(Level::PAGE, &borrowed), 0x0080_0000_4000_0173);
        assert_eq!(plain().leaf(Level(1), &leaf(0x4000_0000, RWX)), 0x4000_01f7);
        assert_eq!(plain().leaf(Level(2), &leaf(0x4000_0000, RWX)), 0x4000_01f7);
        assert_eq!(plain().table(PhysAddr::from_usize(0x8000_1000)), 0x8000_1007);
    }

    #[test]
    fn of_suppressed_exceptions() {
        let format = plain().with_exceptions(Exceptions::Suppressed);
        assert_eq!(format.absent(), 1 << 63);
        assert_eq!(page(&format, RWX, Used::Accessed), 0x8000_0000_4000_0177);
        let marked = format.mark(Level(1), format.table(PhysAddr::from_usize(0x8000_1000)));
        assert_eq!((marked >> 63, format.busy() >> 63), (1, 1));
    }
}

#[path = "entry/every_flag_set.rs"]
mod every_flag_set;

#[path = "entry/faults_of_others.rs"]
mod faults_of_others;

mod kinds {
    use super::*;

    #[test]
    fn a_marked_entry_names_no_memory_to_a_cpu_that_speculates_through_it() {
        let entry = plain().leaf(Level::PAGE, &leaf(0x4000_0000, RWX));
        assert_eq!(plain().mark(Level::PAGE, entry) & ADDRESS, !0x4000_0000 & ADDRESS);
        assert_ne!(plain().mark(Level::PAGE, entry) >> 46 & 0b11_1111, 0, "above MAXPHYADDR");
    }

    #[test]
    fn a_table_and_a_leaf_are_told_apart_by_bit_7_but_at_the_last_level() {
        let at = PhysAddr::from_usize(0x8000_1000);
        for format in formats() {
            let table = format.table(at);
            for level in [1, 2, 3] {
                assert_eq!(format.decode(Level(level), table), Entry::Table(at));
                let marked = format.mark(Level(level), table);
                assert_eq!(format.decode(Level(level), marked), Entry::Marked(Marked::Table(at)));
            }
            assert!(matches!(format.decode(Level::PAGE, table), Entry::Leaf(_)));
        }
    }

    #[test]
    fn busy_is_like_nothing_else() {
        for format in formats() {
            assert_eq!(format.busy() & ACCESS, 0);
            for level in 0..=3 {
                assert_eq!(format.decode(Level(level), format.busy()), Entry::Busy);
            }
        }
    }

    #[test]
    fn misconfigured_entries_are_nothing() {
        assert_eq!(plain().decode(Level(3), 0x4000_00f7), Entry::Absent, "a leaf of 512 GiB");
        let marked = plain().mark(Level(3), 0x4000_00f7);
        assert_eq!(plain().decode(Level(3), marked), Entry::Absent);
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
        }
    }

    #[test]
    fn hardware_sets_both_where_it_tracks_use() {
        assert_eq!(plain().fields(Level::PAGE).hardware, 0);
        assert_eq!(plain().with_tracking(Tracking::Hardware).unwrap().fields(Level::PAGE).hardware, 1 << 8 | 1 << 9);
    }
}

mod changes {
    use super::*;

    #[test]
    fn permissions_change_in_place_and_are_restricted_when_any_goes() {
        for (old, new) in [R, X, RW, RX, RWX].into_iter().flat_map(|old| [R, X, RW, RX, RWX].map(|new| (old, new))) {
            let expected = if new.contains(old) { Change::Raise } else { Change::Restrict };
            let [before, after] = [old, new].map(|flags| page(&plain(), flags, Used::Accessed));
            assert_eq!(plain().change(Level::PAGE, before, after), expected, "{old:?} to {new:?}");
        }
    }

    #[test]
    fn memory_types_addresses_and_kinds_break() {
        let memory = [RW, RW | NC, RW | DEV, RW | DEV | NC];
        for (one, other) in memory.into_iter().flat_map(|one| memory.map(|other| (one, other))) {
            let [before, after] = [one, other].map(|flags| page(&plain(), flags, Used::Accessed));
            let expected = if one == other { Change::Raise } else { Change::Break };
            assert_eq!(plain().change(Level::PAGE, before, after), expected);
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

mod large_leaves {
    use super::*;

    fn guarded() -> Ept {
        plain().with_large_leaves(LargeLeaves::ExecuteNever)
    }

    #[test]
    fn are_never_executable_where_that_is_asked_for_and_pages_are() {
        for flags in expressible(&guarded()) {
            for level in LEVELS {
                let expected = if level == Level::PAGE { flags } else { flags - X };
                assert_eq!(guarded().allowed(level, flags), expected);
                let entry = guarded().leaf(level, &leaf(0x4000_0000, flags));
                assert_eq!(guarded().decode(level, entry), Entry::Leaf(leaf(0x4000_0000, expected)), "{flags:?}");
                let plain = guarded().leaf(level, &leaf(0x4000_0000, R));
                assert_eq!(guarded().with_flags(level, plain, flags), entry);
                assert_eq!(entry >> 2 & 1 != 0, level == Level::PAGE && flags.contains(X));
            }
        }
    }

    #[test]
    fn that_could_be_executed_only_would_be_nothing_and_are_refused() {
        assert_eq!(guarded().check(X), Err(Inexpressible(X)));
        for flags in expressible(&guarded()) {
            for level in LEVELS {
                assert_ne!(guarded().leaf(level, &leaf(0x4000_0000, flags)) & ACCESS, 0, "{flags:?}");
            }
        }
    }

    #[test]
    fn allow_everything_elsewhere() {
        for (level, flags) in LEVELS.into_iter().flat_map(|l| expressible(&plain()).into_iter().map(move |f| (l, f))) {
            assert_eq!(plain().allowed(level, flags), flags);
        }
    }
}
