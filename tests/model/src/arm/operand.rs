//! What a TLB invalidation removes, read from its name and its raw operand. Arm DDI 0487, section C5.5.

use std::ops::Range;

use stage2::aarch64::Tlbi;

use super::registers::{Features, shift};

/// Which cached entries an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    /// Those of stage 2 alone.
    Second,
    /// Those that stage 1 went into: combined ones.
    First,
    /// All.
    Both,
}

/// An operation, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which entries.
    pub stages: Stages,
    /// Intermediate addresses, for the operations by address.
    pub range: Range<u64>,
    /// Only leaves of this level are sure to go, and no walk entries.
    pub level: Option<u8>,
    /// Walk entries stay.
    pub last_level: bool,
    /// Every CPU, not only this one.
    pub shareable: bool,
}

/// Reads an operation.
///
/// # Errors
/// Why a CPU with these features would not do it.
pub fn decode(operation: Tlbi, operand: u64, features: &Features) -> Result<Target, String> {
    let all = |stages, shareable| Target { stages, range: 0..u64::MAX, level: None, last_level: false, shareable };
    match operation {
        Tlbi::Vmalle1is => Ok(all(Stages::First, true)),
        Tlbi::Vmalle1 => Ok(all(Stages::First, false)),
        Tlbi::Vmalls12e1is => Ok(all(Stages::Both, true)),
        Tlbi::Vmalls12e1 => Ok(all(Stages::Both, false)),
        Tlbi::Ipas2e1is | Tlbi::Ipas2le1is | Tlbi::Ipas2e1 => by_address(operation, operand, features),
        Tlbi::Ripas2e1is | Tlbi::Ripas2le1is => by_range(operation, operand, features),
    }
}

/// NS [63], TTL [47:44] (granule, level), RES0 [43:40], IPA[51:12] in [39:0].
fn by_address(operation: Tlbi, operand: u64, features: &Features) -> Result<Target, String> {
    if operand >> 48 != 0 || operand >> 40 & 0xf != 0 {
        return Err(format!("{operation:?} with reserved bits in {operand:#x}"));
    }
    let hint = operand >> 44 & 0xf;
    if hint != 0 && !features.ttl {
        return Err(format!("{operation:?} with a level hint, without FEAT_TTL: {operand:#x}"));
    }
    let start = (operand & 0xff_ffff_ffff) << 12;
    let level = match hint {
        0..=3 => None,
        // The granule is 4 KiB; level 0 is reserved.
        5..=7 => Some((hint & 3) as u8),
        _ => return Err(format!("{operation:?} with a level hint for another granule: {operand:#x}")),
    };
    let last_level = operation == Tlbi::Ipas2le1is;
    let shareable = operation != Tlbi::Ipas2e1;
    Ok(Target { stages: Stages::Second, range: start..start + 4096, level, last_level, shareable })
}

/// NS [63], TG [47:46], SCALE [45:44], NUM [43:39], TTL [38:37], `BaseADDR` [36:0] in granules.
fn by_range(operation: Tlbi, operand: u64, features: &Features) -> Result<Target, String> {
    if !features.range {
        return Err(format!("{operation:?} without FEAT_TLBIRANGE"));
    }
    if operand >> 48 != 0 || operand >> 46 & 3 != 1 {
        return Err(format!("{operation:?} with reserved bits, or not for 4 KiB: {operand:#x}"));
    }
    let (scale, number) = (operand >> 44 & 3, operand >> 39 & 0x1f);
    let start = (operand & 0x1f_ffff_ffff) << 12;
    let bytes = ((number + 1) << (5 * scale + 1)) << 12;
    let level = match operand >> 37 & 3 {
        0 => None,
        level => Some(level as u8),
    };
    // With a hint, a base that is not aligned to the hinted level need not hit anything.
    let hits = level.is_none_or(|level| start.is_multiple_of(1 << shift(level)));
    let range = if hits { start..start.saturating_add(bytes) } else { 0..0 };
    let last_level = operation == Tlbi::Ripas2le1is;
    Ok(Target { stages: Stages::Second, range, level, last_level, shareable: true })
}

impl Target {
    /// Whether some address of `size` bytes from `start` on is meant.
    pub(crate) const fn touches(&self, start: u64, size: u64) -> bool {
        start < self.range.end && self.range.start < start + size
    }
}
