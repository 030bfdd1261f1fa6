//! Linux as its 64-bit boot protocol has it (Documentation/arch/x86/boot.rst and zero-page.rst).

use alloc::{format, string::String, vec, vec::Vec};
use core::ops::Range;

use hypervisor::vcpu::Mode;
use memory_addr::PAGE_SIZE_4K;

use super::{Start, acpi, layout, tables::first_gib};
use crate::{
    guest::{board_memory, write},
    machine::Machine,
};

/// Where the setup header begins, in the file and in the page of parameters.
const HEADER: usize = 0x1f1;
/// Offsets in the page of parameters.
const ACPI_ROOT: usize = 0x070;
const MEMORY_COUNT: usize = 0x1e8;
const SETUP_SECTORS: usize = 0x1f1;
const JUMP: usize = 0x201;
const SIGNATURE: usize = 0x202;
const LOADER: usize = 0x210;
const INITRD: usize = 0x218;
const COMMAND_LINE: usize = 0x228;
const KERNEL_FLAGS: usize = 0x236;
const SETUP_DATA: usize = 0x250;
const MEMORY_MAP: usize = 0x2d0;

/// The kernel has an entry in 64-bit mode, this far behind its beginning.
const HAS_64_BIT_ENTRY: u8 = 1;
const ENTRY: usize = 0x200;
/// A loader without a number.
const NO_NUMBER: u8 = 0xff;
/// Kinds of memory in the map.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

/// No device that would master the bus, no I/O APIC, clocks that an emulator keeps, and none of the tests and counter
/// measures that take longer than the guest's work.
const OPTIONS: &str = "console=ttyS0,115200 rdinit=/init panic=-1 loglevel=4 nokaslr noapic pci=off tsc=reliable \
                       clocksource=tsc no_timer_check mitigations=off nopti init_on_alloc=0 reboot=t lsm= \
                       cryptomgr.notests";

/// Loads it: where it starts.
pub fn load(machine: &Machine) -> Result<Start, String> {
    let arguments = &machine.host.arguments;
    let file = board_memory(&arguments.kernel);
    let (mut parameters, kernel) = split(file).ok_or("the kernel is no bzImage with a 64-bit entry")?;
    write(machine, layout::KERNEL, kernel)?;
    write(machine, layout::INITRD, board_memory(&arguments.initrd))?;
    parameters[LOADER] = NO_NUMBER;
    put(&mut parameters, INITRD, &(layout::INITRD as u32).to_le_bytes());
    put(&mut parameters, INITRD + 4, &(arguments.initrd.len() as u32).to_le_bytes());
    put(&mut parameters, COMMAND_LINE, &(layout::GUEST_COMMAND_LINE as u32).to_le_bytes());
    put(&mut parameters, ACPI_ROOT, &(acpi::ROOT as u64).to_le_bytes());
    put(&mut parameters, SETUP_DATA, &(layout::SEED as u64).to_le_bytes());
    put_memory(&mut parameters);
    write(machine, layout::PARAMETERS, &parameters)?;
    write(machine, layout::GUEST_COMMAND_LINE, format!("{OPTIONS}{}\0", arguments.rest).as_bytes())?;
    write(machine, layout::FIRMWARE, &acpi::build(arguments.cpus))?;
    write(machine, layout::SEED, &seed())?;
    write(machine, layout::TABLES, &first_gib(layout::TABLES))?;
    let mode = Mode::Long { cr3: layout::TABLES as u64, rip: (layout::KERNEL + ENTRY) as u64 };
    Ok(Start { mode, context: layout::PARAMETERS as u64 })
}

/// A page of parameters with the header of a bzImage, and what of the file is the kernel.
fn split(file: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let signed = file.get(SIGNATURE..SIGNATURE + 4)? == b"HdrS";
    if !signed || *file.get(KERNEL_FLAGS)? & HAS_64_BIT_ENTRY == 0 {
        return None;
    }
    let header = HEADER..SIGNATURE + usize::from(*file.get(JUMP)?);
    let mut parameters = vec![0; PAGE_SIZE_4K];
    parameters.get_mut(header.clone())?.copy_from_slice(file.get(header)?);
    let setup = (usize::from(file[SETUP_SECTORS]) + 1) * 512;
    Some((parameters, file.get(setup..)?))
}

/// The memory that there is, and what the firmware's tables take.
fn put_memory(parameters: &mut [u8]) {
    let firmware = layout::FIRMWARE..layout::HIGH.start;
    let map: [(Range<usize>, u32); 3] = [(layout::LOW, USABLE), (firmware, RESERVED), (layout::HIGH, USABLE)];
    parameters[MEMORY_COUNT] = map.len() as u8;
    for (place, (range, kind)) in parameters[MEMORY_MAP..].chunks_exact_mut(20).zip(map) {
        place[..8].copy_from_slice(&(range.start as u64).to_le_bytes());
        place[8..16].copy_from_slice(&(range.len() as u64).to_le_bytes());
        place[16..].copy_from_slice(&kind.to_le_bytes());
    }
}

/// Linux's random numbers must not wait for entropy that an emulator has not: `struct setup_data` of type 9.
fn seed() -> Vec<u8> {
    const LENGTH: u32 = 32;
    const RANDOM_SEED: u32 = 9;
    let mut bytes = [0; 16].to_vec();
    put(&mut bytes, 8, &RANDOM_SEED.to_le_bytes());
    put(&mut bytes, 12, &LENGTH.to_le_bytes());
    bytes.extend([0x1d4b_02c7_95a1_e36f_u64; LENGTH as usize / 8].map(u64::to_le_bytes).concat());
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
