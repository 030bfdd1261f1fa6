//! Operations in steps: what is bounded, what holds between two steps, and what it takes to finish.

#[path = "steps/dismantle.rs"]
mod dismantle;
#[path = "steps/loans.rs"]
mod loans;
#[path = "steps/protect.rs"]
mod protect;
#[path = "steps/regions.rs"]
mod regions;
#[path = "steps/release.rs"]
mod release;
#[path = "steps/unmap.rs"]
mod unmap;

use stage2::space::Progress;

use super::*;

/// How many frames of 4 KiB were freed since the events were last looked at.
fn freed(board: &Board) -> usize {
    let pages = |event| if let Event::Freed(_, pages) = event { pages } else { 0 };
    board.events().into_iter().map(pages).sum()
}

/// Calls `step` until it is done: each time up to `budget` frames are freed, and together all.
fn all_steps(board: &Board, budget: usize, mut step: impl FnMut(usize) -> Progress) -> usize {
    board.events();
    let mut all = 0;
    loop {
        let progress = step(budget);
        let now = freed(board);
        assert!(now <= budget, "{now} frames in a step of {budget}");
        all += now;
        if progress == Progress::Done {
            return all;
        }
    }
}

/// Pages, blocks of both sizes and their tables, all of it written.
fn mixed(space: &GuestSpace<Machine>) {
    space.map(range(0, BLOCK + 3 * PAGE), PAGES, RW).unwrap();
    space.map(range(LARGE - 2 * BLOCK, 2 * LARGE), BLOCKS, RW).unwrap();
    space.map(range(8 * LARGE, LARGE), LAZY, RW).unwrap();
    for page in [0, 31, 32, 1023] {
        assert_eq!(fault(space, 8 * LARGE + page * PAGE, Access::Write), Outcome::Resolved);
    }
    space.map(range(10 * LARGE, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    space.write(gpa(0), &[0xff; 3 * PAGE]).unwrap();
    space.write(gpa(LARGE - PAGE), &[0xff; 3 * PAGE]).unwrap();
}
