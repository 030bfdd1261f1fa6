//! `OffsetPageTable` of `x86_64`: a CPU's own tables of four levels. It has no ranges.
#![allow(unsafe_code, reason = "the crate asks for it")]

use x86_64::{
    PhysAddr, VirtAddr,
    structures::paging::{
        FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame,
        Size4KiB, Translate, mapper::CleanUp,
    },
};

use super::{Access, Peer};
use crate::{
    machine::{BASE, TARGET},
    ready,
};

const PAGE: usize = 0x1000;

/// Frames of the list.
struct Listed;

// SAFETY: a frame of the list has one owner.
unsafe impl FrameAllocator<Size4KiB> for Listed {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        Some(PhysFrame::containing_address(PhysAddr::new(ready::take() as u64)))
    }
}

impl FrameDeallocator<Size4KiB> for Listed {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        ready::give(frame.start_address().as_u64() as usize);
    }
}

/// The table.
pub struct X8664(OffsetPageTable<'static>);

fn page(index: usize) -> Page {
    Page::containing_address(VirtAddr::new((BASE + index * PAGE) as u64))
}

fn flags(access: Access) -> PageTableFlags {
    let always = PageTableFlags::PRESENT | PageTableFlags::NO_EXECUTE;
    if access == Access::Read { always } else { always | PageTableFlags::WRITABLE }
}

impl Peer for X8664 {
    const NAME: &'static str = "x86_64";

    fn new() -> Self {
        let root = std::ptr::with_exposed_provenance_mut::<PageTable>(ready::take());
        // SAFETY: the frame is zeroed and this value's; a physical address is a pointer here.
        Self(unsafe { OffsetPageTable::new(&mut *root, VirtAddr::zero()) })
    }

    fn map(&mut self, pages: usize) {
        (0..pages).for_each(|page| self.map_page(page, TARGET + page * PAGE));
    }

    fn unmap(&mut self, pages: usize) {
        (0..pages).for_each(|page| self.unmap_page(page));
        // SAFETY: no CPU walks these tables.
        unsafe { self.0.clean_up(&mut Listed) }
    }

    fn protect(&mut self, pages: usize) {
        (0..pages).for_each(|page| self.protect_page(page, Access::Read));
    }

    fn map_page(&mut self, index: usize, frame: usize) {
        let frame = PhysFrame::containing_address(PhysAddr::new(frame as u64));
        // SAFETY: no CPU walks these tables.
        let done = unsafe { self.0.map_to(page(index), frame, flags(Access::ReadWrite), &mut Listed) };
        done.expect("it is unmapped").ignore();
    }

    fn unmap_page(&mut self, index: usize) {
        self.0.unmap(page(index)).expect("it is mapped").1.ignore();
    }

    fn protect_page(&mut self, index: usize, access: Access) {
        // SAFETY: no CPU walks these tables.
        unsafe { self.0.update_flags(page(index), flags(access)) }.expect("it is mapped").ignore();
    }

    fn translate(&self, index: usize) -> Option<usize> {
        self.0.translate_addr(page(index).start_address()).map(|at| at.as_u64() as usize)
    }
}
