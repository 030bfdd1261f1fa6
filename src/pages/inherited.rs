//! What a space has in common with snapshots and regions.

use core::ops::Range;

use spin::rwlock::{RwLock, RwLockReadGuard};

use super::{Gone, Keeper, Leaving, Look, Pages, Payer, Pool, Taken, Wanted};
use crate::{account::Exhausted, counted::Counted};

/// The pages that a space inherited and has no copies of, by the numbers of their guest-physical addresses; its own that were
/// in a snapshot are among them.
///
/// Methods of a trait, so that they are linked where a space can inherit: where a region is made.
pub(crate) trait Inherited: Send + Sync {
    /// Its lock, which comes behind the space's.
    fn pages(&self) -> &RwLock<Pages>;

    /// Who allocates the pages of the space, once that is known.
    fn keeper(&self) -> &RwLock<Option<Counted<dyn Keeper>>>;

    /// What is known of a page.
    fn look(&self, page: usize) -> Look {
        self.pages().read().look(page)
    }

    /// Keeps every page where it is.
    fn pin(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages().read()
    }

    /// As [`Pages::prepare`].
    fn prepare(&self, page: usize, payer: &Payer) -> Result<bool, Exhausted> {
        self.pages().upgradeable_read().upgrade().prepare(page, payer)
    }

    /// Whether a page can be [taken](Self::take).
    fn is_takable(&self, page: usize, pool: Option<Pool>) -> bool {
        self.pages().read().is_takable(page, (self.keeper().read().as_ref(), pool))
    }

    /// As [`Pages::take`], for the space, which frees pages of its own keeper and of `pool`.
    fn take(&self, page: usize, pool: Option<Pool>, payer: &Payer) -> Taken {
        let keeper = self.keeper().read();
        self.pages().upgradeable_read().upgrade().take(page, (keeper.as_ref(), pool), Some(payer))
    }

    /// As [`Pages::leave`].
    fn leave(&self, page: usize, payer: &Payer) -> Option<Gone> {
        self.pages().upgradeable_read().upgrade().leave(page, payer)
    }

    /// As [`Pages::wanted`].
    fn wanted(&self, page: usize) -> Result<Option<Wanted>, Exhausted> {
        self.pages().upgradeable_read().upgrade().wanted(page)
    }

    /// As [`Pages::isolate`].
    fn isolate(&self, range: &Range<usize>) -> Result<(), Exhausted> {
        self.pages().upgradeable_read().upgrade().isolate(range)
    }

    /// As [`Pages::isolate_to_cut`].
    fn isolate_to_cut(&self, range: &Range<usize>) -> Result<(), Exhausted> {
        self.pages().upgradeable_read().upgrade().isolate_to_cut(range)
    }

    /// As [`Pages::cut`].
    fn cut(&self, range: &Range<usize>, into: &mut Leaving) {
        self.pages().upgradeable_read().upgrade().cut(range, into);
    }

    /// As [`Pages::take_missing`].
    fn take_missing(&self, range: Range<usize>) -> Option<Gone> {
        self.pages().upgradeable_read().upgrade().take_missing(range)
    }

    /// Puts other pages in the place of all.
    fn replace(&self, pages: Pages) -> Pages {
        core::mem::replace(&mut self.pages().upgradeable_read().upgrade(), pages)
    }

    /// The same pages, for another owner.
    fn share(&self) -> Pages {
        self.pages().read().share()
    }
}

/// The pages.
#[derive(Default)]
struct Tree {
    pages: RwLock<Pages>,
    keeper: RwLock<Option<Counted<dyn Keeper>>>,
}

impl Inherited for Tree {
    fn pages(&self) -> &RwLock<Pages> {
        &self.pages
    }

    fn keeper(&self) -> &RwLock<Option<Counted<dyn Keeper>>> {
        &self.keeper
    }
}

/// Without any pages; `None` where there is no memory.
pub(crate) fn inherited() -> Option<Counted<dyn Inherited>> {
    Counted::<dyn Inherited>::try_new_as(Tree::default(), |inner| inner)
}
