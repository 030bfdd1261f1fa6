//! The identifiers that spaces have in the TLBs.

use core::{
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

use stage2_scenarios::Tag;

/// Numbers for spaces: one after the other, and from the beginning again.
pub struct Tags {
    fresh: Range<u32>,
    next: AtomicU32,
}

impl Tags {
    /// The first that scenarios cannot ask for.
    const FIRST_FRESH: u32 = 8;

    /// As many as the CPU tells apart.
    #[must_use]
    pub const fn new(count: u32) -> Self {
        Self { fresh: Self::FIRST_FRESH..count, next: AtomicU32::new(0) }
    }

    /// The number of a tag.
    pub fn number(&self, tag: Tag) -> u32 {
        match tag {
            Tag::This(number) => number.into(),
            Tag::Fresh => {
                let count = self.fresh.end - self.fresh.start;
                self.fresh.start + self.next.fetch_add(1, Ordering::Relaxed) % count
            }
        }
    }
}
