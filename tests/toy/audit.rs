//! The audit finds what is wrong: words of tables that a test overwrites, and puts back.

use stage2::{
    audit::{Disagreement, Finding, Meanwhile, Use, audit},
    format::{Leaf, Owner},
    loan::Handover,
    space::{AreaKind, Resource},
};

use super::*;

/// The entry of a level that translates an address.
fn entry<'b>(board: &'b Board, space: &GuestSpace<Machine>, level: Level, at: usize) -> &'b AtomicU64 {
    let geometry = Toy.geometry();
    let mut table = PhysAddr::from_usize(space.root() as usize);
    let mut now = geometry.root_level;
    loop {
        let index = geometry.index(now, gpa(at));
        // SAFETY: a table of the space's, which stays, and nothing else accesses the space meanwhile.
        let entry = unsafe { board.pointer(table).cast::<AtomicU64>().add(index).as_ref() };
        if now == level {
            return entry;
        }
        let Entry::Table(below) = Toy.decode(now, entry.load(Ordering::Relaxed)) else { panic!("no table there") };
        (table, now) = (below, now.below());
    }
}

/// The leaf of a page.
fn leaf(board: &Board, space: &GuestSpace<Machine>, at: usize) -> Leaf {
    match Toy.decode(Level::PAGE, entry(board, space, Level::PAGE, at).load(Ordering::Relaxed)) {
        Entry::Leaf(leaf) => leaf,
        other => panic!("{other:?} is no leaf"),
    }
}

/// What is found while an entry is another word.
fn found_with(board: &Board, spaces: &[&GuestSpace<Machine>], (level, at): (Level, usize), word: u64) -> Vec<Finding> {
    let entry = entry(board, spaces[0], level, at);
    let before = entry.swap(word, Ordering::Relaxed);
    let report = audit(spaces.iter().map(|guest| &***guest), Meanwhile::Nothing).unwrap();
    entry.store(before, Ordering::Relaxed);
    assert!(!report.is_clean());
    let clean = audit(spaces.iter().map(|guest| &***guest), Meanwhile::Nothing).unwrap();
    assert_eq!(clean.to_string(), "all agree");
    report.findings().to_vec()
}

/// What is found while the leaf of a page is another.
fn found_with_leaf(
    board: &Board,
    spaces: &[&GuestSpace<Machine>],
    at: usize,
    change: impl Fn(Leaf) -> Leaf,
) -> Vec<Finding> {
    let changed = change(leaf(board, spaces[0], at));
    found_with(board, spaces, (Level::PAGE, at), Toy.leaf(Level::PAGE, &changed))
}

/// A finding in the first space.
fn finding(range: stage2::GuestPhysRange, what: Disagreement) -> Finding {
    Finding { space: 0, range, what }
}

fn page(at: usize) -> stage2::GuestPhysRange {
    range(at, PAGE)
}

/// The account has one frame more than is found.
fn one_more(space: &GuestSpace<Machine>) -> Finding {
    let (counted, everything) = (space.usage().frames, range(0, Toy.geometry().limit()));
    finding(everything, Disagreement::Account { what: Resource::Frames, counted, found: counted - 1 })
}

const FIRST: usize = 8 * PAGE;

/// Four pages of a space's own, from page 8 on.
fn populated() -> (Board, GuestSpace<Machine>) {
    let board = Board::new();
    let space = board.space();
    space.map(range(FIRST, 4 * PAGE), PAGES, RW).unwrap();
    (board, space)
}

#[test]
fn finds_memory_where_no_area_is() {
    let (board, space) = populated();
    let at = PhysAddr::from_usize(LARGE);
    let word = Toy.leaf(Level::PAGE, &Leaf { at, flags: RW, owner: Owner::Foreign, used: Used::Not });
    let found = found_with(&board, &[&space], (Level::PAGE, 0), word);
    assert_eq!(found, [finding(page(0), Disagreement::NoArea)]);
    assert_eq!(found[0].to_string(), "space 0, GPA:0x0..GPA:0x1000: an entry maps memory where no area is");
}

#[test]
fn finds_a_table_where_no_area_is_and_one_that_is_reached_twice() {
    let (board, space) = populated();
    let table = entry(&board, &space, Level(1), FIRST).load(Ordering::Relaxed);
    let found = found_with(&board, &[&space], (Level(1), BLOCK), table);
    assert!(found.contains(&finding(range(BLOCK, BLOCK), Disagreement::TableWithoutArea)), "{found:?}");
    let is_twice = |finding: &Finding| {
        matches!(finding.what, Disagreement::TwoUses { is: Use::Table, other: Use::Table, holder: 0, .. })
    };
    assert!(found.iter().any(is_twice), "{found:?}");
}

/// A walk of tables that lead in a circle ends.
#[test]
fn finds_a_table_below_itself() {
    let (board, space) = populated();
    let table = entry(&board, &space, Level(2), FIRST).load(Ordering::Relaxed);
    let found = found_with(&board, &[&space], (Level(1), FIRST), table);
    assert!(found.iter().any(|finding| matches!(finding.what, Disagreement::TwoUses { is: Use::Table, .. })));
}

#[test]
fn finds_a_table_in_a_page_s_place() {
    let (board, space) = populated();
    let found = found_with(&board, &[&space], (Level::PAGE, 0), Toy.table(PhysAddr::from_usize(0)));
    assert_eq!(found, [finding(page(0), Disagreement::TableTooLow(Level::PAGE))]);
}

#[test]
fn finds_what_no_operation_will_finish() {
    let (board, space) = populated();
    let busy = found_with(&board, &[&space], (Level::PAGE, 0), Toy.busy());
    assert_eq!(busy, [finding(page(0), Disagreement::Unfinished)]);
    let marked = Toy.mark(Level::PAGE, Toy.leaf(Level::PAGE, &leaf(&board, &space, FIRST)));
    let found = found_with(&board, &[&space], (Level::PAGE, FIRST), marked);
    assert_eq!(found, [finding(page(FIRST), Disagreement::Unfinished)]);
    let table = entry(&board, &space, Level(1), FIRST).load(Ordering::Relaxed);
    let found = found_with(&board, &[&space], (Level(1), FIRST), Toy.mark(Level(1), table));
    assert_eq!(found, [finding(range(0, BLOCK), Disagreement::Unfinished)]);
}

/// What could not be finished since a CPU did not answer is no disagreement, and all else is still looked at.
#[test]
fn passes_over_what_waits_for_a_deaf_cpu_and_nothing_else() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    space.map(range(0, 2 * BLOCK), BLOCKS, RW).unwrap();
    space.map(range(2 * BLOCK, 4 * PAGE), PAGES, RW).unwrap();
    space.enter(CpuId(2), VcpuId(0)).unwrap();
    board.deafen(Some(CpuId(2)));
    let unmapped = space.unmap(range(PAGE, BLOCK));
    assert!(matches!(unmapped, Err(Error::Invalidation { .. })), "{unmapped:?}");
    let report = audit([&*space], Meanwhile::Nothing).unwrap();
    assert!(report.is_clean(), "{report}");
    let found = found_with_leaf(&board, &[&space], 2 * BLOCK, |leaf| Leaf { owner: Owner::Foreign, ..leaf });
    let what = Disagreement::Owner { owner: Owner::Foreign, kind: AreaKind::Private };
    assert_eq!(found, [finding(page(2 * BLOCK), what), one_more(&space)]);
    board.deafen(None);
    space.leave(CpuId(2)).unwrap();
}

#[test]
fn finds_flags_that_the_area_does_not_have() {
    let (board, space) = populated();
    let found = found_with_leaf(&board, &[&space], FIRST, |leaf| Leaf { flags: RWX, ..leaf });
    assert_eq!(found, [finding(page(FIRST), Disagreement::Flags { flags: RWX, allowed: RW })]);
    let uncached = RW | MappingFlags::UNCACHED;
    let found = found_with_leaf(&board, &[&space], FIRST, |leaf| Leaf { flags: uncached, ..leaf });
    assert_eq!(found, [finding(page(FIRST), Disagreement::Flags { flags: uncached, allowed: RW })]);
    // What is not raised yet is no fault.
    let entry = entry(&board, &space, Level::PAGE, FIRST);
    let less = Toy.leaf(Level::PAGE, &Leaf { flags: READ, ..leaf(&board, &space, FIRST) });
    let before = entry.swap(less, Ordering::Relaxed);
    assert!(audit([&*space], Meanwhile::Nothing).unwrap().is_clean());
    entry.store(before, Ordering::Relaxed);
}

#[test]
fn finds_linear_memory_elsewhere_or_not_at_all() {
    let board = Board::new();
    let space = board.space();
    let to = PhysAddr::from_usize(LARGE);
    space.map(range(0, 4 * PAGE), Mapping::Linear { to }, RW).unwrap();
    let found = found_with_leaf(&board, &[&space], PAGE, |leaf| Leaf { at: leaf.at + PAGE, ..leaf });
    let what = Disagreement::Frame { at: to + 2 * PAGE, expected: Some(to + PAGE) };
    assert_eq!(found, [finding(page(PAGE), what)]);
    let found = found_with(&board, &[&space], (Level::PAGE, PAGE), Toy.absent());
    assert_eq!(found, [finding(range(0, 4 * PAGE), Disagreement::NotMapped { missing: PAGE })]);
}

#[test]
fn finds_a_frame_of_two_leaves_and_one_that_is_a_table() {
    let (board, space) = populated();
    let other = board.space();
    other.map(range(LARGE, PAGE), PAGES, RW).unwrap();
    let theirs = leaf(&board, &other, LARGE).at;
    for (at, other_use, holder) in [
        (leaf(&board, &space, FIRST + PAGE).at, Use::Memory, 0),
        (theirs, Use::Memory, 1),
        (PhysAddr::from_usize(space.root() as usize), Use::Table, 0),
        (PhysAddr::from_usize(other.root() as usize), Use::Table, 1),
    ] {
        let found = found_with_leaf(&board, &[&space, &other], FIRST, |leaf| Leaf { at, ..leaf });
        let [Finding { what: Disagreement::TwoUses { at: there, is, other, holder: held }, space, .. }] = found[..]
        else {
            panic!("{found:?}");
        };
        assert_eq!(there, at);
        let uses = [(is, space), (other, held)];
        assert!(uses.contains(&(Use::Memory, 0)) && uses.contains(&(other_use, holder)), "{uses:?}");
    }
}

#[test]
fn finds_a_frame_that_is_counted_and_in_no_table() {
    let (board, space) = populated();
    let found = found_with(&board, &[&space], (Level::PAGE, FIRST), Toy.absent());
    assert_eq!(found, [one_more(&space)]);
    let words = "the account has 4 frames of the space's own, and 3 are found";
    assert!(found[0].to_string().ends_with(words), "{}", found[0]);
}

/// What waits in steps to be freed is still on the account: the caller says that it may be there.
#[test]
fn leaves_room_for_what_is_under_way() {
    let (_board, space) = populated();
    let taken = space.unmap_in_steps(range(FIRST, 2 * PAGE)).unwrap();
    assert!(audit([&*space], Meanwhile::Anything).unwrap().is_clean());
    let report = audit([&*space], Meanwhile::Nothing).unwrap();
    assert!(matches!(report.findings()[0].what, Disagreement::Account { counted: 4, found: 2, .. }), "{report}");
    drop(taken);
    assert!(audit([&*space], Meanwhile::Nothing).unwrap().is_clean());
}

#[test]
fn finds_another_frame_than_the_region_has() {
    let board = Board::new();
    let space = board.space();
    let region = space.region(4 * PAGE).unwrap();
    space.map(range(FIRST, 2 * PAGE), Mapping::Shared { region, offset: PAGE }, RW).unwrap();
    space.write(gpa(FIRST), &[1; 2 * PAGE]).unwrap();
    let (first, second) = (leaf(&board, &space, FIRST).at, leaf(&board, &space, FIRST + PAGE).at);
    let found = found_with_leaf(&board, &[&space], FIRST, |leaf| Leaf { at: second, ..leaf });
    assert_eq!(found, [finding(page(FIRST), Disagreement::Frame { at: second, expected: Some(first) })]);
    let found = found_with_leaf(&board, &[&space], FIRST, |leaf| Leaf { owner: Owner::Foreign, ..leaf });
    let what = Disagreement::Owner { owner: Owner::Foreign, kind: AreaKind::Shared(PAGE) };
    assert_eq!(found, [finding(page(FIRST), what)]);
}

#[test]
fn finds_what_is_inherited_writable_elsewhere_and_owned_too() {
    let (board, space) = populated();
    let snapshot = space.snapshot().unwrap();
    let (first, second) = (leaf(&board, &space, FIRST), leaf(&board, &space, FIRST + PAGE));
    assert_eq!(first.owner, Owner::Frozen);
    let found = found_with_leaf(&board, &[&space], FIRST, |leaf| Leaf { flags: RW, ..leaf });
    assert_eq!(found, [finding(page(FIRST), Disagreement::Flags { flags: RW, allowed: READ })]);
    let found = found_with_leaf(&board, &[&space], FIRST, |leaf| Leaf { at: second.at, ..leaf });
    assert_eq!(found, [finding(page(FIRST), Disagreement::Frame { at: second.at, expected: Some(first.at) })]);
    let found = found_with_leaf(&board, &[&space], FIRST, |leaf| Leaf { owner: Owner::Space, ..leaf });
    assert!(found.contains(&finding(page(FIRST), Disagreement::InheritedAndOwn(first.at))), "{found:?}");
    let is_named_too = |finding: &Finding| matches!(finding.what, Disagreement::TwoUses { at, .. } if at == first.at);
    assert!(found.iter().any(is_named_too), "{found:?}");
    drop(snapshot);
}

/// Half-way through a snapshot in steps, what is frozen lies in areas that are private still.
#[test]
fn looks_at_a_space_in_the_middle_of_a_snapshot() {
    let (board, space) = populated();
    let mut snapshotting = space.snapshot_in_steps().unwrap();
    let mut is_half = false;
    while !is_half {
        let _ = snapshotting.step(2).unwrap();
        let report = audit([&*space], Meanwhile::Nothing).unwrap();
        assert!(report.is_clean(), "{report}");
        let owners = [FIRST, FIRST + 3 * PAGE].map(|at| leaf(&board, &space, at).owner);
        is_half = owners == [Owner::Frozen, Owner::Space];
    }
    let second = leaf(&board, &space, FIRST + PAGE).at;
    let found = found_with_leaf(&board, &[&space], FIRST, |leaf| Leaf { at: second, ..leaf });
    assert!(matches!(found[..], [Finding { what: Disagreement::Frame { .. }, .. }]), "{found:?}");
    drop(snapshotting);
}

#[test]
fn finds_memory_on_loan_that_is_in_no_loan_and_the_other_way_round() {
    let (board, lender) = populated();
    let borrower = board.space();
    let found = found_with_leaf(&board, &[&lender], FIRST, |leaf| Leaf { owner: Owner::OnLoan, ..leaf });
    assert_eq!(found, [finding(page(FIRST), Disagreement::NoLoan)]);
    let on_loan = Leaf { owner: Owner::OnLoan, ..leaf(&board, &lender, FIRST) };
    let lent = Toy.mark(Level::PAGE, Toy.leaf(Level::PAGE, &on_loan));
    let found = found_with(&board, &[&lender], (Level::PAGE, FIRST), lent);
    assert_eq!(found, [finding(page(FIRST), Disagreement::NoLoan)]);
    let both = range(FIRST, 2 * PAGE);
    let not_marked = |found| finding(both, Disagreement::NotOnLoan { size: 2 * PAGE, found });
    let shared = lender.share(both, &borrower, gpa(LARGE), RW).unwrap();
    let found = found_with_leaf(&board, &[&lender, &borrower], FIRST, |leaf| Leaf { owner: Owner::Space, ..leaf });
    assert_eq!(found, [not_marked(PAGE)]);
    // It is lent where the loan says that it is shared.
    let found = found_with(&board, &[&lender, &borrower], (Level::PAGE, FIRST), lent);
    assert_eq!(found, [finding(page(FIRST), Disagreement::NoLoan), not_marked(PAGE)]);
    lender.reclaim(&shared, &borrower, Handover::Keep).unwrap();
}

#[test]
fn finds_borrowed_memory_that_is_not_the_loans() {
    let (board, lender) = populated();
    let borrower = board.space();
    let loan = lender.lend(range(FIRST, 2 * PAGE), &borrower, gpa(LARGE), RW).unwrap();
    let (first, second) = (leaf(&board, &borrower, LARGE).at, leaf(&board, &borrower, LARGE + PAGE).at);
    for spaces in [&[&borrower, &lender][..], &[&borrower]] {
        let found = found_with_leaf(&board, spaces, LARGE, |leaf| Leaf { at: second, ..leaf });
        assert_eq!(found, [finding(page(LARGE), Disagreement::Frame { at: second, expected: Some(first) })]);
        let found = found_with(&board, spaces, (Level::PAGE, LARGE), Toy.absent());
        assert_eq!(found, [finding(range(LARGE, 2 * PAGE), Disagreement::NotMapped { missing: PAGE })]);
    }
    // What the lender left is as good as any frame of another's.
    drop(lender);
    let other = board.space();
    other.map(page(0), PAGES, RW).unwrap();
    let found = found_with_leaf(&board, &[&other, &borrower], 0, |leaf| Leaf { at: first, ..leaf });
    assert!(matches!(found[..], [Finding { what: Disagreement::TwoUses { .. }, .. }]), "{found:?}");
    drop(loan);
}

/// The same fault everywhere is told so often, and counted.
#[test]
fn tells_the_first_findings_and_counts_the_others() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 128 * PAGE), PAGES, RW).unwrap();
    let entries = || (0..70).map(|index| (index, entry(&board, &space, Level::PAGE, index * PAGE)));
    let words: Vec<u64> = entries().map(|(_, entry)| entry.load(Ordering::Relaxed)).collect();
    for (index, entry) in entries() {
        let more = Leaf { flags: RWX, ..leaf(&board, &space, index * PAGE) };
        entry.store(Toy.leaf(Level::PAGE, &more), Ordering::Relaxed);
    }
    let report = audit([&*space], Meanwhile::Nothing).unwrap();
    assert_eq!(report.findings().len(), 64);
    let text = report.to_string();
    assert_eq!((text.lines().count(), text.lines().last()), (65, Some("and 6 more")));
    entries().zip(words).for_each(|((_, entry), word)| entry.store(word, Ordering::Relaxed));
}

#[test]
fn looks_once_at_a_space_that_is_given_twice() {
    let (board, space) = populated();
    let other = board.space();
    let report = audit([&*other, &*space, &*space, &*other], Meanwhile::Nothing).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(audit::<Machine, stage2::lock::Spin>([], Meanwhile::Nothing).unwrap().is_clean());
    let entry = entry(&board, &space, Level::PAGE, 0);
    let before = entry.swap(Toy.busy(), Ordering::Relaxed);
    let report = audit([&*other, &*space, &*space], Meanwhile::Nothing).unwrap();
    entry.store(before, Ordering::Relaxed);
    assert_eq!(report.findings(), [Finding { space: 1, range: page(0), what: Disagreement::Unfinished }]);
}

/// Two audits of the same spaces, each given the other way round, do not wait for each other.
#[test]
fn locks_in_one_order_whatever_the_order_that_it_is_given() {
    let board = Board::new();
    let (one, other) = (board.space(), board.space());
    std::thread::scope(|scope| {
        for pair in [[&*one, &*other], [&*other, &*one]] {
            scope.spawn(move || {
                for _ in 0..2000 {
                    assert!(audit(pair, Meanwhile::Nothing).unwrap().is_clean());
                }
            });
        }
    });
}
