//! 1 MiB to 64 GiB of memory in pages, on frames that take host memory only once they are touched.

use super::{Extent, curve::Curve, least, nanoseconds, time};
use stage2_benches::{
    machine::{Arm, GIB_PAGES, POPULATED, READ, READ_WRITE, Space, linear, pages_at, space_of},
    untouched::Untouched,
};

fn space(frames: &Untouched) -> Space<Arm, Untouched> {
    space_of(frames.clone(), 2)
}

pub fn measure(extent: Extent) -> Curve {
    let sizes: &[usize] = if extent == Extent::Quick { &[1, 16, 256] } else { &[1, 16, 256, 4096, 65_536] };
    let columns = vec!["map, linear, a page", "protect, a page", "unmap, a page", "snapshot, a page"];
    let mut curve = Curve::new("memory", columns);
    for &mebibytes in sizes {
        let pages = mebibytes * 256;
        let turns = if pages <= GIB_PAGES { 5 } else { 1 };
        let label = if mebibytes < 1024 { format!("{mebibytes} MiB") } else { format!("{} GiB", mebibytes / 1024) };
        let mut times = linear_times(pages, turns);
        times.push(nanoseconds(least(turns, || snapshot(pages)), pages));
        curve.add(label, pages, times);
    }
    curve
}

/// Mapping, protecting and unmapping, for a page.
fn linear_times(pages: usize, turns: usize) -> Vec<f64> {
    let everything = pages_at(0, pages);
    let one = || {
        let space = space(&Untouched::new(pages / 64));
        [
            time(|| space.map(everything, linear(0), READ_WRITE).expect("it is unmapped")),
            time(|| space.protect(everything, READ).expect("it is mapped")),
            time(|| space.unmap(everything).expect("it is mapped")),
        ]
    };
    let all: Vec<_> = (0..turns).map(|_| one()).collect();
    let least = |part: usize| all.iter().map(|times| times[part]).min().unwrap_or_default();
    (0..3).map(|part| nanoseconds(least(part), pages)).collect()
}

fn snapshot(pages: usize) -> std::time::Duration {
    let frames = Untouched::new(pages);
    let space = space(&frames);
    space.map(pages_at(0, pages), POPULATED, READ_WRITE).expect("it is unmapped");
    let mut snapshot = None;
    let took = time(|| snapshot = Some(space.snapshot().expect("there is memory")));
    // What is torn down looks at each page, and is measured elsewhere.
    std::mem::forget((space, snapshot));
    took
}
