//! The tables by which the guest finds its CPUs (ACPI 6.5, 5.2): the least that Linux is content with.
//!
//! No I/O APIC: the interrupts of the PC's devices come through its two older controllers.

use alloc::vec::Vec;

use super::layout;

/// What every table but the two oldest begins with: signature, length, revision, checksum, makers.
const HEADER: usize = 36;
/// Where a table's checksum is.
const CHECKSUM: usize = 9;
/// Where the first pointer's own, older checksum is, and what it covers.
const OLD_CHECKSUM: usize = 8;
const OLD_POINTER: usize = 20;

/// Where each table stands.
const POINTER: usize = layout::FIRMWARE;
const LIST: usize = POINTER + 0x100;
const FIXED: usize = POINTER + 0x200;
const PROCESSORS: usize = POINTER + 0x400;
const DEFINITIONS: usize = POINTER + 0x800;
const CONTROL: usize = POINTER + 0x900;
const SIZE: usize = 0xa00;

/// The address of the first table.
pub const ROOT: usize = POINTER;

/// All of them, for [`ROOT`].
pub fn build(cpus: usize) -> Vec<u8> {
    let mut memory = alloc::vec![0; SIZE];
    let mut put = |at: usize, bytes: &[u8]| memory[at - POINTER..][..bytes.len()].copy_from_slice(bytes);
    put(POINTER, &pointer());
    put(LIST, &table(*b"XSDT", 1, &[FIXED as u64, PROCESSORS as u64].map(u64::to_le_bytes).concat()));
    put(FIXED, &fixed());
    put(PROCESSORS, &processors(cpus));
    put(DEFINITIONS, &table(*b"DSDT", 2, &[]));
    put(CONTROL, &control());
    memory
}

/// The root pointer (5.2.5.3).
fn pointer() -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[9..15].copy_from_slice(b"STAGE2");
    bytes[15] = 2;
    put_u32(&mut bytes, 20, 36);
    put_u64(&mut bytes, 24, LIST as u64);
    bytes[OLD_CHECKSUM] = checksum(&bytes[..OLD_POINTER]);
    bytes[32] = checksum(&bytes);
    bytes
}

/// The fixed description (5.2.9), revision 4.
fn fixed() -> Vec<u8> {
    const LENGTH: usize = 244;
    /// The interrupt of power events, which never come.
    const INTERRUPT: u8 = 9;
    /// I/O ports that no device answers at: events, control.
    const EVENTS: (u32, u8) = (0xb000, 4);
    const CONTROLS: (u32, u8) = (0xb004, 2);
    /// WBINVD works; no power button, no sleep button.
    const FLAGS: u32 = 1 << 0 | 1 << 4 | 1 << 5;
    let mut bytes = [0; LENGTH];
    put_u32(&mut bytes, 36, CONTROL as u32);
    put_u32(&mut bytes, 40, DEFINITIONS as u32);
    bytes[46] = INTERRUPT;
    put_u32(&mut bytes, 56, EVENTS.0);
    put_u32(&mut bytes, 64, CONTROLS.0);
    bytes[88] = EVENTS.1;
    bytes[89] = CONTROLS.1;
    put_u32(&mut bytes, 112, FLAGS);
    table(*b"FACP", 4, &bytes[HEADER..])
}

/// The processors (5.2.12), numbered as their local APICs are.
fn processors(cpus: usize) -> Vec<u8> {
    const LOCAL_APICS: u32 = 0xfee0_0000;
    /// The two older interrupt controllers are there.
    const FLAGS: u32 = 1;
    let mut bytes = [LOCAL_APICS.to_le_bytes(), FLAGS.to_le_bytes()].concat();
    for cpu in 0..cpus as u8 {
        // A local APIC of 8 bytes, enabled.
        bytes.extend([0, 8, cpu, cpu, 1, 0, 0, 0]);
    }
    table(*b"APIC", 4, &bytes)
}

/// What firmware and system share (5.2.10).
fn control() -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..4].copy_from_slice(b"FACS");
    put_u32(&mut bytes, 4, 64);
    bytes[32] = 2;
    bytes
}

/// A table with its header (5.2.6).
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let length = (HEADER + body.len()) as u32;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(signature);
    bytes.extend(length.to_le_bytes());
    bytes.extend([revision, 0]);
    bytes.extend(b"STAGE2HYPERVIS");
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(b"ST2 ");
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(body);
    bytes[CHECKSUM] = checksum(&bytes);
    bytes
}

/// The byte with which all bytes add up to 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
