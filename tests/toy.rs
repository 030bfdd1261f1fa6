//! An architecture that the crate has never heard of: what the walker does without knowing a bit, and in which order.

#![allow(unsafe_code, missing_docs, reason = "a test's board")]

#[path = "toy/board.rs"]
mod board;
#[path = "toy/eventful.rs"]
mod eventful;
#[path = "toy/format.rs"]
mod format;
#[path = "toy/limits.rs"]
mod limits;
#[path = "toy/loans.rs"]
mod loans;
#[path = "toy/races.rs"]
mod races;
#[path = "toy/regions.rs"]
mod regions;
#[path = "toy/rest.rs"]
mod rest;
#[path = "toy/sources.rs"]
mod sources;
#[path = "toy/steps.rs"]
mod steps;
#[path = "toy/transfers.rs"]
mod transfers;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use board::{Board, Event, Machine, range};
use format::Toy;
use stage2::{
    Access, Cause, Changed, Content, CpuId, Entry, Error, Fault, Format, Frames, GuestPhysAddr, GuestSpace, LeafPolicy,
    Level, Mapping, MappingFlags, Origin, Outcome, PhysAddr, Pieces, Populate, Reach, Used, VcpuId,
};

const PAGE: usize = 0x1000;
/// A block of level 1: 32 pages.
const BLOCK: usize = 32 * PAGE;
/// A block of level 2: 32 blocks.
const LARGE: usize = 32 * BLOCK;

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
const RWX: MappingFlags = RW.union(MappingFlags::EXECUTE);
const READ: MappingFlags = MappingFlags::READ;

const LAZY: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
const LAZY_BLOCKS: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Largest };
const BLOCKS: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Largest };
const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };

/// Longer than an answer takes on the busiest host: only what never comes is waited for so long.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

fn gpa(address: usize) -> GuestPhysAddr {
    GuestPhysAddr::from_usize(address)
}

fn fault(space: &GuestSpace<Machine>, at: usize, access: Access) -> Outcome {
    let fault = Fault { gpa: gpa(at), access, cause: Cause::Translation, origin: Origin::Instruction };
    space.fault(CpuId(0), fault).expect("memory")
}

mod map {
    use super::*;

    #[test]
    fn uses_the_largest_leaves_between_unaligned_ends() {
        let board = Board::new();
        let space = board.space();
        space.map(range(BLOCK - PAGE, LARGE + BLOCK + 2 * PAGE), BLOCKS, RW).unwrap();
        // One page; blocks up to the next large boundary; what is left of the second large block; one page.
        assert_eq!(space.stats().leaves, [2, 33, 0, 0, 0]);
        assert_eq!(space.stats().owned_frames, 2 + 33 * 32);
        space.map(range(4 * LARGE, LARGE), BLOCKS, RW).unwrap();
        assert_eq!(space.stats().leaves, [2, 33, 1, 0, 0]);
    }

    #[test]
    fn needs_no_invalidation() {
        let board = Board::new();
        let space = board.space();
        board.events();
        space.map(range(0, 4 * BLOCK), PAGES, RW).unwrap();
        space.map(range(LARGE, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
        assert!(board.events().iter().all(|event| matches!(event, Event::Allocated(..) | Event::Freed(..))));
    }

    #[test]
    fn of_a_lazy_area_builds_no_table() {
        let board = Board::new();
        let space = board.space();
        let before = board.allocated();
        space.map(range(0, LARGE), LAZY, RW).unwrap();
        assert_eq!(board.allocated(), before);
    }

    #[test]
    fn shares_the_tables_that_are_there() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        let tables = space.stats().table_frames;
        space.map(range(PAGE, PAGE), PAGES, RW).unwrap();
        assert_eq!(space.stats().table_frames, tables);
        assert_eq!(board.allocated(), tables + 2);
    }

    #[test]
    fn refuses_and_names_what_is_wrong_with_a_range() {
        let board = Board::new();
        let space = board.space();
        let limit = 1 << 34;
        let empty = range(PAGE, 0);
        assert_eq!(space.map(empty, LAZY, RW), Err(Error::Empty(empty)));
        let odd = range(PAGE + 1, PAGE);
        assert_eq!(space.map(odd, LAZY, RW), Err(Error::Misaligned(odd)));
        let beyond = range(limit - PAGE, 2 * PAGE);
        assert_eq!(space.map(beyond, LAZY, RW), Err(Error::BeyondInput { range: beyond, bits: 34 }));
        space.map(range(limit - PAGE, PAGE), PAGES, RW).unwrap();
        assert_eq!(space.translate(gpa(limit)), None);
        assert_eq!(space.translate(gpa(0)), None, "the last page of a wide root is not the first of a narrow one");
    }

    #[test]
    fn refuses_a_target_that_no_entry_holds() {
        let space = Board::new().space();
        let area = range(0, 2 * PAGE);
        for to in [1, (1 << 40) - PAGE, usize::MAX - PAGE + 1] {
            let to = PhysAddr::from_usize(to);
            let refused = Err(Error::BadTarget { range: area, to, bits: 40 });
            assert_eq!(space.map(area, Mapping::Linear { to }, RW), refused);
        }
        assert_eq!(space.stats().areas, 0);
    }

    #[test]
    fn names_both_ranges_of_an_overlap_and_changes_nothing() {
        let board = Board::new();
        let space = board.space();
        space.map(range(4 * PAGE, 2 * PAGE), PAGES, RW).unwrap();
        let before = (space.to_string(), board.allocated());
        for start in [0, 5 * PAGE, 4 * PAGE] {
            let asked = range(start, 5 * PAGE);
            let overlap = Error::Overlap { range: asked, with: range(4 * PAGE, 2 * PAGE) };
            assert_eq!(space.map(asked, PAGES, RW), Err(overlap));
        }
        assert_eq!((space.to_string(), board.allocated()), before);
    }

    #[test]
    fn refuses_a_device_as_private_memory() {
        let space = Board::new().space();
        let device = RW | MappingFlags::DEVICE;
        assert!(matches!(space.map(range(0, PAGE), LAZY, device), Err(Error::Flags { .. })));
        space.map(range(0, PAGE), LAZY, RW).unwrap();
        assert!(matches!(space.protect(range(0, PAGE), device), Err(Error::Flags { .. })));
    }

    #[test]
    fn takes_the_host_frame_at_address_zero() {
        let space = Board::new().space();
        space.map(range(PAGE, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
        assert_eq!(space.translate(gpa(PAGE)).map(|found| found.hpa), Some(PhysAddr::from_usize(0)));
        assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Retry);
    }

    #[test]
    fn uses_pages_where_the_allocator_takes_no_pieces() {
        let board = Board::with(Reach::Everywhere, Pieces::Whole);
        let space = board.space();
        space.map(range(0, LARGE), BLOCKS, RW).unwrap();
        assert_eq!(space.stats().leaves, [32 * 32, 0, 0, 0, 0]);
    }
}

mod unmap {
    use super::*;

    #[test]
    fn frees_nothing_before_the_invalidation() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 3 * BLOCK), PAGES, RW).unwrap();
        board.events();
        space.unmap(range(PAGE, 2 * BLOCK)).unwrap();
        let events = board.events();
        let freed = events.iter().position(|event| matches!(event, Event::Freed(..))).unwrap();
        let invalidated = events.iter().position(|event| matches!(event, Event::Invalidated(_))).unwrap();
        assert!(invalidated < freed, "{events:?}");
    }

    #[test]
    fn invalidates_once_however_large_the_range() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 3 * LARGE), PAGES, RW).unwrap();
        board.events();
        space.unmap(range(PAGE, 2 * LARGE)).unwrap();
        let count = board.events().iter().filter(|event| matches!(event, Event::Invalidated(_))).count();
        assert_eq!(count, 1);
    }

    #[test]
    fn of_memory_that_nobody_touched_needs_no_invalidation() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, LARGE), LAZY, RW).unwrap();
        board.events();
        space.unmap(range(0, LARGE)).unwrap();
        assert_eq!(board.events(), []);
    }

    #[test]
    fn covers_the_whole_span_of_a_table_that_goes() {
        let board = Board::new();
        let space = board.space();
        space.map(range(BLOCK + 3 * PAGE, PAGE), PAGES, RW).unwrap();
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        board.events();
        space.unmap(range(BLOCK + 3 * PAGE, PAGE)).unwrap();
        let scopes = scopes(&board);
        assert_eq!(scopes, [(range(BLOCK, BLOCK), Changed::Tables)]);
        assert_eq!(space.stats().leaves, [1, 0, 0, 0, 0]);
    }

    #[test]
    fn of_pages_alone_names_their_level() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
        board.events();
        space.unmap(range(PAGE, 2 * PAGE)).unwrap();
        assert_eq!(scopes(&board), [(range(PAGE, 2 * PAGE), Changed::Leaves(Level::PAGE))]);
    }

    #[test]
    fn splits_the_block_that_it_cuts_and_keeps_the_rest() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, LARGE), BLOCKS, RW).unwrap();
        assert_eq!(space.stats().leaves, [0, 0, 1, 0, 0]);
        let at = |address| space.translate(gpa(address)).map(|found| found.hpa);
        let start = at(0).unwrap();
        board.events();
        space.unmap(range(BLOCK + PAGE, PAGE)).unwrap();
        assert_eq!(scopes(&board), [(range(0, LARGE), Changed::Leaves(Level(2)))]);
        assert_eq!(at(BLOCK + PAGE), None);
        for page in (0..LARGE).step_by(PAGE).filter(|&page| page != BLOCK + PAGE) {
            assert_eq!(at(page), Some(start + page), "{page:#x}");
        }
        assert_eq!(space.stats().leaves, [31, 31, 0, 0, 0]);
        assert_eq!(space.stats().owned_frames, 32 * 32 - 1);
    }

    /// H12, H22: the CPU notes a first write while the pieces of the block are being made.
    #[test]
    fn loses_no_write_that_the_hardware_notes_meanwhile() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        let hardware = board.clone();
        let entry = move |table: PhysAddr, index: usize| {
            // SAFETY: tables are on the board, and are only reached as atomics.
            unsafe { hardware.pointer(table).cast::<AtomicU64>().add(index).as_ref() }.load(Ordering::Acquire)
        };
        let below = |level, raw| match Toy.decode(Level(level), raw) {
            Entry::Table(table) => table,
            other => panic!("{other:?}"),
        };
        let table = below(2, entry(below(3, entry(PhysAddr::from_usize(space.root() as usize), 0)), 0));
        let used = |level, raw| match Toy.decode(Level(level), raw) {
            Entry::Leaf(leaf) => leaf.used,
            other => panic!("{other:?}"),
        };
        assert_eq!(used(1, entry(table, 0)), Used::Accessed);
        let hardware = board.clone();
        board.on_allocation(move || {
            // SAFETY: as above.
            let block = unsafe { hardware.pointer(table).cast::<AtomicU64>().as_ref() };
            block.store(Toy.touched(Level(1), block.load(Ordering::Acquire), Access::Write), Ordering::Release);
        });
        space.unmap(range(0, PAGE)).unwrap();
        let pieces = below(1, entry(table, 0));
        assert!((1..32).all(|piece| used(0, entry(pieces, piece)) == Used::Dirty));
    }

    #[test]
    fn splits_the_blocks_at_both_ends() {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        space.map(range(0, 4 * BLOCK), BLOCKS, RW).unwrap();
        space.unmap(range(PAGE, 3 * BLOCK)).unwrap();
        assert_eq!(space.stats().leaves, [32, 0, 0, 0, 0]);
        assert!(space.translate(gpa(PAGE - 1)).is_some());
        assert!(space.translate(gpa(PAGE)).is_none());
        assert!(space.translate(gpa(3 * BLOCK + PAGE - 1)).is_none());
        assert!(space.translate(gpa(3 * BLOCK + PAGE)).is_some());
        space.unmap(range(0, 4 * BLOCK)).unwrap();
        assert_eq!(board.allocated(), empty);
    }

    #[test]
    fn passes_over_holes_and_takes_what_is_behind_them() {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        space.map(range(2 * PAGE, PAGE), PAGES, RW).unwrap();
        space.map(range(LARGE, PAGE), LAZY, RW).unwrap();
        space.map(range(3 * LARGE, BLOCK), BLOCKS, RW).unwrap();
        space.unmap(range(0, 4 * LARGE)).unwrap();
        assert_eq!(space.stats().areas, 0);
        assert_eq!(board.allocated(), empty);
    }

    #[test]
    fn of_nothing_says_so() {
        let space = Board::new().space();
        assert_eq!(space.unmap(range(0, PAGE)), Err(Error::NotMapped(range(0, PAGE))));
    }

    #[test]
    fn leaves_room_for_a_block_where_pages_were() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, BLOCK), PAGES, RW).unwrap();
        for page in (0..BLOCK).step_by(PAGE) {
            space.unmap(range(page, PAGE)).unwrap();
        }
        assert_eq!(space.stats().table_frames, 1);
        space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        assert_eq!(space.stats().leaves, [0, 1, 0, 0, 0]);
    }

    #[test]
    fn gives_no_frame_back_that_is_not_the_spaces_own() {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        space.map(range(0, 2 * BLOCK), Mapping::Linear { to: PhysAddr::from_usize(BLOCK) }, RW).unwrap();
        space.unmap(range(PAGE, BLOCK)).unwrap();
        space.unmap(range(0, 2 * BLOCK)).unwrap();
        assert_eq!(board.allocated(), empty);
    }

    fn scopes(board: &Board) -> Vec<(stage2::GuestPhysRange, Changed)> {
        let scope = |event| match event {
            Event::Invalidated(scope) => Some((scope.range, scope.entries)),
            _ => None,
        };
        board.events().into_iter().filter_map(scope).collect()
    }
}

mod protect {
    use super::*;

    #[test]
    fn invalidates_what_it_restricts_and_nothing_else() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, BLOCK), PAGES, RW).unwrap();
        let invalidations = |flags| {
            board.events();
            space.protect(range(PAGE, 2 * PAGE), flags).unwrap();
            board.events().iter().filter(|event| matches!(event, Event::Invalidated(_))).count()
        };
        assert_eq!(invalidations(READ), 1);
        assert_eq!(invalidations(READ), 0);
        assert_eq!(invalidations(RWX), 0);
        assert_eq!(invalidations(RW), 1);
        assert_eq!(invalidations(RW | MappingFlags::UNCACHED), 1, "another memory type: break, then make");
        assert_eq!(space.translate(gpa(PAGE)).unwrap().flags, RW | MappingFlags::UNCACHED);
        assert_eq!(space.translate(gpa(0)).unwrap().flags, RW);
    }

    #[test]
    fn splits_the_block_that_it_cuts() {
        let space = Board::new().space();
        space.map(range(0, LARGE), BLOCKS, RW).unwrap();
        space.protect(range(BLOCK - PAGE, BLOCK), READ).unwrap();
        for page in (0..LARGE).step_by(PAGE) {
            let inside = (BLOCK - PAGE..2 * BLOCK - PAGE).contains(&page);
            assert_eq!(space.translate(gpa(page)).unwrap().flags, if inside { READ } else { RW }, "{page:#x}");
        }
        assert_eq!(space.stats().leaves, [64, 30, 0, 0, 0]);
    }

    #[test]
    fn with_the_same_flags_splits_nothing() {
        let space = Board::new().space();
        space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        space.protect(range(PAGE, PAGE), RW).unwrap();
        assert_eq!(space.stats().leaves, [0, 1, 0, 0, 0]);
    }

    #[test]
    fn names_the_hole_and_changes_nothing() {
        let space = Board::new().space();
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        space.map(range(3 * PAGE, PAGE), PAGES, RW).unwrap();
        let before = space.to_string();
        assert_eq!(space.protect(range(0, 4 * PAGE), READ), Err(Error::NotMapped(range(PAGE, 2 * PAGE))));
        assert_eq!(space.protect(range(0, 2 * PAGE), READ), Err(Error::NotMapped(range(PAGE, PAGE))));
        assert_eq!(space.to_string(), before);
    }

    #[test]
    fn reaches_memory_that_is_populated_later() {
        let space = Board::new().space();
        space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
        space.protect(range(0, PAGE), READ).unwrap();
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Denied { flags: READ });
        assert_eq!(fault(&space, 0, Access::Read), Outcome::Resolved);
        assert_eq!(space.translate(gpa(0)).unwrap().flags, READ);
        assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Resolved);
    }
}

mod faults {
    use super::*;

    #[test]
    fn on_a_present_page_keep_its_frame() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, PAGE), LAZY, RW).unwrap();
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
        space.write(gpa(8), b"kept").unwrap();
        let (frame, allocated) = (space.translate(gpa(0)), board.allocated());
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Retry);
        assert_eq!((space.translate(gpa(0)), board.allocated()), (frame, allocated));
        assert_eq!(space.read_obj::<[u8; 4]>(gpa(8)).unwrap(), *b"kept");
    }

    #[test]
    fn that_deny_what_the_entry_allows_are_forgotten_on_this_cpu() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, PAGE), PAGES, READ).unwrap();
        space.protect(range(0, PAGE), RW).unwrap();
        board.events();
        let denied =
            Fault { gpa: gpa(0x10), access: Access::Write, cause: Cause::Permission, origin: Origin::Instruction };
        assert_eq!(space.fault(CpuId(1), denied), Ok(Outcome::Retry));
        assert_eq!(board.events(), [Event::DenialForgotten(gpa(0x10))]);
    }

    #[test]
    fn populate_blocks_where_the_area_has_room_and_pages_where_not() {
        let board = Board::new();
        let space = board.space();
        space.map(range(PAGE, 3 * BLOCK), LAZY_BLOCKS, RW).unwrap();
        assert_eq!(fault(&space, BLOCK + 5 * PAGE + 7, Access::Read), Outcome::Resolved);
        assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Resolved);
        assert_eq!(fault(&space, 3 * BLOCK, Access::Read), Outcome::Resolved);
        assert_eq!(space.stats().leaves, [2, 1, 0, 0, 0]);
    }

    /// The frame is had before the lock is taken: what another CPU does meanwhile counts (F1).
    #[test]
    fn leave_a_frame_that_came_meanwhile() {
        let board = Board::new();
        let space = Arc::new(board.space());
        space.map(range(0, PAGE), LAZY, RW).unwrap();
        let other = space.clone();
        board.on_allocation(move || {
            assert_eq!(fault(&other, 0, Access::Write), Outcome::Resolved);
            other.write(gpa(8), b"kept").unwrap();
        });
        let before = board.allocated();
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Retry);
        assert_eq!(space.read_obj::<[u8; 4]>(gpa(8)).unwrap(), *b"kept");
        // The first one's frame, and the tables that lead to it.
        assert_eq!(board.allocated(), before + 1 + 3);
    }

    /// An area that was found under the lock is worth nothing once the lock is free (L4).
    #[test]
    fn map_nothing_where_the_area_went_meanwhile() {
        let board = Board::new();
        let space = Arc::new(board.space());
        let empty = board.allocated();
        for change in [None, Some(READ)] {
            space.map(range(0, PAGE), LAZY, RW).unwrap();
            let other = space.clone();
            board.on_allocation(move || match change {
                None => other.unmap(range(0, PAGE)).unwrap(),
                Some(flags) => other.protect(range(0, PAGE), flags).unwrap(),
            });
            assert_eq!(fault(&space, 0, Access::Write), Outcome::Retry);
            assert_eq!(space.translate(gpa(0)), None);
            assert_eq!(board.allocated(), empty);
            let expected = change.map_or(Outcome::NotMapped, |flags| Outcome::Denied { flags });
            assert_eq!(fault(&space, 0, Access::Write), expected);
        }
    }

    /// Faults of several CPUs go on side by side (F3).
    #[test]
    fn do_not_wait_for_each_other() {
        let space = Arc::new(Board::new().space());
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        space.map(range(PAGE, PAGE), LAZY, RW).unwrap();
        let (sender, answer) = std::sync::mpsc::channel();
        let other = space.clone();
        let mut started = Some(move || {
            std::thread::spawn(move || sender.send(fault(&other, PAGE, Access::Write)));
        });
        let mut came = None;
        // A walk holds the lock as a fault does.
        space
            .walk(range(0, PAGE), |_| {
                started.take().expect("one leaf")();
                came = answer.recv_timeout(PATIENCE).ok();
            })
            .unwrap();
        assert_eq!(came, Some(Outcome::Resolved));
    }

    /// A touch costs no more than a block of the level above pages (L3).
    #[test]
    fn populate_a_small_block_where_a_large_one_fits() {
        let space = Board::new().space();
        space.map(range(LARGE, LARGE), LAZY_BLOCKS, RW).unwrap();
        assert_eq!(fault(&space, LARGE + PAGE, Access::Write), Outcome::Resolved);
        assert_eq!(space.stats().leaves, [0, 1, 0, 0, 0]);
    }

    #[test]
    fn fall_back_to_a_page_when_no_block_can_be_had() {
        let board = Board::with(Reach::Everywhere, Pieces::Any);
        let space = board.space();
        space.map(range(0, BLOCK), LAZY_BLOCKS, RW).unwrap();
        // A page that is there already stands in the way of a block.
        space.unmap(range(0, PAGE)).unwrap();
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Resolved);
        assert_eq!(space.stats().leaves, [2, 0, 0, 0, 0]);
    }

    #[test]
    fn at_any_address_have_an_outcome() {
        let space = Board::new().space();
        space.map(range(0, PAGE), LAZY, READ).unwrap();
        for at in [0, 1, PAGE - 1, PAGE, (1 << 34) - 1, 1 << 34, usize::MAX] {
            for access in [Access::Read, Access::Write, Access::Execute] {
                for cause in [Cause::Translation, Cause::Permission, Cause::AccessFlag] {
                    for origin in [Origin::Instruction, Origin::GuestWalk] {
                        let fault = Fault { gpa: gpa(at), access, cause, origin };
                        let outcome = space.fault(CpuId(usize::MAX), fault).unwrap();
                        assert_eq!(outcome == Outcome::Inject, at >= PAGE && origin == Origin::GuestWalk);
                    }
                }
            }
        }
    }

    #[test]
    fn of_a_guests_walk_on_a_device_are_injected() {
        let space = Board::new().space();
        let device = RW | MappingFlags::DEVICE;
        space.map(range(0, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, device).unwrap();
        let walk = Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Permission, origin: Origin::GuestWalk };
        assert_eq!(space.fault(CpuId(0), walk), Ok(Outcome::Inject));
    }
}

mod walks {
    use super::*;

    /// What a walk lacked was the right to read; that it may write was taken for a reason to try again, for ever.
    #[test]
    fn of_memory_that_cannot_be_read_are_denied() {
        let space = Board::new().space();
        space.map(range(0, PAGE), PAGES, MappingFlags::WRITE).unwrap();
        for (access, cause) in [(Access::Write, Cause::Permission), (Access::Read, Cause::Permission)] {
            let walk = Fault { gpa: gpa(0), access, cause, origin: Origin::GuestWalk };
            assert_eq!(space.fault(CpuId(0), walk), Ok(Outcome::Denied { flags: MappingFlags::WRITE }));
        }
    }
}

mod guest_memory {
    use super::*;

    #[test]
    fn is_zero_until_it_is_written_and_crosses_pages_and_areas() {
        let space = Board::new().space();
        space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
        space.map(range(2 * PAGE, BLOCK), BLOCKS, RW).unwrap();
        let mut bytes = [0xff; 3 * PAGE];
        space.read(gpa(1), &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0));
        let pattern: Vec<u8> = (0..3 * PAGE).map(|at| at as u8 ^ (at >> 8) as u8).collect();
        space.write(gpa(PAGE - 3), &pattern).unwrap();
        space.read(gpa(PAGE - 3), &mut bytes).unwrap();
        assert_eq!(bytes[..], pattern[..]);
    }

    #[test]
    fn ends_where_the_mapping_ends() {
        let space = Board::new().space();
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        let mut bytes = [0; 16];
        let hole = stage2::GuestPhysRange::from_start_size(gpa(PAGE), 8);
        assert_eq!(space.read(gpa(PAGE - 8), &mut bytes), Err(Error::NotMapped(hole)));
        assert_eq!(space.write(gpa(PAGE - 8), &bytes), Err(Error::NotMapped(hole)));
        assert!(matches!(space.read(gpa(usize::MAX - 3), &mut bytes), Err(Error::Overflow { .. })));
        assert!(matches!(space.read(gpa((1 << 34) - 8), &mut bytes), Err(Error::BeyondInput { .. })));
    }

    #[test]
    fn is_what_the_guest_may_do_and_no_device() {
        let space = Board::new().space();
        space.map(range(0, PAGE), PAGES, READ).unwrap();
        space.map(range(PAGE, PAGE), PAGES, MappingFlags::EXECUTE).unwrap();
        let device = RW | MappingFlags::DEVICE;
        space.map(range(2 * PAGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, device).unwrap();
        assert!(matches!(space.write_obj(gpa(0), 1_u32), Err(Error::Denied { flags: READ, .. })));
        assert!(matches!(space.read_obj::<u32>(gpa(PAGE)), Err(Error::Denied { .. })));
        assert!(matches!(space.read_obj::<u32>(gpa(2 * PAGE)), Err(Error::NotMemory(_))));
    }

    /// What `read` reported to be left began before what it was asked for.
    #[test]
    fn that_cannot_be_had_is_named_from_the_first_byte_on_that_is_left() {
        let board = Board::new();
        let space = board.space();
        space.map(range(PAGE, 3 * PAGE), LAZY, RW).unwrap();
        board.allow(Some(0));
        let whole = range(PAGE + 0x123, 2 * PAGE);
        assert_eq!(space.read(whole.start, &mut [0; 2 * PAGE]), Err(Error::NoMemory(whole)));
        assert_eq!(space.write(whole.start, &[1; 2 * PAGE]), Err(Error::NoMemory(whole)));
        board.allow(None);
        space.write_obj(gpa(PAGE), 1_u8).unwrap();
        board.allow(Some(0));
        let rest = range(2 * PAGE, PAGE + 0x123);
        assert_eq!(space.write(whole.start, &[2; 2 * PAGE]), Err(Error::NoMemory(rest)));
        board.allow(None);
        assert_eq!(space.read_obj(gpa(2 * PAGE - 1)), Ok(2_u8));
        assert_eq!(space.read_obj(gpa(2 * PAGE)), Ok(0_u8));
    }

    #[test]
    fn has_atomic_words_that_must_be_aligned() {
        let space = Board::new().space();
        space.map(range(0, PAGE), LAZY, RW).unwrap();
        space.store(gpa(8), 7_u64).unwrap();
        assert_eq!(space.compare_exchange(gpa(8), 7_u64, 9), Ok(Ok(7)));
        assert_eq!(space.compare_exchange(gpa(8), 7_u64, 11), Ok(Err(9)));
        assert_eq!(space.load::<u16>(gpa(8)), Ok(9));
        assert!(matches!(space.load::<u32>(gpa(6)), Err(Error::Unaligned(_))));
    }
}

/// What the caches are told (H14).
mod caches {
    use super::*;

    const UNCACHED: MappingFlags = RW.union(MappingFlags::UNCACHED);

    /// Where the page at `at` is in the host's memory.
    fn frame(space: &GuestSpace<Machine>, at: usize) -> PhysAddr {
        space.translate(gpa(at)).expect("it is mapped").hpa
    }

    /// A copy of what the caches held in place of what the guest wrote past them lost the guest's data, also on CPUs
    /// that force write-back elsewhere.
    #[test]
    fn hide_nothing_of_uncached_memory_that_moves() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, PAGE), PAGES, UNCACHED).unwrap();
        let from = frame(&space, 0);
        board.synchronized();
        space.relocate(range(0, PAGE)).unwrap();
        let expected = [(from, PAGE, Content::Uncached), (frame(&space, 0), PAGE, Content::Uncached)];
        assert_eq!(board.synchronized(), expected);
    }

    /// Cached again, the memory had lines from before it was written past the caches.
    #[test]
    fn hide_nothing_of_memory_that_was_uncached() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, PAGE), PAGES, UNCACHED).unwrap();
        board.synchronized();
        space.protect(range(0, PAGE), RW).unwrap();
        assert_eq!(board.synchronized(), [(frame(&space, 0), PAGE, Content::Uncached)]);
    }

    /// Only whole leaves were: a page in the middle of a block was executed as the last owner's code.
    #[test]
    fn are_in_step_with_the_changed_part_of_a_block() {
        let board = Board::new();
        for (new, content) in [(RWX, Content::Code), (UNCACHED, Content::Uncached)] {
            let space = board.space();
            space.map(range(0, LARGE), BLOCKS, RW).unwrap();
            board.synchronized();
            space.protect(range(BLOCK + PAGE, 2 * PAGE), new).unwrap();
            let part = frame(&space, BLOCK + PAGE);
            assert_eq!(board.synchronized(), [(part, 2 * PAGE, content)]);
        }
    }

    /// A word stored into a line that the guest had written past the caches took the rest of the line back with it.
    #[test]
    fn hold_nothing_old_when_the_hypervisor_writes() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, PAGE), PAGES, RWX).unwrap();
        let at = frame(&space, 0) + 8;
        board.synchronized();
        space.store(gpa(8), 1_u64).unwrap();
        let expected = [(at, 8, Content::Data), (at, 8, Content::Code)];
        assert_eq!(board.synchronized(), expected);
        assert_eq!(space.compare_exchange(gpa(8), 1_u64, 2), Ok(Ok(1)));
        assert_eq!(board.synchronized(), expected);
    }
}

mod relocate {
    use super::*;

    /// It was taken for moved, and its memory was where it should not be any more.
    #[test]
    fn moves_the_pieces_of_a_block_that_is_split_meanwhile() {
        let board = Board::new();
        let space = Arc::new(board.space());
        space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        let old = space.translate(gpa(0)).unwrap().hpa;
        let other = space.clone();
        board.on_allocation(move || other.protect(range(PAGE, PAGE), READ).unwrap());
        assert_eq!(space.relocate(range(0, BLOCK)), Ok(32));
        for page in (0..BLOCK).step_by(PAGE) {
            let at = space.translate(gpa(page)).unwrap().hpa;
            assert!(at < old || at >= old + BLOCK, "{page:#x} is still at {at:?}");
        }
    }

    /// The area was private when the relocation began.
    #[test]
    fn passes_over_what_became_somebody_elses_meanwhile() {
        let board = Board::new();
        let space = Arc::new(board.space());
        space.map(range(0, 2 * PAGE), PAGES, RW).unwrap();
        let other = space.clone();
        board.on_allocation(move || {
            other.unmap(range(0, PAGE)).unwrap();
            other.map(range(0, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
        });
        assert_eq!(space.relocate(range(0, 2 * PAGE)), Ok(1));
    }

    #[test]
    fn moves_every_populated_leaf_and_keeps_its_contents() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, BLOCK), LAZY, RW).unwrap();
        space.map(range(BLOCK, 2 * BLOCK), BLOCKS, RW).unwrap();
        space.write(gpa(3 * PAGE + 5), b"page").unwrap();
        space.write(gpa(2 * BLOCK - 2), b"blocks").unwrap();
        let places = || [3 * PAGE, BLOCK, 2 * BLOCK].map(|at| space.translate(gpa(at)).unwrap().hpa);
        let (before, allocated) = (places(), board.allocated());
        assert_eq!(space.relocate(range(0, 3 * BLOCK)), Ok(1 + 64));
        for (old, new) in before.iter().zip(places()) {
            assert_ne!(*old, new);
        }
        assert_eq!(board.allocated(), allocated);
        assert_eq!(space.read_obj::<[u8; 4]>(gpa(3 * PAGE + 5)).unwrap(), *b"page");
        assert_eq!(space.read_obj::<[u8; 6]>(gpa(2 * BLOCK - 2)).unwrap(), *b"blocks");
    }

    /// Until a CPU was told, it may write the old frame: the copy is made afterwards (H9).
    #[test]
    fn keeps_what_another_cpu_writes_until_it_is_told() {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let space = Arc::new(board.space());
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        space.write(gpa(0), b"first").unwrap();
        let old = board.pointer(space.translate(gpa(0)).unwrap().hpa);
        let (address, other) = (old.expose_provenance(), space.clone());
        board.on_interrupt(Arc::new(move |cpu| {
            let old = std::ptr::with_exposed_provenance_mut::<u8>(address.get());
            // SAFETY: the frame is the space's until the move is over, and only this test's thread uses it.
            unsafe { old.copy_from_nonoverlapping(b"later".as_ptr(), 5) };
            assert_eq!(other.flush(cpu), Ok(()));
        }));
        space.enter(CpuId(1), VcpuId(0)).unwrap();
        assert_eq!(space.relocate(range(0, PAGE)), Ok(1));
        assert_eq!(space.read_obj::<[u8; 5]>(gpa(0)).unwrap(), *b"later");
        space.leave(CpuId(1)).unwrap();
    }

    #[test]
    fn refuses_what_is_not_the_spaces_own() {
        let space = Board::new().space();
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        space.map(range(PAGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
        let before = space.translate(gpa(0));
        assert_eq!(space.relocate(range(0, 2 * PAGE)), Err(Error::NotMemory(range(PAGE, PAGE))));
        assert_eq!(space.relocate(range(2 * PAGE, PAGE)), Err(Error::NotMapped(range(2 * PAGE, PAGE))));
        assert_eq!(space.translate(gpa(0)), before);
    }
}

mod shootdown {
    use super::*;

    /// A space on CPUs that must be interrupted; handlers flush.
    fn space() -> (Board, Arc<GuestSpace<Machine>>) {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let space = Arc::new(board.space());
        let weak = Arc::downgrade(&space);
        board.on_interrupt(Arc::new(move |cpu| {
            if let Some(space) = weak.upgrade() {
                // A refusal is told to whoever waits.
                let _ = space.flush(cpu);
            }
        }));
        space.map(range(0, BLOCK), PAGES, RW).unwrap();
        board.events();
        (board, space)
    }

    #[test]
    fn interrupts_only_cpus_in_the_guest_and_others_pay_when_they_enter() {
        let (board, space) = space();
        space.enter(CpuId(1), VcpuId(0)).unwrap();
        space.enter(CpuId(2), VcpuId(1)).unwrap();
        space.leave(CpuId(2)).unwrap();
        assert_eq!(board.events(), [Event::InvalidatedAll, Event::InvalidatedAll], "each CPU's first flush");
        space.unmap(range(0, PAGE)).unwrap();
        let events = board.events();
        assert_eq!(events[..2], [Event::Interrupted(CpuId(1)), Event::InvalidatedAll]);
        assert!(matches!(events[2..], [Event::Freed(..)]));
        space.enter(CpuId(2), VcpuId(1)).unwrap();
        assert_eq!(board.events(), [Event::InvalidatedAll]);
        space.leave(CpuId(2)).unwrap();
        space.enter(CpuId(2), VcpuId(1)).unwrap();
        assert_eq!(board.events(), [], "nothing is owed any more");
        space.leave(CpuId(1)).unwrap();
        space.leave(CpuId(2)).unwrap();
    }

    #[test]
    fn that_fails_frees_nothing_until_it_was_made_good() {
        let (board, space) = space();
        let allocated = board.allocated();
        space.enter(CpuId(3), VcpuId(0)).unwrap();
        board.deafen(Some(CpuId(3)));
        let error = space.unmap(range(0, PAGE)).unwrap_err();
        assert!(matches!(error, Error::Invalidation { cause, .. } if cause.0 == CpuId(3)), "{error}");
        assert_eq!(board.allocated(), allocated);
        assert!(matches!(space.unmap(range(PAGE, PAGE)), Err(Error::Invalidation { .. })));
        assert_eq!(fault_at(&space, 0), Ok(Outcome::NotMapped));
        board.deafen(None);
        space.unmap(range(PAGE, PAGE)).unwrap();
        assert_eq!(board.allocated(), allocated - 2);
        space.leave(CpuId(3)).unwrap();
    }

    /// It was tried again at once, and could then succeed behind the error's back.
    #[test]
    fn that_fails_is_not_tried_again_before_the_caller_knows() {
        let (board, space) = space();
        space.enter(CpuId(3), VcpuId(0)).unwrap();
        board.deafen(Some(CpuId(3)));
        assert!(space.unmap(range(0, PAGE)).is_err());
        assert_eq!(board.events(), [Event::InvalidatedAll, Event::Interrupted(CpuId(3))]);
        space.leave(CpuId(3)).unwrap();
    }

    #[test]
    fn that_fails_while_a_block_is_cut_is_finished_by_the_next_fault() {
        let (board, space) = space();
        space.map(range(LARGE, BLOCK), BLOCKS, RW).unwrap();
        space.write(gpa(LARGE + 9), b"still").unwrap();
        space.enter(CpuId(3), VcpuId(0)).unwrap();
        board.deafen(Some(CpuId(3)));
        assert!(space.unmap(range(LARGE + PAGE, PAGE)).is_err());
        assert!(fault_at(&space, LARGE).is_err());
        board.deafen(None);
        assert_eq!(fault_at(&space, LARGE), Ok(Outcome::Retry));
        assert_eq!(space.read_obj::<[u8; 5]>(gpa(LARGE + 9)).unwrap(), *b"still");
        space.leave(CpuId(3)).unwrap();
    }

    #[test]
    fn that_the_cpu_refuses_is_an_error_and_frees_nothing() {
        let (board, space) = space();
        let allocated = board.allocated();
        space.enter(CpuId(1), VcpuId(0)).unwrap();
        board.refuse(Some(CpuId(1)));
        let refused = |result| matches!(result, Err(Error::Invalidation { cause, .. }) if cause.0 == CpuId(1));
        assert!(refused(space.unmap(range(0, PAGE))));
        assert!(refused(space.flush(CpuId(1))));
        assert_eq!(board.allocated(), allocated);
        space.leave(CpuId(1)).unwrap();
        assert!(refused(space.enter(CpuId(1), VcpuId(0))));
        // It is not in the guest: nobody waits for it.
        space.unmap(range(PAGE, PAGE)).unwrap();
        assert_eq!(board.allocated(), allocated - 2);
        board.refuse(None);
        space.enter(CpuId(1), VcpuId(0)).unwrap();
        space.leave(CpuId(1)).unwrap();
    }

    #[test]
    fn a_new_space_disturbs_nobody_and_each_cpu_forgets_the_identifiers_former_user_when_it_enters() {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let space = board.space();
        assert!(!board.events().contains(&Event::InvalidatedAll));
        for cpu in [CpuId(0), CpuId(3)] {
            space.enter(cpu, VcpuId(0)).unwrap();
            assert_eq!(board.events(), [Event::InvalidatedAll]);
            space.leave(cpu).unwrap();
        }
    }

    #[test]
    fn that_fails_leaves_a_relocated_page_where_it_was() {
        let (board, space) = space();
        let before = (space.translate(gpa(0)), board.allocated());
        space.enter(CpuId(0), VcpuId(0)).unwrap();
        board.deafen(Some(CpuId(0)));
        assert!(matches!(space.relocate(range(0, PAGE)), Err(Error::Invalidation { .. })));
        assert_eq!((space.translate(gpa(0)), board.allocated()), before);
        space.leave(CpuId(0)).unwrap();
    }

    #[test]
    fn separates_virtual_cpus_that_run_on_one_cpu_in_turn() {
        let board = Board::new();
        let space = board.space();
        board.events();
        for (vcpu, expected) in [(0, vec![]), (0, vec![]), (1, vec![Event::Switched]), (0, vec![Event::Switched])] {
            space.enter(CpuId(0), VcpuId(vcpu)).unwrap();
            space.leave(CpuId(0)).unwrap();
            assert_eq!(board.events(), expected);
        }
        assert_eq!(space.enter(CpuId(4), VcpuId(0)), Err(Error::NoSuchCpu(CpuId(4))));
    }

    fn fault_at(space: &GuestSpace<Machine>, at: usize) -> Result<Outcome, Error> {
        let fault =
            Fault { gpa: gpa(at), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction };
        space.fault(CpuId(0), fault)
    }
}

mod drop_of_a_space {
    use super::*;

    #[test]
    fn gives_everything_back_after_everything_was_forgotten() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, LARGE), BLOCKS, RW).unwrap();
        space.map(range(LARGE, LARGE), PAGES, RW).unwrap();
        space.unmap(range(PAGE, BLOCK)).unwrap();
        board.events();
        drop(space);
        assert_eq!(board.events()[0], Event::InvalidatedAll);
        assert_eq!(board.allocated(), 0);
    }

    #[test]
    fn leaks_rather_than_frees_under_a_cpu_in_the_guest() {
        let board = Board::new();
        let space = board.space();
        space.enter(CpuId(2), VcpuId(0)).unwrap();
        let allocated = board.allocated();
        drop(space);
        assert_eq!(board.allocated(), allocated);
    }
}

mod out_of_memory {
    use super::*;

    /// Runs an operation with the first, second, … allocation failing until none does: each failure changes nothing.
    fn every(prepare: impl Fn(&GuestSpace<Machine>), operation: impl Fn(&GuestSpace<Machine>) -> Result<(), Error>) {
        for allowed in 0.. {
            let board = Board::new();
            let space = board.space();
            prepare(&space);
            let before = (space.to_string(), board.allocated());
            board.allow(Some(allowed));
            let result = operation(&space);
            board.allow(None);
            match result {
                Ok(()) => return assert!(allowed > 0, "nothing was allocated"),
                Err(error) => assert!(matches!(error, Error::NoMemory(_)), "{error}"),
            }
            assert_eq!(space.to_string(), before.0, "after {allowed} allocations");
            // Tables that lead to a leaf may stay; frames may not.
            assert!(board.allocated() <= before.1 + 3, "after {allowed} allocations");
            drop(space);
            assert_eq!(board.allocated(), 0);
        }
    }

    #[test]
    fn a_mapping_is_whole_or_not_there() {
        every(|_| {}, |space| space.map(range(BLOCK - PAGE, BLOCK + 2 * PAGE), PAGES, RW));
        every(|_| {}, |space| space.map(range(PAGE, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW));
    }

    #[test]
    fn cutting_a_block_happens_or_does_not() {
        let block = |space: &GuestSpace<Machine>| space.map(range(0, 2 * LARGE), BLOCKS, RW).unwrap();
        every(block, |space| space.unmap(range(BLOCK + PAGE, LARGE)));
        every(block, |space| space.protect(range(BLOCK + PAGE, LARGE), READ));
    }

    #[test]
    fn a_fault_can_be_taken_again() {
        let lazy = |space: &GuestSpace<Machine>| space.map(range(0, BLOCK), LAZY, RW).unwrap();
        every(lazy, |space| {
            let fault =
                Fault { gpa: gpa(0), access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction };
            space.fault(CpuId(0), fault).map(|outcome| assert_eq!(outcome, Outcome::Resolved))
        });
        every(lazy, |space| space.write(gpa(PAGE), b"x"));
    }

    #[test]
    fn a_relocation_stays_where_it_was() {
        let page = |space: &GuestSpace<Machine>| space.map(range(0, PAGE), PAGES, RW).unwrap();
        every(page, |space| space.relocate(range(0, PAGE)).map(|pages| assert_eq!(pages, 1)));
    }

    #[test]
    fn blocks_become_smaller_ones() {
        let board = Board::new();
        let space = board.space();
        board.allow(Some(0));
        assert!(space.map(range(0, LARGE), BLOCKS, RW).is_err());
        board.allow(None);
        assert_eq!(space.stats().areas, 0);
    }
}
