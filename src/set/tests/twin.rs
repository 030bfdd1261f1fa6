//! Random edits against an obviously correct twin: an array from address to what is there.

#[path = "twin/pages.rs"]
mod pages;

use std::{ops::Range, vec, vec::Vec};

use memory_addr::{AddrRange, VirtAddr};
use proptest::prelude::*;

use super::{AreaError, MappingBackend, MappingChange, MappingError, MappingResult, MemoryArea, MemorySet};

use self::pages::{END, FIXED, Shown, Table, Tagged, Twin};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Map { overlap: bool },
    Unmap,
    Protect,
    Clear,
    Carve,
    Replace,
    ReplaceWith,
    Insert,
    Abandon,
}

#[derive(Clone, Debug)]
struct Edit {
    kind: Kind,
    range: Range<usize>,
    flags: u8,
    tag: u8,
    refuse: Option<usize>,
    fail: Option<usize>,
}

/// The set, what its backends wrote, and the twin of both.
struct Pair {
    set: MemorySet<Tagged>,
    table: Table,
    twin: Twin,
}

impl Pair {
    fn new() -> Self {
        Self {
            set: MemorySet::new(),
            table: Table { entries: vec![None; END], calls_until_refusal: None, calls_until_failure: None },
            twin: Twin { cells: vec![None; END], next_id: 0 },
        }
    }

    /// Runs an edit on both and compares the results.
    fn run(&mut self, edit: &Edit) {
        let Range { start, end } = edit.range.clone();
        let (at, size, table) = (VirtAddr::from(start), end - start, &mut self.table);
        (table.calls_until_refusal, table.calls_until_failure) = (edit.refuse, edit.fail);
        let area = MemoryArea::new(at, size, edit.flags, Tagged(edit.tag));
        let (actual, expected) = match edit.kind {
            Kind::Map { overlap } => {
                (self.set.map(area, table, overlap), self.twin.map(start..end, (edit.tag, edit.flags), overlap, edit))
            }
            Kind::Unmap => (self.set.unmap(at, size, table), self.twin.unmap(start..end, edit.refuse, edit.fail)),
            Kind::Protect => (
                self.set.protect(at, size, |old| (old != FIXED).then_some(edit.flags), table),
                self.twin.protect(start..end, edit.flags, edit.refuse, edit.fail),
            ),
            Kind::Clear => (self.set.clear(table), self.twin.unmap(0..END, edit.refuse, edit.fail)),
            Kind::Insert => return self.insert(area),
            Kind::Carve | Kind::Replace | Kind::ReplaceWith | Kind::Abandon => return self.plan(edit),
        };
        assert_eq!(actual, expected, "{edit:?}");
    }

    /// Inserts on both, and compares what is in the way.
    fn insert(&mut self, area: MemoryArea<Tagged>) {
        let range = area.va_range();
        let usizes = range.start.as_usize()..range.end.as_usize();
        let (flags, tag) = (area.flags(), area.backend().0);
        let in_the_way = self.set.overlap(range).map(MemoryArea::va_range);
        let expected = match in_the_way {
            Some(with) => Err(AreaError::Overlap { range, with }),
            None if usizes.is_empty() => Err(AreaError::Empty(range)),
            None => Ok(()),
        };
        assert_eq!(in_the_way.is_none(), self.twin.is_free(usizes.clone()));
        assert_eq!(self.set.insert(area), expected);
        if expected.is_ok() {
            self.twin.fresh(usizes, tag, flags);
        }
        self.write_table();
    }

    /// Carries out a plan on both, and compares its pieces and what goes.
    fn plan(&mut self, edit: &Edit) {
        let range = AddrRange::new(edit.range.start.into(), edit.range.end.into());
        let pieces = self.twin.pieces(edit.range.clone());
        let Ok(plan) = self.set.plan(range) else {
            assert!(edit.range.is_empty());
            return;
        };
        assert!(plan.pieces().map(|(area, part)| shown(area, part)).eq(pieces.iter().map(Shown::again)));
        let gone = match edit.kind {
            Kind::Carve => Some(plan.carve()),
            Kind::ReplaceWith => Some(plan.replace_with(edit.flags, Tagged(edit.tag))),
            Kind::Replace => {
                plan.replace(|old| old ^ edit.flags);
                None
            }
            _ => None,
        };
        if let Some(gone) = gone {
            assert!(gone.iter().map(|area| shown(area, area.va_range())).eq(pieces.iter().map(Shown::again)));
            self.twin.cells[edit.range.clone()].fill(None);
        }
        if let Kind::ReplaceWith = edit.kind {
            self.twin.fresh(edit.range.clone(), edit.tag, edit.flags);
        }
        if let Kind::Replace = edit.kind {
            for piece in &pieces {
                self.twin.fresh(piece.range.clone(), piece.tag, piece.flags ^ edit.flags);
            }
        }
        self.write_table();
    }

    /// Does to the table what a user of plans does by other means.
    fn write_table(&mut self) {
        self.table.entries = self.twin.cells.iter().map(|cell| cell.map(|cell| (cell.tag, cell.flags))).collect();
    }

    /// Compares everything.
    fn check(&self) {
        self.set.areas.check();
        let expected = self.twin.pieces(0..END);
        let actual: Vec<_> = self.set.iter().map(|area| shown(area, area.va_range())).collect();
        assert_eq!(actual, expected);
        assert_eq!((self.set.len(), self.set.is_empty()), (expected.len(), expected.is_empty()));
        for (at, (entry, cell)) in self.table.entries.iter().zip(&self.twin.cells).enumerate() {
            assert_eq!(*entry, cell.map(|cell| (cell.tag, cell.flags)), "at {at}");
            assert_eq!(self.set.find(at.into()).map(MemoryArea::flags), cell.map(|cell| cell.flags), "at {at}");
        }
    }
}

impl Shown {
    fn again(&self) -> Self {
        Self { range: self.range.clone(), ..*self }
    }
}

fn shown(area: &MemoryArea<Tagged>, part: AddrRange<VirtAddr>) -> Shown {
    Shown { range: part.start.as_usize()..part.end.as_usize(), flags: area.flags(), tag: area.backend().0 }
}

/// Mostly small ranges, a few of them empty; some large enough for several chunks.
fn ranges() -> impl Strategy<Value = Range<usize>> {
    let sizes = prop_oneof![8 => 0_usize..12, 2 => 0_usize..300, 1 => 0..=END];
    (0..END, sizes).prop_map(|(start, size)| start..(start + size).min(END))
}

fn edits() -> impl Strategy<Value = Edit> {
    let kinds = prop_oneof![
        8 => any::<bool>().prop_map(|overlap| Kind::Map { overlap }),
        4 => Just(Kind::Unmap),
        4 => Just(Kind::Protect),
        1 => Just(Kind::Clear),
        3 => Just(Kind::Carve),
        3 => Just(Kind::Replace),
        3 => Just(Kind::ReplaceWith),
        3 => Just(Kind::Insert),
        1 => Just(Kind::Abandon),
    ];
    let rarely = || proptest::option::weighted(0.2, 0_usize..6);
    (kinds, ranges(), 0_u8..6, any::<u8>(), rarely(), rarely())
        .prop_map(|(kind, range, flags, tag, refuse, fail)| Edit { kind, range, flags, tag, refuse, fail })
}

/// An area at every second address: the edits that follow find full chunks.
fn dense() -> Pair {
    let mut pair = Pair::new();
    for start in (0..END).step_by(2) {
        let edit = Edit {
            kind: Kind::Map { overlap: false },
            range: start..start + 1,
            flags: 1,
            tag: 1,
            refuse: None,
            fail: None,
        };
        pair.run(&edit);
    }
    pair
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_edits_leave_the_set_the_table_and_the_twin_alike(
        starts_dense in any::<bool>(),
        edits in proptest::collection::vec(edits(), 1..60),
    ) {
        let mut pair = if starts_dense { dense() } else { Pair::new() };
        for edit in &edits {
            pair.run(edit);
            pair.check();
        }
    }

    #[test]
    fn a_free_area_is_the_one_that_trying_every_address_finds(
        edits in proptest::collection::vec(edits(), 1..40),
        wanted in proptest::collection::vec((0..END, 0_usize..24, ranges(), 0_usize..9), 1..40),
    ) {
        let mut pair = dense();
        for edit in &edits {
            pair.run(edit);
        }
        for (hint, size, limit, align) in wanted {
            let range = AddrRange::new(limit.start.into(), limit.end.into());
            let found = pair.set.find_free_area(hint.into(), size, range, align).map(VirtAddr::as_usize);
            prop_assert_eq!(found, pair.twin.find_free(hint, size, limit, align));
        }
    }
}
