use std::{
    string::{String, ToString},
    sync::{Arc, Mutex},
    vec::Vec,
};

use super::*;
use crate::{
    addr::GuestPhysRange,
    format::{Marked, Owner, Used},
    invalidate::Changed,
};

fn intel() -> Ept {
    let capabilities =
        ept::Capabilities { physical_bits: 46, features: ept::Features::all(), errata: ept::Errata::empty() };
    Ept::new(&capabilities, ept::Depth::Four).unwrap().with_exceptions(ept::Exceptions::Suppressed)
}

fn amd() -> Npt {
    let capabilities =
        npt::Capabilities { physical_bits: 48, guest_physical_bits: 48, asids: 16, features: npt::Features::all() };
    Npt::new(&capabilities, npt::Asid(7)).unwrap().with_input_bits(40).unwrap()
}

#[test]
fn a_cpu_has_one_of_the_two_or_none() {
    assert_eq!(Extension::from_registers(1 << 5, 0), Some(Extension::Vmx));
    assert_eq!(Extension::from_registers(0, 1 << 2), Some(Extension::Svm));
    assert_eq!(Extension::from_registers(!(1 << 5), !(1 << 2)), None);
}

/// Everything that the walker asks a format, asked of it and of what stands for it.
fn agree(format: &impl Format, nested: &Nested) {
    const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
    assert_eq!(nested.geometry(), format.geometry());
    assert_eq!(nested.output_bits(), format.output_bits());
    assert_eq!(nested.denials(), format.denials());
    assert_eq!((nested.absent(), nested.busy()), (format.absent(), format.busy()));
    let at = PhysAddr::from_usize(0x4000_0000);
    let table = format.table(at);
    assert_eq!(nested.table(at), table);
    for flags in (0..=MappingFlags::all().bits()).map(MappingFlags::from_bits_retain) {
        assert_eq!(nested.check(flags), format.check(flags));
    }
    for level in [0, 1, 2, 3].map(Level) {
        assert_eq!(nested.maps(level), format.maps(level));
        assert_eq!(nested.allowed(level, RW), format.allowed(level, RW));
        let leaf = Leaf { at, flags: RW, owner: Owner::Space, used: Used::Not };
        let entry = format.leaf(level, &leaf);
        assert_eq!(nested.leaf(level, &leaf), entry);
        assert_eq!(
            nested.with_flags(level, entry, MappingFlags::READ),
            format.with_flags(level, entry, MappingFlags::READ)
        );
        let touched = format.touched(level, entry, Access::Write);
        assert_eq!(nested.touched(level, entry, Access::Write), touched);
        assert_eq!(nested.fields(level), format.fields(level));
        assert_eq!(nested.change(level, touched, entry), format.change(level, touched, entry));
        for entry in [entry, table, format.mark(level, entry), format.absent(), format.busy()] {
            assert_eq!(nested.mark(level, entry), format.mark(level, entry));
            assert_eq!(nested.decode(level, entry), format.decode(level, entry));
            assert_eq!(nested.next_table(level, entry), format.next_table(level, entry));
            assert_eq!(nested.leaf_address(level, entry), format.leaf_address(level, entry));
        }
    }
    assert_eq!(nested.decode(Level(3), format.mark(Level(3), table)), Entry::Marked(Marked::Table(at)));
}

#[test]
fn either_format_answers_as_by_itself() {
    agree(&intel(), &Nested::Ept(intel()));
    agree(&amd(), &Nested::Npt(amd()));
    let at = PhysAddr::from_usize(0x4000_0000);
    assert_eq!(Nested::Ept(intel()).root(at), Root::Ept(intel().root(at)));
    assert_eq!(Nested::Npt(amd()).root(at), Root::Npt(amd().root(at)));
}

/// Writes down what it is asked.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn note(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_string());
    }

    fn take(&self) -> Vec<String> {
        core::mem::take(&mut self.0.lock().unwrap())
    }
}

impl<R: Copy + Send + Sync + 'static> Invalidate<R> for Notes {
    fn reach(&self) -> Reach {
        Reach::ThisCpu
    }

    fn publish(&self) {
        self.note("publish");
    }

    fn invalidate(&self, _: R, _: Scope) {
        self.note("invalidate");
    }

    fn invalidate_all(&self, _: R) {
        self.note("invalidate_all");
    }

    fn flush(&self, _: R, _: CpuId) -> Result<(), Unreachable> {
        self.note("flush");
        Ok(())
    }

    fn invalidate_denial(&self, _: R, _: GuestPhysAddr) {
        self.note("invalidate_denial");
    }

    fn switch_vcpu(&self, _: R) {
        self.note("switch_vcpu");
    }

    fn interrupt(&self, _: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        self.note("interrupt");
        Ok(())
    }

    fn synchronize(&self, _: NonNull<u8>, _: usize, _: Content) {
        self.note("synchronize");
    }

    fn activate(&self, _: R) {
        self.note("activate");
    }
}

/// Asks everything.
fn ask(tlb: &NestedTlb<Notes, Notes>, root: Root) -> Result<(), Unreachable> {
    let range = GuestPhysRange { start: 0.into(), end: 0x1000.into() };
    let mut byte = 0_u8;
    assert_eq!(tlb.reach(), Reach::ThisCpu);
    tlb.publish();
    tlb.interrupt(&mut core::iter::empty())?;
    tlb.synchronize(NonNull::from(&mut byte), 1, Content::Uncached);
    tlb.invalidate(root, Scope { range, entries: Changed::Tables });
    tlb.invalidate_all(root);
    tlb.invalidate_denial(root, 0.into());
    tlb.switch_vcpu(root);
    tlb.activate(root);
    tlb.flush(root, CpuId(3))
}

const OF_ANY_ROOT: [&str; 3] = ["publish", "interrupt", "synchronize"];
const OF_ITS_OWN: [&str; 6] = ["invalidate", "invalidate_all", "invalidate_denial", "switch_vcpu", "activate", "flush"];

#[test]
fn either_tlb_is_asked_for_its_own_roots_and_refuses_the_others() {
    let at = PhysAddr::from_usize(0x4000_0000);
    let roots = [Root::Ept(intel().root(at)), Root::Npt(amd().root(at))];
    let notes = Notes::default();
    let tlbs = [NestedTlb::Ept(notes.clone()), NestedTlb::Npt(notes.clone())];
    for (number, tlb) in tlbs.iter().enumerate() {
        assert_eq!(ask(tlb, roots[number]), Ok(()));
        assert_eq!(notes.take(), [&OF_ANY_ROOT[..], &OF_ITS_OWN[..]].concat());
        assert_eq!(ask(tlb, roots[1 - number]), Err(Unreachable(CpuId(3))));
        assert_eq!(notes.take(), OF_ANY_ROOT);
    }
}
