//! Sets of 10 to 100,000 areas, beside `memory_set` 0.4, whose interface ours is.

use memory_addr::{AddrRange, VirtAddr};
use stage2_benches::sets::Idle;

use crate::{
    machine::{again, scattered},
    suite::Suite,
};

/// The distance of two areas; each is half as long.
const STRIDE: usize = 0x4000;
/// The size of an area.
const SIZE: usize = STRIDE / 2;

/// Everything twice, since the two crates have their own types with the same names.
macro_rules! contender {
    ($set:ident, $krate:ident) => {
        struct $set($krate::MemorySet<Idle>);

        impl $set {
            fn of(areas: usize) -> Self {
                let mut set = Self($krate::MemorySet::new());
                (0..areas).for_each(|index| set.map(VirtAddr::from_usize(index * STRIDE)));
                set
            }

            fn find(&self, at: VirtAddr) -> bool {
                self.0.find(at).is_some()
            }

            fn free(&self, limit: AddrRange<VirtAddr>) -> Option<VirtAddr> {
                self.0.find_free_area(limit.start, 2 * SIZE, limit, SIZE)
            }

            fn map(&mut self, at: VirtAddr) {
                let area = $krate::MemoryArea::new(at, SIZE, 1, Idle);
                self.0.map(area, &mut (), false).expect("it is unmapped");
            }

            fn unmap(&mut self, at: VirtAddr) {
                self.0.unmap(at, SIZE, &mut ()).expect("the backend succeeds");
            }

            fn protect(&mut self, at: VirtAddr, flags: u8) {
                self.0.protect(at, SIZE, |_| Some(flags), &mut ()).expect("the backend succeeds");
            }
        }
    };
}

contender!(Theirs, memory_set);
contender!(Ours, stage2);

pub fn bench(suite: &mut Suite) {
    for areas in [10, 1_000, 10_000, 100_000] {
        of(suite, areas);
    }
}

fn of(suite: &mut Suite, areas: usize) {
    let order = &scattered(4096, areas);
    let nth = move |turn: usize| VirtAddr::from_usize(order[turn % order.len()] * STRIDE);
    let everything = AddrRange::from_start_size(VirtAddr::from_usize(0), areas * STRIDE + (1 << 30));
    let (mut theirs, mut ours) = (Theirs::of(areas), Ours::of(areas));
    suite.compare(
        &format!("find one of {areas} areas"),
        1,
        vec![
            ("memory_set", Box::new(again(|turn| theirs.find(nth(turn))))),
            ("stage2", Box::new(again(|turn| ours.find(nth(turn))))),
        ],
    );
    suite.compare(
        &format!("find room behind {areas} areas"),
        1,
        vec![
            ("memory_set", Box::new(again(|_| theirs.free(everything)))),
            ("stage2", Box::new(again(|_| ours.free(everything)))),
        ],
    );
    suite.compare(
        &format!("map and unmap one of {areas} areas"),
        1,
        vec![
            ("memory_set", Box::new(again(|turn| (theirs.map(nth(turn) + SIZE), theirs.unmap(nth(turn) + SIZE))))),
            ("stage2", Box::new(again(|turn| (ours.map(nth(turn) + SIZE), ours.unmap(nth(turn) + SIZE))))),
        ],
    );
    suite.compare(
        &format!("protect one of {areas} areas"),
        1,
        vec![
            ("memory_set", Box::new(again(|turn| theirs.protect(nth(turn), turn as u8)))),
            ("stage2", Box::new(again(|turn| ours.protect(nth(turn), turn as u8)))),
        ],
    );
}
