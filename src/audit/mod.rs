//! Whether a space's parts agree: areas, tables, regions, loans, inherited pages and accounts, recomputed from scratch.
//!
//! For the end of a test, and for a hypervisor's debug builds. [`audit`] changes nothing and repairs nothing; it trusts
//! none of the code that it judges, and reads the tables by a walk of its own. Where it is not called it is not linked.

mod accounts;
mod areas;
mod debt;
mod entries;
mod frames;
mod inherited;
mod loans;
mod regions;
mod report;

use alloc::vec::Vec;

pub use self::report::{Disagreement, Finding, Report, Use};
use self::{
    areas::Map, debt::Owed, entries::Entries, frames::Claims, loans::Lendings, regions::Regions, report::Findings,
};
use crate::{
    account::Exhausted,
    addr::GuestPhysRange,
    error::Error,
    lock::LockFamily,
    pages::Named,
    platform::Platform,
    space::{Audited, GuestSpace},
};

/// What else may be under way while spaces are audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Nothing: no CPU works on the spaces, their regions or their sources, and nothing is left of an operation in
    /// steps ([`Unmapping`](crate::space::Unmapping), [`Discarding`](crate::space::Discarding),
    /// [`Protecting`](crate::space::Protecting)). All numbers must agree exactly.
    Nothing,
    /// Anything. What waits outside of the spaces to be freed is still counted, so that numbers may be higher than what
    /// is found, and not lower.
    Anything,
}

/// A space, and its number among those that were given.
struct Subject<'s, P: Platform, L: LockFamily> {
    number: usize,
    held: Audited<'s, P, L>,
}

/// Says where the parts of some spaces disagree, each by itself and with one another.
///
/// All spaces' locks are held exclusively until it returns, in the order of their addresses, and those of regions and
/// pages for a look: call it with none of them held. A space that is given twice is looked at once. It takes as long as
/// it takes to walk all tables, and some memory: a few words for each run of pages side by side, and for each page that
/// is shared or inherited.
///
/// What an operation could not finish, since a CPU did not answer, is no disagreement: in its range, entries may be
/// marked, and tables without an area. What was let go of where time is short is still to be freed, and counted. While a snapshot is taken in steps, private memory may be frozen already. A
/// [`Dismantling`](crate::space::Dismantling) has its space, so that no reference to that is left to give. Of a region
/// or a loan that spaces have which are not given, less may be found than is counted. No host memory is read but the
/// tables'.
///
/// # Errors
/// [`Error::NoMemory`] with all addresses of a space: nothing can be said.
///
/// # Example
/// ```
/// use stage2::{
///     LeafPolicy, Mapping, Populate,
///     audit::{Meanwhile, audit},
/// };
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// let (one, two) = (guest(1)?, guest(2)?);
/// one.map(range(0, 0x4000), Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages }, RW)?;
/// let loan = one.lend(range(0, 0x1000), &two, 0x8000.into(), RW)?;
/// assert_eq!(loan.borrowed(), 0x1000);
///
/// let report = audit([&one, &two], Meanwhile::Nothing)?;
/// assert!(report.is_clean(), "{report}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn audit<'s, P: Platform, L: LockFamily>(
    spaces: impl IntoIterator<Item = &'s GuestSpace<P, L>>,
    meanwhile: Meanwhile,
) -> Result<Report, Error> {
    let mut order = Vec::new();
    for (number, space) in spaces.into_iter().enumerate() {
        push(&mut order, (space.lock_order(), number, space)).map_err(|exhausted| exhausted.at(everywhere()))?;
    }
    order.sort_unstable_by_key(|&(lock, number, _)| (lock, number));
    order.dedup_by_key(|&mut (lock, ..)| lock);
    let mut subjects = Vec::new();
    for (_, number, space) in order {
        push(&mut subjects, Subject { number, held: space.hold_to_audit() })
            .map_err(|exhausted| exhausted.at(everywhere()))?;
    }
    // As they were given.
    subjects.sort_unstable_by_key(|subject| subject.number);
    let range = subjects.first().map_or_else(everywhere, |subject| subject.held.context().everything());
    judge(&subjects, meanwhile).map_err(|exhausted| exhausted.at(range))
}

/// What there is no memory for before any space is known.
fn everywhere() -> GuestPhysRange {
    GuestPhysRange::default()
}

fn judge<P: Platform, L: LockFamily>(
    subjects: &[Subject<'_, P, L>],
    meanwhile: Meanwhile,
) -> Result<Report, Exhausted> {
    let (mut findings, mut claims) = (Findings::default(), Claims::default());
    let mut maps = Vec::new();
    for subject in subjects {
        push(&mut maps, Map::of(subject, &mut findings)?)?;
    }
    let mut regions = Regions::of(&maps)?;
    let mut lendings = Lendings::of(subjects)?;
    for map in &maps {
        let named = named(map)?;
        inherited::check(map, &named, &mut findings);
        let read = Entries::read(map, &named, &regions, &mut lendings, &mut claims, &mut findings)?;
        let owed = Owed::read(map, &mut claims)?;
        accounts::check(map, &read, &owed, &named, meanwhile, &mut findings);
        regions.see(map)?;
        lendings.see(map, &mut findings)?;
        claims.name(map.subject.number, &named)?;
    }
    regions.check(meanwhile, &mut claims, &mut findings)?;
    lendings.check(&mut claims, &mut findings)?;
    claims.check(&mut findings);
    Ok(findings.into_report())
}

/// What a space has in common with others, by the numbers of guest-physical pages.
fn named<P: Platform, L: LockFamily>(map: &Map<'_, '_, P, L>) -> Result<Vec<Named>, Exhausted> {
    let mut named = Vec::new();
    if let Some(inherited) = map.subject.held.inherited() {
        let payer = Some(map.subject.held.payer());
        inherited.pages().read().each_named(payer, &mut |page| push(&mut named, page))?;
    }
    Ok(named)
}

/// Appends without aborting where there is no memory.
fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), Exhausted> {
    list.try_reserve(1).map_err(|_| Exhausted::Memory)?;
    list.push(item);
    Ok(())
}

#[cfg(test)]
mod tests;
