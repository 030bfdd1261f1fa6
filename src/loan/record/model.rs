//! Returning and taking back without a lock in common, in every interleaving that the memory model allows.
//!
//! Run by `cargo xtask test --only loom`. With a relaxed load in [`Terms::mapped`], or a relaxed subtraction in
//! [`Terms::give_back`], the lender takes memory back that a CPU of the borrower's still writes.

use loom::{cell::UnsafeCell, sync::Arc, thread};

use super::*;
use crate::{addr::GuestPhysAddr, extents::Seams};

struct World {
    terms: Terms,
    /// The memory itself.
    page: UnsafeCell<u64>,
}

// SAFETY: that the page is not used by two threads at once is what the model shows.
unsafe impl Sync for World {}

#[test]
fn what_is_taken_back_is_not_used_any_more() {
    loom::model(|| {
        let mut memory = Extents::default();
        memory.push(memory_addr::PhysAddr::from_usize(0), PAGE_SIZE_4K, Seams::Forgotten).unwrap();
        let range = GuestPhysRange::from_start_size(GuestPhysAddr::from_usize(0), PAGE_SIZE_4K);
        let terms = Terms::new(LoanKind::Lent, range, range, MappingFlags::READ, memory);
        terms.take_out();
        let world = Arc::new(World { terms, page: UnsafeCell::new(0) });
        let borrower = thread::spawn({
            let world = world.clone();
            move || {
                // SAFETY: the lender does not touch it before it is returned.
                world.page.with_mut(|page| unsafe { *page = 7 });
                world.terms.give_back(PAGE_SIZE_4K);
            }
        });
        if world.terms.mapped() == 0 {
            // SAFETY: it is returned.
            world.page.with_mut(|page| unsafe { *page += 1 });
        }
        borrower.join().unwrap();
        // SAFETY: no other side is left.
        assert!(world.page.with(|page| unsafe { *page }) >= 7);
    });
}
