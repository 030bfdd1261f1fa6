//! What a space inherited, against its areas.

use memory_addr::PAGE_SIZE_4K;

use super::{
    areas::Map,
    report::{Disagreement, Findings},
};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::Backend,
    lock::LockFamily,
    pages::Named,
    platform::Platform,
    set::MemoryArea,
};

/// The addresses of a page.
pub(super) fn page_range(page: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(GuestPhysAddr::from_usize(page * PAGE_SIZE_4K), PAGE_SIZE_4K)
}

/// Looks for pages that are inherited where no area inherits.
pub(super) fn check<P: Platform, L: LockFamily>(map: &Map<'_, '_, P, L>, named: &[Named], findings: &mut Findings) {
    let held = &map.subject.held;
    let inherits = |area: &MemoryArea<Backend>| match area.backend() {
        Backend::CopyOnWrite(_) => true,
        // What a snapshot in steps has frozen already.
        Backend::Private(_) => held.snapshotting().is_some(),
        _ => false,
    };
    for page in named {
        let range = page_range(page.page);
        let in_area = map.within(range).any(|(_, area, _)| inherits(area));
        // What was removed is inherited until all CPUs have been told.
        let in_removed = || held.removed().any(|area| inherits(area) && area.va_range().overlaps(range));
        if !in_area && !in_removed() {
            findings.add(map.subject.number, range, Disagreement::InheritedWithoutArea(page.at));
        }
    }
}

/// What is inherited within a range, in order.
pub(super) fn within(named: &[Named], range: GuestPhysRange) -> &[Named] {
    let first = named.partition_point(|page| page_range(page.page).end <= range.start);
    let count = named[first..].partition_point(|page| page_range(page.page).start < range.end);
    &named[first..first + count]
}
