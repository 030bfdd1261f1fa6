//! Relocating, beside what others do meanwhile.

use super::*;

/// The block was taken for moved, and its pieces stayed in the old frames.
#[test]
fn moves_the_pieces_of_a_block_that_is_split_meanwhile() {
    let board = Board::new();
    let space = Arc::new(board.space());
    space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    let old = space.translate(gpa(0)).unwrap().hpa;
    let other = space.clone();
    board.on_allocation(move || other.protect(range(PAGE, PAGE), READ).unwrap());
    assert_eq!(space.relocate(range(0, BLOCK)), Ok(32));
    for page in (0..BLOCK).step_by(PAGE) {
        let at = space.translate(gpa(page)).unwrap().hpa;
        assert!(at < old || at >= old + BLOCK, "{page:#x} is still at {at:?}");
    }
}

/// The area was private when the relocation began.
#[test]
fn passes_over_what_became_linear_meanwhile() {
    let board = Board::new();
    let space = Arc::new(board.space());
    space.map(range(0, 2 * PAGE), PAGES, RW).unwrap();
    let other = space.clone();
    board.on_allocation(move || {
        other.unmap(range(0, PAGE)).unwrap();
        other.map(range(0, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    });
    assert_eq!(space.relocate(range(0, 2 * PAGE)), Ok(1));
}

#[test]
fn moves_every_populated_leaf_and_keeps_its_contents() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, BLOCK), LAZY, RW).unwrap();
    space.map(range(BLOCK, 2 * BLOCK), BLOCKS, RW).unwrap();
    space.write(gpa(3 * PAGE + 5), b"page").unwrap();
    space.write(gpa(2 * BLOCK - 2), b"blocks").unwrap();
    let places = || [3 * PAGE, BLOCK, 2 * BLOCK].map(|at| space.translate(gpa(at)).unwrap().hpa);
    let (before, allocated) = (places(), board.allocated());
    assert_eq!(space.relocate(range(0, 3 * BLOCK)), Ok(1 + 64));
    for (old, new) in before.iter().zip(places()) {
        assert_ne!(*old, new);
    }
    assert_eq!(board.allocated(), allocated);
    assert_eq!(space.read_obj::<[u8; 4]>(gpa(3 * PAGE + 5)).unwrap(), *b"page");
    assert_eq!(space.read_obj::<[u8; 6]>(gpa(2 * BLOCK - 2)).unwrap(), *b"blocks");
}

/// A compaction begins where no block is free.
#[test]
fn moves_pages_where_no_block_is_free() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 2 * BLOCK), BLOCKS, RW).unwrap();
    (0..2 * BLOCK).step_by(PAGE).for_each(|at| space.store(gpa(at), at as u64).unwrap());
    let place = |at: usize| space.translate(gpa(at)).unwrap().hpa;
    let before: Vec<_> = (0..2 * BLOCK).step_by(PAGE).map(place).collect();
    board.fragment(Some(1));
    // From the middle of the first block on: what is before it stays where it is.
    assert_eq!(space.relocate(range(4 * PAGE, 2 * BLOCK - 4 * PAGE)), Ok(60));
    for (page, &old) in before.iter().enumerate() {
        assert_eq!(place(page * PAGE) == old, page < 4, "page {page}");
        assert_eq!(space.load(gpa(page * PAGE)), Ok((page * PAGE) as u64), "page {page}");
    }
    assert_eq!((space.stats().leaves[0], space.usage().frames), (64, 64));
    assert_eq!(board.allocated(), 64 + space.stats().table_frames);
}

#[test]
fn splits_no_block_where_no_page_is_free() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    let before = space.to_string();
    board.allow(Some(0));
    assert_eq!(space.relocate(range(0, BLOCK)), Err(Error::NoMemory(range(0, BLOCK))));
    assert_eq!(space.to_string(), before);
    // A page, but no table to split the block with.
    board.fragment(Some(1));
    board.allow(Some(1));
    assert!(matches!(space.relocate(range(0, BLOCK)), Err(Error::NoMemory(_))));
    assert_eq!(space.to_string(), before);
}

/// Until a CPU was told, it may write the old frame: the copy is made afterwards (H9).
#[test]
fn keeps_what_another_cpu_writes_until_it_is_told() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = Arc::new(board.space());
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    space.write(gpa(0), b"first").unwrap();
    let old = board.pointer(space.translate(gpa(0)).unwrap().hpa);
    let (address, other) = (old.expose_provenance(), space.clone());
    board.on_interrupt(Arc::new(move |cpu| {
        let old = std::ptr::with_exposed_provenance_mut::<u8>(address.get());
        // SAFETY: the frame is the space's until the move is over, and only this test's thread uses it.
        unsafe { old.copy_from_nonoverlapping(b"later".as_ptr(), 5) };
        assert_eq!(other.flush(cpu), Ok(()));
    }));
    space.enter(CpuId(1), VcpuId(0)).unwrap();
    assert_eq!(space.relocate(range(0, PAGE)), Ok(1));
    assert_eq!(space.read_obj::<[u8; 5]>(gpa(0)).unwrap(), *b"later");
    space.leave(CpuId(1)).unwrap();
}

#[test]
fn refuses_what_is_not_the_spaces_own() {
    let space = Board::new().space();
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    space.map(range(PAGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    let before = space.translate(gpa(0));
    assert_eq!(space.relocate(range(0, 2 * PAGE)), Err(Error::NotMemory(range(PAGE, PAGE))));
    assert_eq!(space.relocate(range(2 * PAGE, PAGE)), Err(Error::NotMapped(range(2 * PAGE, PAGE))));
    assert_eq!(space.translate(gpa(0)), before);
}
