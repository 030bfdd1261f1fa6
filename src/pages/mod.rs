//! Whose a page is: a tree of pages is a value, and all that can reach a page has a tree that names it.
//!
//! A tree is shared by sharing its root, whatever its size, and the one that changes it copies the nodes on the way down
//! that others have too. A page is free when no tree names it any more. Nothing else is counted: neither guests nor
//! snapshots, nor which of them came from which. A look takes as many steps as the tree is high.
//!
//! Pages have numbers: in a space's tree that of their guest-physical address, in a region's that of their offset.

mod asker;
mod audit;
mod edit;
mod end;
mod frame;
mod inherited;
mod keeper;
#[cfg(all(test, loom))]
mod model;
mod node;
mod offer;
mod slot;
mod supply;
#[cfg(test)]
mod tests;

use core::ops::Range;

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use self::node::{BITS, Child, FAN, Inner, Node, Record, Records};
pub(crate) use self::{
    asker::{Asker, is_still_missing},
    audit::{Named, leaving_paid},
    end::Leaving,
    frame::Frame,
    inherited::{Inherited, inherited},
    keeper::{Keeper, Paid, Payer, PlatformKeeper, Pool},
    node::Gone,
    offer::{Anyone, Offer, Place, offer},
    slot::Wanted,
    supply::{Supplies, Supply},
};
use crate::{account::Exhausted, counted::Counted};

/// Pages by their numbers.
#[derive(Default)]
pub(crate) struct Pages {
    root: Child,
    /// How many levels of nodes are below the root.
    height: u32,
    /// The root's first page.
    base: usize,
    /// Where a source is behind some of them: who allocates what it brings.
    supplied: Option<Counted<dyn Keeper>>,
}

/// What is known of a page at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Its frame.
    pub at: Option<PhysAddr>,
    /// Whether no other tree names it.
    pub is_alone: bool,
}

/// What came of taking a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The page itself, and whether it was on the account: then the charge comes with it.
    Page(PhysAddr, bool),
    /// Others name it too, or free it: it stays.
    Shared(PhysAddr),
    /// It has no frame.
    Nothing,
}

/// How many pages a node of that height has, as a power of two.
const fn bits(height: u32) -> u32 {
    (height + 1) * BITS
}

/// Which child of a node of that height a page is in.
const fn index(page: usize, height: u32) -> usize {
    page >> (height * BITS) & (FAN - 1)
}

impl Pages {
    /// No pages; a source is behind some, and `keeper` allocates what it brings.
    pub(crate) fn supplied_by(keeper: &Counted<dyn Keeper>) -> Self {
        Self { supplied: Some(keeper.clone()), ..Self::default() }
    }

    /// The page that a source is to be asked for, for all that share it now; `None` if it has a frame, or no source is
    /// behind any page.
    pub(crate) fn wanted(&mut self, page: usize) -> Result<Option<Wanted>, Exhausted> {
        let Some(Node::Leaf(leaf)) = self.node(page, 0)? else { return Ok(None) };
        let share = leaf.0.upgradeable_read().upgrade().share(index(page, 0), self.supplied.as_ref())?;
        Ok(share.filter(|share| share.frame().is_none()).map(|share| share.wanted()))
    }

    /// Makes a root that all pages of a range are below, where a source is behind some: what that brings comes to all that
    /// share the tree from then on.
    pub(crate) fn span(&mut self, range: &Range<usize>) -> Result<(), Exhausted> {
        let Some(keeper) = self.supplied.clone() else { return Ok(()) };
        for page in [range.start, range.end - 1] {
            self.aim(page, 0)?;
            if self.root.is_none() {
                self.root = Some(Node::empty(self.height, &keeper)?);
            }
        }
        Ok(())
    }

    /// The same pages, for another owner.
    pub(crate) fn share(&self) -> Self {
        Self { root: self.root.clone(), height: self.height, base: self.base, supplied: self.supplied.clone() }
    }

    /// Whether it has no nodes.
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether a page is below the root's place.
    fn covers(&self, page: usize) -> bool {
        page >> bits(self.height) == self.base >> bits(self.height)
    }

    /// What is known of a page.
    pub(crate) fn look(&self, page: usize) -> Look {
        if !self.covers(page) {
            return Look { at: None, is_alone: true };
        }
        look(&self.root, self.height, page, true)
    }

    /// The frame of a page.
    pub(crate) fn frame(&self, page: usize) -> Option<PhysAddr> {
        self.look(page).at
    }

    /// Where the block is that the frames of so many pages, from `first` on, are in their order: it was allocated at once, or
    /// as a part of a larger one. `None` if they are anything else.
    pub(crate) fn block(&self, first: usize, pages: usize) -> Option<PhysAddr> {
        let range = first..first + pages;
        let at = self.frame(first).filter(|at| at.as_usize().is_multiple_of(pages * PAGE_SIZE_4K))?;
        let is_block = self.covers(range.end - 1) && is_block(&self.root, self.height, self.base, &range, at);
        is_block.then_some(at)
    }

    /// Makes the root's place one of that height at least, with a page in it.
    fn aim(&mut self, page: usize, height: u32) -> Result<(), Exhausted> {
        if self.root.is_none() {
            (self.height, self.base) = (height, page >> bits(height) << bits(height));
        }
        while !self.covers(page) || self.height < height {
            let above = Counted::try_new(Inner::default()).ok_or(Exhausted::Memory)?;
            above.children.write()[index(self.base, self.height + 1)] = self.root.take();
            self.root = Some(Node::Inner(above));
            self.height += 1;
            self.base = self.base >> bits(self.height) << bits(self.height);
        }
        Ok(())
    }

    /// The place for a node of that height, with a page in it: nodes above it are this tree's alone.
    fn place(&mut self, page: usize, height: u32) -> Result<&mut Child, Exhausted> {
        self.aim(page, height)?;
        let mut at = self.height;
        let Self { root, supplied, .. } = self;
        let mut child = root;
        while at > height {
            let node = match child {
                Some(node) => node,
                None => child.insert(Node::Inner(Counted::try_new(Inner::default()).ok_or(Exhausted::Memory)?)),
            };
            node.make_sole(at, supplied.as_ref())?;
            let Node::Inner(inner) = node else { return Err(Exhausted::Memory) };
            let inner = inner.sole().ok_or(Exhausted::Memory)?;
            child = &mut inner.children.get_mut()[index(page, at)];
            at -= 1;
        }
        Ok(child)
    }

    /// The leaf of a page, which is this tree's alone from now on. It is made if it is not there.
    fn own_leaf(&mut self, page: usize, keeper: &Counted<dyn Keeper>) -> Result<&mut Records, Exhausted> {
        let supplied = self.supplied.clone();
        let child = self.place(page, 0)?;
        let node = match child {
            Some(node) => node,
            None => child.insert(Node::empty(0, keeper)?),
        };
        node.make_sole(0, supplied.as_ref())?;
        node.records_mut().ok_or(Exhausted::Memory)
    }

    /// The leaf of a page, if it is there and this tree's alone, down from the root.
    fn sole_leaf(&mut self, page: usize) -> Option<&mut Records> {
        if !self.covers(page) {
            return None;
        }
        let mut height = self.height;
        let mut node = self.root.as_mut()?;
        while height > 0 {
            let Node::Inner(inner) = node else { return None };
            node = inner.sole()?.children.get_mut()[index(page, height)].as_mut()?;
            height -= 1;
        }
        node.records_mut()
    }

    /// Makes room for the pages of a range, which will be `keeper`'s.
    pub(crate) fn reserve(&mut self, range: Range<usize>, keeper: &Counted<dyn Keeper>) -> Result<(), Exhausted> {
        for first in (range.start & !(FAN - 1)..range.end).step_by(FAN) {
            self.own_leaf(first, keeper)?.expect(keeper)?;
        }
        Ok(())
    }

    /// Gives pages from `first` on, which have none, a frame each. Their room is reserved.
    pub(crate) fn put_all(&mut self, first: usize, mut frames: impl Iterator<Item = Frame>) {
        let mut page = first;
        while let Some(records) = self.sole_leaf(page) {
            let before = page;
            // The records come first: a frame that is taken out of the iterator has one.
            for (record, frame) in records.pages[index(page, 0)..].iter_mut().zip(&mut frames) {
                *record = Record::Own(frame);
                page += 1;
            }
            if page == before || !page.is_multiple_of(FAN) {
                break;
            }
        }
        debug_assert!(frames.next().is_none(), "the room was reserved");
    }

    /// Makes the way to a page this tree's alone, if it has a frame: then it can be taken out without any memory. Whether it is
    /// on the account of `payer`.
    pub(crate) fn prepare(&mut self, page: usize, payer: &Payer) -> Result<bool, Exhausted> {
        let leaf = self.sole_way(page, |look| look.at.is_some())?;
        Ok(leaf.is_some_and(|leaf| leaf.is_paid_by(page, payer)))
    }

    /// Makes the way to a page this tree's alone: its leaf. Where nodes have to be copied for that, `wants` decides by a look
    /// at the page.
    fn sole_way(&mut self, page: usize, wants: impl Fn(Look) -> bool) -> Result<Option<&mut Records>, Exhausted> {
        if !self.covers(page) {
            return Ok(None);
        }
        let mut at = self.height;
        let Self { root, supplied, .. } = self;
        let mut child = root;
        while let Some(node) = child {
            if !node.is_sole() {
                if !wants(look_in(node, at, page, false)) {
                    return Ok(None);
                }
                node.make_sole(at, supplied.as_ref())?;
            }
            let Node::Inner(inner) = node else { return Ok(node.records_mut()) };
            child = &mut inner.sole().ok_or(Exhausted::Memory)?.children.get_mut()[index(page, at)];
            at -= 1;
        }
        Ok(None)
    }

    /// Whether a page can be [taken](Self::take).
    pub(crate) fn is_takable(&self, page: usize, by: (Option<&Counted<dyn Keeper>>, Option<Pool>)) -> bool {
        self.covers(page) && is_takable(&self.root, self.height, page, by)
    }

    /// Takes a page itself out, which was [prepared](Self::prepare), if nothing else names it, and its keeper is that one or
    /// of that pool; else it is to be copied. It is on no account any more.
    pub(crate) fn take(
        &mut self,
        page: usize,
        by: (Option<&Counted<dyn Keeper>>, Option<Pool>),
        payer: Option<&Payer>,
    ) -> Taken {
        let Some(leaf) = self.sole_leaf(page) else { return Taken::Nothing };
        let at = leaf.pages[index(page, 0)].at();
        if leaf.is_takable(index(page, 0), by) {
            return leaf.take(page, payer).map_or(Taken::Nothing, |(at, was_paid)| Taken::Page(at, was_paid));
        }
        at.map_or(Taken::Nothing, Taken::Shared)
    }

    /// Takes a page out for the one that has its own copy of it. It was [prepared](Self::prepare); if it was on the account of
    /// `payer`, the charge comes with it.
    pub(crate) fn leave(&mut self, page: usize, payer: &Payer) -> Option<(Gone, bool)> {
        Some(self.sole_leaf(page)?.remove(page, payer))
    }

    /// Takes the first page of a range out that has a frame or waits for one; what has been looked at goes off the range.
    /// Where nodes are shared it may take memory: without it, the page stays.
    pub(crate) fn take_next(&mut self, range: &mut Range<usize>) -> Option<Gone> {
        let Some(page) = self.next(range.clone()) else {
            range.start = range.end;
            return None;
        };
        range.start = page + 1;
        Some(self.sole_way(page, |_| true).ok()??.take_out(index(page, 0)))
    }

    /// The first page of a range that has a frame or waits for one.
    pub(crate) fn next(&self, range: Range<usize>) -> Option<usize> {
        next(&self.root, self.height, self.base, &range)
    }

    /// How many pages have a frame.
    pub(crate) fn count(&self) -> usize {
        count(&self.root)
    }
}

fn look(child: &Child, height: u32, page: usize, is_alone: bool) -> Look {
    match child {
        Some(node) => look_in(node, height, page, is_alone),
        None => Look { at: None, is_alone },
    }
}

fn look_in(node: &Node, height: u32, page: usize, is_alone: bool) -> Look {
    let is_alone = is_alone && node.is_sole();
    match node {
        Node::Inner(inner) => look(&inner.children.read()[index(page, height)], height - 1, page, is_alone),
        Node::Leaf(leaf) => {
            let record = &leaf.0.read().pages[index(page, 0)];
            Look { at: record.at(), is_alone: is_alone && record.is_alone() }
        }
    }
}

fn is_takable(child: &Child, height: u32, page: usize, by: (Option<&Counted<dyn Keeper>>, Option<Pool>)) -> bool {
    match child.as_ref().filter(|node| node.is_sole()) {
        None => false,
        Some(Node::Inner(inner)) => is_takable(&inner.children.read()[index(page, height)], height - 1, page, by),
        Some(Node::Leaf(leaf)) => leaf.0.read().is_takable(index(page, 0), by),
    }
}

fn next(child: &Child, height: u32, base: usize, range: &Range<usize>) -> Option<usize> {
    let node = child.as_ref()?;
    let last = base + ((1 << bits(height)) - 1);
    if range.start > last || range.end <= base {
        return None;
    }
    let (first, end) = (range.start.max(base), range.end.min(last + 1));
    match node {
        Node::Leaf(leaf) => {
            let records = leaf.0.read();
            (first..end).find(|&page| !records.pages[index(page, 0)].is_absent())
        }
        Node::Inner(inner) => {
            let children = inner.children.read();
            (index(first, height)..=index(end - 1, height))
                .find_map(|at| next(&children[at], height - 1, base + (at << (height * BITS)), range))
        }
    }
}

/// Whether the frames of a node's pages in a range are those of the block at an address, in their order.
fn is_block(child: &Child, height: u32, base: usize, range: &Range<usize>, at: PhysAddr) -> bool {
    let (first, last) = (range.start.max(base), (range.end - 1).min(base + ((1 << bits(height)) - 1)));
    match child {
        None => false,
        Some(Node::Leaf(leaf)) => {
            let records = leaf.0.read();
            (first..=last).all(|page| {
                let at = at + (page - range.start) * PAGE_SIZE_4K;
                let frame = records.pages[index(page, 0)].frame();
                frame.is_some_and(|frame| frame.at() == at && frame.is_of_block(range.len()))
            })
        }
        Some(Node::Inner(inner)) => {
            let children = inner.children.read();
            (index(first, height)..=index(last, height))
                .all(|child| is_block(&children[child], height - 1, base + (child << (height * BITS)), range, at))
        }
    }
}

fn count(child: &Child) -> usize {
    match child {
        None => 0,
        Some(Node::Leaf(leaf)) => leaf.0.read().pages.iter().filter(|record| record.at().is_some()).count(),
        Some(Node::Inner(inner)) => inner.children.read().iter().map(count).sum(),
    }
}
