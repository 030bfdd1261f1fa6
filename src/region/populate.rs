//! Giving a region its frames ahead of time, in blocks where that can be.
#![allow(unsafe_code, reason = "owns frames")]

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use super::{Region, RegionError, SharedRegion};
use crate::{
    account::Exhausted,
    format::LeafPolicy,
    pages::{Frame, Keeper},
};

/// How many pages of a region are populated as a block: 2 MiB, the smallest block of all formats with pages of 4 KiB.
const BLOCK_PAGES: usize = 512;

impl SharedRegion {
    /// Gives `size` bytes from `offset` on their frames now, which otherwise come with the first touches.
    ///
    /// With [`LeafPolicy::Largest`] each 2 MiB of the region, aligned in it, that has no frame yet gets a block, if the
    /// allocator has one and takes [pieces](crate::frames::Pieces) of it back. A guest that maps it where guest-physical
    /// address and offset agree in their last 21 bits has one entry for it, and so has one that inherits it, until it writes:
    /// then that block is split, and only its page copied. Everywhere else it is pages.
    ///
    /// What has a frame keeps it. Pages that come from a source are asked for one after the other, and are pages. No lock is
    /// held while frames are allocated and zeroed, so that others touch the region meanwhile. To do it in parts, call it for
    /// one part after the other.
    ///
    /// # Errors
    /// [`RegionError::Beyond`], [`RegionError::Unaligned`] for bytes that are no whole pages;
    /// [`RegionError::NoMemory`] with what has no frames yet. Of a region whose pages come from a source, likewise
    /// [`RegionError::NotYet`] and [`RegionError::SourceFailed`]. What is before that is populated, and stays.
    ///
    /// # Example
    /// ```
    /// use stage2::{LeafPolicy, Mapping};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// let guest = guest(1)?;
    /// let framebuffer = guest.region(4 << 20)?;
    /// framebuffer.populate(0, 4 << 20, LeafPolicy::Largest)?;
    /// guest.map(range(0x8000_0000, 4 << 20), Mapping::Shared { region: framebuffer.clone(), offset: 0 }, RW)?;
    /// assert_eq!(framebuffer.frames(), 1024, "the guest waits for no frame");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn populate(&self, offset: usize, size: usize, leaf: LeafPolicy) -> Result<(), RegionError> {
        self.check(offset, size)?;
        if let Some(offset) = [offset, offset + size].into_iter().find(|at| !at.is_multiple_of(PAGE_SIZE_4K)) {
            return Err(RegionError::Unaligned { offset, align: PAGE_SIZE_4K });
        }
        let (region, end) = (self.0.as_dyn(), offset + size);
        let mut done = offset;
        while done < end {
            let (page, left) = (done / PAGE_SIZE_4K, end - done);
            let out_of_memory = |_| RegionError::NoMemory { offset: done, size: left };
            let may_be_block = leaf == LeafPolicy::Largest && left >= BLOCK_PAGES * PAGE_SIZE_4K;
            if may_be_block && region.populate_block(page).map_err(out_of_memory)? {
                done += BLOCK_PAGES * PAGE_SIZE_4K;
            } else {
                self.bring(done, left)?;
                region.populate(page).map_err(out_of_memory)?;
                done += PAGE_SIZE_4K;
            }
        }
        Ok(())
    }
}

/// A block that a region is to get. Dropped before the region has it, it goes back to the allocator.
struct FreshBlock<'k> {
    keeper: &'k dyn Keeper,
    /// `None` once the region has it.
    at: Option<PhysAddr>,
}

impl Drop for FreshBlock<'_> {
    fn drop(&mut self) {
        let Some(at) = self.at else { return };
        for page in 0..BLOCK_PAGES {
            // SAFETY: the keeper allocated it, and takes its pages back one by one; no CPU but this one knows them.
            unsafe { self.keeper.free(at + page * PAGE_SIZE_4K) }
        }
    }
}

impl dyn Region {
    /// Gives the pages from `first` on a block, if they are one's place and none of them has a frame, and there is one:
    /// whether it did.
    fn populate_block(&self, first: usize) -> Result<bool, Exhausted> {
        let (Some((places, _)), true) =
            (self.places().within(first..first + BLOCK_PAGES).next(), first.is_multiple_of(BLOCK_PAGES))
        else {
            return Ok(false);
        };
        let is_empty = self.supplies().is_none() && self.reading().pages.next(places.clone()).is_none();
        if places.len() < BLOCK_PAGES || !is_empty {
            return Ok(false);
        }
        // Before the lock: zeroing takes its time.
        let mut block = FreshBlock { keeper: &**self.keeper(), at: self.keeper().allocate_block(BLOCK_PAGES) };
        let mut book = self.writing();
        // Others may have touched some of it meanwhile.
        let (Some(at), None) = (block.at, book.pages.next(places.clone())) else { return Ok(false) };
        book.pages.reserve(places.clone(), self.keeper())?;
        book.pages.put_all(places.start, Frame::all(at, BLOCK_PAGES * PAGE_SIZE_4K));
        block.at = None;
        Ok(true)
    }
}
