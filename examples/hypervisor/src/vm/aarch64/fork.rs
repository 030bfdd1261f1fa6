//! A guest in two: the second goes on from where the first one stands, in memory that it shares until either writes.

use alloc::{format, string::String, sync::Arc};

use hypervisor::{line, system::System, vcpu::Registers};
use stage2::Error;

use super::Start;
use crate::machine::Machine;

/// Forks the machine whose virtual CPU called with these registers, while its others run: the new one's number. It has
/// one virtual CPU, which returns from the same call with 0.
///
/// # Errors
/// There is no new machine.
pub fn fork(machine: &Arc<Machine>, registers: &Registers) -> Result<usize, String> {
    let text = |error: Error| format!("{error}");
    let snapshot = machine.space.snapshot().map_err(text)?;
    let child = machine.host.machine(machine.guest, 1)?;
    child.space.restore(&snapshot).map_err(text)?;
    let mut start = Start { registers: registers.clone(), system: Some(System::save()) };
    start.registers.x[0] = 0;
    let (ours, theirs) = (machine.space.stats(), child.space.stats());
    line!(
        "hv: {}forked as guest {}: {} frames shared, the new one has {} of its own and {} of tables",
        machine.label,
        child.number,
        ours.shared_frames,
        theirs.owned_frames,
        theirs.table_frames
    );
    machine.host.starts();
    child.start_vcpu(0, start).map_err(|error| format!("its CPU: {error:x?}"))?;
    Ok(child.number)
}
