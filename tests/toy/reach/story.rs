//! Stories: random operations, the same ones each time, and the shortest of those that fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Begin,
    End,
    Map,
    MapFrom,
    Unmap,
    /// A guest's memory goes, and its areas stay.
    Discard,
    /// Pages of a region go for all.
    Punch,
    /// Another mapping takes the place of what is there.
    Replace,
    Write,
    Read,
    Snapshot,
    /// A new guest from a snapshot.
    Fork,
    /// A guest loses all it has and goes on with a snapshot.
    Rewind,
    /// A snapshot comes to a guest that has room for it.
    Restore,
    Region,
    RegionFrom,
    Freeze,
    Share,
    Inherit,
    Clone,
    Drop,
    Put,
    Get,
    MakeShared,
    MakePrivate,
    Donate,
    Loan,
    Relocate,
    Populate,
    /// Of a page by its source.
    Offer,
}

impl Kind {
    /// How often it comes, beside the others.
    fn weight(self) -> usize {
        match self {
            Self::Write => 10,
            Self::Read => 7,
            Self::Snapshot | Self::Drop | Self::Unmap => 4,
            Self::Map | Self::Fork | Self::Share | Self::Inherit | Self::Loan | Self::Donate => 3,
            Self::End | Self::Relocate => 1,
            _ => 2,
        }
    }
}

/// An operation: what its numbers mean depends on what there is by then.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub kind: Kind,
    pub numbers: [usize; 6],
}

/// Numbers that look random, and are the same ones each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }
}

/// A story of so many operations.
fn story(seed: u64, length: usize, kinds: &[Kind]) -> Vec<Op> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let all: usize = kinds.iter().map(|kind| kind.weight()).sum();
    let op = |_| {
        let mut left = random.next() % all;
        let mut chosen = kinds[0];
        for &kind in kinds {
            chosen = kind;
            match left.checked_sub(kind.weight()) {
                Some(less) => left = less,
                None => break,
            }
        }
        Op { kind: chosen, numbers: std::array::from_fn(|_| random.next()) }
    };
    (0..length).map(op).collect()
}

/// Why a story failed, and what had been done.
struct Failure {
    why: String,
    log: Vec<String>,
}

/// Tells a story. A panic is a failure as any other.
fn tell(pooled: Pooled, ops: &[Op]) -> Result<(), Failure> {
    let mut world = World::new(pooled);
    let told = catch_unwind(AssertUnwindSafe(|| {
        for op in ops {
            world.run(*op)?;
        }
        world.end()
    }));
    let why = match told {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(why)) => why,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        }
    };
    let log = std::mem::take(&mut world.log);
    // What is in disorder may panic once more where it is dropped.
    std::mem::forget(world);
    Err(Failure { why, log })
}

/// Leaves out of a story that fails what it fails without.
fn shrink(pooled: Pooled, mut ops: Vec<Op>, mut failure: Failure) -> Failure {
    let mut size = ops.len().next_power_of_two();
    while size > 0 {
        let mut start = 0;
        let mut smaller = false;
        while start < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(start..(start + size).min(ops.len()));
            if let Err(other) = tell(pooled, &fewer) {
                (ops, failure, smaller) = (fewer, other, true);
            } else {
                start += size;
            }
        }
        if size > 1 || !smaller {
            size /= 2;
        }
    }
    failure
}

/// Tells as many stories of these kinds of operations, short ones first. `STAGE2_REACH` in the environment is another
/// number of stories.
#[track_caller]
pub fn hold(pooled: Pooled, stories: u64, kinds: &[&[Kind]]) {
    let kinds: Vec<Kind> = kinds.concat();
    let stories = std::env::var("STAGE2_REACH").map_or(stories, |number| number.parse().expect("a number"));
    for seed in 0..stories {
        let ops = story(seed, 12 + seed as usize / 3 % 150, &kinds);
        if let Err(failure) = tell(pooled, &ops) {
            let Failure { why, log } = shrink(pooled, ops, failure);
            panic!("story {seed}:\n  {}\n{why}", log.join("\n  "));
        }
    }
}
