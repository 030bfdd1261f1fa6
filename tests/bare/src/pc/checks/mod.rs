//! What only a PC can be asked, whichever vendor's CPUs it has: each suite lists these under its own name.

pub mod entries;
pub mod notes;
pub mod real_mode;
pub mod shootdown;

use hypervisor::cpu;
use stage2::{LeafPolicy, Mapping, MappingFlags, Populate};
use stage2_scenarios::{Machine, Stop, Verdict};

use super::{Pc, Vendor};

/// Where the guests' memory is.
pub const RAM: usize = 0x4000_0000;
/// A block of the second lowest level.
pub const BLOCK: usize = 2 << 20;
/// A block of the third lowest level.
pub const GIGABYTE: usize = 1 << 30;

/// What most guests here may do.
pub const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
/// The same, and execute.
pub const RWX: MappingFlags = RW.union(MappingFlags::EXECUTE);
/// Pages at once.
pub const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };
/// Blocks at once.
pub const BLOCKS: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Largest };

fn need_two_cpus<V: Vendor>(pc: &Pc<V>) -> Verdict {
    if pc.facts().cpus < 2 { Err(Stop::Skipped("it needs two CPUs")) } else { Ok(()) }
}

/// Waits for something, but not for ever: whether it came.
fn comes(patience: u64, mut something: impl FnMut() -> bool) -> bool {
    let start = cpu::ticks();
    while !something() {
        if cpu::ticks() - start > patience {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}
