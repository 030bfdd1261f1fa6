use std::{
    sync::{Arc, Mutex},
    vec,
    vec::Vec,
};

use super::*;
use crate::{addr::Level, arch::x86_64::npt::Asid, invalidate::Changed};

/// Writes down what it is to execute.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Op>>>);

impl Notes {
    fn take(&self) -> Vec<Op> {
        core::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Executor for Notes {
    fn execute(&self, operation: Op) {
        self.0.lock().unwrap().push(operation);
    }
}

type Hook = fn(&mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable>;

const ROOT: Root = Root { ncr3: 0x1234_5000, asid: Asid(7) };

fn tlb(notes: &Notes) -> Tlb<Notes, Hook> {
    Tlb::new(notes.clone(), |_| Ok(()))
}

#[test]
fn t3_a_flush_is_of_the_roots_asid_whole() {
    let notes = Notes::default();
    let tlb = tlb(&notes);
    let range = crate::addr::GuestPhysRange { start: 0.into(), end: 0x1000.into() };
    tlb.flush(ROOT, CpuId(0)).unwrap();
    tlb.invalidate(ROOT, Scope { range, entries: Changed::Leaves(Level::PAGE) });
    tlb.invalidate_all(ROOT);
    assert_eq!(notes.take(), [Op::Flush(Asid(7)); 3]);
}

#[test]
fn t4_other_cpus_are_interrupted_and_the_hooks_failure_is_reported() {
    let notes = Notes::default();
    let hook = |cpus: &mut dyn Iterator<Item = CpuId>| {
        let deaf = cpus.fold(None, |deaf, cpu| if cpu == CpuId(2) { Some(cpu) } else { deaf });
        deaf.map_or(Ok(()), |cpu| Err(Unreachable(cpu)))
    };
    let tlb = Tlb::new(notes.clone(), hook);
    assert_eq!(tlb.reach(), Reach::ThisCpu);
    assert_eq!(tlb.interrupt(&mut [CpuId(0), CpuId(1)].into_iter()), Ok(()));
    assert_eq!(tlb.interrupt(&mut [CpuId(1), CpuId(2)].into_iter()), Err(Unreachable(CpuId(2))));
    assert_eq!(notes.take(), []);
}

/// Unlike VPIDs, an ASID is the space's: both have the same linear addresses.
#[test]
fn two_virtual_cpus_that_take_turns_forget_each_others_linear_addresses() {
    let notes = Notes::default();
    tlb(&notes).switch_vcpu(ROOT);
    assert_eq!(notes.take(), [Op::Flush(Asid(7))]);
}

#[test]
fn publication_and_denials_cost_nothing() {
    let notes = Notes::default();
    let tlb = tlb(&notes);
    tlb.publish();
    tlb.invalidate_denial(ROOT, 0x1000.into());
    assert_eq!(notes.take(), []);
}

#[test]
fn lines_of_uncached_memory_alone_are_flushed_before_what_follows() {
    #[repr(align(64))]
    struct Lines([u8; 192]);
    let notes = Notes::default();
    let tlb = tlb(&notes);
    let mut memory = Lines([0; 192]);
    let at = NonNull::from(&mut memory.0).cast::<u8>();
    let first = at.as_ptr().addr() as u64;
    for content in [Content::Data, Content::Code] {
        tlb.synchronize(at, 192, content);
        assert_eq!(notes.take(), []);
    }
    tlb.synchronize(NonNull::from(&mut memory.0[60]).cast(), 8, Content::Uncached);
    assert_eq!(notes.take(), vec![Op::Clflush(first), Op::Clflush(first + 64), Op::Mfence]);
}

#[test]
fn activation_names_the_root() {
    let notes = Notes::default();
    tlb(&notes).activate(ROOT);
    assert_eq!(notes.take(), [Op::SetRoot(ROOT)]);
}
