//! The crate's own operations, on each kind of tables.

use std::{mem::ManuallyDrop, num::NonZeroUsize, sync::Arc};

use stage2::{
    Access, CpuId, Frames, Mapping, Outcome, Snapshot,
    pager::{Pager, Settled, Source, Supply, Ticket},
};

use super::{
    Operation, Ready, ignore,
    rows::{
        COPY_FRESH, COPY_READ, FAULT_FRESH, FAULT_PRESENT, FAULT_SOURCE, FORK, MAP, MAP_PAGE, MAP_POPULATED, POPULATE,
        PROTECT, PROTECT_PAGE, SNAPSHOT, TAKE, TRANSLATE, UNMAP, UNMAP_PAGE, UNMAP_POPULATED,
    },
};
use stage2_benches::{
    machine::{
        GIB_PAGES, Kind, LAZY, POPULATED, READ, READ_WRITE, Space, fault, linear, page, pages_at, scattered, shuffled,
        space_of, touch,
    },
    ready::{self, Uncounted},
};

/// 64 MiB: 32 tables.
pub const PAGES: usize = 16_384;
/// How many areas there are where single pages are mapped.
pub const AREAS: usize = 2000;
/// Pages that are mapped singly.
pub const SINGLE: usize = 200;

/// Frames whose contents the crate does not know.
type Unknown = ready::Ready<false>;
/// Frames of zeros.
type Zeroed = ready::Ready<true>;

fn space<K: Kind, F: Frames>(frames: F) -> Space<K, F> {
    ready::stock(0);
    space_of(frames, 2)
}

/// A space with `pages` pages.
fn mapped<K: Kind, F: Frames>(frames: F, mapping: Mapping, pages: usize) -> Space<K, F> {
    if mapping != linear(0) {
        ready::stock(pages);
    }
    let space = space(frames);
    space.map(pages_at(0, pages), mapping, READ_WRITE).expect("nothing is there");
    space
}

/// A space with areas of one page each, and three pages between each two.
fn many<K: Kind>() -> Space<K, Unknown> {
    let space = space(ready::Ready::<false>);
    for area in 0..AREAS {
        space.map(pages_at(4 * area, 1), linear(4 * area), READ_WRITE).expect("nothing is there");
    }
    space
}

/// Which areas of [`AREAS`], one after the other.
pub fn order() -> Vec<usize> {
    shuffled(SINGLE, AREAS)
}

/// Maps single pages between areas.
fn map_singly<K: Kind>(space: &Space<K, Unknown>, order: &[usize]) {
    for area in order {
        let page = 4 * area + 2;
        space.map(pages_at(page, 1), linear(page), READ_WRITE).expect("nothing is there");
    }
}

pub fn operations<K: Kind>() -> Vec<Operation> {
    let all = [large::<K>(), single::<K>(), faults::<K>(), forks::<K>()];
    all.into_iter().flatten().map(|(row, parts, prepare)| Operation { row, by: K::NAME, parts, prepare }).collect()
}

type Part = (&'static str, usize, fn() -> Ready);

fn large<K: Kind>() -> Vec<Part> {
    vec![
        (MAP, GIB_PAGES, || {
            let space = space::<K, _>(ready::Ready::<false>);
            Box::new(move || space.map(pages_at(0, GIB_PAGES), linear(0), READ_WRITE).expect("nothing is there"))
        }),
        (UNMAP, GIB_PAGES, || {
            let space = mapped::<K, _>(ready::Ready::<false>, linear(0), GIB_PAGES);
            Box::new(move || space.unmap(pages_at(0, GIB_PAGES)).expect("it is mapped"))
        }),
        (PROTECT, GIB_PAGES, || {
            let space = mapped::<K, _>(ready::Ready::<false>, linear(0), GIB_PAGES);
            Box::new(move || space.protect(pages_at(0, GIB_PAGES), READ).expect("it is mapped"))
        }),
        (MAP_POPULATED, PAGES, || {
            ready::stock(PAGES);
            let space = space::<K, _>(ready::Ready::<true>);
            Box::new(move || space.map(pages_at(0, PAGES), POPULATED, READ_WRITE).expect("nothing is there"))
        }),
        (POPULATE, PAGES, || {
            let space = mapped::<K, _>(ready::Ready::<true>, LAZY, PAGES);
            Box::new(move || ignore(space.populate(pages_at(0, PAGES), Access::Write).expect("there is memory")))
        }),
        (UNMAP_POPULATED, PAGES, || {
            let space = mapped::<K, _>(Uncounted, POPULATED, PAGES);
            Box::new(move || space.unmap(pages_at(0, PAGES)).expect("it is mapped"))
        }),
        (TRANSLATE, PAGES, || {
            let space = mapped::<K, _>(ready::Ready::<false>, linear(0), PAGES);
            let order = scattered(PAGES, PAGES);
            Box::new(move || order.iter().for_each(|&index| ignore(space.translate(page(index)))))
        }),
    ]
}

fn single<K: Kind>() -> Vec<Part> {
    vec![
        (MAP_PAGE, SINGLE, || {
            let (space, order) = (many::<K>(), order());
            Box::new(move || map_singly(&space, &order))
        }),
        (UNMAP_PAGE, SINGLE, || {
            let (space, order) = (many::<K>(), order());
            map_singly(&space, &order);
            Box::new(move || {
                let unmap = |area: &usize| space.unmap(pages_at(4 * area + 2, 1)).expect("it is mapped");
                order.iter().for_each(unmap);
            })
        }),
        (PROTECT_PAGE, SINGLE, || {
            let (space, order) = (many::<K>(), order());
            Box::new(move || {
                let protect = |area: &usize| space.protect(pages_at(4 * area, 1), READ).expect("it is mapped");
                order.iter().for_each(protect);
            })
        }),
    ]
}

fn faults<K: Kind>() -> Vec<Part> {
    vec![
        (FAULT_FRESH, PAGES, || {
            let space = mapped::<K, _>(ready::Ready::<true>, LAZY, PAGES);
            Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&space, 0, index))))
        }),
        (FAULT_PRESENT, PAGES, || {
            let space = mapped::<K, _>(ready::Ready::<true>, POPULATED, PAGES);
            Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&space, 0, index))))
        }),
        (FAULT_SOURCE, PAGES, || {
            ready::stock(2 * PAGES);
            let space = space::<K, _>(ready::Ready::<true>);
            let pager = Pager::new(Arc::new(Blank), NonZeroUsize::MIN).expect("memory");
            space.map_from(pages_at(0, PAGES), &pager, 0, READ_WRITE).expect("nothing is there");
            Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&space, 0, index))))
        }),
    ]
}

fn forks<K: Kind>() -> Vec<Part> {
    vec![
        (SNAPSHOT, PAGES, || {
            let space = mapped::<K, _>(ready::Ready::<true>, POPULATED, PAGES);
            Box::new(move || ignore(ManuallyDrop::new(space.snapshot())))
        }),
        (FORK, 1, || {
            let (_, snapshot) = ManuallyDrop::into_inner(parent::<K>());
            Box::new(move || ignore(ManuallyDrop::new(forked::<K>(&snapshot))))
        }),
        (COPY_FRESH, PAGES, || {
            let child = forked::<K>(&parent::<K>().1);
            Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&child, 0, index))))
        }),
        (COPY_READ, PAGES, || {
            let child = forked::<K>(&parent::<K>().1);
            read_all(&child);
            Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&child, 0, index))))
        }),
        (TAKE, PAGES, || {
            let space = mapped::<K, _>(ready::Ready::<true>, POPULATED, PAGES);
            drop(space.snapshot().expect("there is memory"));
            // A frame is brought along for each copy that need not be made.
            ready::stock(PAGES);
            Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&space, 0, index))))
        }),
    ]
}

/// A space and what was frozen of it, which stay.
fn parent<K: Kind>() -> ManuallyDrop<(Space<K, Zeroed>, Snapshot)> {
    let parent = mapped::<K, _>(ready::Ready::<true>, POPULATED, PAGES);
    let snapshot = parent.snapshot().expect("there is memory");
    // For what forks write.
    ready::stock(PAGES);
    ManuallyDrop::new((parent, snapshot))
}

fn forked<K: Kind>(snapshot: &Snapshot) -> Space<K, Zeroed> {
    let child = space_of::<K, _, _>(ready::Ready::<true>, 2);
    child.restore(snapshot).expect("nothing is there");
    child
}

/// Reads all pages for the first time.
fn read_all<K: Kind>(space: &Space<K, Zeroed>) {
    for index in 0..PAGES {
        assert_eq!(space.fault(CpuId(0), touch(index, Access::Read)), Ok(Outcome::Resolved));
    }
}

/// A source that has zeros, at once.
struct Blank;

impl Source for Blank {
    fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
        Supply::Ready
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}
