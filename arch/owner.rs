//! Whose frame a leaf maps, in three bits that the hardware ignores.

use crate::{Entry, Leaf, Marked, Owner};

/// `own` alone is the space's own, `region` alone a region's, both a frozen region's, none foreign memory; with `loan`,
/// `own` is on loan to another space, and without `own` it is another space's.
#[inline]
pub(crate) const fn encode(owner: Owner, own: u64, region: u64, loan: u64) -> u64 {
    match owner {
        Owner::Foreign => 0,
        Owner::Space => own,
        Owner::Shared => region,
        Owner::Frozen => own | region,
        Owner::OnLoan => own | loan,
        Owner::Borrowed => loan,
    }
}

/// The owner that [`encode`] wrote.
#[inline]
pub(crate) const fn decode(entry: u64, own: u64, region: u64, loan: u64) -> Owner {
    match (entry & own != 0, entry & region != 0) {
        (true, false) if entry & loan != 0 => Owner::OnLoan,
        (true, false) => Owner::Space,
        // `region` beside `loan` is never written; read as borrowed, such a frame is never freed.
        _ if entry & loan != 0 => Owner::Borrowed,
        (false, false) => Owner::Foreign,
        (false, true) => Owner::Shared,
        (true, true) => Owner::Frozen,
    }
}

/// What an invalid entry says that keeps a leaf: lent to another space, or taken away.
#[inline]
pub(crate) fn withdrawn(leaf: Leaf) -> Entry {
    if leaf.owner == Owner::OnLoan { Entry::Lent(leaf) } else { Entry::Marked(Marked::Leaf(leaf)) }
}
