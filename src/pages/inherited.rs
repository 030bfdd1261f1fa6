//! What a space has in common with snapshots and regions.

use core::ops::Range;

use memory_addr::PhysAddr;
use spin::rwlock::{RwLock, RwLockReadGuard};

use super::{
    Asker, Gone, Keeper, Look, Offer, Pages, Payer, Place, Pool, Taken, Wanted,
    end::{Leaving, MOST_LOOKS, Piece, Waiting},
    is_still_missing,
    keeper::Paid,
    offer,
};
use crate::{
    account::Exhausted,
    counted::Counted,
    source::{Pager, Supplied},
};

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

    /// As [`Pages::block`].
    fn block(&self, first: usize, pages: usize) -> Option<PhysAddr> {
        self.pages().read().block(first, pages)
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
    fn leave(&self, page: usize, payer: &Payer) -> Option<(Gone, bool)> {
        self.pages().upgradeable_read().upgrade().leave(page, payer)
    }

    /// Has a source bring a page that the guest of the space misses, from `offset` bytes on there. Called without any lock.
    fn bring(
        &self,
        page: usize,
        (pager, offset): (&Pager, usize),
        payer: &Payer,
        guest: &dyn Asker,
    ) -> Result<Supplied, Exhausted> {
        let mut wanted = Ok(None);
        // What stands there by now may be another source's: a CPU that misses its page must not be given this one's ticket.
        // And what is not there any more must not get a place for the page.
        guest.hold(&mut |is_missing| {
            if is_missing() {
                wanted = self.pages().upgradeable_read().upgrade().wanted(page);
            }
        });
        let Some(wanted) = wanted? else { return Ok(Supplied::Ready) };
        wanted.check_room(payer, || self.look(page).is_alone)?;
        let is_absent = || self.look(page).at.is_none();
        // What others wait for too is on no account, as all that they have in common. No snapshot comes between look and note.
        let mut note = || wanted.note(self.look(page).is_alone.then(|| (payer.clone(), page)), pager);
        wanted.ask((pager, offset), guest.demand(), || is_still_missing(&is_absent, guest, &mut note))
    }

    /// Offers a page that the guest of the space may miss. Called without any lock.
    fn offer(
        &self,
        page: usize,
        pager: &Pager,
        payer: &Payer,
        guest: &dyn Asker,
        content: &[u8],
    ) -> Result<Offer, Exhausted> {
        offer(&At { pages: self.pages(), page, payer }, pager, guest, content)
    }

    /// As [`Pages::isolate`].
    fn isolate(&self, range: &Range<usize>) -> Result<(), Exhausted> {
        self.pages().upgradeable_read().upgrade().isolate(range)
    }

    /// As [`Pages::isolate_to_cut`].
    fn isolate_to_cut(&self, range: &Range<usize>) -> Result<(), Exhausted> {
        self.pages().upgradeable_read().upgrade().isolate_to_cut(range)
    }

    /// What was cut out, until it is free. Its lock comes behind that of the pages.
    fn leaving(&self) -> &RwLock<Leaving>;

    /// As [`Pages::pieces`].
    fn pieces(&self, range: &Range<usize>) -> (usize, usize) {
        self.pages().read().pieces(range)
    }

    /// Makes room for what is to be [cut out](Self::cut) of some ranges, which are isolated and have so many pieces. With the
    /// space's lock held exclusively it is there until something is cut out.
    fn reserve(&self, pieces: (usize, usize)) -> Result<(), Exhausted> {
        self.leaving().write().reserve(pieces)
    }

    /// As [`Pages::cut`]: it goes to what is [leaving](Self::leaving).
    fn cut(&self, range: &Range<usize>, payer: &Payer) {
        self.pages().upgradeable_read().upgrade().cut(range, Some(payer), &mut self.leaving().write());
    }

    /// Cuts all out, when no lock is held.
    fn cut_all(&self, payer: &Payer) {
        let mut all = self.replace(Pages::default());
        if !self.leaving().write().push(&mut all, Some(payer)) {
            // There is no memory to name it: it goes at once.
            all.leave_some(Some(payer), &mut 0, &mut { usize::MAX });
        }
    }

    /// Ends the waits for what was cut out. Called without any lock: sources are told.
    fn end_waits(&self) {
        let next = || self.leaving().write().take_missing();
        loop {
            match next() {
                Waiting::Page(missing) => drop(missing),
                Waiting::More => {}
                Waiting::Nothing => return,
            }
        }
    }

    /// Frees what was cut out, by whomever, until `budget` is used up: each page takes one, and so does a node without any.
    /// Called without any lock. Whether all is free.
    fn free_some(&self, budget: &mut usize) -> bool {
        while *budget > 0 {
            let piece = self.leaving().write().pop();
            match piece {
                None => return true,
                Some(Piece::Page(page)) => {
                    *budget -= 1;
                    drop(page);
                }
                Some(Piece::Tree(mut tree)) => {
                    tree.step(budget);
                    if !tree.is_empty() && !self.leaving().write().put_back(&mut tree) {
                        tree.step(&mut { usize::MAX });
                    }
                }
            }
        }
        self.leaving().read().is_empty()
    }

    /// As [`Pages::take_missing`], with a bounded number of looks.
    fn take_missing(&self, range: &mut Range<usize>) -> Option<Gone> {
        self.pages().upgradeable_read().upgrade().take_missing(range, MOST_LOOKS)
    }

    /// As [`Pages::unpay_some`].
    fn unpay_some(&self, payer: &Payer, next: &mut usize, budget: &mut usize) -> bool {
        self.pages().read().unpay_some(payer, next, budget)
    }

    /// As [`Pages::make_way`].
    fn make_way(&self, pages: &Pages) -> Result<(), Exhausted> {
        self.pages().upgradeable_read().upgrade().make_way(pages)
    }

    /// As [`Pages::merge`].
    fn merge(&self, pages: Pages) {
        self.pages().upgradeable_read().upgrade().merge(pages);
    }

    /// Puts other pages in the place of all.
    fn replace(&self, pages: Pages) -> Pages {
        core::mem::replace(&mut self.pages().upgradeable_read().upgrade(), pages)
    }

    /// Whether nothing waits to be freed: what this change cuts out is its own to free.
    fn is_settled(&self) -> bool {
        self.leaving().read().is_empty()
    }

    /// The same pages, for another owner.
    fn share(&self) -> Pages {
        self.pages().read().share()
    }
}

/// A page of a space that has that account.
struct At<'i> {
    pages: &'i RwLock<Pages>,
    page: usize,
    payer: &'i Payer,
}

impl Place for At<'_> {
    fn wanted(&self) -> Result<Option<Wanted>, Exhausted> {
        self.pages.upgradeable_read().upgrade().wanted(self.page)
    }

    /// What others wait for too is on no account, as all that they have in common.
    fn paid(&self) -> Option<Paid> {
        self.pages.read().look(self.page).is_alone.then(|| (self.payer.clone(), self.page))
    }
}

/// The pages.
#[derive(Default)]
struct Tree {
    pages: RwLock<Pages>,
    keeper: RwLock<Option<Counted<dyn Keeper>>>,
    leaving: RwLock<Leaving>,
}

impl Inherited for Tree {
    fn pages(&self) -> &RwLock<Pages> {
        &self.pages
    }

    fn keeper(&self) -> &RwLock<Option<Counted<dyn Keeper>>> {
        &self.keeper
    }

    fn leaving(&self) -> &RwLock<Leaving> {
        &self.leaving
    }
}

/// Without any pages; `None` where there is no memory.
pub(crate) fn inherited() -> Option<Counted<dyn Inherited>> {
    Counted::<dyn Inherited>::try_new_as(Tree::default(), |inner| inner)
}
