//! What the operations cost at the least.

use super::{FLOOR, Operation, ignore, ours, rows};
use stage2_benches::{
    floor::{Store, Tables},
    machine::{GIB_PAGES, TARGET, scattered},
    ready,
};

/// Frames from the list.
pub struct Listed;

impl Store for Listed {
    fn take() -> usize {
        ready::take()
    }

    fn take_zeroed() -> usize {
        ready::take()
    }

    fn give(page: usize) {
        ready::give(page);
    }
}

/// Tables that have mapped everything.
fn mapped(pages: usize) -> Tables<Listed> {
    ready::stock(0);
    let mut tables = Tables::new(pages);
    tables.map(TARGET);
    tables
}

pub fn operations() -> Vec<Operation> {
    let floor = |row, parts, prepare| Operation { row, by: FLOOR, parts, prepare };
    vec![
        floor(rows::MAP, GIB_PAGES, || {
            ready::stock(0);
            Box::new(|| std::mem::forget(mapped(GIB_PAGES)))
        }),
        floor(rows::UNMAP, GIB_PAGES, || {
            let mut tables = mapped(GIB_PAGES);
            Box::new(move || tables.unmap())
        }),
        floor(rows::PROTECT, GIB_PAGES, || {
            let mut tables = mapped(GIB_PAGES);
            Box::new(move || tables.protect())
        }),
        floor(rows::TRANSLATE, ours::PAGES, || {
            let tables = mapped(ours::PAGES);
            let order = scattered(ours::PAGES, ours::PAGES);
            Box::new(move || order.iter().for_each(|&index| ignore(tables.walk(index))))
        }),
        floor(rows::MAP_PAGE, ours::SINGLE, || {
            let (tables, order) = (mapped(4 * ours::AREAS), ours::order());
            Box::new(move || order.iter().for_each(|&area| tables.map_page(4 * area + 2, TARGET)))
        }),
        floor(rows::UNMAP_PAGE, ours::SINGLE, || {
            let (tables, order) = (mapped(4 * ours::AREAS), ours::order());
            Box::new(move || order.iter().for_each(|&area| ignore(tables.unmap_page(4 * area + 2))))
        }),
        floor(rows::PROTECT_PAGE, ours::SINGLE, || {
            let (tables, order) = (mapped(4 * ours::AREAS), ours::order());
            Box::new(move || order.iter().for_each(|&area| ignore(tables.protect_page(4 * area))))
        }),
        floor(rows::FAULT_FRESH, ours::PAGES, || {
            ready::stock(ours::PAGES);
            let tables = Tables::<Listed>::new(ours::PAGES);
            Box::new(move || (0..ours::PAGES).for_each(|index| tables.fault(index)))
        }),
        floor(rows::FAULT_PRESENT, ours::PAGES, || {
            let tables = mapped(ours::PAGES);
            Box::new(move || (0..ours::PAGES).for_each(|index| ignore(tables.walk(index))))
        }),
    ]
}
