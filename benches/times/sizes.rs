//! Snapshots and forks of guests of any size, on frames that take host memory only once they are touched.

use stage2::{Outcome, Snapshot};
use stage2_benches::{
    machine::{self, Arm, space_of},
    untouched::Untouched,
};

use crate::{
    machine::{GIB_PAGES, POPULATED, READ_WRITE, each, fault, pages_at},
    suite::Suite,
};

/// How large guests are, in pages.
const SIZES: [(&str, usize); 3] = [("64 MiB", GIB_PAGES / 16), ("1 GiB", GIB_PAGES), ("8 GiB", 8 * GIB_PAGES)];
/// How many forks of one guest there are.
const FORKS: usize = 100;

type Space = machine::Space<Arm, Untouched>;

fn space(frames: &Untouched) -> Space {
    space_of(frames.clone(), 2)
}

/// A guest of so many pages, in so many areas with a page between each two, all of it populated; and its allocator.
pub fn populated(pages: usize, areas: usize) -> (Space, Untouched) {
    let frames = Untouched::new(2 * pages);
    let space = space(&frames);
    let each = pages / areas;
    for area in 0..areas {
        space.map(pages_at(area * (each + 1), each), POPULATED, READ_WRITE).expect("it is unmapped");
    }
    (space, frames)
}

pub fn freeze(space: &Space) -> Snapshot {
    space.snapshot().expect("there is memory")
}

fn forked(frames: &Untouched, snapshot: &Snapshot) -> Space {
    let child = space(frames);
    child.restore(snapshot).expect("it is unmapped");
    child
}

pub fn bench(suite: &mut Suite) {
    for (size, pages) in SIZES {
        let frozen = |(parent, snapshot): &mut (Space, Option<Snapshot>)| *snapshot = Some(freeze(parent));
        let snapshot = each(|| (populated(pages, 1).0, None), frozen);
        suite.compare(&format!("snapshot of {size}"), 1, vec![("stage2", Box::new(snapshot))]);
        let (parent, frames) = populated(pages, 1);
        let snapshot = freeze(&parent);
        let fork = each(|| None, |child: &mut Option<Space>| *child = Some(forked(&frames, &snapshot)));
        suite.compare(&format!("fork of {size}"), 1, vec![("stage2", Box::new(fork))]);
    }
    for areas in [10, 100, 1000] {
        let (parent, frames) = populated(GIB_PAGES, areas);
        let snapshot = freeze(&parent);
        let fork = each(|| None, |child: &mut Option<Space>| *child = Some(forked(&frames, &snapshot)));
        suite.compare(&format!("fork of 1 GiB in {areas} areas"), areas, vec![("stage2", Box::new(fork))]);
    }
}

/// Says what snapshots and forks take, in frames: none of it depends on the machine.
pub fn report() {
    println!("\n<!-- begin: forks -->");
    println!("| guest in pages | its tables | snapshot: frames of its own | fork: frames of its own | fork: tables |");
    println!("|---|---|---|---|---|");
    for (size, pages) in SIZES {
        let (parent, frames) = populated(pages, 1);
        let tables = parent.usage().table_frames;
        let before = frames.taken();
        let snapshot = freeze(&parent);
        let taken = frames.taken() - before;
        let child = forked(&frames, &snapshot).usage();
        println!("| {size} | {tables} | {taken} | {} | {} |", child.frames, child.table_frames);
    }
    println!("\n| {FORKS} forks of | each writes | frames of their own | tables |\n|---|---|---|---|");
    for (size, pages) in &SIZES[..2] {
        let (parent, frames) = populated(*pages, 1);
        let snapshot = freeze(&parent);
        let children: Vec<_> = (0..FORKS).map(|_| forked(&frames, &snapshot)).collect();
        for (spread, stride) in [("every hundredth page", 100), ("as many, side by side", 1)] {
            let (mut own, mut tables) = (0, 0);
            for child in &children {
                (0..pages / 100).for_each(|turn| write(child, turn * stride));
                own += child.usage().frames;
                tables += child.usage().table_frames;
                child.unmap(pages_at(0, *pages)).expect("it is mapped");
                child.restore(&snapshot).expect("it is unmapped");
            }
            println!("| {size} | {spread} | {own} | {tables} |");
        }
    }
    println!("<!-- end: forks -->");
}

/// A guest's first write to a page.
fn write(space: &Space, index: usize) {
    assert_eq!(fault(space, 0, index), Outcome::Resolved);
}
