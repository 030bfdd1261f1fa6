//! The ticket by which CPUs wait for a page that its source has not brought.

use core::fmt;

/// One wait for one page. No two have the same ticket, in whatever pager and at whatever time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// No two have the same.
    pub(crate) serial: u64,
    /// Where the pager has written it down.
    pub(crate) slot: usize,
    /// The page's offset in the source, in bytes.
    pub(crate) offset: usize,
}

impl Ticket {
    /// The page's offset in the source, in bytes.
    #[must_use]
    pub const fn offset(self) -> usize {
        self.offset
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ticket {} for offset {:#x} of the source", self.serial, self.offset)
    }
}
