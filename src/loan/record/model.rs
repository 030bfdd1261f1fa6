//! Returning, taking back and the end of a lender without a lock in common, in every interleaving that the memory model
//! allows.
//!
//! Run by `cargo xtask test --only loom`. With a relaxed load in `Out::count`, or a relaxed change in `Out::give_back`, the
//! lender takes memory back that a CPU of the borrower's still writes. With a relaxed change in `Users::give_back` or
//! `Users::lender_ends`, or a relaxed exchange in `Users::claim`, a page is freed while it is written; without that
//! exchange, it is freed twice.
#![allow(unsafe_code, reason = "a cell that threads share")]

use loom::{cell::UnsafeCell, sync::Arc, sync::atomic::AtomicUsize, thread};

use super::*;
use crate::{
    addr::GuestPhysAddr,
    counted::Counted,
    extents::{Extents, Seams},
    loan::holding::{Holding, Users},
};

/// A page.
struct Memory {
    extents: Extents,
    users: Users,
    /// What is in it.
    content: UnsafeCell<u64>,
    freed: AtomicUsize,
}

// SAFETY: that the page is not used by two threads at once is what the model shows.
unsafe impl Sync for Memory {}
// SAFETY: as above.
unsafe impl Send for Memory {}

/// The page, as a holding that the model looks into.
struct Page(Arc<Memory>);

impl Holding for Page {
    fn memory(&self) -> &Extents {
        &self.0.extents
    }

    fn users(&self, _: usize) -> &Users {
        &self.0.users
    }

    fn free_unreachable(&self, _: usize) -> bool {
        let is_free = self.0.users.claim();
        if is_free {
            // SAFETY: no side has it any more.
            self.0.content.with_mut(|content| unsafe { *content = 0 });
            self.0.freed.fetch_add(1, Ordering::Relaxed);
        }
        is_free
    }
}

fn range() -> GuestPhysRange {
    GuestPhysRange::from_start_size(GuestPhysAddr::from_usize(0), PAGE_SIZE_4K)
}

/// A page, and loans of it.
fn world<const LOANS: usize>() -> (Arc<Memory>, [Arc<Terms>; LOANS]) {
    let mut extents = Extents::default();
    extents.push(PhysAddr::from_usize(0), PAGE_SIZE_4K, Seams::Forgotten).unwrap();
    let content = UnsafeCell::new(0);
    let memory = Arc::new(Memory { extents, users: Users::lender(), content, freed: AtomicUsize::new(0) });
    let holding = Counted::<dyn Holding>::try_new_as(Page(memory.clone()), |inner| inner).unwrap();
    let loans = core::array::from_fn(|_| {
        let bargain = Bargain { kind: LoanKind::Lent, lender: range(), borrower: range(), flags: MappingFlags::READ };
        let terms = Terms::new(&bargain, PAGE_SIZE_4K, Parts::sole(holding.clone())).unwrap();
        terms.take_out();
        Arc::new(terms)
    });
    (memory, loans)
}

#[test]
fn what_is_taken_back_is_not_used_any_more() {
    loom::model(|| {
        let (memory, [terms]) = world();
        let borrower = thread::spawn({
            let (memory, terms) = (memory.clone(), terms.clone());
            move || {
                // SAFETY: the lender does not touch it before it is returned.
                memory.content.with_mut(|page| unsafe { *page = 7 });
                terms.give_back(range());
                terms.free_unreachable(&mut terms.pages(), &mut { usize::MAX });
            }
        });
        if terms.borrowed(terms.pages()) == 0 {
            // SAFETY: it is returned.
            memory.content.with_mut(|page| unsafe { *page += 1 });
        }
        borrower.join().unwrap();
        // SAFETY: no other side is left.
        assert!(memory.content.with(|page| unsafe { *page }) >= 7);
        assert_eq!(memory.freed.load(Ordering::Relaxed), 0, "its lender is there");
    });
}

/// The lender ends while a borrower returns.
#[test]
fn what_a_lender_left_is_freed_once_and_used_no_more() {
    loom::model(|| {
        let (memory, [terms]) = world();
        let borrower = thread::spawn({
            let (memory, terms) = (memory.clone(), terms.clone());
            move || {
                // SAFETY: the lender does not touch what it lent.
                memory.content.with_mut(|page| unsafe { *page = 7 });
                terms.give_back(range());
                terms.free_unreachable(&mut terms.pages(), &mut { usize::MAX });
            }
        });
        terms.lender_ends(range());
        terms.free_unreachable(&mut terms.pages(), &mut { usize::MAX });
        borrower.join().unwrap();
        assert_eq!(memory.freed.load(Ordering::Relaxed), 1);
    });
}

/// Two loans of a page end, and so does their lender, at once.
#[test]
fn what_two_borrowers_have_is_freed_once_by_the_last_side() {
    loom::model(|| {
        let (memory, loans) = world::<2>();
        let sides = loans.clone().map(|terms| {
            let memory = memory.clone();
            thread::spawn(move || {
                // SAFETY: to look at it changes nothing.
                assert_eq!(memory.content.with(|page| unsafe { *page }), 0);
                terms.give_back(range());
                terms.free_unreachable(&mut terms.pages(), &mut { usize::MAX });
            })
        });
        for terms in &loans {
            terms.lender_ends(range());
        }
        for terms in &loans {
            terms.free_unreachable(&mut terms.pages(), &mut { usize::MAX });
        }
        for side in sides {
            side.join().unwrap();
        }
        assert_eq!(memory.freed.load(Ordering::Relaxed), 1);
    });
}
