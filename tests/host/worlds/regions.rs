//! Regions and snapshots: made, written, frozen, mapped again.

use super::*;

impl<M: Machine> World<M> {
    pub(super) fn region(&mut self, guest: usize, pages: usize) {
        let region = self.spaces[guest].region(pages * PAGE).expect("the heap has memory");
        self.handles.push((self.twin.region(pages), Handle::Region(region)));
    }

    pub(super) fn clone_handle(&mut self, handle: usize) {
        let (number, handle) = &self.handles[handle];
        let clone = Handle::Region(handle.region().clone());
        self.handles.push((*number, clone));
    }

    pub(super) fn writer(&mut self, handle: usize) {
        let (number, handle) = &self.handles[handle];
        match handle.region().writer() {
            Ok(writer) => {
                assert!(!self.twin.regions[*number].frozen);
                self.handles.push((*number, Handle::Writer(writer)));
            }
            Err(error) => assert!(error == RegionError::Frozen && self.twin.regions[*number].frozen, "{error}"),
        }
    }

    pub(super) fn freeze(&mut self, handle: usize) {
        let (number, handle) = &self.handles[handle];
        let result = handle.region().freeze();
        let writers =
            self.handles.iter().filter(|(other, handle)| other == number && matches!(handle, Handle::Writer(_)));
        let (mapped, handles) = (self.twin.writable(*number) * PAGE, writers.count());
        if mapped > 0 || handles > 0 {
            return assert_eq!(result, Err(RegionError::Written { mapped, handles }));
        }
        assert_eq!(result, Ok(()));
        self.twin.regions[*number].frozen = true;
    }

    pub(super) fn put(&mut self, handle: usize, (page, offset): (usize, usize), value: u64) {
        let (number, Handle::Writer(writer)) = &self.handles[handle] else { return };
        let page = page % self.twin.regions[*number].cells.len();
        match self.until_brought(|| writer.write_obj(page * PAGE + offset, value)) {
            Ok(()) => {
                let cell = self.twin.regions[*number].cells[page];
                self.twin.write(cell, offset, value);
            }
            Err(error) => {
                assert!(matches!(error, RegionError::NoMemory { .. }) && self.luck.is_some(), "{error}");
            }
        }
    }

    pub(super) fn get(&mut self, handle: usize, (page, offset): (usize, usize)) {
        let (number, handle) = &self.handles[handle];
        let cells = &self.twin.regions[*number].cells;
        let page = page % cells.len();
        let expected = self.twin.cells[cells[page]].get(&offset).copied().unwrap_or(0);
        match self.until_brought(|| handle.region().read_obj::<u64>(page * PAGE + offset)) {
            Ok(value) => assert_eq!(value, expected, "page {page}"),
            Err(error) => assert!(matches!(error, RegionError::NoMemory { .. }) && self.luck.is_some(), "{error}"),
        }
    }

    pub(super) fn snapshot(&mut self, guest: usize, pace: Pace) {
        let result = match pace {
            None => self.spaces[guest].snapshot(),
            Some(entries) => {
                self.machine.park();
                self.spaces[guest].snapshot_in_steps().and_then(|mut snapshot| {
                    while snapshot.step(entries)? == Progress::More {}
                    snapshot.finish()
                })
            }
        };
        if self.twin.in_loans(guest) {
            return assert!(matches!(result, Err(Error::State { .. })), "{result:?}");
        }
        let Some((number, places)) = self.twin.snapshot(guest) else {
            return assert!(matches!(result, Err(Error::NotMapped(_))), "{result:?}");
        };
        let snapshot = result.expect("a snapshot needs no frame");
        let mut pages = places.iter();
        for (range, flags, offset) in snapshot.areas() {
            for (index, page) in pages_of(range).enumerate() {
                assert_eq!(pages.next(), Some(&(page, flags, offset / PAGE + index)));
            }
        }
        assert_eq!(pages.next(), None);
        self.handles.push((number, Handle::Snapshot(snapshot, places)));
    }

    pub(super) fn restore(&mut self, guest: usize, handle: usize) {
        let (number, Handle::Snapshot(snapshot, places)) = &self.handles[handle] else { return };
        let result = self.spaces[guest].restore(snapshot);
        if places.iter().any(|&(page, ..)| self.twin.guests[guest][page].is_some()) {
            return assert!(matches!(result, Err(Error::Overlap { .. })), "{result:?}");
        }
        assert_eq!(result, Ok(()));
        for &(page, flags, index) in places {
            let behind = Behind::Inherited(*number, index, None);
            self.twin.guests[guest][page] = Some(Page::new(flags, behind));
        }
    }
}
