//! Several threads at once on one space: what a hypervisor's CPUs do to each other. First without a guest, on memory
//! that counts its frames, with as many threads as there are; then with a guest on the model of the hardware.

#[path = "threads/board.rs"]
mod board;
#[path = "threads/changes.rs"]
mod changes;
#[path = "threads/contents.rs"]
mod contents;
#[path = "threads/faults.rs"]
mod faults;
#[path = "threads/guests.rs"]
mod guests;
#[path = "threads/regions.rs"]
mod regions;
#[path = "threads/sources.rs"]
mod sources;
#[path = "threads/steps.rs"]
mod steps;
#[path = "threads/transfers.rs"]
mod transfers;

use std::{
    collections::BTreeSet,
    ptr::NonNull,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{
    Access, Cause, Config, CpuId, Error, Fault, Frames, GuestPhysAddr, GuestSpace, LeafPolicy, Limits, Mapping,
    MappingFlags, Origin, Outcome, PhysAddr, Platform, Populate,
    aarch64::{Root, Stage2, Vmid},
    frames::Pieces,
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
    lock::{LockFamily, Spin},
};
use stage2_model::{Failure, Memory, Pool};
use stage2_scenarios::{gpa, range};

use self::board::{Board, Parts, Running, fault, race, until_done};

const RAM: usize = 0x4000_0000;
/// Longer than anything takes on the busiest host: only what never comes is waited for so long.
const PATIENCE: Duration = Duration::from_secs(120);
const BLOCK: usize = 2 << 20;
const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
const LAZY: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
const LAZY_BLOCKS: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Largest };
const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };
