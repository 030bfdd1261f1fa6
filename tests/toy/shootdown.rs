//! The other CPUs: which are told, and what a CPU that cannot be told holds up.

use super::*;

/// A space on CPUs that must be interrupted; handlers flush.
fn space() -> (Board, Arc<GuestSpace<Machine>>) {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = Arc::new(board.space());
    let weak = Arc::downgrade(&space);
    board.on_interrupt(Arc::new(move |cpu| {
        if let Some(space) = weak.upgrade() {
            // The flusher that waits is told of a refusal.
            let _ = space.flush(cpu);
        }
    }));
    space.map(range(0, BLOCK), PAGES, RW).unwrap();
    board.events();
    (board, space)
}

#[test]
fn interrupts_only_cpus_in_the_guest_and_others_pay_when_they_enter() {
    let (board, space) = space();
    space.enter(CpuId(1), VcpuId(0)).unwrap();
    space.enter(CpuId(2), VcpuId(1)).unwrap();
    space.leave(CpuId(2)).unwrap();
    assert_eq!(board.events(), [Event::InvalidatedAll, Event::InvalidatedAll], "each CPU's first flush");
    space.unmap(range(0, PAGE)).unwrap();
    let events = board.events();
    assert_eq!(events[..2], [Event::Interrupted(CpuId(1)), Event::InvalidatedAll]);
    assert!(matches!(events[2..], [Event::Freed(..)]));
    space.enter(CpuId(2), VcpuId(1)).unwrap();
    assert_eq!(board.events(), [Event::InvalidatedAll]);
    space.leave(CpuId(2)).unwrap();
    space.enter(CpuId(2), VcpuId(1)).unwrap();
    assert_eq!(board.events(), [], "nothing is owed any more");
    space.leave(CpuId(1)).unwrap();
    space.leave(CpuId(2)).unwrap();
}

#[test]
fn that_fails_frees_nothing_until_it_was_made_good() {
    let (board, space) = space();
    let allocated = board.allocated();
    space.enter(CpuId(3), VcpuId(0)).unwrap();
    board.deafen(Some(CpuId(3)));
    let error = space.unmap(range(0, PAGE)).unwrap_err();
    assert!(matches!(error, Error::Invalidation { cause, .. } if cause.0 == CpuId(3)), "{error}");
    assert_eq!(board.allocated(), allocated);
    assert!(matches!(space.unmap(range(PAGE, PAGE)), Err(Error::Invalidation { .. })));
    assert_eq!(fault_at(&space, 0), Ok(Outcome::NotMapped));
    board.deafen(None);
    space.unmap(range(PAGE, PAGE)).unwrap();
    assert_eq!(board.allocated(), allocated - 2);
    space.leave(CpuId(3)).unwrap();
}

/// It was tried again at once: the second try could succeed, and the caller had an error all the same.
#[test]
fn that_fails_is_not_tried_again_before_the_caller_knows() {
    let (board, space) = space();
    space.enter(CpuId(3), VcpuId(0)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(space.unmap(range(0, PAGE)).is_err());
    assert_eq!(board.events(), [Event::InvalidatedAll, Event::Interrupted(CpuId(3))]);
    space.leave(CpuId(3)).unwrap();
}

#[test]
fn that_fails_while_a_block_is_cut_is_finished_by_the_next_fault() {
    let (board, space) = space();
    space.map(range(LARGE, BLOCK), BLOCKS, RW).unwrap();
    space.write(gpa(LARGE + 9), b"still").unwrap();
    space.enter(CpuId(3), VcpuId(0)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(space.unmap(range(LARGE + PAGE, PAGE)).is_err());
    assert!(fault_at(&space, LARGE).is_err());
    board.deafen(None);
    assert_eq!(fault_at(&space, LARGE), Ok(Outcome::Retry));
    assert_eq!(space.read_obj::<[u8; 5]>(gpa(LARGE + 9)).unwrap(), *b"still");
    space.leave(CpuId(3)).unwrap();
}

#[test]
fn that_the_cpu_refuses_is_an_error_and_frees_nothing() {
    let (board, space) = space();
    let allocated = board.allocated();
    space.enter(CpuId(1), VcpuId(0)).unwrap();
    board.refuse(Some(CpuId(1)));
    let refused = |result| matches!(result, Err(Error::Invalidation { cause, .. }) if cause.0 == CpuId(1));
    assert!(refused(space.unmap(range(0, PAGE))));
    assert!(refused(space.flush(CpuId(1))));
    assert_eq!(board.allocated(), allocated);
    space.leave(CpuId(1)).unwrap();
    assert!(refused(space.enter(CpuId(1), VcpuId(0))));
    // It is not in the guest, so that no flusher waits for it.
    space.unmap(range(PAGE, PAGE)).unwrap();
    assert_eq!(board.allocated(), allocated - 2);
    board.refuse(None);
    space.enter(CpuId(1), VcpuId(0)).unwrap();
    space.leave(CpuId(1)).unwrap();
}

#[test]
fn a_new_space_interrupts_no_cpu_and_each_cpu_forgets_the_identifiers_former_user_when_it_enters() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    assert!(!board.events().contains(&Event::InvalidatedAll));
    for cpu in [CpuId(0), CpuId(3)] {
        space.enter(cpu, VcpuId(0)).unwrap();
        assert_eq!(board.events(), [Event::InvalidatedAll]);
        space.leave(cpu).unwrap();
    }
}

#[test]
fn that_fails_leaves_a_relocated_page_where_it_was() {
    let (board, space) = space();
    let before = (space.translate(gpa(0)), board.allocated());
    space.enter(CpuId(0), VcpuId(0)).unwrap();
    board.deafen(Some(CpuId(0)));
    assert!(matches!(space.relocate(range(0, PAGE)), Err(Error::Invalidation { .. })));
    assert_eq!((space.translate(gpa(0)), board.allocated()), before);
    space.leave(CpuId(0)).unwrap();
}

#[test]
fn separates_virtual_cpus_that_run_on_one_cpu_in_turn() {
    let board = Board::new();
    let space = board.space();
    board.events();
    for (vcpu, expected) in [(0, vec![]), (0, vec![]), (1, vec![Event::Switched]), (0, vec![Event::Switched])] {
        space.enter(CpuId(0), VcpuId(vcpu)).unwrap();
        space.leave(CpuId(0)).unwrap();
        assert_eq!(board.events(), expected);
    }
    assert_eq!(space.enter(CpuId(4), VcpuId(0)), Err(Error::NoSuchCpu(CpuId(4))));
}

fn fault_at(space: &GuestSpace<Machine>, at: usize) -> Result<Outcome, Error> {
    let fault = Fault { gpa: gpa(at), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction };
    space.fault(CpuId(0), fault)
}
