use std::{
    sync::{Arc, Mutex},
    vec,
    vec::Vec,
};

use super::*;
use crate::{
    addr::Level,
    arch::{x86_64::ept::Errata, x86_64::ept::Features},
    invalidate::Changed,
};

/// Writes down what it is to execute, and refuses what it is told to.
#[derive(Clone, Default)]
struct Notes {
    done: Arc<Mutex<Vec<Op>>>,
    refused: Option<Op>,
}

impl Notes {
    fn take(&self) -> Vec<Op> {
        core::mem::take(&mut self.done.lock().unwrap())
    }
}

impl Executor for Notes {
    fn execute(&self, operation: Op) -> Result<(), VmFail> {
        if self.refused == Some(operation) {
            return Err(VmFail::Valid);
        }
        self.done.lock().unwrap().push(operation);
        Ok(())
    }
}

type Hook = fn(&mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable>;

const ROOT: Root = Root { eptp: 0x1234_501e };

fn capabilities() -> Capabilities {
    Capabilities { physical_bits: 46, features: Features::all(), errata: Errata::empty() }
}

fn tlb(capabilities: Capabilities, notes: &Notes) -> Tlb<Notes, Hook> {
    Tlb::new(capabilities, notes.clone(), |_| Ok(()))
}

#[test]
fn t3_a_flush_is_invept_of_the_roots_tag_and_of_all_where_that_is_all_there_is() {
    let notes = Notes::default();
    tlb(capabilities(), &notes).flush(ROOT, CpuId(0)).unwrap();
    assert_eq!(notes.take(), [Op::Invept(Invept::Single, ROOT.eptp)]);
    tlb(capabilities().without(Features::INVEPT_SINGLE), &notes).flush(ROOT, CpuId(0)).unwrap();
    assert_eq!(notes.take(), [Op::Invept(Invept::All, 0)]);
}

#[test]
fn a_flush_that_the_cpu_refuses_names_the_cpu() {
    let notes = Notes { refused: Some(Op::Invept(Invept::Single, ROOT.eptp)), ..Notes::default() };
    assert_eq!(tlb(capabilities(), &notes).flush(ROOT, CpuId(3)), Err(Unreachable(CpuId(3))));
}

#[test]
fn t4_other_cpus_are_interrupted_and_the_hooks_failure_is_reported() {
    let notes = Notes::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let told = told.clone();
        move |cpus: &mut dyn Iterator<Item = CpuId>| {
            for cpu in cpus {
                if cpu == CpuId(2) {
                    return Err(Unreachable(cpu));
                }
                told.lock().unwrap().push(cpu);
            }
            Ok(())
        }
    };
    let tlb = Tlb::new(capabilities(), notes.clone(), hook);
    assert_eq!(tlb.reach(), Reach::ThisCpu);
    assert_eq!(tlb.interrupt(&mut [CpuId(0), CpuId(1)].into_iter()), Ok(()));
    assert_eq!(tlb.interrupt(&mut [CpuId(1), CpuId(2)].into_iter()), Err(Unreachable(CpuId(2))));
    assert_eq!(*told.lock().unwrap(), [CpuId(0), CpuId(1), CpuId(1)]);
    assert_eq!(notes.take(), []);
}

#[test]
fn a_cpu_starts_without_memories() {
    let notes = Notes::default();
    forget_everything(&capabilities(), &notes).unwrap();
    assert_eq!(notes.take(), [Op::Invept(Invept::All, 0), Op::InvvpidAll]);
    forget_everything(&capabilities().without(Features::INVVPID), &notes).unwrap();
    assert_eq!(notes.take(), [Op::Invept(Invept::All, 0)]);
    let refusing = Notes { refused: Some(Op::InvvpidAll), ..Notes::default() };
    assert_eq!(forget_everything(&capabilities(), &refusing), Err(VmFail::Valid));
}

#[test]
fn publication_denials_and_turns_cost_nothing() {
    let notes = Notes::default();
    let tlb = tlb(capabilities(), &notes);
    tlb.publish();
    tlb.invalidate_denial(ROOT, 0x1000.into());
    tlb.switch_vcpu(ROOT);
    assert_eq!(notes.take(), []);
}

#[test]
fn lines_of_uncached_memory_alone_are_flushed_before_what_follows() {
    #[repr(align(64))]
    struct Lines([u8; 192]);
    let notes = Notes::default();
    let tlb = tlb(capabilities(), &notes);
    let mut memory = Lines([0; 192]);
    let at = NonNull::from(&mut memory.0).cast::<u8>();
    let first = at.as_ptr().addr() as u64;
    for content in [Content::Data, Content::Code] {
        tlb.synchronize(at, 192, content);
        assert_eq!(notes.take(), []);
    }
    tlb.synchronize(NonNull::from(&mut memory.0[60]), 8, Content::Uncached);
    assert_eq!(notes.take(), vec![Op::Clflush(first), Op::Clflush(first + 64), Op::Mfence]);
}

#[test]
fn activation_and_invalidation_name_the_root() {
    let notes = Notes::default();
    let tlb = tlb(capabilities(), &notes);
    tlb.activate(ROOT);
    let range = crate::addr::GuestPhysRange { start: 0.into(), end: 0x1000.into() };
    tlb.invalidate(ROOT, Scope { range, entries: Changed::Leaves(Level::PAGE) });
    tlb.invalidate_all(ROOT);
    let invept = Op::Invept(Invept::Single, ROOT.eptp);
    assert_eq!(notes.take(), [Op::SetEptp(ROOT.eptp), invept, invept]);
}
