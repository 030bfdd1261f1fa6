//! How a machine is made.

use super::{caches::Coherency, fault::Hpfar, registers::Features};

/// What the TLBs hold when the machine starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Nothing.
    Clean,
    /// Anything: a VMID is to be flushed before its first use (H6).
    Unknown,
}

/// Whether a CPU walks the guest's stage 1 while another guest's `VTTBR_EL2` is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speculation {
    /// It does not.
    InContext,
    /// It does unless EPD0 and EPD1 keep it from it: Cortex-A57 and A72 errata 1319537, 1319367 (H2).
    AcrossSwitch,
}

/// What CPUs make of what they cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// All that the architecture allows.
    #[default]
    Everything,
    /// Stage-2 entries serve the walks of the guest's tables and never its data: what QEMU shows. To compare with.
    AsEmulator,
}

/// How a machine is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// CPUs.
    pub cpus: usize,
    /// What each implements.
    pub features: Features,
    /// What `HPFAR_EL2` holds where it is not defined.
    pub hpfar: Hpfar,
    /// Whether caches are seen.
    pub coherency: Coherency,
    /// What the TLBs hold at first.
    pub reset: Reset,
    /// How far a CPU speculates.
    pub speculation: Speculation,
    /// For how many of the guest's latest pages each CPU speculates; their neighbours come with them.
    pub window: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cpus: 2,
            features: Features::ALL,
            hpfar: Hpfar::WhereDefined,
            coherency: Coherency::Coherent,
            reset: Reset::Unknown,
            speculation: Speculation::InContext,
            window: 64,
        }
    }
}
