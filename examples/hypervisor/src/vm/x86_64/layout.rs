//! Where things are, for the host and for the guest.

use core::ops::Range;

/// Where the emulator puts the options.
pub const COMMAND_LINE: Range<usize> = 0x500_0000..0x500_1000;
/// The host frames that the guest's memory and the tables come from.
pub const POOL: Range<usize> = 0x2000_0000..0x4000_0000;

/// The guest's memory.
pub const RAM: usize = 0;
/// Its size.
pub const RAM_SIZE: usize = 256 << 20;
/// What of it a PC has below 1 MiB.
pub const LOW: Range<usize> = 0..0xa_0000;
/// Where the guest's memory goes on after what a PC keeps for itself.
pub const HIGH: Range<usize> = 0x10_0000..RAM_SIZE;

/// Where the page of parameters for Linux goes.
pub const PARAMETERS: usize = 0x1_0000;
/// Where random bytes for Linux go.
pub const SEED: usize = 0x1_1000;
/// Where its command line goes.
pub const GUEST_COMMAND_LINE: usize = 0x2_0000;
/// Where the guest's first tables go.
pub const TABLES: usize = 0x3_0000;
/// Where the tables of its firmware go.
pub const FIRMWARE: usize = 0xe_0000;
/// Where the kernel goes.
pub const KERNEL: usize = 0x100_0000;
/// Where its initial file system goes.
pub const INITRD: usize = 0x500_0000;
