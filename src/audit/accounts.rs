//! The accounts, against what is found.

use super::{
    Meanwhile,
    areas::Map,
    debt::Owed,
    entries::Entries,
    report::{Disagreement, Findings},
};
use crate::{
    account::Resource,
    lock::LockFamily,
    pages::{Named, leaving_paid},
    platform::Platform,
};

/// Holds a space's accounts against its tables, and the pages that it pays for beside them.
pub(super) fn check<P: Platform, L: LockFamily>(
    map: &Map<'_, '_, P, L>,
    read: &Entries,
    owed: &Owed,
    named: &[Named],
    meanwhile: Meanwhile,
    findings: &mut Findings,
) {
    let held = &map.subject.held;
    let paid = named.iter().filter(|page| page.is_paid).count();
    let leaving = held.inherited().map_or(0, |inherited| leaving_paid(inherited, held.payer()));
    // Others let go of those at any time.
    let besides = if meanwhile == Meanwhile::Nothing { paid + leaving } else { 0 };
    let tables = read.table_frames + owed.table_frames + held.table().pending_table_frames(held.context());
    let resources = [
        (Resource::Frames, read.frames + owed.frames + besides),
        (Resource::TableFrames, tables),
        (Resource::Areas, map.areas().len()),
    ];
    for (what, found) in resources {
        let counted = if what == Resource::Areas { held.counted_areas() } else { held.account(what).used() };
        // Areas change with the lock held alone, which is held here.
        let is_exact = meanwhile == Meanwhile::Nothing || what == Resource::Areas;
        if counted < found || (counted > found && is_exact) {
            let range = held.context().everything();
            findings.add(map.subject.number, range, Disagreement::Account { what, counted, found });
        }
    }
}
