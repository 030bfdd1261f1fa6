use super::*;

/// The word by the manual's fields, in plain numbers, without the encoder's constants.
fn by_hand(format: &Stage2, level: Level, leaf: &Leaf) -> u64 {
    let forced = format.capabilities.features.contains(Features::FORCED_WRITE_BACK);
    let mem_attr = match (leaf.flags.contains(DEV), leaf.flags.contains(NC)) {
        (true, true) => 0b0000,
        (true, false) => 0b0001,
        (false, true) => 0b0101,
        (false, false) if forced => 0b0110,
        (false, false) => 0b1111,
    };
    let (writes, dirty) = (leaf.flags.contains(W), leaf.used == Used::Dirty);
    let hardware = format.tracking == Tracking::DirtyState;
    let bit = |there: bool, number: u32| u64::from(there) << number;
    bit(true, 0)
        | bit(level == Level::PAGE, 1)
        | mem_attr << 2
        | bit(leaf.flags.contains(R), 6)
        | bit(writes && (!hardware || dirty), 7)
        | 0b11 << 8
        | bit(leaf.used != Used::Not || format.tracking == Tracking::Software, 10)
        | leaf.at.as_usize() as u64
        | bit(writes && hardware, 51)
        | bit(!leaf.flags.contains(X), 54)
        | bit(matches!(leaf.owner, Owner::Space | Owner::Frozen | Owner::OnLoan), 55)
        | bit(matches!(leaf.owner, Owner::OnLoan | Owner::Borrowed), 57)
        | bit(matches!(leaf.owner, Owner::Shared | Owner::Frozen), 58)
        | bit(dirty && !(writes && hardware), 56)
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
    // 7 accesses of 2 types of memory, 3 of 2 types of devices.
    assert_eq!(words, 12 * 3 * (7 * 2 + 3 * 2) * 18);
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
                // A CPU that does not set the access flag must find it set.
                let assumed = leaf.used == Used::Not && format.tracking == Tracking::Software;
                let expected = Leaf { used: if assumed { Used::Accessed } else { leaf.used }, ..leaf };
                let entry = format.leaf(level, &leaf);
                assert_eq!(format.decode(level, entry), Entry::Leaf(expected), "{format:?} {entry:#x}");
                let marked = format.mark(level, entry);
                assert_eq!(format.decode(level, marked), withdrawn(expected), "{marked:#x}");
                assert_eq!(marked & 1, 0);
            }
        }
    }
}

#[test]
fn is_refused_with_a_reason_or_gives_access() {
    for flags in all_flags() {
        let access = flags.intersects(RWX);
        let device_code = flags.contains(DEV | X);
        let expected = access && !flags.contains(MappingFlags::USER) && !device_code;
        match plain().check(flags) {
            Ok(()) => assert!(expected, "{flags:?}"),
            Err(Inexpressible(reason)) => assert!(!expected && flags.contains(reason), "{flags:?}: {reason:?}"),
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
