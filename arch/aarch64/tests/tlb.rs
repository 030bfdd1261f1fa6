use std::{sync::Mutex, vec, vec::Vec};

use super::*;
use crate::{
    addr::{GuestPhysRange, Level},
    invalidate::Changed,
};

const PAGES: Changed = Changed::Leaves(Level::PAGE);

const DSB_ISHST: Op = Op::Dsb(Domain::InnerShareable, Kind::Stores);
const DSB_ISH: Op = Op::Dsb(Domain::InnerShareable, Kind::All);
const DSB_NSH: Op = Op::Dsb(Domain::NonShareable, Kind::All);
const DSB_SY: Op = Op::Dsb(Domain::System, Kind::All);
const VMALLE1IS: Op = Op::Tlbi(Tlbi::Vmalle1is, 0);
const VMALLE1: Op = Op::Tlbi(Tlbi::Vmalle1, 0);
const VMALLS12E1IS: Op = Op::Tlbi(Tlbi::Vmalls12e1is, 0);

const OWN: Root = Root { vttbr: 0x0007_0000_8000_0000, vtcr: 0x8002_3558, hcr: 1 };
const OTHERS: u64 = 0x0003_0000_9000_0000;

/// A CPU that writes down what it is told.
struct Recorder {
    vttbr: u64,
    vtcr: u64,
    hcr: u64,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    operations: Vec<Op>,
    masked: bool,
}

impl Executor for Recorder {
    fn execute(&self, operation: Op) {
        let mut log = self.log.lock().unwrap();
        let touches_context = matches!(operation, Op::Tlbi(..) | Op::SetTcrEl1(_) | Op::SetSctlrEl1(_));
        assert!(log.masked || !touches_context, "{operation:?} while an interrupt may change the VMID");
        log.operations.push(operation);
    }

    fn vttbr(&self) -> u64 {
        self.vttbr
    }

    fn vtcr(&self) -> u64 {
        self.vtcr
    }

    fn hcr(&self) -> u64 {
        self.hcr
    }

    fn stage1(&self) -> Stage1 {
        Stage1 { tcr: 0x10, sctlr: 0x1000 }
    }

    fn mask_interrupts(&self) -> u64 {
        self.log.lock().unwrap().masked = true;
        0x3c0
    }

    fn restore_interrupts(&self, saved: u64) {
        assert_eq!(saved, 0x3c0);
        self.log.lock().unwrap().masked = false;
    }
}

fn capabilities(features: Features) -> Capabilities {
    Capabilities { physical_bits: 44, vmid_bits: 8, data_line: 64, features, errata: Errata::empty() }
}

fn tlb(features: Features, vttbr: u64) -> Tlb<Recorder> {
    Tlb::new(capabilities(features), Recorder { vttbr, vtcr: OWN.vtcr, hcr: 0, log: Mutex::default() })
}

fn plain() -> Tlb<Recorder> {
    tlb(Features::empty(), OWN.vttbr)
}

/// What `action` tells the CPU, which is unmasked at its end.
fn told(tlb: &Tlb<Recorder>, action: impl FnOnce(&Tlb<Recorder>)) -> Vec<Op> {
    action(tlb);
    let log = core::mem::take(&mut *tlb.executor().log.lock().unwrap());
    assert!(!log.masked);
    log.operations
}

fn scope(start: usize, end: usize, entries: Changed) -> Scope {
    Scope { range: GuestPhysRange::new(start.into(), end.into()), entries }
}

fn invalidation(tlb: &Tlb<Recorder>, start: usize, end: usize, entries: Changed) -> Vec<Op> {
    told(tlb, |tlb| tlb.invalidate(OWN, scope(start, end, entries)))
}

mod invalidation {
    use super::*;

    #[test]
    fn of_a_page_is_stage_2_then_stage_1_each_complete() {
        assert_eq!(
            invalidation(&plain(), 0x4000_1000, 0x4000_2000, PAGES),
            [DSB_ISHST, Op::Tlbi(Tlbi::Ipas2le1is, 0x4_0001), DSB_ISH, VMALLE1IS, DSB_ISH, Op::Isb]
        );
    }

    /// Cortex-A76 erratum 1286807 and its kin.
    #[test]
    fn is_repeated_where_one_does_not_wait_for_every_access() {
        let affected = Capabilities { errata: Errata::INCOMPLETE_BROADCAST, ..capabilities(Features::empty()) };
        let recorder = || Recorder { vttbr: OWN.vttbr, vtcr: OWN.vtcr, hcr: 0, log: Mutex::default() };
        let tlb = Tlb::new(affected, recorder());
        let twice = [VMALLE1IS, DSB_ISH, VMALLE1IS, DSB_ISH, Op::Isb];
        assert_eq!(invalidation(&tlb, 0x4000_1000, 0x4000_2000, PAGES)[3..], twice);
        let vmalls = Op::Tlbi(Tlbi::Vmalls12e1is, 0);
        assert_eq!(told(&tlb, |tlb| tlb.invalidate_all(OWN)), [DSB_ISHST, vmalls, DSB_ISH, vmalls, DSB_ISH, Op::Isb]);
        let local = told(&tlb, |tlb| tlb.switch_vcpu(OWN));
        assert_eq!(local.iter().filter(|op| matches!(op, Op::Tlbi(..))).count(), 1, "this CPU needs no second");
    }

    #[test]
    fn of_tables_takes_cached_walks_too() {
        assert_eq!(
            invalidation(&plain(), 0x4000_1000, 0x4000_2000, Changed::Tables)[1],
            Op::Tlbi(Tlbi::Ipas2e1is, 0x4_0001)
        );
    }

    #[test]
    fn of_a_block_hints_at_its_level() {
        let tlb = tlb(Features::TTL, OWN.vttbr);
        for (level, size, operand) in
            [(0, 0x1000, 0x7000_0004_0000), (1, 0x20_0000, 0x6000_0004_0000), (2, 0x4000_0000, 0x5000_0004_0000)]
        {
            let told = invalidation(&tlb, 0x4000_0000, 0x4000_0000 + size, Changed::Leaves(Level(level)));
            assert_eq!(told[1..3], [Op::Tlbi(Tlbi::Ipas2le1is, operand), DSB_ISH], "level {level}");
        }
    }

    #[test]
    fn of_tables_or_several_levels_hints_at_nothing() {
        let tlb = tlb(Features::TTL, OWN.vttbr);
        for entries in [Changed::Tables, Changed::MixedLeaves] {
            let Op::Tlbi(_, operand) = invalidation(&tlb, 0x4000_0000, 0x4000_1000, entries)[1] else { panic!() };
            assert_eq!(operand, 0x4_0000);
        }
    }

    #[test]
    fn of_a_range_is_one_operation_where_the_cpu_has_it() {
        let tlb = tlb(Features::TLB_RANGE, OWN.vttbr);
        assert_eq!(
            invalidation(&tlb, 0x4000_0000, 0x4020_0000, Changed::Tables),
            // 512 pages: 8 units of 2^6.
            [DSB_ISHST, Op::Tlbi(Tlbi::Ripas2e1is, 0x5380_0004_0000), DSB_ISH, VMALLE1IS, DSB_ISH, Op::Isb]
        );
    }

    #[test]
    fn of_the_most_pages_goes_by_page_and_of_one_more_by_vmid() {
        let most = 0x1000 * MOST_OPERATIONS;
        let told = invalidation(&plain(), 0, most, PAGES);
        assert_eq!(told.len(), MOST_OPERATIONS + 5);
        assert_eq!(invalidation(&plain(), 0, most + 0x1000, PAGES), [DSB_ISHST, VMALLS12E1IS, DSB_ISH, Op::Isb]);
    }

    #[test]
    fn of_nothing_is_nothing() {
        assert_eq!(invalidation(&plain(), 0x1000, 0x1000, PAGES), []);
    }

    #[test]
    fn of_everything_is_one_operation() {
        assert_eq!(told(&plain(), |tlb| tlb.invalidate_all(OWN)), [DSB_ISHST, VMALLS12E1IS, DSB_ISH, Op::Isb]);
    }

    #[test]
    fn of_a_denial_stays_on_this_cpu() {
        assert_eq!(
            told(&plain(), |tlb| tlb.invalidate_denial(OWN, 0x4000_1234.into())),
            [DSB_NSH, Op::Tlbi(Tlbi::Ipas2e1, 0x4_0001), DSB_NSH, VMALLE1, DSB_NSH, Op::Isb]
        );
    }

    #[test]
    fn between_two_virtual_cpus_stays_on_this_cpu() {
        assert_eq!(told(&plain(), |tlb| tlb.switch_vcpu(OWN)), [DSB_NSH, VMALLE1, DSB_NSH, Op::Isb]);
    }

    #[test]
    fn reaches_every_cpu_so_that_none_is_interrupted() {
        assert_eq!(plain().reach(), Reach::Everywhere);
        assert_eq!(plain().interrupt(&mut [CpuId(1)].into_iter()), Ok(()));
    }
}

#[path = "tlb/another_vmid.rs"]
mod another_vmid;

#[path = "tlb/a_host_with_applications.rs"]
mod a_host_with_applications;

#[test]
fn publication_is_one_barrier() {
    assert_eq!(told(&plain(), Tlb::publish), [DSB_ISHST]);
}

#[test]
fn activation_ends_old_walks_and_loads_every_register() {
    let forced = Root { hcr: HCR_BITS, ..OWN };
    let registers =
        |clear, set| [DSB_ISH, Op::SetVtcr(OWN.vtcr), Op::SetVttbr(OWN.vttbr), Op::ChangeHcr(clear, set), Op::Isb];
    assert_eq!(told(&plain(), |tlb| tlb.activate(OWN)), registers(1 << 46, 1), "FWB of another space goes");
    assert_eq!(told(&plain(), |tlb| tlb.activate(forced)), registers(0, 1 << 46 | 1));
}

mod caches {
    use super::*;

    fn synchronized(features: Features, start: usize, len: usize, content: Content) -> Vec<Op> {
        let bytes = NonNull::without_provenance(start.try_into().unwrap());
        told(&tlb(features, OWN.vttbr), |tlb| tlb.synchronize(bytes, len, content))
    }

    #[test]
    fn every_line_that_a_byte_is_in_is_cleaned() {
        for (start, len, lines) in [
            (0x1000, 64, vec![0x1000]),
            (0x1000, 65, vec![0x1000, 0x1040]),
            (0x103f, 2, vec![0x1000, 0x1040]),
            (0x1001, 1, vec![0x1000]),
        ] {
            let mut expected: Vec<_> = lines.into_iter().map(Op::DcCivac).collect();
            expected.push(DSB_SY);
            assert_eq!(synchronized(Features::empty(), start, len, Content::Data), expected);
        }
    }

    #[test]
    fn lines_are_of_the_cpus_size() {
        let small = Capabilities { data_line: 16, ..capabilities(Features::empty()) };
        let tlb = Tlb::new(small, Recorder { vttbr: 0, vtcr: OWN.vtcr, hcr: 0, log: Mutex::default() });
        let bytes = NonNull::without_provenance(0x1000.try_into().unwrap());
        assert_eq!(told(&tlb, |tlb| tlb.synchronize(bytes, 64, Content::Data)).len(), 4 + 1);
    }

    #[test]
    fn data_needs_nothing_where_write_back_is_forced() {
        assert_eq!(synchronized(Features::FORCED_WRITE_BACK, 0x1000, 64, Content::Data), []);
    }

    #[test]
    fn uncached_memory_is_cleaned_also_where_write_back_is_forced() {
        let features = Features::FORCED_WRITE_BACK | Features::IDC | Features::DIC;
        let expected = [Op::DcCivac(0x1000), DSB_SY, DSB_ISH, Op::Isb];
        assert_eq!(synchronized(features, 0x1000, 64, Content::Uncached), expected);
    }

    #[test]
    fn code_is_cleaned_before_instruction_caches_are_invalidated() {
        let civac = Op::DcCivac(0x1000);
        let cvau = Op::DcCvau(0x1000);
        let forced = Features::FORCED_WRITE_BACK;
        for (features, expected) in [
            (Features::empty(), vec![civac, DSB_SY, DSB_ISH, Op::IcIalluis, DSB_ISH, Op::Isb]),
            (Features::IDC, vec![civac, DSB_SY, DSB_ISH, Op::IcIalluis, DSB_ISH, Op::Isb]),
            (Features::DIC, vec![civac, DSB_SY, DSB_ISH, Op::Isb]),
            (forced, vec![cvau, DSB_ISH, Op::IcIalluis, DSB_ISH, Op::Isb]),
            (forced | Features::IDC, vec![DSB_ISH, Op::IcIalluis, DSB_ISH, Op::Isb]),
            (forced | Features::DIC, vec![cvau, DSB_ISH, Op::Isb]),
            (forced | Features::IDC | Features::DIC, vec![DSB_ISH, Op::Isb]),
        ] {
            assert_eq!(synchronized(features, 0x1000, 64, Content::Code), expected, "{features:?}");
        }
    }
}
