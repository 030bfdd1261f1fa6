//! Everything that can be seen, held against the twin.

use std::collections::BTreeMap;

use super::*;

impl World {
    /// All of it.
    pub(super) fn check(&self) -> Verdict {
        let checked = self.check_frames().and_then(|()| self.check_leaves()).and_then(|()| self.check_words());
        let checked = checked.and_then(|()| self.check_agreement());
        let checked = checked.and_then(|()| if ACCOUNTS { self.check_accounts() } else { Ok(()) });
        let checked = checked.and_then(|()| if ASKED_ONCE { self.check_asked() } else { Ok(()) });
        checked.map_err(|why| format!("{why}; by the twin there are\n{}", self.twin.picture()))
    }

    /// As many frames are in use as pages can be reached.
    fn check_frames(&self) -> Verdict {
        let (held, reached) = (held(&self.board, &self.spaces), self.twin.frames());
        if held == reached { Ok(()) } else { Err(format!("{held} frames are in use, and {reached} pages reached")) }
    }

    /// What the crate knows of itself.
    fn check_agreement(&self) -> Verdict {
        let report =
            audit(self.spaces.iter().map(|guest| &**guest), Meanwhile::Nothing).map_err(|error| error.to_string())?;
        if report.is_clean() { Ok(()) } else { Err(report.to_string()) }
    }

    /// What the tables show: each cell is in one frame, holds what it should, and what others reach is not writable.
    fn check_leaves(&self) -> Verdict {
        let (mut frames, mut cells) = (BTreeMap::new(), BTreeMap::new());
        for (guest, space) in self.spaces.iter().enumerate() {
            for page in 0..PAGES {
                let Some(leaf) = space.translate(at(page)) else { continue };
                let where_it_is = format!("guest {guest}, page {page}");
                let Some(slot) = self.twin.guests[guest].slots[page] else {
                    return Err(format!("{where_it_is} is translated, and not mapped"));
                };
                let Holds::Page(value) = self.twin.cells[slot.cell] else {
                    return Err(format!("{where_it_is} is translated, and nobody has touched it"));
                };
                if *frames.entry(slot.cell).or_insert(leaf.hpa) != leaf.hpa {
                    return Err(format!("{where_it_is}: #{} is in two frames", slot.cell));
                }
                if *cells.entry(leaf.hpa).or_insert(slot.cell) != slot.cell {
                    return Err(format!("{where_it_is} has another's frame"));
                }
                // SAFETY: it is a page of the board's, and nothing else accesses it meanwhile.
                let words = unsafe { self.board.pointer(leaf.hpa).cast::<[u64; PAGE / 8]>().read() };
                if words[0] != value || words[1..].iter().any(|&word| word != 0) {
                    return Err(format!("{where_it_is} starts with {:#x}, not {value:#x}, or has more", words[0]));
                }
                let is_writable = leaf.flags.contains(MappingFlags::WRITE);
                if is_writable && slot.is_its_own() && self.sharers(slot.cell) != 1 {
                    return Err(format!("{where_it_is} is writable, and others reach it"));
                }
            }
        }
        Ok(())
    }

    /// How many reach a cell, without those who have it on loan.
    fn sharers(&self, cell: twin::Cell) -> usize {
        let slots = self.twin.guests.iter().flat_map(|guest| guest.slots.iter().flatten());
        let borrowers = slots.filter(|slot| slot.cell == cell && slot.stand == Stand::Borrowed).count();
        self.twin.reachers(cell) - borrowers
    }

    /// What handles read, of pages that need not be brought for it.
    fn check_words(&self) -> Verdict {
        for handle in 0..self.handles.len() {
            let region = &self.twin.regions[self.twin.handles[handle]];
            for page in 0..region.cells.len() {
                if !matches!(self.twin.cells[region.cells[page]], Holds::Missing(_)) {
                    self.check_word(handle, page)?;
                }
            }
        }
        Ok(())
    }

    /// What a handle reads.
    pub(super) fn check_word(&self, handle: usize, page: usize) -> Verdict {
        let region = &self.twin.regions[self.twin.handles[handle]];
        let value = match self.twin.cells[region.cells[page]] {
            Holds::Page(value) => value,
            Holds::Zeros => 0,
            Holds::Missing(_) => return Ok(()),
        };
        match self.handles[handle].region().load::<u64>(page * PAGE) {
            Ok(there) if there == value => Ok(()),
            other => Err(format!("handle {handle} reads {other:x?} of page {page}, not {value:#x}")),
        }
    }

    /// A guest's account has the pages that are its own, what it lent and what its snapshots share too.
    fn check_accounts(&self) -> Verdict {
        for (guest, space) in self.spaces.iter().enumerate() {
            let slots = || self.twin.guests[guest].slots.iter().flatten();
            let least = slots().filter(|slot| slot.own == Own::Yes).count();
            let most = slots().filter(|slot| slot.own != Own::No).count();
            let (used, stats) = (space.usage().frames, space.stats());
            if !(least..=most).contains(&used) {
                return Err(format!("guest {guest} has {used} frames on its account, not {least} to {most}"));
            }
            if used < stats.owned_frames + stats.lent_frames {
                return Err(format!("guest {guest} has {used} frames on its account, and owns more: {stats:?}"));
            }
        }
        Ok(())
    }

    fn check_asked(&self) -> Verdict {
        let (asked, needed) = (self.image.asked(), self.twin.asked);
        if asked == needed { Ok(()) } else { Err(format!("the source was asked for {asked} pages, not {needed}")) }
    }

    /// Everybody goes, guests first or handles first: everything is free.
    pub(super) fn end(&mut self) -> Verdict {
        let handles_first = self.stamp.is_multiple_of(2);
        self.note(format!("all are dropped, {} first", if handles_first { "handles" } else { "guests" }));
        if handles_first {
            self.handles.clear();
            self.twin.handles.clear();
            self.check()?;
        }
        while !self.spaces.is_empty() {
            drop(self.spaces.pop());
            self.twin.guests.pop();
            self.check()?;
        }
        self.handles.clear();
        let left = self.board.allocated();
        if left == 0 { Ok(()) } else { Err(format!("{left} frames are in use in the end")) }
    }
}
