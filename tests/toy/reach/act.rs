//! What is done in a story, to the guests and to their twin.

use stage2::loan::Handover;

use super::*;

impl World {
    /// One guest whose window is private memory.
    pub(super) fn new(pooled: Pooled) -> Self {
        let board = Board::new();
        let (image, pager) = image();
        let twin = Twin { takes: pooled == Pooled::All, ..Twin::default() };
        let (spaces, handles, log) = (Vec::new(), Vec::new(), Vec::new());
        let mut world = Self { board, pooled, pager, image, spaces, handles, twin, stamp: 0, fresh: 0, log };
        world.begin();
        world.map(0, 0..PAGES).expect("an empty guest");
        world
    }

    /// Does one operation, if there is what it needs, and looks at everything.
    pub(super) fn run(&mut self, op: Op) -> Verdict {
        let done = self.log.len();
        self.apply(op).and_then(|()| if self.log.len() > done { self.check() } else { Ok(()) })
    }

    fn apply(&mut self, op: Op) -> Verdict {
        let [one, two, three, four, five, six] = op.numbers;
        if self.spaces.is_empty() {
            self.begin();
        }
        let guests = self.spaces.len();
        let (guest, start, most) = (one % guests, two % PAGES, 1 + three % PAGES);
        match op.kind {
            Kind::Begin => {
                self.begin();
            }
            Kind::End => self.end_guest(guest),
            Kind::Map => {
                let Some(pages) = self.twin.run(guest, start, most, |slot| slot.is_none()) else { return Ok(()) };
                return self.map(guest, pages);
            }
            Kind::MapFrom => {
                let Some(pages) = self.twin.run(guest, start, most, |slot| slot.is_none()) else { return Ok(()) };
                return self.map_from(guest, pages);
            }
            Kind::Unmap => return self.unmap(guest, start..(start + 1 + three % 6).min(PAGES), four),
            Kind::Discard => return self.discard(guest, (start, most), (four, five)),
            Kind::Replace => return self.replace(guest, (start, most), (four, five), six),
            Kind::Punch => return self.punch(one, (two, three)),
            Kind::Write | Kind::Read => return self.access(guest, start, op.kind == Kind::Write, three % 2 == 0),
            Kind::Snapshot => return self.snapshot(guest, two % 4 == 0),
            Kind::Fork | Kind::Rewind | Kind::Restore => {
                let Some(handle) = self.any_handle(two, |handle, _| matches!(handle, Handle::Snapshot(_))) else {
                    return Ok(());
                };
                return match op.kind {
                    Kind::Fork => self.fork(handle),
                    Kind::Rewind => {
                        self.unmap(guest, 0..PAGES, three)?;
                        self.restore(guest, handle)
                    }
                    _ => self.restore(guest, handle),
                };
            }
            Kind::Region => self.region(guest, 1 + two % 6, (three, four)),
            Kind::RegionFrom => self.region_from(guest, 1 + two % 6, three % 2 == 0),
            Kind::Freeze => return self.freeze(two),
            Kind::Share => return self.map_region(guest, (start, 1 + three % 6), (four, five), false),
            Kind::Inherit => return self.map_region(guest, (start, 1 + three % 6), (four, five), true),
            Kind::Clone => self.clone_handle(one),
            Kind::Drop => self.drop_handle(one),
            Kind::Put => return self.put(one, two),
            Kind::Get => return self.get(one, two),
            Kind::MakeShared => return self.make_shared(guest, start, 1 + three % 4, four % 2 == 0),
            Kind::MakePrivate => return self.make_private(guest, start, 1 + three % 4),
            Kind::Donate => return self.donate(guest, (start, 1 + three % 3), (four, five)),
            Kind::Loan => return self.lend(guest, (start, 1 + three % 3), (four, five), six),
            Kind::Populate => return self.populate_ahead(guest, (start, most), four),
            Kind::Offer if four % 3 == 0 => return self.offer_to_handle(two, three),
            Kind::Offer => return self.offer(guest, start),
            Kind::Relocate => return self.relocate(guest, start, most),
        }
        Ok(())
    }

    /// Says what is being done.
    pub(super) fn note(&mut self, what: String) {
        self.log.push(what);
    }

    /// One of the handles that are wanted.
    pub(super) fn any_handle(&self, number: usize, wanted: impl Fn(&Handle, usize) -> bool) -> Option<usize> {
        let is = |index: &usize| wanted(&self.handles[*index], self.twin.handles[*index]);
        let some: Vec<usize> = (0..self.handles.len()).filter(is).collect();
        some.get(number % some.len().max(1)).copied()
    }

    fn begin(&mut self) -> bool {
        if self.spaces.len() == GUESTS {
            return false;
        }
        let pooled = match self.pooled {
            Pooled::All => true,
            Pooled::Some => self.spaces.len().is_multiple_of(2),
            Pooled::None => false,
        };
        self.note(format!("a new guest {}", self.spaces.len()));
        self.spaces.push(machine::space(&self.board, pooled));
        self.twin.guests.push(twin::Guest { slots: [None; PAGES], pooled });
        true
    }

    fn end_guest(&mut self, guest: usize) {
        self.note(format!("guest {guest} dies; those behind it move up"));
        drop(self.spaces.remove(guest));
        self.twin.guests.remove(guest);
    }

    fn map(&mut self, guest: usize, pages: Range<usize>) -> Verdict {
        self.note(format!("guest {guest}: map {pages:?}, private and lazy"));
        self.spaces[guest].map(span(&pages), LAZY, RW).map_err(|error| format!("map: {error}"))?;
        for page in pages {
            let cell = self.twin.cell(Holds::Zeros);
            self.twin.guests[guest].slots[page] =
                Some(Slot { cell, stand: Stand::Private, own: Own::No, origin: None });
        }
        Ok(())
    }

    fn map_from(&mut self, guest: usize, pages: Range<usize>) -> Verdict {
        self.note(format!("guest {guest}: map_from {pages:?}"));
        let first = self.fresh;
        self.fresh += pages.len();
        let mapped = self.spaces[guest].map_from(span(&pages), &self.pager, first * PAGE, RW);
        mapped.map_err(|error| format!("map_from: {error}"))?;
        for (index, page) in pages.enumerate() {
            let cell = self.twin.cell(Holds::Missing(first + index));
            self.twin.inherit(guest, page, (cell, Some(first + index)));
        }
        Ok(())
    }

    /// At once, or in steps.
    fn unmap(&mut self, guest: usize, pages: Range<usize>, pace: usize) -> Verdict {
        if self.twin.guests[guest].slots[pages.clone()].iter().all(Option::is_none) {
            return Ok(());
        }
        self.note(format!("guest {guest}: unmap {pages:?}{}", if pace.is_multiple_of(3) { ", in steps" } else { "" }));
        let space = &self.spaces[guest];
        let unmapped = if pace.is_multiple_of(3) {
            space.unmap_in_steps(span(&pages)).map(|mut unmapping| {
                for _ in 0..pace % 5 {
                    let _ = unmapping.step(1);
                }
            })
        } else {
            space.unmap(span(&pages))
        };
        unmapped.map_err(|error| format!("unmap: {error}"))?;
        self.twin.guests[guest].slots[pages].fill(None);
        Ok(())
    }

    /// A guest, or the hypervisor in its place, reads or writes a page that is mapped.
    fn access(&mut self, guest: usize, start: usize, writes: bool, by_guest: bool) -> Verdict {
        let Some(pages) = self.twin.run(guest, start, 1, |slot| slot.is_some()) else { return Ok(()) };
        let page = pages.start;
        let who = if by_guest { "" } else { "the hypervisor " };
        let value = writes.then(|| {
            self.stamp += 1;
            self.stamp
        });
        let Slot { cell, .. } = self.twin.slot(guest, page);
        let what = value.map_or("read".to_string(), |value| format!("write {value:#x} to"));
        self.note(format!("guest {guest}: {who}{what} {page} (#{cell})"));
        self.twin.touch(guest, page, value);
        let Holds::Page(there) = self.twin.cells[self.twin.slot(guest, page).cell] else { panic!("it was touched") };
        let space = &self.spaces[guest];
        let read = if by_guest {
            let access = if writes { Access::Write } else { Access::Read };
            let hpa = as_guest(space, at(page), access)?;
            let word = self.board.pointer(hpa).cast::<u64>();
            if let Some(value) = value {
                // SAFETY: it is a page of the board's, and nothing else accesses it meanwhile.
                unsafe { word.write(value) }
            }
            // SAFETY: as above.
            unsafe { word.read() }
        } else {
            let stored = value.map_or(Ok(()), |value| space.store(at(page), value));
            stored.and_then(|()| space.load::<u64>(at(page))).map_err(|error| error.to_string())?
        };
        if read == there { Ok(()) } else { Err(format!("page {page} starts with {read:#x}, not {there:#x}")) }
    }

    /// At once, or in steps.
    fn snapshot(&mut self, guest: usize, in_steps: bool) -> Verdict {
        if !self.twin.guests[guest].slots.iter().flatten().any(Slot::is_its_own) {
            return Ok(());
        }
        let number = self.handles.len();
        self.note(format!("guest {guest}: snapshot{}: handle {number}", if in_steps { " in steps" } else { "" }));
        let space = &self.spaces[guest];
        let snapshot = if in_steps {
            space.snapshot_in_steps().and_then(|mut steps| {
                let _ = steps.step(7)?;
                steps.finish()
            })
        } else {
            space.snapshot()
        };
        self.handles.push(Handle::Snapshot(snapshot.map_err(|error| format!("snapshot: {error}"))?));
        self.twin.snapshot(guest);
        Ok(())
    }

    fn fork(&mut self, handle: usize) -> Verdict {
        if self.begin() { self.restore(self.spaces.len() - 1, handle) } else { Ok(()) }
    }

    /// If nothing is in the way.
    fn restore(&mut self, guest: usize, handle: usize) -> Verdict {
        let Handle::Snapshot(snapshot) = &self.handles[handle] else { return Ok(()) };
        let region = self.twin.handles[handle];
        let places = self.twin.regions[region].places.clone();
        let is_free = |page: &usize| self.twin.guests[guest].slots[*page].is_none();
        if !places.iter().all(is_free) {
            return Ok(());
        }
        let restored = self.spaces[guest].restore(snapshot);
        self.note(format!("guest {guest}: restore handle {handle}"));
        restored.map_err(|error| format!("restore: {error}"))?;
        for (index, page) in places.into_iter().enumerate() {
            let twin::Region { cells, origins, .. } = &self.twin.regions[region];
            let (cell, origin) = (cells[index], origins[index]);
            self.twin.inherit(guest, page, (cell, origin));
        }
        Ok(())
    }

    /// A page of its own, for sure, which nothing else reaches.
    pub(super) fn is_own(&self, slot: Option<Slot>) -> bool {
        slot.is_some_and(|slot| slot.is_its_own() && slot.own == Own::Yes && self.twin.reachers(slot.cell) == 1)
    }

    /// Or untouched private memory.
    pub(super) fn is_convertible(&self, slot: Option<Slot>) -> bool {
        let untouched = |slot: Slot| slot.stand == Stand::Private && matches!(self.twin.cells[slot.cell], Holds::Zeros);
        self.is_own(slot) || slot.is_some_and(untouched)
    }

    fn make_shared(&mut self, guest: usize, start: usize, most: usize, is_kept: bool) -> Verdict {
        let Some(pages) = self.twin.run(guest, start, most, |slot| self.is_convertible(slot)) else { return Ok(()) };
        let (number, kept) = (self.handles.len(), if is_kept { "" } else { ", not kept" });
        self.note(format!("guest {guest}: make_shared {pages:?}: handle {number}{kept}"));
        let region = self.spaces[guest].make_shared(span(&pages)).map_err(|error| format!("make_shared: {error}"))?;
        let window = self.new_window();
        let cells: Vec<_> = pages.clone().map(|page| self.twin.slot(guest, page).cell).collect();
        let origins = vec![None; cells.len()];
        self.twin.regions.push(twin::Region { cells, origins, frozen: false, places: Vec::new() });
        let index = self.twin.regions.len() - 1;
        for slot in self.twin.guests[guest].slots[pages].iter_mut().flatten() {
            (slot.stand, slot.own, slot.origin) = (Stand::Shared(index, window), Own::No, None);
        }
        if is_kept {
            self.handles.push(Handle::Region(region));
            self.twin.handles.push(index);
        }
        Ok(())
    }

    /// Works where this mapping is all there is of the region.
    fn make_private(&mut self, guest: usize, start: usize, most: usize) -> Verdict {
        let shared = |slot: Option<Slot>| slot.is_some_and(|slot| matches!(slot.stand, Stand::Shared(..)));
        let Some(pages) = self.twin.run(guest, start, 1, shared) else { return Ok(()) };
        let (start, stand) = (pages.start, self.twin.slot(guest, pages.start).stand);
        let same = |slot: Option<Slot>| slot.is_some_and(|slot| slot.stand == stand);
        let Some(pages) = self.twin.run(guest, start, most, same) else { return Ok(()) };
        let Stand::Shared(region, window) = stand else { return Ok(()) };
        let mappings = self.twin.mappings(region);
        let is_sole = mappings == [(guest, window)];
        let others = mappings.iter().any(|&(other, _)| other != guest);
        // Two mappings of one guest may have become one.
        if !self.twin.has_handle(region) && !is_sole && !others {
            return Ok(());
        }
        self.note(format!("guest {guest}: make_private {pages:?}"));
        match self.spaces[guest].make_private(span(&pages), Handover::Keep) {
            Ok(()) if !self.twin.has_handle(region) && is_sole && self.twin.guests[guest].pooled => {}
            Err(Error::Region { .. }) if self.twin.has_handle(region) || others => return Ok(()),
            Err(Error::Allocators(_)) if !self.twin.takes => return Ok(()),
            other => return Err(format!("make_private: {other:?}")),
        }
        for page in pages {
            let cell = self.twin.slot(guest, page).cell;
            self.twin.bring(cell);
            let is_page = matches!(self.twin.cells[cell], Holds::Page(_));
            let own = if is_page { Own::Yes } else { Own::No };
            self.twin.guests[guest].slots[page] = Some(Slot { cell, stand: Stand::Private, own, origin: None });
        }
        Ok(())
    }

    pub(super) fn new_window(&mut self) -> usize {
        self.twin.windows += 1;
        self.twin.windows
    }
}
