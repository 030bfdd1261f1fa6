//! NPT entries for the page tables of `page_table_multiarch`.

use super::{Asid, Capabilities, Features, Npt, PAT_AT_RESET};
use crate::{
    addr::Level,
    arch::{pte::Baseline, pte::PagingEntry},
    geometry::Geometry,
};

/// An entry of [`Npt`] as a CPU with leaves of 1 GiB reads it, whose hypervisor left the PAT as it was.
///
/// For users of a `PageTable64`. Flags that NPT does not express make an absent entry.
pub type NptEntry = PagingEntry<Npt>;

/// What CPUs with large leaves have. The ASID is no entry's.
impl Baseline for Npt {
    const BASELINE: Self = Self {
        capabilities: Capabilities { physical_bits: 52, guest_physical_bits: 48, asids: 2, features: Features::all() },
        geometry: Geometry { page_shift: 12, index_bits: 9, root_level: Level(3), root_index_bits: 9 },
        pat: PAT_AT_RESET,
        asid: Asid(1),
    };
    const ENTRY: &'static str = "NptEntry";
}
