//! An operation whose allocations fail and whose charges are refused, one after the other, and what of the space must be
//! as before.

use super::*;

/// What an operation that failed leaves as it was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    /// Everything, and no frame more or less.
    Everything,
    /// All translations; tables that lead to the page may stay.
    Translations,
    /// What is mapped and what it holds; leaves before the one that failed have moved, or are populated.
    Contents,
    /// What is mapped, and what a read of each page shows; a page may have been taken out of its block.
    Readings,
}

/// An operation, what comes before it, and what its failure leaves.
pub(super) struct Case<F: Format> {
    pub(super) name: &'static str,
    pub(super) prepare: fn(&Space<F>),
    pub(super) operation: fn(&Space<F>) -> Result<(), Error>,
    pub(super) keeps: Keeps,
}

/// Everything that can be seen of a space.
#[derive(Debug, PartialEq)]
pub(super) struct Picture {
    areas: Vec<Area>,
    leaves: Vec<Translation>,
    owned: usize,
    /// The first word of each leaf.
    words: Vec<Option<u64>>,
    allocated: u64,
    usage: Usage,
}

pub(super) fn picture<F: Format>(space: &Space<F>, memory: &Memory) -> Picture {
    let mut leaves = Vec::new();
    space.walk(range(0, 1 << 32), |leaf| leaves.push(leaf)).expect("a walk");
    Picture {
        areas: space.areas().expect("areas"),
        words: leaves.iter().map(|leaf| memory.read(leaf.hpa.as_usize() as u64)).collect(),
        leaves,
        owned: space.stats().owned_frames,
        allocated: memory.allocated(),
        usage: space.usage(),
    }
}

/// The first word of each page that is mapped, as the hypervisor reads it.
fn readings<F: Format>(space: &Space<F>) -> Vec<u64> {
    let areas = space.areas().expect("areas").into_iter();
    let pages = areas.flat_map(|area| (area.range.start.as_usize()..area.range.end.as_usize()).step_by(PAGE));
    pages.map(|at| space.read_obj(at.into()).expect("memory")).collect()
}

/// Holds a picture after a failure against the one before the operation.
pub(super) fn compare(name: &str, keeps: Keeps, before: &Picture, after: &Picture) {
    assert_eq!(after.areas, before.areas, "{name}");
    match keeps {
        Keeps::Everything => assert_eq!(after, before, "{name}"),
        Keeps::Translations => {
            assert_eq!((&after.leaves, after.owned), (&before.leaves, before.owned), "{name}");
            assert!(after.allocated <= before.allocated + 4, "{name}: more than the tables of one path");
        }
        Keeps::Contents => {
            for (leaf, word) in before.leaves.iter().zip(&before.words) {
                let now = after.leaves.iter().position(|now| now.leaf_start == leaf.leaf_start).expect(name);
                assert_eq!((after.leaves[now].size, after.words[now]), (leaf.size, *word), "{name}");
            }
        }
        Keeps::Readings => {}
    }
}

/// What is left of an operation, whatever came of it, agrees in all its parts.
pub(super) fn agree<F: Format>(name: &str, spaces: &[&Space<F>]) {
    let report = audit(spaces.iter().copied(), Meanwhile::Nothing).expect("memory");
    assert!(report.is_clean(), "{name}: {report}");
}

/// Lets every allocation of an operation fail in turn, alone and with all behind it.
pub(super) fn starve<F: Format>(format: &F, case: &Case<F>) {
    let Case { name, prepare, operation, .. } = case;
    let mut failures = 0;
    for kind in [Luck::From, Luck::Once] {
        for left in 0.. {
            assert!(left < ENOUGH, "{name} allocates without end");
            let mut allocations = 0;
            failures += attempt(format, case, |space| {
                let (result, count) = with(kind(left), || operation(space));
                allocations = count;
                assert!(matches!(result, Ok(()) | Err(Error::NoMemory(_))), "{name}: {result:?}");
                result
            });
            if allocations <= left {
                break;
            }
        }
    }
    let allocates = |space: &Space<F>| {
        prepare(space);
        with(Luck::Good, || operation(space)).1 > 0
    };
    let memory = Memory::new(0, 64 << 20);
    assert!(failures > 0 && allocates(&space(&memory, format).expect("memory")), "{name} allocates nothing");
}

/// Lets every charge of an operation be refused in turn: the limits leave so much, and no more. How many were.
pub(super) fn limit<F: Format>(format: &F, case: &Case<F>) -> usize {
    let Case { name, operation, .. } = case;
    let mut refusals = 0;
    for what in [Resource::Frames, Resource::TableFrames, Resource::Areas] {
        for left in 0.. {
            assert!(left < ENOUGH, "{name} is charged without end");
            let refused = attempt(format, case, |space| {
                let usage = space.usage();
                let limits = match what {
                    Resource::Frames => Limits { frames: Some(usage.frames + left), ..Limits::default() },
                    Resource::TableFrames => {
                        Limits { table_frames: Some(usage.table_frames + left), ..Limits::default() }
                    }
                    Resource::Areas => Limits { areas: Some(usage.areas + left), ..Limits::default() },
                };
                space.set_limits(limits);
                let result = operation(space);
                let allowed = [limits.frames, limits.table_frames, limits.areas];
                match result {
                    Ok(()) => {}
                    Err(Error::Limit { what: named, limit, range }) => {
                        assert_eq!((named, allowed.contains(&Some(limit))), (what, true), "{name}");
                        assert!(!range.is_empty(), "{name}");
                    }
                    Err(other) => panic!("{name}: {other}"),
                }
                let now = space.usage();
                assert!(limits.frames.is_none_or(|limit| now.frames <= limit), "{name}: {now:?}");
                assert!(limits.table_frames.is_none_or(|limit| now.table_frames <= limit), "{name}: {now:?}");
                assert!(limits.areas.is_none_or(|limit| now.areas <= limit), "{name}: {now:?}");
                space.set_limits(Limits::default());
                result
            });
            refusals += refused;
            if refused == 0 {
                break;
            }
        }
    }
    refusals
}

/// Does an operation that may fail on a space of its own: it changes nothing then, is done when nothing is in its way any
/// more, and loses no frame. How often it failed.
fn attempt<F: Format>(format: &F, case: &Case<F>, operate: impl FnOnce(&Space<F>) -> Result<(), Error>) -> usize {
    let Case { name, prepare, operation, keeps } = case;
    let memory = Memory::new(0, 64 << 20);
    let space = space(&memory, format).expect("memory");
    let (empty, fresh) = (memory.allocated(), space.usage());
    prepare(&space);
    let before = picture(&space, &memory);
    let read = if *keeps == Keeps::Readings { readings(&space) } else { Vec::new() };
    let result = operate(&space);
    agree(name, &[&space]);
    if result.is_err() {
        compare(name, *keeps, &before, &picture(&space, &memory));
        if *keeps == Keeps::Readings {
            assert_eq!(readings(&space), read, "{name}");
        }
        assert_eq!(operation(&space), Ok(()), "{name}, when nothing is in its way any more");
    }
    for area in space.areas().expect("areas") {
        space.unmap(area.range).expect("everything can be unmapped");
    }
    assert_eq!((memory.allocated(), space.usage()), (empty, fresh), "{name}: frames are lost");
    drop(space);
    assert_eq!(memory.allocated(), 0, "{name}: frames are lost");
    usize::from(result.is_err())
}
