//! What a guest reaches of devices.

use core::ops::Range;

use crate::arguments::Guest;

/// The devices of a machine: the PC's own.
pub struct Devices {
    passed_through: &'static [Range<usize>],
}

impl Devices {
    /// A guest's. By memory it reaches none: the local APICs are in x2APIC mode.
    pub fn new(_guest: Guest, _number: usize, _alone: bool) -> Self {
        Self { passed_through: &[] }
    }

    /// What the guest reaches of the PC's by memory.
    pub fn passed_through(&self) -> &'static [Range<usize>] {
        self.passed_through
    }
}
