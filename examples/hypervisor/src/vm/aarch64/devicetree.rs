//! The device tree that the guest gets: memory, CPUs, interrupts, a timer and a UART, and no device that masters the
//! bus, since it would write to host addresses.

use alloc::{format, string::String, vec::Vec};

use vm_fdt::{Error, FdtWriter};

use super::layout;

const GIC: u32 = 1;
const CLOCK: u32 = 2;

/// Writes the tree.
///
/// # Errors
/// The writer's.
pub fn build(cpus: &[u64], command_line: &str, initrd: Option<(u64, u64)>) -> Result<Vec<u8>, Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u32("interrupt-parent", GIC)?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    chosen(&mut tree, command_line, initrd)?;
    let memory = tree.begin_node(&format!("memory@{:x}", layout::RAM))?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[layout::RAM as u64, layout::RAM_SIZE as u64])?;
    tree.end_node(memory)?;
    processors(&mut tree, cpus)?;
    devices(&mut tree)?;
    tree.end_node(root)?;
    tree.finish()
}

fn chosen(tree: &mut FdtWriter, command_line: &str, initrd: Option<(u64, u64)>) -> Result<(), Error> {
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", command_line)?;
    tree.property_string("stdout-path", "/pl011@9000000")?;
    // Linux's random numbers must not wait for entropy that an emulator has not.
    tree.property_array_u64("rng-seed", &[0x1d4b_02c7_95a1_e36f; 8])?;
    if let Some((start, end)) = initrd {
        tree.property_u64("linux,initrd-start", start)?;
        tree.property_u64("linux,initrd-end", end)?;
    }
    tree.end_node(chosen)
}

fn processors(tree: &mut FdtWriter, cpus: &[u64]) -> Result<(), Error> {
    let psci = tree.begin_node("psci")?;
    tree.property_string_list("compatible", ["arm,psci-1.0", "arm,psci-0.2"].map(String::from).to_vec())?;
    tree.property_string("method", "smc")?;
    tree.end_node(psci)?;
    let node = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for &affinity in cpus {
        let cpu = tree.begin_node(&format!("cpu@{affinity:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u32("reg", u32::try_from(affinity).unwrap_or(0))?;
        tree.end_node(cpu)?;
    }
    tree.end_node(node)
}

fn devices(tree: &mut FdtWriter) -> Result<(), Error> {
    let gic = tree.begin_node("intc@8000000")?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_null("interrupt-controller")?;
    tree.property_array_u64("reg", &[0x0800_0000, 0x1_0000, 0x080a_0000, 0x00f6_0000])?;
    tree.property_phandle(GIC)?;
    tree.end_node(gic)?;
    let timer = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    tree.property_null("always-on")?;
    tree.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])?;
    tree.end_node(timer)?;
    let clock = tree.begin_node("apb-pclk")?;
    tree.property_string("compatible", "fixed-clock")?;
    tree.property_u32("#clock-cells", 0)?;
    tree.property_u32("clock-frequency", 24_000_000)?;
    tree.property_string("clock-output-names", "clk24mhz")?;
    tree.property_phandle(CLOCK)?;
    tree.end_node(clock)?;
    let uart = tree.begin_node("pl011@9000000")?;
    tree.property_string_list("compatible", ["arm,pl011", "arm,primecell"].map(String::from).to_vec())?;
    tree.property_array_u64("reg", &[layout::UART as u64, 0x1000])?;
    tree.property_array_u32("interrupts", &[0, 1, 4])?;
    tree.property_array_u32("clocks", &[CLOCK, CLOCK])?;
    tree.property_string_list("clock-names", ["uartclk", "apb_pclk"].map(String::from).to_vec())?;
    tree.end_node(uart)
}
