//! `PageTable` of `page-table-generic`, over descriptors of `AArch64` stage 2.

use page_table_generic::{FrameAllocator, MapConfig, PageTable, PageTableEntry, PhysAddr, TableMeta, VirtAddr};

use super::{Access, Peer};
use crate::{
    machine::{BASE, TARGET},
    ready,
};

const PAGE: usize = 0x1000;

/// A descriptor: Arm DDI 0487, edition K.a, D8.3 to D8.6.
#[derive(Clone, Copy, Debug)]
struct Descriptor(u64);

/// The output address.
const ADDRESS: u64 = ((1 << 48) - 1) & !0xfff;
/// A page, but for its address and S2AP.
const LEAF: u64 = 1 << 54 | 1 << 10 | 0b11 << 8 | 0b1111 << 2 | 0b11;
/// S2AP.
const PERMISSIONS: u64 = 0b11 << 6;

impl PageTableEntry for Descriptor {
    type PteConfig = u64;

    fn new_page(at: PhysAddr, config: u64, is_huge: bool) -> Self {
        let kind = if is_huge { 0b10 } else { 0 };
        Self(at.as_usize() as u64 & ADDRESS | (LEAF & !kind) | config)
    }

    fn new_table(at: PhysAddr) -> Self {
        Self(at.as_usize() as u64 & ADDRESS | 0b11)
    }

    fn paddr(&self, _: bool) -> PhysAddr {
        PhysAddr::from_usize((self.0 & ADDRESS) as usize)
    }

    fn config(&self, _: bool) -> u64 {
        self.0 & PERMISSIONS
    }

    fn present(&self) -> bool {
        self.0 & 1 != 0
    }

    fn huge(&self, is_dir: bool) -> bool {
        is_dir && self.0 & 0b11 == 0b01
    }

    fn unused(&self) -> bool {
        self.0 == 0
    }

    fn clear(&mut self) {
        self.0 = 0;
    }
}

/// Three levels of pages.
#[derive(Clone, Copy)]
struct ThreeLevels;

impl TableMeta for ThreeLevels {
    type P = Descriptor;
    const PAGE_SIZE: usize = PAGE;
    const LEVEL_BITS: &[usize] = &[9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;

    fn flush(_: Option<VirtAddr>) {}
}

/// Frames of the list.
#[derive(Clone, Copy)]
struct Listed;

impl FrameAllocator for Listed {
    fn alloc_frame(&self) -> Option<PhysAddr> {
        Some(PhysAddr::from_usize(ready::take()))
    }

    fn dealloc_frame(&self, frame: PhysAddr) {
        ready::give(frame.as_usize());
    }

    fn phys_to_virt(&self, at: PhysAddr) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(at.as_usize())
    }
}

/// The table.
pub struct PageTableGeneric(PageTable<ThreeLevels, Listed>);

fn at(page: usize) -> VirtAddr {
    VirtAddr::from_usize(BASE + page * PAGE)
}

fn permissions(access: Access) -> u64 {
    if access == Access::Read { 0b01 << 6 } else { PERMISSIONS }
}

impl Peer for PageTableGeneric {
    const NAME: &'static str = "page-table-generic";

    fn new() -> Self {
        Self(PageTable::new(Listed).expect("there is memory"))
    }

    fn map(&mut self, pages: usize) {
        let config = MapConfig {
            vaddr: at(0),
            paddr: PhysAddr::from_usize(TARGET),
            size: pages * PAGE,
            pte: permissions(Access::ReadWrite),
            allow_huge: false,
            flush: false,
        };
        self.0.map(&config).expect("it is unmapped");
    }

    fn unmap(&mut self, pages: usize) {
        self.0.unmap(at(0), pages * PAGE).expect("it is mapped");
    }

    fn protect(&mut self, pages: usize) {
        self.0.protect_region(at(0), pages * PAGE, permissions(Access::Read)).expect("it is mapped");
    }

    fn map_page(&mut self, page: usize, frame: usize) {
        let done = self.0.map_page(at(page), PhysAddr::from_usize(frame), PAGE, permissions(Access::ReadWrite));
        done.expect("it is unmapped");
    }

    fn unmap_page(&mut self, page: usize) {
        self.0.unmap_page(at(page)).expect("it is mapped");
    }

    fn protect_page(&mut self, page: usize, access: Access) {
        self.0.protect_page(at(page), permissions(access)).expect("it is mapped");
    }

    fn translate(&self, page: usize) -> Option<usize> {
        self.0.translate_phys(at(page)).ok().map(PhysAddr::as_usize)
    }
}
