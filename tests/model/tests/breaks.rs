//! Break-before-make, early frees, lost updates, and the other things that no emulator notices.

mod hand;

use hand::*;
use stage2::aarch64::{Op, Tlbi};
use stage2_model::{
    Rule,
    arm::{Access, Cause, Coherency, Config, Features, Reset, Speculation, Stage1, VTCR_HA, VTCR_HD},
};

#[test]
fn a_valid_entry_must_not_become_another_valid_one() {
    for change in [0x1000, 0x100, 0x4] {
        let hand = Hand::new(Config::default());
        let frame = hand.memory.allocate(2, 0x2000).unwrap();
        hand.map(DATA, frame, PAGE_RW);
        assert!(hand.read(0, DATA).is_ok());
        // Address, shareability, memory type.
        hand.memory.write(hand.entry(DATA, 3), (frame | PAGE_RW) ^ change);
        hand.run(0, &whole(DATA));
        assert!(hand.broken().contains(&Rule::BreakBeforeMake), "bits {change:#x}");
    }
}

#[test]
fn permissions_flags_and_software_bits_may_change_in_place() {
    let hand = Hand::new(Config::default());
    hand.map(DATA, hand.frame(1), PAGE_RW);
    assert!(hand.read(0, DATA).is_ok());
    for change in [0x80, 0x80, 1 << 54, 1 << 55, 1 << 51] {
        let entry = hand.entry(DATA, 3);
        hand.memory.write(entry, hand.memory.read(entry).unwrap() ^ change);
        hand.run(0, &whole(DATA));
        assert!(hand.read(0, DATA).is_ok());
    }
    hand.machine.check();
}

#[test]
fn a_block_must_not_become_a_table_nor_back() {
    let hand = Hand::new(Config::default());
    let block = hand.memory.allocate(512, 2 << 20).unwrap();
    let entry = hand.entry(DATA, 2);
    hand.memory.write(entry, block | BLOCK_RW);
    hand.run(0, &[DSB_ST]);
    assert!(hand.read(0, DATA + 0x3000).is_ok());
    let table = hand.memory.allocate(1, 4096).unwrap();
    for index in 0..512 {
        hand.memory.write(table + index * 8, (block + (index << 12)) | PAGE_RW);
    }
    hand.memory.write(entry, table | 3);
    hand.run(0, &[DSB_ST]);
    assert!(hand.broken().contains(&Rule::BreakBeforeMake));

    hand.memory.write(entry, 0);
    hand.run(0, &[DSB_ST, VMALLS12E1IS, DSB]);
    hand.memory.write(entry, table | 3);
    hand.run(0, &[DSB_ST]);
    assert!(hand.read(0, DATA + 0x3000).is_ok());
    hand.machine.check();
    hand.memory.write(entry, block | BLOCK_RW);
    hand.run(0, &[DSB_ST]);
    assert!(hand.broken().contains(&Rule::BreakBeforeMake));
}

#[test]
fn a_split_with_a_break_is_clean() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    let block = hand.memory.allocate(512, 2 << 20).unwrap();
    let ipa = DATA + (2 << 20) * 8;
    let entry = hand.entry(ipa, 2);
    hand.memory.write(entry, block | BLOCK_RW);
    hand.run(0, &[DSB_ST]);
    hand.machine.set_stage1(0, Stage1::default());
    assert!(hand.read(0, ipa).is_ok());
    hand.memory.write(entry, 0);
    hand.run(0, &whole(ipa));
    let table = hand.memory.allocate(1, 4096).unwrap();
    for index in 0..512 {
        hand.memory.write(table + index * 8, (block + (index << 12)) | PAGE_RW);
    }
    hand.memory.write(entry, table | 3);
    hand.run(0, &[DSB_ST]);
    assert!(hand.read(0, ipa).is_ok());
    hand.machine.check();
}

#[test]
fn a_frame_freed_before_its_invalidation_is_a_violation() {
    let free = |hand: &Hand, at| hand.memory.release(at, 1, stage2::frames::Pieces::Any);
    for early in [true, false] {
        let hand = Hand::new(Config::default()).with_stage1(1);
        let frame = hand.frame(2);
        hand.map(DATA + 0x5000, frame, PAGE_RW);
        hand.machine.set_stage1(0, Stage1::default());
        assert!(hand.read(0, DATA + 0x5000).is_ok());
        hand.memory.write(hand.entry(DATA + 0x5000, 3), 0);
        if early {
            free(&hand, frame);
        }
        hand.run(0, &whole(DATA + 0x5000));
        if !early {
            free(&hand, frame);
        }
        assert_eq!(!hand.broken().is_empty(), early);
    }
}

#[test]
fn a_table_freed_after_a_last_level_invalidation_is_a_violation() {
    for (operation, early) in [(Tlbi::Ipas2le1is, true), (Tlbi::Ipas2e1is, false)] {
        let hand = Hand::new(Config::default());
        hand.map(DATA, hand.frame(2), PAGE_RW);
        assert!(hand.read(0, DATA).is_ok());
        let link = hand.entry(DATA, 2);
        let table = hand.memory.read(link).unwrap() & !0xfff;
        hand.memory.write(link, 0);
        hand.run(0, &[DSB_ST, Op::Tlbi(operation, DATA >> 12), DSB, VMALLE1IS, DSB, Op::Isb]);
        hand.memory.release(table, 1, stage2::frames::Pieces::Any);
        assert_eq!(hand.broken().contains(&Rule::FreedWhileReachable), early, "{operation:?}");
    }
}

#[test]
fn a_root_freed_while_it_is_loaded_is_a_violation() {
    let hand = Hand::new(Config { cpus: 1, ..Config::default() });
    hand.memory.release(hand.root, 2, stage2::frames::Pieces::Whole);
    assert_eq!(hand.broken(), [Rule::FreedWhileReachable]);
    let hand = Hand::new(Config { cpus: 1, ..Config::default() });
    hand.machine.stop(0);
    hand.memory.release(hand.root, 2, stage2::frames::Pieces::Whole);
    hand.machine.check();
}

#[test]
fn a_vmid_that_was_never_flushed_is_a_violation() {
    for (reset, expected) in [(Reset::Unknown, vec![Rule::UnflushedVmid]), (Reset::Clean, vec![])] {
        let hand = Hand::new(Config { reset, ..Config::default() });
        hand.machine.load(0, 7 << 48 | hand.root, VTCR, 1);
        assert!(hand.read(0, DATA).is_err());
        assert_eq!(hand.broken(), expected);
    }
}

#[test]
fn two_virtual_cpus_in_turn_need_a_local_invalidation() {
    for flush in [true, false] {
        let hand = Hand::new(Config::default()).with_stage1(1);
        assert_eq!(hand.read(0, VA), Ok(1));
        // The other one has the same ASID and tables of its own, which name another page.
        let other = DATA + 0x20_0000;
        let names = [(other + 0x1000) | 3, (other + 0x2000) | 3, other | 0xf03];
        for (level, next) in names.into_iter().enumerate() {
            let table = hand.frame(0);
            hand.memory.write(table + if level == 1 { 8 } else { 0 }, next);
            hand.map([other + 0x3000, other + 0x1000, other + 0x2000][level], table, PAGE_RW);
        }
        hand.map(other, hand.frame(2), PAGE_RW);
        if flush {
            hand.run(0, &[VMALLE1, DSB_LOCAL, Op::Isb]);
        }
        hand.machine.set_stage1(0, Stage1::on(other + 0x3000, 1));
        // The invalidation must come after the last use of the old registers.
        if flush {
            hand.run(0, &[VMALLE1, DSB_LOCAL, Op::Isb]);
        }
        assert_eq!(hand.read(0, VA), Ok(if flush { 2 } else { 1 }));
        assert_eq!(hand.broken().is_empty(), flush);
    }
}

#[test]
fn vttbr_changes_only_when_walks_ended() {
    let hand = Hand::new(Config::default());
    hand.map(DATA, hand.frame(2), PAGE_RW);
    let switch = [Op::SetVttbr(3 << 48 | hand.root), Op::Isb];
    assert!(hand.read(0, DATA).is_ok());
    hand.run(0, &[DSB_ST]);
    hand.run(0, &switch);
    assert_eq!(hand.broken(), [Rule::WalksInFlight]);
    let hand = Hand::new(Config::default());
    assert!(hand.read(0, DATA).is_err());
    hand.run(0, &[DSB]);
    hand.run(0, &switch);
    hand.machine.check();
}

#[test]
fn a_cpu_with_the_erratum_walks_unless_it_is_kept_from_it() {
    for kept in [true, false] {
        let speculation = Speculation::AcrossSwitch;
        let hand = Hand::new(Config { speculation, ..Config::default() }).with_stage1(1);
        assert!(hand.read(0, VA).is_ok());
        if kept {
            hand.run(0, &[Op::SetTcrEl1(0x19 | 1 << 7 | 1 << 23), Op::SetSctlrEl1(1), Op::Isb]);
        }
        hand.run(0, &[DSB, Op::SetVttbr(3 << 48 | hand.root), Op::Isb, VMALLE1IS, DSB]);
        assert_eq!(hand.broken().is_empty(), kept);
    }
}

#[test]
fn hardware_sets_the_access_flag_and_the_dirty_state() {
    let hand = Hand::new(Config::default());
    hand.machine.load(0, VMID | hand.root, VTCR | VTCR_HA | VTCR_HD, 1);
    let clean = PAGE_RO & !0x400 | 1 << 51;
    hand.map(DATA, hand.frame(2), clean);
    let entry = hand.entry(DATA, 3);
    assert_eq!(hand.read(0, DATA), Ok(2));
    assert_eq!(hand.memory.read(entry).unwrap() & 0x480, 0x400);
    assert_eq!(hand.machine.access(0, DATA, Access::Write(4)), Ok(4));
    assert_eq!(hand.memory.read(entry).unwrap() & 0x480, 0x480);
    hand.machine.check();
    // Cleaned without an invalidation, the next write goes unmarked.
    hand.memory.write(entry, hand.memory.read(entry).unwrap() & !0x80);
    hand.run(0, &[DSB_ST]);
    assert_eq!(hand.machine.access(0, DATA, Access::Write(5)), Ok(5));
    assert_eq!(hand.broken(), [Rule::Stale]);
    // With one it is marked again.
    hand.run(0, &whole(DATA));
    assert_eq!(hand.machine.access(0, DATA, Access::Write(6)), Ok(6));
    assert_eq!(hand.memory.read(entry).unwrap() & 0x80, 0x80);
    hand.machine.check();
}

#[test]
fn hardware_without_the_extension_takes_dbm_for_nothing() {
    let hand = Hand::new(Config { features: Features { hafdbs: false, ..Features::ALL }, ..Config::default() });
    hand.map(DATA, hand.frame(2), PAGE_RO | 1 << 51);
    let fault = hand.machine.access(0, DATA, Access::Write(4)).unwrap_err().report().fault;
    assert_eq!(fault.cause, Cause::Permission);
    assert_eq!(hand.broken(), [Rule::Descriptor]);
}

#[test]
fn the_guests_own_access_flags_are_writes_to_its_tables() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    let on = Stage1::on(TABLES[0], 1);
    hand.machine.set_stage1(0, Stage1 { tcr: on.tcr | 1 << 39, ..on });
    let table = hand.memory.read(hand.entry(TABLES[2], 3)).unwrap() & 0xffff_ffff_f000;
    hand.memory.write(table, DATA | 0xb03);
    hand.memory.write(hand.entry(TABLES[2], 3), table | PAGE_RO);
    hand.run(0, &[DSB_ST]);
    let report = hand.read(0, VA).unwrap_err().report();
    assert_eq!((report.fault.cause, report.fault.table_walk), (Cause::Permission, true));
    assert_eq!(report.hpfar, TABLES[2] >> 12 << 4, "defined for a stage-1 table walk");
    hand.memory.write(hand.entry(TABLES[2], 3), table | PAGE_RW);
    hand.run(0, &whole(TABLES[2]));
    assert_eq!(hand.read(0, VA), Ok(1));
    assert_eq!(hand.memory.read(table).unwrap() & 0x400, 0x400);
    hand.machine.check();
}

#[test]
fn a_frame_must_be_cleaned_before_an_incoherent_guest_reaches_it() {
    for cleaned in [true, false] {
        let hand = Hand::new(Config { coherency: Coherency::Incoherent, ..Config::default() });
        let frame = hand.frame(2);
        let lines = frame..frame + if cleaned { 4096 } else { 4032 };
        for line in lines.step_by(64) {
            hand.run(0, &[Op::DcCivac(hand.memory.pointer(line).addr().get() as u64)]);
        }
        hand.run(0, &[DSB, Op::IcIalluis, DSB]);
        hand.map(DATA, frame, PAGE_RW);
        assert!(hand.read(0, DATA).is_ok());
        assert_eq!(hand.broken().is_empty(), cleaned);
    }
}

#[test]
fn controls_that_change_under_cached_entries_are_a_violation() {
    let hand = Hand::new(Config::default());
    hand.map(DATA, hand.frame(2), PAGE_RW);
    assert!(hand.read(0, DATA).is_ok());
    hand.run(0, &[DSB, Op::SetVtcr(VTCR | VTCR_HA), Op::Isb]);
    assert!(hand.read(0, DATA).is_ok());
    assert_eq!(hand.broken(), [Rule::Stale]);
}
