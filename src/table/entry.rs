//! One entry of a table, and how it changes while hardware and other CPUs may change it too.
//!
//! Each change is one exchange of the whole entry: what hardware noted up to that moment is in the entry that was
//! replaced, and goes into the new one (H12, H18, H25).

use core::sync::atomic::Ordering;

use super::node::AtomicU64;
use crate::{
    addr::{GuestPhysAddr, Level},
    format::{Access, Change, Entry, Format, Leaf, Marked, Owner},
};

/// An entry, where it stands.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    /// The word.
    pub entry: &'a AtomicU64,
    /// Its level.
    pub level: Level,
    /// The first address that it translates.
    pub start: GuestPhysAddr,
}

/// What came of raising an entry, or of putting one where none was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    /// The entry is as it was asked for.
    Done,
    /// Another CPU was first: the entry is something else.
    Lost,
}

/// What is noted of a leaf that its space gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// What was noted before.
    AsBefore,
    /// That it was written.
    Written,
}

impl Slot<'_> {
    /// The raw entry. Acquire: what it points to was filled before it was linked.
    #[inline]
    pub(super) fn load(&self) -> u64 {
        self.entry.load(Ordering::Acquire)
    }

    /// Writes the entry. Release: what it points to is complete before a walker can follow it.
    #[inline]
    pub(super) fn store(&self, raw: u64) {
        self.entry.store(raw, Ordering::Release);
    }

    /// Replaces the entry, and answers the old one with all that hardware noted in it.
    #[inline]
    pub(super) fn swap(&self, raw: u64) -> u64 {
        self.entry.swap(raw, Ordering::AcqRel)
    }

    /// Replaces the entry if it is still `old`.
    ///
    /// # Errors
    /// What it is instead.
    #[inline]
    pub(super) fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        self.entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    /// Replaces the entry by what `new` makes of it, as often as hardware or another CPU changes it in between. `None` if
    /// `new` leaves it as it is; else the entry that was replaced.
    #[inline]
    pub(super) fn update(&self, mut new: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        let mut old = self.load();
        loop {
            match self.replace(old, new(old)?) {
                Ok(()) => return Some(old),
                Err(now) => old = now,
            }
        }
    }

    /// What the entry says.
    #[inline]
    pub(super) fn decode<F: Format>(&self, format: &F) -> Entry {
        format.decode(self.level, self.load())
    }

    /// Replaces a leaf of `owner`'s memory by what `new` answers for it. Whether there was one.
    fn update_leaf<F: Format>(&self, format: &F, owner: Owner, new: impl Fn(Leaf) -> u64) -> bool {
        let replaced = self.update(|old| match format.decode(self.level, old) {
            Entry::Leaf(leaf) if leaf.owner == owner => Some(new(leaf)),
            _ => None,
        });
        replaced.is_some()
    }

    /// Writes another owner into a leaf. Nothing else in it changes.
    pub(super) fn change_owner<F: Format>(&self, format: &F, from: Owner, to: Owner) {
        self.update_leaf(format, from, |leaf| format.leaf(self.level, &Leaf { owner: to, ..leaf }));
    }

    /// Takes a leaf of `owner`'s memory away, so that it can be put back: the space's own becomes lent. Whether there was
    /// one, which CPUs may have cached.
    pub(super) fn withdraw<F: Format>(&self, format: &F, owner: Owner) -> bool {
        let to = if owner == Owner::Space { Owner::OnLoan } else { owner };
        self.update_leaf(format, owner, |leaf| {
            format.mark(self.level, format.leaf(self.level, &Leaf { owner: to, ..leaf }))
        })
    }

    /// Gives a leaf that is on loan, lent or withdrawn back to its space.
    pub(super) fn put_back<F: Format>(&self, format: &F, noted: Noted) {
        match self.decode(format) {
            Entry::Leaf(Leaf { owner: Owner::OnLoan, .. }) => self.change_owner(format, Owner::OnLoan, Owner::Space),
            Entry::Lent(leaf) => self.store(format.leaf(self.level, &Leaf { owner: Owner::Space, ..leaf })),
            Entry::Marked(Marked::Leaf(leaf)) => self.store(format.leaf(self.level, &leaf)),
            _ => return,
        }
        if noted == Noted::Written {
            self.update(|old| Some(format.touched(self.level, old, Access::Write)));
        }
    }

    /// Notes that a leaf that is on loan was written.
    pub(super) fn note_written<F: Format>(&self, format: &F) {
        self.update(|old| match format.decode(self.level, old) {
            Entry::Leaf(Leaf { owner: Owner::OnLoan, .. }) => Some(format.touched(self.level, old, Access::Write)),
            _ => None,
        });
    }

    /// Makes a leaf what `new` answers for it, if that only raises it.
    ///
    /// Hardware and other CPUs may change the leaf at any time: what is replaced is what was judged (H25).
    #[inline]
    pub(super) fn raise<F: Format>(&self, format: &F, new: impl Fn(u64) -> u64) -> Installed {
        let mut installed = Installed::Lost;
        let replaced = self.update(|old| {
            let Entry::Leaf(_) = format.decode(self.level, old) else {
                installed = Installed::Lost;
                return None;
            };
            let new = new(old);
            installed = if new == old { Installed::Done } else { Installed::Lost };
            (new != old && format.change(self.level, old, new) == Change::Raise).then_some(new)
        });
        if replaced.is_some() { Installed::Done } else { installed }
    }

    /// Claims the entry through `Busy` for this CPU alone, if it is absent or a frozen region's leaf: the entry as it was.
    pub(super) fn claim<F: Format>(&self, format: &F) -> Option<u64> {
        self.update(|old| match format.decode(self.level, old) {
            Entry::Absent | Entry::Leaf(Leaf { owner: Owner::Frozen, .. }) => Some(format.busy()),
            _ => None,
        })
    }
}
