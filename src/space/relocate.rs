//! Moving private memory to other frames while the guest runs.

use super::GuestSpace;
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    backend::Backend,
    error::Error,
    format::{Leaf, Owner},
    frame::Owned,
    lock::{LockFamily, SpaceLock},
    ownership::PageState,
    platform::Platform,
    table::{Context, Found, Moved},
};

/// Where a relocation goes on.
enum Next {
    /// There is a leaf to move.
    Leaf { level: Level, end: GuestPhysAddr },
    /// There is nothing to move up to here.
    Skip(GuestPhysAddr),
    /// What was inherited, up to here.
    Inherited(GuestPhysAddr),
    /// An earlier operation must be finished first.
    Unsettled,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Moves all that is populated of a private range to fresh frames, leaf by leaf, while the guest runs: how many
    /// 4 KiB pages moved.
    ///
    /// Each leaf is broken, invalidated everywhere, copied, and made again; guest and hypervisor wait for no more than
    /// one leaf. A block that the range's ends cut moves whole. Where no frames for a block are free in one piece it is
    /// split, and those of its pages move that are in the range. What is not populated yet stays so, and what others reach
    /// too stays where it is. The old frames are free when it returns.
    ///
    /// # Errors
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::NotMapped`] with the first hole, [`Error::NotMemory`] for a linear or a shared area, [`Error::State`]
    ///   for memory that is on loan or borrowed: nothing moved;
    /// - [`Error::NoMemory`], [`Error::Limit`] for the tables that split a block, [`Error::Invalidation`]: what is below
    ///   their range moved, the rest is where it was.
    pub fn relocate(&self, range: GuestPhysRange) -> Result<usize, Error> {
        self.check(range)?;
        self.check_private_range(range)?;
        let mut pages = 0;
        let mut gpa = range.start;
        while gpa < range.end {
            let rest = GuestPhysRange { start: gpa, end: range.end };
            match self.next_to_move(gpa) {
                Next::Skip(end) => gpa = end,
                Next::Unsettled => drop(self.exclusive()?),
                Next::Inherited(end) => {
                    if !self.unshare_to_move(gpa)? {
                        gpa = end;
                    }
                }
                Next::Leaf { level, end } => {
                    // What became another leaf meanwhile is looked at again.
                    if let Some(moved) = self.paying(|| self.move_leaf(rest, level))? {
                        pages += moved;
                        gpa = end;
                    }
                }
            }
        }
        Ok(pages)
    }

    /// Refuses a range that is not private or copy-on-write memory from end to end.
    fn check_private_range(&self, range: GuestPhysRange) -> Result<(), Error> {
        let state = self.state.shared(super::any_cpu());
        state.check_rest()?;
        let mut gpa = range.start;
        while gpa < range.end {
            let rest = GuestPhysRange { start: gpa, end: range.end };
            let area = state.areas.find(gpa).ok_or(Error::NotMapped(rest))?;
            if let Backend::Borrowed(_) = area.backend() {
                return Err(Self::page_is(gpa, PageState::Borrowed));
            }
            if !matches!(area.backend(), Backend::Private(_) | Backend::CopyOnWrite(_)) {
                return Err(Error::NotMemory(area.va_range()));
            }
            gpa = area.end();
        }
        Self::check_not_on_loan(&state, range)
    }

    /// What stands at `gpa`.
    fn next_to_move(&self, gpa: GuestPhysAddr) -> Next {
        match self.state.shared(super::any_cpu()).table.find(&self.context, gpa) {
            Found::Leaf { leaf: Leaf { owner: Owner::Space, .. }, level, span } => Next::Leaf { level, end: span.end },
            Found::Leaf { leaf: Leaf { owner: Owner::Frozen, .. }, span, .. } => Next::Inherited(span.end),
            Found::Leaf { span, .. } | Found::Lent(span) => Next::Skip(span.end),
            Found::Absent(level) => Next::Skip(Context::<P>::entry_range(level, gpa).end),
            Found::Changing | Found::Busy => Next::Unsettled,
        }
    }

    /// Makes a leaf the space's own that nothing else reaches any more: whether it did.
    fn unshare_to_move(&self, gpa: GuestPhysAddr) -> Result<bool, Error> {
        let mut state = self.exclusive()?;
        let Some(inherited) = state.inherited.clone() else { return Ok(false) };
        self.unshare_leaf(&mut state, &*inherited, gpa)?;
        let found = state.table.find(&self.context, gpa);
        Ok(matches!(found, Found::Leaf { leaf: Leaf { owner: Owner::Space, .. }, .. }))
    }

    /// Moves the leaf of `level` at the start of `rest`: how many pages that were, if it is still there.
    fn move_leaf(&self, rest: GuestPhysRange, level: Level) -> Result<Option<usize>, Error> {
        let size = Context::<P>::span(level);
        let pages = size / memory_addr::PAGE_SIZE_4K;
        // They take the old ones' place on the account.
        let Some(frames) = Owned::allocate(self.context.frames.plain(), pages) else {
            return self.split_to_move(rest, level).map(|()| None);
        };
        let moved = {
            let mut state = self.exclusive()?;
            state.table.relocate(&self.context, rest.start, level, frames)
        };
        // The old frames are freed here, without the lock.
        match moved.map_err(|cause| Error::Invalidation { range: rest, cause })? {
            Moved::Done(_old) => Ok(Some(pages)),
            Moved::Unfit(_new) => Ok(None),
        }
    }

    /// Splits the block of `level` at the start of `rest`, for which there are no frames in one piece.
    fn split_to_move(&self, rest: GuestPhysRange, level: Level) -> Result<(), Error> {
        let out_of_memory = Error::NoMemory(rest);
        if level == Level::PAGE {
            return Err(out_of_memory);
        }
        // Without frames for a page either, it is not split in vain.
        let page = Owned::allocate(self.context.frames.plain(), Context::<P>::leaf_pages(Level::PAGE));
        drop(page.ok_or(out_of_memory)?);
        let mut guard = self.exclusive()?;
        match guard.table.find(&self.context, rest.start) {
            Found::Leaf { leaf: Leaf { owner: Owner::Space, .. }, level: now, .. } if now == level => {
                self.split_at_ends(&mut guard.table, Context::<P>::page_of(rest.start))
            }
            // What became another leaf meanwhile is looked at again.
            _ => Ok(()),
        }
    }
}
