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
