//! Memory of one space in another, on a board whose CPUs may be deaf.

#[path = "loans/deaf_cpus.rs"]
mod deaf_cpus;
#[path = "loans/deaths.rs"]
mod deaths;
#[path = "loans/left_behind.rs"]
mod left_behind;
#[path = "loans/lend.rs"]
mod lend;
#[path = "loans/parts.rs"]
mod parts;
#[path = "loans/refusals.rs"]
mod refusals;
#[path = "loans/several.rs"]
mod several;
#[path = "loans/share.rs"]
mod share;

use stage2::{
    format::Owner,
    loan::{Handover, Loan, LoanKind, PageState},
    space::AreaKind,
};

use super::*;

type Space = GuestSpace<Machine>;

/// Two spaces of one board, with 4 pages of the first one's own from page 8 on, page `n` of which starts with `n`.
fn pair(board: &Board) -> (Space, Space) {
    let (lender, borrower) = (board.space(), board.space());
    lender.map(range(8 * PAGE, 4 * PAGE), LAZY, RWX).unwrap();
    for page in 0..4 {
        lender.write_obj(gpa((8 + page) * PAGE), page as u64).unwrap();
    }
    (lender, borrower)
}

/// The middle two of the pages.
fn middle() -> stage2::GuestPhysRange {
    range(9 * PAGE, 2 * PAGE)
}

fn share(lender: &Space, borrower: &Space) -> Loan {
    lender.share(middle(), borrower, gpa(LARGE), RW).unwrap()
}

fn lend(lender: &Space, borrower: &Space) -> Loan {
    lender.lend(middle(), borrower, gpa(LARGE), RW).unwrap()
}

fn state_of(space: &Space, page: usize) -> PageState {
    space.page_state(gpa(page * PAGE))
}

fn is(page: usize, state: PageState) -> Error {
    Error::State { range: range(page * PAGE, PAGE), state }
}

fn value(space: &Space, at: usize) -> Result<u64, Error> {
    space.read_obj(gpa(at))
}

fn invalidations(board: &Board) -> usize {
    board.events().iter().filter(|event| matches!(event, Event::Invalidated(_))).count()
}

/// The n-th allocation fails, for every n: nothing is given and nothing lost.
#[test]
fn out_of_memory_gives_nothing() {
    for lent in [true, false] {
        let board = Board::new();
        let (lender, borrower) = (board.space(), board.space());
        lender.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        lender.write_obj(gpa(PAGE), 5_u64).unwrap();
        let before = (lender.to_string(), borrower.to_string(), board.allocated());
        let part = range(PAGE, 2 * PAGE);
        let give = || {
            if lent { lender.lend(part, &borrower, gpa(0), RW) } else { lender.share(part, &borrower, gpa(0), RW) }
        };
        let mut failures = 0;
        let loan = loop {
            board.allow(Some(failures));
            let given = give();
            board.allow(None);
            match given {
                Ok(loan) => break loan,
                Err(error) => assert!(matches!(error, Error::NoMemory(_)), "{error}"),
            }
            assert_eq!((lender.to_string(), borrower.to_string(), board.allocated()), before);
            failures += 1;
        };
        assert_eq!(failures, 4, "three tables of the borrower's, one that splits");
        board.allow(Some(0));
        lender.reclaim(&loan, &borrower, Handover::Zero).expect("taking back allocates no frame");
        board.allow(None);
        assert_eq!(value(&lender, PAGE), Ok(0));
    }
}

/// Two spaces that give to each other take their locks in one order.
#[test]
fn opposite_directions_do_not_wait_for_each_other() {
    let board = Board::new();
    let (one, other) = (board.space(), board.space());
    for space in [&one, &other] {
        space.map(range(0, PAGE), PAGES, RW).unwrap();
    }
    let rounds = if cfg!(miri) { 10 } else { 20_000 };
    let start = &std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for (from, to) in [(&one, &other), (&other, &one)] {
            scope.spawn(move || {
                start.wait();
                for round in 0..rounds {
                    let loan = from.lend(range(0, PAGE), to, gpa(LARGE), RW).unwrap();
                    to.write_obj(gpa(LARGE), round).unwrap();
                    from.reclaim(&loan, to, Handover::Keep).unwrap();
                    assert_eq!(from.read_obj::<usize>(gpa(0)), Ok(round));
                }
            });
        }
    });
}
