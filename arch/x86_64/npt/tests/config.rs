use super::*;
use crate::{addr::GuestPhysAddr, format::Format};

fn milan() -> Capabilities {
    Capabilities { physical_bits: 48, guest_physical_bits: 48, asids: 0x8000, features: Features::all() }
}

/// As Linux sets it: WB, WC, UC-, UC, WB, WP, UC-, WT.
const LINUX: u64 = 0x0407_0506_0007_0106;

#[test]
fn the_root_is_walked_through_the_write_back_cache_under_its_asid() {
    let table = PhysAddr::from_usize(0x1234_5000);
    let format = Npt::new(&milan(), Asid(7)).unwrap();
    assert_eq!(format.root(table), Root { ncr3: 0x1234_5000, asid: Asid(7) });
    assert_eq!(format.with_pat(LINUX).unwrap().root(table), format.root(table));
    // Write-back in the place of PCD alone, then of both.
    assert_eq!(format.with_pat(0x0000_0000_0006_0000).unwrap().root(table).ncr3, 0x1234_5010);
    assert_eq!(format.with_pat(0x0000_0000_0600_0000).unwrap().root(table).ncr3, 0x1234_5018);
}

#[test]
fn a_pat_without_what_is_needed_is_refused() {
    let format = Npt::new(&milan(), Asid(1)).unwrap();
    let refused = |memory_type| Err(ConfigError::NoMemoryType(memory_type));
    // Write-back is where no table's entry can choose it.
    assert_eq!(format.with_pat(0x0000_0006_0000_0000), refused(MemoryType::WriteBack));
    assert_eq!(format.with_pat(0x0606_0606_0606_0606), refused(MemoryType::Uncacheable));
    assert_eq!(format.with_pat(PAT_AT_RESET), Ok(format));
    assert_eq!(format.slot(MemoryType::WriteCombining), None);
    assert_eq!(format.with_pat(LINUX).unwrap().slot(MemoryType::WriteCombining), Some(1));
}

#[test]
fn w6_the_last_address_has_the_last_index_of_the_root() {
    let format = Npt::new(&milan(), Asid(1)).unwrap();
    for bits in 40..=48 {
        let geometry = format.with_input_bits(bits).unwrap().geometry();
        assert_eq!(geometry.input_bits(), bits);
        let last = geometry.index(geometry.root_level, GuestPhysAddr::from(geometry.limit() - 1));
        assert_eq!(last, (1 << (bits - 39)) - 1);
        assert_eq!(geometry.table_pages(geometry.root_level), 1);
    }
    for bits in [39, 49] {
        assert_eq!(format.with_input_bits(bits), Err(ConfigError::InputBits { bits, least: 40, most: 48 }));
    }
}

#[test]
fn what_the_cpus_lack_is_refused() {
    let refused = |features| Npt::new(&milan().without(features), Asid(1));
    assert_eq!(refused(Features::SVM), Err(ConfigError::NoNestedPaging));
    assert_eq!(refused(Features::NESTED_PAGING), Err(ConfigError::NoNestedPaging));
    assert_eq!(refused(Features::NO_EXECUTE), Err(ConfigError::NoExecuteNever));
    assert!(refused(Features::FLUSH_BY_ASID | Features::LEAF_1G).is_ok());
    for physical_bits in [31, 53] {
        let capabilities = Capabilities { physical_bits, ..milan() };
        assert_eq!(Npt::new(&capabilities, Asid(1)), Err(ConfigError::PhysicalBits(physical_bits)));
    }
}

#[test]
fn an_asid_that_is_the_hypervisors_own_or_does_not_exist_is_refused() {
    let few = Capabilities { asids: 16, ..milan() };
    for asid in [Asid(0), Asid(16), Asid(u32::MAX)] {
        assert_eq!(Npt::new(&few, asid), Err(ConfigError::Asid { asid, most: 15 }));
    }
    assert!(Npt::new(&few, Asid(15)).is_ok());
    assert_eq!(Npt::new(&Capabilities { asids: 0, ..few }, Asid(1)), Err(ConfigError::Asid { asid: Asid(1), most: 0 }));
}
