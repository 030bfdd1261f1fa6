//! Many pages of the space's own that come into one table of pages while other CPUs answer faults in it.

use arrayvec::ArrayVec;
use page_table_multiarch::MappingFlags;

use super::{Table, context::Context, install::path, node::Node};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Entry, Format, Leaf, Owner, Used},
    frame::{Frames, Owned},
    platform::Platform,
};

/// How many pages there are in a batch at most: no frame of it waits on the heap, and the lock is held for so many
/// entries.
const MOST: usize = 64;

/// Zeroed frames for pages, which no CPU knows yet. Dropped, they are free.
pub(crate) struct Batch<'f, F: Frames> {
    frames: ArrayVec<Owned<'f, F>, MOST>,
    flags: MappingFlags,
    used: Used,
}

impl<P: Platform> Context<P> {
    /// Allocates frames for `count` pages, or for as many as a batch has or the allocator gives: maybe none. Their caches
    /// are in step for `flags`.
    pub(crate) fn batch(&self, count: usize, flags: MappingFlags, used: Used) -> Batch<'_, P::Frames> {
        let mut frames = ArrayVec::new();
        while frames.len() < count.min(MOST) {
            let Some(frame) = Owned::allocate(self.frames.plain(), Self::leaf_pages(Level::PAGE)) else { break };
            frames.push(self.own_leaf(frame, flags).0);
        }
        Batch { frames, flags, used }
    }
}

impl<F: Frames> Batch<'_, F> {
    /// How many frames of 4 KiB it has.
    pub(crate) fn frames(&self) -> usize {
        self.frames.iter().map(Owned::pages).sum()
    }
}

impl Table {
    /// How many of the entries of pages for `range`, which is one table's, are absent. The lowest entry over the range is
    /// absent, or in a table of pages.
    pub(crate) fn absent_pages<P: Platform>(&self, context: &Context<P>, range: GuestPhysRange) -> usize {
        let absent = context.format.absent();
        let slots = |node: Node<'_>| node.chunk::<P>(range).slots::<P>().filter(|slot| slot.load() == absent).count();
        self.tree.page_table(context, range).map_or(range.size() >> Context::<P>::shift(Level::PAGE), slots)
    }

    /// Puts frames of a batch at the absent entries of pages in `range`, which is one table's, in order, and makes the
    /// tables that lead to them: how many frames of 4 KiB they took, and the address up to which leaves are now, or what is
    /// lent. A page that another CPU brings first keeps what that brought, and so does a range that another CPU mapped as a
    /// block. The caller publishes.
    ///
    /// # Errors
    /// [`Exhausted`] if a table could not be had; those that could stay, they are part of the path.
    pub(crate) fn install_batch<P: Platform>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        batch: Batch<'_, P::Frames>,
    ) -> Result<(usize, GuestPhysAddr), Exhausted> {
        let nothing = Ok((0, range.start));
        let (slot, _) = self.lookup(context, range.start);
        if path(context, slot, range.start, Level::PAGE)?.is_none() {
            return nothing;
        }
        let Some(node) = self.tree.page_table(context, range) else { return nothing };
        let (absent, mut done) = (context.format.absent(), 0);
        let Batch { frames, flags, used } = batch;
        let mut frames = frames.into_iter();
        let mut frame = frames.next();
        for slot in node.chunk::<P>(range).slots::<P>() {
            let mut raw = slot.load();
            if raw == absent {
                let Some(next) = frame.take() else { return Ok((done, slot.start)) };
                let leaf = Leaf { at: next.at(), flags, owner: Owner::Space, used };
                // Release (in `replace`): the zeros are in the frame before a walker can reach it.
                match slot.replace(absent, context.format.leaf(Level::PAGE, &leaf)) {
                    Ok(()) => {
                        done += next.pages();
                        next.into_raw();
                        frame = frames.next();
                        continue;
                    }
                    Err(now) => (frame, raw) = (Some(next), now),
                }
            }
            if !matches!(context.format.decode(Level::PAGE, raw), Entry::Leaf(_) | Entry::Lent(_)) {
                return Ok((done, slot.start));
            }
        }
        Ok((done, range.end))
    }
}
