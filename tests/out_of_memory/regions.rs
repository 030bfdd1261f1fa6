//! Operations on regions, on what is inherited, and on snapshots.

use super::*;

fn region<F: Format>(space: &Space<F>) -> Result<SharedRegion, Error> {
    space.region(4 * PAGE).map_err(|_| Error::NoMemory(range(RAM, 4 * PAGE)))
}

/// Four pages of a region, unless it was mapped by an earlier try that then failed.
fn share<F: Format>(space: &Space<F>) -> Result<(), Error> {
    space.map(range(RAM, 4 * PAGE), Mapping::Shared { region: region(space)?, offset: 0 }, RW)
}

/// The same as two areas: of one, an edit needs no memory to name its leave to write.
fn share_as_two<F: Format>(space: &Space<F>) -> Result<(), Error> {
    share(space)?;
    space.protect(range(RAM, PAGE), RW | MappingFlags::EXECUTE)
}

/// One of them.
fn share_at<F: Format>(space: &Space<F>, at: usize) -> Result<(), Error> {
    space.map(range(at, PAGE), Mapping::Shared { region: region(space)?, offset: PAGE }, RW)
}

/// A region in a block, which is mapped.
fn share_a_block<F: Format>(space: &Space<F>) -> Result<(), Error> {
    let no_memory = |_| Error::NoMemory(range(RAM, BLOCK));
    let region = space.region(BLOCK).map_err(no_memory)?;
    region.populate(0, BLOCK, LeafPolicy::Largest).map_err(no_memory)?;
    space.map(range(RAM, BLOCK), Mapping::Shared { region, offset: 0 }, RW)
}

/// Four pages of a frozen region, the first of which was written.
pub fn inherit<F: Format>(space: &Space<F>) -> Result<(), Error> {
    space.map(range(RAM, 4 * PAGE), frozen(space)?, RW)
}

/// The same where something is.
fn inherit_in_place<F: Format>(space: &Space<F>) -> Result<(), Error> {
    space.replace(range(RAM + 3 * PAGE, 4 * PAGE), frozen(space)?, RW)
}

fn frozen<F: Format>(space: &Space<F>) -> Result<Mapping, Error> {
    let region = region(space)?;
    let writer = region.writer().expect("it is fresh");
    writer.write_obj(0, 5_u64).map_err(|_| Error::NoMemory(range(RAM, PAGE)))?;
    drop(writer);
    region.freeze().expect("no handle or mapping writes it");
    Ok(Mapping::CopyOnWrite { region, offset: 0 })
}

fn snapshot_in_steps<F: Format>(space: &Space<F>) -> Result<(), Error> {
    let mut taking = space.snapshot_in_steps()?;
    while taking.step(1)? == Progress::More {}
    taking.finish().map(drop)
}

/// Two blocks of a snapshot that is gone: the space alone has what is in it.
fn frozen_blocks<F: Format>(space: &Space<F>) {
    two_blocks(space);
    drop(space.snapshot().expect("memory"));
}

fn read<F: Format>(space: &Space<F>, at: usize) -> Result<(), Error> {
    space.read_obj::<u64>(at.into()).map(drop)
}

/// The page comes out of the block, and is the guest's own the next time.
fn write_twice<F: Format>(space: &Space<F>) -> Result<(), Error> {
    fault(space, RAM + PAGE, Access::Write).and_then(|()| fault(space, RAM + PAGE, Access::Write))
}

/// Those on regions, on what is inherited, and on snapshots.
pub(super) fn region_cases<F: Format>() -> Vec<Case<F>> {
    let case = |name, prepare, operation, keeps| Case { name, prepare, operation, keeps };
    let nothing: fn(&Space<F>) = |_| {};
    vec![
        case("make a region", nothing, |s| region(s).map(drop), Keeps::Everything),
        case("map a region", nothing, |s| share(s), Keeps::Everything),
        case("map a region into a crowd", crowd, |s| share_at(s, PAGE), Keeps::Everything),
        case("fault on a region", |s| share(s).expect("memory"), |s| fault(s, RAM, Access::Read), Keeps::Contents),
        case("write a region", |s| share(s).expect("memory"), |s| s.write_obj(RAM.into(), 1_u64), Keeps::Contents),
        case(
            "protect two areas of a region",
            |s| share_as_two(s).expect("memory"),
            |s| s.protect(range(RAM, 2 * PAGE), READ),
            Keeps::Contents,
        ),
        case(
            "unmap two areas of a region",
            |s| share_as_two(s).expect("memory"),
            |s| s.unmap(range(RAM, 2 * PAGE)),
            Keeps::Everything,
        ),
        case("map copy-on-write", nothing, |s| inherit(s), Keeps::Everything),
        case(
            "fault on a page to copy",
            |s| inherit(s).and_then(|()| fault(s, RAM, Access::Read)).expect("memory"),
            |s| fault(s, RAM, Access::Write),
            Keeps::Contents,
        ),
        case("copy an untouched page", |s| inherit(s).expect("memory"), |s| s.store(RAM.into(), 1_u8), Keeps::Contents),
        case("snapshot", three_pages, |s| s.snapshot().map(drop), Keeps::Everything),
        case("snapshot blocks", two_blocks, |s| s.snapshot().map(drop), Keeps::Everything),
        case(
            "snapshot of a fork",
            |s| inherit(s).and_then(|()| s.write_obj(RAM.into(), 7_u64)).expect("memory"),
            |s| s.snapshot().map(drop),
            Keeps::Everything,
        ),
        case("snapshot in steps", three_pages, snapshot_in_steps, Keeps::Everything),
        case("snapshot blocks in steps", two_blocks, snapshot_in_steps, Keeps::Everything),
        case(
            "unmap in steps",
            two_blocks,
            |s| {
                let mut unmapping = s.unmap_in_steps(range(RAM + PAGE, BLOCK))?;
                while unmapping.step(7) == Progress::More {}
                Ok(())
            },
            Keeps::Everything,
        ),
        case(
            "protect two areas of a region for writing",
            |s| share_as_two(s).and_then(|()| s.protect(range(RAM + PAGE, 3 * PAGE), READ)).expect("memory"),
            |s| s.protect(range(RAM, 3 * PAGE), RW),
            Keeps::Everything,
        ),
        case("read a page to copy", |s| inherit(s).expect("memory"), |s| read(s, RAM + PAGE), Keeps::Contents),
        case(
            "discard what was inherited",
            |s| inherit(s).and_then(|()| s.protect(range(RAM, PAGE), READ)).expect("memory"),
            |s| s.discard(range(RAM, 3 * PAGE), Refill::Source),
            Keeps::Everything,
        ),
        case(
            "replace a part by a region",
            two_blocks,
            |s| s.replace(range(RAM + PAGE, 4 * PAGE), Mapping::Shared { region: region(s)?, offset: 0 }, RW),
            Keeps::Everything,
        ),
        case("replace frozen blocks by what is inherited", frozen_blocks, inherit_in_place, Keeps::Everything),
        case(
            "take a page",
            |s| {
                three_pages(s);
                drop(s.snapshot().expect("memory"));
            },
            |s| fault(s, RAM, Access::Write),
            Keeps::Everything,
        ),
        case(
            "relocate copies",
            |s| inherit(s).and_then(|()| s.write(RAM.into(), &[1; 2 * PAGE])).expect("memory"),
            |s| s.relocate(range(RAM, 4 * PAGE)).map(drop),
            Keeps::Contents,
        ),
    ]
}

/// Those on blocks that others may reach, or could.
pub(super) fn block_cases<F: Format>() -> Vec<Case<F>> {
    let case = |name, prepare, operation, keeps| Case { name, prepare, operation, keeps };
    let nothing: fn(&Space<F>) = |_| {};
    vec![
        case("populate a region in a block and map it", nothing, share_a_block, Keeps::Everything),
        case(
            "fault on a block of a region",
            |s| share_a_block(s).expect("memory"),
            |s| fault(s, RAM + PAGE, Access::Write),
            Keeps::Contents,
        ),
        case(
            "unmap a middle of a region's block",
            |s| share_a_block(s).and_then(|()| s.write_obj(RAM.into(), 7_u64)).expect("memory"),
            |s| s.unmap(range(RAM + PAGE, PAGE)),
            Keeps::Everything,
        ),
        case("copy out of a block", frozen_blocks, |s| s.write_obj((RAM + PAGE).into(), 1_u64), Keeps::Readings),
        case("a guest copies out of a block", frozen_blocks, write_twice, Keeps::Readings),
        case(
            "unmap a middle of frozen blocks",
            frozen_blocks,
            |s| s.unmap(range(RAM + PAGE, BLOCK)),
            Keeps::Everything,
        ),
        case(
            "discard a middle of frozen blocks",
            frozen_blocks,
            |s| s.discard(range(RAM + PAGE, BLOCK), Refill::Zeros),
            Keeps::Everything,
        ),
    ]
}
