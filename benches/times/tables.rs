//! Mapping, unmapping, protecting and translating, 1 GiB at a time and page by page.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use crate::{
    machine::{
        GIB_PAGES, LAZY, POPULATED, Part, READ, READ_WRITE, Space, TARGET, Tables, again, each, linear, mapped, page,
        pages_at, rounds, scattered, space,
    },
    peer,
    suite::Suite,
};

/// As many pages are mapped singly before they are unmapped again.
const SINGLE: usize = 255;

pub fn bench(suite: &mut Suite) {
    gib_linear(suite);
    gib_private(suite);
    single_pages(suite);
    translate(suite);
}

/// A floor that has mapped 1 GiB.
fn floor_mapped() -> Tables {
    let mut tables = Tables::new(GIB_PAGES);
    tables.map(TARGET);
    tables
}

fn gib_linear(suite: &mut Suite) {
    let everything = pages_at(0, GIB_PAGES);
    let map = move |space: &mut Space| space.map(everything, linear(0), READ_WRITE).expect("it is unmapped");
    let mut ready = Tables::new(GIB_PAGES);
    suite.compare(
        "map 1 GiB of pages, linear",
        GIB_PAGES,
        vec![
            ("loop", Box::new(again(|_| black_box(&mut ready).map(TARGET)))),
            ("loop with tables", Box::new(each(|| None, |tables| *tables = Some(floor_mapped())))),
            ("stage2", Box::new(each(space, map))),
            ("PageTable64", Box::new(each(peer::new, |peer| peer::map(peer, GIB_PAGES)))),
        ],
    );
    suite.compare(
        "protect 1 GiB of pages, linear",
        GIB_PAGES,
        vec![
            ("loop", Box::new(each(floor_mapped, |tables| black_box(tables).protect()))),
            (
                "stage2",
                Box::new(each(
                    || mapped(linear(0), GIB_PAGES),
                    move |space| space.protect(everything, READ).expect("it is mapped"),
                )),
            ),
            ("PageTable64", Box::new(each(|| peer::mapped(GIB_PAGES), |peer| peer::protect(peer, GIB_PAGES)))),
        ],
    );
    suite.compare(
        "unmap 1 GiB of pages, linear",
        GIB_PAGES,
        vec![
            ("loop", Box::new(each(floor_mapped, |tables| black_box(tables).unmap()))),
            ("stage2", Box::new(each(|| mapped(linear(0), GIB_PAGES), unmap_gib))),
            ("PageTable64", Box::new(each(|| peer::mapped(GIB_PAGES), |peer| peer::unmap(peer, GIB_PAGES)))),
        ],
    );
}

fn unmap_gib(space: &mut Space) {
    space.unmap(pages_at(0, GIB_PAGES)).expect("it is mapped");
}

fn gib_private(suite: &mut Suite) {
    let map = |space: &mut Space| space.map(pages_at(0, GIB_PAGES), POPULATED, READ_WRITE).expect("it is unmapped");
    // Gives the pages back, untimed, each time.
    let tables = || Emptied(Tables::new(GIB_PAGES));
    let populated = || {
        let mut tables = Tables::new(GIB_PAGES);
        tables.populate();
        tables
    };
    suite.compare(
        "map 1 GiB of pages, private, populated",
        GIB_PAGES,
        vec![("loop", Box::new(each(tables, |tables| tables.0.populate()))), ("stage2", Box::new(each(space, map)))],
    );
    suite.compare(
        "unmap 1 GiB of pages, private, populated",
        GIB_PAGES,
        vec![
            ("loop", Box::new(each(populated, |tables| black_box(tables).unmap()))),
            ("stage2", Box::new(each(|| mapped(POPULATED, GIB_PAGES), unmap_gib))),
            ("stage2, until the lock is free", Box::new(until_unlocked)),
        ],
    );
}

/// Times how long it takes until no CPU reaches 1 GiB any more: for so long the space is locked.
fn until_unlocked(iterations: u64) -> Duration {
    let one = |_| {
        let space = mapped(POPULATED, GIB_PAGES);
        let started = Instant::now();
        let unmapping = space.unmap_in_steps(pages_at(0, GIB_PAGES)).expect("it is mapped");
        let taken = started.elapsed();
        drop(unmapping);
        taken
    };
    (0..iterations).map(one).sum()
}

/// Tables that give back what leaves own when they go.
struct Emptied(Tables);

impl Drop for Emptied {
    fn drop(&mut self) {
        self.0.unmap();
    }
}

/// Every second page of 2 MiB, in a table that stays because of its last page.
fn single_pages(suite: &mut Suite) {
    let single = |turn: usize| pages_at(2 * turn, 1);
    let neighbour = || {
        let space = space();
        space.map(pages_at(511, 1), linear(511), READ_WRITE).expect("it is unmapped");
        space
    };
    let space = &neighbour();
    let map = move |turn| space.map(single(turn), linear(2 * turn), READ_WRITE).expect("it is unmapped");
    let map_own = move |turn| space.map(single(turn), POPULATED, READ_WRITE).expect("it is unmapped");
    let map_lazy = move |turn| space.map(single(turn), LAZY, READ_WRITE).expect("it is unmapped");
    let unmap = move |turn| space.unmap(single(turn)).expect("it is mapped");
    let peer = || {
        let mut peer = peer::new();
        peer::map_page(&mut peer, page(511));
        std::cell::RefCell::new(peer)
    };
    let peer = &peer();
    let map_peer = move |turn| peer::map_page(&mut peer.borrow_mut(), page(2 * turn));
    let unmap_peer = move |turn| peer::unmap_page(&mut peer.borrow_mut(), page(2 * turn));
    suite.compare(
        "map one page",
        1,
        vec![
            ("PageTable64", Box::new(rounds(SINGLE, Part::Operation, map_peer, unmap_peer))),
            ("stage2 linear", Box::new(rounds(SINGLE, Part::Operation, map, unmap))),
            ("stage2 populated", Box::new(rounds(SINGLE, Part::Operation, map_own, unmap))),
            ("stage2 lazy", Box::new(rounds(SINGLE, Part::Operation, map_lazy, unmap))),
        ],
    );
    suite.compare(
        "unmap one page",
        1,
        vec![
            ("PageTable64", Box::new(rounds(SINGLE, Part::Undo, map_peer, unmap_peer))),
            ("stage2 linear", Box::new(rounds(SINGLE, Part::Undo, map, unmap))),
            ("stage2 populated", Box::new(rounds(SINGLE, Part::Undo, map_own, unmap))),
        ],
    );
    let flags = |turn: usize| if turn.is_multiple_of(2) { READ } else { READ_WRITE };
    let protect_peer = move |turn| peer::protect_page(&mut peer.borrow_mut(), page(511), flags(turn));
    let protect = move |turn| space.protect(pages_at(511, 1), flags(turn)).expect("it is mapped");
    suite.compare(
        "protect one page",
        1,
        vec![("PageTable64", Box::new(again(protect_peer))), ("stage2", Box::new(again(protect)))],
    );
}

/// Addresses all over 1 GiB of pages.
fn translate(suite: &mut Suite) {
    let pages = &scattered(1 << 16, GIB_PAGES);
    let nth = move |turn: usize| pages[turn % pages.len()];
    let tables = floor_mapped();
    let space = mapped(linear(0), GIB_PAGES);
    let peer = peer::mapped(GIB_PAGES);
    suite.compare(
        "translate, scattered over 1 GiB",
        1,
        vec![
            ("loop", Box::new(again(|turn| tables.walk(nth(turn))))),
            ("stage2", Box::new(again(|turn| space.translate(page(nth(turn)))))),
            ("PageTable64", Box::new(again(|turn| peer.query(page(nth(turn)))))),
        ],
    );
}
