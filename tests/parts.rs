//! What a hypervisor brings, or may replace: its frames behind the adapter, and the lock.
#![allow(unsafe_code, unused_crate_dependencies, reason = "an allocator's promises; shared dependencies")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use memory_addr::{PhysAddr, VirtAddr};
use page_table_multiarch::PagingHandler;
use stage2::{
    CpuId, Frames, Handler,
    frames::Pieces,
    lock::{LockFamily, SpaceLock, Spin},
};

/// A hypervisor that reaches physical memory somewhere else than where it stands.
struct Shifted;

const SHIFT: usize = 0xffff_0000_0000_0000;

impl PagingHandler for Shifted {
    fn alloc_frames(count: usize, align: usize) -> Option<PhysAddr> {
        Some(PhysAddr::from_usize(count * align))
    }

    fn dealloc_frames(_: PhysAddr, _: usize) {}

    fn phys_to_virt(at: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(at.as_usize() + SHIFT)
    }
}

/// G2: a physical address is no pointer.
#[test]
fn a_handlers_frames_are_reached_where_it_says() {
    // SAFETY: nothing is ever read or written through it.
    let (whole, pieces) = unsafe { (Handler::<Shifted>::new(), Handler::<Shifted, true>::piecewise()) };
    let at = whole.allocate(3, 0x4000).expect("it always has some");
    assert_eq!(at, PhysAddr::from_usize(3 * 0x4000));
    assert_eq!(whole.pointer(at).addr().get(), at.as_usize() + SHIFT);
    assert_eq!((whole.pieces(), pieces.pieces()), (Pieces::Whole, Pieces::Any));
    assert_eq!(pieces.clone().pointer(at), whole.pointer(at));
}

/// L6: guests that fault all the time do not keep `unmap` waiting for ever.
#[test]
fn a_waiting_writer_keeps_new_readers_out() {
    const PATIENCE: Duration = Duration::from_secs(120);
    const QUIET: Duration = Duration::from_millis(500);
    let lock = Arc::new(<Spin as LockFamily>::Lock::new(0_u64, 2).expect("memory"));
    let rounds = Arc::new(AtomicUsize::new(0));
    let held = lock.shared(CpuId(0));
    let writer = thread::spawn({
        let lock = lock.clone();
        move || *lock.exclusive() += 1
    });
    let reader = thread::spawn({
        let (lock, rounds) = (lock.clone(), rounds.clone());
        move || {
            while *lock.shared(CpuId(0)) == 0 && rounds.fetch_add(1, Ordering::Relaxed) < usize::MAX {
                thread::yield_now();
            }
        }
    });
    // A reader is inside, and another comes and goes, until the writer waits.
    let started = Instant::now();
    let mut kept_out = false;
    while !kept_out && started.elapsed() < PATIENCE {
        let before = rounds.load(Ordering::Relaxed);
        thread::sleep(QUIET);
        kept_out = rounds.load(Ordering::Relaxed) == before;
    }
    drop(held);
    writer.join().expect("the writer gets in");
    reader.join().expect("the reader sees what was written");
    assert!(kept_out, "readers came and went while a writer waited");
}
