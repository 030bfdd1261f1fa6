//! An architecture that the crate has never heard of: what the walker does without knowing a bit, and in which order.

#![allow(unsafe_code, missing_docs, reason = "a test's board")]

#[path = "toy/areas_limit.rs"]
mod areas_limit;
#[path = "toy/audit.rs"]
mod audit;
#[path = "toy/balloon.rs"]
mod balloon;
#[path = "toy/blocks.rs"]
mod blocks;
#[path = "toy/board.rs"]
mod board;
#[path = "toy/caches.rs"]
mod caches;
#[path = "toy/debt.rs"]
mod debt;
#[path = "toy/discard.rs"]
mod discard;
#[path = "toy/discard_region.rs"]
mod discard_region;
#[path = "toy/drop_of_a_space.rs"]
mod drop_of_a_space;
#[path = "toy/eventful.rs"]
mod eventful;
#[path = "toy/faults.rs"]
mod faults;
#[path = "toy/format.rs"]
mod format;
#[path = "toy/guest.rs"]
mod guest;
#[path = "toy/guest_memory.rs"]
mod guest_memory;
#[cfg(target_os = "linux")]
#[path = "toy/hardware.rs"]
mod hardware;
#[path = "toy/late_writes.rs"]
mod late_writes;
#[path = "toy/limits.rs"]
mod limits;
#[path = "toy/loans.rs"]
mod loans;
#[path = "toy/map.rs"]
mod map;
#[path = "toy/neighbours.rs"]
mod neighbours;
#[path = "toy/out_of_memory.rs"]
mod out_of_memory;
#[path = "toy/overtaken.rs"]
mod overtaken;
#[path = "toy/pages.rs"]
mod pages;
#[path = "toy/populate.rs"]
mod populate;
#[path = "toy/protect.rs"]
mod protect;
#[path = "toy/races.rs"]
mod races;
#[path = "toy/reach.rs"]
mod reach;
#[path = "toy/regions.rs"]
mod regions;
#[path = "toy/relocate.rs"]
mod relocate;
#[path = "toy/replace.rs"]
mod replace;
#[path = "toy/rest.rs"]
mod rest;
#[path = "toy/shootdown.rs"]
mod shootdown;
#[path = "toy/single_page.rs"]
mod single_page;
#[path = "toy/sources.rs"]
mod sources;
#[path = "toy/steps.rs"]
mod steps;
#[path = "toy/transfers.rs"]
mod transfers;
#[path = "toy/unmap.rs"]
mod unmap;
#[path = "toy/wide.rs"]
mod wide;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use board::{Board, Event, Machine, range};
use format::Toy;
use guest::GuestSpace;
use stage2::{
    Access, Cause, CpuId, Error, Fault, Frames, GuestPhysAddr, LeafPolicy, Level, Mapping, MappingFlags, Origin,
    Outcome, PhysAddr, Populate, VcpuId,
    format::{Entry, Format, Used},
    frames::Pieces,
    invalidate::{Changed, Content, Reach},
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

mod walks {
    use super::*;

    /// The walk lacks the right to read. Since the leaf allows writes, the walk was to be tried again, for ever.
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
