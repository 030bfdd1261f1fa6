//! The operands of TLB invalidations by address, and the fewest operations for a range.
//!
//! Arm DDI 0487, edition K.a, C5.5: `TLBI IPAS2E1IS`, `TLBI RIPAS2E1IS`.

use super::{Features, Tlbi};
use crate::{
    addr::{GuestPhysAddr, Level},
    invalidate::{Changed, Scope},
};

/// log2 of a page's size: operands count pages.
const PAGE_SHIFT: u32 = 12;
/// log2 of the number of entries in a table.
const INDEX_BITS: u32 = 9;

/// TTL, \[47:44\] of an operand by address: the granule in the upper half (0b01, 4 KiB), the level in the lower.
const TTL_SHIFT: u32 = 44;
const TTL_4K: u64 = 0b01 << 2;

/// TG, \[47:46\] of an operand by range: 0b01 is 4 KiB.
const RANGE_4K: u64 = 0b01 << 46;
/// SCALE, \[45:44\]: a unit is 2^(5 × SCALE + 1) pages.
const RANGE_SCALE_SHIFT: u32 = 44;
/// NUM, \[43:39\]: that many units and one.
const RANGE_NUM_SHIFT: u32 = 39;
/// The most units of one operation.
const RANGE_MOST_UNITS: u64 = 32;
/// TTL, \[38:37\]: the level, 0 for any.
const RANGE_TTL_SHIFT: u32 = 37;

/// The operand for one page, of any level.
pub(super) const fn page(gpa: GuestPhysAddr) -> u64 {
    gpa.as_usize() as u64 >> PAGE_SHIFT
}

/// The operations that cover a scope; `None` where they would be more than `most`.
///
/// The scope's range is not empty.
pub(super) fn operations(scope: Scope, features: Features, most: usize) -> Option<Operations> {
    let level = match scope.entries {
        Changed::Leaves(level) => Some(level),
        Changed::MixedLeaves | Changed::Tables => None,
    };
    let pages_shift = level.map_or(0, |level| u32::from(level.0) * INDEX_BITS);
    let first = page(scope.range.start) >> pages_shift << pages_shift;
    let end = page(scope.range.end).next_multiple_of(1 << pages_shift);
    let operations = Operations {
        next: first,
        pages: end - first,
        stride: 1 << pages_shift,
        // The manual counts down to level 3, the last; 0 is any.
        hint: level
            .filter(|_| features.contains(Features::TTL))
            .map_or(0, |Level(level)| 3_u64.saturating_sub(level.into())),
        tables: scope.entries == Changed::Tables,
        ranges: features.contains(Features::TLB_RANGE),
    };
    operations.are_at_most(most).then_some(operations)
}

/// What is left to invalidate, in pages.
#[derive(Clone, Debug)]
pub(super) struct Operations {
    next: u64,
    pages: u64,
    /// The pages that one leaf covers.
    stride: u64,
    /// The level to hint at; 0 is none.
    hint: u64,
    /// Whether tables went, so that cached walks must go.
    tables: bool,
    ranges: bool,
}

impl Operations {
    /// Whether there are no more than `most` operations.
    fn are_at_most(&self, most: usize) -> bool {
        if self.ranges { self.clone().nth(most).is_none() } else { self.pages / self.stride <= most as u64 }
    }

    /// One entry, whatever its size.
    fn single(&self) -> (Tlbi, u64, u64) {
        let ttl = if self.hint == 0 { 0 } else { (TTL_4K | self.hint) << TTL_SHIFT };
        let tlbi = if self.tables { Tlbi::Ipas2e1is } else { Tlbi::Ipas2le1is };
        (tlbi, self.next | ttl, self.stride)
    }

    /// As many pages as one operation takes: the largest unit that fits, as often as fits.
    fn range(&self) -> (Tlbi, u64, u64) {
        let scale = (0..4).rev().find(|scale| self.pages >> unit_shift(*scale) != 0).unwrap_or(0);
        let units = (self.pages >> unit_shift(scale)).min(RANGE_MOST_UNITS);
        let operand = RANGE_4K
            | u64::from(scale) << RANGE_SCALE_SHIFT
            | (units - 1) << RANGE_NUM_SHIFT
            | self.hint << RANGE_TTL_SHIFT
            | self.next;
        let tlbi = if self.tables { Tlbi::Ripas2e1is } else { Tlbi::Ripas2le1is };
        (tlbi, operand, units << unit_shift(scale))
    }
}

impl Iterator for Operations {
    type Item = (Tlbi, u64);

    fn next(&mut self) -> Option<Self::Item> {
        if self.pages == 0 {
            return None;
        }
        // A range operation takes two pages or more; one leaf goes by itself at any size.
        let single = !self.ranges || self.pages <= self.stride;
        let (tlbi, operand, covered) = if single { self.single() } else { self.range() };
        self.next += covered;
        self.pages -= covered;
        Some((tlbi, operand))
    }
}

/// log2 of the pages in a unit of `scale`.
const fn unit_shift(scale: u32) -> u32 {
    5 * scale + 1
}

#[cfg(test)]
#[path = "tests/operand.rs"]
mod tests;
