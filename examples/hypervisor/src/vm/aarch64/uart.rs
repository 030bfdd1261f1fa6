//! A PL011 that is no device: what a guest sends comes out a line at a time, with the guest's number before it.
//!
//! Arm DDI 0183. It never receives, and there is always room to send: its interrupt says so where the guest unmasks it.
#![allow(unsafe_code, reason = "a register of the interrupt controller")]

use alloc::{string::String, vec::Vec};

use hypervisor::{line, vcpu::Registers};
use spin::Mutex;

use super::devices::{Transfer, Way};

/// The registers.
const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const MASK: usize = 0x38;
const RAW_STATUS: usize = 0x3c;
const MASKED_STATUS: usize = 0x40;
const CLEAR: usize = 0x44;
/// The first of eight that say what it is, in their lowest bytes.
const IDENTIFICATION: usize = 0xfe0;
const IDENTITY: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// Flags: the receive FIFO is empty, and so is the transmit FIFO.
const EMPTY: u32 = 1 << 4 | 1 << 7;
/// The interrupt that says that there is room to send.
const ROOM: u32 = 1 << 5;

/// The word of the distributor that makes the board's UART's interrupt pending, and its bit (`GICD_ISPENDR1`, SPI 1).
const PENDING: *mut u32 = (0x0800_0000 + 0x204) as *mut u32;
const PENDING_BIT: u32 = 1 << 1;

/// The longest line that is kept.
const LINE: usize = 512;

/// The UART of one guest.
pub struct Uart {
    number: usize,
    /// Whether the board's interrupt is the guest's.
    interrupt: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was written to the registers that only keep it.
    kept: [u32; 16],
    line: Vec<u8>,
}

impl Uart {
    /// That of guest `number`.
    pub fn new(number: usize, interrupt: bool) -> Self {
        Self { number, interrupt, state: Mutex::default() }
    }

    /// A load or a store of the register at `offset`.
    pub fn access(&self, offset: usize, transfer: Transfer, registers: &mut Registers) {
        let register = registers.x.get_mut(transfer.register);
        match transfer.way {
            Way::Load => {
                let value = self.load(offset);
                if let Some(register) = register {
                    *register = value.into();
                }
            }
            Way::Store => self.store(offset, register.map_or(0, |register| *register as u32)),
        }
    }

    fn load(&self, offset: usize) -> u32 {
        let state = self.state.lock();
        match offset {
            DATA | CLEAR => 0,
            FLAGS => EMPTY,
            RAW_STATUS => ROOM,
            MASKED_STATUS => ROOM & state.kept[MASK / 4],
            IDENTIFICATION.. => IDENTITY.get((offset - IDENTIFICATION) / 4).copied().unwrap_or(0).into(),
            _ => state.kept.get(offset / 4).copied().unwrap_or(0),
        }
    }

    fn store(&self, offset: usize, value: u32) {
        let mut state = self.state.lock();
        match offset {
            DATA => self.send(&mut state, value as u8),
            _ => {
                if let Some(kept) = state.kept.get_mut(offset / 4) {
                    *kept = value;
                }
            }
        }
        if self.interrupt && matches!(offset, DATA | MASK) && state.kept[MASK / 4] & ROOM != 0 {
            // SAFETY: the interrupt is the guest's, and so is its controller.
            unsafe { PENDING.write_volatile(PENDING_BIT) }
        }
    }

    fn send(&self, state: &mut State, byte: u8) {
        match byte {
            b'\r' => {}
            b'\n' => {
                line!("{}| {}", self.number, String::from_utf8_lossy(&state.line));
                state.line.clear();
            }
            _ if state.line.len() < LINE => state.line.push(byte),
            _ => {}
        }
    }
}
