//! A space's allocator: the hypervisor's, and the account of what the space has from it.
#![allow(unsafe_code, reason = "passes an unsafe trait's promises on")]

use core::ptr::NonNull;

use memory_addr::PhysAddr;

use crate::{
    account::{Account, Accounts, Exhausted, Resource},
    counted::Counted,
    frame::{Contents, Frames, Owned, Pieces},
};

/// An allocator that counts what is out, and has a limit.
#[derive(Clone)]
pub(crate) struct Metered<M> {
    frames: M,
    accounts: Counted<Accounts>,
    what: Resource,
}

impl<M: Frames> Metered<M> {
    /// What comes from `frames` is on the account of `what`.
    pub(crate) const fn new(frames: M, accounts: Counted<Accounts>, what: Resource) -> Self {
        Self { frames, accounts, what }
    }

    /// The hypervisor's allocator itself: what comes from it is on no account.
    pub(crate) const fn plain(&self) -> &M {
        &self.frames
    }

    /// All accounts, of which it uses one.
    #[inline]
    pub(crate) const fn accounts(&self) -> &Counted<Accounts> {
        &self.accounts
    }

    /// What is on the account.
    #[inline]
    pub(crate) fn account(&self) -> Account<'_> {
        self.accounts.of(self.what)
    }

    /// Allocates `pages`, aligned to their own size rounded up to a power of two, with unknown contents.
    ///
    /// # Errors
    /// The account's limit, or the allocator, has nothing left.
    pub(crate) fn take(&self, pages: usize) -> Result<Owned<'_, Self>, Exhausted> {
        let charge = self.account().charge(pages)?;
        let at = Owned::allocate(&self.frames, pages).ok_or(Exhausted::Memory)?.into_raw();
        charge.keep();
        // SAFETY: they were the other value's own, which gave them up; they are on the account, off which freeing takes them.
        Ok(unsafe { Owned::from_raw(self, at, pages) })
    }
}

// SAFETY: every promise is the plain allocator's, to which everything is passed on; clones share the account.
unsafe impl<M: Frames> Frames for Metered<M> {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let charge = self.account().charge(count).ok()?;
        let at = self.frames.allocate(count, align)?;
        charge.keep();
        Some(at)
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.frames.free(at, count) }
        self.account().give_back(count);
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.frames.pointer(at)
    }

    fn contents(&self) -> Contents {
        self.frames.contents()
    }

    fn pieces(&self) -> Pieces {
        self.frames.pieces()
    }
}
