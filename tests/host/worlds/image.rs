//! Memory that comes from a source: every other page of it at once, the others when they are brought.

use std::{num::NonZeroUsize, sync::Arc};

use stage2::pager::{Settled, Source, SourceError, Supply, Ticket};

use super::*;

/// How many pages may be on their way at once: fewer than there are.
const ROOM: NonZeroUsize = NonZeroUsize::new(3).expect("some");

/// An image of which each page begins with its number and one hundred.
struct Image;

impl Source for Image {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        if (ticket.offset() / PAGE).is_multiple_of(2) {
            page.copy_from_slice(&contents(ticket));
            Supply::Ready
        } else {
            Supply::Later
        }
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

fn contents(ticket: Ticket) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..8].copy_from_slice(&word(ticket.offset() / PAGE).to_le_bytes());
    page
}

/// What a page of the image begins with.
fn word(page: usize) -> u64 {
    100 + page as u64
}

pub(super) fn pager() -> Pager {
    Pager::new(Arc::new(Image), ROOM).expect("the heap has memory")
}

impl<M: Machine> World<M> {
    /// Brings the page that a ticket is for.
    pub(super) fn bring(&self, ticket: Ticket, at: stage2::GuestPhysAddr) -> Result<(), Error> {
        match self.image.complete(ticket, Ok(&contents(ticket))) {
            Ok(()) => Ok(()),
            Err(SourceError::NoMemory { .. }) => Err(Error::NoMemory(stage2::GuestPhysRange { start: at, end: at })),
            Err(other) => panic!("{other}"),
        }
    }

    /// Tries until all is there that it needs.
    pub(super) fn until_there<T>(&self, mut access: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        loop {
            match access() {
                Err(Error::NotYet { range, ticket }) => self.bring(ticket, range.start)?,
                other => return other,
            }
        }
    }

    /// The same for a region.
    pub(super) fn until_brought<T>(
        &self,
        mut access: impl FnMut() -> Result<T, RegionError>,
    ) -> Result<T, RegionError> {
        loop {
            match access() {
                Err(RegionError::NotYet { offset, size, ticket }) => {
                    self.bring(ticket, gpa(0)).map_err(|_| RegionError::NoMemory { offset, size })?;
                }
                other => return other,
            }
        }
    }

    /// A region of so many pages of the image.
    pub(super) fn region_from(&mut self, guest: usize, pages: usize) {
        let region = self.spaces[guest].region_from(pages * PAGE, &self.image, 0).expect("the heap has memory");
        let cells = self.image_cells(pages);
        let number = self.twin.region_of(cells);
        self.twin.regions[number].windows = 0;
        self.twin.regions[number].sourced = true;
        self.handles.push((number, Handle::Region(region)));
    }

    /// Some pages of the image for a guest alone.
    pub(super) fn map_from(&mut self, guest: usize, pages: &Range<usize>, flags: MappingFlags) {
        let result = self.spaces[guest].map_from(range(pages), &self.image, 0, flags);
        if self.overlaps(guest, pages, result) {
            return;
        }
        assert_eq!(result, Ok(()));
        let cells = self.image_cells(pages.len());
        let number = self.twin.region_of(cells);
        self.twin.regions[number].frozen = true;
        self.twin.regions[number].sourced = true;
        for (index, page) in pages.clone().enumerate() {
            self.twin.guests[guest][page] = Some(Page::new(flags, Behind::Inherited(number, index, None)));
        }
    }

    /// How many pages may have been brought for a guest, which its limit counts before it has them.
    pub(super) fn on_the_way(&self, guest: usize) -> usize {
        let pages = self.twin.guests[guest].iter().flatten();
        let inherited: BTreeSet<usize> = pages
            .filter_map(|page| if let Behind::Inherited(region, ..) = page.behind { Some(region) } else { None })
            .collect();
        let sourced = inherited.iter().map(|&region| &self.twin.regions[region]).filter(|region| region.sourced);
        sourced.map(|region| region.cells.len()).sum()
    }

    /// A page that no other guest and no handle can see may become its guest's own when it is read, moved or given away, and
    /// an untouched one does when it is read.
    pub(super) fn learn_what_was_taken(&mut self) {
        for guest in 0..self.spaces.len() {
            for page in 0..PAGES {
                let inherits =
                    matches!(self.twin.guests[guest][page], Some(Page { behind: Behind::Inherited(_, _, None), .. }));
                if inherits && self.spaces[guest].page_state(gpa(page)) == PageState::Owned {
                    self.take(guest, page);
                }
            }
        }
    }

    /// A page that a guest inherited is its own.
    pub(super) fn take(&mut self, guest: usize, page: usize) {
        let there = self.twin.guests[guest][page];
        if let Some(Page { behind: Behind::Inherited(region, index, None), .. }) = there {
            let copy = self.twin.copy(self.twin.regions[region].cells[index]);
            let there = self.twin.guests[guest][page].as_mut().expect("a page");
            there.behind = Behind::Inherited(region, index, Some(copy));
        }
    }

    fn image_cells(&mut self, pages: usize) -> Vec<Cell> {
        (0..pages)
            .map(|page| {
                let cell = self.twin.cell();
                self.twin.write(cell, 0, word(page));
                cell
            })
            .collect()
    }
}
