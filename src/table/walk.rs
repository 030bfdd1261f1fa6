//! The one walker, and the sweep over the entries that it comes to.

use core::{slice, sync::atomic::Ordering};

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use super::{
    context::Context,
    entry::Slot,
    node::{AtomicU64, Node},
};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Entry, Fields, Format},
    platform::Platform,
};

/// Entries side by side in one table that a walk came to.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    pub entries: &'a [AtomicU64],
    /// Their level. Above the last level a chunk is one entry.
    pub level: Level,
    /// The addresses that they translate.
    pub span: GuestPhysRange,
    /// Those of them that the walk is about.
    pub part: GuestPhysRange,
}

/// What a walk came to.
pub(super) enum Visit<'a> {
    /// An entry that points to this table.
    Table(Chunk<'a>, PhysAddr),
    /// Entries that point to no table.
    Entries(Chunk<'a>),
}

/// Where a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Into the table. Behind entries that point to no table, as `Over`.
    Into,
    /// Behind it.
    Over,
    /// Nowhere: the walk ends.
    Stop,
}

/// What a sweep does with all entries that differ in their address alone.
#[derive(Clone, Copy)]
pub(super) enum Sweep {
    /// They stay.
    Keep,
    /// These bits of them change.
    Flip(u64),
    /// These bits of them change, after the caches are in step for the memory to have these flags.
    Synchronize(MappingFlags, u64),
}

impl<'a> Chunk<'a> {
    /// Whether the walk is about all of it.
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.span == self.part
    }

    /// The entry, where the chunk is one.
    #[inline]
    pub(super) fn slot(&self) -> Slot<'a> {
        Slot { entry: &self.entries[0], level: self.level, start: self.span.start }
    }

    /// Each entry.
    #[inline]
    pub(super) fn slots<P: Platform>(&self) -> impl Iterator<Item = Slot<'a>> + use<'a, P> {
        let (level, start) = (self.level, self.span.start.as_usize());
        self.entries.iter().enumerate().map(move |(index, entry)| {
            let start = GuestPhysAddr::from_usize(start + (index << Context::<P>::shift(level)));
            Slot { entry, level, start }
        })
    }
}

impl<P: Platform> Context<P> {
    /// Visits all entries of `node` that translate part of `range`, and below those where the visitor says so.
    ///
    /// In address order, one descent for each table. `range` lies within the node.
    pub(super) fn walk(&self, node: Node<'_>, range: GuestPhysRange, visit: &mut dyn FnMut(Visit<'_>) -> Step) -> Step {
        if range.is_empty() {
            return Step::Over;
        }
        let first = node.index::<P>(range.start);
        let start = node.base.as_usize() + (first << Self::shift(node.level));
        if node.level == Level::PAGE {
            return visit(Visit::Entries(node.chunk::<P>(range)));
        }
        let mut span = GuestPhysRange { start: start.into(), end: (start + Self::span(node.level)).into() };
        for entry in &node.entries[first..] {
            if span.start >= range.end {
                break;
            }
            let part = GuestPhysRange { start: span.start.max(range.start), end: span.end.min(range.end) };
            let chunk = Chunk { entries: slice::from_ref(entry), level: node.level, span, part };
            let step = match self.format.next_table(node.level, entry.load(Ordering::Acquire)) {
                None => visit(Visit::Entries(chunk)),
                Some(table) => match visit(Visit::Table(chunk, table)) {
                    Step::Into => self.walk(self.below(node.level, span.start, table), part, visit),
                    step => step,
                },
            };
            if step == Step::Stop {
                return Step::Stop;
            }
            span = GuestPhysRange { start: span.end, end: (span.end.as_usize() + Self::span(node.level)).into() };
        }
        Step::Over
    }

    /// Shows every lowest entry of `range` to `each`.
    pub(super) fn each_slot(&self, node: Node<'_>, range: GuestPhysRange, each: &mut dyn FnMut(Slot<'_>)) {
        self.walk(node, range, &mut |visit| {
            if let Visit::Entries(chunk) = visit {
                chunk.slots::<P>().for_each(&mut *each);
            }
            Step::Into
        });
    }

    /// Changes the entries of a chunk. `decide` is asked once for each set of entries side by side that differ in their
    /// address alone, with one of them. The caller holds the space's lock exclusively.
    ///
    /// Where hardware may set bits, each change is one exchange, and an entry in which hardware set one meanwhile is
    /// decided upon anew; elsewhere it is a plain store.
    #[inline]
    pub(super) fn sweep(&self, chunk: &Chunk<'_>, mut decide: impl FnMut(u64) -> Sweep) {
        let Fields { address, .. } = self.format.fields(chunk.level);
        let mut rest = chunk.entries;
        while let [entry, following @ ..] = rest {
            let raw = entry.load(Ordering::Acquire);
            let change = decide(raw);
            if !self.apply(chunk.level, entry, raw, change) {
                continue;
            }
            let alike = Alike { entries: following, kind: raw & !address, address };
            let done = match change {
                _ if following.is_empty() => 0,
                Sweep::Keep => alike.count(),
                Sweep::Flip(bits) if self.is_unnoted(chunk.level) => alike.flip(bits),
                Sweep::Flip(bits) => alike.exchange(bits, |_| ()),
                Sweep::Synchronize(flags, bits) => {
                    alike.exchange(bits, |raw| self.synchronize_for(chunk.level, raw, flags))
                }
            };
            rest = &following[done..];
        }
    }

    /// Changes an entry that was `raw`, unless hardware set a bit of it meanwhile: whether it is done.
    #[inline]
    pub(super) fn apply(&self, level: Level, entry: &AtomicU64, raw: u64, change: Sweep) -> bool {
        match change {
            Sweep::Keep => true,
            Sweep::Flip(bits) if self.is_unnoted(level) => {
                entry.store(raw ^ bits, Ordering::Release);
                true
            }
            Sweep::Flip(bits) => exchange(entry, raw, bits),
            Sweep::Synchronize(flags, bits) => {
                self.synchronize_for(level, raw, flags);
                exchange(entry, raw, bits)
            }
        }
    }

    /// Whether hardware notes nothing in leaves of `level`, so that under the lock a plain store loses nothing.
    #[inline]
    fn is_unnoted(&self, level: Level) -> bool {
        self.format.fields(level).hardware == 0
    }

    /// Brings the caches in step for a leaf that gets other flags.
    #[inline(never)]
    fn synchronize_for(&self, level: Level, raw: u64, flags: MappingFlags) {
        if let Entry::Leaf(leaf) = self.decode(level, raw) {
            self.resynchronize(&leaf, Self::span(level), flags);
        }
    }
}

/// Changes bits of an entry that is still `raw`: whether it was.
#[inline]
fn exchange(entry: &AtomicU64, raw: u64, bits: u64) -> bool {
    entry.compare_exchange(raw, raw ^ bits, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// How many entries are changed together.
const GROUP: usize = 4;

/// Entries that begin with some that are alike: they differ in their address alone.
#[derive(Clone, Copy)]
pub(super) struct Alike<'a> {
    pub entries: &'a [AtomicU64],
    /// What they have in common.
    pub kind: u64,
    /// Where their address is.
    pub address: u64,
}

impl Alike<'_> {
    /// How many there are.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.while_alike(|_, _| true)
    }

    /// Changes `bits` of all of them by plain stores: how many there were.
    #[inline(never)]
    fn flip(&self, bits: u64) -> usize {
        let mut done = 0;
        // By groups: for single entries, half of the instructions would be the loop's own.
        let (groups, _) = self.entries.as_chunks::<GROUP>();
        for group in groups {
            // Of an entry of the kind only the address is left.
            let addresses = group.each_ref().map(|entry| entry.load(Ordering::Acquire) ^ self.kind);
            if addresses.iter().fold(0, |all, address| all | address) & !self.address != 0 {
                break;
            }
            for (entry, address) in group.iter().zip(addresses) {
                entry.store(address ^ (self.kind ^ bits), Ordering::Release);
            }
            done += GROUP;
        }
        let rest = Self { entries: &self.entries[done..], ..*self };
        done + rest.while_alike(|entry, raw| {
            entry.store(raw ^ bits, Ordering::Release);
            true
        })
    }

    /// Changes `bits` of each by an exchange, after `before` was called with it: how many until one changed meanwhile.
    #[inline(never)]
    fn exchange(&self, bits: u64, before: impl Fn(u64)) -> usize {
        self.while_alike(|entry, raw| {
            before(raw);
            exchange(entry, raw, bits)
        })
    }

    /// Shows each to `each`, until one is of another kind or `each` answers no: how many there were until then.
    #[inline]
    fn while_alike(&self, each: impl Fn(&AtomicU64, u64) -> bool) -> usize {
        let same = |entry: &&AtomicU64| {
            let raw = entry.load(Ordering::Acquire);
            raw & !self.address == self.kind && each(entry, raw)
        };
        self.entries.iter().take_while(same).count()
    }
}
