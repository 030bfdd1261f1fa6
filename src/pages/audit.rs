//! The pages of a tree as an audit reads them: node by node.

use memory_addr::PhysAddr;

use super::{
    Inherited, Pages, bits,
    keeper::Payer,
    node::{Child, Node, Record},
};
use crate::account::Exhausted;

/// A page that a tree names and that has a frame.
#[derive(Clone, Copy)]
pub(crate) struct Named {
    pub page: usize,
    pub at: PhysAddr,
    /// Whether it is on the account that was asked about, by this number.
    pub is_paid: bool,
}

impl Pages {
    /// Shows every page that has a frame to `each`, in the order of their numbers.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn each_named(
        &self,
        payer: Option<&Payer>,
        each: &mut dyn FnMut(Named) -> Result<(), Exhausted>,
    ) -> Result<(), Exhausted> {
        each_below(&self.root, self.height, self.base, payer, each)
    }
}

fn each_below(
    child: &Child,
    height: u32,
    base: usize,
    payer: Option<&Payer>,
    each: &mut dyn FnMut(Named) -> Result<(), Exhausted>,
) -> Result<(), Exhausted> {
    match child {
        None => Ok(()),
        Some(Node::Leaf(leaf)) => {
            let records = leaf.0.read();
            for (page, record) in (base..).zip(&records.pages) {
                let Some(at) = record.at() else { continue };
                let is_paid = match (record, payer) {
                    (Record::Shared(share), Some(payer)) => share.is_paid_by(payer, page),
                    _ => false,
                };
                each(Named { page, at, is_paid })?;
            }
            Ok(())
        }
        Some(Node::Inner(inner)) => {
            let children = inner.children.read();
            for (index, child) in children.iter().enumerate() {
                // Below a leaf there is nothing, whatever the height says.
                let Some(below) = height.checked_sub(1) else { return Ok(()) };
                each_below(child, below, base + (index << bits(below)), payer, each)?;
            }
            Ok(())
        }
    }
}

/// How many pages are still on an account among those that a space has left and that are not free yet.
pub(crate) fn leaving_paid(inherited: &dyn Inherited, payer: &Payer) -> usize {
    let mut paid = 0;
    for tree in inherited.leaving().read().trees() {
        let counted = tree.each_named(Some(payer), &mut |named| {
            paid += usize::from(named.is_paid);
            Ok(())
        });
        debug_assert!(counted.is_ok(), "nothing is refused");
    }
    paid
}
