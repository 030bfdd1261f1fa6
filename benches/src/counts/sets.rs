//! Areas without tables, edited in their middles.

use memory_addr::VirtAddr;
use stage2::{MappingBackend, MemoryArea, MemorySet};

use super::{
    FLOOR, OURS, Operation, Ready,
    rows::{SET_PROTECT_1000, SET_PROTECT_100000, SET_UNMAP_1000, SET_UNMAP_100000},
};
use crate::{floor::Areas, machine::shuffled};

/// How many areas are edited.
const EDITS: usize = 100;
/// The distance of two areas.
const STRIDE: usize = 0x8000;
/// An area's size.
const SIZE: usize = 0x4000;
/// Where in an area the edit begins, and how long it is.
const EDIT: usize = 0x1000;

/// The place of each edit.
fn places(areas: usize) -> impl Iterator<Item = usize> {
    shuffled(EDITS, areas).into_iter().map(|area| area * STRIDE + EDIT)
}

/// A backend that has nothing to do.
#[derive(Clone)]
struct Idle;

impl MappingBackend for Idle {
    type Addr = VirtAddr;
    type Flags = u8;
    type PageTable = ();

    fn map(&self, _: VirtAddr, _: usize, _: u8, (): &mut ()) -> bool {
        true
    }

    fn unmap(&self, _: VirtAddr, _: usize, (): &mut ()) -> bool {
        true
    }

    fn protect(&self, _: VirtAddr, _: usize, _: u8, (): &mut ()) -> bool {
        true
    }
}

fn set(areas: usize) -> MemorySet<Idle> {
    let mut set = MemorySet::new();
    for index in 0..areas {
        let area = MemoryArea::new(VirtAddr::from_usize(index * STRIDE), SIZE, 1, Idle);
        set.map(area, &mut (), false).expect("nothing is there");
    }
    set
}

fn unmap<const AREAS: usize>() -> Ready {
    let (mut set, places) = (set(AREAS), places(AREAS).collect::<Vec<_>>());
    Box::new(move || {
        let unmap = |&at: &usize| set.unmap(VirtAddr::from_usize(at), EDIT, &mut ()).expect("nothing fails");
        places.iter().for_each(unmap);
    })
}

fn protect<const AREAS: usize>() -> Ready {
    let (mut set, places) = (set(AREAS), places(AREAS).collect::<Vec<_>>());
    Box::new(move || {
        let change = |&at: &usize| {
            set.protect(VirtAddr::from_usize(at), EDIT, |_| Some(2), &mut ()).expect("nothing fails");
        };
        places.iter().for_each(change);
    })
}

fn floor(areas: usize) -> Areas {
    let mut floor = Areas::default();
    (0..areas).for_each(|index| floor.map(index * STRIDE, SIZE, 1));
    floor
}

fn floor_unmap<const AREAS: usize>() -> Ready {
    let (mut floor, places) = (floor(AREAS), places(AREAS).collect::<Vec<_>>());
    Box::new(move || places.iter().for_each(|&at| floor.unmap(at, EDIT)))
}

fn floor_protect<const AREAS: usize>() -> Ready {
    let (mut floor, places) = (floor(AREAS), places(AREAS).collect::<Vec<_>>());
    Box::new(move || places.iter().for_each(|&at| floor.protect(at, EDIT, 2)))
}

pub fn operations() -> Vec<Operation> {
    let edits = |row, by, prepare| Operation { row, by, parts: EDITS, prepare };
    vec![
        edits(SET_UNMAP_1000, FLOOR, floor_unmap::<1000>),
        edits(SET_UNMAP_1000, OURS, unmap::<1000>),
        edits(SET_UNMAP_100000, FLOOR, floor_unmap::<100_000>),
        edits(SET_UNMAP_100000, OURS, unmap::<100_000>),
        edits(SET_PROTECT_1000, FLOOR, floor_protect::<1000>),
        edits(SET_PROTECT_1000, OURS, protect::<1000>),
        edits(SET_PROTECT_100000, FLOOR, floor_protect::<100_000>),
        edits(SET_PROTECT_100000, OURS, protect::<100_000>),
    ]
}
