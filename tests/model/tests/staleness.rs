//! The model is stale wherever hardware may be, and fresh after the right sequence.

mod hand;

use hand::*;
use stage2::aarch64::{Domain, Kind, Op, Tlbi};
use stage2_model::{
    Rule,
    arm::{Access, Caching, Cause, Config},
};

/// What the guest sees after the page at an IPA moved: the old frame or the new one.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Stale,
    Fresh,
}
use Seen::{Fresh, Stale};

/// A data page moves, which the guest has used.
fn data_page(caching: Caching, invalidation: &[Op]) -> (Seen, Vec<Rule>) {
    let hand = Hand::new(Config::default()).with_stage1(1);
    hand.machine.set_caching(caching);
    assert_eq!(hand.read(1, VA), Ok(1));
    hand.remap(DATA, hand.frame(2), invalidation);
    seen(&hand, 2)
}

/// The page moves that holds the guest's level-3 table; its new copy names another data page.
fn table_page(caching: Caching, invalidation: &[Op]) -> (Seen, Vec<Rule>) {
    let hand = Hand::new(Config::default()).with_stage1(1);
    hand.machine.set_caching(caching);
    hand.map(DATA + 0x1000, hand.frame(2), PAGE_RW);
    assert_eq!(hand.read(1, VA), Ok(1));
    let copy = hand.frame(0);
    hand.memory.write(copy, (DATA + 0x1000) | 0xf03);
    hand.remap(TABLES[2], copy, invalidation);
    seen(&hand, 2)
}

fn seen(hand: &Hand, new: u64) -> (Seen, Vec<Rule>) {
    let seen = if hand.read(1, VA).unwrap() == new { Fresh } else { Stale };
    (seen, hand.broken())
}

fn both(invalidation: impl Fn(u64) -> Vec<Op>) -> (Seen, Seen) {
    both_on(Caching::Everything, invalidation)
}

fn both_on(caching: Caching, invalidation: impl Fn(u64) -> Vec<Op>) -> (Seen, Seen) {
    let (data, rules) = data_page(caching, &invalidation(DATA));
    assert_eq!(data == Stale, rules.contains(&Rule::Stale), "{rules:?}");
    let (table, rules) = table_page(caching, &invalidation(TABLES[2]));
    assert_eq!(table == Stale, rules.contains(&Rule::Stale), "{rules:?}");
    (data, table)
}

#[test]
fn a_change_without_invalidation_is_stale() {
    assert_eq!(both(|_| vec![DSB_ST, DSB]), (Stale, Stale));
}

#[test]
fn stage_2_alone_leaves_what_was_combined_with_stage_1() {
    assert_eq!(both(|ipa| vec![DSB_ST, ipas2e1is(ipa), DSB]), (Stale, Stale));
}

#[test]
fn stage_1_alone_is_refilled_from_stage_2() {
    // An emulator that uses no stage-2 entries for data shows a fresh data page here; hardware need not.
    assert_eq!(both(|_| vec![DSB_ST, VMALLE1IS, DSB]), (Stale, Stale));
}

#[test]
fn another_pages_invalidation_does_not_help() {
    assert_eq!(both(|ipa| whole(ipa + 0x8000)), (Stale, Stale));
}

#[test]
fn both_in_order_are_fresh() {
    assert_eq!(both(whole), (Fresh, Fresh));
    assert!(data_page(Caching::Everything, &whole(DATA)).1.is_empty());
    assert!(table_page(Caching::Everything, &whole(TABLES[2])).1.is_empty());
}

#[test]
fn the_whole_vmid_is_fresh() {
    let all = |_| vec![DSB_ST, VMALLS12E1IS, DSB, Op::Isb];
    assert_eq!(both(all), (Fresh, Fresh));
    assert!(data_page(Caching::Everything, &all(0)).1.is_empty());
}

#[test]
fn stage_1_first_is_stale() {
    assert_eq!(both(|ipa| vec![DSB_ST, VMALLE1IS, DSB, ipas2e1is(ipa), DSB, Op::Isb]), (Stale, Stale));
}

#[test]
fn each_missing_barrier_is_stale() {
    for missing in [0, 2, 4] {
        let without = |ipa| {
            let mut sequence = whole(ipa);
            sequence.remove(missing);
            sequence
        };
        assert_eq!(both(without), (Stale, Stale), "without barrier {missing}");
    }
}

#[test]
fn a_barrier_for_stores_completes_no_invalidation() {
    assert_eq!(both(|ipa| vec![DSB_ST, ipas2e1is(ipa), DSB_ST, VMALLE1IS, DSB_ST]), (Stale, Stale));
}

#[test]
fn a_local_barrier_completes_no_broadcast() {
    assert_eq!(both(|ipa| vec![DSB_ST, ipas2e1is(ipa), DSB_LOCAL, VMALLE1IS, DSB_LOCAL]), (Stale, Stale));
}

#[test]
fn local_invalidations_leave_the_other_cpu_stale() {
    let local = |ipa| vec![DSB_ST, Op::Tlbi(Tlbi::Ipas2e1, ipa >> 12), DSB, VMALLE1, DSB, Op::Isb];
    assert_eq!(both(local), (Stale, Stale));
}

#[test]
fn another_vmid_leaves_this_one_stale() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    assert_eq!(hand.read(1, VA), Ok(1));
    let mut sequence = vec![DSB, Op::SetVttbr(2 << 48 | hand.root), Op::Isb];
    sequence.extend(whole(DATA));
    sequence.extend([Op::SetVttbr(VMID | hand.root), Op::Isb]);
    hand.remap(DATA, hand.frame(2), &sequence);
    assert_eq!(hand.read(1, VA), Ok(1));
    assert!(hand.broken().contains(&Rule::Stale));
}

#[test]
fn a_vmid_that_is_not_synchronized_does_not_count() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    assert_eq!(hand.read(1, VA), Ok(1));
    // CPU 0 is another guest's; it forgets the `isb`.
    hand.machine.load(0, 2 << 48 | hand.root, VTCR, 1);
    let mut sequence = vec![DSB, Op::SetVttbr(VMID | hand.root)];
    sequence.extend(whole(DATA));
    hand.remap(DATA, hand.frame(2), &sequence);
    assert_eq!(hand.read(1, VA), Ok(1));
    assert!(hand.broken().contains(&Rule::Stale));
}

#[test]
fn an_unshifted_operand_hits_nothing() {
    assert_eq!(both(|ipa| vec![DSB_ST, Op::Tlbi(Tlbi::Ipas2e1is, ipa), DSB, VMALLE1IS, DSB, Op::Isb]), (Stale, Stale));
}

#[test]
fn a_level_hint_must_match() {
    let hinted = |level: u64| {
        move |ipa| {
            let operand = ipa >> 12 | (4 | level) << 44;
            vec![DSB_ST, Op::Tlbi(Tlbi::Ipas2e1is, operand), DSB, VMALLE1IS, DSB, Op::Isb]
        }
    };
    assert_eq!(both(hinted(3)), (Fresh, Fresh));
    assert_eq!(both(hinted(2)), (Stale, Stale));
}

#[test]
fn a_range_hits_its_pages() {
    // TG = 4 KiB, SCALE 0, NUM 0: two pages from the one before.
    let range = |ipa: u64, back: u64| Op::Tlbi(Tlbi::Ripas2e1is, 1 << 46 | (ipa - back) >> 12);
    let sequence = |back| move |ipa| vec![DSB_ST, range(ipa, back), DSB, VMALLE1IS, DSB, Op::Isb];
    assert_eq!(both(sequence(0x1000)), (Fresh, Fresh));
    assert_eq!(both(sequence(0x2000)), (Stale, Stale));
}

#[test]
fn the_hosts_regime_is_not_the_guests() {
    let sequence = |ipa| {
        let mut sequence = vec![DSB, Op::ChangeHcr(0, 1 << 34 | 1 << 27)];
        sequence.extend(whole(ipa));
        sequence.push(Op::ChangeHcr(1 << 34 | 1 << 27, 0));
        sequence
    };
    assert_eq!(both(sequence), (Stale, Stale));
}

#[test]
fn a_make_before_the_break_completes_is_a_violation() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    assert_eq!(hand.read(1, VA), Ok(1));
    // The new entry is stored right after the TLBI, before the barrier that waits for it.
    hand.memory.write(hand.entry(DATA, 3), 0);
    hand.run(0, &[DSB_ST, ipas2e1is(DATA)]);
    hand.memory.write(hand.entry(DATA, 3), hand.frame(2) | PAGE_RW);
    hand.run(0, &[DSB, VMALLE1IS, DSB, Op::Isb]);
    assert!(hand.broken().contains(&Rule::BreakBeforeMake));
}

#[test]
fn a_denial_is_remembered_until_this_cpu_drops_it() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    let entry = hand.entry(DATA, 3);
    hand.memory.write(entry, hand.memory.read(entry).unwrap() & !0x80);
    hand.run(0, &whole(DATA));
    let write = || hand.machine.access(1, VA, Access::Write(7));
    assert_eq!(write().unwrap_err().report().fault.cause, Cause::Permission);
    hand.memory.write(entry, hand.memory.read(entry).unwrap() | 0x80);
    hand.run(0, &[DSB_ST]);
    // Again, and again; not for a fault of the tables.
    assert_eq!(write().unwrap_err().report().fault.cause, Cause::Permission);
    assert_eq!(write().unwrap_err().report().fault.cause, Cause::Permission);
    let local = [DSB_LOCAL, Op::Tlbi(Tlbi::Ipas2e1, DATA >> 12), DSB_LOCAL, VMALLE1, DSB_LOCAL, Op::Isb];
    hand.run(0, &local);
    assert_eq!(write().unwrap_err().report().fault.cause, Cause::Permission, "another CPU's local operation");
    hand.run(1, &local);
    assert_eq!(write(), Ok(7));
    hand.machine.check();
}

#[test]
fn a_missing_publication_faults_again() {
    let hand = Hand::new(Config::default());
    hand.entry(DATA, 3);
    assert!(hand.read(0, DATA).is_err());
    hand.memory.write(hand.entry(DATA, 3), hand.frame(3) | PAGE_RW);
    assert!(hand.read(0, DATA).is_err());
    hand.run(0, &[Op::Dsb(Domain::InnerShareable, Kind::Stores)]);
    assert_eq!(hand.read(0, DATA), Ok(3));
    hand.machine.check();
}

#[test]
fn faults_of_translation_are_not_remembered() {
    let hand = Hand::new(Config::default());
    assert_eq!(hand.read(0, DATA).unwrap_err().report().fault.cause, Cause::Translation);
    hand.map(DATA, hand.frame(3), PAGE_RW & !0x400);
    assert_eq!(hand.read(0, DATA).unwrap_err().report().fault.cause, Cause::AccessFlag);
    let entry = hand.entry(DATA, 3);
    hand.memory.write(entry, hand.memory.read(entry).unwrap() | 0x400);
    hand.run(0, &[DSB_ST]);
    assert_eq!(hand.read(0, DATA), Ok(3));
    hand.machine.check();
}

#[test]
fn a_write_protection_without_invalidation_is_a_violation() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    assert_eq!(hand.machine.access(1, VA, Access::Write(5)), Ok(5));
    let entry = hand.entry(DATA, 3);
    hand.memory.write(entry, hand.memory.read(entry).unwrap() & !0x80);
    hand.run(0, &[DSB_ST]);
    assert_eq!(hand.machine.access(1, VA, Access::Write(6)), Ok(6));
    assert_eq!(hand.broken(), [Rule::Stale]);
}

#[test]
fn an_emulator_shows_a_part_of_it() {
    let on_emulator = |invalidation: &dyn Fn(u64) -> Vec<Op>| both_on(Caching::AsEmulator, invalidation);
    assert_eq!(on_emulator(&|_| vec![DSB_ST, DSB]), (Stale, Stale));
    assert_eq!(on_emulator(&|ipa| vec![DSB_ST, ipas2e1is(ipa), DSB]), (Stale, Stale));
    assert_eq!(on_emulator(&|_| vec![DSB_ST, VMALLE1IS, DSB]), (Fresh, Stale));
    assert_eq!(on_emulator(&|ipa| whole(ipa + 0x8000)), (Fresh, Stale));
    assert_eq!(on_emulator(&whole), (Fresh, Fresh));
    assert_eq!(on_emulator(&|_| vec![DSB_ST, VMALLS12E1IS, DSB]), (Fresh, Fresh));
}

#[test]
fn a_scan_finds_what_no_access_meets() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    assert_eq!(hand.read(1, VA), Ok(1));
    let before = hand.machine.cached(1);
    assert!(before > 0);
    hand.machine.scan();
    hand.machine.check();
    hand.memory.write(hand.entry(DATA, 3), 0);
    hand.run(0, &[DSB_ST, ipas2e1is(DATA), DSB]);
    hand.machine.scan();
    assert_eq!(hand.broken(), [Rule::Stale], "what is combined with stage 1");
    hand.run(0, &[VMALLE1IS, DSB]);
    hand.machine.scan();
    hand.machine.check();
    assert!(hand.machine.cached(1) < before);
}

#[test]
fn a_store_ordered_after_the_invalidation_was_issued_is_stale() {
    // The barrier for the store comes too late: by then the TLBI may have done its work, and walks refilled.
    let late = |ipa| vec![ipas2e1is(ipa), DSB_ST, DSB, VMALLE1IS, DSB, Op::Isb];
    assert_eq!(both(late), (Stale, Stale));
}

#[test]
fn stage_2_under_another_vmid_leaves_this_one_stale() {
    let hand = Hand::new(Config::default()).with_stage1(1);
    assert_eq!(hand.read(1, VA), Ok(1));
    let (other, this) = (Op::SetVttbr(2 << 48 | hand.root), Op::SetVttbr(VMID | hand.root));
    let sequence = [DSB, other, Op::Isb, ipas2e1is(DATA), DSB, this, Op::Isb, VMALLE1IS, DSB, Op::Isb];
    hand.remap(DATA, hand.frame(2), &sequence);
    assert_eq!(hand.read(1, VA), Ok(1));
    assert!(hand.broken().contains(&Rule::Stale));
}
