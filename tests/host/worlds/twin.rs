//! The twin: what each page of each guest and of each region holds. A page's memory is a cell; pages that share
//! memory have the same cell, a page that is a copy has another one. No frames, no references, no cleverness.

use std::{collections::BTreeMap, ops::Range};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{GuestPhysAddr, GuestPhysRange, MappingFlags, loan::LoanKind};

/// Pages of a block.
pub const BLOCK: usize = 512;
/// Pages of the window that each guest has: two blocks, with a border of 1 GiB between them.
pub const PAGES: usize = 2 * BLOCK;
/// Where the window is.
pub const BASE: usize = (3 << 30) - BLOCK * PAGE;

/// The number of a cell.
pub type Cell = usize;

/// What stands behind a page of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Memory of its own.
    Own(Cell),
    /// A region's page.
    Shared(usize, usize),
    /// A frozen region's page, and the guest's copy of it.
    Inherited(usize, usize, Option<Cell>),
    /// A loan's page.
    Borrowed(usize, usize),
}

/// A page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Page {
    pub flags: MappingFlags,
    pub behind: Behind,
    /// How many loans it is in, and of which kind.
    pub loan: Option<(usize, LoanKind)>,
}

impl Page {
    /// One that is in no loan.
    pub fn new(flags: MappingFlags, behind: Behind) -> Self {
        Self { flags, behind, loan: None }
    }

    /// Whether its guest reaches it.
    pub fn is_lent(&self) -> bool {
        matches!(self.loan, Some((_, LoanKind::Lent)))
    }
}

/// A guest's pages.
pub type Pages = Vec<Option<Page>>;

/// A region.
pub struct Region {
    /// Its pages, one after the other.
    pub cells: Vec<Cell>,
    pub frozen: bool,
    /// Whether a source is behind it.
    pub sourced: bool,
    /// How often it was mapped, ever.
    pub windows: usize,
    /// Regions that it was made over.
    pub bases: Vec<usize>,
}

/// Memory of one guest that another has.
pub struct Terms {
    /// The number that the lender has for good, while it is there.
    pub lender: Option<usize>,
    /// Its first page at the lender, and at the borrower.
    pub at: usize,
    pub to: usize,
    /// Its pages.
    pub cells: Vec<Cell>,
    /// What the borrower may do.
    pub flags: MappingFlags,
    /// For which of its pages the lender still waits.
    pub open: Vec<bool>,
}

/// Where a snapshot's pages were: the page, what it allowed, the region's page.
pub type Places = Vec<(usize, MappingFlags, usize)>;

/// Everything.
#[derive(Default)]
pub struct Twin {
    /// The words of a cell that are not zero, by offset.
    pub cells: Vec<BTreeMap<usize, u64>>,
    pub guests: Vec<Pages>,
    pub regions: Vec<Region>,
    pub loans: Vec<Terms>,
}

/// The guest-physical address of a page.
pub fn gpa(page: usize) -> GuestPhysAddr {
    GuestPhysAddr::from_usize(BASE + page * PAGE)
}

/// The guest-physical addresses of some pages.
pub fn range(pages: &Range<usize>) -> GuestPhysRange {
    GuestPhysRange { start: gpa(pages.start), end: gpa(pages.end) }
}

/// The pages of a range.
pub fn pages_of(range: GuestPhysRange) -> Range<usize> {
    let page = |at: GuestPhysAddr| (at.as_usize() - BASE) / PAGE;
    page(range.start)..page(range.end)
}

impl Twin {
    /// Memory that was not touched yet.
    pub fn cell(&mut self) -> Cell {
        self.cells.push(BTreeMap::new());
        self.cells.len() - 1
    }

    /// Memory that holds the same.
    pub fn copy(&mut self, cell: Cell) -> Cell {
        self.cells.push(self.cells[cell].clone());
        self.cells.len() - 1
    }

    /// Adds a region of so many pages.
    pub fn region(&mut self, pages: usize) -> usize {
        let cells = (0..pages).map(|_| self.cell()).collect();
        self.regions.push(Region { cells, frozen: false, sourced: false, windows: 0, bases: Vec::new() });
        self.regions.len() - 1
    }

    /// A region of memory that a guest had, and still maps.
    pub fn region_of(&mut self, cells: Vec<Cell>) -> usize {
        self.regions.push(Region { cells, frozen: false, sourced: false, windows: 1, bases: Vec::new() });
        self.regions.len() - 1
    }

    /// What a page of a guest shows.
    pub fn visible(&self, behind: Behind) -> Cell {
        match behind {
            Behind::Own(cell) | Behind::Inherited(_, _, Some(cell)) => cell,
            Behind::Shared(region, page) | Behind::Inherited(region, page, None) => self.regions[region].cells[page],
            Behind::Borrowed(loan, page) => self.loans[loan].cells[page],
        }
    }

    /// A word of a page that is mapped.
    pub fn word(&self, page: &Page, offset: usize) -> u64 {
        self.cells[self.visible(page.behind)].get(&offset).copied().unwrap_or(0)
    }

    /// A guest, or the hypervisor in its place, stores to a page that allows it.
    pub fn store(&mut self, guest: usize, page: usize, offset: usize, value: u64) {
        let Some(Page { behind, .. }) = self.guests[guest][page] else { panic!("a page that is mapped") };
        let mut cell = self.visible(behind);
        if let Behind::Inherited(region, index, None) = behind {
            cell = self.copy(cell);
            let copied = Behind::Inherited(region, index, Some(cell));
            self.guests[guest][page].as_mut().expect("a page").behind = copied;
        }
        self.write(cell, offset, value);
    }

    /// A store to a cell.
    pub fn write(&mut self, cell: Cell, offset: usize, value: u64) {
        if value == 0 {
            self.cells[cell].remove(&offset);
        } else {
            self.cells[cell].insert(offset, value);
        }
    }

    /// Freezes what a guest has for itself, or inherits, into a region: which, and where its pages were.
    pub fn snapshot(&mut self, guest: usize) -> Option<(usize, Places)> {
        let number = self.regions.len();
        let mut region = Region { cells: Vec::new(), frozen: true, sourced: false, windows: 1, bases: Vec::new() };
        let mut places = Places::new();
        for index in 0..PAGES {
            let Some(page) = self.guests[guest][index] else { continue };
            match page.behind {
                Behind::Shared(..) => continue,
                Behind::Borrowed(..) => panic!("there is no snapshot of what is another's"),
                Behind::Own(_) => {}
                Behind::Inherited(base, ..) => region.bases.push(base),
            }
            places.push((index, page.flags, region.cells.len()));
            let behind = Behind::Inherited(number, region.cells.len(), None);
            region.cells.push(self.visible(page.behind));
            self.guests[guest][index] = Some(Page::new(page.flags, behind));
        }
        if places.is_empty() {
            return None;
        }
        self.regions.push(region);
        Some((number, places))
    }

    /// How many pages of a region guests may write.
    pub fn writable(&self, region: usize) -> usize {
        let writes = |page: &&Page| {
            matches!(page.behind, Behind::Shared(shared, _) if shared == region)
                && page.flags.contains(MappingFlags::WRITE)
        };
        self.guests.iter().flatten().flatten().filter(writes).count()
    }

    /// Whether a region is there: `held` says that a handle is left, a guest maps it, or another region stands on it.
    pub fn lives(&self, region: usize, held: &dyn Fn(usize) -> bool) -> bool {
        let maps = |page: &Page| match page.behind {
            Behind::Shared(other, _) | Behind::Inherited(other, ..) => other == region,
            Behind::Own(_) | Behind::Borrowed(..) => false,
        };
        let stands = |other: usize| self.regions[other].bases.contains(&region) && self.lives(other, held);
        held(region) || self.guests.iter().flatten().flatten().any(maps) || (region + 1..self.regions.len()).any(stands)
    }

    /// How many pages of a loan are borrowed.
    pub fn borrowed(&self, loan: usize) -> usize {
        self.borrowed_of(loan, &(0..usize::MAX))
    }

    /// How many of some pages of a loan are borrowed.
    pub fn borrowed_of(&self, loan: usize, part: &Range<usize>) -> usize {
        let borrows = |page: &&Page| matches!(page.behind, Behind::Borrowed(other, index) if other == loan && part.contains(&index));
        self.guests.iter().flatten().flatten().filter(borrows).count()
    }

    /// Whether a guest has anything on loan, or from another.
    pub fn in_loans(&self, guest: usize) -> bool {
        let is = |page: &Page| page.loan.is_some() || matches!(page.behind, Behind::Borrowed(..));
        self.guests[guest].iter().flatten().any(is)
    }

    /// The lender, which is this guest, has some pages of a loan back.
    pub fn close(&mut self, lender: usize, loan: usize, part: &Range<usize>, zero: bool) {
        for page in self.guests.iter_mut().flatten() {
            let goes = |there: &Page| matches!(there.behind, Behind::Borrowed(other, index) if other == loan && part.contains(&index));
            if page.as_ref().is_some_and(goes) {
                *page = None;
            }
        }
        for index in part.clone() {
            let terms = &mut self.loans[loan];
            if !std::mem::take(&mut terms.open[index]) {
                continue;
            }
            let (at, cell) = (terms.at + index, terms.cells[index]);
            let there = self.guests[lender][at].as_mut().expect("what is on loan stays mapped");
            there.loan = there.loan.and_then(|(count, kind)| (count > 1).then(|| (count - 1, kind)));
            if zero && there.loan.is_none() {
                self.cells[cell].clear();
            }
        }
    }

    /// The first page of some that is mapped.
    pub fn first_mapped(&self, guest: usize, pages: &Range<usize>) -> Option<usize> {
        pages.clone().find(|&page| self.guests[guest][page].is_some())
    }

    /// The first page of some that is not.
    pub fn first_hole(&self, guest: usize, pages: &Range<usize>) -> Option<usize> {
        pages.clone().find(|&page| self.guests[guest][page].is_none())
    }
}
