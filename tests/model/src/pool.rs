//! The crate's allocator over the simulated memory.
#![allow(unsafe_code, reason = "implements the crate's unsafe trait")]

use std::{ptr::NonNull, sync::Arc};

use stage2::{
    Frames,
    frames::{Contents, Pieces},
};

use crate::{Memory, memory::PAGE};

/// [`Frames`] of a [`Memory`]; clones are the same allocator.
#[derive(Clone)]
pub struct Pool {
    memory: Arc<Memory>,
    pieces: Pieces,
    contents: Contents,
}

impl Pool {
    /// An allocator that takes back any page, and gives frames full of junk.
    #[must_use]
    pub fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: memory.clone(), pieces: Pieces::Any, contents: Contents::Unknown }
    }

    /// The same, but an allocation comes back in one piece or not at all.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { pieces: Pieces::Whole, ..self }
    }

    /// The same, but frames come zeroed.
    #[must_use]
    pub fn zeroed(self) -> Self {
        Self { contents: Contents::Zeroed, ..self }
    }

    /// The memory behind it.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

// SAFETY: `Memory` hands each page to one owner at a time and panics on a wrong free; its pointers stay valid for as
// long as the memory lives, which every clone holds.
unsafe impl Frames for Pool {
    fn allocate(&self, count: usize, align: usize) -> Option<stage2::PhysAddr> {
        let at = self.memory.allocate(count as u64, align as u64)?;
        if self.contents == Contents::Zeroed {
            for word in (0..count as u64 * PAGE).step_by(8) {
                self.memory.write(at + word, 0);
            }
        }
        Some(stage2::PhysAddr::from(at as usize))
    }

    unsafe fn free(&self, at: stage2::PhysAddr, count: usize) {
        self.memory.release(at.as_usize() as u64, count as u64, self.pieces);
    }

    fn pointer(&self, at: stage2::PhysAddr) -> NonNull<u8> {
        self.memory.pointer(at.as_usize() as u64)
    }

    fn pool(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.memory).addr())
    }

    fn contents(&self) -> Contents {
        self.contents
    }

    fn pieces(&self) -> Pieces {
        self.pieces
    }
}
