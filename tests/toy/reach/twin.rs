//! The twin: which page each page of each guest, and of each region, is. A page's memory is a cell. What reaches the
//! same memory has the same cell, and a copy is another one. No frames and no counts: who reaches a cell is looked up
//! each time.

use std::fmt::Write;

use super::*;

/// The number of a cell.
pub type Cell = usize;

/// What a cell is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holds {
    /// Untouched: zeros, without a frame.
    Zeros,
    /// Not brought yet: this page of the source.
    Missing(usize),
    /// Memory in a frame, which starts with this.
    Page(u64),
}

/// Whether a page is on its guest's account.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Own {
    Yes,
    No,
    /// It may be: nobody else reaches it, the guest has read it, and not written it.
    Maybe,
}

/// What kind of area a page lies in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stand {
    Private,
    Inherited,
    /// A region's, by one of its mappings.
    Shared(usize, usize),
    Borrowed,
}

/// A page of a guest.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub cell: Cell,
    pub stand: Stand,
    pub own: Own,
    /// The page of the source that is behind it.
    pub origin: Option<usize>,
}

/// A region.
#[derive(Debug)]
pub struct Region {
    pub cells: Vec<Cell>,
    /// The pages of the source that are behind it; none for a region that has no source.
    pub origins: Vec<Option<usize>>,
    pub frozen: bool,
    /// For a snapshot: the guest's pages that its own are, one after the other.
    pub places: Vec<usize>,
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    pub slots: [Option<Slot>; PAGES],
    /// Whether its allocator tells its pool.
    pub pooled: bool,
}

/// Everything.
#[derive(Debug, Default)]
pub struct Twin {
    pub cells: Vec<Holds>,
    pub guests: Vec<Guest>,
    pub regions: Vec<Region>,
    /// The regions of the handles that are left.
    pub handles: Vec<usize>,
    /// How many mappings of regions there were.
    pub windows: usize,
    /// How many pages the source was asked for.
    pub asked: u64,
    /// Whether any page that is a guest's alone can be taken where it stands.
    pub takes: bool,
}

/// What a page of the source starts with.
pub fn brought(page: usize) -> u64 {
    0x50_0000 + page as u64
}

impl Twin {
    pub fn cell(&mut self, holds: Holds) -> Cell {
        self.cells.push(holds);
        self.cells.len() - 1
    }

    /// How many can reach a cell: pages of guests, and handles.
    pub fn reachers(&self, cell: Cell) -> usize {
        let slots = self.guests.iter().flat_map(|guest| guest.slots.iter().flatten());
        let handles = self.handles.iter().filter(|&&region| self.regions[region].cells.contains(&cell));
        slots.filter(|slot| slot.cell == cell).count() + handles.count()
    }

    /// How many frames everything takes: one for each page that somebody reaches.
    pub fn frames(&self) -> usize {
        let is_page = |cell: &Cell| matches!(self.cells[*cell], Holds::Page(_));
        (0..self.cells.len()).filter(is_page).filter(|&cell| self.reachers(cell) > 0).count()
    }

    /// What everybody reaches: for those who read a failure.
    pub fn picture(&self) -> String {
        let mut text = String::new();
        self.draw(&mut text).expect("a string takes all");
        text
    }

    fn draw(&self, text: &mut String) -> std::fmt::Result {
        for (number, guest) in self.guests.iter().enumerate() {
            writeln!(text, "  guest {number}{}:", if guest.pooled { "" } else { ", without a pool" })?;
            for (page, slot) in guest.slots.iter().enumerate() {
                let Some(Slot { cell, stand, own, .. }) = slot else { continue };
                writeln!(text, "    page {page}: #{cell} {:x?} {stand:?} own:{own:?}", self.cells[*cell])?;
            }
        }
        for (number, &region) in self.handles.iter().enumerate() {
            writeln!(text, "  handle {number} of region {region}:")?;
            for (page, &cell) in self.regions[region].cells.iter().enumerate() {
                writeln!(text, "    page {page}: #{cell} {:x?}", self.cells[cell])?;
            }
        }
        Ok(())
    }

    /// A page that is mapped.
    pub fn slot(&self, guest: usize, page: usize) -> Slot {
        self.guests[guest].slots[page].expect("a page that is mapped")
    }

    fn change(&mut self, guest: usize, page: usize, change: impl FnOnce(&mut Slot)) {
        change(self.guests[guest].slots[page].as_mut().expect("a page that is mapped"));
    }

    /// A handle reads, or something else that needs what a source has: it brings the page.
    pub fn bring(&mut self, cell: Cell) -> bool {
        let Holds::Missing(page) = self.cells[cell] else { return false };
        self.asked += 1;
        self.cells[cell] = Holds::Page(brought(page));
        true
    }

    /// A guest reads a page, or writes a value there.
    pub fn touch(&mut self, guest: usize, page: usize, value: Option<u64>) {
        let Slot { cell, stand, own, .. } = self.slot(guest, page);
        let came = self.bring(cell);
        if let Stand::Shared(..) | Stand::Borrowed = stand {
            self.put(cell, value);
            return;
        }
        let alone = self.reachers(cell) == 1;
        match (self.cells[cell], value) {
            // Of its own, and of no other that inherits it too.
            (Holds::Zeros, value) => self.own(guest, page, value.unwrap_or(0)),
            (_, Some(value)) if !alone => self.own(guest, page, value),
            (_, Some(value)) => {
                self.cells[cell] = Holds::Page(value);
                self.change(guest, page, |slot| slot.own = Own::Yes);
            }
            (_, None) if alone && own != Own::Yes => {
                let own = if came && self.takes && BROUGHT_IS_OWN { Own::Yes } else { Own::Maybe };
                self.change(guest, page, |slot| slot.own = own);
            }
            (_, None) => {}
        }
    }

    /// What is untouched in a region, or a loan, gets its frame for all.
    fn put(&mut self, cell: Cell, value: Option<u64>) {
        match (self.cells[cell], value) {
            (_, Some(value)) => self.cells[cell] = Holds::Page(value),
            (Holds::Zeros, None) => self.cells[cell] = Holds::Page(0),
            _ => {}
        }
    }

    /// What a guest alone reaches may be on its account from now on.
    pub fn take_over(&mut self, guest: usize, page: usize) {
        let slot = self.slot(guest, page);
        let is_left_to_it = slot.own == Own::No && self.reachers(slot.cell) == 1;
        if is_left_to_it && matches!(self.cells[slot.cell], Holds::Page(_)) {
            self.change(guest, page, |slot| slot.own = Own::Maybe);
        }
    }

    /// A guest gets a page of its own.
    fn own(&mut self, guest: usize, page: usize, value: u64) {
        let cell = self.cell(Holds::Page(value));
        self.change(guest, page, |slot| (slot.cell, slot.own) = (cell, Own::Yes));
    }

    /// A handle writes.
    pub fn write(&mut self, region: usize, page: usize, value: u64) {
        let cell = self.regions[region].cells[page];
        self.bring(cell);
        self.put(cell, Some(value));
    }

    /// What a guest has for itself, or inherits, is frozen into a region, for which there is a handle.
    pub fn snapshot(&mut self, guest: usize) -> usize {
        let (mut cells, mut origins, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (page, slot) in self.guests[guest].slots.iter_mut().enumerate() {
            let Some(slot) = slot.as_mut().filter(|slot| slot.is_its_own()) else { continue };
            (slot.stand, slot.own) = (Stand::Inherited, Own::No);
            cells.push(slot.cell);
            origins.push(slot.origin);
            places.push(page);
        }
        self.regions.push(Region { cells, origins, frozen: true, places });
        self.handles.push(self.regions.len() - 1);
        self.regions.len() - 1
    }

    /// Puts pages of a region into a guest that inherits them.
    pub fn inherit(&mut self, guest: usize, page: usize, (cell, origin): (Cell, Option<usize>)) {
        self.guests[guest].slots[page] = Some(Slot { cell, stand: Stand::Inherited, own: Own::No, origin });
    }

    /// Whether a handle for a region is left.
    pub fn has_handle(&self, region: usize) -> bool {
        self.handles.contains(&region)
    }

    /// The guests that map a region shared, and by which mapping.
    pub fn mappings(&self, region: usize) -> Vec<(usize, usize)> {
        let mut all = Vec::new();
        for (number, guest) in self.guests.iter().enumerate() {
            for slot in guest.slots.iter().flatten() {
                match slot.stand {
                    Stand::Shared(other, window) if other == region => all.push((number, window)),
                    _ => {}
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// From `start` on, around the window's end: the first pages side by side that are `wanted`, `most` at most.
    pub fn run(
        &self,
        guest: usize,
        start: usize,
        most: usize,
        wanted: impl Fn(Option<Slot>) -> bool,
    ) -> Option<Range<usize>> {
        let is = |page: &usize| wanted(self.guests[guest].slots[*page]);
        let first = (start..PAGES).chain(0..start).find(is)?;
        let count = (first..PAGES).take(most).take_while(is).count();
        Some(first..first + count)
    }
}

impl Slot {
    /// Whether a snapshot has it.
    pub fn is_its_own(&self) -> bool {
        matches!(self.stand, Stand::Private | Stand::Inherited)
    }
}
