use std::vec::Vec;

use super::*;
use crate::Owner;

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

mod every_flag_set {
    use super::*;

    /// The word by the manual's figures, with numbers and nothing of the encoder's.
    fn by_hand(format: &Npt, level: Level, leaf: &Leaf) -> u64 {
        let memory_type = match (leaf.flags.contains(DEV), leaf.flags.contains(NC)) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 6,
        };
        let slot = format.pat.to_le_bytes().into_iter().position(|found| found == memory_type).unwrap();
        let bit = |there: bool, number: u32| u64::from(there) << number;
        let large = level != Level::PAGE;
        bit(true, 0)
            | bit(leaf.flags.contains(W), 1)
            | bit(true, 2)
            | bit(slot & 1 != 0, 3)
            | bit(slot & 2 != 0, 4)
            | bit(leaf.used != Used::Not, 5)
            | bit(leaf.used == Used::Dirty, 6)
            | bit(large || slot & 4 != 0, 7)
            | bit(large && slot & 4 != 0, 12)
            | leaf.at.as_usize() as u64
            | bit(matches!(leaf.owner, Owner::Space | Owner::Frozen | Owner::OnLoan), 52)
            | bit(matches!(leaf.owner, Owner::OnLoan | Owner::Borrowed), 56)
            | bit(matches!(leaf.owner, Owner::Shared | Owner::Frozen), 55)
            | bit(!leaf.flags.contains(X), 63)
    }

    #[test]
    fn is_the_manuals_word_for_every_level_owner_and_use() {
        let mut words = 0;
        for format in formats() {
            for (level, flags) in
                LEVELS.into_iter().flat_map(|level| expressible(&format).into_iter().map(move |flags| (level, flags)))
            {
                for leaf in leaves(level, flags) {
                    assert_eq!(
                        format.leaf(level, &leaf),
                        by_hand(&format, level, &leaf),
                        "{format:?} {level} {leaf:?}"
                    );
                    words += 1;
                }
            }
        }
        // R, RW, RX, RWX of memory, and where the PAT has it of uncached memory; R, RW of devices.
        assert_eq!(words, 3 * 18 * ((4 + 4 + 2) + (4 + 2) + (4 + 4 + 2)));
    }

    /// What is left of a leaf that was marked.
    fn withdrawn(leaf: Leaf) -> Entry {
        if leaf.owner == Owner::OnLoan { Entry::Lent(leaf) } else { Entry::Marked(Marked::Leaf(leaf)) }
    }

    #[test]
    fn goes_through_the_encoder_and_back_or_is_refused() {
        for format in formats() {
            for (level, flags) in LEVELS.into_iter().flat_map(|level| all_flags().map(move |flags| (level, flags))) {
                if format.check(flags).is_err() {
                    continue;
                }
                for leaf in leaves(level, flags) {
                    let entry = format.leaf(level, &leaf);
                    assert_eq!(format.decode(level, entry), Entry::Leaf(leaf), "{format:?} {entry:#x}");
                    let marked = format.mark(level, entry);
                    assert_eq!(format.decode(level, marked), withdrawn(leaf), "{marked:#x}");
                    assert_eq!(marked & 1, 0);
                }
            }
        }
    }

    #[test]
    fn is_refused_with_a_reason_or_can_be_read() {
        for format in formats() {
            let combining = format.pat != super::super::super::PAT_AT_RESET;
            for flags in all_flags() {
                let uncached = !flags.contains(NC) || combining && !flags.contains(DEV);
                let expected =
                    flags.contains(R) && uncached && !flags.contains(MappingFlags::USER) && !flags.contains(DEV | X);
                match format.check(flags) {
                    Ok(()) => assert!(expected, "{flags:?}"),
                    Err(Inexpressible(reason)) => assert!(!expected && flags.contains(reason), "{flags:?}: {reason:?}"),
                }
            }
        }
    }

    #[test]
    fn becomes_every_other_as_if_it_had_been_made_so() {
        for format in formats() {
            let sets = expressible(&format);
            for (level, old) in LEVELS.into_iter().flat_map(|level| sets.iter().map(move |flags| (level, *flags))) {
                for leaf in leaves(level, old) {
                    let entry = format.leaf(level, &leaf);
                    for flags in sets.iter().copied() {
                        let made = format.leaf(level, &Leaf { flags, ..leaf });
                        assert_eq!(format.with_flags(level, entry, flags), made, "{old:?} to {flags:?}");
                    }
                }
            }
        }
    }

    /// 5.3 and 5.4: address bits from the physical width up, and those below a large leaf's but bit 12, are reserved.
    #[test]
    fn has_no_reserved_bit_and_is_for_users() {
        for format in formats() {
            for (level, flags) in LEVELS.into_iter().flat_map(|l| expressible(&format).into_iter().map(move |f| (l, f)))
            {
                let entry = format.leaf(level, &leaf(0x4000_0000, flags));
                assert_ne!(entry & 1 << 2, 0);
                assert_eq!(entry >> 48 & 0b1111, 0, "above the physical width");
                assert_eq!(entry >> 59 & 0b1111, 0, "a protection key");
                let below = [0, (1 << 21) - (1 << 13), (1 << 30) - (1 << 13)][level.0 as usize];
                assert_eq!(entry & below, 0);
            }
            assert_ne!(format.table(PhysAddr::from_usize(0x1000)) & 1 << 2, 0);
        }
    }
}

mod faults_of_others {
    use super::*;

    #[test]
    fn e1_e2_a_write_is_not_inverted_and_a_device_is_not_executable() {
        assert_eq!(page(&plain(), RW, Used::Accessed) & 0b10, 0b10);
        assert_eq!(plain().check(RX | DEV), Err(Inexpressible(DEV | X)));
        assert_ne!(page(&plain(), RW | DEV, Used::Accessed) & 1 << 63, 0);
    }

    #[test]
    fn e3_no_memory_type_panics_or_is_another() {
        for slot in 0..8_u64 {
            let entry = page(&plain(), RW, Used::Accessed) | (slot & 0b11) << 3 | (slot >> 2) << 7;
            let Entry::Leaf(leaf) = plain().decode(Level::PAGE, entry) else { panic!("{entry:#x}") };
            assert_eq!(leaf.flags.contains(DEV), slot == 3);
            assert_eq!(leaf.flags.contains(NC), slot == 1);
        }
    }

    #[test]
    fn e4_nothing_is_zero_and_only_nothing() {
        assert!(plain().check(MappingFlags::empty()).is_err());
        for format in formats() {
            assert_eq!(format.absent(), 0);
            for level in 0..=3 {
                assert_eq!(format.decode(Level(level), 0), Entry::Absent);
            }
        }
    }

    #[test]
    fn e5_what_cannot_be_read_and_leaves_that_the_cpu_lacks_are_refused() {
        for flags in [W, X, W | X] {
            assert_eq!(plain().check(flags), Err(Inexpressible(flags)));
        }
        let old = with(Features::all() - Features::LEAF_1G, LINUX);
        assert_eq!([0, 1, 2, 3].map(|level| old.maps(Level(level))), [true, true, false, false]);
        assert!(plain().maps(Level(2)));
        let large = plain().leaf(Level(2), &leaf(0x4000_0000, RW));
        assert_eq!(old.decode(Level(2), large), Entry::Absent);
    }

    #[test]
    fn e6_other_flags_keep_what_the_hardware_noted() {
        for used in [Used::Not, Used::Accessed, Used::Dirty] {
            let entry = plain().with_flags(Level::PAGE, page(&plain(), RWX, used), R);
            assert!(matches!(plain().decode(Level::PAGE, entry), Entry::Leaf(leaf) if leaf.used == used));
        }
    }

    /// W7: and every other frame's address is kept in every kind of entry.
    #[test]
    fn e7_addresses_of_every_bit_are_kept_by_present_and_marked_entries() {
        for bit in 12..48 {
            let at = PhysAddr::from_usize(1 << bit);
            for format in formats() {
                for level in LEVELS.into_iter().filter(|level| bit >= 12 + 9 * u32::from(level.0)) {
                    for flags in expressible(&format) {
                        let entry = format.leaf(level, &Leaf { used: Used::Not, ..leaf(at.as_usize(), flags) });
                        assert!(matches!(format.decode(level, entry), Entry::Leaf(leaf) if leaf.at == at));
                        let marked = format.decode(level, format.mark(level, entry));
                        assert!(matches!(marked, Entry::Marked(Marked::Leaf(leaf)) if leaf.at == at));
                    }
                }
                let marked = format.mark(Level(3), format.table(at));
                assert_eq!(format.decode(Level(3), marked), Entry::Marked(Marked::Table(at)));
            }
        }
        let zero = PhysAddr::from_usize(0);
        let entry = plain().leaf(Level::PAGE, &leaf(0, R));
        assert!(matches!(plain().decode(Level::PAGE, entry), Entry::Leaf(leaf) if leaf.at == zero));
        let marked = plain().mark(Level(1), plain().table(zero));
        assert_eq!(plain().decode(Level(1), marked), Entry::Marked(Marked::Table(zero)));
    }
}

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
    fn entries_that_differ_in_them_are_stably_one() {
        let stable = |used| plain().stable(Level::PAGE, page(&plain(), RWX, used));
        assert_eq!(stable(Used::Not), stable(Used::Dirty));
        let table = plain().table(PhysAddr::from_usize(0x1000));
        assert_eq!(plain().stable(Level(1), table | 1 << 5), table, "the hardware marks tables too");
        assert_ne!(plain().stable(Level(1), table | 1 << 6), table, "but not as dirty");
        let marked = plain().mark(Level::PAGE, page(&plain(), RWX, Used::Dirty));
        assert_eq!(plain().stable(Level::PAGE, marked), marked, "the hardware is done with it");
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
