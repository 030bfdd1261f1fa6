//! A guest in two: the second goes on from where the first one stands, in memory that it shares until either writes.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use hypervisor::{line, system::System, vcpu::Registers};
use memory_addr::PAGE_SIZE_4K;
use stage2::{Error, Snapshot};

use super::Start;
use crate::machine::Machine;

/// How many milliseconds that takes.
const SETTLING: usize = 5;

/// Forks the machine whose virtual CPU called with these registers, while its others run: the new one's number. It has
/// one virtual CPU, which returns from the same call with 0.
///
/// # Errors
/// There is no new machine.
pub fn fork(machine: &Arc<Machine>, registers: &Registers) -> Result<usize, String> {
    let text = |error: Error| format!("{error}");
    let child = machine.host.machine(machine.guest, 1)?;
    // A new space makes the emulator's CPUs forget everything: until the others have looked at their tables again, an
    // invalidation that the snapshot owed would not be missed.
    (0..SETTLING).for_each(|_| super::pause());
    let snapshot = machine.space.snapshot().map_err(text)?;
    child.space.restore(&snapshot).map_err(text)?;
    stands_still(machine, &snapshot)?;
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

/// Looks at the snapshot twice, while the guest's other CPUs write on.
///
/// # Errors
/// It changed: some CPU still writes by a translation that it should have forgotten.
fn stands_still(machine: &Machine, snapshot: &Snapshot) -> Result<(), String> {
    let mut pages = Vec::new();
    for (range, _, offset) in snapshot.areas() {
        let walked = machine.space.walk(range, |leaf| {
            let first = offset + (leaf.leaf_start - range.start);
            pages.extend((first..first + leaf.size).step_by(PAGE_SIZE_4K));
        });
        walked.map_err(|error| format!("{error}"))?;
    }
    let before = digest(snapshot, &pages)?;
    super::pause();
    if digest(snapshot, &pages)? == before { Ok(()) } else { Err("the snapshot changed after it was taken".into()) }
}

/// The checksum of some of its pages, each by its offset.
fn digest(snapshot: &Snapshot, pages: &[usize]) -> Result<u64, String> {
    pages.iter().try_fold(0_u64, |sum, &offset| {
        let mut bytes = [0; PAGE_SIZE_4K];
        snapshot.region().read(offset, &mut bytes).map_err(|error| format!("{error}"))?;
        Ok(sum.rotate_left(1) ^ exchange::digest(&bytes))
    })
}
