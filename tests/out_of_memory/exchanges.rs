//! What one space gives another, and what becomes a region's.

use stage2::loan::Handover;

use super::*;

/// A block that became a region's.
fn shared_blocks<F: Format>(space: &Space<F>) {
    two_blocks(space);
    drop(space.make_shared(range(RAM, 2 * BLOCK)).expect("memory"));
}

/// Blocks and pages of which one was touched, in areas and tables of their own.
fn sparse<F: Format>(space: &Space<F>) {
    space.map(range(RAM, BLOCK), LAZY_BLOCKS, RW).expect("memory");
    space.map(range(RAM + BLOCK, 2 * PAGE), LAZY, RW).expect("memory");
    space.map(range(RAM + BLOCK + 2 * PAGE, 2 * PAGE), PAGES, RW).expect("memory");
}

/// What of it is given.
fn of_sparse() -> GuestPhysRange {
    range(RAM + BLOCK - PAGE, 4 * PAGE)
}

/// A region that a handle wrote and the guest has not touched.
fn written_elsewhere<F: Format>(space: &Space<F>) {
    let region = space.region(4 * PAGE).expect("memory");
    let writer = region.writer().expect("it is not frozen");
    for page in [0, 3] {
        writer.write_obj(page * PAGE, 5_u64).expect("memory");
    }
    drop(writer);
    space.map(range(RAM, 4 * PAGE), Mapping::Shared { region, offset: 0 }, RW).expect("memory");
}

/// Where the other space gets it.
const THERE: usize = 3 * RAM;

/// An operation between two spaces, and what comes before it.
pub(super) struct Exchange<F: Format> {
    name: &'static str,
    prepare: fn(&Space<F>, &Space<F>),
    operation: fn(&Space<F>, &Space<F>) -> Result<(), Error>,
}

/// Lets every allocation of an operation between two spaces fail in turn: both are as they were.
pub(super) fn starve_both<F: Format>(format: &F, exchange: &Exchange<F>) {
    let Exchange { name, prepare, operation } = exchange;
    let mut failures = 0;
    for kind in [Luck::From, Luck::Once] {
        for left in 0.. {
            assert!(left < ENOUGH, "{name} allocates without end");
            let memory = Memory::new(0, 64 << 20);
            let (one, other) = (space(&memory, format).expect("memory"), space(&memory, format).expect("memory"));
            prepare(&one, &other);
            let pictures = || {
                let loans = one.loans().expect("memory");
                let held: Vec<usize> = loans.iter().map(stage2::loan::Loan::borrowed).collect();
                (picture(&one, &memory), picture(&other, &memory), held, one.usage(), other.usage())
            };
            let before = pictures();
            let (result, allocations) = with(kind(left), || operation(&one, &other));
            judge::agree(name, &[&one, &other]);
            match result {
                Ok(()) => {}
                Err(Error::NoMemory(_)) => {
                    failures += 1;
                    assert_eq!(pictures(), before, "{name}");
                    assert_eq!(operation(&one, &other), Ok(()), "{name}, when there is memory again");
                }
                Err(unexpected) => panic!("{name}: {unexpected}"),
            }
            drop((one, other));
            assert_eq!(memory.allocated(), 0, "{name}: frames are lost");
            if allocations <= left {
                break;
            }
        }
    }
    assert!(failures > 0, "{name} allocates nothing");
}

/// Loans that come back in parts, and pages that are on loan twice.
fn parts_of_loans<F: Format>() -> Vec<Exchange<F>> {
    let exchange = |name, prepare, operation| Exchange { name, prepare, operation };
    vec![
        exchange(
            "reclaim a middle of blocks",
            |one, other| {
                two_blocks(one);
                one.lend(range(RAM, 2 * BLOCK), other, THERE.into(), RW).expect("memory");
            },
            |one, other| {
                let loan = one.loans()?.remove(0);
                one.reclaim_part(&loan, range(RAM + BLOCK - PAGE, 2 * PAGE), other, Handover::Zero)
            },
        ),
        exchange(
            "reclaim a middle of shared blocks into a crowd",
            |one, other| {
                two_blocks(one);
                crowd(other);
                one.share(range(RAM, 2 * BLOCK), other, THERE.into(), RW).expect("memory");
            },
            |one, other| {
                let loan = one.loans()?.remove(0);
                one.reclaim_part(&loan, range(RAM + PAGE, PAGE), other, Handover::Keep)
            },
        ),
        exchange(
            "reclaim a part that was returned",
            |one, other| {
                two_blocks(one);
                one.lend(range(RAM, 2 * BLOCK), other, THERE.into(), RW).expect("memory");
                other.unmap(range(THERE, 2 * BLOCK)).expect("memory");
            },
            |one, _| {
                let loan = one.loans()?.remove(0);
                one.reclaim_returned_part(&loan, range(RAM + PAGE, BLOCK), Handover::Keep)
            },
        ),
        exchange(
            "share what is shared in part",
            |one, other| {
                three_pages(one);
                one.share(range(RAM + PAGE, PAGE), other, (2 * THERE).into(), RW).expect("memory");
            },
            |one, other| one.share(range(RAM, 3 * PAGE), other, THERE.into(), RW).map(drop),
        ),
    ]
}

/// All operations between two spaces.
pub(super) fn exchanges<F: Format>() -> Vec<Exchange<F>> {
    let exchange = |name, prepare, operation| Exchange { name, prepare, operation };
    let mut all = vec![
        exchange(
            "share pages",
            |one, _| three_pages(one),
            |one, other| one.share(range(RAM, 2 * PAGE), other, THERE.into(), RW).map(drop),
        ),
        exchange(
            "lend a middle",
            |one, _| two_blocks(one),
            |one, other| one.lend(range(RAM + PAGE, BLOCK), other, THERE.into(), RW).map(drop),
        ),
        exchange(
            "lend into a crowd",
            |one, other| {
                three_pages(one);
                crowd(other);
            },
            |one, other| one.lend(range(RAM, PAGE), other, PAGE.into(), RW).map(drop),
        ),
        exchange(
            "reclaim what was returned in part",
            |one, other| {
                three_pages(one);
                one.lend(range(RAM, 3 * PAGE), other, THERE.into(), RW).expect("memory");
                other.unmap(range(THERE + PAGE, PAGE)).expect("memory");
            },
            |one, other| {
                let loan = one.loans()?.remove(0);
                one.reclaim(&loan, other, Handover::Zero)
            },
        ),
        exchange(
            "donate a middle",
            |one, _| two_blocks(one),
            |one, other| one.donate(range(RAM + PAGE, BLOCK), other, THERE.into(), RW, Handover::Zero),
        ),
        exchange(
            "share what is untouched",
            |one, _| sparse(one),
            |one, other| one.share(of_sparse(), other, THERE.into(), RW).map(drop),
        ),
        exchange(
            "lend what is untouched",
            |one, _| sparse(one),
            |one, other| one.lend(of_sparse(), other, THERE.into(), RW).map(drop),
        ),
        exchange(
            "donate what is untouched",
            |one, _| sparse(one),
            |one, other| one.donate(of_sparse(), other, THERE.into(), RW, Handover::Keep),
        ),
        exchange(
            "donate out of a crowd into a crowd",
            |one, other| {
                crowd(one);
                one.write_obj((4 * PAGE).into(), 7_u64).expect("memory");
                crowd(other);
            },
            |one, other| one.donate(range(4 * PAGE, PAGE), other, PAGE.into(), RW, Handover::Keep),
        ),
    ];
    all.extend(parts_of_loans());
    all
}

/// Conversions, within one space.
pub(super) fn conversions<F: Format>() -> Vec<Case<F>> {
    let case = |name, prepare, operation, keeps| Case { name, prepare, operation, keeps };
    vec![
        case("make shared", three_pages, |s| s.make_shared(range(RAM, 2 * PAGE)).map(drop), Keeps::Everything),
        case(
            "make a middle shared",
            two_blocks,
            |s| s.make_shared(range(RAM + PAGE, BLOCK)).map(drop),
            Keeps::Everything,
        ),
        case(
            "make private",
            shared_blocks,
            |s| s.make_private(range(RAM + PAGE, 2 * PAGE), Handover::Keep),
            Keeps::Everything,
        ),
        case(
            "make private what the guest has not touched",
            written_elsewhere,
            |s| s.make_private(range(RAM, 4 * PAGE), Handover::Keep),
            Keeps::Everything,
        ),
    ]
}
