//! Taking the pages of a range out of a tree, sharing them with another tree, and bringing that into a third.

use core::ops::Range;

use super::{
    Pages, bits,
    end::Leaving,
    index,
    keeper::{Keeper, Payer},
    node::{BITS, Child, FAN, Node, Record},
};
use crate::{account::Exhausted, counted::Counted};

impl Pages {
    /// Makes the nodes that a range is a part of this tree's alone: what comes to the range comes to no other tree, and a
    /// [cut](Self::cut) takes no memory.
    pub(crate) fn isolate(&mut self, range: &Range<usize>) -> Result<(), Exhausted> {
        let Self { root, height, base, supplied } = self;
        isolate(root, *height, *base, range, supplied.as_ref())
    }

    /// The same, unless there is nothing in the range and no source is behind any page: then there is nothing to cut.
    pub(crate) fn isolate_to_cut(&mut self, range: &Range<usize>) -> Result<(), Exhausted> {
        if self.supplied.is_none() && self.next(range.clone()).is_none() {
            return Ok(());
        }
        self.isolate(range)
    }

    /// How many pieces a [cut](Self::cut) takes out of a range, which is [isolated](Self::isolate): trees, and pages of leaves
    /// of which others stay. None come while nothing else changes this tree: what others have of it too goes as a whole.
    pub(crate) fn pieces(&self, range: &Range<usize>) -> (usize, usize) {
        pieces(&self.root, self.height, self.base, range)
    }

    /// Takes the pages of a range out, which is [isolated](Self::isolate), and for which `into` has [room](Leaving::reserve).
    /// They go off the account of `payer`, if they may be on one.
    pub(crate) fn cut(&mut self, range: &Range<usize>, payer: Option<&Payer>, into: &mut Leaving) {
        let Self { root, height, base, supplied } = self;
        Cut { range, supplied: supplied.as_ref(), payer, into }.node(root, *height, *base);
    }

    /// Has `count` pages of `from`, from `first` on, here from `to` on, where nothing is. Where the numbers agree in their
    /// last bits, nodes are shared, larger ones the more bits agree; else each page by itself.
    ///
    /// # Errors
    /// No memory: some are here.
    pub(crate) fn graft(&mut self, to: usize, from: &mut Self, first: usize, count: usize) -> Result<(), Exhausted> {
        if self.supplied.is_none() {
            self.supplied.clone_from(&from.supplied);
        }
        let mut done = 0;
        while done < count {
            done = match from.supplied {
                Some(_) => done,
                // What is not there need not be shared: it is zeros on either side.
                None => from
                    .next(first + done..first + count)
                    .map_or(count, |page| (page & !(FAN - 1)).max(first) - first)
                    .max(done),
            };
            if done == count {
                break;
            }
            let (source, target) = (first + done, to + done);
            let fits = |height: &u32| {
                let pages = 1_usize << bits(*height);
                (source | target) & (pages - 1) == 0 && pages <= count - done
            };
            if let Some(height) = (0..=from.height).rev().find(fits) {
                let node = from.node(source, height)?;
                if node.is_some() {
                    *self.place(target, height)? = node;
                }
                done += 1 << bits(height);
            } else {
                self.graft_page(target, from, source)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// Makes the way for a tree to be [merged](Self::merge) with this one. Nodes on it may be added.
    pub(crate) fn make_way(&mut self, other: &Self) -> Result<(), Exhausted> {
        if other.root.is_some() { self.place(other.base, other.height).map(drop) } else { Ok(()) }
    }

    /// Has all pages of a tree too, for which the [way](Self::make_way) is made, the ranges of which are
    /// [isolated](Self::isolate), and in which no page is here.
    pub(crate) fn merge(&mut self, mut other: Self) {
        if self.supplied.is_none() {
            self.supplied = other.supplied.take();
        }
        let Some(node) = other.root.take() else { return };
        let place = self.place(other.base, other.height);
        debug_assert!(place.is_ok(), "the way was made");
        if let Ok(child) = place {
            merge(child, node);
        }
    }

    fn graft_page(&mut self, to: usize, from: &mut Self, page: usize) -> Result<(), Exhausted> {
        let Some(Node::Leaf(leaf)) = from.node(page, 0)? else { return Ok(()) };
        let (keeper, share) = {
            let mut records = leaf.0.upgradeable_read().upgrade();
            (records.keeper.clone(), records.share(index(page, 0), from.supplied.as_ref())?)
        };
        if let Some(share) = share {
            self.own_leaf(to, &keeper)?.pages[index(to, 0)] = Record::Shared(share);
        }
        Ok(())
    }

    /// The node of that height with a page in it. Where a source is behind the pages it is made, so that what that brings
    /// comes to all that share the node.
    pub(super) fn node(&mut self, page: usize, height: u32) -> Result<Child, Exhausted> {
        if let Some(keeper) = self.supplied.clone() {
            self.aim(page, height)?;
            if self.root.is_none() {
                self.root = Some(Node::empty(self.height, &keeper)?);
            }
        }
        if !self.covers(page) || self.height < height {
            return Ok(None);
        }
        let Some(mut node) = self.root.clone() else { return Ok(None) };
        for at in (height + 1..=self.height).rev() {
            let Node::Inner(inner) = &node else { return Ok(None) };
            let below = {
                let mut children = inner.children.upgradeable_read().upgrade();
                let child = &mut children[index(page, at)];
                if child.is_none()
                    && let Some(keeper) = &self.supplied
                {
                    *child = Some(Node::empty(at - 1, keeper)?);
                }
                child.clone()
            };
            let Some(below) = below else { return Ok(None) };
            node = below;
        }
        Ok(Some(node))
    }
}

/// Puts what is in a node where nothing of it is. Where both trees have a node, neither shares it: a range ends in it.
fn merge(child: &mut Child, node: Node) {
    match (child, node) {
        (child @ None, node) => *child = Some(node),
        (Some(Node::Inner(to)), Node::Inner(mut from)) => {
            let (to, from) = (to.sole(), from.sole());
            debug_assert!(to.is_some() && from.is_some(), "a range ends in it");
            let (Some(to), Some(from)) = (to, from) else { return };
            for (child, node) in to.children.get_mut().iter_mut().zip(from.children.get_mut()) {
                if let Some(node) = node.take() {
                    merge(child, node);
                }
            }
        }
        (Some(to), mut from) => {
            let (to, from) = (to.records_mut(), from.records_mut());
            debug_assert!(to.is_some() && from.is_some(), "a range ends in it");
            let (Some(to), Some(from)) = (to, from) else { return };
            for (record, page) in to.pages.iter_mut().zip(&mut from.pages).filter(|(_, page)| !page.is_absent()) {
                *record = core::mem::take(page);
            }
        }
    }
}

fn isolate(
    child: &mut Child,
    height: u32,
    base: usize,
    range: &Range<usize>,
    supplied: Option<&Counted<dyn Keeper>>,
) -> Result<(), Exhausted> {
    let Some(node) = child.as_mut().filter(|_| Cover::of(height, base, range) == Cover::Part) else { return Ok(()) };
    node.make_sole(height, supplied)?;
    let Node::Inner(inner) = node else { return Ok(()) };
    let children = inner.sole().ok_or(Exhausted::Memory)?.children.get_mut();
    children
        .iter_mut()
        .enumerate()
        .try_for_each(|(at, child)| isolate(child, height - 1, base + (at << (height * BITS)), range, supplied))
}

fn pieces(child: &Child, height: u32, base: usize, range: &Range<usize>) -> (usize, usize) {
    let Some(node) = child else { return (0, 0) };
    match (Cover::of(height, base, range), node) {
        (Cover::Nothing, _) => (0, 0),
        (Cover::All, _) => (1, 0),
        (Cover::Part, Node::Leaf(leaf)) => {
            let records = leaf.0.read();
            let pages = range.start.max(base)..range.end.min(base + FAN);
            (0, pages.filter(|&page| !records.pages[index(page, 0)].is_absent()).count())
        }
        (Cover::Part, Node::Inner(inner)) => {
            let below = |(at, child)| pieces(child, height - 1, base + (at << (height * BITS)), range);
            let children = inner.children.read();
            children.iter().enumerate().map(below).fold((0, 0), |all, more| (all.0 + more.0, all.1 + more.1))
        }
    }
}

/// A cut.
struct Cut<'c> {
    range: &'c Range<usize>,
    supplied: Option<&'c Counted<dyn Keeper>>,
    payer: Option<&'c Payer>,
    into: &'c mut Leaving,
}

impl Cut<'_> {
    fn node(&mut self, child: &mut Child, height: u32, base: usize) {
        let range = self.range;
        match Cover::of(height, base, range) {
            Cover::Nothing => return,
            Cover::All => {
                let mut pages = Pages { root: child.take(), height, base, supplied: self.supplied.cloned() };
                if !self.into.push(&mut pages, self.payer) {
                    *child = pages.root.take();
                }
                return;
            }
            Cover::Part => {}
        }
        // Where nodes are shared there is nothing in the range, or it would be isolated.
        let Some(node) = child else { return };
        let is_empty = match node {
            Node::Leaf(_) => node.records_mut().is_some_and(|records| {
                for page in range.start.max(base)..range.end.min(base + FAN) {
                    self.into.add_page(records, page, self.payer);
                }
                records.is_empty()
            }),
            Node::Inner(inner) => inner.sole().is_some_and(|inner| {
                let children = inner.children.get_mut();
                for (at, child) in children.iter_mut().enumerate() {
                    self.node(child, height - 1, base + (at << (height * BITS)));
                }
                children.iter().all(Option::is_none)
            }),
        };
        if is_empty {
            *child = None;
        }
    }
}

/// How much of a node a range has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cover {
    Nothing,
    Part,
    All,
}

impl Cover {
    fn of(height: u32, base: usize, range: &Range<usize>) -> Self {
        let last = base + ((1 << bits(height)) - 1);
        if range.start > last || range.end <= base {
            Self::Nothing
        } else if range.start <= base && range.end > last {
            Self::All
        } else {
            Self::Part
        }
    }
}
