//! Every entry of a space's tables, against the area that it lies in.

use alloc::vec::Vec;

use memory_addr::PAGE_SIZE_4K;
use page_table_multiarch::MappingFlags;

use super::{
    areas::Map,
    frames::Claims,
    inherited,
    loans::Lendings,
    push,
    regions::Regions,
    report::{Disagreement, Findings, Use},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level, PhysAddr},
    backend::Backend,
    format::{Entry, Leaf, Marked, Owner},
    loan::LoanKind,
    lock::LockFamily,
    pages::Named,
    platform::Platform,
    set::MemoryArea,
    space::Area,
    table::{Context, Seen},
};

/// What is found in a space's tables.
#[derive(Default)]
pub(super) struct Entries {
    /// Frames of 4 KiB of the space's own.
    pub frames: usize,
    /// Frames of 4 KiB that are tables.
    pub table_frames: usize,
    /// How many bytes of each area are mapped.
    mapped: Vec<usize>,
}

/// What the tables are read beside.
struct Reader<'a, 'f, 's, P: Platform, L: LockFamily> {
    map: &'a Map<'a, 's, P, L>,
    named: &'a [Named],
    regions: &'a Regions,
    lendings: &'f mut Lendings,
    claims: &'f mut Claims,
    findings: &'f mut Findings,
    read: Entries,
}

impl Entries {
    /// Reads all tables of a space.
    pub fn read<P: Platform, L: LockFamily>(
        map: &Map<'_, '_, P, L>,
        named: &[Named],
        regions: &Regions,
        lendings: &mut Lendings,
        claims: &mut Claims,
        findings: &mut Findings,
    ) -> Result<Self, Exhausted> {
        let mut read = Self::default();
        map.areas().iter().try_for_each(|_| push(&mut read.mapped, 0))?;
        let mut reader = Reader { map, named, regions, lendings, claims, findings, read };
        reader.root()?;
        let held = &map.subject.held;
        held.table().each_entry(held.context(), &mut |seen| reader.entry(&seen))?;
        reader.whole();
        Ok(reader.read)
    }
}

impl<P: Platform, L: LockFamily> Reader<'_, '_, '_, P, L> {
    fn context(&self) -> &Context<P> {
        self.map.subject.held.context()
    }

    fn complain(&mut self, range: GuestPhysRange, what: Disagreement) {
        self.findings.add(self.map.subject.number, range, what);
    }

    fn root(&mut self) -> Result<(), Exhausted> {
        let geometry = crate::format::Format::geometry(&self.context().format);
        let everything = self.context().everything();
        self.table(self.map.subject.held.table().root_address(), geometry.root_level, everything)
    }

    /// A table whose entries are of `level`.
    fn table(&mut self, at: PhysAddr, level: Level, range: GuestPhysRange) -> Result<(), Exhausted> {
        let frames = self.context().table_pages(level);
        self.read.table_frames += frames;
        self.claims.add((at, frames * PAGE_SIZE_4K), Use::Table, self.map.subject.number, range)
    }

    fn entry(&mut self, seen: &Seen) -> Result<(), Exhausted> {
        let Seen { level, range, entry, is_removed } = *seen;
        let is_pending = is_removed || self.map.is_pending(range);
        match entry {
            Entry::Absent => {}
            Entry::Table(_) | Entry::Marked(Marked::Table(_)) if level == Level::PAGE => {
                self.complain(range, Disagreement::TableTooLow(level));
            }
            Entry::Table(at) => {
                self.table(at, level.below(), range)?;
                if !is_pending && self.map.within(range).next().is_none() {
                    self.complain(range, Disagreement::TableWithoutArea);
                }
            }
            Entry::Marked(Marked::Table(at)) => {
                self.table(at, level.below(), range)?;
                self.unfinished(range, is_pending);
            }
            Entry::Busy => self.unfinished(range, false),
            Entry::Marked(Marked::Leaf(leaf)) => {
                self.own(level, range, &leaf)?;
                self.unfinished(range, is_pending);
                self.count_mapped(range);
            }
            Entry::Lent(leaf) => {
                self.own(level, range, &leaf)?;
                self.on_loan(range, leaf.at, LoanKind::Lent);
            }
            Entry::Leaf(leaf) => {
                self.own(level, range, &leaf)?;
                if !is_removed {
                    self.leaf(range, &leaf);
                }
            }
        }
        Ok(())
    }

    fn unfinished(&mut self, range: GuestPhysRange, is_pending: bool) {
        if !is_pending {
            self.complain(range, Disagreement::Unfinished);
        }
    }

    /// Counts the frames of a leaf that are the space's own.
    fn own(&mut self, level: Level, range: GuestPhysRange, leaf: &Leaf) -> Result<(), Exhausted> {
        if !matches!(leaf.owner, Owner::Space | Owner::OnLoan) {
            return Ok(());
        }
        self.read.frames += Context::<P>::leaf_pages(level);
        self.claims.add((leaf.at, Context::<P>::span(level)), Use::Memory, self.map.subject.number, range)
    }

    /// The bytes of areas that an entry maps: how many there are in its range.
    fn count_mapped(&mut self, range: GuestPhysRange) -> usize {
        let mut bytes = 0;
        for (index, _, part) in self.map.within(range) {
            self.read.mapped[index] += part.size();
            bytes += part.size();
        }
        bytes
    }

    /// Memory that is marked as on loan.
    fn on_loan(&mut self, range: GuestPhysRange, at: PhysAddr, kind: LoanKind) {
        if !self.lendings.lends(self.map.subject.number, range, at, kind) {
            self.complain(range, Disagreement::NoLoan);
        }
    }

    /// A leaf that the hardware can use, which may reach over several areas.
    fn leaf(&mut self, range: GuestPhysRange, leaf: &Leaf) {
        if self.count_mapped(range) != range.size() {
            self.complain(range, Disagreement::NoArea);
        }
        if leaf.owner == Owner::OnLoan {
            self.on_loan(range, leaf.at, LoanKind::Shared);
        }
        let map = self.map;
        for (_, area, part) in map.within(range) {
            let at = leaf.at + (part.start - range.start);
            self.part(area, part, &Leaf { at, ..*leaf });
        }
    }

    /// What of a leaf lies in one area.
    fn part(&mut self, area: &MemoryArea<Backend>, part: GuestPhysRange, leaf: &Leaf) {
        let owner = leaf.owner;
        let is_own = matches!(owner, Owner::Space | Owner::OnLoan);
        let may_be_frozen = self.map.subject.held.snapshotting().is_some();
        match area.backend() {
            Backend::Linear(offset) if owner == Owner::Foreign => {
                self.pages(part, leaf.at, |gpa| Some(offset.apply(gpa)));
            }
            Backend::Shared(view) if owner == Owner::Shared => {
                let regions = self.regions;
                self.pages(part, leaf.at, |gpa| regions.frame(view, gpa));
            }
            Backend::Borrowed(loan) if owner == Owner::Borrowed => {
                let terms = loan.terms();
                self.pages(part, leaf.at, |gpa| terms.frame_at_borrower(gpa));
            }
            Backend::Private(_) if is_own => {}
            Backend::CopyOnWrite(_) if is_own => {
                if let Some(page) = inherited::within(self.named, part).first() {
                    self.complain(inherited::page_range(page.page), Disagreement::InheritedAndOwn(page.at));
                }
            }
            Backend::CopyOnWrite(_) if owner == Owner::Frozen => self.inherited(part, leaf.at),
            Backend::Private(_) if owner == Owner::Frozen && may_be_frozen => self.inherited(part, leaf.at),
            _ => self.complain(part, Disagreement::Owner { owner, kind: Area::from(area).kind }),
        }
        let memory_type = MappingFlags::DEVICE | MappingFlags::UNCACHED;
        let allowed = owner.limit(area.flags());
        if !allowed.contains(leaf.flags) || (allowed ^ leaf.flags).intersects(memory_type) {
            self.complain(part, Disagreement::Flags { flags: leaf.flags, allowed });
        }
    }

    /// Holds a frozen leaf against what is inherited.
    fn inherited(&mut self, part: GuestPhysRange, at: PhysAddr) {
        let named = inherited::within(self.named, part);
        self.pages(part, at, |gpa| {
            let page = gpa.as_usize() / PAGE_SIZE_4K;
            named.binary_search_by_key(&page, |named| named.page).ok().map(|found| named[found].at)
        });
    }

    /// Holds the frames of each page of a leaf, the first of which is at `at`, against what is expected there.
    fn pages(&mut self, part: GuestPhysRange, at: PhysAddr, expected: impl Fn(GuestPhysAddr) -> Option<PhysAddr>) {
        for offset in (0..part.size()).step_by(PAGE_SIZE_4K) {
            let (gpa, at) = (part.start + offset, at + offset);
            let expected = expected(gpa);
            if expected != Some(at) {
                let range = GuestPhysRange::from_start_size(gpa, PAGE_SIZE_4K);
                self.complain(range, Disagreement::Frame { at, expected });
            }
        }
    }

    /// Looks for what is not mapped of memory that never waits for a fault.
    fn whole(&mut self) {
        let map = self.map;
        for (index, area) in map.areas().iter().enumerate() {
            let missing = area.size().saturating_sub(self.read.mapped[index]);
            if missing > 0 && matches!(area.backend(), Backend::Linear(_) | Backend::Borrowed(_)) {
                self.complain(area.va_range(), Disagreement::NotMapped { missing });
            }
        }
    }
}
