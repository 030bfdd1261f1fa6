//! Something happens elsewhere between two moments at which a fault has the lock.

use super::{
    super::eventful::{self, Eventful},
    *,
};

type Space = GuestSpace<Machine, Eventful>;

/// A fault that has found page 0 missing; `by` runs before it can ask the source.
fn overtaken(by: impl FnOnce(&Space, &Arc<Script>, &Pager) + 'static) -> (Outcome, Vec<usize>, Vec<(usize, Settled)>) {
    let board = Board::new();
    let (script, pager) = pager(2);
    let space = Arc::new(GuestSpace::<Machine, Eventful>::new(board.config()).unwrap());
    space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
    let elsewhere = (space.clone(), script.clone(), pager.clone());
    let event = eventful::after_shared(move || by(&elsewhere.0, &elsewhere.1, &elsewhere.2));
    let outcome = space.fault(CpuId(0), read()).unwrap();
    assert!(event.has_happened());
    (outcome, script.asked(), script.settled())
}

fn read() -> Fault {
    Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction }
}

/// Another CPU asks, is answered, and puts it into the tables: then it is in no region any more.
#[test]
fn a_page_that_another_brought_and_took_is_not_asked_for_again() {
    let (outcome, asked, settled) = overtaken(|space, script, _| {
        script.answers(Supply::Ready);
        assert_eq!(space.fault(CpuId(1), read()), Ok(Outcome::Resolved));
    });
    assert_eq!((outcome, asked), (Outcome::Retry, vec![4]));
    assert_eq!(settled, [(4, Settled::Ready), (4, Settled::Cancelled)]);
}

#[test]
fn a_page_that_was_unmapped_is_not_asked_for() {
    let (outcome, asked, settled) = overtaken(|space, _, _| space.unmap(range(0, PAGE)).unwrap());
    assert_eq!((outcome, asked, settled), (Outcome::NotMapped, vec![], vec![(4, Settled::Cancelled)]));
}

#[test]
fn a_page_that_now_comes_from_elsewhere_is_not_asked_for_there() {
    let (outcome, asked, settled) = overtaken(|space, _, pager| {
        space.unmap(range(0, PAGE)).unwrap();
        space.map_from(range(0, PAGE), pager, 9 * PAGE, RW).unwrap();
    });
    assert_eq!((outcome, asked, settled), (Outcome::Retry, vec![], vec![(4, Settled::Cancelled)]));
}
