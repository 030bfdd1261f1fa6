//! Where things are, for the host and for the guest.

use core::ops::Range;

/// Where QEMU puts the board's device tree.
pub const BOARD_TREE: usize = 0x4000_0000;
/// The host frames that the guest's memory and the tables come from.
pub const POOL: Range<usize> = 0x8000_0000..0xc000_0000;

/// The guest's memory, at an address that is not the host's.
pub const RAM: usize = 0x4000_0000;
/// Its size.
pub const RAM_SIZE: usize = 512 << 20;
/// Where the kernel goes, in the guest's memory.
pub const KERNEL: usize = RAM + 0x20_0000;
/// Where its device tree goes.
pub const TREE: usize = RAM + 0x800_0000;
/// Where its initial file system goes.
pub const INITRD: usize = RAM + 0x820_0000;

/// Where a guest finds what another one donates to it: outside its memory.
pub const GIFTS: usize = 0x7200_0000;

/// The UART, and its registers' size.
pub const UART: usize = 0x0900_0000;
/// See there.
pub const UART_SIZE: usize = 0x1000;
/// The GIC's distributor and redistributors.
pub const GIC: Range<usize> = 0x0800_0000..0x0900_0000;
/// What a guest reaches of the board's devices, if the board is its own.
pub const DEVICES: [Range<usize>; 2] = [GIC, UART..UART + UART_SIZE];
/// What it reaches where another guest runs beside it.
pub const DEVICES_BESIDE: [Range<usize>; 1] = [GIC];
