//! The end of a tree, in steps.

use alloc::vec::Vec;
use core::ops::Range;

use super::{
    MOST_LEVELS, Pages,
    keeper::Payer,
    node::{Child, FAN, Gone, Node, Records},
};
use crate::account::Exhausted;

/// Pages that a space reaches no more.
pub(crate) struct Leaving {
    /// Whose account they may be on.
    payer: Payer,
    trees: Vec<Pages>,
    /// The first page of the last tree that may be on the account still.
    next: usize,
    /// Pages of leaves of which others stay.
    page: Option<Gone>,
    pages: Vec<Gone>,
}

impl Leaving {
    /// `payer` is whose they were.
    pub(crate) fn new(payer: &Payer) -> Self {
        Self { payer: payer.clone(), trees: Vec::new(), next: 0, page: None, pages: Vec::new() }
    }

    /// Room for what [`Pages::cut`] takes out of a range. For one page there always is.
    pub(crate) fn reserve(&mut self, range: &Range<usize>) -> Result<(), Exhausted> {
        let leaves = if range.len() < FAN { 0 } else { 2 * FAN * MOST_LEVELS };
        let single = range.len().min(2 * FAN) - 1;
        let room = self.trees.try_reserve(leaves).and_then(|()| self.pages.try_reserve(single));
        room.map_err(|_| Exhausted::Memory)
    }

    /// All pages of a tree. Called without any lock: where there is no memory to name it, it goes at once.
    pub(crate) fn add_all(&mut self, mut pages: Pages) {
        if !self.push(&mut pages) {
            pages.leave_some(&self.payer, &mut 0, &mut { usize::MAX });
        }
    }

    /// A node, with all pages in it, if there is memory to name it.
    pub(super) fn add(&mut self, child: &mut Child, height: u32, base: usize) {
        let mut pages = Pages { root: child.take(), height, base, supplied: None };
        if !self.push(&mut pages) {
            *child = pages.root.take();
        }
    }

    fn push(&mut self, pages: &mut Pages) -> bool {
        if pages.is_empty() || self.trees.try_reserve(1).is_err() {
            return pages.is_empty();
        }
        self.trees.push(core::mem::take(pages));
        self.next = 0;
        true
    }

    /// A page of a leaf, if there is memory to name it: for one there always is.
    pub(super) fn add_page(&mut self, records: &mut Records, page: usize) {
        if records.pages[super::index(page, 0)].is_absent() {
            return;
        }
        if self.page.is_none() {
            self.page = Some(records.unpaid(page, &self.payer));
        } else if self.pages.try_reserve(1).is_ok() {
            self.pages.push(records.unpaid(page, &self.payer));
        }
    }

    /// Frees what no other tree names, and takes what others name off the account, until `budget` is used up: each page takes
    /// one, and so does a node without any.
    pub(crate) fn step(&mut self, budget: &mut usize) {
        while *budget > 0
            && let Some(page) = self.page.take().or_else(|| self.pages.pop())
        {
            *budget -= 1;
            drop(page);
        }
        while *budget > 0
            && let Some(tree) = self.trees.last_mut()
        {
            tree.leave_some(&self.payer, &mut self.next, budget);
            if tree.is_empty() {
                self.trees.pop();
                self.next = 0;
            }
        }
    }

    /// Whether all is done.
    pub(crate) fn is_empty(&self) -> bool {
        self.page.is_none() && self.pages.is_empty() && self.trees.is_empty()
    }
}

impl Pages {
    /// Takes pages from `next` on off an account, and then frees what no other tree names, until `budget` is used up.
    fn leave_some(&mut self, payer: &Payer, next: &mut usize, budget: &mut usize) {
        while *budget > 0
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
    /// is dropped.
    pub(crate) fn take_missing(&mut self, range: Range<usize>) -> Option<Gone> {
        let mut rest = range;
        while let Some(page) = self.next(rest.clone()) {
            if self.frame(page).is_none()
                && let Ok(Some(leaf)) = self.sole_way(page)
            {
                return Some(leaf.take_out(super::index(page, 0)));
            }
            rest.start = page + 1;
        }
        None
    }

    /// Takes all pages off an account that a source brought.
    pub(crate) fn unpay(&self, payer: &Payer) {
        let mut next = 0;
        while self.supplied.is_some()
            && let Some(page) = self.next(next..usize::MAX)
        {
            self.unpay_leaf(page, payer);
            next = (page | (FAN - 1)) + 1;
        }
    }

    /// Takes the pages of a leaf off an account, whoever else has the leaf.
    fn unpay_leaf(&self, page: usize, payer: &Payer) {
        if self.covers(page) {
            unpay_leaf(&self.root, self.height, page, payer);
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
