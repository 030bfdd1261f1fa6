//! Everything that can be seen, held against the twin.

use super::*;

impl Pair {
    /// What the tables show of the window, page by page.
    pub(super) fn seen(&self) -> Vec<Option<Seen>> {
        let mut seen = vec![None; PAGES];
        let window = 0..PAGES;
        let walked = self.space().walk(self.twin.range(&window), |found| {
            let start = (found.leaf_start.as_usize() - self.twin.base) / PAGE;
            let leaf = Leaf { start, pages: found.size / PAGE };
            let hpa = found.hpa.as_usize();
            assert!(hpa.is_multiple_of(found.size) && found.leaf_start.as_usize().is_multiple_of(found.size));
            for page in leaf.range() {
                let hpa = hpa + (page - start) * PAGE;
                let before = seen[page].replace(Seen { hpa, flags: found.flags, leaf });
                assert_eq!(before, None, "page {page} is translated twice");
            }
        });
        assert_eq!(walked, Ok(()));
        seen
    }

    /// Everything must be the same on both sides, and nothing lost.
    pub(super) fn compare(&mut self) {
        let shown = self.seen();
        self.twin.compare(&shown);
        for (number, seen) in shown.iter().enumerate() {
            let before = number.checked_sub(1).is_some_and(|before| shown[before].is_some());
            if number % 16 != 0 && before == seen.is_some() {
                continue;
            }
            let one = self.space().translate(self.twin.gpa(number) + 0xabc);
            assert_eq!(one.map(|one| one.hpa.as_usize()), seen.map(|seen| seen.hpa + 0xabc), "page {number}");
        }
        self.compare_areas();
        self.compare_contents();
        let (stats, own) = (self.space().stats(), self.twin.own_frames().len());
        assert_eq!(own, self.twin.own_pages(), "no two pages have one frame");
        assert_eq!(stats.owned_frames, own, "frames of the space's own");
        assert_eq!(self.machine.allocated(), own + stats.table_frames, "nothing is lost");
        let report = audit([self.space()], Meanwhile::Nothing).expect("memory");
        assert!(report.is_clean(), "{report}");
        if !self.raised {
            self.machine.scan();
        }
        self.machine.check();
    }

    fn compare_areas(&self) {
        let mut end = 0;
        let mut covered = BTreeSet::new();
        for Area { range, flags, kind } in self.space().areas().expect("areas") {
            let pages = self.twin.pages_of(range);
            assert!(pages.start >= end && !pages.is_empty(), "areas are in order");
            end = pages.end;
            for page in pages.clone() {
                let there = self.twin.page(page).expect("an area of mapped pages");
                let same = match (kind, there.behind) {
                    (AreaKind::Linear(to), Behind::Linear(hpa)) => to.as_usize() + (page - pages.start) * PAGE == hpa,
                    (AreaKind::Private, Behind::Private(_)) => true,
                    _ => false,
                };
                assert!(same && flags == there.flags, "page {page}: {kind:?} {flags:?}, not {there:?}");
                covered.insert(page);
            }
            assert_eq!(self.space().area(range.start), Some(Area { range, flags, kind }));
        }
        assert_eq!(covered.len(), self.twin.pages.iter().flatten().count(), "areas cover what is mapped");
    }

    fn compare_contents(&self) {
        for (number, page) in self.twin.pages.iter().enumerate() {
            let Some(Page { behind: Behind::Private(_), present: Some((hpa, _)), words, .. }) = page else { continue };
            for &offset in words.keys().chain(&OFFSETS) {
                let expected = words.get(&offset).copied().unwrap_or(0);
                let found = self.machine.peek(PhysAddr::from_usize(hpa + offset));
                assert_eq!(found, expected, "page {number} at {offset:#x}");
            }
        }
        for (hpa, stored) in &self.twin.foreign {
            assert_eq!(self.machine.peek(PhysAddr::from_usize(*hpa)), *stored, "foreign memory at {hpa:#x}");
        }
    }

    /// The space goes, and everything comes back.
    pub(super) fn end(mut self) {
        self.machine.park();
        drop(self.space.take());
        assert_eq!(self.machine.allocated(), 0, "all frames are returned at the end");
        self.machine.check();
    }
}
