//! What may happen on many CPUs at once: entries become valid, or allow more. Each step is one compare-exchange (H25).

use memory_addr::PhysAddr;

use super::{Table, node::Context, walk::Slot};
use crate::{
    Access, Change, Entry, Format, Frames, GuestPhysAddr, GuestPhysRange, Leaf, Level, MappingFlags,
    account::Exhausted, frame::Owned,
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
    /// Nothing, in an entry of this level.
    Nothing(Level),
    /// Something that an operation took away and has still to finish.
    Changing,
    /// The space's own memory, which it lent to another.
    Lent(GuestPhysRange),
    /// A leaf that another CPU is changing right now, and will finish (H26).
    Busy,
}

/// What came of installing a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    /// It is there.
    Done,
    /// Something else was there first; what was brought is freed.
    Lost,
}

impl<F: Format, M: Frames> Table<F, M> {
    /// What stands at `gpa`.
    pub(crate) fn find(&self, gpa: GuestPhysAddr) -> Found {
        let (slot, entry) = self.context.lookup(self.root(), gpa);
        match entry {
            Entry::Leaf(leaf) => Found::Leaf { leaf, level: slot.level, span: slot.span },
            Entry::Absent => Found::Nothing(slot.level),
            Entry::Busy => Found::Busy,
            Entry::Lent(_) => Found::Lent(slot.span),
            _ => Found::Changing,
        }
    }

    /// Puts a leaf of `level`, with frames of the space's own, over `gpa` where nothing is, and the tables that lead to
    /// it. Whoever comes second loses, and frees. The caller publishes.
    ///
    /// # Errors
    /// [`Exhausted`] if a table could not be had; those that could stay, they are part of the path.
    pub(crate) fn install(
        &self,
        gpa: GuestPhysAddr,
        level: Level,
        leaf: &Leaf,
        frames: Owned<'_, M>,
    ) -> Result<Installed, Exhausted> {
        let installed = self.install_borrowed(gpa, level, leaf)?;
        if installed == Installed::Done {
            frames.into_raw();
        }
        Ok(installed)
    }

    /// The same for a leaf of somebody else's frames.
    ///
    /// # Errors
    /// As for [`install`](Self::install).
    pub(crate) fn install_borrowed(
        &self,
        gpa: GuestPhysAddr,
        level: Level,
        leaf: &Leaf,
    ) -> Result<Installed, Exhausted> {
        let Some(slot) = self.path(gpa, level)? else { return Ok(Installed::Lost) };
        let raw = self.context.format.leaf(slot.level, leaf);
        // Release (in `replace`): the zeros are in the frame before a walker can reach it.
        let replaced = slot.replace(self.context.format.absent(), raw);
        Ok(if replaced.is_ok() { Installed::Done } else { Installed::Lost })
    }

    /// The entry of `level` over `gpa`, with the tables that lead to it; nothing if something else is in the way.
    pub(super) fn path(&self, gpa: GuestPhysAddr, level: Level) -> Result<Option<Slot<'_>>, Exhausted> {
        let mut node = self.root();
        loop {
            let (slot, entry) = self.context.slot(node, gpa);
            if slot.level == level {
                return Ok(Some(slot));
            }
            let table = match entry {
                Entry::Table(table) => table,
                Entry::Absent => match self.link(&slot)? {
                    Some(table) => table,
                    None => continue,
                },
                _ => return Ok(None),
            };
            node = self.context.below(&slot, table);
        }
    }

    /// Links a new table into an absent entry; `None` if another CPU was first, whose table then serves.
    fn link(&self, slot: &Slot<'_>) -> Result<Option<PhysAddr>, Exhausted> {
        let table = self.context.new_table(slot.level.below())?;
        let raw = self.context.format.table(table.at());
        let linked = slot.replace(self.context.format.absent(), raw).is_ok();
        Ok(linked.then(|| table.into_raw()))
    }

    /// Lets the leaf at `gpa` allow `flags`, if that only raises it, and notes the access.
    pub(crate) fn raise(&self, gpa: GuestPhysAddr, flags: MappingFlags, access: Access) -> Installed {
        let format = &self.context.format;
        self.raise_to(gpa, |level, old| format.touched(level, format.with_flags(level, old, flags), access))
    }

    /// Notes in the leaf at `gpa` that the hypervisor, or a guest whose CPU does not do it by itself, used it.
    pub(crate) fn touch(&self, gpa: GuestPhysAddr, access: Access) -> Installed {
        self.raise_to(gpa, |level, old| self.context.format.touched(level, old, access))
    }

    /// Makes the leaf at `gpa` what `new` answers for it, if that only raises it.
    fn raise_to(&self, gpa: GuestPhysAddr, new: impl Fn(Level, u64) -> u64) -> Installed {
        self.context.raise(&self.context.lookup(self.root(), gpa).0, new)
    }
}

impl<F: Format, M: Frames> Context<F, M> {
    /// Makes a leaf what `new` answers for it, if that only raises it.
    pub(super) fn raise(&self, slot: &Slot<'_>, new: impl Fn(Level, u64) -> u64) -> Installed {
        let format = &self.format;
        let mut old = slot.load();
        // Hardware and other CPUs may change it at any time: what is replaced is what was judged (H25).
        while let Entry::Leaf(_) = format.decode(slot.level, old) {
            let new = new(slot.level, old);
            if old == new {
                return Installed::Done;
            }
            if format.change(slot.level, old, new) != Change::Raise {
                return Installed::Lost;
            }
            match slot.replace(old, new) {
                Ok(()) => return Installed::Done,
                Err(now) => old = now,
            }
        }
        Installed::Lost
    }
}
