//! Memory that changes hands: withdrawn leaf by leaf, and put back, handed over, or gone.

use core::convert::Infallible;

use super::{
    Table,
    edit::Progress,
    node::Context,
    walk::{Slot, Step},
};
use crate::{
    Access, Changed, Content, Entry, Format, Frames, GuestPhysAddr, GuestPhysRange, Handover, Invalidate, Leaf,
    MappingFlags, Marked, Owner, PageState, Unreachable, frame,
    loan::{Extents, Seams},
    shootdown::Shootdown,
};

/// Why a range is not the space's own from end to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unowned {
    /// Nobody touched this page yet.
    Missing(GuestPhysAddr),
    /// This page is something else.
    Is(GuestPhysAddr, PageState),
    /// There is no memory to note it.
    NoMemory,
}

/// What is noted of a leaf that comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// What was.
    AsBefore,
    /// That it was written.
    Written,
}

impl<F: Format, M: Frames> Table<F, M> {
    /// What the page at `gpa` is; nothing while another CPU is about to finish it.
    pub(crate) fn page_state(&self, gpa: GuestPhysAddr) -> Option<PageState> {
        PageState::of(&self.context.lookup(self.root(), gpa).1)
    }

    /// Where the memory of `range` is, all of which is the space's own.
    ///
    /// # Errors
    /// [`Unowned`] with the first page that is not.
    pub(crate) fn own_extents(&self, range: GuestPhysRange, seams: Seams) -> Result<Extents, Unowned> {
        let mut extents = Extents::default();
        self.visit(range, |slot, entry| match entry {
            Entry::Table(_) => Ok(()),
            Entry::Leaf(leaf) if leaf.owner == Owner::Space => {
                let at = leaf.at + (slot.part.start - slot.span.start);
                extents.push(at, slot.part.size(), seams).ok_or(Unowned::NoMemory)
            }
            Entry::Absent => Err(Unowned::Missing(slot.part.start)),
            other => Err(Unowned::Is(slot.part.start, PageState::of(other).unwrap_or(PageState::Nothing))),
        })?;
        Ok(extents)
    }

    /// Shows every part of `range` that the space's own leaves translate to `each`.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn own_parts<S>(
        &self,
        range: GuestPhysRange,
        mut each: impl FnMut(GuestPhysRange) -> Result<(), S>,
    ) -> Result<(), S> {
        self.visit(range, |slot, entry| match entry {
            Entry::Leaf(leaf) if leaf.owner == Owner::Space => each(slot.part),
            _ => Ok(()),
        })
    }

    /// Where the memory of the leaves in `range` is that are `owner`'s; nothing where there is no memory to note it.
    pub(crate) fn extents_of(&self, range: GuestPhysRange, owner: Owner) -> Option<Extents> {
        let mut extents = Extents::default();
        self.visit(range, |slot, entry| match entry {
            Entry::Leaf(leaf) if leaf.owner == owner => {
                let at = leaf.at + (slot.part.start - slot.span.start);
                extents.push(at, slot.part.size(), Seams::Forgotten).ok_or(())
            }
            _ => Ok(()),
        })
        .ok()?;
        Some(extents)
    }

    /// Writes another owner into every leaf of `range` that is the first one's. Nothing is taken away.
    pub(crate) fn change_owners<I: Invalidate<F::Root>>(
        &mut self,
        range: GuestPhysRange,
        (from, to): (Owner, Owner),
        operations: &I,
    ) {
        self.each_leaf(range, |context, slot| context.change_owner(slot, from, to));
        operations.publish();
    }

    /// Takes every leaf in `ranges` away that is `owner`'s, so that it can be put back: the space's own becomes lent.
    /// When it returns no CPU reaches the memory.
    ///
    /// # Errors
    /// A CPU could not be told: everything is as it was.
    pub(crate) fn withdraw<I: Invalidate<F::Root>>(
        &mut self,
        ranges: impl Iterator<Item = GuestPhysRange> + Clone,
        owner: Owner,
        shootdown: &Shootdown<I, F::Root>,
    ) -> Result<(), Unreachable> {
        debug_assert!(self.pending.is_none(), "the caller finishes what is pending first: marks never nest");
        let Some(first) = ranges.clone().next() else { return Ok(()) };
        let mut progress = Progress::new(first);
        for range in ranges.clone() {
            self.each_leaf(range, |context, slot| context.withdraw(slot, owner, &mut progress));
        }
        progress.invalidate(shootdown).inspect_err(|_| {
            // The same translation again is no conflict with what a CPU may still hold.
            ranges.for_each(|range| self.put_back(range, Noted::AsBefore, shootdown.operations()));
        })
    }

    /// Gives every leaf of `range` that is on loan, lent or withdrawn back to this space.
    pub(crate) fn put_back<I: Invalidate<F::Root>>(&mut self, range: GuestPhysRange, noted: Noted, operations: &I) {
        self.each_leaf(range, |context, slot| context.put_back(slot, noted));
        operations.publish();
    }

    /// Forgets every leaf of `range` that was withdrawn, or lent: somebody else has the memory. Tables of nothing go too.
    pub(crate) fn vacate<I: Invalidate<F::Root>>(&mut self, range: GuestPhysRange, shootdown: &Shootdown<I, F::Root>) {
        self.each_leaf(range, |context, slot| {
            if let Entry::Lent(_) | Entry::Marked(Marked::Leaf(_)) = context.decode(slot) {
                slot.store(context.format.absent());
            }
        });
        // Nothing is in the range any more that could be cut.
        if self.pending.is_none()
            && let Ok(flush) = self.edit(range, super::Edit::Unmap, shootdown)
            && let Err(unreachable) = flush.finish()
        {
            log::warn!("empty tables stay until the next change of the map: {unreachable}");
        }
    }

    /// Shows every lowest entry of `range` to `each`.
    fn each_leaf(&self, range: GuestPhysRange, mut each: impl FnMut(&Context<F, M>, &Slot<'_>)) {
        let context = &self.context;
        let Ok(()) = context.walk(self.root(), range, &mut |slot: Slot<'_>| {
            if let Entry::Table(table) = context.decode(&slot) {
                return Ok::<_, Infallible>(Step::Into(table));
            }
            each(context, &slot);
            Ok(Step::Next)
        });
    }
}

impl<F: Format, M: Frames> Context<F, M> {
    /// Writes another owner into a leaf. Hardware may be noting accesses and writes: they stay.
    pub(super) fn change_owner(&self, slot: &Slot<'_>, from: Owner, to: Owner) {
        self.replace_leaf(slot, from, |leaf| self.format.leaf(slot.level, &Leaf { owner: to, ..leaf }));
    }

    /// Breaks a leaf. What hardware noted until the very moment is in the entry.
    pub(super) fn withdraw(&self, slot: &Slot<'_>, owner: Owner, progress: &mut Progress) {
        let to = if owner == Owner::Space { Owner::OnLoan } else { owner };
        let broken = self.replace_leaf(slot, owner, |leaf| {
            self.format.mark(slot.level, self.format.leaf(slot.level, &Leaf { owner: to, ..leaf }))
        });
        if broken.is_some() {
            progress.add(slot.span, Changed::Leaves(slot.level));
        }
    }

    pub(super) fn put_back(&self, slot: &Slot<'_>, noted: Noted) {
        match self.decode(slot) {
            Entry::Leaf(Leaf { owner: Owner::OnLoan, .. }) => self.change_owner(slot, Owner::OnLoan, Owner::Space),
            Entry::Lent(leaf) => slot.store(self.format.leaf(slot.level, &Leaf { owner: Owner::Space, ..leaf })),
            Entry::Marked(Marked::Leaf(leaf)) => slot.store(self.format.leaf(slot.level, &leaf)),
            _ => return,
        }
        if noted == Noted::Written {
            let mut old = slot.load();
            while let Err(now) = slot.replace(old, self.format.touched(slot.level, old, Access::Write)) {
                old = now;
            }
        }
    }

    /// Replaces a leaf of `owner`'s by what `new` answers for it, if one is there.
    fn replace_leaf(&self, slot: &Slot<'_>, owner: Owner, new: impl Fn(Leaf) -> u64) -> Option<()> {
        let mut old = slot.load();
        loop {
            let Entry::Leaf(leaf) = self.format.decode(slot.level, old) else { return None };
            if leaf.owner != owner {
                return None;
            }
            match slot.replace(old, new(leaf)) {
                Ok(()) => return Some(()),
                Err(now) => old = now,
            }
        }
    }
}

impl<F: Format, M: Frames> super::Builder<F, M> {
    /// Makes memory that nobody reaches what its next user may see, and brings its caches in step: `flags` are the last
    /// user's, and the next one's (H14).
    pub(crate) fn hand_over<I: Invalidate<F::Root>>(
        &self,
        operations: &I,
        memory: &Extents,
        handover: Handover,
        (from, to): (MappingFlags, MappingFlags),
    ) {
        let context = &self.0;
        let mut purpose = Content::of(to);
        if from.contains(MappingFlags::UNCACHED) {
            // Lines from before it was written past the caches must go.
            purpose = Content::Uncached;
        }
        for page in memory.pages() {
            let bytes = context.frames.pointer(page);
            if handover == Handover::Zero {
                // What is still on its way to memory must not come after the zeros.
                operations.synchronize(bytes, memory_addr::PAGE_SIZE_4K, Content::Data);
                frame::zero(&context.frames, page, 1);
            }
            if handover == Handover::Zero || purpose != Content::Data {
                operations.synchronize(bytes, memory_addr::PAGE_SIZE_4K, purpose);
            }
        }
    }
}
