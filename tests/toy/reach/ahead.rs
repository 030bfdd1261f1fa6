//! What is brought before a guest touches it: populated, or offered by the source.

use stage2::{pager::Offered, region::RegionError, space::Populated};

use super::*;

/// What a page starts with that the source offers, and was not asked for.
const OFFERED: u64 = 0x10_0000;

impl World {
    /// A guest's pages come as by its own reads or writes, at once or in steps. What is borrowed has its memory.
    pub(super) fn populate_ahead(&mut self, guest: usize, (start, most): (usize, usize), pace: usize) -> Verdict {
        let comes = |slot: Option<Slot>| slot.is_some_and(|slot| slot.stand != Stand::Borrowed);
        let Some(pages) = self.twin.run(guest, start, most, comes) else { return Ok(()) };
        let access = if pace.is_multiple_of(2) { Access::Read } else { Access::Write };
        let budget = [usize::MAX, 1, 3][pace % 3];
        self.note(format!("guest {guest}: populate {pages:?} for {access:?}, {budget} at a time"));
        let populating = self.spaces[guest].populate_in_steps(span(&pages), access);
        let populated = populating.and_then(|mut populating| {
            while populating.step(budget)? == stage2::space::Progress::More {}
            Ok(populating.populated())
        });
        if populated != Ok(Populated::Whole) {
            return Err(format!("populate: {populated:?}"));
        }
        for page in pages {
            let value = match self.twin.cells[self.twin.slot(guest, page).cell] {
                Holds::Zeros => 0,
                Holds::Missing(number) => twin::brought(number),
                Holds::Page(value) => value,
            };
            self.twin.touch(guest, page, (access == Access::Write).then_some(value));
            let needed = if access == Access::Write { MappingFlags::WRITE } else { READ };
            let leaf = self.spaces[guest].translate(at(page));
            if !leaf.is_some_and(|leaf| leaf.flags.contains(needed)) {
                return Err(format!("page {page} was populated, and a guest's {access:?} would fault: {leaf:?}"));
            }
        }
        Ok(())
    }

    /// A source offers a page to a guest.
    pub(super) fn offer(&mut self, guest: usize, start: usize) -> Verdict {
        let Some(pages) = self.twin.run(guest, start, 1, |slot| slot.is_some()) else { return Ok(()) };
        let (page, Slot { cell, stand, .. }) = (pages.start, self.twin.slot(guest, pages.start));
        self.note(format!("guest {guest}: page {page} (#{cell}) is offered"));
        let expected = self.offered(cell);
        match self.spaces[guest].offer(at(page), &page_of(expected)) {
            Ok(Offered::Taken) if self.take(cell, expected) => {}
            Ok(Offered::Late) | Err(Error::NoSource(_)) if !self.is_missing(cell) => return Ok(()),
            other => return Err(format!("offer: {other:?}")),
        }
        // On the account of the guest that alone reaches it.
        if stand == Stand::Inherited {
            self.twin.take_over(guest, page);
        }
        Ok(())
    }

    /// A source offers a page to all that a handle shows it to.
    pub(super) fn offer_to_handle(&mut self, number: usize, page: usize) -> Verdict {
        let Some(handle) = self.any_handle(number, |_, _| true) else { return Ok(()) };
        let region = self.twin.handles[handle];
        let page = page % self.twin.regions[region].cells.len();
        let cell = self.twin.regions[region].cells[page];
        self.note(format!("handle {handle} is offered page {page} (#{cell})"));
        let expected = self.offered(cell);
        match self.handles[handle].region().offer(page * PAGE, &page_of(expected)) {
            Ok(Offered::Taken) if self.take(cell, expected) => Ok(()),
            Ok(Offered::Late) | Err(RegionError::NoSource { .. }) if !self.is_missing(cell) => Ok(()),
            other => Err(format!("offer: {other:?}")),
        }
    }

    fn is_missing(&self, cell: twin::Cell) -> bool {
        matches!(self.twin.cells[cell], Holds::Missing(_))
    }

    /// What is offered for a cell.
    fn offered(&self, cell: twin::Cell) -> u64 {
        match self.twin.cells[cell] {
            Holds::Missing(page) => twin::brought(page) + OFFERED,
            _ => OFFERED,
        }
    }

    /// A cell has what was offered from now on: whether it was missing.
    fn take(&mut self, cell: twin::Cell, offered: u64) -> bool {
        let was_missing = self.is_missing(cell);
        self.twin.cells[cell] = Holds::Page(offered);
        was_missing
    }
}

fn page_of(word: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..8].copy_from_slice(&word.to_le_bytes());
    page
}
