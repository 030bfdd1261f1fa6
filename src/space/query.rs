//! Reading the map.

use alloc::vec::Vec;
use core::convert::Infallible;

use arrayvec::ArrayVec;
use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, PhysAddr},
    backend::Backend,
    error::Error,
    format::Translation,
    invalidate::Invalidations,
    lock::{LockFamily, SpaceLock},
    ownership::PageState,
    platform::Platform,
    set::MemoryArea,
    table::{Context, Found, Run},
};

/// How many leaves are looked at while the lock is held once.
const BATCH: usize = 32;

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
    /// A region's memory, from this offset in bytes on.
    Shared(usize),
    /// A frozen region's memory, from this offset in bytes on, and copies of what was written.
    CopyOnWrite(usize),
    /// Another space's memory.
    Borrowed,
}

/// How many areas, leaves and frames a space has, and how often its CPUs faulted and forgot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Areas.
    pub areas: usize,
    /// Leaves by level: `[0]` are pages.
    pub leaves: [usize; 5],
    /// Frames of 4 KiB that tables take, the root among them.
    pub table_frames: usize,
    /// Frames of 4 KiB that the space owns and the guest can reach, those that other spaces see too among them: private
    /// memory, and copies of what it inherited.
    pub owned_frames: usize,
    /// Those of them that are copies.
    pub copied_frames: usize,
    /// Frames of 4 KiB that are regions' and the guest can reach.
    pub shared_frames: usize,
    /// Frames of 4 KiB that are lent to other spaces, out of this guest's reach.
    pub lent_frames: usize,
    /// Frames of 4 KiB that are other spaces' and the guest can reach.
    pub borrowed_frames: usize,
    /// Faults that were answered.
    pub faults: u64,
    /// Invalidations by kind.
    pub invalidations: Invalidations,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Where `gpa` goes, if an entry maps it: no entry maps untouched lazy memory yet.
    pub fn translate(&self, gpa: GuestPhysAddr) -> Option<Translation> {
        if gpa.as_usize() >= self.context.limit() {
            return None;
        }
        match self.state.shared(super::any_cpu()).table.find(&self.context, gpa) {
            Found::Leaf { leaf, span, .. } => Some(Translation {
                hpa: leaf.at + (gpa - span.start),
                flags: leaf.flags,
                size: span.size(),
                leaf_start: span.start,
            }),
            _ => None,
        }
    }

    /// What the page at `gpa` is to this space.
    pub fn page_state(&self, gpa: GuestPhysAddr) -> PageState {
        if !self.everything().contains(gpa) {
            return PageState::Nothing;
        }
        loop {
            let state = self.state.shared(super::any_cpu());
            let Some(_area) = state.areas.find(gpa) else { return PageState::Nothing };
            match state.table.page_state(&self.context, gpa) {
                Some(page) => return page,
                // Another CPU is about to finish it.
                None => core::hint::spin_loop(),
            }
        }
    }

    /// The area that `gpa` lies in.
    pub fn area(&self, gpa: GuestPhysAddr) -> Option<Area> {
        self.state.shared(super::any_cpu()).areas.find(gpa).map(Area::from)
    }

    /// The first area that ends behind `gpa`.
    pub(super) fn area_behind(&self, gpa: GuestPhysAddr) -> Option<Area> {
        let rest = GuestPhysRange { start: gpa, end: self.everything().end };
        self.state.shared(super::any_cpu()).areas.overlap(rest).map(Area::from)
    }

    /// All areas, in address order.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn areas(&self) -> Result<Vec<Area>, Error> {
        let state = self.state.shared(super::any_cpu());
        let mut areas = Vec::new();
        areas.try_reserve_exact(state.areas.len()).map_err(|_| Error::NoMemory(self.everything()))?;
        areas.extend(state.areas.iter().map(Area::from));
        Ok(areas)
    }

    /// Shows every leaf that translates part of `range` to `each`, in address order.
    ///
    /// No lock is held while `each` runs: it may call the space, and what changes meanwhile behind the leaf that it is
    /// shown is seen as it is by then.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`].
    pub fn walk(&self, range: GuestPhysRange, mut each: impl FnMut(Translation)) -> Result<(), Error> {
        self.check(range)?;
        self.each_run(range, |run| {
            each(Translation {
                hpa: run.leaf.at,
                flags: run.leaf.flags,
                size: run.range.size(),
                leaf_start: run.range.start,
            });
            Ok::<_, Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
        Ok(())
    }

    /// Shows every leaf that translates part of `range` to `each`, some at a time, without the lock.
    pub(super) fn each_run<E>(
        &self,
        range: GuestPhysRange,
        mut each: impl FnMut(Run) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = range;
        while !rest.is_empty() {
            let mut some = ArrayVec::<Run, BATCH>::new();
            self.state.shared(super::any_cpu()).table.first_leaves(&self.context, rest, &mut some);
            rest.start = if some.is_full() { some[BATCH - 1].range.end.min(rest.end) } else { rest.end };
            some.into_iter().try_for_each(&mut each)?;
        }
        Ok(())
    }

    /// Counts everything, by a walk of all tables.
    pub fn stats(&self) -> Stats {
        let state = self.state.shared(super::any_cpu());
        let census = state.table.census(&self.context);
        Stats {
            areas: state.areas.len(),
            leaves: census.leaves,
            table_frames: census.table_frames,
            owned_frames: census.owned_frames,
            copied_frames: copied_frames(&self.context, &state),
            shared_frames: census.shared_frames,
            lent_frames: census.lent_frames,
            borrowed_frames: census.borrowed_frames,
            faults: self.accounts().faults(),
            invalidations: self.context.shootdown.counts(),
        }
    }

    /// All addresses that the tables translate.
    fn everything(&self) -> GuestPhysRange {
        self.context.everything()
    }
}

/// How many frames of the space's own stand in areas that it inherited.
fn copied_frames<P: Platform>(context: &Context<P>, state: &State) -> usize {
    let inherited = state.areas.iter().filter(|area| matches!(area.backend(), Backend::CopyOnWrite(_)));
    let mut bytes = 0;
    for area in inherited {
        let Ok(()) = state.table.own_memory(context, area.va_range(), |run| {
            bytes += run.range.size();
            Ok::<_, Infallible>(())
        });
    }
    bytes / memory_addr::PAGE_SIZE_4K
}

impl From<&MemoryArea<Backend>> for Area {
    fn from(area: &MemoryArea<Backend>) -> Self {
        let kind = match area.backend() {
            Backend::Linear(offset) => AreaKind::Linear(offset.apply(area.start())),
            Backend::Private(_) => AreaKind::Private,
            Backend::Shared(view) => AreaKind::Shared(view.offset(area.start())),
            Backend::CopyOnWrite(heritage) => AreaKind::CopyOnWrite(heritage.offset(area.start())),
            Backend::Borrowed(_) => AreaKind::Borrowed,
        };
        Self { range: area.va_range(), flags: area.flags(), kind }
    }
}
