//! `PageTable64` of `page_table_multiarch`, over the entries of this crate.

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use page_table_multiarch::{PageSize, PageTable64, PagingMetaData};
use stage2::{GuestPhysAddr, MappingFlags, aarch64::Stage2Entry};

use super::{Access, Peer};
use crate::{
    machine::{BASE, READ, READ_WRITE, TARGET, page},
    ready::Ready,
};

/// Three levels, as many as the space of the benches has, and nothing to invalidate.
struct ThreeLevels;

impl PagingMetaData for ThreeLevels {
    const LEVELS: usize = 3;
    const PA_MAX_BITS: usize = 48;
    const VA_MAX_BITS: usize = 39;
    type VirtAddr = GuestPhysAddr;

    fn vaddr_is_valid(vaddr: usize) -> bool {
        vaddr >> Self::VA_MAX_BITS == 0
    }

    fn flush_tlb(_: Option<GuestPhysAddr>) {}
}

/// The table.
pub struct PageTableMultiarch(PageTable64<ThreeLevels, Stage2Entry, Ready<true>>);

fn flags(access: Access) -> MappingFlags {
    if access == Access::Read { READ } else { READ_WRITE }
}

impl Peer for PageTableMultiarch {
    const NAME: &'static str = "page_table_multiarch";

    fn new() -> Self {
        Self(PageTable64::try_new().expect("there is memory"))
    }

    fn map(&mut self, pages: usize) {
        let target = |at: GuestPhysAddr| PhysAddr::from_usize(TARGET + (at.as_usize() - BASE));
        let done = self.0.cursor().map_region(BASE.into(), target, pages * PAGE_SIZE_4K, READ_WRITE, false);
        done.expect("it is unmapped");
    }

    fn unmap(&mut self, pages: usize) {
        self.0.cursor().unmap_region(BASE.into(), pages * PAGE_SIZE_4K).expect("it is mapped");
    }

    fn protect(&mut self, pages: usize) {
        self.0.cursor().protect_region(BASE.into(), pages * PAGE_SIZE_4K, READ).expect("it is mapped");
    }

    fn map_page(&mut self, index: usize, frame: usize) {
        let done = self.0.cursor().map(page(index), PhysAddr::from_usize(frame), PageSize::Size4K, READ_WRITE);
        done.expect("it is unmapped");
    }

    fn unmap_page(&mut self, index: usize) {
        self.0.cursor().unmap(page(index)).expect("it is mapped");
    }

    fn protect_page(&mut self, index: usize, access: Access) {
        self.0.cursor().protect(page(index), flags(access)).expect("it is mapped");
    }

    fn translate(&self, index: usize) -> Option<usize> {
        self.0.query(page(index)).ok().map(|(at, ..)| at.as_usize())
    }
}
