//! The twin: what each page of a window of guest-physical addresses holds. No ranges, no tables, no cleverness.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{GuestPhysAddr, GuestPhysRange, LeafPolicy, MappingFlags};

/// Pages of a block.
pub const BLOCK: usize = 512;
/// Pages of the window.
pub const PAGES: usize = 3 * BLOCK;

/// What stands behind a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// This host address.
    Linear(usize),
    /// The space's own memory.
    Private(LeafPolicy),
}

/// A leaf as the tables show it, in pages of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub start: usize,
    pub pages: usize,
}

/// What the tables show of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    pub hpa: usize,
    pub flags: MappingFlags,
    pub leaf: Leaf,
}

/// A page that is mapped, populated or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub flags: MappingFlags,
    pub behind: Behind,
    /// The frame, if there is one by now, and the leaf that maps it.
    pub present: Option<(usize, Leaf)>,
    /// The words that are not zero, by offset. Of private memory only.
    pub words: BTreeMap<usize, u64>,
}

/// The twin.
pub struct Twin {
    pub base: usize,
    pub pages: Vec<Option<Page>>,
    /// What was stored to foreign memory, by host address.
    pub foreign: BTreeMap<usize, u64>,
}

impl Leaf {
    pub fn range(self) -> Range<usize> {
        self.start..self.start + self.pages
    }
}

impl Twin {
    pub fn new(base: usize) -> Self {
        Self { base, pages: vec![None; PAGES], foreign: BTreeMap::new() }
    }

    /// The guest-physical address of a page.
    pub fn gpa(&self, page: usize) -> GuestPhysAddr {
        GuestPhysAddr::from_usize(self.base + page * PAGE)
    }

    /// The guest-physical addresses of some pages.
    pub fn range(&self, pages: &Range<usize>) -> GuestPhysRange {
        GuestPhysRange { start: self.gpa(pages.start), end: self.gpa(pages.end) }
    }

    /// The pages of a range that is the window's.
    pub fn pages_of(&self, range: GuestPhysRange) -> Range<usize> {
        let page = |at: GuestPhysAddr| (at.as_usize() - self.base) / PAGE;
        page(range.start)..page(range.end)
    }

    pub fn page(&self, page: usize) -> Option<&Page> {
        self.pages[page].as_ref()
    }

    /// The first page of some that is mapped.
    pub fn first_mapped(&self, pages: &Range<usize>) -> Option<usize> {
        pages.clone().find(|&page| self.pages[page].is_some())
    }

    /// The first page of some that is not mapped.
    pub fn first_hole(&self, pages: &Range<usize>) -> Option<usize> {
        pages.clone().find(|&page| self.pages[page].is_none())
    }

    /// Whether any of some pages is one that a condition holds of.
    pub fn any(&self, pages: &Range<usize>, condition: impl Fn(&Page) -> bool) -> bool {
        self.pages[pages.clone()].iter().flatten().any(condition)
    }

    /// The leaves, with all of their pages, that translate some of these.
    pub fn leaves(&self, pages: &Range<usize>) -> Vec<Leaf> {
        let mut leaves: Vec<Leaf> = Vec::new();
        for (_, leaf) in self.pages[pages.clone()].iter().flatten().filter_map(|page| page.present) {
            if leaves.last() != Some(&leaf) {
                leaves.push(leaf);
            }
        }
        leaves
    }

    /// Whether an end of `pages` cuts a leaf for which the condition holds.
    pub fn cuts(&self, pages: &Range<usize>, condition: impl Fn(&Page) -> bool) -> bool {
        [pages.start, pages.end - 1].into_iter().any(|end| {
            self.page(end).is_some_and(|page| {
                let within = |leaf: Leaf| pages.start <= leaf.start && leaf.range().end <= pages.end;
                condition(page) && page.present.is_some_and(|(_, leaf)| !within(leaf))
            })
        })
    }

    /// The frames of private memory.
    pub fn own_frames(&self) -> BTreeSet<usize> {
        self.own().collect()
    }

    /// How many pages have frames of the space's own.
    pub fn own_pages(&self) -> usize {
        self.own().count()
    }

    fn own(&self) -> impl Iterator<Item = usize> {
        let private = |page: &&Page| matches!(page.behind, Behind::Private(_));
        self.pages.iter().flatten().filter(private).filter_map(|page| Some(page.present?.0))
    }

    /// Takes over what the tables show of a page that was not populated.
    pub fn adopt(&mut self, page: usize, seen: Seen) {
        if let Some(page) = &mut self.pages[page] {
            page.present = Some((seen.hpa, seen.leaf));
        }
    }

    /// Holds the tables against the twin. A leaf may have become smaller.
    pub fn compare(&mut self, seen: &[Option<Seen>]) {
        for (number, (page, seen)) in self.pages.iter_mut().zip(seen).enumerate() {
            let Some(page) = page else {
                assert_eq!(*seen, None, "page {number} is not mapped, but translated");
                continue;
            };
            let (Some((hpa, leaf)), Some(now)) = (&mut page.present, seen) else {
                assert_eq!(page.present.is_some(), seen.is_some(), "page {number}: {page:x?}, the tables: {seen:x?}");
                continue;
            };
            assert_eq!((*hpa, page.flags), (now.hpa, now.flags), "page {number}: frame and flags");
            let within = leaf.start <= now.leaf.start && now.leaf.range().end <= leaf.range().end;
            assert!(within, "page {number}: its leaf was {leaf:?} and is {:?}", now.leaf);
            *leaf = now.leaf;
        }
    }
}
