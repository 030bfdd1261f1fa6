//! Trees of pages whose allocator counts, by themselves.

use alloc::sync::Arc;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};
use std::vec::Vec;

use memory_addr::PhysAddr;

use super::{
    end::{Leaving, Piece, Waiting},
    *,
};
use crate::{
    account::{Accounts, Limits},
    invalidate::Content,
};

/// Frames that are numbers.
#[derive(Default)]
struct Frames {
    next: AtomicUsize,
    out: AtomicUsize,
}

struct Numbers(Arc<Frames>);

impl Keeper for Numbers {
    fn allocate(&self, _: &mut dyn FnMut(&mut [u8]) -> bool) -> Result<Option<PhysAddr>, Exhausted> {
        self.0.out.fetch_add(1, Ordering::Relaxed);
        Ok(Some(PhysAddr::from_usize((self.0.next.fetch_add(1, Ordering::Relaxed) + 1) << 12)))
    }

    fn allocate_block(&self, pages: usize) -> Option<PhysAddr> {
        let first = (self.0.next.load(Ordering::Relaxed) + 1).next_multiple_of(pages);
        self.0.next.store(first + pages - 1, Ordering::Relaxed);
        self.0.out.fetch_add(pages, Ordering::Relaxed);
        Some(PhysAddr::from_usize(first << 12))
    }

    #[allow(unsafe_code, reason = "the trait's")]
    unsafe fn free(&self, _: PhysAddr) {
        self.0.out.fetch_sub(1, Ordering::Relaxed);
    }

    fn pointer(&self, _: PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }

    fn synchronize(&self, _: NonNull<u8>, _: usize, _: Content) {}

    fn pool(&self) -> Option<Pool> {
        None
    }
}

struct World {
    frames: Arc<Frames>,
    keeper: Counted<dyn Keeper>,
    payer: Payer,
}

impl World {
    fn new() -> Self {
        let frames = Arc::new(Frames::default());
        let keeper = Counted::<dyn Keeper>::try_new_as(Numbers(frames.clone()), |inner| inner).unwrap();
        Self { frames, keeper, payer: Accounts::open(Limits::default(), 1).unwrap() }
    }

    /// A tree with frames for some pages.
    fn tree(&self, pages: &[(usize, usize)]) -> Pages {
        let mut tree = Pages::default();
        for &(start, end) in pages {
            let range = start..end;
            tree.reserve(range.clone(), &self.keeper).unwrap();
            let frames: Vec<_> = range.clone().map(|_| self.keeper.allocate(&mut |_| true).unwrap().unwrap()).collect();
            tree.put_all(range.start, frames.into_iter().map(Frame::page));
        }
        tree
    }

    fn take(&self, tree: &mut Pages, page: usize) -> Taken {
        assert_eq!(tree.prepare(page, &self.payer), Ok(false));
        tree.take(page, (Some(&self.keeper), None), Some(&self.payer))
    }

    fn out(&self) -> usize {
        self.frames.out.load(Ordering::Relaxed)
    }
}

fn there(tree: &Pages) -> Vec<usize> {
    let mut next = 0;
    core::iter::from_fn(|| {
        let page = tree.next(next..usize::MAX)?;
        next = page + 1;
        Some(page)
    })
    .collect()
}

/// Frees some of what was cut out.
fn step(leaving: &mut Leaving, mut budget: usize) {
    while budget > 0
        && let Some(piece) = leaving.pop()
    {
        match piece {
            Piece::Page(page) => {
                budget -= 1;
                drop(page);
            }
            Piece::Tree(mut tree) => {
                tree.step(&mut budget);
                assert!(tree.is_empty() || leaving.put_back(&mut tree));
            }
        }
    }
}

#[test]
fn a_tree_grows_to_any_page() {
    let world = World::new();
    let tree = world.tree(&[(70_000, 70_003), (15, 18), (1 << 39, (1 << 39) + 1)]);
    assert_eq!(there(&tree), [15, 16, 17, 70_000, 70_001, 70_002, 1 << 39]);
    assert_eq!((tree.count(), tree.frame(16).is_some(), tree.frame(18)), (7, true, None));
    drop(tree);
    assert_eq!(world.out(), 0);
}

#[test]
fn a_page_that_two_trees_name_is_taken_by_neither() {
    let world = World::new();
    let mut one = world.tree(&[(3, 40)]);
    let mut two = one.share();
    let at = one.frame(20).unwrap();
    assert_eq!((world.take(&mut one, 20), world.take(&mut two, 20)), (Taken::Shared(at), Taken::Shared(at)));
    drop(two);
    assert_eq!((world.take(&mut one, 20), one.frame(20), world.out()), (Taken::Page(at, false), None, 37));
    drop(one);
    assert_eq!(world.out(), 1, "the page that was taken");
}

#[test]
fn the_last_that_lets_go_of_a_page_frees_it() {
    let world = World::new();
    let mut trees = [world.tree(&[(0, 20)]), Pages::default(), Pages::default()];
    trees[1] = trees[0].share();
    trees[2] = trees[1].share();
    for (left, tree) in [(20, 2), (20, 0), (19, 1)] {
        trees[tree].prepare(7, &world.payer).unwrap();
        drop(trees[tree].leave(7, &world.payer));
        assert_eq!((trees[tree].frame(7), world.out()), (None, left));
    }
    assert!(trees.iter().all(|tree| tree.frame(6).is_some()));
    drop(trees);
    assert_eq!(world.out(), 0);
}

#[test]
fn what_is_cut_out_goes_in_steps_and_the_rest_stays() {
    for range in [0..1, 5..300, 16..32, 250..257, 0..4096, 4095..4096] {
        let world = World::new();
        let mut tree = world.tree(&[(0, 4096)]);
        let other = tree.share();
        let mut leaving = Leaving::default();
        tree.isolate(&range).unwrap();
        leaving.reserve(tree.pieces(&range)).unwrap();
        tree.cut(&range, Some(&world.payer), &mut leaving);
        assert_eq!(there(&tree), (0..4096).filter(|page| !range.contains(page)).collect::<Vec<_>>(), "{range:?}");
        assert_eq!((other.count(), world.out()), (4096, 4096), "another tree has them all");
        drop(other);
        while !leaving.is_empty() {
            let before = world.out();
            step(&mut leaving, 3);
            assert!(before - world.out() <= 3, "{range:?}");
        }
        assert_eq!(world.out(), 4096 - range.len(), "{range:?}");
        drop(tree);
        assert_eq!(world.out(), 0, "{range:?}");
    }
}

#[test]
fn pages_are_shared_at_any_other_numbers() {
    for (first, to) in [(0, 0), (0, 16), (5, 9), (16, 4096), (256, 0), (3, 70_000)] {
        let world = World::new();
        let mut from = world.tree(&[(0, 40), (300, 600)]);
        let mut tree = Pages::default();
        tree.graft(to, &mut from, first, 500).unwrap();
        for page in 0..500 {
            assert_eq!(tree.frame(to + page), from.frame(first + page), "{first} at {to}: {page}");
        }
        assert_eq!(world.out(), 340);
        drop((tree, from));
        assert_eq!(world.out(), 0);
    }
}

#[test]
fn what_others_wait_for_stays_theirs() {
    let world = World::new();
    let mut tree = Pages::supplied_by(&world.keeper);
    tree.span(&(0..64)).unwrap();
    let other = tree.share();
    assert!(tree.wanted(20).unwrap().is_some());
    let mut leaving = Leaving::default();
    tree.isolate(&(16..32)).unwrap();
    leaving.reserve(tree.pieces(&(16..32))).unwrap();
    tree.cut(&(16..32), Some(&world.payer), &mut leaving);
    while !matches!(leaving.take_missing(), Waiting::Nothing) {}
    while !leaving.is_empty() {
        step(&mut leaving, 1);
    }
    assert_eq!((there(&tree), there(&other)), (Vec::new(), [20].to_vec()), "another tree waits still");
}

/// Wherever the ends of a range lie, and whatever was there before: what comes has the places of what goes.
#[test]
fn pages_come_in_the_place_of_others() {
    for range in [0..1, 5..9, 16..32, 5..300, 255..257, 4000..4096, 4096..4100, 5000..9000] {
        let world = World::new();
        let mut tree = world.tree(&[(0, 4096)]);
        let other = tree.share();
        let mut from = world.tree(&[(0, 70_000)]);
        let mut comes = Pages::default();
        comes.graft(range.start, &mut from, range.start + 3, range.len()).unwrap();
        let mut leaving = Leaving::default();
        tree.isolate(&range).unwrap();
        leaving.reserve(tree.pieces(&range)).unwrap();
        tree.make_way(&comes).unwrap();
        tree.cut(&range, Some(&world.payer), &mut leaving);
        tree.merge(comes);
        for page in 0..10_000 {
            let at = if range.contains(&page) { from.frame(page + 3) } else { other.frame(page) };
            assert_eq!(tree.frame(page), at, "{range:?}: {page}");
        }
        step(&mut leaving, usize::MAX);
        assert_eq!((other.count(), from.count(), world.out()), (4096, 70_000, 74_096), "{range:?}");
        drop((tree, other, from));
        assert_eq!(world.out(), 0, "{range:?}");
    }
}

#[test]
fn a_block_is_what_was_allocated_at_once_and_is_in_order() {
    const PAGES: usize = 64;
    let world = World::new();
    let at = world.keeper.allocate_block(PAGES).unwrap();
    let blocks = |tree: &Pages, pages: usize| -> Vec<usize> {
        (0..4 * PAGES).filter(|&first| tree.block(first, pages).is_some()).collect()
    };
    // Anywhere in the tree, and in another that shares its nodes or its pages.
    let mut tree = Pages::default();
    tree.reserve(70..70 + PAGES, &world.keeper).unwrap();
    tree.put_all(70, Frame::all(at, PAGES * PAGE_SIZE_4K));
    assert_eq!(tree.block(70, PAGES), Some(at));
    assert_eq!((blocks(&tree, PAGES), blocks(&tree, PAGES / 2)), ([70].into(), [70, 102].into()));
    assert_eq!(blocks(&tree, 2 * PAGES), [], "larger than what was allocated");
    for to in [70, 86, 71] {
        let mut other = Pages::default();
        other.graft(to, &mut tree, 70, PAGES).unwrap();
        assert_eq!(blocks(&other, PAGES), [to]);
        drop(other.take_next(&mut (to + 40..to + 41)));
        assert_eq!((blocks(&other, PAGES), blocks(&other, PAGES / 2)), ([].into(), [to].into()));
    }
    assert_eq!(blocks(&tree, PAGES), [70], "others left it");
    // Frames side by side that were allocated one by one.
    let single = world.tree(&[(0, PAGES + 20)]);
    assert!((0..20).any(|first| single.frame(first).unwrap().as_usize().is_multiple_of(16 * PAGE_SIZE_4K)));
    assert_eq!(blocks(&single, 16), []);
    // A block whose pages are in another order.
    let at = world.keeper.allocate_block(PAGES).unwrap();
    let mut mixed = Pages::default();
    mixed.reserve(0..PAGES, &world.keeper).unwrap();
    let mut frames: Vec<_> = Frame::all(at, PAGES * PAGE_SIZE_4K).collect();
    frames.swap(17, 18);
    mixed.put_all(0, frames.into_iter());
    assert_eq!((blocks(&mixed, PAGES), blocks(&mixed, 32)), ([].into(), [32].into()));
    drop((tree, single, mixed));
    assert_eq!(world.out(), 0);
}
