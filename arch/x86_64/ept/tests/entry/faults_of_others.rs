use super::*;

#[test]
fn e2_a_device_is_not_executable() {
    assert_eq!(plain().check(RX | DEV), Err(Inexpressible(DEV | X)));
}

#[test]
fn e3_no_memory_type_panics_or_is_another() {
    for memory_type in 0..8 {
        let entry = page(&plain(), RW, Used::Accessed) & !MEMORY_TYPE | memory_type << 3;
        let Entry::Leaf(leaf) = plain().decode(Level::PAGE, entry) else { panic!("{entry:#x}") };
        assert_eq!(leaf.flags.contains(DEV), memory_type == 0);
        assert_eq!(leaf.flags.contains(NC), memory_type <= 1);
    }
}

#[test]
fn e4_presence_is_not_readability_and_nothing_is_zero() {
    assert!(plain().check(MappingFlags::empty()).is_err());
    assert_eq!(plain().absent(), 0);
    for format in formats() {
        assert_eq!(format.decode(Level::PAGE, format.absent()), Entry::Absent);
    }
    let Entry::Leaf(leaf) = plain().decode(Level::PAGE, page(&plain(), X, Used::Accessed)) else {
        panic!("a leaf that cannot be read is a leaf")
    };
    assert_eq!(leaf.flags, X);
}

#[test]
fn e5_what_the_cpu_lacks_is_not_used() {
    assert_eq!(plain().check(W), Err(Inexpressible(W)));
    assert!(plain().check(X).is_ok() && plain().check(X | W).is_err());
    assert!(with(Features::all() - Features::EXECUTE_ONLY).check(X).is_err());
    assert_eq!([0, 1, 2, 3].map(|level| plain().maps(Level(level))), [true, true, true, false]);
    let small = with(Features::all() - Features::LEAF_2M - Features::LEAF_1G);
    assert_eq!([0, 1, 2].map(|level| small.maps(Level(level))), [true, false, false]);
}

#[test]
fn e6_other_flags_keep_accessed_and_dirty() {
    let protected = plain().with_flags(Level::PAGE, page(&plain(), RW, Used::Dirty), R);
    assert_eq!(protected, page(&plain(), R, Used::Dirty));
}

#[test]
fn e7_addresses_are_as_wide_as_the_cpu_says() {
    assert_eq!(plain().output_bits(), 46);
}

#[test]
fn w7_address_0_is_an_address_and_so_is_the_last() {
    for (format, at) in formats().flat_map(|format| [0, (1 << 52) - (1 << 30)].map(|at| (format, at))) {
        let address = PhysAddr::from_usize(at);
        for level in LEVELS {
            for flags in expressible(&format) {
                let entry = format.leaf(level, &Leaf { used: Used::Not, ..leaf(at, flags) });
                assert!(matches!(format.decode(level, entry), Entry::Leaf(leaf) if leaf.at == address));
                let marked = format.decode(level, format.mark(level, entry));
                assert!(matches!(marked, Entry::Marked(Marked::Leaf(leaf)) if leaf.at == address));
            }
        }
        let marked = format.mark(Level(3), format.table(address));
        assert_eq!(format.decode(Level(3), marked), Entry::Marked(Marked::Table(address)));
    }
}
