//! A page table that walks from the root for every page: `PageTable64` of `page_table_multiarch`, over our entries.

use memory_addr::{MemoryAddr, PAGE_SIZE_4K, PhysAddr};
use page_table_multiarch::{PageSize, PageTable64, PagingMetaData};
use stage2::{GuestPhysAddr, MappingFlags, aarch64::Stage2Entry};

use stage2_benches::pool::Pool;

use crate::machine::{BASE, READ, READ_WRITE, TARGET};

/// Three levels, as many as the space of the benches has, and nothing to invalidate.
pub struct ThreeLevels;

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

type Peer = PageTable64<ThreeLevels, Stage2Entry, Pool>;

pub fn new() -> Peer {
    Peer::try_new().expect("there is memory")
}

/// With `pages` pages mapped at [`BASE`].
pub fn mapped(pages: usize) -> Peer {
    let mut peer = new();
    map(&mut peer, pages);
    peer
}

pub fn map(peer: &mut Peer, pages: usize) {
    let target = |at: GuestPhysAddr| PhysAddr::from_usize(TARGET + (at.as_usize() - BASE));
    let done = peer.cursor().map_region(BASE.into(), target, pages * PAGE_SIZE_4K, READ_WRITE, false);
    done.expect("it is unmapped");
}

pub fn unmap(peer: &mut Peer, pages: usize) {
    peer.cursor().unmap_region(BASE.into(), pages * PAGE_SIZE_4K).expect("it is mapped");
}

pub fn protect(peer: &mut Peer, pages: usize) {
    peer.cursor().protect_region(BASE.into(), pages * PAGE_SIZE_4K, READ).expect("it is mapped");
}

pub fn map_page(peer: &mut Peer, at: GuestPhysAddr) {
    let to = PhysAddr::from_usize(TARGET).add(at.as_usize() - BASE);
    peer.cursor().map(at, to, PageSize::Size4K, READ_WRITE).expect("it is unmapped");
}

pub fn unmap_page(peer: &mut Peer, at: GuestPhysAddr) {
    peer.cursor().unmap(at).expect("it is mapped");
}

pub fn protect_page(peer: &mut Peer, at: GuestPhysAddr, flags: MappingFlags) {
    peer.cursor().protect(at, flags).expect("it is mapped");
}
