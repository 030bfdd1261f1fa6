//! Memory that changes hands under many threads: donated, lent, shared, converted, frozen, and written all the time.

use stage2::{
    SharedRegion,
    loan::{Handover, PageState},
};

use super::{
    regions::{another, end},
    *,
};

type Space = GuestSpace<Parts, Spin>;

/// How many pages change hands.
const COUNT: usize = 8;

fn page(number: usize) -> GuestPhysAddr {
    gpa(RAM + number * PAGE)
}

fn place(number: usize) -> stage2::GuestPhysRange {
    range(RAM + number * PAGE, PAGE)
}

/// The refusal that is allowed while another thread takes snapshots: the page is frozen, and was not written since.
fn is_frozen<T: std::fmt::Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::State { state: PageState::Frozen, .. }))
}

/// Moves one page about, from one space to the other and back. Where it is in the end.
fn pass(number: usize, round: usize, [at, other]: [&Space; 2]) -> [&Space; 2] {
    let (here, there) = (place(number), page(number));
    match round % 4 {
        0 => match at.donate(here, other, there, RW, Handover::Keep) {
            Ok(()) => return [other, at],
            refused => assert!(is_frozen(&refused), "{refused:?}"),
        },
        1 | 2 => {
            let loan = if round % 4 == 1 { at.lend(here, other, there, RW) } else { at.share(here, other, there, RW) };
            match loan {
                Ok(loan) => at.reclaim(&loan, other, Handover::Keep).expect("the other has it"),
                refused => assert!(is_frozen(&refused), "{refused:?}"),
            }
        }
        _ => match at.make_shared(here).map(drop::<SharedRegion>) {
            Ok(()) => at.make_private(here, Handover::Keep).expect("no other space has it"),
            refused => assert!(is_frozen(&refused), "{refused:?}"),
        },
    }
    [at, other]
}

/// Every number that a thread added is somewhere, once, while two threads move pages between two spaces in opposite
/// directions, others add to them in both, and one freezes them; memory beside them comes and goes.
#[test]
fn sums_are_right_while_their_pages_change_hands() {
    const ROUNDS: usize = 6000;
    let board = Board::<Spin>::new();
    let other = another(&board, 2);
    let spaces = [&board.space, &other];
    for number in 0..COUNT {
        spaces[number % 2].map(place(number), LAZY, RW).expect("it is free");
    }
    let (left, added) = (AtomicUsize::new(2), AtomicU64::new(0));
    let add = |thread: usize| {
        until_done(&left, |round| {
            let (space, at) = (spaces[round % 2], page((round / 2 + thread) % COUNT) + 8);
            let mut old = 0_u64;
            loop {
                match space.compare_exchange(at, old, old + 1) {
                    Ok(Err(now)) => old = now,
                    Ok(Ok(_)) => {
                        added.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    // The other space has it right now.
                    Err(Error::NotMapped(_) | Error::State { state: PageState::Lent, .. }) => break,
                    Err(unexpected) => panic!("{unexpected}"),
                }
            }
        });
    };
    let give = |thread: usize| {
        let _running = Running(&left);
        let mut homes: Vec<_> =
            (0..COUNT).map(|number| if number % 2 == 0 { spaces } else { [spaces[1], spaces[0]] }).collect();
        for round in 0..ROUNDS {
            let number = 2 * (round / 4 % (COUNT / 2)) + thread % 2;
            homes[number] = pass(number, round, homes[number]);
        }
    };
    let freeze = |_| {
        until_done(&left, |round| {
            match spaces[round % 2].snapshot().map(drop) {
                Ok(()) | Err(Error::State { .. } | Error::NotMapped(_)) => {}
                Err(unexpected) => panic!("{unexpected}"),
            }
            let beside = range(RAM + (1 + round % 3) * BLOCK, 5 * PAGE);
            spaces[round % 2].map(beside, LAZY, RW).expect("it is free");
            spaces[round % 2].store(beside.start + PAGE, 1_u64).expect("memory");
            spaces[round % 2].unmap(beside).expect("it is mapped");
        });
    };
    race(&[&give, &give, &add, &add, &freeze]);
    let homes = (0..COUNT).map(|number| spaces.map(|space| space.load::<u64>(page(number) + 8)));
    let sum: u64 = homes
        .map(|home| match home {
            [Ok(sum), Err(Error::NotMapped(_))] | [Err(Error::NotMapped(_)), Ok(sum)] => sum,
            lost => panic!("{lost:?}"),
        })
        .sum();
    assert_eq!(sum, added.load(Ordering::Relaxed));
    drop(other);
    end(board);
}
