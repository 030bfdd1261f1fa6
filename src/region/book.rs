//! What is known of a region, behind its lock: its pages, and who may see and write them. Touches no frame.

use core::ops::Range;

use memory_addr::PAGE_SIZE_4K;

use super::{Region, RegionError, cover::Cover};
use crate::{counted::Counted, pages::Pages};

/// What is known of a region.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) pages: Pages,
    state: State,
    /// Handles: with one the region can be mapped anywhere and at any time.
    pub(super) handles: usize,
    /// Handles to write.
    pub(super) writers: usize,
    /// Pages that guests may write, in all mappings together.
    pub(super) writable: usize,
    /// Mappings that share its pages. Those that copy on write have pages of it, and not the region.
    pub(super) mappings: usize,
    /// What they show.
    pub(super) cover: Cover,
    /// At its end: the region that goes after this one.
    pub(super) next: Option<Counted<dyn Region>>,
}

/// Whether a region can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Frozen,
}

impl Book {
    /// With one handle.
    pub(super) fn new(pages: Pages) -> Self {
        Self { pages, handles: 1, ..Self::default() }
    }

    /// The first pages of a range, side by side, that nobody can reach.
    pub(super) fn unreachable(&self, pages: Range<usize>) -> Option<Range<usize>> {
        if self.handles > 0 { None } else { self.cover.hidden(pages) }
    }

    /// Whether it can be written no more.
    pub(super) fn is_frozen(&self) -> bool {
        self.state == State::Frozen
    }

    /// Freezes it, for good.
    pub(super) fn freeze(&mut self) -> Result<(), RegionError> {
        if self.writable > 0 || self.writers > 0 {
            return Err(RegionError::Written { mapped: self.writable * PAGE_SIZE_4K, handles: self.writers });
        }
        self.state = State::Frozen;
        Ok(())
    }

    /// Refuses unless one mapping alone can reach it, and all pages are its own.
    pub(super) fn check_sole(&self) -> Result<(), RegionError> {
        if self.is_frozen() {
            return Err(RegionError::Frozen);
        }
        match (self.mappings, self.handles) {
            (1, 0) => Ok(()),
            (mappings, handles) => Err(RegionError::InUse { mappings, handles }),
        }
    }
}
