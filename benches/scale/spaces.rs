//! 1 to 1,000 spaces that fault in turn.

use super::{Extent, curve::Curve, nanoseconds, time};
use stage2_benches::{
    machine::{Arm, LAZY, READ_WRITE, Space, fault, pages_at, space_of},
    pool::Pool,
};

/// Pages of each.
const PAGES: usize = 64;

pub fn measure(extent: Extent) -> Curve {
    let counts: &[usize] = if extent == Extent::Quick { &[1, 10] } else { &[1, 10, 100, 1000] };
    let mut curve = Curve::new("spaces", vec!["make one", "fault on a fresh page", "unmap a page", "drop one"]);
    for &count in counts {
        curve.add(count.to_string(), count, times(count));
    }
    curve
}

fn times(count: usize) -> Vec<f64> {
    let everything = pages_at(0, PAGES);
    let mut spaces: Vec<Space<Arm, Pool>> = Vec::with_capacity(count);
    let made = time(|| spaces.extend((0..count).map(|_| space_of(Pool, 2))));
    for space in &spaces {
        space.map(everything, LAZY, READ_WRITE).expect("it is unmapped");
    }
    let faulted = time(|| {
        for index in 0..PAGES {
            for space in &spaces {
                let _ = std::hint::black_box(fault(space, 0, index));
            }
        }
    });
    let unmapped = time(|| spaces.iter().for_each(|space| space.unmap(everything).expect("it is mapped")));
    let dropped = time(|| spaces.clear());
    vec![
        nanoseconds(made, count),
        nanoseconds(faulted, count * PAGES),
        nanoseconds(unmapped, count * PAGES),
        nanoseconds(dropped, count),
    ]
}
