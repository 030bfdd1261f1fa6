//! The end of a tree, in steps.

use alloc::vec::Vec;
use core::ops::Range;

use super::{
    Pages,
    keeper::Payer,
    node::{Child, FAN, Gone, Node, Records},
};
use crate::account::Exhausted;

/// Pages that a space reaches no more, in no order.
#[derive(Default)]
pub(crate) struct Leaving {
    trees: Vec<LeavingTree>,
    /// Pages of leaves of which others stay.
    page: Option<Gone>,
    pages: Vec<Gone>,
}

/// Some of them.
pub(super) enum Piece {
    Page(Gone),
    Tree(LeavingTree),
}

/// A node with all its pages.
pub(super) struct LeavingTree {
    pages: Pages,
    /// Whose account they may be on, from the page `next` on.
    payer: Option<Payer>,
    next: usize,
    /// Pages from here on may wait for a source.
    waits: usize,
}

/// What came of a look for pages that wait for a source.
pub(super) enum Waiting {
    /// One that does: what waits for it is told when it is dropped.
    Page(Gone),
    /// There may be others.
    More,
    /// There is none.
    Nothing,
}

/// How many pages are looked at with a lock held.
pub(super) const MOST_LOOKS: usize = 256;

impl LeavingTree {
    /// Takes pages off the account, and frees what no other tree names.
    pub(super) fn step(&mut self, budget: &mut usize) {
        self.pages.leave_some(self.payer.as_ref(), &mut self.next, budget);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

impl Leaving {
    /// Room for so many [pieces](Pages::pieces). For one page there always is.
    pub(crate) fn reserve(&mut self, (trees, pages): (usize, usize)) -> Result<(), Exhausted> {
        let pages = pages.saturating_sub(usize::from(self.page.is_none()));
        let room = self.trees.try_reserve(trees).and_then(|()| self.pages.try_reserve(pages));
        room.map_err(|_| Exhausted::Memory)
    }

    /// All pages of a tree, if there is memory to name it.
    pub(super) fn push(&mut self, pages: &mut Pages, payer: Option<&Payer>) -> bool {
        if pages.is_empty() || self.trees.try_reserve(1).is_err() {
            return pages.is_empty();
        }
        self.trees.push(LeavingTree { pages: core::mem::take(pages), payer: payer.cloned(), next: 0, waits: 0 });
        true
    }

    /// A page of a leaf, if there is memory to name it: for one there always is.
    pub(super) fn add_page(&mut self, records: &mut Records, page: usize, payer: Option<&Payer>) {
        if records.pages[super::index(page, 0)].is_absent() {
            return;
        }
        if self.page.is_none() {
            self.page = Some(records.unpaid(page, payer));
        } else if self.pages.try_reserve(1).is_ok() {
            self.pages.push(records.unpaid(page, payer));
        }
    }

    /// Some of it, to be freed without any lock.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        let page = self.page.take().or_else(|| self.pages.pop()).map(Piece::Page);
        page.or_else(|| self.trees.pop().map(Piece::Tree))
    }

    /// Puts a tree back that is not free yet, if there is memory to name it.
    pub(super) fn put_back(&mut self, tree: &mut LeavingTree) -> bool {
        let LeavingTree { pages, payer, next, waits } = tree;
        let (next, waits) = (*next, *waits);
        let is_back = self.push(pages, payer.as_ref());
        if let Some(last) = self.trees.last_mut().filter(|_| is_back) {
            (last.next, last.waits) = (next, waits);
        }
        is_back
    }

    /// Takes out what a source was to bring and has not brought, after a bounded number of looks.
    pub(super) fn take_missing(&mut self) -> Waiting {
        if let Some(page) = self.page.take_if(|page| page.is_missing()) {
            return Waiting::Page(page);
        }
        if let Some(at) = self.pages.iter().position(Gone::is_missing) {
            return Waiting::Page(self.pages.remove(at));
        }
        let waiting = |tree: &&mut LeavingTree| tree.pages.supplied.is_some() && tree.waits != usize::MAX;
        let Some(tree) = self.trees.iter_mut().find(|tree| waiting(tree)) else { return Waiting::Nothing };
        let mut rest = tree.waits..usize::MAX;
        let missing = tree.pages.take_missing(&mut rest, MOST_LOOKS);
        tree.waits = rest.start;
        missing.map_or(Waiting::More, Waiting::Page)
    }

    /// Ends the waits for all of it. Called without any lock: sources are told.
    pub(crate) fn end_waits(&mut self) {
        loop {
            match self.take_missing() {
                Waiting::Page(missing) => drop(missing),
                Waiting::More => {}
                Waiting::Nothing => return,
            }
        }
    }

    /// Frees it until `budget` is used up: each page takes one, and so does a node without any. Called without any lock,
    /// when the waits have ended.
    pub(crate) fn free_some(&mut self, budget: &mut usize) {
        while *budget > 0 {
            if let Some(page) = self.page.take().or_else(|| self.pages.pop()) {
                *budget -= 1;
                drop(page);
                continue;
            }
            let Some(tree) = self.trees.last_mut() else { return };
            tree.step(budget);
            self.trees.pop_if(|tree| tree.is_empty());
        }
    }

    /// The trees among it. The pages beside them are on no account.
    pub(super) fn trees(&self) -> impl Iterator<Item = &Pages> {
        self.trees.iter().map(|tree| &tree.pages)
    }

    /// Whether all is free.
    pub(crate) fn is_empty(&self) -> bool {
        self.page.is_none() && self.pages.is_empty() && self.trees.is_empty()
    }
}

impl Pages {
    /// Takes pages from `next` on off an account, and then frees what no other tree names, until `budget` is used up.
    pub(super) fn leave_some(&mut self, payer: Option<&Payer>, next: &mut usize, budget: &mut usize) {
        while *budget > 0
            && let Some(payer) = payer
            && let Some(page) = self.next(*next..usize::MAX)
        {
            *budget -= 1;
            self.unpay_leaf(page, payer);
            *next = (page | (FAN - 1)) + 1;
        }
        self.free_some(budget);
    }
}

impl Pages {
    /// Frees what no other tree names until `budget` is used up: each page takes one, and so does a node without any.
    pub(crate) fn free_some(&mut self, budget: &mut usize) {
        free_some(&mut self.root, budget);
    }

    /// Takes the first page of a range out that a source was to bring and has not brought: what waits for it is told when it
    /// is dropped. What has been looked at, in so many looks, goes off the range; others wait for what is in nodes that they
    /// share.
    pub(crate) fn take_missing(&mut self, range: &mut Range<usize>, looks: usize) -> Option<Gone> {
        for _ in 0..looks {
            let Some(page) = self.next(range.clone()) else {
                range.start = range.end;
                return None;
            };
            range.start = page + 1;
            if self.frame(page).is_none()
                && let Some(leaf) = self.sole_leaf(page)
            {
                return Some(leaf.take_out(super::index(page, 0)));
            }
        }
        None
    }

    /// Takes pages from `next` on off an account that a source brought, until `budget` is used up: so many nodes with their
    /// leaves. Whether all are off it. None can come to be on it meanwhile.
    ///
    /// What other trees share is passed over: it went off when it came to be shared, and is paid for no more.
    pub(crate) fn unpay_some(&self, payer: &Payer, next: &mut usize, budget: &mut usize) -> bool {
        self.supplied.is_none() || unpay_some(&self.root, (self.height, self.base), payer, next, budget)
    }

    /// Takes the pages of a leaf off an account, whoever else has the leaf.
    fn unpay_leaf(&self, page: usize, payer: &Payer) {
        if self.covers(page) {
            unpay_leaf(&self.root, self.height, page, payer);
        }
    }
}

fn unpay_some(
    child: &Child,
    (height, base): (u32, usize),
    payer: &Payer,
    next: &mut usize,
    budget: &mut usize,
) -> bool {
    let last = base + ((1 << super::bits(height)) - 1);
    let Some(node) = child.as_ref().filter(|node| node.is_sole() && *next <= last) else { return true };
    if height <= 1 {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        *next = last + 1;
    }
    match node {
        Node::Leaf(leaf) => {
            leaf.0.read().unpay(base, payer);
            true
        }
        Node::Inner(inner) => {
            let children = inner.children.read();
            (base..).step_by(1 << super::bits(height - 1)).zip(&*children).all(|(base, child)| {
                // Leaves come with the node above them.
                let (mut first, mut all) = (base, usize::MAX);
                let (next, budget) = if height == 1 { (&mut first, &mut all) } else { (&mut *next, &mut *budget) };
                unpay_some(child, (height - 1, base), payer, next, budget)
            })
        }
    }
}

fn unpay_leaf(child: &Child, height: u32, page: usize, payer: &Payer) {
    match child {
        Some(Node::Leaf(leaf)) => leaf.0.read().unpay(page & !(FAN - 1), payer),
        Some(Node::Inner(inner)) => {
            unpay_leaf(&inner.children.read()[super::index(page, height)], height - 1, page, payer);
        }
        None => {}
    }
}

/// Frees some: with a budget that is left, all is free.
fn free_some(child: &mut Child, budget: &mut usize) {
    let Some(node) = child.take() else { return };
    if *budget == 0 {
        *child = Some(node);
        return;
    }
    let before = *budget;
    // Of several trees that let go at once, one gets it back.
    let Some(mut node) = node.release() else {
        *budget -= 1;
        return;
    };
    let is_free = match &mut node {
        Node::Leaf(leaf) => leaf.sole().is_none_or(|leaf| {
            let records = leaf.0.get_mut();
            for index in 0..FAN {
                if *budget > 0 && !records.pages[index].is_absent() {
                    *budget -= 1;
                    drop(records.take_out(index));
                }
            }
            records.is_empty()
        }),
        Node::Inner(inner) => inner.sole().is_none_or(|inner| {
            let children = inner.children.get_mut();
            for child in children.iter_mut() {
                free_some(child, budget);
            }
            children.iter().all(Option::is_none)
        }),
    };
    if !is_free {
        *child = Some(node);
    } else if *budget == before {
        *budget -= 1;
    }
}
