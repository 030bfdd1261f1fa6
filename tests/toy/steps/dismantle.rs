//! A space that goes in steps.

use super::*;

#[test]
fn frees_no_more_than_its_budget_and_all_in_the_end() {
    for budget in [1, 10, usize::MAX] {
        let board = Board::new();
        let space = board.space();
        mixed(&space);
        let region = space.region(4 * PAGE).unwrap();
        let kept = space.region(4 * PAGE).unwrap();
        for (at, region) in [(20 * LARGE, &region), (24 * LARGE, &kept)] {
            space.map(range(at, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
            space.write(gpa(at), &[1; 3 * PAGE]).unwrap();
        }
        drop(region);
        let taken = board.allocated() - 3;
        let Ok(mut dismantling) = space.dismantle() else { panic!("no CPU is inside") };
        assert_eq!(all_steps(&board, budget, |budget| dismantling.step(budget)), taken);
        drop(dismantling);
        assert_eq!((board.allocated(), kept.freeze()), (3, Ok(())), "no mapping writes it any more");
        drop(kept);
        assert_eq!(board.allocated(), 0);
    }
}

#[test]
fn gives_the_space_back_while_a_cpu_is_inside() {
    let board = Board::new();
    let space = board.space();
    mixed(&space);
    space.enter(CpuId(2), VcpuId(0)).unwrap();
    let Err((space, error)) = space.dismantle() else { panic!("CPU 2 is inside") };
    assert_eq!(error, Error::InGuest(CpuId(2)));
    assert_eq!(space.read_obj::<[u8; 2]>(gpa(LARGE)), Ok([0xff; 2]));
    space.leave(CpuId(2)).unwrap();
    let Ok(mut dismantling) = space.dismantle() else { panic!("no CPU is inside") };
    assert_eq!(dismantling.step(1), Progress::More);
    drop(dismantling);
    assert_eq!(board.allocated(), 0);
}

/// What waits for its invalidation is freed with the rest, once.
#[test]
fn ends_what_could_not_be_finished() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    mixed(&space);
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    let across = range(LARGE + PAGE, LARGE - 2 * PAGE);
    assert!(matches!(space.unmap(across), Err(Error::Invalidation { .. })));
    space.leave(CpuId(3)).unwrap();
    let Ok(mut dismantling) = space.dismantle() else { panic!("no CPU is inside") };
    assert!(all_steps(&board, 9, |budget| dismantling.step(budget)) > LARGE / PAGE);
    drop(dismantling);
    assert_eq!(board.allocated(), 0);
}

#[test]
fn comes_after_every_cpu_was_made_to_forget() {
    let board = Board::new();
    let space = board.space();
    mixed(&space);
    board.events();
    let Ok(dismantling) = space.dismantle() else { panic!("no CPU is inside") };
    assert_eq!(board.events(), [Event::InvalidatedAll]);
    drop(dismantling);
}
