//! What is done to regions, and by their handles.

use super::*;

impl World {
    /// A region, some pages of which are written.
    pub(super) fn region(&mut self, guest: usize, pages: usize, (written, frozen): (usize, usize)) {
        let region = self.spaces[guest].region(pages * PAGE).expect("memory for a region");
        let cells = (0..pages).map(|_| self.twin.cell(Holds::Zeros)).collect();
        let origins = vec![None; pages];
        self.twin.regions.push(twin::Region { cells, origins, frozen: false, places: Vec::new() });
        let index = self.twin.regions.len() - 1;
        let mut wrote = Vec::new();
        for page in (0..pages).filter(|page| written >> page & 1 == 1) {
            self.stamp += 1;
            let writer = region.writer().expect("not frozen");
            writer.store(page * PAGE, self.stamp).expect("memory");
            self.twin.write(index, page, self.stamp);
            wrote.push(page);
        }
        let is_frozen = frozen.is_multiple_of(2);
        if is_frozen {
            region.freeze().expect("nothing writes it");
            self.twin.regions[index].frozen = true;
        }
        let (number, frozen) = (self.handles.len(), if is_frozen { "frozen" } else { "not frozen" });
        self.note(format!("a region of {pages} pages, {wrote:?} written, {frozen}: handle {number}"));
        self.handles.push(Handle::Region(region));
        self.twin.handles.push(index);
    }

    pub(super) fn region_from(&mut self, guest: usize, pages: usize, is_frozen: bool) {
        let first = self.fresh;
        self.fresh += pages;
        let region = self.spaces[guest].region_from(pages * PAGE, &self.pager, first * PAGE).expect("memory");
        if is_frozen {
            region.freeze().expect("nothing writes it");
        }
        let cells = (0..pages).map(|page| self.twin.cell(Holds::Missing(first + page))).collect();
        let origins = (first..first + pages).map(Some).collect();
        self.twin.regions.push(twin::Region { cells, origins, frozen: is_frozen, places: Vec::new() });
        let (number, frozen) = (self.handles.len(), if is_frozen { "frozen" } else { "not frozen" });
        self.note(format!("a region of {pages} pages from a source, {frozen}: handle {number}"));
        self.handles.push(Handle::Region(region));
        self.twin.handles.push(self.twin.regions.len() - 1);
    }

    pub(super) fn freeze(&mut self, number: usize) -> Verdict {
        let Some(handle) = self.any_handle(number, |_, region| !self.twin.regions[region].frozen) else {
            return Ok(());
        };
        self.note(format!("freeze handle {handle}"));
        let region = self.twin.handles[handle];
        // All shared mappings may write.
        let is_written = !self.twin.mappings(region).is_empty();
        let frozen = self.handles[handle].region().freeze();
        self.twin.regions[region].frozen = frozen.is_ok();
        if frozen.is_ok() == is_written { Err(format!("freeze: {frozen:?}")) } else { Ok(()) }
    }

    /// Maps a part of a region where nothing is: copy-on-write, if it is frozen, or shared, if it is not.
    pub(super) fn map_region(
        &mut self,
        guest: usize,
        (start, most): (usize, usize),
        (number, from): (usize, usize),
        inherits: bool,
    ) -> Verdict {
        let Some(handle) = self.any_handle(number, |_, region| self.twin.regions[region].frozen == inherits) else {
            return Ok(());
        };
        let region = self.twin.handles[handle];
        let size = self.twin.regions[region].cells.len();
        let from = from % size;
        let Some(pages) = self.twin.run(guest, start, most.min(size - from), |slot| slot.is_none()) else {
            return Ok(());
        };
        let how = if inherits { "copy-on-write" } else { "shared" };
        self.note(format!("guest {guest}: map {pages:?} {how}: handle {handle}, from page {from} on"));
        let (region_of, offset) = (self.handles[handle].region().clone(), from * PAGE);
        let mapping = if inherits {
            Mapping::CopyOnWrite { region: region_of, offset }
        } else {
            Mapping::Shared { region: region_of, offset }
        };
        self.spaces[guest].map(span(&pages), mapping, RW).map_err(|error| format!("map: {error}"))?;
        let window = self.new_window();
        for (index, page) in pages.enumerate() {
            let twin::Region { cells, origins, .. } = &self.twin.regions[region];
            let (cell, origin) = (cells[from + index], origins[from + index].filter(|_| inherits));
            let stand = if inherits { Stand::Inherited } else { Stand::Shared(region, window) };
            self.twin.guests[guest].slots[page] = Some(Slot { cell, stand, own: Own::No, origin });
        }
        Ok(())
    }

    pub(super) fn clone_handle(&mut self, number: usize) {
        let Some(handle) = self.any_handle(number, |_, _| true) else { return };
        self.note(format!("handle {} is of the region of handle {handle}", self.handles.len()));
        let region = self.handles[handle].region().clone();
        self.handles.push(Handle::Region(region));
        self.twin.handles.push(self.twin.handles[handle]);
    }

    pub(super) fn drop_handle(&mut self, number: usize) {
        let Some(handle) = self.any_handle(number, |_, _| true) else { return };
        self.note(format!("drop handle {handle}; those behind it move up"));
        drop(self.handles.remove(handle));
        self.twin.handles.remove(handle);
    }

    /// A handle writes a page.
    pub(super) fn put(&mut self, number: usize, page: usize) -> Verdict {
        let Some(handle) = self.any_handle(number, |_, region| !self.twin.regions[region].frozen) else {
            return Ok(());
        };
        let region = self.twin.handles[handle];
        let page = page % self.twin.regions[region].cells.len();
        self.stamp += 1;
        self.note(format!("handle {handle} writes page {page}"));
        let writer = self.handles[handle].region().writer().map_err(|error| error.to_string())?;
        writer.store(page * PAGE, self.stamp).map_err(|error| format!("a handle's write: {error}"))?;
        self.twin.write(region, page, self.stamp);
        Ok(())
    }

    /// A handle reads a page: one that a source has not brought is brought.
    pub(super) fn get(&mut self, number: usize, page: usize) -> Verdict {
        let Some(handle) = self.any_handle(number, |_, _| true) else { return Ok(()) };
        let region = self.twin.handles[handle];
        let page = page % self.twin.regions[region].cells.len();
        let cell = self.twin.regions[region].cells[page];
        self.note(format!("handle {handle} reads page {page} (#{cell})"));
        self.twin.bring(cell);
        self.check_word(handle, page)
    }
}
