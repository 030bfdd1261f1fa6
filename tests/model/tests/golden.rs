//! The model's reading of registers, operands, entries and faults, against words worked out by hand from the manual.

mod hand;

use hand::*;
use stage2::aarch64::{Op, Tlbi};
use stage2_model::{
    Failure, Memory, Pool, Rule,
    arm::{
        Abort, Access, Cause, Config, Descriptor, Features, HCR_FWB, HCR_VM, Hpfar, Leaf, MemoryType, Regime, Stage1,
        Stages, decode, decode_tlbi,
    },
};

fn regime(vttbr: u64, vtcr: u64) -> Result<Regime, String> {
    Regime::decode(vttbr, vtcr, HCR_VM, &Features::ALL)
}

#[test]
fn start_level_and_root_follow_from_the_registers() {
    // T0SZ, SL0, PS; the level, and the bytes of the root.
    for (t0sz, sl0, start, root) in [
        (16, 2, 0, 4096),
        (20, 2, 0, 256),
        (21, 1, 1, 16 * 4096),
        (24, 1, 1, 2 * 4096),
        (25, 1, 1, 4096),
        (28, 1, 1, 512),
        (30, 0, 2, 16 * 4096),
        (32, 0, 2, 4 * 4096),
        (33, 0, 2, 2 * 4096),
    ] {
        let vtcr = 0x8005_3500 | sl0 << 6 | t0sz;
        let found = regime(1 << 20, vtcr).unwrap();
        assert_eq!((found.start, found.ipa_bits), (start, 64 - t0sz as u32), "{vtcr:#x}");
        assert_eq!(found.root, 1 << 20);
        if root > 64 {
            assert!(regime((1 << 20) | (root / 2), vtcr).unwrap_err().contains("aligned"), "{vtcr:#x}");
        }
    }
}

#[test]
fn a_concatenated_root_has_more_than_nine_bits_of_index() {
    let hand = Hand::new(Config::default());
    hand.map(DATA, hand.frame(1), PAGE_RW);
    hand.map(1 << 39 | DATA, hand.frame(2), PAGE_RW);
    assert_eq!(hand.read(0, DATA), Ok(1));
    assert_eq!(hand.read(0, 1 << 39 | DATA), Ok(2));
    hand.machine.check();
}

#[test]
fn registers_that_no_cpu_takes_are_refused() {
    for (vtcr, why) in [
        (0x0002_3558, "RES1"),
        (0x8002_3518, "start"),
        (0x8002_3599, "start"),
        (0x8002_35d8, "SL0"),
        (0x8002_7558, "TG0"),
        (0x8002_0558, "inner shareable"),
        (0x8002_3058, "inner shareable"),
        (0x8006_3558, "PS"),
        (0x8000_3558, "wider"),
        (0x8002_3554, "wider"),
    ] {
        let refused = regime(0, vtcr).unwrap_err();
        assert!(refused.contains(why), "{vtcr:#x}: {refused}");
    }
    assert!(regime(0x100 << 48, 0x8002_3558).is_err(), "a VMID of 9 bits");
    assert_eq!(regime(0x100 << 48, 0x800a_3558).unwrap().vmid, 0x100);
    let plain = |vtcr, hcr| Regime::decode(0, vtcr, hcr, &Features::NONE);
    assert!(plain(0x8002_3558, HCR_VM).is_ok());
    assert!(plain(0x8002_3558, HCR_VM | HCR_FWB).is_err());
    assert!(plain(0x800a_3558, HCR_VM).is_err());
    assert!(plain(0x8022_3558, HCR_VM).is_err());
}

#[test]
fn words_of_tables_are_what_the_manual_says() {
    assert_eq!(decode(0, 3), Descriptor::Invalid);
    assert_eq!(decode(0x8000_0002, 1), Descriptor::Invalid);
    assert_eq!(decode(0x8000_0003, 1), Descriptor::Table(0x8000_0000));
    assert_eq!(decode(0x8000_0001, 0), Descriptor::Invalid, "no blocks at level 0");
    assert_eq!(decode(0x8000_0001, 3), Descriptor::Invalid, "reserved");
    for (raw, level, output) in
        [(0xc000_07fd, 1, 0xc000_0000), (0xc020_07fd, 2, 0xc020_0000), (0x1_2345_67ff, 3, 0x1_2345_6000)]
    {
        let Descriptor::Leaf(leaf) = decode(raw, level) else { panic!("{raw:#x}") };
        assert_eq!(leaf.output(), output);
        assert_eq!(leaf.memory_type(false), MemoryType::Normal(0xf));
        assert_eq!(leaf.shareability(), 3);
    }
    let kind = |attributes: u64, fwb| Leaf { raw: attributes << 2, level: 3 }.memory_type(fwb);
    assert_eq!(kind(1, false), MemoryType::Device(1));
    assert_eq!(kind(5, false), MemoryType::Normal(5));
    assert_eq!(kind(4, false), MemoryType::Reserved);
    assert_eq!(kind(1, true), MemoryType::Device(1));
    assert_eq!(kind(5, true), MemoryType::ForcedNonCacheable);
    assert_eq!(kind(6, true), MemoryType::ForcedWriteBack);
    assert_eq!(kind(7, true), MemoryType::OfStage1);
    assert_eq!(kind(0xf, true), MemoryType::Reserved);
}

#[test]
fn encodings_that_are_reserved_are_violations() {
    // MemAttr, SH, contiguous, bit 11, address bit 48.
    for bits in [0x7f3, 0x5ff, 0x7ff | 1 << 52, 0xfff, 0x7ff | 1 << 48] {
        let hand = Hand::new(Config::default());
        hand.map(DATA, hand.frame(1), bits);
        let _ = hand.read(0, DATA);
        assert_eq!(hand.broken(), [Rule::Descriptor], "{bits:#x}");
    }
    let hand = Hand::new(Config::default());
    let block = hand.memory.allocate(1024, 4 << 20).unwrap();
    hand.memory.write(hand.entry(DATA, 2), (block + 0x1000) | BLOCK_RW);
    hand.run(0, &[DSB_ST]);
    assert!(hand.read(0, DATA).is_ok());
    assert_eq!(hand.broken(), [Rule::Descriptor], "a misaligned block");
}

#[test]
fn execute_never_depends_on_the_extension() {
    for (high, low, with, without) in
        [(0, 0, true, true), (0, 1, false, true), (1, 0, false, false), (1, 1, true, false)]
    {
        for (features, expected) in [(Features::ALL, with), (Features { xnx: false, ..Features::ALL }, without)] {
            let hand = Hand::new(Config { features, ..Config::default() });
            hand.map(DATA, hand.frame(1), PAGE_RW | high << 54 | low << 53);
            assert_eq!(hand.machine.access(0, DATA, Access::Execute).is_ok(), expected, "XN {high}{low}");
            hand.machine.check();
        }
    }
}

#[test]
fn operands_are_decoded_as_the_manual_says() {
    let target = |tlbi, operand| decode_tlbi(tlbi, operand, &Features::ALL).unwrap();
    let one = target(Tlbi::Ipas2e1is, 0x40_0012);
    assert_eq!((one.range, one.level, one.shareable), (0x4_0001_2000..0x4_0001_3000, None, true));
    assert_eq!(target(Tlbi::Ipas2e1, 0x7 << 44 | 5).level, Some(3));
    assert_eq!(target(Tlbi::Vmalle1, 0).stages, Stages::First);
    // (NUM + 1) << (5 * SCALE + 1) pages.
    for (scale, number, pages) in [(0, 0, 2), (0, 31, 64), (1, 0, 64), (2, 3, 8192), (3, 31, 1 << 21)] {
        let operand = 1 << 46 | scale << 44 | number << 39 | 0x40000;
        assert_eq!(target(Tlbi::Ripas2e1is, operand).range, 0x4000_0000..0x4000_0000 + (pages << 12));
    }
    let hinted = target(Tlbi::Ripas2le1is, 1 << 46 | 2 << 37 | 0x40000);
    assert_eq!((hinted.level, hinted.last_level), (Some(2), true));
    assert!(target(Tlbi::Ripas2e1is, 1 << 46 | 2 << 37 | 0x40001).range.is_empty(), "base not aligned to the hint");
    for (tlbi, operand, features) in [
        (Tlbi::Ipas2e1is, 1 << 48, Features::ALL),
        (Tlbi::Ipas2e1is, 0xb << 44, Features::ALL),
        (Tlbi::Ipas2e1is, 0x7 << 44, Features::NONE),
        (Tlbi::Ripas2e1is, 0, Features::ALL),
        (Tlbi::Ripas2e1is, 1 << 46, Features::NONE),
    ] {
        assert!(decode_tlbi(tlbi, operand, &features).is_err(), "{tlbi:?} {operand:#x}");
    }
}

#[test]
fn faults_fill_the_registers_as_hardware_does() {
    let report = |hand: &Hand, address, access| hand.machine.access(0, address, access).unwrap_err().report();
    let hand = Hand::new(Config::default());
    let unmapped = report(&hand, 0x5000_0678, Access::Read);
    // EC 0x24, IL, ISV, SAS 3, SRT 5, SF, translation fault at level 1.
    assert_eq!(unmapped.esr, 0x93c5_8005);
    assert_eq!((unmapped.far, unmapped.hpfar), (0x5000_0678, 0x50_0000));
    hand.map(DATA, hand.frame(1), PAGE_RO | 1 << 54);
    let denied = report(&hand, DATA + 8, Access::Write(1));
    assert_eq!(denied.esr, 0x93c5_804f, "permission, level 3, a write");
    assert_ne!(denied.hpfar, DATA >> 8, "not defined");
    assert_eq!(report(&hand, DATA, Access::Execute).esr, 0x8200_000f);
    let hand = Hand::new(Config { hpfar: Hpfar::Always, ..Config::default() });
    hand.map(DATA, hand.frame(1), PAGE_RO & !0x400);
    assert_eq!(report(&hand, DATA, Access::Read).esr & 0x3f, 0b00_1011, "access flag, level 3");
    hand.map(DATA + 0x1000, 1 << 41, PAGE_RW);
    assert_eq!(report(&hand, DATA + 0x1000, Access::Read).esr & 0x3f, 0b00_0011, "address size, level 3");
    assert_eq!(report(&hand, 1 << 40, Access::Read).esr & 0x3f, 0b00_0100, "beyond the IPA: level 0");
    hand.map(DATA + 0x2000, hand.frame(1), PAGE_RO);
    let denied = report(&hand, DATA + 0x2abc, Access::Write(1));
    assert_eq!(denied.hpfar, (DATA + 0x2000) >> 8);
    hand.machine.check();
}

#[test]
fn a_fault_on_a_guests_table_names_the_table() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    assert_eq!(hand.read(1, VA), Ok(1));
    hand.memory.write(hand.entry(TABLES[1], 3), 0);
    hand.run(0, &whole(TABLES[1]));
    let report = hand.read(1, VA + 0x10).unwrap_err().report();
    assert_eq!((report.far, report.hpfar), (VA + 0x10, TABLES[1] >> 8));
    assert_eq!(report.esr, 0x9200_0087, "S1PTW, no ISV, translation at level 3");
    hand.machine.check();
}

#[test]
fn a_guests_own_refusal_is_the_guests() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    assert_eq!(hand.read(0, VA + 0x1000), Err(Abort::Stage1(Cause::Translation, 3)));
    hand.machine.set_stage1(0, Stage1 { tcr: 0x19 | 1 << 7, ..Stage1::on(TABLES[0], 1) });
    assert_eq!(hand.read(0, VA + 0x1000), Err(Abort::Stage1(Cause::Translation, 0)));
    assert_eq!(hand.machine.stage1_translate(1, VA + 0x123), Some(DATA + 0x123));
    hand.machine.check();
}

#[test]
fn registers_read_back_what_was_written() {
    let hand = Hand::new(Config::default());
    hand.run(0, &[Op::SetVttbr(5 << 48), Op::SetVtcr(7), Op::ChangeHcr(1, 1 << 31), Op::SetTcrEl1(9)]);
    let registers = hand.machine.registers(0);
    assert_eq!((registers.vttbr, registers.vtcr, registers.hcr), (5 << 48, 7, 1 << 31));
    assert_eq!(registers.stage1.tcr, 9);
}

mod memory {
    use super::*;
    use stage2::{Frames, frames::Pieces};

    #[test]
    fn may_start_at_zero_and_gives_aligned_junk() {
        let memory = Memory::new(0, 16 << 20);
        assert_eq!(memory.allocate(1, 4096), Some(0));
        let block = memory.allocate(512, 2 << 20).unwrap();
        assert_eq!(block, 2 << 20);
        assert_ne!(memory.read(block), Some(0));
        assert_eq!(memory.allocated(), 513);
        memory.release(block + 0x3000, 2, Pieces::Any);
        assert_eq!(memory.allocated(), 511);
        assert_eq!(memory.allocate(2, 4096), Some(0x1000), "the lowest that fits");
        assert_eq!(memory.reserve(1, 4096), 0x3000);
        assert_eq!(memory.allocated(), 513, "what the test holds is not counted");
    }

    #[test]
    fn fails_when_it_is_told_to() {
        let memory = Memory::new(0x1000, 1 << 20);
        memory.fail(Failure::Once(1));
        assert!(memory.allocate(1, 4096).is_some());
        assert!(memory.failure_pending());
        assert!(memory.allocate(1, 4096).is_none());
        assert!(memory.allocate(1, 4096).is_some());
        memory.fail(Failure::From(0));
        assert!(memory.allocate(1, 4096).is_none());
        assert!(memory.allocate(1, 4096).is_none());
        memory.fail(Failure::Never);
        assert!(memory.allocate(1000, 4096).is_none(), "more than there is");
    }

    #[test]
    fn counts_a_page_once_that_comes_back_and_goes_again() {
        let memory = Memory::new(0x1000, 1 << 20);
        let at = memory.allocate(4, 4096).unwrap();
        memory.release(at, 1, Pieces::Any);
        assert_eq!(memory.allocate(1, 4096), Some(at));
        assert_eq!(memory.allocated(), 4);
        memory.release(at + 4096, 3, Pieces::Any);
        assert_eq!(memory.allocated(), 1);
    }

    #[test]
    #[should_panic(expected = "which is free")]
    fn panics_on_a_double_free() {
        let memory = Memory::new(0x1000, 1 << 20);
        let at = memory.allocate(2, 4096).unwrap();
        memory.release(at, 1, Pieces::Any);
        memory.release(at, 1, Pieces::Any);
    }

    #[test]
    #[should_panic(expected = "a part of what was allocated in one piece")]
    fn panics_on_a_part_where_only_wholes_may_come_back() {
        let memory = Memory::new(0x1000, 1 << 20);
        let at = memory.allocate(2, 4096).unwrap();
        memory.release(at, 1, Pieces::Whole);
    }

    #[test]
    fn is_the_crates_allocator() {
        let memory = Memory::new(0x1000_0000, 1 << 20);
        let pool = Pool::new(&memory).zeroed();
        let at = pool.allocate(2, 8192).unwrap();
        assert_eq!(memory.read(at.as_usize() as u64 + 4096), Some(0));
        assert_eq!(memory.physical(pool.pointer(at).addr().get() as u64), Some(at.as_usize() as u64));
        assert_eq!(pool.pieces(), Pieces::Any);
        assert_eq!(pool.clone().whole().pieces(), Pieces::Whole);
        memory.release(at.as_usize() as u64, 2, Pieces::Whole);
        assert_eq!(pool.memory().allocated(), 0);
    }
}
