//! EPT entries for the page tables of `page_table_multiarch`.

use super::{Capabilities, Ept, Errata, Exceptions, Features, LargeLeaves, Tracking};
use crate::{
    addr::Level,
    arch::{pte::Baseline, pte::PagingEntry},
    geometry::Geometry,
};

/// An entry of [`Ept`] as a CPU with large leaves reads it: no execute-only, no #VE, use tracked by software.
///
/// For users of a `PageTable64`. Flags that EPT does not express make an absent entry.
pub type EptEntry = PagingEntry<Ept>;

/// What CPUs with large leaves have.
impl Baseline for Ept {
    const BASELINE: Self = Self {
        capabilities: Capabilities {
            physical_bits: 52,
            features: Features::LEAF_2M.union(Features::LEAF_1G),
            errata: Errata::empty(),
        },
        geometry: Geometry { page_shift: 12, index_bits: 9, root_level: Level(3), root_index_bits: 9 },
        tracking: Tracking::Software,
        exceptions: Exceptions::Off,
        large_leaves: LargeLeaves::Executable,
    };
    const ENTRY: &'static str = "EptEntry";
}
