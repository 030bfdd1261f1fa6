//! What may happen on many CPUs at once: entries become valid, or allow more. Each step is one exchange (H25).

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use super::{
    Table,
    claim::Claim,
    context::Context,
    entry::{Installed, Slot},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Access, Entry, Format, Leaf},
    frame::Owned,
    platform::Platform,
};

/// What stands at an address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Found {
    /// A leaf.
    Leaf {
        /// What it says.
        leaf: Leaf,
        /// Its level.
        level: Level,
        /// What it translates.
        span: GuestPhysRange,
    },
    /// An absent entry of this level.
    Absent(Level),
    /// Something that an operation took away and has still to finish.
    Changing,
    /// The space's own memory, which it lent to another.
    Lent(GuestPhysRange),
    /// A leaf that another CPU is changing right now, and will finish (H26).
    Busy,
}

/// The lowest entry that translates an address, and what was in it, for as long as the space's lock is held.
#[derive(Clone, Copy)]
pub(crate) struct Position<'t> {
    slot: Slot<'t>,
    raw: u64,
    gpa: GuestPhysAddr,
}

impl Table {
    /// Looks an address up, which is below the limit.
    #[inline]
    pub(crate) fn seek<'t, P: Platform>(&'t self, context: &'t Context<P>, gpa: GuestPhysAddr) -> Position<'t> {
        let (slot, raw) = self.lookup(context, gpa);
        Position { slot, raw, gpa }
    }

    /// The same by a call: for what takes much longer than a descent.
    #[inline(never)]
    pub(crate) fn seek_again<'t, P: Platform>(&'t self, context: &'t Context<P>, gpa: GuestPhysAddr) -> Position<'t> {
        self.seek(context, gpa)
    }

    /// What stands at `gpa`.
    #[inline]
    pub(crate) fn find<P: Platform>(&self, context: &Context<P>, gpa: GuestPhysAddr) -> Found {
        self.seek(context, gpa).found(context)
    }
}

impl<'t> Position<'t> {
    /// What stands there.
    #[inline]
    pub(crate) fn found<P: Platform>(&self, context: &Context<P>) -> Found {
        let Slot { level, start, .. } = self.slot;
        let span = Context::<P>::entry_range(level, start);
        match context.format.decode(level, self.raw) {
            Entry::Leaf(leaf) => Found::Leaf { leaf, level, span },
            Entry::Absent => Found::Absent(level),
            Entry::Busy => Found::Busy,
            Entry::Lent(_) => Found::Lent(span),
            Entry::Marked(_) | Entry::Table(_) => Found::Changing,
        }
    }

    /// What the leaf allows that is there.
    #[inline]
    pub(crate) fn flags<P: Platform>(&self, context: &Context<P>) -> Option<MappingFlags> {
        match context.format.decode(self.slot.level, self.raw) {
            Entry::Leaf(leaf) => Some(leaf.flags),
            _ => None,
        }
    }

    /// The entry's level, if it is absent.
    #[inline]
    pub(crate) fn absent<P: Platform>(&self, context: &Context<P>) -> Option<Level> {
        (self.raw == context.format.absent()).then_some(self.slot.level)
    }

    /// Puts a leaf of `level`, with frames of the space's own, over the address where the entry was absent, and the
    /// tables that lead to it. A CPU that comes second loses, and frees what it brought. The caller publishes.
    ///
    /// # Errors
    /// [`Exhausted`] if a table could not be had; those that could stay, they are part of the path.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its result in memory cost a tenth of a fault")]
    pub(crate) fn install<P: Platform>(
        self,
        context: &'t Context<P>,
        level: Level,
        leaf: &Leaf,
        frames: Owned<'_, P::Frames>,
    ) -> Result<Installed, Exhausted> {
        let installed = self.install_borrowed(context, level, leaf)?;
        if installed == Installed::Done {
            frames.into_raw();
        }
        Ok(installed)
    }

    /// The same for a leaf of frames that are not the space's own.
    ///
    /// # Errors
    /// As for [`install`](Self::install).
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its result in memory cost a tenth of a fault")]
    pub(crate) fn install_borrowed<P: Platform>(
        self,
        context: &'t Context<P>,
        level: Level,
        leaf: &Leaf,
    ) -> Result<Installed, Exhausted> {
        let slot = if self.slot.level == level { Some(self.slot) } else { path(context, self.slot, self.gpa, level)? };
        let Some(slot) = slot else { return Ok(Installed::Lost) };
        // Release (in `replace`): the zeros are in the frame before a walker can reach it.
        let replaced = slot.replace(context.format.absent(), context.format.leaf(level, leaf));
        Ok(if replaced.is_ok() { Installed::Done } else { lost() })
    }

    /// Claims the page's entry through `Busy`, and makes the tables that lead to it, if it is absent or a frozen region's.
    ///
    /// # Errors
    /// As for [`install`](Self::install).
    pub(crate) fn claim<P: Platform>(self, context: &'t Context<P>) -> Result<Option<Claim<'t, P>>, Exhausted> {
        Ok(path(context, self.slot, self.gpa, Level::PAGE)?.and_then(|slot| Claim::take(context, slot)))
    }

    /// Lets the leaf allow `flags`, if that only raises it, and notes the access.
    #[inline]
    pub(crate) fn raise<P: Platform>(&self, context: &Context<P>, flags: MappingFlags, access: Access) -> Installed {
        let (format, level) = (&context.format, self.slot.level);
        self.slot.raise(format, |old| format.touched(level, format.with_flags(level, old, flags), access))
    }

    /// Notes in the leaf that the hypervisor, or a guest whose CPU does not do it by itself, used it.
    #[inline]
    pub(crate) fn touch<P: Platform>(&self, context: &Context<P>, access: Access) -> Installed {
        let (format, level) = (&context.format, self.slot.level);
        self.slot.raise(format, |old| format.touched(level, old, access))
    }
}

/// Another CPU was first. Out of line, so that a caller knows the other answer without a look at it.
#[cold]
#[inline(never)]
fn lost() -> Installed {
    Installed::Lost
}

/// The entry of `level` over `gpa`, with the tables that lead to it from `slot` on; `None` if something else is in the way.
#[inline(never)]
pub(super) fn path<'t, P: Platform>(
    context: &'t Context<P>,
    mut slot: Slot<'t>,
    gpa: GuestPhysAddr,
    level: Level,
) -> Result<Option<Slot<'t>>, Exhausted> {
    while slot.level > level {
        let raw = slot.load();
        let table = match context.format.next_table(slot.level, raw) {
            Some(table) => table,
            None if raw == context.format.absent() => match link(context, &slot)? {
                Some(table) => table,
                // Another CPU was first, whose table serves as well, if it is one.
                None => continue,
            },
            None => return Ok(None),
        };
        slot = context.slot_below(&slot, table, gpa);
    }
    Ok((slot.level == level).then_some(slot))
}

/// Links a new table into an absent entry; `None` if the entry is absent no more.
fn link<P: Platform>(context: &Context<P>, slot: &Slot<'_>) -> Result<Option<PhysAddr>, Exhausted> {
    let table = context.new_table(slot.level.below())?;
    let linked = slot.replace(context.format.absent(), context.format.table(table.at())).is_ok();
    Ok(linked.then(|| table.into_raw()))
}
