//! Reading the map: for other code, and for people.

use alloc::vec::Vec;
use core::{
    fmt::{self, Write as _},
    sync::atomic::Ordering,
};

use arrayvec::ArrayString;

use super::{GuestSpace, Platform};
use crate::{
    Error, GuestPhysAddr, GuestPhysRange, Invalidations, LockFamily, MappingFlags, MemoryArea, Owner, PhysAddr,
    SpaceLock, Translation,
    backend::Backend,
    table::{Found, Run},
};

/// An area of the map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    /// The addresses.
    pub range: GuestPhysRange,
    /// What the guest may do.
    pub flags: MappingFlags,
    /// What stands behind it.
    pub kind: AreaKind,
}

/// What stands behind an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaKind {
    /// Foreign memory, from this host-physical address on.
    Linear(PhysAddr),
    /// The space's own memory.
    Private,
}

/// How much of what a space has, and what happened in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Areas.
    pub areas: usize,
    /// Leaves by level: `[0]` are pages.
    pub leaves: [usize; 5],
    /// Frames of 4 KiB that tables take, the root among them.
    pub table_frames: usize,
    /// Frames of 4 KiB that the space owns and the guest can reach.
    pub owned_frames: usize,
    /// Faults that were answered.
    pub faults: u64,
    /// Invalidations by kind.
    pub invalidations: Invalidations,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Where `gpa` goes, if an entry says so: lazy memory that nobody touched is nowhere yet.
    pub fn translate(&self, gpa: GuestPhysAddr) -> Option<Translation> {
        if gpa.as_usize() >= self.builder.geometry().limit() {
            return None;
        }
        match self.state.shared(super::anybody()).table.find(gpa) {
            Found::Leaf { leaf, span, .. } => Some(Translation {
                hpa: leaf.at + (gpa - span.start),
                flags: leaf.flags,
                size: span.size(),
                leaf_start: span.start,
            }),
            _ => None,
        }
    }

    /// The area that `gpa` lies in.
    pub fn area(&self, gpa: GuestPhysAddr) -> Option<Area> {
        self.state.shared(super::anybody()).areas.find(gpa).map(Area::from)
    }

    /// All areas, in address order.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn areas(&self) -> Result<Vec<Area>, Error> {
        let state = self.state.shared(super::anybody());
        let mut areas = Vec::new();
        areas.try_reserve_exact(state.areas.len()).map_err(|_| Error::NoMemory(self.everything()))?;
        areas.extend(state.areas.iter().map(Area::from));
        Ok(areas)
    }

    /// Shows every leaf that translates part of `range` to `each`, in address order, with the lock held: `each` must
    /// not call the space.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`].
    pub fn walk(&self, range: GuestPhysRange, mut each: impl FnMut(Translation)) -> Result<(), Error> {
        self.check(range)?;
        self.state.shared(super::anybody()).table.leaves(range, |_, run| {
            each(Translation {
                hpa: run.leaf.at,
                flags: run.leaf.flags,
                size: run.range.size(),
                leaf_start: run.range.start,
            });
        });
        Ok(())
    }

    /// Counts everything, by a walk of all tables.
    pub fn stats(&self) -> Stats {
        let state = self.state.shared(super::anybody());
        let census = state.table.census();
        Stats {
            areas: state.areas.len(),
            leaves: census.leaves,
            table_frames: census.table_frames,
            owned_frames: census.owned_frames,
            faults: self.faults.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum(),
            invalidations: self.shootdown.counts(),
        }
    }

    /// All addresses that the tables translate.
    fn everything(&self) -> GuestPhysRange {
        super::everything(self.builder.format())
    }
}

impl From<&MemoryArea<Backend>> for Area {
    fn from(area: &MemoryArea<Backend>) -> Self {
        let kind = match area.backend() {
            Backend::Linear(offset) => AreaKind::Linear(offset.apply(area.start())),
            Backend::Private(_) => AreaKind::Private,
        };
        Self { range: area.va_range(), flags: area.flags(), kind }
    }
}

/// The map as a person reads it: each area, and below it the runs of populated memory.
impl<P: Platform, L: LockFamily> fmt::Display for GuestSpace<P, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.shared(super::anybody());
        for area in state.areas.iter() {
            let shown = Area::from(area);
            writeln!(f, "{shown}")?;
            let mut runs = Runs { pending: None, result: Ok(()) };
            state.table.leaves(shown.range, |_, run| runs.add(f, run));
            runs.flush(f);
            runs.result?;
        }
        Ok(())
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Span(self.range), Letters(self.flags))?;
        match self.kind {
            AreaKind::Linear(to) => write!(f, " linear to {:#x}", to.as_usize()),
            AreaKind::Private => write!(f, " private"),
        }
    }
}

/// A run of leaves of one size, side by side for the guest and, where `to` is given, for the host.
#[derive(Clone, Copy)]
struct Merged {
    range: GuestPhysRange,
    leaf_size: usize,
    flags: MappingFlags,
    owner: Owner,
}

/// Merges leaves into runs while they are shown.
struct Runs {
    pending: Option<Merged>,
    result: fmt::Result,
}

impl Runs {
    fn add(&mut self, f: &mut fmt::Formatter<'_>, run: Run) {
        let new =
            Merged { range: run.range, leaf_size: run.range.size(), flags: run.leaf.flags, owner: run.leaf.owner };
        match &mut self.pending {
            Some(last)
                if (last.range.end, last.leaf_size, last.flags, last.owner)
                    == (new.range.start, new.leaf_size, new.flags, new.owner) =>
            {
                last.range.end = new.range.end;
            }
            _ => {
                self.flush(f);
                self.pending = Some(new);
            }
        }
    }

    fn flush(&mut self, f: &mut fmt::Formatter<'_>) {
        if let (Some(run), Ok(())) = (self.pending.take(), self.result) {
            let count = run.range.size() / run.leaf_size;
            let owner = if run.owner == Owner::Space { "own" } else { "foreign" };
            self.result =
                writeln!(f, "  {} {} {count} × {} {owner}", Span(run.range), Letters(run.flags), Bytes(run.leaf_size));
        }
    }
}

/// A range with its size.
struct Span(GuestPhysRange);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.0.start.as_usize(), self.0.end.as_usize());
        write!(f, "{start:#014x}..{end:#014x} {:>8}", Bytes(self.0.size()))
    }
}

/// A size in the largest unit that divides it.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = match self.0.trailing_zeros() {
            30.. if self.0 > 0 => (self.0 >> 30, "GiB"),
            20..30 => (self.0 >> 20, "MiB"),
            10..20 => (self.0 >> 10, "KiB"),
            _ => (self.0, "B"),
        };
        // The longest number, and its unit: who looks at a space may have no memory left.
        let mut text = ArrayString::<24>::new();
        write!(text, "{count} {unit}")?;
        f.pad_integral(true, "", &text)
    }
}

/// Flags as letters.
struct Letters(MappingFlags);

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (MappingFlags::READ, 'r'),
            (MappingFlags::WRITE, 'w'),
            (MappingFlags::EXECUTE, 'x'),
            (MappingFlags::DEVICE, 'd'),
            (MappingFlags::UNCACHED, 'u'),
        ];
        for (flag, letter) in letters {
            write!(f, "{}", if self.0.contains(flag) { letter } else { '-' })?;
        }
        Ok(())
    }
}
