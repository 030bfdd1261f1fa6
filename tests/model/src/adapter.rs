//! The model as the crate's executor.

use std::sync::Arc;

use stage2::{
    aarch64::{Capabilities, Errata, Executor, Features, Op, Stage1},
    x86_64::{ept as crates, npt},
};

use crate::{
    arm::{Coherency, Config, LINE, Machine, Speculation},
    ept,
};

/// Executes on the CPU that the calling thread is (see [`Machine::on`]).
#[derive(Clone)]
pub struct ModelExecutor(pub Arc<Machine>);

impl Executor for ModelExecutor {
    fn execute(&self, operation: Op) {
        self.0.execute(self.0.current(), operation);
    }

    fn vttbr(&self) -> u64 {
        self.0.registers(self.0.current()).vttbr
    }

    fn vtcr(&self) -> u64 {
        self.0.registers(self.0.current()).vtcr
    }

    fn hcr(&self) -> u64 {
        self.0.registers(self.0.current()).hcr
    }

    fn stage1(&self) -> Stage1 {
        let registers = self.0.registers(self.0.current());
        Stage1 { tcr: registers.stage1.tcr, sctlr: registers.stage1.sctlr }
    }

    fn mask_interrupts(&self) -> u64 {
        self.0.mask_interrupts(self.0.current())
    }

    fn restore_interrupts(&self, saved: u64) {
        self.0.restore_interrupts(self.0.current(), saved);
    }
}

/// What the crate would read from the identification registers of a machine's CPUs.
#[must_use]
pub fn capabilities(config: &Config) -> Capabilities {
    let has = |there: bool, feature| if there { feature } else { Features::empty() };
    let model = config.features;
    Capabilities {
        physical_bits: model.pa_bits,
        vmid_bits: model.vmid_bits,
        data_line: LINE as usize,
        features: Features::GRANULE_4K
            | has(model.fwb, Features::FORCED_WRITE_BACK)
            | has(model.xnx, Features::EXECUTE_NEVER_BY_LEVEL)
            | has(model.ttl, Features::TTL)
            | has(model.range, Features::TLB_RANGE)
            | has(model.hafdbs, Features::ACCESS_FLAG | Features::DIRTY_STATE)
            | has(config.coherency == Coherency::Coherent, Features::IDC | Features::DIC),
        errata: match config.speculation {
            Speculation::InContext => Errata::empty(),
            Speculation::AcrossSwitch => Errata::SPECULATIVE_TRANSLATION,
        },
    }
}

/// The same for EPT: executes on the CPU that the calling thread is (see [`on`](ept::Machine::on)).
#[derive(Clone)]
pub struct EptExecutor(pub Arc<ept::Machine>);

impl crates::Executor for EptExecutor {
    fn execute(&self, operation: crates::Op) -> Result<(), crates::VmFail> {
        let cpu = self.0.current();
        match operation {
            crates::Op::Invept(crates::Invept::Single, eptp) => self.0.invept(cpu, eptp),
            crates::Op::Invept(crates::Invept::All, _) => self.0.invept_all(cpu),
            crates::Op::InvvpidAll => self.0.invvpid_all(cpu),
            // The pointer is given at VM entry; the model's caches are coherent.
            crates::Op::SetEptp(_) | crates::Op::Clflush(_) | crates::Op::Mfence => {}
        }
        Ok(())
    }
}

/// The same for NPT: what is to be forgotten waits for the next [`vmrun`](Self::vmrun) on the CPU that owes it.
#[derive(Clone)]
pub struct NptExecutor {
    /// Where it executes.
    pub machine: Arc<ept::Machine>,
    owed: Arc<[npt::Owed]>,
    capabilities: npt::Capabilities,
}

impl NptExecutor {
    /// For all of a machine's CPUs, and all of its spaces.
    #[must_use]
    pub fn new(machine: &Arc<ept::Machine>, cpus: usize, capabilities: npt::Capabilities) -> Self {
        let owed = (0..cpus).map(|_| npt::Owed::everything()).collect();
        Self { machine: machine.clone(), owed, capabilities }
    }

    /// What `VMRUN` does first on a CPU, by `TLB_CONTROL` (AMD64 APM Vol. 2, 15.16.1).
    ///
    /// # Panics
    /// There is no such control.
    pub fn vmrun(&self, cpu: usize, root: npt::Root) {
        match self.owed[cpu].take(root.asid, &self.capabilities) as u8 {
            0 => {}
            1 => self.machine.invept_all(cpu),
            3 => self.machine.invept(cpu, ept::nested_pointer(root.ncr3, root.asid.0)),
            reserved => panic!("TLB_CONTROL {reserved}"),
        }
    }
}

impl npt::Executor for NptExecutor {
    fn execute(&self, operation: npt::Op) {
        match operation {
            npt::Op::Flush(asid) => self.owed[self.machine.current()].add(asid),
            // The root is given at VMRUN; the model's caches are coherent.
            npt::Op::SetRoot(_) | npt::Op::Clflush(_) | npt::Op::Mfence => {}
        }
    }
}
