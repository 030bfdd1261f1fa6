//! One set of tests, run over the entries of every format.

use memory_addr::PhysAddr;
use page_table_multiarch::{GenericPTE, MappingFlags};

use super::{Baseline, PagingEntry};
use crate::arch::{aarch64::Stage2, x86_64::ept::Ept, x86_64::npt::Npt};

const READ: MappingFlags = MappingFlags::READ;

fn says_what_it_was_made_of<F: Baseline>(other_flags: MappingFlags) {
    let at = PhysAddr::from_usize(0x4020_0000);
    let flags = READ | MappingFlags::EXECUTE;
    for huge in [false, true] {
        let mut entry = PagingEntry::<F>::new_page(at, flags, huge);
        assert_eq!((entry.paddr(), entry.flags(), entry.is_huge()), (at, flags, huge), "{entry:?}");
        assert!(entry.is_present() && !entry.is_unused(), "{entry:?}");
        entry.set_flags(other_flags, huge);
        entry.set_paddr(PhysAddr::from_usize(0x20_0000));
        assert_eq!(entry, PagingEntry::new_page(PhysAddr::from_usize(0x20_0000), other_flags, huge));
        entry.clear();
        assert!(entry.is_unused() && !entry.is_present(), "{entry:?}");
    }
}

#[test]
fn entries_say_what_they_were_made_of() {
    says_what_it_was_made_of::<Stage2>(MappingFlags::WRITE);
    says_what_it_was_made_of::<Ept>(READ);
    says_what_it_was_made_of::<Npt>(READ);
}

fn keeps_its_address_as_a_table<F: Baseline>(bits: usize) {
    let entry = PagingEntry::<F>::new_table(PhysAddr::from_usize(0x8000));
    assert_eq!((entry.paddr().as_usize(), entry.bits()), (0x8000, bits), "{entry:?}");
    assert!(entry.is_present() && !entry.is_huge(), "{entry:?}");
}

#[test]
fn a_table_keeps_its_address_and_is_not_huge() {
    keeps_its_address_as_a_table::<Stage2>(0x8003);
    keeps_its_address_as_a_table::<Ept>(0x8007);
    keeps_its_address_as_a_table::<Npt>(0x8007);
}

fn makes_absent_entries_of<F: Baseline>(flags: &[MappingFlags]) {
    for &flags in flags {
        let entry = PagingEntry::<F>::new_page(PhysAddr::from_usize(0x1000), flags, false);
        assert!(entry.is_unused(), "{entry:?}");
    }
}

#[test]
fn inexpressible_flags_make_absent_entries() {
    let (none, user) = (MappingFlags::empty(), READ | MappingFlags::USER);
    makes_absent_entries_of::<Stage2>(&[none, user]);
    makes_absent_entries_of::<Ept>(&[none, user, MappingFlags::WRITE]);
    makes_absent_entries_of::<Npt>(&[none, user, MappingFlags::WRITE]);
}

#[test]
fn entries_show_by_their_formats_name() {
    let names = |name: &str, shown: &str| assert!(shown.starts_with(&std::format!("{name} {{ raw: 0x")), "{shown}");
    let at = PhysAddr::from_usize(0x1000);
    names("Stage2Entry", &std::format!("{:?}", PagingEntry::<Stage2>::new_page(at, READ, false)));
    names("EptEntry", &std::format!("{:?}", PagingEntry::<Ept>::new_page(at, READ, false)));
    names("NptEntry", &std::format!("{:?}", PagingEntry::<Npt>::new_page(at, READ, false)));
}
