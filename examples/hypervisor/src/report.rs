//! The report of a run, for its reader and for the tool that judges it.

use alloc::{
    format,
    string::{String, ToString},
};
use core::{fmt::Write, sync::atomic::Ordering};

use hypervisor::{line, memory::Pool};
use memory_addr::PAGE_SIZE_4K;
use stage2::GuestPhysRange;

use crate::machine::Machine;

/// The most lines of a map that are shown.
const LINES: usize = 24;

/// Prints the guest's map.
pub fn map(machine: &Machine, when: &str) {
    let text = machine.space.to_string();
    let lines = text.lines().count();
    let label = &machine.label;
    line!("hv: {label}map {when}:");
    for line in text.lines().take(LINES) {
        line!("hv: {label}map   {line}");
    }
    if lines > LINES {
        line!("hv: {label}map   … and {} more lines", lines - LINES);
    }
}

/// Prints the figures.
pub fn stats(machine: &Machine) {
    let stats = machine.space.stats();
    machine.host.pool.check_all();
    let (checked, bad) = Pool::poison();
    let [pages, blocks, large, ..] = stats.leaves;
    let invalidations = stats.invalidations;
    line!(
        "hv: {}stats faults={} leaves_4k={pages} leaves_2m={blocks} leaves_1g={large} invalidations_range={} \
         invalidations_all={} invalidations_denial={} relocations={} poison_checked={checked} poison_bad={bad} tables={} \
         private={} copied={} shared={}",
        machine.label,
        stats.faults,
        invalidations.ranges,
        invalidations.all,
        invalidations.denials,
        machine.torture.moved.load(Ordering::Relaxed),
        stats.table_frames,
        stats.owned_frames - stats.copied_frames,
        stats.copied_frames,
        stats.shared_frames,
    );
}

/// Prints how many frames did not come back to the pool, and whether one that did was written afterwards.
pub fn frames_left(pool: Pool) {
    pool.check_all();
    let (checked, bad) = Pool::poison();
    line!("hv: frames left={} poison_checked={checked} poison_bad={bad}", pool.allocated());
}

/// The frames behind some of a guest's memory, in its order.
#[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "a PC has one guest"))]
pub fn frames(machine: &Machine, range: GuestPhysRange) -> String {
    let mut text = String::new();
    let walked = machine.space.walk(range, |leaf| {
        let first = leaf.leaf_start.max(range.start);
        let at = leaf.hpa + (first - leaf.leaf_start);
        for offset in (0..(leaf.leaf_start + leaf.size).min(range.end) - first).step_by(PAGE_SIZE_4K) {
            let _ = write!(text, " {:#x}", at.as_usize() + offset);
        }
    });
    walked.map_or_else(|error| format!(" none: {error}"), |()| text)
}
