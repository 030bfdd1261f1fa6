//! `PageTable64` of `page_table_multiarch` over our entries: it must find what it mapped.

use std::{boxed::Box, vec};

use memory_addr::{MemoryAddr, PhysAddr, VirtAddr};
use page_table_multiarch::{GenericPTE, MappingFlags, PageSize, PageTable64, PagingHandler, PagingMetaData};

use super::{
    aarch64::Stage2Entry,
    x86_64::{ept::EptEntry, npt::NptEntry},
};
use crate::addr::GuestPhysAddr;

/// Four levels, and nothing to invalidate: nothing walks these.
struct FourLevels;

impl PagingMetaData for FourLevels {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 48;
    const VA_MAX_BITS: usize = 48;
    type VirtAddr = GuestPhysAddr;

    fn vaddr_is_valid(vaddr: usize) -> bool {
        vaddr >> Self::VA_MAX_BITS == 0
    }

    fn flush_tlb(_: Option<GuestPhysAddr>) {}
}

/// The test's own memory, which it leaks.
struct Leaked;

#[derive(Clone)]
#[repr(align(4096))]
#[expect(dead_code, reason = "reached by address")]
struct Frame([u8; 4096]);

impl PagingHandler for Leaked {
    fn alloc_frames(count: usize, _: usize) -> Option<PhysAddr> {
        let frames = Box::leak(vec![Frame([0; 4096]); count].into_boxed_slice());
        Some(PhysAddr::from(frames.as_mut_ptr().expose_provenance()))
    }

    fn dealloc_frames(_: PhysAddr, _: usize) {}

    fn phys_to_virt(at: PhysAddr) -> VirtAddr {
        VirtAddr::from(at.as_usize())
    }
}

fn finds_what_it_mapped<E: GenericPTE>() {
    let mut table = PageTable64::<FourLevels, E, Leaked>::try_new().unwrap();
    let (read, all) = (MappingFlags::READ, MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE);
    let page = GuestPhysAddr::from(0x4000_1000);
    let block = GuestPhysAddr::from(0x8020_0000);
    let to = PhysAddr::from(0x4_c020_0000);

    let mut cursor = table.cursor();
    cursor.map(page, to, PageSize::Size4K, all).unwrap();
    cursor.map(block, to, PageSize::Size2M, read | MappingFlags::DEVICE).unwrap();
    cursor.protect(page, read).unwrap();
    drop(cursor);

    assert_eq!(table.query(page.add(8)), Ok((to.add(8), read, PageSize::Size4K)));
    let device = read | MappingFlags::DEVICE;
    assert_eq!(table.query(block.add(0x1234)), Ok((to.add(0x1234), device, PageSize::Size2M)));
    assert!(table.query(page.add(0x1000)).is_err());
    assert!(table.cursor().unmap(page).is_ok());
    assert!(table.query(page).is_err());
}

#[test]
fn page_table_64_over_stage_2_finds_what_it_mapped() {
    finds_what_it_mapped::<Stage2Entry>();
}

#[test]
fn page_table_64_over_ept_finds_what_it_mapped() {
    finds_what_it_mapped::<EptEntry>();
}

#[test]
fn page_table_64_over_npt_finds_what_it_mapped() {
    finds_what_it_mapped::<NptEntry>();
}
