//! One space's configuration: the tree's shape and EPTP, from one place (W12).
//!
//! Intel SDM Vol. 3C (edition of December 2024), section 29.3 "The extended page table mechanism"; EPTP in 25.6.11.

use memory_addr::PhysAddr;

use super::{Capabilities, Ept, Errata, Features};
use crate::{addr::Level, geometry::Geometry};

/// The value that a space needs in each VMCS that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// EPTP: the root table and how it is walked. Without its low twelve bits it is the tag in the TLBs (EP4TA).
    pub eptp: u64,
}

/// How many levels the tables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Four: 48-bit guest-physical addresses.
    Four,
    /// Five: 57 bits.
    Five,
}

/// Whether the CPU or the hypervisor notes which leaves were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// The hypervisor.
    Software,
    /// The CPU sets accessed and dirty; the guest's own table walks count as writes ([H17](crate::hardware#h17)).
    Hardware,
}

/// Which violations the guest takes itself, as #VE, without an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceptions {
    /// The VM-execution control "EPT-violation #VE" is off.
    Off,
    /// It is on, and each entry suppresses the exception.
    Suppressed,
}

/// Whether large leaves can be executed ([H18](crate::hardware#h18)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargeLeaves {
    /// As the mapping's flags say.
    Executable,
    /// Never: the first fetch splits one. What a CPU with [`Errata::MACHINE_CHECK`] needs, if its guest is not trusted.
    ExecuteNever,
}

/// Why a space cannot be had on these CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No tables of that depth.
    #[error("the CPU has no tables of {0:?} levels")]
    NoDepth(Depth),
    /// It walks tables neither cached nor uncached.
    #[error("the CPU reports no memory type for its walks")]
    NoWalk,
    /// It cannot forget translations.
    #[error("the CPU has no INVEPT")]
    NoInvept,
    /// It does not set accessed and dirty.
    #[error("the CPU does not set accessed and dirty")]
    NoTracking,
    /// Tables of that depth translate at least one bit at their root.
    #[error("guest-physical addresses of {bits} bits; tables of {depth:?} levels translate {least} to {most}")]
    InputBits {
        /// The width that was asked for.
        bits: u32,
        /// The tables.
        depth: Depth,
        /// The narrowest width of such tables.
        least: u32,
        /// The widest.
        most: u32,
    },
    /// An entry holds addresses of 32 to 52 bits.
    #[error("physical addresses of {0} bits")]
    PhysicalBits(u32),
}

/// EPTP \[2:0\]: the memory type of walks. 6 is write-back, 0 uncached (25.6.11).
const WALK_WRITE_BACK: u64 = 6;
/// EPTP \[5:3\]: the number of levels, less one.
const WALK_LENGTH_SHIFT: u32 = 3;
/// EPTP bit 6: the CPU sets accessed and dirty.
const ACCESSED_DIRTY: u64 = 1 << 6;

impl Ept {
    /// The tables of a space.
    ///
    /// `capabilities` is the minimum over all CPUs that may run the space. The hypervisor notes the leaves' use, see
    /// [`with_tracking`](Self::with_tracking); large leaves can be executed where that is safe, see
    /// [`with_large_leaves`](Self::with_large_leaves).
    ///
    /// # Errors
    /// [`ConfigError`] with what the CPUs cannot do.
    pub fn new(capabilities: &Capabilities, depth: Depth) -> Result<Self, ConfigError> {
        let has = |feature| capabilities.features.contains(feature);
        let (levels, root_level) = match depth {
            Depth::Four => (Features::FOUR_LEVELS, Level(3)),
            Depth::Five => (Features::FIVE_LEVELS, Level(4)),
        };
        if !has(levels) {
            return Err(ConfigError::NoDepth(depth));
        }
        if !has(Features::WRITE_BACK_WALK) && !has(Features::UNCACHED_WALK) {
            return Err(ConfigError::NoWalk);
        }
        if capabilities.invept().is_none() {
            return Err(ConfigError::NoInvept);
        }
        if !(32..=52).contains(&capabilities.physical_bits) {
            return Err(ConfigError::PhysicalBits(capabilities.physical_bits));
        }
        Ok(Self {
            capabilities: *capabilities,
            geometry: Geometry { page_shift: 12, index_bits: 9, root_level, root_index_bits: 9 },
            tracking: Tracking::Software,
            exceptions: Exceptions::Off,
            large_leaves: if capabilities.errata.contains(Errata::MACHINE_CHECK) {
                LargeLeaves::ExecuteNever
            } else {
                LargeLeaves::Executable
            },
        })
    }

    /// The same, for guest-physical addresses of `bits`: what is beyond is refused. A guest with tables of its own
    /// cannot name an address beyond MAXPHYADDR as CPUID tells it.
    ///
    /// # Errors
    /// [`ConfigError::InputBits`]: tables of this depth have another width.
    pub fn with_input_bits(self, bits: u32) -> Result<Self, ConfigError> {
        let root = self.geometry.shift(self.geometry.root_level);
        let (least, most) = (root + 1, root + self.geometry.index_bits);
        if !(least..=most).contains(&bits) {
            let depth = if self.geometry.root_level == Level(3) { Depth::Four } else { Depth::Five };
            return Err(ConfigError::InputBits { bits, depth, least, most });
        }
        Ok(Self { geometry: Geometry { root_index_bits: bits - root, ..self.geometry }, ..self })
    }

    /// The same, with the leaves' use noted by `tracking`.
    ///
    /// # Errors
    /// [`ConfigError::NoTracking`] where the CPUs cannot.
    pub fn with_tracking(self, tracking: Tracking) -> Result<Self, ConfigError> {
        let there = self.capabilities.features.contains(Features::ACCESSED_DIRTY);
        if tracking == Tracking::Hardware && !there {
            return Err(ConfigError::NoTracking);
        }
        Ok(Self { tracking, ..self })
    }

    /// The same, for a VMCS with or without "EPT-violation #VE".
    #[must_use]
    pub fn with_exceptions(self, exceptions: Exceptions) -> Self {
        Self { exceptions, ..self }
    }

    /// The same, with large leaves that can be executed or not.
    #[must_use]
    pub fn with_large_leaves(self, large_leaves: LargeLeaves) -> Self {
        Self { large_leaves, ..self }
    }

    /// EPTP for a root at `table`.
    pub(super) fn eptp(&self, table: PhysAddr) -> u64 {
        let cached = self.capabilities.features.contains(Features::WRITE_BACK_WALK);
        let walk = if cached { WALK_WRITE_BACK } else { 0 };
        let tracking = if self.tracking == Tracking::Hardware { ACCESSED_DIRTY } else { 0 };
        table.as_usize() as u64 | tracking | u64::from(self.geometry.root_level.0) << WALK_LENGTH_SHIFT | walk
    }
}

#[cfg(test)]
#[path = "tests/config.rs"]
mod tests;
