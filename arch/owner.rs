//! Whose frame a leaf maps, in two bits that the hardware ignores.

use crate::Owner;

/// `own` alone is the space's own, `region` alone a region's, both a frozen region's, neither somebody else's.
#[inline]
pub(crate) const fn encode(owner: Owner, own: u64, region: u64) -> u64 {
    match owner {
        Owner::Foreign => 0,
        Owner::Space => own,
        Owner::Shared => region,
        Owner::Frozen => own | region,
    }
}

/// The owner that [`encode`] wrote.
#[inline]
pub(crate) const fn decode(entry: u64, own: u64, region: u64) -> Owner {
    match (entry & own != 0, entry & region != 0) {
        (false, false) => Owner::Foreign,
        (true, false) => Owner::Space,
        (false, true) => Owner::Shared,
        (true, true) => Owner::Frozen,
    }
}
