use super::*;

/// The word by the manual's figures, in plain numbers, without the encoder's constants.
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
                assert_eq!(format.leaf(level, &leaf), by_hand(&format, level, &leaf), "{format:?} {level} {leaf:?}");
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
        for (level, flags) in LEVELS.into_iter().flat_map(|l| expressible(&format).into_iter().map(move |f| (l, f))) {
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
