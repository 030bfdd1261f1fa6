//! Blocks of regions, and of what is inherited.

use crate::prelude::*;

/// A region in so many blocks, and a view of all of it.
fn in_blocks<M: Machine>(guest: &Guest<'_, M>, count: usize) -> Result<(SharedRegion, Mapping), Stop> {
    let (region, mapping) = crate::shared::region(guest, count * BLOCK / PAGE)?;
    ensure_eq!(region.populate(0, count * BLOCK, LeafPolicy::Largest), Ok(()));
    Ok((region, mapping))
}

/// Two guests have a region's blocks as blocks; one unmaps a page, restricts another, and all lose a third.
///
/// # Errors
/// It does not hold.
pub fn guests_share_blocks_and_split_them_each_for_itself<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    let (region, mapping) = in_blocks(&one, 2)?;
    one.map(range(RAM, 2 * BLOCK), mapping.clone(), RW)?;
    two.map(range(RAM + 4 * BLOCK, 2 * BLOCK), mapping, RW)?;
    for number in 0..2 {
        let (at, there) = (RAM + number * BLOCK + 5 * PAGE, RAM + (4 + number) * BLOCK + 5 * PAGE);
        ensure_eq!(one.stores(at, number as u64 + 1)?, Value(number as u64 + 1));
        ensure_eq!(two.loads(there)?, Value(number as u64 + 1));
        ensure_eq!((one.leaf_size(at)?, two.leaf_size(there)?), (BLOCK, BLOCK));
    }
    one.unmap(range(RAM + 5 * PAGE, PAGE))?;
    one.protect(range(RAM + BLOCK + 5 * PAGE, PAGE), READ)?;
    ensure_eq!(one.loads(RAM + 5 * PAGE)?, NotMapped);
    ensure_eq!((one.stores(RAM + 6 * PAGE, 7)?, two.loads(RAM + 4 * BLOCK + 6 * PAGE)?), (Value(7), Value(7)));
    ensure_eq!((one.loads(RAM + BLOCK + 5 * PAGE)?, one.stores(RAM + BLOCK + 5 * PAGE, 3)?), (Value(2), Denied(READ)));
    ensure_eq!((two.loads(RAM + 4 * BLOCK + 5 * PAGE)?, two.leaf_size(RAM + 4 * BLOCK)?), (Value(1), BLOCK));
    ensure_eq!(region.discard(BLOCK + 9 * PAGE, PAGE, [&*one, &*two]), Ok(()));
    ensure_eq!(one.stores(RAM + BLOCK + 9 * PAGE, 8)?, Value(8));
    ensure_eq!((two.loads(RAM + 5 * BLOCK + 9 * PAGE)?, two.loads(RAM + 5 * BLOCK + 5 * PAGE)?), (Value(8), Value(2)));
    for guest in [&one, &two] {
        guest.unmap(range(RAM, 6 * BLOCK))?;
    }
    drop(region);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// A CPU that cached a block of a region's loses what one page of it no longer allows.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_loses_a_page_of_a_shared_block<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let (region, mapping) = in_blocks(&guest, 1)?;
    guest.map(range(RAM, BLOCK), mapping, RW)?;
    let other = guest.seat(1, 1);
    ensure_eq!((other.stores(RAM, 1)?, other.stores(RAM + PAGE, 2)?), (Value(1), Value(2)));
    guest.protect(range(RAM, PAGE), READ)?;
    ensure_eq!((other.stores(RAM, 3)?, other.loads(RAM)?), (Denied(READ), Value(1)));
    ensure_eq!(region.discard(PAGE, PAGE, [&*guest]), Ok(()));
    ensure_eq!((other.loads(RAM + PAGE)?, region.load::<u64>(0)), (Value(0), Ok(1)));
    guest.unmap(range(RAM + 2 * PAGE, PAGE))?;
    ensure_eq!(other.loads(RAM + 2 * PAGE)?, NotMapped);
    Ok(())
}

/// A guest that starts from a snapshot has its blocks until it writes; then one is split, and one page copied.
///
/// # Errors
/// It does not hold.
pub fn a_fork_has_blocks_until_it_writes_them<M: Machine>(machine: &M) -> Verdict {
    let (parent, child) = (Guest::new(machine)?, Guest::new(machine)?);
    parent.map(range(RAM, 3 * BLOCK), BLOCKS, RW)?;
    for number in 0..3 {
        ensure_eq!(parent.stores(RAM + number * BLOCK, number as u64)?, Value(number as u64));
    }
    let snapshot = parent.snapshot()?;
    child.restore(&snapshot)?;
    let sizes = |guest: &Guest<'_, M>| -> Result<_, Stop> {
        Ok((guest.leaf_size(RAM)?, guest.leaf_size(RAM + BLOCK)?, guest.leaf_size(RAM + 2 * BLOCK)?))
    };
    for number in 0..3 {
        ensure_eq!(child.loads(RAM + number * BLOCK)?, Value(number as u64));
    }
    ensure_eq!((sizes(&parent)?, sizes(&child)?), ((BLOCK, BLOCK, BLOCK), (BLOCK, BLOCK, BLOCK)));
    ensure_eq!(child.stores(RAM + BLOCK, 11)?, Value(11));
    ensure_eq!((sizes(&parent)?, sizes(&child)?), ((BLOCK, BLOCK, BLOCK), (BLOCK, PAGE, BLOCK)));
    ensure_eq!((child.stats().owned_frames, parent.loads(RAM + BLOCK)?), (1, Value(1)));
    ensure_eq!(parent.stores(RAM + BLOCK + PAGE, 12)?, Value(12));
    ensure_eq!((child.loads(RAM + BLOCK + PAGE)?, child.loads(RAM + BLOCK)?), (Value(0), Value(11)));
    ensure_eq!(sizes(&parent)?, (BLOCK, PAGE, BLOCK));
    Ok(())
}

/// A CPU that cached a block of what it inherits reads the copy that another CPU of the guest has made of a page.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_reads_the_copy_out_of_a_block<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let (parent, child) = (Guest::new(machine)?, Guest::new(machine)?);
    parent.map(range(RAM, BLOCK), BLOCKS, RW)?;
    ensure_eq!(parent.stores(RAM + PAGE, 1)?, Value(1));
    let snapshot = parent.snapshot()?;
    child.restore(&snapshot)?;
    let other = child.seat(1, 1);
    ensure_eq!((other.loads(RAM + PAGE)?, other.loads(RAM)?), (Value(1), Value(0)));
    ensure_eq!(child.stores(RAM + PAGE, 2)?, Value(2));
    ensure_eq!((other.loads(RAM + PAGE)?, other.stores(RAM + 2 * PAGE, 3)?), (Value(2), Value(3)));
    ensure_eq!((child.loads(RAM + 2 * PAGE)?, parent.loads(RAM + 2 * PAGE)?), (Value(3), Value(0)));
    ensure_eq!((snapshot.region().load::<u64>(PAGE), snapshot.region().load::<u64>(2 * PAGE)), (Ok(1), Ok(0)));
    Ok(())
}

/// Code is fetched from blocks that others have too, where the CPU may have it so.
///
/// # Errors
/// It does not hold.
pub fn shared_blocks_are_executed<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (region, mapping) = in_blocks(&guest, 1)?;
    let writer = region.writer().map_err(|error| Stop::failed(format_args!("{error}")))?;
    let code = [RAM + 0x40, RAM + 7 * PAGE];
    for (number, at) in code.into_iter().enumerate() {
        ensure_eq!(writer.write(at - RAM, &machine.code(number as u16 + 1)), Ok(()));
    }
    guest.map(range(RAM, BLOCK), mapping, RX)?;
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(0));
    ensure_eq!(guest.leaf_size(RAM)?, BLOCK);
    for (number, at) in code.into_iter().enumerate() {
        ensure_eq!(guest.calls(at)?, Value(number as u64 + 1));
    }
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(0));
    Ok(())
}
