//! What other crates' tables cost. They have no areas, no lock, and no frames of their own.

use super::{Operation, Ready, ignore, ours, rows};
use stage2_benches::{
    machine::{GIB_PAGES, scattered},
    peers::{Access, Peer},
    ready,
};

/// A table that has mapped everything.
fn mapped<P: Peer>(pages: usize) -> P {
    ready::stock(0);
    let mut peer = P::new();
    peer.map(pages);
    peer
}

/// A table with a page where the crate's spaces have an area, and pages between them where `between` says so.
fn many<P: Peer>(between: &[usize]) -> P {
    ready::stock(0);
    let mut peer = P::new();
    (0..ours::AREAS).for_each(|area| peer.map_page(4 * area, frame(4 * area)));
    for area in between {
        peer.map_page(4 * area + 2, frame(4 * area + 2));
    }
    peer
}

/// A frame that is there in name only.
fn frame(page: usize) -> usize {
    stage2_benches::machine::TARGET + page * 0x1000
}

/// A row, how many parts it has, and what makes it ready.
type Part = (&'static str, usize, fn() -> Ready);

pub fn operations<P: Peer>() -> Vec<Operation> {
    let all: [Part; 8] = [
        (rows::MAP, GIB_PAGES, || {
            ready::stock(0);
            let mut peer = P::new();
            Box::new(move || peer.map(GIB_PAGES))
        }),
        (rows::UNMAP, GIB_PAGES, || {
            let mut peer = mapped::<P>(GIB_PAGES);
            Box::new(move || peer.unmap(GIB_PAGES))
        }),
        (rows::PROTECT, GIB_PAGES, || {
            let mut peer = mapped::<P>(GIB_PAGES);
            Box::new(move || peer.protect(GIB_PAGES))
        }),
        (rows::TRANSLATE, ours::PAGES, || {
            let (peer, order) = (mapped::<P>(ours::PAGES), scattered(ours::PAGES, ours::PAGES));
            Box::new(move || order.iter().for_each(|&index| ignore(peer.translate(index))))
        }),
        (rows::MAP_PAGE, ours::SINGLE, || {
            let (mut peer, order) = (many::<P>(&[]), ours::order());
            Box::new(move || order.iter().for_each(|&area| peer.map_page(4 * area + 2, frame(4 * area + 2))))
        }),
        (rows::UNMAP_PAGE, ours::SINGLE, || {
            let order = ours::order();
            let mut peer = many::<P>(&order);
            Box::new(move || order.iter().for_each(|&area| peer.unmap_page(4 * area + 2)))
        }),
        (rows::PROTECT_PAGE, ours::SINGLE, || {
            let (mut peer, order) = (many::<P>(&[]), ours::order());
            Box::new(move || order.iter().for_each(|&area| peer.protect_page(4 * area, Access::Read)))
        }),
        (rows::FAULT_FRESH, ours::PAGES, || {
            ready::stock(ours::PAGES);
            let mut peer = P::new();
            Box::new(move || (0..ours::PAGES).for_each(|index| peer.map_page(index, ready::take())))
        }),
    ];
    all.into_iter().map(|(row, parts, prepare)| Operation { row, by: P::NAME, parts, prepare }).collect()
}
