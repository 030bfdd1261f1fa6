//! What every address holds: as a page table whose backends may fail, and as the twin says.

use super::*;

/// The addresses are below this one, and no larger: an address is a page.
pub(super) const END: usize = 1024;

/// An area with these flags does not change them.
pub(super) const FIXED: u8 = 3;

/// What an address holds. An area is a run of equal `id`s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) id: usize,
    pub(super) tag: u8,
    pub(super) flags: u8,
}

/// An area as both sides show it.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) range: Range<usize>,
    pub(super) flags: u8,
    pub(super) tag: u8,
}

/// A page table whose backends refuse or fail when they are told to.
pub(super) struct Table {
    pub(super) entries: Vec<Option<(u8, u8)>>,
    pub(super) calls_until_refusal: Option<usize>,
    pub(super) calls_until_failure: Option<usize>,
}

/// A backend that knows its own entries.
#[derive(Clone, Debug)]
pub(super) struct Tagged(pub(super) u8);

impl Table {
    /// Counts down to the call that fails; from then on every call does, an undo too.
    pub(super) fn succeeds(countdown: &mut Option<usize>) -> bool {
        match countdown {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    pub(super) fn write(
        &mut self,
        start: VirtAddr,
        size: usize,
        old: impl Fn(Option<u8>) -> bool,
        new: Option<(u8, u8)>,
    ) -> bool {
        let entries = &mut self.entries[start.as_usize()..][..size];
        assert!(entries.iter().all(|entry| old(entry.map(|(tag, _)| tag))), "the record says otherwise");
        let succeeds = Self::succeeds(&mut self.calls_until_failure);
        if succeeds {
            entries.fill(new);
        }
        succeeds
    }
}

impl MappingBackend for Tagged {
    type Addr = VirtAddr;
    type Flags = u8;
    type PageTable = Table;

    fn map(&self, start: VirtAddr, size: usize, flags: u8, table: &mut Table) -> bool {
        table.write(start, size, |tag| tag.is_none(), Some((self.0, flags)))
    }

    fn unmap(&self, start: VirtAddr, size: usize, table: &mut Table) -> bool {
        table.write(start, size, |tag| tag == Some(self.0), None)
    }

    fn protect(&self, start: VirtAddr, size: usize, new_flags: u8, table: &mut Table) -> bool {
        table.write(start, size, |tag| tag == Some(self.0), Some((self.0, new_flags)))
    }

    fn prepare(&self, _: MappingChange<u8>, _: VirtAddr, _: usize, table: &mut Table) -> bool {
        Table::succeeds(&mut table.calls_until_refusal)
    }
}

/// The twin: what every address should hold.
pub(super) struct Twin {
    pub(super) cells: Vec<Option<Cell>>,
    pub(super) next_id: usize,
}

impl Twin {
    pub(super) fn fresh(&mut self, range: Range<usize>, tag: u8, flags: u8) {
        self.next_id += 1;
        self.cells[range].fill(Some(Cell { id: self.next_id, tag, flags }));
    }

    /// The runs of equal cells in a range.
    pub(super) fn pieces(&self, range: Range<usize>) -> Vec<Shown> {
        let mut pieces = Vec::new();
        let mut start = range.start;
        for run in self.cells[range].chunk_by(|a, b| a.map(|cell| cell.id) == b.map(|cell| cell.id)) {
            let end = start + run.len();
            pieces.extend(run[0].map(|Cell { tag, flags, .. }| Shown { range: start..end, flags, tag }));
            start = end;
        }
        pieces
    }

    pub(super) fn is_free(&self, range: Range<usize>) -> bool {
        self.cells[range].iter().all(Option::is_none)
    }

    /// Unmaps until the piece that fails; whether none did.
    pub(super) fn unmap(&mut self, range: Range<usize>, refuse: Option<usize>, fail: Option<usize>) -> MappingResult {
        let pieces = self.pieces(range);
        fails(refuse, pieces.len())?;
        for piece in pieces.iter().take(fail.unwrap_or(END)) {
            self.cells[piece.range.clone()].fill(None);
        }
        fails(fail, pieces.len())
    }

    pub(super) fn protect(
        &mut self,
        range: Range<usize>,
        new: u8,
        refuse: Option<usize>,
        fail: Option<usize>,
    ) -> MappingResult {
        let mut pieces = self.pieces(range);
        pieces.retain(|piece| piece.flags != FIXED);
        fails(refuse, pieces.len())?;
        for piece in pieces.iter().take(fail.unwrap_or(END)) {
            self.fresh(piece.range.clone(), piece.tag, new);
        }
        fails(fail, pieces.len())
    }

    pub(super) fn map(&mut self, range: Range<usize>, what: (u8, u8), overlap: bool, edit: &Edit) -> MappingResult {
        if range.is_empty() {
            return Err(MappingError::InvalidParam);
        }
        if !overlap && !self.is_free(range.clone()) {
            return Err(MappingError::AlreadyExists);
        }
        let calls = self.pieces(range.clone()).len() + 1;
        fails(edit.refuse, calls)?;
        self.unmap(range.clone(), None, edit.fail)?;
        fails(edit.fail, calls)?;
        self.fresh(range, what.0, what.1);
        Ok(())
    }

    pub(super) fn find_free(&self, hint: usize, size: usize, limit: Range<usize>, align: usize) -> Option<usize> {
        let is_sound = size > 0 && align.is_power_of_two() && size.is_multiple_of(align);
        let from = hint.max(limit.start);
        (from..limit.end)
            .find(|&at| is_sound && at.is_multiple_of(align) && at + size <= limit.end && self.is_free(at..at + size))
    }
}

/// The result of `calls` calls of which one may fail.
pub(super) fn fails(index: Option<usize>, calls: usize) -> MappingResult {
    if index.is_some_and(|index| index < calls) { Err(MappingError::BadState) } else { Ok(()) }
}
