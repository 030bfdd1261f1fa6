//! An architecture whose pages are larger than the allocator's frames: the toy's entries, for pages of 16 KiB.

use stage2::{
    Config, Limits, Platform,
    format::{Change, Denials, Fields, Inexpressible, Leaf},
    loan::Handover,
    space::Progress,
};

use super::*;

/// A page, and how many frames it takes.
const WIDE: usize = 4 * PAGE;
const FRAMES: usize = 4;

#[derive(Clone, Debug)]
struct Wide;

impl Format for Wide {
    const PAGE_SHIFT: u32 = 14;
    const INDEX_BITS: u32 = Toy::INDEX_BITS;

    type Root = u64;

    fn root_shape(&self) -> (Level, u32) {
        Toy.root_shape()
    }

    fn root(&self, table: PhysAddr) -> u64 {
        Toy.root(table)
    }

    fn output_bits(&self) -> u32 {
        Toy.output_bits()
    }

    fn maps(&self, level: Level) -> bool {
        Toy.maps(level)
    }

    fn check(&self, flags: MappingFlags) -> Result<(), Inexpressible> {
        Toy.check(flags)
    }

    fn absent(&self) -> u64 {
        Toy.absent()
    }

    fn table(&self, at: PhysAddr) -> u64 {
        Toy.table(at)
    }

    fn leaf(&self, level: Level, leaf: &Leaf) -> u64 {
        Toy.leaf(level, leaf)
    }

    fn mark(&self, level: Level, entry: u64) -> u64 {
        Toy.mark(level, entry)
    }

    fn busy(&self) -> u64 {
        Toy.busy()
    }

    fn decode(&self, level: Level, entry: u64) -> Entry {
        Toy.decode(level, entry)
    }

    fn fields(&self, level: Level) -> Fields {
        Toy.fields(level)
    }

    fn with_flags(&self, level: Level, entry: u64, flags: MappingFlags) -> u64 {
        Toy.with_flags(level, entry, flags)
    }

    fn touched(&self, level: Level, entry: u64, access: Access) -> u64 {
        Toy.touched(level, entry, access)
    }

    fn change(&self, level: Level, old: u64, new: u64) -> Change {
        Toy.change(level, old, new)
    }

    fn denials(&self) -> Denials {
        Toy.denials()
    }
}

struct WideMachine;

impl Platform for WideMachine {
    type Format = Wide;
    type Frames = Board;
    type Invalidate = Board;
}

fn space(board: &Board) -> GuestSpace<WideMachine> {
    let limits = Limits::default();
    GuestSpace::new(Config { format: Wide, frames: board.clone(), invalidate: board.clone(), cpus: 4, limits }).unwrap()
}

/// What an orphaned loan frees goes back as it came: an allocator that takes no pieces was given four for each page.
#[test]
fn pages_that_a_lender_left_behind_are_freed_as_they_were_allocated() {
    for (pieces, mapping) in [(Pieces::Whole, PAGES), (Pieces::Any, BLOCKS)] {
        let board = Board::with(Reach::Everywhere, pieces);
        let (lender, borrower) = (space(&board), space(&board));
        lender.map(range(0, 32 * WIDE), mapping, RW).unwrap();
        lender.store(gpa(2 * WIDE - 8), 7_u64).unwrap();
        let loan = lender.lend(range(0, 3 * WIDE), &borrower, gpa(LARGE), RW).unwrap();
        let pages: Vec<_> = (0..3).map(|page| borrower.translate(gpa(LARGE + page * WIDE)).unwrap().hpa).collect();
        drop((loan, lender));
        assert_eq!(borrower.load(gpa(LARGE + 2 * WIDE - 8)), Ok(7_u64));
        board.events();
        // A step is as many frames as it says, and a page at least.
        let mut unmapping = borrower.unmap_in_steps(range(LARGE, 3 * WIDE)).unwrap();
        while unmapping.step(1) == Progress::More {}
        drop(unmapping);
        let freed = board.events().into_iter().filter_map(|event| match event {
            Event::Freed(at, count) if pages.contains(&at) => Some((at, count)),
            _ => None,
        });
        let mut freed: Vec<_> = freed.collect();
        freed.sort_unstable();
        let mut whole: Vec<_> = pages.iter().map(|&at| (at, FRAMES)).collect();
        whole.sort_unstable();
        assert_eq!(freed, whole, "{pieces:?}");
        drop(borrower);
        assert_eq!(board.allocated(), 0);
    }
}

/// Everyday life on such pages, once.
#[test]
fn pages_are_populated_copied_and_freed_whole() {
    let board = Board::with(Reach::Everywhere, Pieces::Whole);
    let space = space(&board);
    space.map(range(0, 8 * WIDE), LAZY, RW).unwrap();
    space.write(gpa(WIDE - 2), b"over").unwrap();
    assert_eq!((space.usage().frames, space.read_obj::<[u8; 4]>(gpa(WIDE - 2))), (2 * FRAMES, Ok(*b"over")));
    assert_eq!(space.relocate(range(0, 8 * WIDE)), Ok(2 * FRAMES));
    space.protect(range(0, WIDE), READ).unwrap();
    assert_eq!(space.read_obj::<[u8; 4]>(gpa(WIDE - 2)), Ok(*b"over"));
    let taker = self::space(&board);
    space.donate(range(WIDE, WIDE), &taker, gpa(0), RW, Handover::Zero).unwrap();
    assert_eq!((taker.usage().frames, taker.load(gpa(0))), (FRAMES, Ok(0_u16)));
    space.unmap(range(0, WIDE)).unwrap();
    assert_eq!(space.usage().frames, 0);
    drop((space, taker));
    assert_eq!(board.allocated(), 0);
}
