//! Copy-on-write: the first write to a page gives a guest its own.

use super::{GuestSpace, State, debt::Kept, inherit};
use crate::{
    addr::{GuestPhysAddr, PhysAddr},
    backend::{Backend, Heritage},
    error::Error,
    fault::Fault,
    format::{Access, Leaf, Owner, Used},
    frame::Owned,
    invalidate::Invalidate,
    lock::{LockFamily, SpaceLock},
    pages::{Pool, Taken},
    platform::Platform,
    set::MemoryArea,
    table::{Context, Edit, Found},
};

/// What came of giving a guest its own page.
pub(super) enum Copied<'s, P: Platform, L: LockFamily> {
    /// It has it.
    Done,
    /// Another CPU was first.
    Lost,
    /// There is nothing to copy yet: a source is behind it.
    Missing(Kept<'s, P, L>),
}

/// What a space that wants a page of its own gets.
enum Given {
    /// The page itself, since nothing else can reach it, and whether it was on the account.
    Taken(PhysAddr, bool),
    /// A page to copy, which stays until the space has left it.
    Copied(PhysAddr),
    /// It was never touched.
    Zeros,
    /// Nothing yet: a source is behind it.
    Missing,
    /// What others reach too, and the guest only reads.
    Nothing,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Gives the guest a page that is not its own yet. The frame is allocated before the lock is taken.
    pub(super) fn copy(&self, cpu: crate::cpu_id::CpuId, fault: &Fault) -> Result<Copied<'_, P, L>, Error> {
        let frame = self.frame_for(fault.gpa)?;
        let state = self.state.shared(cpu);
        state.check_rest()?;
        let allows = |area: &&MemoryArea<Backend>| area.flags().contains(fault.access.flag());
        let Some(area) = state.areas.find(fault.gpa).filter(allows) else { return Ok(Copied::Lost) };
        let Backend::CopyOnWrite(heritage) = area.backend() else { return Ok(Copied::Lost) };
        let copied = self.copy_here(&state, area, heritage, fault, frame)?;
        // A page that was taken was not broken, so that a denial of it may still be cached.
        self.forget_denial(fault);
        Ok(copied)
    }

    /// A frame for the copy of a page.
    pub(super) fn frame_for(&self, gpa: GuestPhysAddr) -> Result<Owned<'_, P::Frames>, Error> {
        let page = Context::<P>::page_of(gpa);
        Owned::allocate(self.context.frames.plain(), 1).ok_or(Error::NoMemory(page))
    }

    /// Gives the guest its own page with the lock that is held shared: breaks what stands there through `Busy`, so that
    /// of all CPUs one does it, and first writes to different pages do not wait for each other (H26).
    fn copy_here(
        &self,
        state: &State,
        area: &MemoryArea<Backend>,
        heritage: &Heritage,
        fault: &Fault,
        frame: Owned<'_, P::Frames>,
    ) -> Result<Copied<'_, P, L>, Error> {
        let (gpa, access) = (fault.gpa, fault.access);
        let (range, page, payer) = (Context::<P>::page_of(gpa), inherit::page(gpa), self.accounts());
        let (operations, account) = (self.context.operations(), self.context.frames.account());
        let inherited = state.inherited.as_deref();
        // A page that is on the account already, or whose copy takes its place there, is charged no more.
        let prepared = inherited.map_or(Ok(false), |inherited| inherited.prepare(page, payer));
        let is_paid = prepared.map_err(|exhausted| exhausted.at(range))?;
        let charge = if is_paid { None } else { Some(account.charge_on(super::any_cpu(), 1)) };
        let charge = charge.transpose().map_err(|exhausted| exhausted.at(range))?;
        let claimed =
            state.table.seek(&self.context, gpa).claim(&self.context).map_err(|exhausted| exhausted.at(range))?;
        let Some(claim) = claimed else { return Ok(Copied::Lost) };
        let used = if access == Access::Write { Used::Dirty } else { Used::Accessed };
        let own = |at| Leaf { at, flags: area.flags(), owner: Owner::Space, used };
        // Asked after the claim, so that no other CPU of this space asks for the page. Until it is left this space is one
        // of those that can reach it: no other space takes a page that is still copied from here.
        let was_paid = match self.given(state, heritage, fault) {
            Given::Missing => return Ok(Copied::Missing(self.keep(area.backend()))),
            Given::Nothing => return Ok(Copied::Lost),
            Given::Taken(at, was_paid) => {
                let leaf = own(at);
                self.context.synchronize_page(&leaf);
                // The same frame, and more allowed: nothing that a CPU has cached is wrong.
                claim.make(&leaf);
                was_paid
            }
            given @ (Given::Copied(_) | Given::Zeros) => {
                let mut from = None;
                if let Given::Copied(at) = given {
                    claim.invalidate().map_err(|cause| Error::Invalidation { range, cause })?;
                    from = Some(at);
                }
                let leaf = own(frame.at());
                self.context.fill_page(from, &frame, &leaf);
                frame.into_raw();
                claim.make(&leaf);
                inherited.and_then(|inherited| inherited.leave(page, payer)).is_some_and(|(_, was_paid)| was_paid)
            }
        };
        // One that came meanwhile brought its own charge.
        debug_assert!(charge.is_some() || was_paid, "it stays on the account until it is taken or left");
        if let Some(charge) = charge.filter(|_| !was_paid) {
            charge.keep();
        }
        operations.publish();
        Ok(Copied::Done)
    }

    /// What the space gets, which has claimed the entry.
    fn given(&self, state: &State, heritage: &Heritage, fault: &Fault) -> Given {
        let (page, pool) = (inherit::page(fault.gpa), Pool::of(self.context.frames.plain()));
        let inherited = state.inherited.as_deref();
        match inherited.map_or(Taken::Nothing, |inherited| inherited.take(page, pool, self.accounts())) {
            Taken::Page(at, was_paid) => Given::Taken(at, was_paid),
            Taken::Shared(at) if fault.access == Access::Write => Given::Copied(at),
            Taken::Shared(_) => Given::Nothing,
            Taken::Nothing if heritage.source(page).is_some() => Given::Missing,
            Taken::Nothing => Given::Zeros,
        }
    }

    /// Takes a page that is to be written out of the frozen block over it, whose pieces stay; the next try copies it.
    pub(super) fn cut_out(&self, gpa: GuestPhysAddr) -> Result<(), Error> {
        let page = Context::<P>::page_of(gpa);
        let mut guard = self.exclusive_to_answer()?;
        // Another CPU may have done it, and the guest have the page or the block for its own.
        match guard.table.seek_again(&self.context, gpa).found(&self.context) {
            Found::Leaf { leaf: Leaf { owner: Owner::Frozen, .. }, span, .. } if span != page => {
                let flush =
                    guard.table.edit(&self.context, page, Edit::Unmap).map_err(|exhausted| exhausted.at(page))?;
                flush.finish().map_err(|cause| Error::Invalidation { range: page, cause })
            }
            _ => Ok(()),
        }
    }
}
