//! A set that drives a page table through backends that answer `bool`.
//!
//! Each operation asks every backend first ([`MappingBackend::prepare`]), then works in address order and stops at the
//! first failure. What is done is recorded; the failing area stays as it was, and nothing behind it is touched.

use memory_addr::AddrRange;

use super::{
    Backing, Few, MappingBackend, MappingChange, MappingError, MappingResult, MemoryArea, MemorySet, areas::Touched,
    few,
};

/// The range of addresses of a backend's areas.
type RangeOf<B> = AddrRange<<B as Backing>::Addr>;

/// What an edit of a backend's areas touches.
type TouchedBy<B> = Touched<<B as Backing>::Addr>;

impl<B: MappingBackend> MemorySet<B> {
    /// Maps `area` and records it. With `unmap_overlap` what lies in its range is unmapped first.
    ///
    /// The backend maps the area in one call, after the room to record it was reserved: an area that was mapped is
    /// recorded, and one that is not recorded was not mapped, if the backend keeps the promise of
    /// [`MappingBackend::map`].
    ///
    /// # Errors
    /// - [`MappingError::InvalidParam`] if the area is empty; nothing changed;
    /// - [`MappingError::AlreadyExists`] if something is in its range, without `unmap_overlap`; nothing changed;
    /// - [`MappingError::BadState`] if there is no memory to record it, or a backend refuses in
    ///   [`prepare`](MappingBackend::prepare): nothing changed. If a backend fails later, the parts that were unmapped
    ///   by then are gone, all else is recorded as before, and `area` is not recorded.
    pub fn map(&mut self, area: MemoryArea<B>, page_table: &mut B::PageTable, unmap_overlap: bool) -> MappingResult {
        let range = area.va_range();
        if range.is_empty() {
            return Err(MappingError::InvalidParam);
        }
        let touched = self.areas.touched(range);
        if !unmap_overlap && touched.count > 0 {
            return Err(MappingError::AlreadyExists);
        }
        self.reserve(&touched, touched.insertions())?;
        self.prepare_unmap(&touched, page_table)?;
        prepared(&area, MappingChange::Map(area.flags()), range, page_table)?;
        let unmapped = self.unmap_parts(&touched, page_table);
        if unmapped.range == range && area.backend().map(area.start(), area.size(), area.flags(), page_table) {
            self.areas.carve(&unmapped, Some(area), None);
            Ok(())
        } else {
            self.areas.carve(&unmapped, None, None);
            Err(MappingError::BadState)
        }
    }

    /// Unmaps the range, across any areas and holes. Areas are cut at its ends.
    ///
    /// An empty range is unmapped without further ado.
    ///
    /// # Errors
    /// - [`MappingError::InvalidParam`] if `start + size` overflows; nothing changed;
    /// - [`MappingError::BadState`] if there is no memory to record the right part of an area that is cut in two, or a
    ///   backend refuses in [`prepare`](MappingBackend::prepare): nothing changed. If a backend fails later, the parts
    ///   before the failing area are gone; it and what follows is recorded as before.
    pub fn unmap(&mut self, start: B::Addr, size: usize, page_table: &mut B::PageTable) -> MappingResult {
        let range = AddrRange::try_from_start_size(start, size).ok_or(MappingError::InvalidParam)?;
        if range.is_empty() {
            return Ok(());
        }
        let touched = self.areas.touched(range);
        self.reserve(&touched, usize::from(touched.is_inside()))?;
        self.unmap_touched(&touched, page_table)
    }

    /// Changes the flags of what is mapped in the range. Areas are cut at its ends.
    ///
    /// `update_flags` is asked once for each area in the range, with the area's flags. An area for which it answers
    /// `None` is left alone, and not cut.
    ///
    /// # Errors
    /// - [`MappingError::InvalidParam`] if `start + size` overflows; nothing changed;
    /// - [`MappingError::BadState`] if there is no memory to record the change, or a backend refuses in
    ///   [`prepare`](MappingBackend::prepare): nothing changed. If a backend fails later, the parts before the failing
    ///   area have their new flags; it and what follows keeps the old.
    pub fn protect(
        &mut self,
        start: B::Addr,
        size: usize,
        update_flags: impl Fn(B::Flags) -> Option<B::Flags>,
        page_table: &mut B::PageTable,
    ) -> MappingResult {
        let range = AddrRange::try_from_start_size(start, size).ok_or(MappingError::InvalidParam)?;
        let touched = self.areas.touched(range);
        let changes = self.flag_changes(&touched, update_flags)?;
        if changes.iter().all(Option::is_none) {
            return Ok(());
        }
        self.reserve(&touched, touched.cuts())?;
        let pieces = || self.areas.pieces(&touched).zip(&changes).enumerate();
        for (_, ((area, part), change)) in pieces() {
            if let Some(flags) = change {
                prepared(area, MappingChange::Protect(*flags), part, page_table)?;
            }
        }
        let failed = pieces().find(|(_, ((area, part), change))| {
            change.is_some_and(|flags| !area.backend().protect(part.start, part.size(), flags, page_table))
        });
        let failed = failed.map(|(index, ((_, part), _))| touched.up_to(index, part.start));
        let mut changes = changes.iter();
        let ask = |_: &MemoryArea<B>| changes.next().copied().flatten();
        self.areas.change(failed.as_ref().unwrap_or(&touched), ask, MemoryArea::set_flags);
        done(failed.is_none())
    }

    /// Unmaps and removes all areas.
    ///
    /// # Errors
    /// [`MappingError::BadState`] if a backend refuses in [`prepare`](MappingBackend::prepare): nothing changed. If one
    /// fails later, the areas before the failing one are gone; it and what follows is recorded as before.
    pub fn clear(&mut self, page_table: &mut B::PageTable) -> MappingResult {
        let Some(range) = self.areas.span() else { return Ok(()) };
        self.unmap_touched(&self.areas.touched(range), page_table)
    }

    /// Reserves what an edit needs that adds so many areas.
    fn reserve(&mut self, touched: &TouchedBy<B>, insertions: usize) -> MappingResult {
        self.areas.reserve(touched.place, touched.count, insertions).map_err(|_| MappingError::BadState)
    }

    /// Asks the backends of all that is in the range whether it can be unmapped.
    fn prepare_unmap(&self, touched: &TouchedBy<B>, page_table: &mut B::PageTable) -> MappingResult {
        self.areas.pieces(touched).try_for_each(|(area, part)| prepared(area, MappingChange::Unmap, part, page_table))
    }

    /// Unmaps what is in the range up to the first failure, and removes that much.
    fn unmap_touched(&mut self, touched: &TouchedBy<B>, page_table: &mut B::PageTable) -> MappingResult {
        self.prepare_unmap(touched, page_table)?;
        let unmapped = self.unmap_parts(touched, page_table);
        let is_all = unmapped.range == touched.range;
        self.areas.carve(&unmapped, None, None);
        done(is_all)
    }

    /// Has the backends unmap what is in the range, and answers how much of it that was before one failed.
    fn unmap_parts(&self, touched: &TouchedBy<B>, page_table: &mut B::PageTable) -> TouchedBy<B> {
        let mut pieces = self.areas.pieces(touched).enumerate();
        let failed = pieces.find(|(_, (area, part))| !area.backend().unmap(part.start, part.size(), page_table));
        failed.map_or(*touched, |(index, (_, part))| touched.up_to(index, part.start))
    }

    /// What `update_flags` answers for each area in the range.
    fn flag_changes(
        &self,
        touched: &TouchedBy<B>,
        update_flags: impl Fn(B::Flags) -> Option<B::Flags>,
    ) -> MappingResult<Few<Option<B::Flags>>> {
        let mut changes = Few::in_room(few::room_for(touched.count).map_err(|_| MappingError::BadState)?);
        self.areas.pieces(touched).for_each(|(area, _)| changes.push(update_flags(area.flags())));
        Ok(changes)
    }
}

/// Asks an area's backend whether a change to a part of it can be done.
fn prepared<B: MappingBackend>(
    area: &MemoryArea<B>,
    change: MappingChange<B::Flags>,
    part: RangeOf<B>,
    page_table: &mut B::PageTable,
) -> MappingResult {
    done(area.backend().prepare(change, part.start, part.size(), page_table))
}

/// A backend's answer as a result.
fn done(answer: bool) -> MappingResult {
    answer.then_some(()).ok_or(MappingError::BadState)
}

#[cfg(test)]
mod tests {
    use alloc::{string::String, vec::Vec};
    use std::format;

    use memory_addr::{VirtAddr, va};

    use super::super::{MappingBackend, MappingChange, MappingError, MemoryArea, MemorySet};

    /// Writes down what it is asked, and refuses a change when there is one to refuse.
    #[derive(Clone)]
    struct Asked;

    #[derive(Default)]
    struct Log {
        lines: Vec<String>,
        refuse: Option<MappingChange<u8>>,
    }

    impl MappingBackend for Asked {
        type Addr = VirtAddr;
        type Flags = u8;
        type PageTable = Log;

        fn map(&self, start: VirtAddr, size: usize, flags: u8, log: &mut Log) -> bool {
            log.lines.push(format!("map {} {size} {flags}", start.as_usize()));
            true
        }

        fn unmap(&self, start: VirtAddr, size: usize, log: &mut Log) -> bool {
            log.lines.push(format!("unmap {} {size}", start.as_usize()));
            true
        }

        fn protect(&self, start: VirtAddr, size: usize, new_flags: u8, log: &mut Log) -> bool {
            log.lines.push(format!("protect {} {size} {new_flags}", start.as_usize()));
            true
        }

        fn prepare(&self, change: MappingChange<u8>, start: VirtAddr, size: usize, log: &mut Log) -> bool {
            log.lines.push(format!("{change:?} {} {size}?", start.as_usize()));
            log.refuse != Some(change)
        }
    }

    /// Areas at 10..20 and 30..40.
    fn two() -> (MemorySet<Asked>, Log) {
        let (mut set, mut log) = (MemorySet::new(), Log::default());
        for start in [10, 30] {
            set.map(MemoryArea::new(va!(start), 10, 1, Asked), &mut log, false).unwrap();
        }
        log.lines.clear();
        (set, log)
    }

    #[test]
    fn every_part_is_asked_before_the_first_changes() {
        let (mut set, mut log) = two();
        set.map(MemoryArea::new(va!(15), 20, 2, Asked), &mut log, true).unwrap();
        assert_eq!(
            log.lines,
            ["Unmap 15 5?", "Unmap 30 5?", "Map(2) 15 20?", "unmap 15 5", "unmap 30 5", "map 15 20 2"]
        );
        log.lines.clear();
        set.protect(va!(12), 10, |old| Some(old + 4), &mut log).unwrap();
        assert_eq!(log.lines, ["Protect(5) 12 3?", "Protect(6) 15 7?", "protect 12 3 5", "protect 15 7 6"]);
        log.lines.clear();
        set.clear(&mut log).unwrap();
        let (asked, done) = log.lines.split_at(log.lines.len() / 2);
        assert!(asked.iter().all(|line| line.ends_with('?')) && !done.iter().any(|line| line.ends_with('?')));
    }

    /// Fails unless backends were asked and nothing was done.
    fn assert_untouched(set: &MemorySet<Asked>, log: &mut Log) {
        assert!(log.lines.drain(..).all(|line| line.ends_with('?')));
        let areas = set.iter().map(|area| (area.start(), area.size(), area.flags()));
        assert!(areas.eq([(va!(10), 10, 1), (va!(30), 10, 1)]));
    }

    #[test]
    fn one_refusal_is_enough_to_change_nothing() {
        let (mut set, mut log) = two();
        log.refuse = Some(MappingChange::Unmap);
        assert_eq!(set.unmap(va!(15), 20, &mut log), Err(MappingError::BadState));
        assert_untouched(&set, &mut log);
        assert_eq!(set.clear(&mut log), Err(MappingError::BadState));
        assert_untouched(&set, &mut log);
        log.refuse = Some(MappingChange::Map(2));
        let area = MemoryArea::new(va!(15), 20, 2, Asked);
        assert_eq!(set.map(area, &mut log, true), Err(MappingError::BadState));
        assert_untouched(&set, &mut log);
        log.refuse = Some(MappingChange::Protect(3));
        assert_eq!(set.protect(va!(15), 20, |_| Some(3), &mut log), Err(MappingError::BadState));
        assert_untouched(&set, &mut log);
    }
}
