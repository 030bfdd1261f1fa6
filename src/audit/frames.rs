//! Which frames are used for what, in all spaces together.

use alloc::vec::Vec;

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use super::{
    inherited::page_range,
    push,
    report::{Disagreement, Findings, Use},
};
use crate::{account::Exhausted, addr::GuestPhysRange, pages::Named};

/// All frames that are named anywhere.
#[derive(Default)]
pub(super) struct Claims(Vec<Claim>);

/// Frames side by side with one use.
#[derive(Clone, Copy)]
struct Claim {
    start: usize,
    end: usize,
    what: Use,
    space: usize,
    /// Where the first of them is; those of memory follow each other there too.
    range: GuestPhysRange,
}

impl Claims {
    /// `size` bytes at `at` are used by a space at `range`.
    pub fn add(
        &mut self,
        (at, size): (PhysAddr, usize),
        what: Use,
        space: usize,
        range: GuestPhysRange,
    ) -> Result<(), Exhausted> {
        let claim = Claim { start: at.as_usize(), end: at.as_usize().saturating_add(size), what, space, range };
        if let Some(last) = self.0.last_mut().filter(|last| last.goes_on_with(&claim)) {
            (last.end, last.range.end) = (claim.end, range.end);
            return Ok(());
        }
        push(&mut self.0, claim)
    }

    /// What a space inherits.
    pub fn name(&mut self, space: usize, named: &[Named]) -> Result<(), Exhausted> {
        named.iter().try_for_each(|page| self.add((page.at, PAGE_SIZE_4K), Use::Named, space, page_range(page.page)))
    }

    /// Looks for frames with two uses. Only what is named for several may be named twice.
    pub fn check(&mut self, findings: &mut Findings) {
        self.0.sort_unstable_by_key(|claim| claim.start);
        // Of those that start no later, the one that reaches farthest.
        let (mut alone, mut named): (Option<Claim>, Option<Claim>) = (None, None);
        for &claim in &self.0 {
            let is_named = claim.what == Use::Named;
            for other in [alone, named.filter(|_| !is_named)].into_iter().flatten() {
                if claim.start < other.end {
                    let (at, is) = (PhysAddr::from_usize(claim.start), claim.what);
                    let what = Disagreement::TwoUses { at, is, other: other.what, holder: other.space };
                    findings.add(claim.space, claim.first_of(claim.end.min(other.end)), what);
                }
            }
            let farthest = if is_named { &mut named } else { &mut alone };
            if farthest.is_none_or(|farthest| farthest.end < claim.end) {
                *farthest = Some(claim);
            }
        }
    }
}

impl Claim {
    /// Where in the guest the frames up to `end` are. All of a table translates its range.
    fn first_of(&self, end: usize) -> GuestPhysRange {
        match self.what {
            Use::Table | Use::Owed => self.range,
            _ => GuestPhysRange::from_start_size(self.range.start, end - self.start),
        }
    }

    /// Whether another follows it, in the host's memory and in the guest's.
    fn goes_on_with(&self, next: &Self) -> bool {
        let is_alike =
            self.what == next.what && self.space == next.space && !matches!(self.what, Use::Table | Use::Owed);
        is_alike && self.end == next.start && self.range.end == next.range.start
    }
}
