//! 10 to 100,000 areas in one space.

use super::{Extent, curve::Curve, nanoseconds, time};
use stage2_benches::{
    machine::{Arm, READ, READ_WRITE, Space, fault, linear, page, pages_at, scattered, shuffled, space_of},
    pool::Pool,
};

/// Most operations in a turn.
const MOST: usize = 200;
/// Turns, of which the least counts.
const TURNS: usize = 5;

pub fn measure(extent: Extent) -> Curve {
    let counts: &[usize] = if extent == Extent::Quick { &[10, 1000] } else { &[10, 100, 1000, 10_000, 100_000] };
    let columns = vec!["map a page", "protect a page", "unmap a page", "translate", "fault on a present page"];
    let mut curve = Curve::new("areas", columns);
    for &areas in counts {
        curve.add(areas.to_string(), areas, times(areas));
    }
    curve
}

/// A space with areas of one page, and three pages between each two.
fn space(areas: usize) -> Space<Arm, Pool> {
    let space = space_of(Pool, 2);
    for area in 0..areas {
        space.map(pages_at(4 * area, 1), linear(4 * area), READ_WRITE).expect("it is unmapped");
    }
    space
}

fn times(areas: usize) -> Vec<f64> {
    let space = &space(areas);
    let between: Vec<usize> = shuffled(MOST.min(areas), areas).into_iter().map(|area| 4 * area + 2).collect();
    let present: Vec<usize> = scattered(MOST, areas).into_iter().map(|area| 4 * area).collect();
    let one = |_| {
        let map = |&index: &usize| space.map(pages_at(index, 1), linear(index), READ_WRITE).expect("it is unmapped");
        let protect = |&index: &usize| space.protect(pages_at(index, 1), READ).expect("it is mapped");
        let unmap = |&index: &usize| space.unmap(pages_at(index, 1)).expect("it is mapped");
        let translate = |&index: &usize| assert!(std::hint::black_box(space.translate(page(index))).is_some());
        let faulting = |&index: &usize| {
            let _ = std::hint::black_box(fault(space, 0, index));
        };
        [
            nanoseconds(time(|| between.iter().for_each(map)), between.len()),
            nanoseconds(time(|| between.iter().for_each(protect)), between.len()),
            nanoseconds(time(|| between.iter().for_each(unmap)), between.len()),
            nanoseconds(time(|| present.iter().for_each(translate)), present.len()),
            nanoseconds(time(|| present.iter().for_each(faulting)), present.len()),
        ]
    };
    let all: Vec<[f64; 5]> = (0..TURNS).map(one).collect();
    (0..5).map(|part| all.iter().map(|times| times[part]).fold(f64::INFINITY, f64::min)).collect()
}
