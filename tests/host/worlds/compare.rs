//! Everything that can be seen, held against the twin.

use super::*;

impl<M: Machine> World<M> {
    /// Holds everything that can be seen against the twin.
    pub(super) fn compare(&self) {
        let mut cells = BTreeMap::new();
        let mut frames = BTreeMap::new();
        for guest in 0..self.spaces.len() {
            self.compare_areas(guest);
            self.compare_pages(guest, &mut cells, &mut frames);
        }
        for (number, handle) in &self.handles {
            self.compare_region(&self.twin.regions[*number].cells, handle.region());
        }
        self.compare_frames();
        let report = audit(&self.spaces, Meanwhile::Nothing).expect("memory");
        assert!(report.is_clean(), "{report}");
    }

    fn compare_areas(&self, guest: usize) {
        let areas = self.spaces[guest].areas().expect("areas");
        assert_eq!(self.spaces[guest].usage().areas, areas.len());
        let mut pages = self.twin.guests[guest].iter().enumerate().filter_map(|(page, there)| Some((page, (*there)?)));
        for Area { range, flags, kind } in areas {
            for (index, page) in pages_of(range).enumerate() {
                let Some((number, there)) = pages.next() else { panic!("{range:?} is not mapped") };
                let same = match (kind, there.behind) {
                    (AreaKind::Private, Behind::Own(_)) | (AreaKind::Borrowed, Behind::Borrowed(..)) => true,
                    (AreaKind::Shared(offset), Behind::Shared(_, from))
                    | (AreaKind::CopyOnWrite(offset), Behind::Inherited(_, from, _)) => offset / PAGE + index == from,
                    _ => false,
                };
                assert!(number == page && same && flags == there.flags, "{page}: {kind:?}, not {number}: {there:?}");
            }
        }
        assert_eq!(pages.next(), None, "it has no area");
    }

    /// Each frame holds one cell, the leaves have the flags that the twin says, and no page that has words is missing.
    fn compare_pages(&self, guest: usize, cells: &mut BTreeMap<usize, Cell>, frames: &mut BTreeMap<Cell, usize>) {
        let (space, pages) = (&self.spaces[guest], &self.twin.guests[guest]);
        let (mut own, mut copies) = (0, 0);
        let mut translated = BTreeSet::new();
        let walked = space.walk(range(&(0..PAGES)), |leaf| {
            let span = leaf.leaf_start..leaf.leaf_start + leaf.size;
            for page in pages_of(stage2::GuestPhysRange { start: span.start, end: span.end }) {
                let Some(there) = &pages[page] else { panic!("page {page} is not mapped, but translated") };
                let hpa = leaf.hpa.as_usize()
                    + (page - pages_of(stage2::GuestPhysRange { start: span.start, end: span.end }).start) * PAGE;
                let frozen = matches!(there.behind, Behind::Inherited(_, _, None));
                let flags = if frozen { there.flags - MappingFlags::WRITE } else { there.flags };
                assert_eq!(leaf.flags, flags, "page {page}");
                let cell = self.twin.visible(there.behind);
                assert_eq!(*cells.entry(hpa).or_insert(cell), cell, "page {page} has another's frame");
                let words = &self.twin.cells[cell];
                if !words.is_empty() {
                    assert_eq!(*frames.entry(cell).or_insert(hpa), hpa, "page {page} is in two frames");
                }
                for offset in words.keys().chain(&OFFSETS) {
                    let expected = words.get(offset).copied().unwrap_or(0);
                    assert_eq!(self.machine.peek((hpa + offset).into()), expected, "page {page} at {offset:#x}");
                }
                own += usize::from(matches!(there.behind, Behind::Own(_)));
                copies += usize::from(matches!(there.behind, Behind::Inherited(_, _, Some(_))));
                translated.insert(page);
            }
        });
        walked.expect("a range of the space");
        for (page, there) in pages.iter().enumerate().filter_map(|(page, there)| Some((page, (*there)?))) {
            let must = match there.behind {
                _ if there.is_lent() => false,
                Behind::Borrowed(..) => true,
                Behind::Own(cell) => !self.twin.cells[cell].is_empty(),
                Behind::Inherited(_, _, copy) => copy.is_some(),
                Behind::Shared(..) => false,
            };
            assert!(!must || translated.contains(&page), "page {page} is lost: {there:?}");
        }
        let (stats, usage) = (space.stats(), space.usage());
        let count = |is: &dyn Fn(&Page) -> bool| pages.iter().flatten().filter(|page| is(page)).count();
        let lent = count(&Page::is_lent);
        let borrowed = count(&|page| matches!(page.behind, Behind::Borrowed(..)));
        assert_eq!((stats.owned_frames, stats.lent_frames, stats.borrowed_frames), (own + copies, lent, borrowed));
        let on_loan = count(&|page| page.loan.is_some() && matches!(page.behind, Behind::Inherited(..)));
        let lent_copies = count(&|page| page.is_lent() && matches!(page.behind, Behind::Inherited(..)));
        assert_eq!(stats.copied_frames, copies + lent_copies - on_loan);
        // What a source brought is on the account before the guest has it.
        let is_sourced = |page: &Page| matches!(page.behind, Behind::Inherited(..) if self.is_sourced(page.behind));
        let brought = own + copies + lent..=own + copies + lent + count(&is_sourced);
        assert!(brought.contains(&usage.frames), "{usage:?}, not {brought:?}");
        assert_eq!(usage.table_frames, stats.table_frames);
    }

    /// Whether a source may be behind a page.
    fn is_sourced(&self, behind: Behind) -> bool {
        let Behind::Inherited(region, ..) = behind else { return false };
        let mut regions = vec![region];
        while let Some(region) = regions.pop() {
            if self.twin.regions[region].sourced {
                return true;
            }
            regions.extend(&self.twin.regions[region].bases);
        }
        false
    }

    fn compare_region(&self, cells: &[Cell], region: &SharedRegion) {
        assert_eq!(region.size(), cells.len() * PAGE);
        for (page, cell) in cells.iter().enumerate() {
            for (offset, expected) in &self.twin.cells[*cell] {
                match region.read_obj(page * PAGE + offset) {
                    Err(RegionError::NotYet { .. }) => {}
                    there => assert_eq!(there, Ok(*expected), "page {page} of a region"),
                }
            }
        }
    }

    /// Each frame is a guest's, by its account, or a region's; those of regions without a handle cannot be counted.
    fn compare_frames(&self) {
        let guests = self.spaces.iter().map(GuestSpace::usage).map(|usage| usage.frames + usage.table_frames);
        let rest = self.machine.allocated() - guests.sum::<usize>();
        let held: BTreeMap<usize, usize> =
            self.handles.iter().map(|(number, handle)| (*number, handle.region().frames())).collect();
        // What a lender left behind is free page by page, when no borrower has it any more.
        let orphan = |page: &Page| match page.behind {
            Behind::Borrowed(loan, index) => {
                let terms = &self.twin.loans[loan];
                terms.lender.is_none().then(|| terms.cells[index])
            }
            _ => None,
        };
        let left = self.twin.guests.iter().flatten().flatten().filter_map(orphan).collect::<BTreeSet<Cell>>().len();
        let known = held.values().sum::<usize>() + left;
        let unheld = |number: &usize| {
            !held.contains_key(number) && self.twin.lives(*number, &|region| held.contains_key(&region))
        };
        let unknown: usize =
            (0..self.twin.regions.len()).filter(unheld).map(|number| self.twin.regions[number].cells.len()).sum();
        // Snapshots share what did not change between them: how much, the reachability twin of the toy board knows.
        let least = held.values().max().copied().unwrap_or(0);
        assert!(
            (least..=known + unknown).contains(&rest),
            "regions have {rest} frames, not {least} to {known} + {unknown}"
        );
    }

    /// Everything is read once more, unmapped, and dropped: every frame comes back.
    pub(super) fn end(mut self, check: impl Fn(&M)) {
        for guest in 0..self.spaces.len() {
            self.spaces[guest].set_limits(Limits::default());
            for page in 0..PAGES {
                let Some(there) = self.twin.guests[guest][page] else { continue };
                let cell = self.twin.visible(there.behind);
                for (offset, value) in self.twin.cells[cell].iter().filter(|_| !there.is_lent()) {
                    let read = self.until_there(|| self.spaces[guest].read_obj(gpa(page) + *offset));
                    assert_eq!(read, Ok(*value), "page {page}");
                }
            }
        }
        check(&self.machine);
        self.end_loans();
        for (space, pages) in self.spaces.iter().zip(&mut self.twin.guests) {
            match space.unmap(range(&(0..PAGES))) {
                Ok(()) => {}
                Err(error) => assert_eq!(error, Error::NotMapped(range(&(0..PAGES)))),
            }
            pages.fill(None);
            assert_eq!(space.usage(), self.fresh, "nothing is mapped");
        }
        self.compare_frames();
        self.handles.clear();
        self.machine.park();
        self.spaces.clear();
        assert_eq!(self.machine.allocated(), 0, "all frames are returned at the end");
        check(&self.machine);
    }
}
