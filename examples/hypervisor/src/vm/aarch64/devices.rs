//! What a guest reaches of devices.

use core::ops::Range;

use hypervisor::vcpu::Registers;
use stage2::{GuestPhysAddr, aarch64::Syndrome};

use super::{layout, uart::Uart};
use crate::arguments::Guest;

/// The devices of a machine.
pub struct Devices {
    passed_through: &'static [Range<usize>],
    /// Its UART, if the board's is not its own.
    uart: Option<Uart>,
}

impl Devices {
    /// The devices of a guest that has the board alone, or shares it. Of those that share it Linux has the interrupt
    /// controller.
    pub fn new(guest: Guest, number: usize, alone: bool) -> Self {
        let passed_through: &[_] = match guest {
            _ if alone => &layout::DEVICES,
            Guest::Linux => &layout::DEVICES_BESIDE,
            _ => &[],
        };
        let uart = (!alone).then(|| Uart::new(number, guest == Guest::Linux));
        Self { passed_through, uart }
    }

    /// What the guest reaches of the board's.
    pub fn passed_through(&self) -> &'static [Range<usize>] {
        self.passed_through
    }

    /// Does what an instruction asks of a device that is not the board's; `None` if no such device is at the address.
    pub fn access(&self, gpa: GuestPhysAddr, registers: &mut Registers, syndrome: Syndrome) -> Option<()> {
        let offset = gpa.as_usize().checked_sub(layout::UART).filter(|&offset| offset < layout::UART_SIZE)?;
        self.uart.as_ref()?.access(offset, Transfer::decode(syndrome)?, registers);
        registers.pc += 4;
        Some(())
    }
}

/// A load or store of one register, as the exception describes it (Arm DDI 0487 K.a, D23.2.39, ISS of a data abort).
#[derive(Clone, Copy)]
pub struct Transfer {
    /// The register's number; 31 is always zero.
    pub register: usize,
    /// Which way.
    pub way: Way,
}

/// Which way a value goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the register.
    Load,
    /// From it.
    Store,
}

impl Transfer {
    /// `None` if the exception does not describe it.
    fn decode(syndrome: Syndrome) -> Option<Self> {
        /// `ISV`: the rest of it is valid.
        const VALID: u64 = 1 << 24;
        /// `WnR`.
        const STORE: u64 = 1 << 6;
        let esr = syndrome.esr;
        let way = if esr & STORE == 0 { Way::Load } else { Way::Store };
        (esr & VALID != 0).then_some(Self { register: (esr >> 16 & 0x1f) as usize, way })
    }
}
