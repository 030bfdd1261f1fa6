//! What random stories are made of: operations, and their luck.

use super::*;

/// One operation.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Map(Range<usize>, What, MappingFlags),
    Unmap(Range<usize>),
    Protect(Range<usize>, MappingFlags),
    Relocate(Range<usize>),
    /// The guest itself, on a CPU, until it got there or was refused.
    Guest(usize, usize, Does),
    /// Any fault, whether it is justified or not.
    Fault(usize, Access, Cause, Origin),
    /// The hypervisor reads bytes from an address in the window on.
    Read(usize, usize),
    /// The hypervisor writes bytes.
    Write(usize, Vec<u8>),
    /// The hypervisor exchanges a word for another if it is zero.
    Exchange(usize, u64),
}

/// What is mapped.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Foreign memory, so many pages behind where a block would fit.
    Linear(usize),
    Device,
    Private(Populate, LeafPolicy),
}

/// What a guest does with a word.
#[derive(Clone, Copy, Debug)]
pub(super) enum Does {
    Read,
    Write(u64),
    Execute,
}

/// How it goes with allocations during an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Luck {
    Good,
    /// So many succeed, and no more.
    Bad(usize),
    /// One fails after so many.
    Once(usize),
}

/// A border between pages: most of them near those of blocks.
fn border() -> impl Strategy<Value = usize> {
    let near = (0..=3_usize, 0..=6_usize).prop_map(|(block, near)| (block * BLOCK + near).saturating_sub(3).min(PAGES));
    prop_oneof![4 => near, 1 => 0..=PAGES]
}

fn page() -> impl Strategy<Value = usize> {
    border().prop_map(|border| border.min(PAGES - 1))
}

fn pages() -> impl Strategy<Value = Range<usize>> {
    let long = (border(), border()).prop_map(|(one, other)| one.min(other)..one.max(other).max(one.min(other) + 1));
    let short = (page(), 1..5_usize).prop_map(|(start, pages)| start..start + pages);
    prop_oneof![1 => long, 1 => short].prop_map(|pages| pages.start.min(PAGES - 1)..pages.end.min(PAGES))
}

/// The address of a word, from the window's start on.
fn word() -> impl Strategy<Value = usize> {
    (page(), proptest::sample::select(&OFFSETS[..])).prop_map(|(page, offset)| page * PAGE + offset)
}

/// Bytes that reach into a second page at most: where, from the window's start on, and how many.
fn bytes() -> impl Strategy<Value = (usize, usize)> {
    (page(), 0..PAGE, 1..PAGE).prop_map(|(page, offset, len)| {
        let at = page * PAGE + offset;
        (at, len.min(PAGES * PAGE - at))
    })
}

fn flags() -> impl Strategy<Value = MappingFlags> {
    prop_oneof![12 => proptest::sample::select(&FLAGS[..]), 1 => proptest::sample::select(&BAD_FLAGS[..])]
}

fn kinds() -> impl Strategy<Value = What> {
    let populate = prop_oneof![2 => Just(Populate::Lazy), 1 => Just(Populate::Now)];
    let leaf = prop_oneof![Just(LeafPolicy::Pages), Just(LeafPolicy::Largest)];
    prop_oneof![
        2 => prop_oneof![Just(0), Just(BLOCK), Just(1_usize)].prop_map(What::Linear),
        1 => Just(What::Device),
        5 => (populate, leaf).prop_map(|(populate, leaf)| What::Private(populate, leaf)),
    ]
}

pub(super) fn ops() -> impl Strategy<Value = Op> {
    let does = prop_oneof![Just(Does::Read), any::<u64>().prop_map(Does::Write), Just(Does::Execute)];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Execute)];
    let cause = prop_oneof![Just(Cause::Translation), Just(Cause::Permission), Just(Cause::AccessFlag)];
    let origin = prop_oneof![3 => Just(Origin::Instruction), 1 => Just(Origin::GuestWalk)];
    let written = (bytes(), any::<u64>()).prop_map(|((at, len), seed)| {
        let byte = |index: usize| (seed.rotate_left(index as u32 % 64) as u8).wrapping_add(index as u8);
        (at, (0..len).map(byte).collect())
    });
    prop_oneof![
        5 => (pages(), kinds(), flags()).prop_map(|(pages, kind, flags)| Op::Map(pages, kind, flags)),
        2 => pages().prop_map(Op::Unmap),
        3 => (pages(), flags()).prop_map(|(pages, flags)| Op::Protect(pages, flags)),
        2 => pages().prop_map(Op::Relocate),
        8 => (0..2_usize, word(), does).prop_map(|(cpu, at, does)| Op::Guest(cpu, at, does)),
        2 => (page(), access, cause, origin).prop_map(|(page, access, cause, origin)| {
            Op::Fault(page, access, cause, origin)
        }),
        1 => bytes().prop_map(|(at, len)| Op::Read(at, len)),
        1 => written.prop_map(|(at, bytes)| Op::Write(at, bytes)),
        1 => (word(), any::<u64>()).prop_map(|(at, value)| Op::Exchange(at, value)),
    ]
}

pub(super) fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        5 => Just(Luck::Good),
        1 => (0..6_usize).prop_map(Luck::Bad),
        1 => (0..6_usize).prop_map(Luck::Once),
    ]
}
