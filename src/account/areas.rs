//! How many areas a space has, and how many it may have.

use core::sync::atomic::{AtomicU32, Ordering};

use super::{Exhausted, Resource};

/// The limit of a space that has none. No heap holds the areas of a higher one.
const UNLIMITED: u32 = u32::MAX;

/// The account of areas. It changes with the space's lock held exclusively, and is read without any.
///
/// Both are in one word, since an empty space is to be small.
// Relaxed throughout: no other memory is read or written by what they say.
pub(crate) struct AreaAccount {
    limit: AtomicU32,
    used: AtomicU32,
}

impl AreaAccount {
    /// The account of a space that has none yet.
    pub(super) fn open(limit: Option<usize>) -> Self {
        Self { limit: AtomicU32::new(bounded(limit)), used: AtomicU32::new(0) }
    }

    /// How many there are.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed) as usize
    }

    /// Whether so many more are within the limit: exact with the lock held.
    #[inline]
    pub(crate) fn fits(&self, more: usize) -> bool {
        let (limit, used) = (self.limit.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed));
        limit.checked_sub(used).is_some_and(|room| more <= room as usize)
    }

    /// So many there are.
    #[inline]
    pub(crate) fn note(&self, used: usize) {
        let used = u32::try_from(used).unwrap_or(UNLIMITED);
        // A line that other CPUs read is not written in vain.
        if self.used.load(Ordering::Relaxed) != used {
            self.used.store(used, Ordering::Relaxed);
        }
    }

    /// What is said where the limit is reached.
    pub(crate) fn refusal(&self) -> Exhausted {
        Exhausted::Limit(Resource::Areas, self.limit.load(Ordering::Relaxed) as usize)
    }

    /// Sets the limit: what is there beyond it stays.
    pub(crate) fn set_limit(&self, limit: Option<usize>) {
        self.limit.store(bounded(limit), Ordering::Relaxed);
    }

    /// The limit, if there is one.
    pub(crate) fn limited(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|&limit| limit != UNLIMITED).map(|limit| limit as usize)
    }
}

fn bounded(limit: Option<usize>) -> u32 {
    limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(UNLIMITED)
}
