//! What random stories are made of: operations, and their luck.

use super::*;

/// Where a guest's word is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spot {
    /// In this page.
    Page(usize),
    /// In one of the pages that are mapped, if any is, near where others begin or end.
    Mapped(usize),
}

/// One operation. Guests, handles and mapped pages are counted modulo those that there are.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// A guest begins.
    Begin,
    /// A guest ends.
    End(usize),
    Map(usize, Range<usize>, Populate, LeafPolicy, MappingFlags),
    /// Maps a region from its page on.
    Share(usize, Range<usize>, usize, usize, MappingFlags),
    /// The same copy-on-write, of a frozen one if there is one.
    Inherit(usize, Range<usize>, usize, usize, MappingFlags),
    Unmap(usize, Range<usize>, Pace),
    Protect(usize, Range<usize>, MappingFlags, Pace),
    Relocate(usize, Range<usize>),
    /// A guest loads a word, on a CPU.
    Load(usize, usize, (Spot, usize)),
    /// A guest stores a word, on a CPU.
    Store(usize, usize, (Spot, usize), u64),
    /// The hypervisor reads a word in a guest's place.
    Read(usize, (Spot, usize)),
    /// The hypervisor writes a word in a guest's place.
    Write(usize, (Spot, usize), u64),
    /// A region of so many pages, of a guest's allocator.
    Region(usize, usize),
    /// The same, of memory that comes from a source.
    Bring(usize, usize),
    /// A guest gets such memory for itself.
    MapFrom(usize, Range<usize>, MappingFlags),
    Clone(usize),
    Writer(usize),
    Drop(usize),
    Freeze(usize),
    /// The hypervisor writes a word of a region.
    Put(usize, (usize, usize), u64),
    /// The hypervisor reads a word of a region.
    Get(usize, (usize, usize)),
    Snapshot(usize, Pace),
    Restore(usize, usize),
    /// A guest shares so many pages with another, or lends them: from one that it may lend, to where there is room.
    Lend(LoanKind, usize, (usize, usize), usize, MappingFlags),
    /// A guest tries that with any pages, and with itself too.
    LendAny(LoanKind, usize, Range<usize>, usize, usize, MappingFlags),
    /// A lender takes a loan back, from its borrower or after that has returned it: every other loan a part at a time.
    Reclaim(usize, From, Handover),
    /// A loan's handle is lost.
    Lose(usize),
    /// A guest gives so many pages to another for good: from one that it may give, to where there is room.
    Donate(usize, (usize, usize), usize, MappingFlags, Handover),
    /// A guest's memory becomes a region's.
    MakeShared(usize, Range<usize>),
    /// A region that a guest has a page of loses its handles, and what the guest has of it becomes private.
    MakePrivate(usize, usize, Handover),
    /// A guest loses all it has, and is what a snapshot says.
    Rewind(usize, usize),
    /// A guest begins as a snapshot.
    Fork(usize),
    /// A guest may have so many frames and tables more than it has.
    Limit(usize, Option<usize>, Option<usize>),
}

/// Where a loan is taken back from: the space of its borrower, or no space, which needs all of it returned.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    Borrower,
    Returned,
}

/// At once, or in steps of so many frames or entries.
pub(super) type Pace = Option<usize>;

/// How many allocations succeed during an operation, if not all.
pub(super) type Luck = Option<usize>;

/// One operation and its luck.
#[derive(Clone)]
pub(super) struct Turn(pub(super) Op, pub(super) Luck);

/// One line, so that a failing story is easy to read.
impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(op, luck) = self;
        let limited = luck.map_or(String::new(), |count| format!(", with {count} allocations"));
        f.write_str(&format!("{op:?}{limited}"))
    }
}

/// A border between pages, near those of blocks.
fn border() -> impl Strategy<Value = usize> {
    (0..=2_usize, 0..=4_usize).prop_map(|(block, near)| (block * BLOCK + near).saturating_sub(2).min(PAGES))
}

fn page() -> impl Strategy<Value = usize> {
    border().prop_map(|border| border.min(PAGES - 1))
}

fn pages() -> impl Strategy<Value = Range<usize>> {
    let long = (border(), border()).prop_map(|(one, other)| one.min(other)..one.max(other).max(one.min(other) + 1));
    prop_oneof![1 => long, 2 => few()].prop_map(|pages| pages.start.min(PAGES - 1)..pages.end.min(PAGES))
}

/// So few that a region has them.
fn few() -> impl Strategy<Value = Range<usize>> {
    (page(), 1..5_usize).prop_map(|(start, pages)| start..(start + pages).min(PAGES))
}

/// A guest's page, and where in it a word is.
fn spot() -> impl Strategy<Value = (Spot, usize)> {
    let page = prop_oneof![1 => page().prop_map(Spot::Page), 6 => (0..24_usize).prop_map(Spot::Mapped)];
    (page, proptest::sample::select(&OFFSETS[..]))
}

/// A page, and where in it a word is.
fn word() -> impl Strategy<Value = (usize, usize)> {
    (page(), proptest::sample::select(&OFFSETS[..]))
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![2 => Just(None), 1 => (1..600_usize).prop_map(Some), 1 => (1..4_usize).prop_map(Some)]
}

fn flags() -> impl Strategy<Value = MappingFlags> {
    prop_oneof![3 => Just(RW), 1 => Just(READ)]
}

pub(super) fn ops() -> impl Strategy<Value = Op> {
    let (guest, handle, cpu) = (0..GUESTS, 0..12_usize, 0..2_usize);
    let populate = prop_oneof![2 => Just(Populate::Lazy), 1 => Just(Populate::Now)];
    let leaf = prop_oneof![Just(LeafPolicy::Pages), Just(LeafPolicy::Largest)];
    let view = || (0..GUESTS, few(), 0..12_usize, 0..6_usize, flags());
    let room = || prop_oneof![2 => Just(None), 2 => (0..4_usize).prop_map(Some), 1 => Just(Some(PLENTY))];
    let kind = prop_oneof![Just(LoanKind::Shared), Just(LoanKind::Lent)];
    let any = (kind.clone(), guest.clone(), few(), guest.clone(), page(), flags())
        .prop_map(|(a, b, c, d, e, f)| Op::LendAny(a, b, c, d, e, f));
    let lend = (kind, guest.clone(), (0..24_usize, 1..4_usize), page(), flags())
        .prop_map(|(a, b, c, d, e)| Op::Lend(a, b, c, d, e));
    let from = prop_oneof![2 => Just(From::Borrower), 1 => Just(From::Returned)];
    let handover = prop_oneof![Just(Handover::Keep), Just(Handover::Zero)];
    let donate = (guest.clone(), (0..24_usize, 1..4_usize), page(), flags(), handover.clone())
        .prop_map(|(a, b, c, d, e)| Op::Donate(a, b, c, d, e));
    let memory = prop_oneof![
        5 => (guest.clone(), pages(), populate, leaf, flags()).prop_map(|(a, b, c, d, e)| Op::Map(a, b, c, d, e)),
        4 => view().prop_map(|(a, b, c, d, e)| Op::Share(a, b, c, d, e)),
        3 => view().prop_map(|(a, b, c, d, e)| Op::Inherit(a, b, c, d, e)),
        3 => (guest.clone(), pages(), pace()).prop_map(|(a, b, c)| Op::Unmap(a, b, c)),
        2 => (guest.clone(), pages(), flags(), pace()).prop_map(|(a, b, c, d)| Op::Protect(a, b, c, d)),
        1 => (guest.clone(), pages()).prop_map(|(a, b)| Op::Relocate(a, b)),
        4 => (guest.clone(), pace()).prop_map(|(a, b)| Op::Snapshot(a, b)),
        2 => (guest.clone(), handle.clone()).prop_map(|(a, b)| Op::Restore(a, b)),
        2 => (guest.clone(), handle.clone()).prop_map(|(a, b)| Op::Rewind(a, b)),
        3 => handle.clone().prop_map(Op::Fork),
        6 => lend,
        1 => any,
        2 => (0..4_usize, from, handover.clone()).prop_map(|(a, b, c)| Op::Reclaim(a, b, c)),
        1 => (0..4_usize).prop_map(Op::Lose),
        4 => donate,
        3 => (guest.clone(), few()).prop_map(|(a, b)| Op::MakeShared(a, b)),
        3 => (guest.clone(), 0..8_usize, handover).prop_map(|(a, b, c)| Op::MakePrivate(a, b, c)),
        1 => (guest.clone(), room(), room()).prop_map(|(a, b, c)| Op::Limit(a, b, c)),
        3 => Just(Op::Begin),
        2 => guest.clone().prop_map(Op::End),
    ];
    let access = prop_oneof![
        2 => (guest.clone(), cpu.clone(), spot()).prop_map(|(a, b, c)| Op::Load(a, b, c)),
        5 => (guest.clone(), cpu, spot(), 0..9_u64).prop_map(|(a, b, c, d)| Op::Store(a, b, c, d)),
        1 => (guest.clone(), spot()).prop_map(|(a, b)| Op::Read(a, b)),
        1 => (guest.clone(), spot(), 0..9_u64).prop_map(|(a, b, c)| Op::Write(a, b, c)),
    ];
    let regions = prop_oneof![
        2 => (guest.clone(), 1..8_usize).prop_map(|(a, b)| Op::Region(a, b)),
        2 => (guest.clone(), 1..8_usize).prop_map(|(a, b)| Op::Bring(a, b)),
        2 => (guest, few(), flags()).prop_map(|(a, b, c)| Op::MapFrom(a, b, c)),
        1 => handle.clone().prop_map(Op::Clone),
        2 => handle.clone().prop_map(Op::Writer),
        5 => handle.clone().prop_map(Op::Drop),
        3 => handle.clone().prop_map(Op::Freeze),
        3 => (handle.clone(), word(), 1..9_u64).prop_map(|(a, b, c)| Op::Put(a, b, c)),
        1 => (handle, word()).prop_map(|(a, b)| Op::Get(a, b)),
    ];
    prop_oneof![5 => memory, 8 => access, 4 => regions]
}

pub(super) fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![5 => Just(None), 1 => (0..5_usize).prop_map(Some)]
}
