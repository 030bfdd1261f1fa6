//! The map of the guest changes.

use super::*;

impl Pair {
    pub(super) fn map(&mut self, pages: &Range<usize>, what: What, flags: MappingFlags, lucky: bool) {
        let range = self.twin.range(pages);
        let flags = if matches!(what, What::Device) { flags | MappingFlags::DEVICE } else { flags };
        let (mapping, behind) = match what {
            What::Linear(skew) => linear(FOREIGN + (pages.start + skew) * PAGE),
            What::Device => linear(DEVICES + pages.start * PAGE),
            What::Private(populate, leaf) => (Mapping::Private { populate, leaf }, Behind::Private(leaf)),
        };
        let private = matches!(what, What::Private(..));
        let result = self.space().map(range, mapping, flags);
        if !expressible(flags) || private && flags.contains(MappingFlags::DEVICE) {
            return assert!(matches!(result, Err(Error::Flags { range: named, .. }) if named == range), "{result:?}");
        }
        if let Some(first) = self.twin.first_mapped(pages) {
            let Err(Error::Overlap { range: named, with }) = result else { panic!("{result:?}") };
            let with = self.twin.pages_of(with);
            return assert!(named == range && with.start <= first && with.contains(&first), "{with:?}, not {first}");
        }
        if out_of_memory(&result, lucky) {
            return assert_eq!(result, Err(Error::NoMemory(range)));
        }
        assert_eq!(result, Ok(()));
        let seen = self.seen();
        let taken = self.twin.own_frames();
        for page in pages.clone() {
            let behind = match behind {
                Behind::Linear(to) => Behind::Linear(to + (page - pages.start) * PAGE),
                private @ Behind::Private(_) => private,
            };
            self.twin.pages[page] = Some(Page { flags, behind, present: None, words: BTreeMap::new() });
            match (behind, seen[page]) {
                (Behind::Linear(hpa), Some(seen)) => {
                    let leaf = best_leaf(page, pages, Host::of(page, hpa - FOREIGN));
                    assert_eq!((seen.hpa, seen.leaf), (hpa, leaf), "page {page}");
                    self.twin.adopt(page, seen);
                }
                (Behind::Private(policy), Some(seen)) if matches!(what, What::Private(Populate::Now, _)) => {
                    let blocks = if policy == LeafPolicy::Largest { Host::Aligned } else { Host::Misaligned };
                    let leaf = best_leaf(page, pages, blocks);
                    assert!(seen.leaf == leaf || (!lucky && seen.leaf.pages < leaf.pages), "page {page}: {seen:?}");
                    assert!(!taken.contains(&seen.hpa), "page {page} has the frame of another");
                    self.twin.adopt(page, seen);
                }
                (_, seen) => assert!(seen.is_none() && matches!(what, What::Private(Populate::Lazy, _))),
            }
        }
    }

    pub(super) fn unmap(&mut self, pages: &Range<usize>, lucky: bool) {
        let range = self.twin.range(pages);
        let result = self.space().unmap(range);
        if self.twin.first_mapped(pages).is_none() {
            return assert_eq!(result, Err(Error::NotMapped(range)));
        }
        if out_of_memory(&result, lucky) {
            // Areas come from the heap, so only the tables that split blocks can be missing.
            return assert!(self.twin.cuts(pages, |_| true), "it needs no memory");
        }
        assert_eq!(result, Ok(()));
        self.twin.pages[pages.clone()].fill(None);
    }

    pub(super) fn protect(&mut self, pages: &Range<usize>, flags: MappingFlags, lucky: bool) {
        let range = self.twin.range(pages);
        // A device never becomes memory: the hypervisor would reach it through a pointer.
        let flags = if self.twin.any(pages, is_device) { flags | MappingFlags::DEVICE } else { flags };
        let result = self.space().protect(range, flags);
        let hole = self.twin.first_hole(pages);
        let before = pages.start..hole.unwrap_or(pages.end);
        let private = |page: &Page| matches!(page.behind, Behind::Private(_));
        if !expressible(flags) || flags.contains(MappingFlags::DEVICE) && self.twin.any(&before, private) {
            return assert!(matches!(result, Err(Error::Flags { range: named, .. }) if named == range), "{result:?}");
        }
        if let Some(hole) = hole {
            let end = self.twin.first_mapped(&(hole..pages.end)).unwrap_or(pages.end);
            return assert_eq!(result, Err(Error::NotMapped(self.twin.range(&(hole..end)))));
        }
        if out_of_memory(&result, lucky) {
            return assert!(self.twin.cuts(pages, |page| page.flags != flags), "it needs no memory");
        }
        assert_eq!(result, Ok(()));
        for page in self.twin.pages[pages.clone()].iter_mut().flatten() {
            self.raised |= !page.flags.contains(flags);
            page.flags = flags;
        }
    }

    pub(super) fn relocate(&mut self, pages: &Range<usize>, lucky: bool) {
        let range = self.twin.range(pages);
        let result = self.space().relocate(range);
        let linear = |page: usize| self.twin.page(page).is_some_and(|page| matches!(page.behind, Behind::Linear(_)));
        let stop = pages.clone().find(|&page| self.twin.page(page).is_none() || linear(page));
        if let Some(stop) = stop {
            if linear(stop) {
                return assert!(matches!(result, Err(Error::NotMemory(area)) if area.contains(self.twin.gpa(stop))));
            }
            return assert_eq!(result, Err(Error::NotMapped(self.twin.range(&(stop..pages.end)))));
        }
        let leaves = self.twin.leaves(pages);
        let moved: Vec<_> = match result {
            Ok(count) => {
                assert_eq!(count, leaves.iter().map(|leaf| leaf.pages).sum::<usize>());
                leaves
            }
            Err(Error::NoMemory(rest)) if !lucky => {
                let end = self.twin.pages_of(rest).start;
                leaves.into_iter().filter(|leaf| leaf.range().end <= end).collect()
            }
            other => panic!("{other:?}"),
        };
        let seen = self.seen();
        for leaf in moved {
            for page in leaf.range() {
                let now = seen[page].expect("what moved is there");
                // It may have the frame that another page left just before.
                let before = self.twin.page(page).and_then(|page| page.present);
                assert!(before != Some((now.hpa, now.leaf)), "page {page} did not move: {now:x?}");
                assert_eq!(now.leaf, leaf, "a leaf moves whole");
                self.twin.adopt(page, now);
            }
        }
    }
}

fn linear(to: usize) -> (Mapping, Behind) {
    (Mapping::Linear { to: PhysAddr::from_usize(to) }, Behind::Linear(to))
}

/// Whether stage 2 has these flags.
fn expressible(flags: MappingFlags) -> bool {
    flags.intersects(RWX)
        && !flags.contains(MappingFlags::USER)
        && !flags.contains(MappingFlags::DEVICE | MappingFlags::EXECUTE)
}
