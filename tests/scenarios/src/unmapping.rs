//! What is taken away is gone, all of it and nothing else.

use crate::prelude::*;

/// The plainest case, with everything cached.
///
/// # Errors
/// It does not hold.
pub fn unmapped_memory_is_gone_at_once<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    guest.map(range(RAM, 4 * PAGE), LAZY, RWX)?;
    for page in 0..4 {
        ensure_eq!(guest.stores(RAM + page * PAGE, 5)?, Value(5));
    }
    guest.unmap(range(RAM + PAGE, 2 * PAGE))?;
    for (page, came) in [(0, Value(5)), (1, NotMapped), (2, NotMapped), (3, Value(5))] {
        ensure_eq!(guest.loads(RAM + page * PAGE)?, came, "page {page}");
    }
    ensure_eq!(guest.stores(RAM + PAGE, 6)?, NotMapped);
    ensure_eq!(guest.calls(RAM + PAGE)?, NotMapped);
    ensure_eq!(guest.stats().owned_frames, 2);
    guest.unmap(range(RAM, 4 * PAGE))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// W2: a page of a block.
///
/// # Errors
/// It does not hold.
pub fn the_middle_of_a_block_goes_and_the_rest_stays<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * BLOCK), BLOCKS, RW)?;
    let hole = RAM + 37 * PAGE;
    let kept = [RAM, hole - 8, hole + PAGE, RAM + BLOCK - 8, RAM + BLOCK, RAM + 2 * BLOCK - 8];
    for at in kept {
        ensure_eq!(guest.stores(at, at as u64)?, Value(at as u64));
    }
    ensure_eq!(guest.stores(hole, 1)?, Value(1));
    let (frame, allocated, tables) = (guest.frame(RAM)?, machine.allocated(), guest.stats().table_frames);
    guest.unmap(range(hole, PAGE))?;
    for at in kept {
        ensure_eq!(guest.loads(at)?, Value(at as u64), "{at:#x}");
    }
    ensure_eq!(guest.loads(hole)?, NotMapped);
    ensure_eq!(guest.loads(hole + PAGE - 8)?, NotMapped);
    ensure_eq!(guest.frame(RAM)?, frame);
    ensure_eq!(guest.leaves()[..2], [511, 1]);
    let split = guest.stats().table_frames - tables;
    ensure_eq!(split, 1);
    ensure_eq!(machine.allocated() + 1, allocated + split);
    Ok(())
}

/// Both ends of a range cut a block; the blocks between go whole.
///
/// # Errors
/// It does not hold.
pub fn both_ends_may_cut_a_block<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 4 * BLOCK), BLOCKS, RW)?;
    let (start, end) = (RAM + BLOCK - PAGE, RAM + 3 * BLOCK + PAGE);
    for at in [start - 8, start, RAM + 2 * BLOCK, end - 8, end] {
        ensure_eq!(guest.stores(at, 1)?, Value(1));
    }
    guest.unmap(range(start, end - start))?;
    for (at, came) in
        [(start - 8, Value(1)), (start, NotMapped), (RAM + 2 * BLOCK, NotMapped), (end - 8, NotMapped), (end, Value(1))]
    {
        ensure_eq!(guest.loads(at)?, came, "{at:#x}");
    }
    ensure_eq!(guest.leaves()[..2], [511 * 2, 0]);
    Ok(())
}

/// A large block that is not the space's own splits twice, down to the page; where the CPU lacks it, once.
///
/// # Errors
/// It does not hold.
pub fn a_page_of_a_large_block_goes<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let page = machine.foreign().as_usize();
    let block = page & !(LARGE - 1);
    guest.map(range(4 * LARGE, LARGE), linear(block), RW)?;
    let at = 4 * LARGE + (page - block);
    ensure_eq!(guest.stores(at, 4)?, Value(4));
    let allocated = machine.allocated();
    guest.unmap(range(4 * LARGE + 5 * BLOCK, PAGE))?;
    ensure_eq!(machine.allocated(), allocated + if machine.largest_leaf() == LARGE { 2 } else { 1 });
    ensure_eq!(guest.loads(at)?, Value(4));
    ensure_eq!(guest.loads(4 * LARGE + 5 * BLOCK)?, NotMapped);
    ensure_eq!(guest.leaves()[1..3], [511, 0]);
    guest.unmap(range(at, PAGE))?;
    ensure_eq!(guest.loads(at)?, NotMapped);
    Ok(())
}

/// W3: a range that starts in a hole, ends in a hole and spans areas of several kinds.
///
/// # Errors
/// It does not hold.
pub fn a_range_may_span_areas_and_holes<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    guest.map(range(RAM + PAGE, 2 * PAGE), PAGES, RW)?;
    guest.map(range(RAM + 3 * PAGE, PAGE), linear(machine.foreign().as_usize()), RW)?;
    guest.map(range(RAM + 6 * PAGE, 2 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, READ)?;
    for at in [RAM + PAGE, RAM + 3 * PAGE, RAM + 6 * PAGE, RAM + BLOCK] {
        ensure!(matches!(guest.loads(at)?, Value(_)), "{at:#x}");
    }
    guest.unmap(range(RAM, BLOCK + PAGE))?;
    for page in 0..9 {
        ensure_eq!(guest.loads(RAM + page * PAGE)?, NotMapped, "page {page}");
    }
    ensure_eq!(guest.loads(RAM + BLOCK)?, NotMapped);
    ensure_eq!(guest.loads(RAM + BLOCK + PAGE)?, Value(0));
    ensure_eq!(guest.areas()?.iter().filter(|area| area.range.start >= gpa(RAM)).count(), 1);
    // In a table that stays.
    for page in [0, 4] {
        guest.map(range(RAM + page * PAGE, PAGE), PAGES, RW)?;
        ensure_eq!(guest.stores(RAM + page * PAGE, 1)?, Value(1));
    }
    guest.unmap(range(RAM + 2 * PAGE, 3 * PAGE))?;
    ensure_eq!(guest.loads(RAM + 4 * PAGE)?, NotMapped);
    ensure_eq!(guest.loads(RAM)?, Value(1));
    guest.unmap(range(RAM, 2 * BLOCK))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// W4: what was unmapped can be mapped again, and is new memory, page by page.
///
/// # Errors
/// It does not hold.
pub fn a_hole_is_mapped_anew<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
    ensure_eq!(guest.stores(RAM + PAGE, 8)?, Value(8));
    guest.unmap(range(RAM + PAGE, PAGE))?;
    guest.map(range(RAM + PAGE, PAGE), LAZY_BLOCKS, RW)?;
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(0));
    ensure_eq!(guest.leaf_size(RAM + PAGE)?, PAGE);
    ensure_eq!(guest.stores(RAM + PAGE, 9)?, Value(9));
    ensure_eq!(guest.loads(RAM)?, Value(0));
    ensure_eq!(guest.loads(RAM + 2 * PAGE)?, Value(0));
    Ok(())
}

/// W5: tables that became empty go, and a block takes their place.
///
/// # Errors
/// It does not hold.
pub fn empty_tables_go_and_a_block_takes_their_place<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (tables, allocated) = (guest.stats().table_frames, machine.allocated());
    guest.map(range(RAM, BLOCK), PAGES, RW)?;
    for page in [0, 100, 511] {
        ensure_eq!(guest.stores(RAM + page * PAGE, 1)?, Value(1));
    }
    ensure!(guest.stats().table_frames > tables);
    // In pieces: the last one empties the table.
    guest.unmap(range(RAM, 100 * PAGE))?;
    guest.unmap(range(RAM + 101 * PAGE, BLOCK - 101 * PAGE))?;
    ensure_eq!(guest.loads(RAM + 100 * PAGE)?, Value(1));
    guest.unmap(range(RAM + 100 * PAGE, PAGE))?;
    ensure_eq!(guest.stats().table_frames, tables);
    ensure_eq!(machine.allocated(), allocated);
    guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
    ensure_eq!(guest.leaf_size(RAM)?, BLOCK);
    for page in [0, 100, 511] {
        ensure_eq!(guest.loads(RAM + page * PAGE)?, Value(0));
    }
    Ok(())
}

/// A block goes, pages come: the other way round.
///
/// # Errors
/// It does not hold.
pub fn pages_take_the_place_of_a_block<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
    ensure_eq!(guest.stores(RAM + 5 * PAGE, 1)?, Value(1));
    guest.unmap(range(RAM, BLOCK))?;
    guest.map(range(RAM + 4 * PAGE, 2 * PAGE), PAGES, RW)?;
    ensure_eq!(guest.loads(RAM + 5 * PAGE)?, Value(0));
    ensure_eq!(guest.loads(RAM + 6 * PAGE)?, NotMapped);
    Ok(())
}

/// Many pages at once: more than single invalidations are made for.
///
/// # Errors
/// It does not hold.
pub fn a_long_range_goes_whole<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let pages = 3 * 512 + 17;
    guest.map(range(RAM, pages * PAGE), PAGES, RW)?;
    for page in (0..pages).step_by(61) {
        ensure_eq!(guest.stores(RAM + page * PAGE, 1)?, Value(1));
    }
    guest.unmap(range(RAM + PAGE, (pages - 2) * PAGE))?;
    for page in (0..pages).step_by(61).skip(1) {
        ensure_eq!(guest.loads(RAM + page * PAGE)?, NotMapped, "page {page}");
    }
    ensure_eq!(guest.loads(RAM)?, Value(1));
    ensure_eq!(guest.loads(RAM + (pages - 1) * PAGE)?, Value(0));
    ensure_eq!(guest.stats().owned_frames, 2);
    Ok(())
}
