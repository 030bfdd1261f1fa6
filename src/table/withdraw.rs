//! Memory that changes hands: withdrawn leaf by leaf, and put back, handed over, or gone.

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use page_table_multiarch::MappingFlags;

use super::{Supplement, Table, context::Context, cut::Edit, edit::Progress, entry::Noted};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    extents::{Extents, Seams},
    format::{Entry, Format, Marked, Owner},
    frame::{self, Frames},
    invalidate::{Changed, Content, Invalidate, Unreachable},
    ownership::{Handover, PageState},
    platform::Platform,
};

/// Why a range is not the space's own from end to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unowned {
    /// This page was not touched yet.
    Missing(GuestPhysAddr),
    /// This page is something else.
    Is(GuestPhysAddr, PageState),
    /// There is no memory to note it.
    NoMemory,
}

impl Table {
    /// What the page at `gpa` is; `None` while another CPU is about to finish it.
    pub(crate) fn page_state<P: Platform>(&self, context: &Context<P>, gpa: GuestPhysAddr) -> Option<PageState> {
        let (slot, raw) = self.lookup(context, gpa);
        PageState::of(&context.format.decode(slot.level, raw))
    }

    /// What each page of `range` is: shows it to `each` entry by entry, with the entry's level and the part of the range
    /// that it translates. The lock is held exclusively and nothing is left over: what is [`Nothing`](PageState::Nothing)
    /// is absent.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn page_states<P: Platform, S>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        mut each: impl FnMut(Level, GuestPhysRange, PageState) -> Result<(), S>,
    ) -> Result<(), S> {
        debug_assert!(self.is_finished(), "what is marked is no state");
        self.visit(context, range, |level, part, entry| {
            each(level, part, PageState::of(entry).unwrap_or(PageState::Nothing))
        })
    }

    /// Where the memory of `range` is, all of which is the space's own, shared or not, in the tables or in what they are to
    /// get.
    ///
    /// # Errors
    /// [`Unowned`] with the first page that is not.
    pub(crate) fn own_extents<P: Platform>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        seams: Seams,
        supplement: &Supplement<'_, P>,
    ) -> Result<Extents, Unowned> {
        let mut extents = Extents::default();
        self.visit(context, range, |level, part, entry| match entry {
            // What is on loan is refused before, where it may not be given once more.
            Entry::Leaf(leaf) if matches!(leaf.owner, Owner::Space | Owner::OnLoan) => {
                let at = leaf.at + (part.start - Context::<P>::entry_range(level, part.start).start);
                extents.push(at, part.size(), seams).map_err(|_| Unowned::NoMemory)
            }
            Entry::Absent => {
                let end = extents.size() + part.size();
                supplement.add_to(&mut extents, part, seams).map_err(|_| Unowned::NoMemory)?;
                if extents.size() == end { Ok(()) } else { Err(Unowned::Missing(part.start)) }
            }
            other => Err(Unowned::Is(part.start, PageState::of(other).unwrap_or(PageState::Nothing))),
        })?;
        Ok(extents)
    }

    /// Where the memory of the leaves in `range` is that are `owner`'s, and of those that the tables are to get; `None`
    /// where there is no memory to note it.
    pub(crate) fn extents_of<P: Platform>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        owner: Owner,
        supplement: &Supplement<'_, P>,
    ) -> Option<Extents> {
        let mut extents = Extents::default();
        self.visit(context, range, |level, part, entry| match entry {
            Entry::Leaf(leaf) if leaf.owner == owner => {
                let at = leaf.at + (part.start - Context::<P>::entry_range(level, part.start).start);
                extents.push(at, part.size(), Seams::Forgotten).map_err(drop)
            }
            Entry::Absent => supplement.add_to(&mut extents, part, Seams::Forgotten).map_err(drop),
            _ => Ok(()),
        })
        .ok()?;
        Some(extents)
    }

    /// Writes another owner into every leaf of `range` that is the first one's. Nothing is taken away.
    pub(crate) fn change_owners<P: Platform>(
        &mut self,
        context: &Context<P>,
        range: GuestPhysRange,
        from: Owner,
        to: Owner,
    ) {
        context.each_slot(self.root(context), range, &mut |slot| slot.change_owner(&context.format, from, to));
        context.operations().publish();
    }

    /// Takes every leaf in `ranges` away that is `owner`'s, so that it can be put back: the space's own becomes lent.
    /// When it returns no CPU reaches the memory.
    ///
    /// # Errors
    /// A CPU could not be told: everything is as it was.
    pub(crate) fn withdraw<P: Platform>(
        &mut self,
        context: &Context<P>,
        ranges: impl Iterator<Item = GuestPhysRange> + Clone,
        owner: Owner,
    ) -> Result<(), Unreachable> {
        debug_assert!(self.pending.is_none(), "the caller finishes what is pending first: marks never nest");
        let Some(first) = ranges.clone().next() else { return Ok(()) };
        let mut progress = Progress::new(first);
        for range in ranges.clone() {
            context.each_slot(self.root(context), range, &mut |slot| {
                if slot.withdraw(&context.format, owner) {
                    progress.add(Context::<P>::entry_range(slot.level, slot.start), Changed::Leaves(slot.level));
                }
            });
        }
        progress.invalidate(context).inspect_err(|_| {
            // The same translation again is no conflict with what a CPU may still hold.
            ranges.for_each(|range| self.put_back(context, range, Noted::AsBefore));
        })
    }

    /// Gives every leaf of `range` that is on loan, lent or withdrawn back to this space.
    pub(crate) fn put_back<P: Platform>(&mut self, context: &Context<P>, range: GuestPhysRange, noted: Noted) {
        context.each_slot(self.root(context), range, &mut |slot| slot.put_back(&context.format, noted));
        context.operations().publish();
    }

    /// Notes that every leaf of `range` that is on loan was written.
    pub(crate) fn note_written<P: Platform>(&mut self, context: &Context<P>, range: GuestPhysRange) {
        context.each_slot(self.root(context), range, &mut |slot| slot.note_written(&context.format));
        context.operations().publish();
    }

    /// Forgets every leaf of `range` that was withdrawn, or lent: another space has the memory. Tables that become empty
    /// go too.
    pub(crate) fn vacate<P: Platform>(&mut self, context: &Context<P>, range: GuestPhysRange) {
        context.each_slot(self.root(context), range, &mut |slot| {
            if let Entry::Lent(_) | Entry::Marked(Marked::Leaf(_)) = slot.decode(&context.format) {
                slot.store(context.format.absent());
            }
        });
        // No block is left in the range that could be cut.
        if self.pending.is_none()
            && let Ok(flush) = self.edit(context, range, Edit::Unmap)
            && let Err(unreachable) = flush.finish()
        {
            log::warn!("empty tables stay until the next change of the map: {unreachable}");
        }
    }
}

impl<P: Platform> Context<P> {
    /// Makes memory that no CPU reaches what its next user may see, and brings its caches in step: `from` are the last
    /// user's flags, and `to` the next one's; `memory` is given in frames of 4 KiB, and the operations are those of the
    /// space that gets it (H14).
    pub(crate) fn hand_over(
        &self,
        operations: &P::Invalidate,
        memory: impl Iterator<Item = PhysAddr>,
        handover: Handover,
        from: MappingFlags,
        to: MappingFlags,
    ) {
        let mut purpose = Content::of(to);
        if from.contains(MappingFlags::UNCACHED) {
            // Lines from before it was written past the caches must go.
            purpose = Content::Uncached;
        }
        for page in memory {
            let bytes = self.frames.pointer(page);
            if handover == Handover::Zero {
                // What is still on its way to memory must not come after the zeros.
                operations.synchronize(bytes, PAGE_SIZE_4K, Content::Data);
                frame::zero(&self.frames, page, 1);
            }
            if handover == Handover::Zero || purpose != Content::Data {
                operations.synchronize(bytes, PAGE_SIZE_4K, purpose);
            }
        }
    }
}
