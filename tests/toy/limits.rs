//! What a limit refuses, and what only looks like it.

use std::{
    sync::{Mutex, mpsc},
    thread::{self, JoinHandle},
};

use stage2::{Config, Limits, space::Resource};

use super::{
    eventful::{self, Eventful},
    *,
};

type Space = GuestSpace<Machine, Eventful>;

fn write(at: usize) -> Fault {
    Fault { gpa: gpa(at), access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction }
}

#[test]
fn a_space_without_leave_for_a_root_is_none() {
    let board = Board::new();
    let limits = Limits { table_frames: Some(0), ..Limits::default() };
    let refused = GuestSpace::<Machine>::new(Config { limits, ..board.config() }).map(drop);
    assert!(matches!(refused, Err(Error::Limit { what: Resource::TableFrames, limit: 0, .. })), "{refused:?}");
    assert_eq!(board.allocated(), 0);
}

/// Has a first CPU fault on the last page that the guest may have. When its frame is on the account, and before its
/// tables are made, another CPU runs `second`; the first goes on once that waits for the lock. What came of `second`.
fn meanwhile<T: Send + 'static>(second: impl FnOnce(&Space) -> T + Send + 'static) -> T {
    let board = Board::new();
    let space = Arc::new(Space::new(board.config()).unwrap());
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    space.set_limits(Limits { frames: Some(1), ..Limits::default() });
    let other: Arc<Mutex<Option<JoinHandle<_>>>> = Arc::default();
    let second = {
        let (space, other) = (Arc::clone(&space), Arc::clone(&other));
        move || {
            let (waits, it_waits) = mpsc::channel();
            *other.lock().unwrap() = Some(thread::spawn(move || {
                eventful::before_exclusive(move || waits.send(()).unwrap());
                second(&space)
            }));
            it_waits.recv().expect("the second was answered without the lock");
        }
    };
    // The first allocation is the frame's, and the next a table's.
    let again = board.clone();
    board.on_allocation(move || again.on_allocation(second));
    assert_eq!(space.fault(CpuId(0), write(0)), Ok(Outcome::Resolved));
    let came = other.lock().unwrap().take().expect("the tables were made").join().unwrap();
    assert_eq!((space.usage().frames, space.stats().owned_frames), (1, 1));
    came
}

/// Two CPUs touched the last page that a guest may have, and the second was refused.
#[test]
fn a_page_that_another_cpu_is_about_to_install_is_not_refused() {
    assert_eq!(meanwhile(|space| space.fault(CpuId(1), write(0))), Ok(Outcome::Retry));
}

/// The same for the hypervisor's own access.
#[test]
fn a_page_that_another_cpu_is_about_to_install_is_read() {
    assert_eq!(meanwhile(|space| space.read_obj::<u64>(gpa(8))), Ok(0));
}

/// A region's frames go back where they came from, whatever a space counts: the account is not the allocator.
#[test]
fn a_page_that_is_taken_comes_from_the_same_allocator() {
    let board = Board::new();
    let space = board.space();
    let region = space.region(PAGE).unwrap();
    region.writer().unwrap().write_obj(0, 7_u64).unwrap();
    region.freeze().unwrap();
    space.map(range(0, PAGE), Mapping::CopyOnWrite { region, offset: 0 }, RW).unwrap();
    assert_eq!(fault(&space, 0, Access::Read), Outcome::Resolved);
    let at = space.translate(gpa(0)).unwrap().hpa;
    assert_eq!(space.usage().frames, 0);
    assert_eq!(space.fault(CpuId(0), Fault { cause: Cause::Permission, ..write(0) }), Ok(Outcome::Resolved));
    assert_eq!(space.translate(gpa(0)).unwrap().hpa, at, "it was copied");
    assert_eq!(space.usage().frames, 1);
}

/// What was taken away, and cannot be freed since a CPU is deaf, is still the space's.
#[test]
fn what_is_not_freed_yet_counts() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    space.map(range(0, 3 * PAGE), PAGES, RW).unwrap();
    let root = board.allocated() - 3 - (space.usage().table_frames - 1);
    assert_eq!(root, 1);
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range(0, 3 * PAGE)), Err(Error::Invalidation { .. })));
    assert_eq!((space.usage().frames, space.stats().owned_frames), (3, 0));
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    assert_eq!((space.usage().frames, space.usage().table_frames), (0, 1));
}

/// Two CPUs touch the same page of a region, whose tables are the last that the guest may have: none is refused.
#[test]
fn tables_that_another_cpu_is_about_to_link_are_not_refused() {
    let board = Board::new();
    let space = Arc::new(Space::new(board.config()).unwrap());
    let region = space.region(PAGE).unwrap();
    region.writer().unwrap().write_obj(0, 7_u64).unwrap();
    space.map(range(0, PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    // Three tables lead to a page.
    space.set_limits(Limits { table_frames: Some(space.usage().table_frames + 3), ..Limits::default() });
    let read = Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction };
    let other: Arc<Mutex<Option<JoinHandle<_>>>> = Arc::default();
    let second = {
        let (space, other) = (Arc::clone(&space), Arc::clone(&other));
        move || {
            let (waits, it_waits) = mpsc::channel::<()>();
            *other.lock().unwrap() = Some(thread::spawn(move || {
                eventful::before_exclusive(move || waits.send(()).unwrap());
                space.fault(CpuId(1), read)
            }));
            // An error: the second was answered without the lock.
            let _ = it_waits.recv();
        }
    };
    // While the first CPU's first table is allocated: it is on the account already.
    board.on_allocation(second);
    assert_eq!(space.fault(CpuId(0), read), Ok(Outcome::Resolved));
    let came = other.lock().unwrap().take().unwrap().join().unwrap();
    assert_eq!(came, Ok(Outcome::Retry));
}
