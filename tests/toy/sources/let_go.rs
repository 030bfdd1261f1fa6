//! What was let go of, and has a source behind it: how long the space is locked for it, and what the source may do meanwhile.

use std::{cell::Cell, rc::Rc};

use stage2::space::Progress;

use super::{
    eventful::{self, Eventful},
    *,
};

/// Pages of the areas here.
const MANY: usize = 4096;
/// How many pages are looked at with a lock held.
const LOOKS: usize = 256;

/// Counts how often this thread takes a space's lock exclusively, and gives up where that has no end.
fn count(taken: &Rc<Cell<usize>>) {
    let taken = taken.clone();
    eventful::before_exclusive(move || {
        taken.set(taken.get() + 1);
        assert!(taken.get() < 100, "without an end");
        count(&taken);
    });
}

/// All pages of an area, but those that are left out, come from its source.
fn bring<L: stage2::lock::LockFamily>(space: &GuestSpace<Machine, L>, left_out: &[usize]) {
    for at in (0..MANY).filter(|at| !left_out.contains(at)) {
        let _ = space.offer(gpa(at * PAGE), &page(at * PAGE)).unwrap();
    }
}

/// The space was locked for as long as it takes to look at all pages, or each look began with the first page again.
#[test]
fn is_looked_through_a_part_at_a_time_and_once() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = GuestSpace::<Machine, Eventful>::new(board.config()).unwrap();
    let (script, pager) = pager(2);
    space.map_from(range(0, MANY * PAGE), &pager, 0, RW).unwrap();
    bring(&space, &[MANY - 2]);
    let missed = fault_at((MANY - 2) * PAGE);
    assert!(matches!(space.fault(CpuId(0), missed), Ok(Outcome::NotYet(_))));
    assert_eq!(space.load(gpa(0)), Ok(content(0)), "it is in the tables");
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    let taken = Rc::new(Cell::new(0));
    count(&taken);
    let refused = space.unmap(range(0, MANY * PAGE));
    eventful::before_exclusive(|| ());
    assert!(matches!(refused, Err(Error::Invalidation { .. })));
    assert_eq!(script.settled(), [(MANY - 2, Settled::Cancelled)]);
    let looks = MANY / LOOKS;
    assert!((looks..looks + 4).contains(&taken.get()), "{}", taken.get());
    board.deafen(None);
    space.leave(CpuId(3)).unwrap();
}

/// What an older snapshot has is off the account already: the next one passes it over.
#[test]
fn by_a_snapshot_goes_off_the_account_once() {
    let board = Board::new();
    let space = board.space();
    let (_script, pager) = pager(2);
    space.map_from(range(0, MANY * PAGE), &pager, 0, RW).unwrap();
    bring(&space, &[]);
    let take = || {
        let (mut taking, mut steps) = (space.snapshot_in_steps().unwrap(), 1);
        while taking.step(1).unwrap() == Progress::More {
            steps += 1;
        }
        (taking.finish().unwrap(), steps)
    };
    let (first, steps) = take();
    let last = (MANY - 1) * PAGE;
    space.unmap(range(last, PAGE)).unwrap();
    space.map_from(range(last, PAGE), &pager, 0, RW).unwrap();
    let _ = space.offer(gpa(last), &page(0)).unwrap();
    assert_eq!((first.region().frames(), space.usage().frames), (MANY, 1), "one came since");
    let (second, fewer) = take();
    assert!(fewer + MANY / LOOKS - 4 <= steps, "{fewer} after {steps}");
    assert_eq!((second.region().frames(), space.usage().frames), (MANY, 0));
}

/// A page that a vCPU waits for is let go of where a debt is paid, and the source is told: it uses the space, which pays too.
#[test]
fn to_be_paid_later_leaves_the_space_to_its_source() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = Arc::new(board.space());
    let (script, pager) = pager(2);
    // As much private memory, so that the region is not what is paid first.
    space.map(range(LARGE, LARGE), PAGES, RW).unwrap();
    let region = space.region_from(4 * PAGE, &pager, 0).unwrap();
    space.map(range(2 * LARGE, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    let _ = waits(&space, 2 * LARGE, Access::Read);
    drop(region);
    let (heard, seen, guest) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)), Arc::downgrade(&space));
    let told = heard.clone();
    let meanwhile = move |moment: Moment| {
        let (Moment::Settled(_), Some(space)) = (moment, guest.upgrade()) else { return };
        let (sender, answer) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let used = space.map(range(4 * LARGE, PAGE), LAZY, RW).and_then(|()| space.unmap(range(4 * LARGE, PAGE)));
            sender.send(used)
        });
        *told.lock().unwrap() = Some(answer.recv_timeout(PATIENCE));
    };
    assert!(script.meanwhile.set(Box::new(meanwhile)).is_ok());
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range(LARGE, 2 * LARGE)), Err(Error::Invalidation { .. })));
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    for call in 0..8 {
        assert_eq!(space.map(range(6 * LARGE + call * PAGE, PAGE), LAZY, RW), Ok(()));
        seen.lock().unwrap().get_or_insert((call, script.settled().len()));
    }
    assert_eq!(*seen.lock().unwrap(), Some((0, 0)), "there is a debt when the first call has returned");
    assert_eq!(*heard.lock().unwrap(), Some(Ok(Ok(()))), "the space could not be used");
    assert_eq!(space.usage().frames, 0);
}
