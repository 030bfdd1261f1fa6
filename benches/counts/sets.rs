//! Areas without tables, edited in their middles, beside `memory_set`, whose interface ours is.

use super::{
    FLOOR, OURS, Operation, Ready,
    rows::{SET_PROTECT_1000, SET_PROTECT_100000, SET_UNMAP_1000, SET_UNMAP_100000},
};
use stage2_benches::{floor::Areas, machine::shuffled, sets::Idle};

/// How many areas are edited.
const EDITS: usize = 100;
/// The distance of two areas.
const STRIDE: usize = 0x8000;
/// An area's size.
const SIZE: usize = 0x4000;
/// Where in an area the edit begins, and how long it is.
const EDIT: usize = 0x1000;

/// The place of each edit.
fn places(areas: usize) -> Vec<usize> {
    shuffled(EDITS, areas).into_iter().map(|area| area * STRIDE + EDIT).collect()
}

/// A set that is edited.
trait Set: Sized + 'static {
    fn empty() -> Self;

    fn map(&mut self, start: usize);

    fn unmap(&mut self, start: usize);

    fn protect(&mut self, start: usize);

    fn of(areas: usize) -> Self {
        let mut set = Self::empty();
        (0..areas).for_each(|index| set.map(index * STRIDE));
        set
    }
}

/// Everything twice, since the two crates have their own types with the same names.
macro_rules! contenders {
    ($($krate:ident)*) => {
        $(impl Set for $krate::MemorySet<Idle> {
            fn empty() -> Self {
                Self::new()
            }

            fn map(&mut self, start: usize) {
                let area = $krate::MemoryArea::new(start.into(), SIZE, 1, Idle);
                self.map(area, &mut (), false).expect("it is unmapped");
            }

            fn unmap(&mut self, start: usize) {
                self.unmap(start.into(), EDIT, &mut ()).expect("the backend succeeds");
            }

            fn protect(&mut self, start: usize) {
                self.protect(start.into(), EDIT, |_| Some(2), &mut ()).expect("the backend succeeds");
            }
        })*
    };
}

contenders!(memory_set stage2);

impl Set for Areas {
    fn empty() -> Self {
        Self::default()
    }

    fn map(&mut self, start: usize) {
        self.map(start, SIZE, 1);
    }

    fn unmap(&mut self, start: usize) {
        self.unmap(start, EDIT);
    }

    fn protect(&mut self, start: usize) {
        self.protect(start, EDIT, 2);
    }
}

fn unmap<S: Set, const AREAS: usize>() -> Ready {
    let (mut set, places) = (S::of(AREAS), places(AREAS));
    Box::new(move || places.iter().for_each(|&at| set.unmap(at)))
}

fn protect<S: Set, const AREAS: usize>() -> Ready {
    let (mut set, places) = (S::of(AREAS), places(AREAS));
    Box::new(move || places.iter().for_each(|&at| set.protect(at)))
}

fn edits<S: Set>(by: &'static str) -> Vec<Operation> {
    let edits = |row, prepare| Operation { row, by, parts: EDITS, prepare };
    vec![
        edits(SET_UNMAP_1000, unmap::<S, 1000>),
        edits(SET_UNMAP_100000, unmap::<S, 100_000>),
        edits(SET_PROTECT_1000, protect::<S, 1000>),
        edits(SET_PROTECT_100000, protect::<S, 100_000>),
    ]
}

/// The crate's own.
pub fn operations() -> Vec<Operation> {
    edits::<stage2::MemorySet<Idle>>(OURS)
}

/// The floor, and the peer.
pub fn others() -> Vec<Operation> {
    let mut all = edits::<Areas>(FLOOR);
    all.extend(edits::<memory_set::MemorySet<Idle>>("memory_set"));
    all
}
