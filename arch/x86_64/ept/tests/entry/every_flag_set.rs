use super::*;

/// The word by the manual's tables of formats, in plain numbers, without the encoder's constants.
fn by_hand(format: &Ept, level: Level, leaf: &Leaf) -> u64 {
    let (memory_type, ignore_pat) = match (leaf.flags.contains(DEV), leaf.flags.contains(NC)) {
        (true, strict) => (0, strict),
        (false, true) => (1, true),
        (false, false) => (6, true),
    };
    let bit = |there: bool, number: u32| u64::from(there) << number;
    bit(leaf.flags.contains(R), 0)
        | bit(leaf.flags.contains(W), 1)
        | bit(leaf.flags.contains(X), 2)
        | memory_type << 3
        | bit(ignore_pat, 6)
        | bit(level != Level::PAGE, 7)
        | bit(leaf.used != Used::Not, 8)
        | bit(leaf.used == Used::Dirty, 9)
        | leaf.at.as_usize() as u64
        | bit(matches!(leaf.owner, Owner::Space | Owner::Frozen | Owner::OnLoan), 52)
        | bit(matches!(leaf.owner, Owner::OnLoan | Owner::Borrowed), 55)
        | bit(matches!(leaf.owner, Owner::Shared | Owner::Frozen), 54)
        | bit(format.exceptions == Exceptions::Suppressed, 63)
}

#[test]
fn is_the_manuals_word_for_every_level_owner_and_use() {
    let mut words = 0;
    for format in formats() {
        for (level, flags) in
            LEVELS.into_iter().flat_map(|level| expressible(&format).into_iter().map(move |flags| (level, flags)))
        {
            for leaf in leaves(level, flags) {
                assert_eq!(format.leaf(level, &leaf), by_hand(&format, level, &leaf), "{format:?} {level} {leaf:?}");
                words += 1;
            }
        }
    }
    // R, RW, RX, RWX, and where the CPU has it X, of 2 types of memory; R, RW of 2 types of devices.
    assert_eq!(words, 4 * 3 * (5 * 2 + 2 * 2 + 4 * 2 + 2 * 2) * 18);
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
                assert_eq!(marked & 0b111, 0);
            }
        }
    }
}

#[test]
fn is_refused_with_a_reason_or_gives_access() {
    for format in formats() {
        let execute_only = format.capabilities.features.contains(Features::EXECUTE_ONLY);
        for flags in all_flags() {
            let access = flags & RWX;
            let allowed = access.contains(R) || (access == X && execute_only);
            let expected = allowed && !flags.contains(MappingFlags::USER) && !flags.contains(DEV | X);
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

#[test]
fn is_no_misconfiguration() {
    // 29.3.3.1: W without R; X alone without the capability; memory types 2, 3, 7; address bits.
    for format in formats() {
        for (level, flags) in LEVELS.into_iter().flat_map(|l| expressible(&format).into_iter().map(move |f| (l, f))) {
            let entry = format.leaf(level, &leaf(0x4000_0000, flags));
            assert_ne!(entry & 0b011, 0b010);
            let execute_only = format.capabilities.features.contains(Features::EXECUTE_ONLY);
            assert!(execute_only || entry & 0b111 != 0b100);
            assert!(![2, 3, 7].contains(&(entry >> 3 & 0b111)));
            assert_eq!(entry >> 46 & 0b11_1111, 0, "above MAXPHYADDR");
        }
    }
}
