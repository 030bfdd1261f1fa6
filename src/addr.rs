//! The two address spaces, and the levels between them.

use core::fmt;

pub use memory_addr::PhysAddr;
use memory_addr::{AddrRange, def_usize_addr, def_usize_addr_formatter};

def_usize_addr! {
    /// A guest-physical address (GPA; Arm calls it an IPA): what the guest takes for a physical address.
    pub type GuestPhysAddr;
}

def_usize_addr_formatter! {
    GuestPhysAddr = "GPA:{}";
}

/// A half-open range of guest-physical addresses.
pub type GuestPhysRange = AddrRange<GuestPhysAddr>;

/// The height of a table entry above the last level: a page is at level 0, a 2 MiB block (4 KiB granule) at level 1.
///
/// Manuals count the other way round on Arm (level 3 is the last) and give names on Intel (PT, PD, PDPT): only a
/// format knows those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u8);

impl Level {
    /// The last level: its leaves are pages.
    pub const PAGE: Self = Self(0);

    /// The level of the entries in the table that an entry of this level points to.
    ///
    /// There is no level below the last one, which answers itself.
    #[must_use]
    pub const fn below(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.0)
    }
}
