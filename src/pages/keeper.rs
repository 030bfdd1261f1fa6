//! Which allocator a page is from, and who pays for it.
#![allow(unsafe_code, reason = "owns frames")]

use core::{any::TypeId, ptr::NonNull};

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use crate::{
    account::{Accounts, Exhausted},
    counted::Counted,
    frame::{Frames, Owned, Pieces},
    invalidate::{Content, Invalidate},
    platform::Platform,
};

/// An allocator of pages, and what is done for their caches, whatever platform they are of.
pub(crate) trait Keeper: Send + Sync {
    /// Allocates a frame that starts as zeros and that `write` fills, and brings its caches in step; `None` if `write`
    /// refuses.
    fn allocate(&self, write: &mut dyn FnMut(&mut [u8]) -> bool) -> Result<Option<PhysAddr>, Exhausted>;

    /// Allocates so many frames of zeros side by side, aligned to their size, and brings their caches in step; `None` if there
    /// are none, or if they could not be freed one by one.
    fn allocate_block(&self, pages: usize) -> Option<PhysAddr>;

    /// Frees a frame.
    ///
    /// # Safety
    /// It was allocated here, or by an allocator of the same [pool](Self::pool), and nothing reaches it any more.
    unsafe fn free(&self, at: PhysAddr);

    /// Where the hypervisor sees a frame.
    fn pointer(&self, at: PhysAddr) -> NonNull<u8>;

    /// As [`Invalidate::synchronize`].
    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content);

    /// Which allocator it is, as far as that is known.
    fn pool(&self) -> Option<Pool>;
}

/// An allocator: frames may be freed by any that is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool(TypeId, usize);

impl Pool {
    /// Which allocator that is.
    pub(crate) fn of<M: Frames>(frames: &M) -> Option<Self> {
        frames.pool().map(|number| Self(TypeId::of::<M>(), number))
    }
}

/// The keeper of a platform.
pub(crate) struct PlatformKeeper<P: Platform> {
    frames: P::Frames,
    operations: P::Invalidate,
}

impl<P: Platform> PlatformKeeper<P> {
    /// `None` where there is no memory.
    pub(crate) fn make(frames: P::Frames, operations: P::Invalidate) -> Option<Counted<dyn Keeper>> {
        Counted::<dyn Keeper>::try_new_as(Self { frames, operations }, |inner| inner)
    }
}

impl<P: Platform> Keeper for PlatformKeeper<P> {
    fn allocate(&self, write: &mut dyn FnMut(&mut [u8]) -> bool) -> Result<Option<PhysAddr>, Exhausted> {
        let fresh = Owned::allocate(&self.frames, 1).ok_or(Exhausted::Memory)?.zeroed();
        let bytes = self.frames.pointer(fresh.at());
        // SAFETY: `fresh` owns the page, which nothing else has seen, and it is initialized.
        if !write(unsafe { core::slice::from_raw_parts_mut(bytes.as_ptr(), PAGE_SIZE_4K) }) {
            return Ok(None);
        }
        self.operations.synchronize(bytes, PAGE_SIZE_4K, Content::Data);
        Ok(Some(fresh.into_raw()))
    }

    fn allocate_block(&self, pages: usize) -> Option<PhysAddr> {
        if self.frames.pieces() == Pieces::Whole {
            return None;
        }
        let fresh = Owned::allocate(&self.frames, pages)?.zeroed();
        self.operations.synchronize(self.frames.pointer(fresh.at()), pages * PAGE_SIZE_4K, Content::Data);
        Some(fresh.into_raw())
    }

    unsafe fn free(&self, at: PhysAddr) {
        // What guests left in the caches, or wrote past them, must not meet the next owner.
        self.operations.synchronize(self.frames.pointer(at), PAGE_SIZE_4K, Content::Data);
        // SAFETY: the caller's promise; a space has blocks only where any piece of them may be freed.
        unsafe { self.frames.free(at, 1) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.frames.pointer(at)
    }

    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content) {
        self.operations.synchronize(bytes, len, content);
    }

    fn pool(&self) -> Option<Pool> {
        Pool::of(&self.frames)
    }
}

/// The space on whose account a page is that a source brought for it.
pub(crate) type Payer = Counted<Accounts>;

/// A page on an account: whose, and the number that the page has there.
///
/// A space may reach a page by other numbers too, and pays for it once.
pub(crate) type Paid = (Payer, usize);
