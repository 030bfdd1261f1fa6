//! `Mapping` of `aarch64-paging`, of stage 2. It is not active: what is live costs it more.
#![allow(unsafe_code, reason = "the crate asks for it")]

use std::ptr::NonNull;

use aarch64_paging::{
    Mapping,
    descriptor::{PagingAttributes, PhysicalAddress, Stage2Attributes, UpdatableDescriptor},
    paging::{Constraints, MemoryRegion, PageTable, Stage2, Translation},
};

use super::{Access, Peer};
use crate::{
    machine::{BASE, TARGET},
    ready,
};

const PAGE: usize = 0x1000;
/// The root's level for addresses of 39 bits.
const ROOT_LEVEL: usize = 1;

/// Frames of the list.
struct Listed;

impl<A: PagingAttributes> Translation<A> for Listed {
    fn allocate_table(&mut self) -> (NonNull<PageTable<A>>, PhysicalAddress) {
        let frame = ready::take();
        let table = NonNull::new(std::ptr::with_exposed_provenance_mut(frame)).expect("no frame is at 0");
        (table, PhysicalAddress(frame))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<A>>) {
        ready::give(table.as_ptr().expose_provenance());
    }

    fn physical_to_virtual(&self, at: PhysicalAddress) -> NonNull<PageTable<A>> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(at.0)).expect("no frame is at 0")
    }
}

/// The table.
pub struct Aarch64Paging(Mapping<Listed, Stage2>);

fn region(page: usize, pages: usize) -> MemoryRegion {
    let start = BASE + page * PAGE;
    MemoryRegion::new(start, start + pages * PAGE)
}

/// Write-back, inner shareable, accessed, not executable.
fn attributes(access: Access) -> Stage2Attributes {
    let permissions =
        if access == Access::Read { Stage2Attributes::S2AP_ACCESS_RO } else { Stage2Attributes::S2AP_ACCESS_RW };
    Stage2Attributes::VALID
        | Stage2Attributes::MEMATTR_NORMAL_INNER_WB
        | Stage2Attributes::MEMATTR_NORMAL_OUTER_WB
        | Stage2Attributes::SH_INNER
        | Stage2Attributes::ACCESS_FLAG
        | Stage2Attributes::XN
        | permissions
}

impl Aarch64Paging {
    fn write(&mut self, page: usize, pages: usize, to: usize, attributes: Stage2Attributes) {
        let constraints = Constraints::NO_BLOCK_MAPPINGS | Constraints::NO_CONTIGUOUS_HINT;
        let done = self.0.map_range(&region(page, pages), PhysicalAddress(to), attributes, constraints);
        done.expect("it can be mapped");
    }

    fn permit(&mut self, page: usize, pages: usize, access: Access) {
        let set = attributes(access);
        let clear = Stage2Attributes::S2AP_ACCESS_RW - set;
        let change = |_: &MemoryRegion, descriptor: &mut UpdatableDescriptor<'_, Stage2Attributes>| {
            if descriptor.is_table() { Ok(()) } else { descriptor.modify_flags(set, clear) }
        };
        self.0.modify_range(&region(page, pages), &change).expect("it is mapped");
    }
}

impl Peer for Aarch64Paging {
    const NAME: &'static str = "aarch64-paging";

    fn new() -> Self {
        Self(Mapping::new(Listed, ROOT_LEVEL, Stage2))
    }

    fn map(&mut self, pages: usize) {
        self.write(0, pages, TARGET, attributes(Access::ReadWrite));
    }

    fn unmap(&mut self, pages: usize) {
        self.write(0, pages, 0, Stage2Attributes::empty());
    }

    fn protect(&mut self, pages: usize) {
        self.permit(0, pages, Access::Read);
    }

    fn map_page(&mut self, page: usize, frame: usize) {
        self.write(page, 1, frame, attributes(Access::ReadWrite));
    }

    fn unmap_page(&mut self, page: usize) {
        self.write(page, 1, 0, Stage2Attributes::empty());
    }

    fn protect_page(&mut self, page: usize, access: Access) {
        self.permit(page, 1, access);
    }

    fn translate(&self, page: usize) -> Option<usize> {
        let mut found = None;
        let walked = self.0.walk_range(&region(page, 1), &mut |_, descriptor, level| {
            if level == 3 && descriptor.is_valid() {
                found = Some(descriptor.output_address().0);
            }
            Ok(())
        });
        walked.ok().and(found)
    }
}
