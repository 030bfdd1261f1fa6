//! Stage-2 entries for the page tables of `page_table_multiarch`.

use super::{Capabilities, Errata, Features, Stage2, Tracking, Vmid, bits::EXECUTE_NEVER_ALL};
use crate::{
    addr::Level,
    arch::{pte::Baseline, pte::PagingEntry},
    geometry::Geometry,
};

/// A descriptor of [`Stage2`] as any CPU reads it: no `FEAT_S2FWB`, no `FEAT_XNX`, use tracked by software.
///
/// For users of a `PageTable64`. Flags that stage 2 does not express make an absent entry.
pub type Stage2Entry = PagingEntry<Stage2>;

/// What every CPU has. The VMID is no entry's.
impl Baseline for Stage2 {
    const BASELINE: Self = Self {
        capabilities: Capabilities {
            physical_bits: 48,
            vmid_bits: 8,
            data_line: 64,
            features: Features::GRANULE_4K,
            errata: Errata::empty(),
        },
        geometry: Geometry { page_shift: 12, index_bits: 9, root_level: Level(3), root_index_bits: 9 },
        vmid: Vmid(0),
        tracking: Tracking::Software,
        read: EXECUTE_NEVER_ALL,
    };
    const ENTRY: &'static str = "Stage2Entry";
}
