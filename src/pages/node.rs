//! The nodes of a tree of pages: shared by several trees, and copied by the one that changes them.
#![allow(unsafe_code, reason = "owns frames")]

use memory_addr::PhysAddr;
use spin::rwlock::RwLock;

use super::{
    frame::Frame,
    keeper::{Keeper, Payer, Pool},
    slot::Share,
};
use crate::{account::Exhausted, counted::Counted};

/// log2 of how many children or pages a node has.
pub(super) const BITS: u32 = 4;
/// How many children or pages a node has.
pub(super) const FAN: usize = 1 << BITS;

/// A node, which other trees may have too.
#[derive(Clone)]
pub(super) enum Node {
    Leaf(Counted<Leaf>),
    Inner(Counted<Inner>),
}

/// A place for a node.
pub(super) type Child = Option<Node>;

/// Nodes below. A tree that shares it with others only adds what is empty to it.
#[derive(Default)]
pub(super) struct Inner {
    pub children: RwLock<[Child; FAN]>,
}

/// Pages. A tree that shares it with others only turns pages that are its own into [`Record::Shared`] ones.
pub(super) struct Leaf(pub RwLock<Records>);

/// What a leaf has.
pub(super) struct Records {
    pub keeper: Counted<dyn Keeper>,
    pub pages: [Record; FAN],
}

/// What is at one place.
#[derive(Default)]
pub(super) enum Record {
    /// Zeros, or what a source has and was not asked for.
    #[default]
    Absent,
    /// A page that no other leaf names.
    Own(Frame),
    /// A page that other leaves may name, or that a source was asked for.
    Shared(Share),
}

/// A page that was taken out of a tree: dropped, it is free unless another tree names it.
pub(crate) struct Gone {
    what: Record,
    keeper: Counted<dyn Keeper>,
}

impl Record {
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Its frame.
    pub fn frame(&self) -> Option<Frame> {
        match self {
            Self::Absent => None,
            Self::Own(frame) => Some(*frame),
            Self::Shared(share) => share.frame(),
        }
    }

    /// Where its frame is.
    pub fn at(&self) -> Option<PhysAddr> {
        self.frame().map(Frame::at)
    }

    /// Whether no other leaf names it.
    pub fn is_alone(&self) -> bool {
        match self {
            Self::Shared(share) => share.is_alone(),
            Self::Absent | Self::Own(_) => true,
        }
    }
}

impl Records {
    /// Without any page.
    pub fn empty(keeper: &Counted<dyn Keeper>) -> Self {
        Self { keeper: keeper.clone(), pages: Default::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.pages.iter().all(Record::is_absent)
    }

    /// Makes a page one that other leaves may name; what is absent too, where a source is behind it, of which `supplied` is
    /// the keeper.
    pub fn share(&mut self, index: usize, supplied: Option<&Counted<dyn Keeper>>) -> Result<Option<Share>, Exhausted> {
        let record = &mut self.pages[index];
        let share = match (&*record, supplied) {
            (Record::Absent, None) => return Ok(None),
            (Record::Shared(share), _) => return Ok(Some(share.clone())),
            (Record::Absent, Some(keeper)) => Share::missing(keeper).ok_or(Exhausted::Memory)?,
            (Record::Own(frame), _) => {
                let share = Share::missing(&self.keeper).ok_or(Exhausted::Memory)?;
                share.set(*frame);
                share
            }
        };
        *record = Record::Shared(share.clone());
        Ok(Some(share))
    }

    /// The same pages for another leaf.
    fn copied(&mut self, supplied: Option<&Counted<dyn Keeper>>) -> Result<Self, Exhausted> {
        let mut copy = Self::empty(&self.keeper);
        for index in 0..FAN {
            if let Some(share) = self.share(index, supplied)? {
                copy.pages[index] = Record::Shared(share);
            }
        }
        Ok(copy)
    }

    /// Has pages of that keeper come as its own.
    pub fn expect(&mut self, keeper: &Counted<dyn Keeper>) -> Result<(), Exhausted> {
        if self.keeper.is(keeper) {
            return Ok(());
        }
        for index in 0..FAN {
            if !self.pages[index].is_absent() {
                self.share(index, None)?;
            }
        }
        self.keeper = keeper.clone();
        Ok(())
    }

    /// Whether a page is on that account, by that number.
    pub fn is_paid_by(&self, page: usize, payer: &Payer) -> bool {
        matches!(&self.pages[page & (FAN - 1)], Record::Shared(share) if share.is_paid_by(payer, page))
    }

    /// Takes all pages off that account that are on it by their numbers, of which the first is given.
    pub fn unpay(&self, first: usize, payer: &Payer) {
        for (index, record) in self.pages.iter().enumerate() {
            if let Record::Shared(share) = record {
                share.unpay(payer, first + index);
            }
        }
    }

    /// Takes a page out for the one that has its own copy; it is off that account: whether it was on it. Then the charge is
    /// the caller's.
    pub fn remove(&mut self, page: usize, payer: &Payer) -> (Gone, bool) {
        let gone = self.take_out(page & (FAN - 1));
        let was_paid = matches!(&gone.what, Record::Shared(share) if share.take_charge(payer, page));
        (gone, was_paid)
    }

    /// Whether a page may be taken by the one whose frames `keeper` or `pool` frees: nothing else names it.
    pub fn is_takable(&self, index: usize, (keeper, pool): (Option<&Counted<dyn Keeper>>, Option<Pool>)) -> bool {
        let record = &self.pages[index];
        let now = if let Record::Shared(share) = record { share.keeper() } else { &self.keeper };
        let frees = keeper.is_some_and(|keeper| now.is(keeper)) || (pool.is_some() && now.pool() == pool);
        frees && record.is_alone() && record.at().is_some()
    }

    /// Takes a page out; it is off that account, if it is on it by that number.
    pub fn unpaid(&mut self, page: usize, payer: Option<&Payer>) -> Gone {
        let gone = self.take_out(page & (FAN - 1));
        if let (Record::Shared(share), Some(payer)) = (&gone.what, payer) {
            share.unpay(payer, page);
        }
        gone
    }

    /// Takes the page itself out, which is [takable](Self::is_takable); it is off all accounts; whether it was on that
    /// one by that number, when the charge is the caller's.
    pub fn take(&mut self, page: usize, payer: Option<&Payer>) -> Option<(PhysAddr, bool)> {
        match core::mem::take(&mut self.pages[page & (FAN - 1)]) {
            Record::Absent => None,
            Record::Own(frame) => Some((frame.at(), false)),
            Record::Shared(share) => {
                let was_paid = payer.is_some_and(|payer| share.take_charge(payer, page));
                share.take().map(|at| (at, was_paid))
            }
        }
    }

    /// Takes a page out as it is.
    pub fn take_out(&mut self, index: usize) -> Gone {
        Gone { what: core::mem::take(&mut self.pages[index]), keeper: self.keeper.clone() }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        for index in 0..FAN {
            if !self.pages[index].is_absent() {
                drop(self.take_out(index));
            }
        }
    }
}

impl Gone {
    /// Whether it has no frame.
    pub fn is_missing(&self) -> bool {
        self.what.at().is_none()
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Record::Own(frame) = self.what {
            // SAFETY: no leaf names it any more, and CPUs were made to forget it before it was let go.
            unsafe { self.keeper.free(frame.at()) }
        }
    }
}

impl Node {
    /// A node of that height without anything in it.
    pub fn empty(height: u32, keeper: &Counted<dyn Keeper>) -> Result<Self, Exhausted> {
        let node = if height == 0 {
            Counted::try_new(Leaf(RwLock::new(Records::empty(keeper)))).map(Self::Leaf)
        } else {
            Counted::try_new(Inner::default()).map(Self::Inner)
        };
        node.ok_or(Exhausted::Memory)
    }

    /// What a leaf has, for the only tree that has it.
    pub fn records_mut(&mut self) -> Option<&mut Records> {
        let Self::Leaf(leaf) = self else { return None };
        leaf.sole().map(|leaf| leaf.0.get_mut())
    }

    /// Lets go of it, unless this is the last tree that has it: then it is given back.
    pub fn release(self) -> Option<Self> {
        match self {
            Self::Leaf(leaf) => leaf.release().map(Self::Leaf),
            Self::Inner(inner) => inner.release().map(Self::Inner),
        }
    }

    /// Whether no other tree has it.
    pub fn is_sole(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.is_sole(),
            Self::Inner(inner) => inner.is_sole(),
        }
    }

    /// Replaces it by a copy if other trees have it. Where a source is behind it, of which `supplied` is the keeper, all that
    /// share it now get what that brings later.
    pub fn make_sole(&mut self, height: u32, supplied: Option<&Counted<dyn Keeper>>) -> Result<(), Exhausted> {
        if self.is_sole() {
            return Ok(());
        }
        let copy = match self {
            Self::Leaf(leaf) => {
                let records = leaf.0.upgradeable_read().upgrade().copied(supplied)?;
                Counted::try_new(Leaf(RwLock::new(records))).map(Self::Leaf)
            }
            Self::Inner(inner) => {
                let mut children = inner.children.upgradeable_read().upgrade();
                if let Some(keeper) = supplied {
                    for child in children.iter_mut().filter(|child| child.is_none()) {
                        *child = Some(Self::empty(height - 1, keeper)?);
                    }
                }
                Counted::try_new(Inner { children: RwLock::new(children.clone()) }).map(Self::Inner)
            }
        };
        *self = copy.ok_or(Exhausted::Memory)?;
        Ok(())
    }
}
