//! A region whose last guest takes its memory back.

use memory_addr::PAGE_SIZE_4K;

use super::{Region, RegionError};

impl dyn Region {
    /// Refuses a region that anybody but one mapping can reach. Nobody else can come: a new mapping takes a handle.
    pub(crate) fn check_sole(&self) -> Result<(), RegionError> {
        self.reading().check_sole()
    }

    /// Forgets the frames of `size` bytes from a page on: the mapping, which is the only one, has them.
    pub(crate) fn take(&self, first: usize, size: usize) {
        self.writing().take(first..first + size / PAGE_SIZE_4K);
    }
}
