use super::*;

#[test]
fn e1_write_permission_is_not_inverted() {
    assert_eq!(page(&plain(), R, Used::Accessed) & WRITE, 0);
    assert_ne!(page(&plain(), RW, Used::Accessed) & WRITE, 0);
}

#[test]
fn e2_whatever_is_not_executable_is_execute_never_for_el1_and_el0() {
    for format in formats() {
        for flags in expressible(&format) {
            let never = page(&format, flags, Used::Accessed) & EXECUTE_NEVER;
            assert_eq!(never, if flags.contains(X) { 0 } else { EXECUTE_NEVER_ALL });
        }
        assert!(format.check(RX | DEV).is_err(), "device memory is never executable");
    }
}

#[test]
fn e2_partly_executable_is_not_executable() {
    let entry = page(&plain(), R, Used::Accessed) & !EXECUTE_NEVER;
    for (extra, executable) in [
        (Features::EXECUTE_NEVER_BY_LEVEL, [true, false, false, false]),
        (Features::empty(), [true, true, false, false]),
    ] {
        let format = format(extra, Tracking::Software);
        for (never, executable) in (0..).zip(executable) {
            let flags = format.decode_flags(entry | never << 53);
            assert_eq!(flags.contains(X), executable, "XN = {never:#b}");
        }
    }
}

#[test]
fn e3_non_cacheable_is_a_type_of_its_own_and_no_attribute_panics() {
    for format in formats() {
        assert_eq!(page(&format, RW | NC, Used::Accessed) & MEM_ATTR, 0b0101 << 2);
        for attributes in 0..16 {
            let entry = page(&format, RW, Used::Accessed) & !MEM_ATTR | attributes << 2;
            let Entry::Leaf(leaf) = format.decode(Level::PAGE, entry) else { panic!("{entry:#x}") };
            assert_eq!(leaf.flags.contains(NC), attributes == 0b0101 || attributes == 0);
        }
    }
}

#[test]
fn e4_presence_is_not_readability_and_nothing_is_zero() {
    assert!(plain().check(MappingFlags::empty()).is_err());
    assert!(plain().check(DEV).is_err() && plain().check(NC).is_err());
    assert_eq!(plain().absent(), 0);
    assert_eq!(plain().decode(Level::PAGE, 0), Entry::Absent);
    let Entry::Leaf(leaf) = plain().decode(Level::PAGE, page(&plain(), W, Used::Accessed)) else {
        panic!("a leaf that cannot be read is a leaf")
    };
    assert_eq!(leaf.flags, W);
}

#[test]
fn e5_blocks_are_of_the_levels_that_have_them() {
    assert_eq!([0, 1, 2, 3].map(|level| plain().maps(Level(level))), [true, true, true, false]);
    let shallow = Stage2::new(&plain().capabilities, 34, Vmid(1)).unwrap();
    assert!(!shallow.maps(Level(2)), "the root's entries are of 2 MiB");
}

#[test]
fn e6_other_flags_keep_accessed_and_dirty() {
    for format in formats() {
        let dirty = page(&format, RWX, Used::Dirty);
        let protected = format.with_flags(Level::PAGE, dirty, R);
        let raised = format.with_flags(Level::PAGE, protected, RW);
        for entry in [dirty, protected, raised] {
            let Entry::Leaf(leaf) = format.decode(Level::PAGE, entry) else { panic!("{entry:#x}") };
            assert_eq!(leaf.used, Used::Dirty);
        }
    }
}

#[test]
fn e7_addresses_are_as_wide_as_the_cpu_says() {
    assert_eq!(plain().output_bits(), 44);
    let wide = Capabilities { physical_bits: 52, ..plain().capabilities };
    assert_eq!(Stage2::new(&wide, 48, Vmid(1)).unwrap().output_bits(), 48, "no more than the descriptor holds");
}

#[test]
fn e8_every_leaf_is_inner_shareable() {
    for format in formats() {
        for flags in expressible(&format) {
            assert_eq!(page(&format, flags, Used::Not) & 0x300, 0x300);
        }
    }
}

#[test]
fn e9_the_shareability_field_is_no_address() {
    let top = (1 << 48) - 0x1000;
    let entry = plain().leaf(Level::PAGE, &leaf(top, RWX));
    assert_eq!(entry & 0x300, 0x300);
    assert_eq!(decode_address(entry).as_usize(), top);
}

#[test]
fn w7_address_0_is_an_address() {
    let zero = PhysAddr::from_usize(0);
    for (format, level) in formats().flat_map(|format| LEVELS.map(|level| (format, level))) {
        for flags in expressible(&format) {
            let entry = format.leaf(level, &Leaf { used: Used::Not, ..leaf(0, flags) });
            assert!(matches!(format.decode(level, entry), Entry::Leaf(leaf) if leaf.at == zero));
            let marked = format.decode(level, format.mark(level, entry));
            assert!(matches!(marked, Entry::Marked(Marked::Leaf(leaf)) if leaf.at == zero && leaf.flags == flags));
        }
    }
    assert_eq!(plain().decode(Level(1), plain().table(zero)), Entry::Table(zero));
    let marked = plain().mark(Level(1), plain().table(zero));
    assert_eq!(plain().decode(Level(1), marked), Entry::Marked(Marked::Table(zero)));
}

#[test]
fn w15_a_write_protected_leaf_is_written_by_no_hardware() {
    for format in formats() {
        for used in [Used::Accessed, Used::Dirty] {
            let protected = format.with_flags(Level::PAGE, page(&format, RWX, used), RX);
            assert_eq!(protected & (WRITE | DBM), 0);
        }
    }
}
