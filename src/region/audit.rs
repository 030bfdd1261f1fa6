//! A region's book as an audit reads it.

use alloc::vec::Vec;

use super::{Region, View};
use crate::{account::Exhausted, addr::GuestPhysAddr, pages::Named};

/// What a region's book says.
pub(crate) struct Numbers {
    /// How many mappings there are.
    pub mappings: usize,
    /// How many pages guests may write, in all mappings together.
    pub writable: usize,
    pub is_frozen: bool,
    /// Runs of pages that as many mappings show: the first page of each, and how many.
    pub cover: Vec<(usize, usize)>,
    /// Its pages that have a frame, by their places.
    pub pages: Vec<Named>,
}

impl dyn Region {
    /// What the book says, read at one moment.
    ///
    /// # Errors
    /// There is no memory to note it.
    pub(crate) fn numbers(&self) -> Result<Numbers, Exhausted> {
        let book = self.reading();
        let (mut cover, mut pages) = (Vec::new(), Vec::new());
        let runs = book.cover.runs();
        cover.try_reserve_exact(runs.len()).map_err(|_| Exhausted::Memory)?;
        cover.extend_from_slice(runs);
        book.pages.each_named(None, &mut |named| {
            pages.try_reserve(1).map_err(|_| Exhausted::Memory)?;
            pages.push(named);
            Ok(())
        })?;
        let (mappings, writable, is_frozen) = (book.mappings, book.writable, book.is_frozen());
        Ok(Numbers { mappings, writable, is_frozen, cover, pages })
    }
}

impl View {
    /// The place of the page at an address.
    pub(crate) fn place(&self, gpa: GuestPhysAddr) -> usize {
        self.region().places().of(self.page(gpa))
    }
}
