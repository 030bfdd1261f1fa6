//! The owner of the frame that a leaf maps, in three bits that the hardware ignores.

use crate::format::{Entry, Leaf, Marked, Owner};

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

/// The owner that [`encode`] wrote; the three bits are within five.
#[inline]
pub(crate) const fn decode<const OWN: u64, const REGION: u64, const LOAN: u64>(entry: u64) -> Owner {
    let index = (entry >> OWN.trailing_zeros()) as usize % TABLE_SIZE;
    Owners::<OWN, REGION, LOAN>::TABLE[index]
}

const TABLE_SIZE: usize = 32;

/// The owner for each value of the five bits from `OWN` on: a leaf is decoded for each fault.
struct Owners<const OWN: u64, const REGION: u64, const LOAN: u64>;

impl<const OWN: u64, const REGION: u64, const LOAN: u64> Owners<OWN, REGION, LOAN> {
    const TABLE: [Owner; TABLE_SIZE] = {
        let mut table = [Owner::Foreign; TABLE_SIZE];
        let mut index = 0;
        while index < TABLE_SIZE {
            let entry = (index as u64) << OWN.trailing_zeros();
            table[index] = Self::of(entry & OWN != 0, entry & REGION != 0, entry & LOAN != 0);
            index += 1;
        }
        assert!((OWN | REGION | LOAN) & !((TABLE_SIZE as u64 - 1) << OWN.trailing_zeros()) == 0);
        table
    };

    const fn of(own: bool, region: bool, loan: bool) -> Owner {
        match (own, region) {
            (true, false) if loan => Owner::OnLoan,
            (true, false) => Owner::Space,
            // `region` beside `loan` is never written; read as borrowed, such a frame is never freed.
            _ if loan => Owner::Borrowed,
            (false, false) => Owner::Foreign,
            (false, true) => Owner::Shared,
            (true, true) => Owner::Frozen,
        }
    }
}

/// What an invalid entry says that keeps a leaf: lent to another space, or taken away.
#[inline]
pub(crate) fn withdrawn(leaf: Leaf) -> Entry {
    if leaf.owner == Owner::OnLoan { Entry::Lent(leaf) } else { Entry::Marked(Marked::Leaf(leaf)) }
}
