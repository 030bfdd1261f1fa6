//! A guest on several CPUs of the model, while the hypervisor changes its memory.

use std::sync::atomic::AtomicUsize;

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{CpuId, Error, MappingFlags};
use stage2_scenarios::{Came, Guest, Machine, Step, gpa, range};

use super::{LAZY, LAZY_BLOCKS, PAGES, RAM, READ, RW, Running, race, until_done};
use crate::machine::{Kind, Model};

/// The hypervisor's own CPU.
const HOST: CpuId = CpuId(3);

/// A block, and pages of it.
const BLOCK: usize = 2 << 20;

/// Guests count on three CPUs, each in a word of its own, in pages that move, are written to by the hypervisor, and
/// are cut out of blocks: no number is lost.
#[test]
fn counts_go_on_on_all_cpus_while_their_pages_move() {
    const COUNTS: u64 = 12;
    for kind in [Kind::CortexA57, Kind::Everything] {
        let model = Model::new(kind);
        let guest = Guest::new(&model).expect("a guest");
        // Each count has its copy in the page behind.
        guest.map(range(RAM, 4 * PAGE), LAZY, RW).expect("pages");
        guest.map(range(RAM + BLOCK, BLOCK), LAZY_BLOCKS, RW).expect("a block");
        model.race();
        let left = AtomicUsize::new(3);
        let word = |cpu: usize, page: usize| [RAM, RAM + 2 * PAGE, RAM + BLOCK + 5 * PAGE][page] + cpu * 8;
        let count = |cpu: usize| {
            let _running = Running(&left);
            for (target, page) in (1..=COUNTS).flat_map(|target| (0..3).map(move |page| (target, page))) {
                let came = guest.seat(cpu, cpu).tries(Step::CountTo(word(cpu, page), target), 10_000);
                assert_eq!(came.expect("an end"), Came::Value(target), "CPU {cpu}, page {page}");
            }
        };
        let change = |_| {
            model.on(HOST, || {
                until_done(&left, |round| {
                    guest.relocate(range(RAM, 4 * PAGE)).expect("memory");
                    if round % 4 == 0 {
                        guest.relocate(range(RAM + BLOCK, PAGE)).expect("memory");
                    }
                    let cut = range(RAM + BLOCK + 4 * PAGE, (1 + round % 3) * PAGE);
                    guest.protect(cut, if round % 2 == 0 { RW | MappingFlags::EXECUTE } else { RW }).expect("memory");
                    guest.write_obj(gpa(RAM + 0x800), round as u64).expect("memory");
                });
            });
        };
        race(&[&count, &count, &count, &change]);
        for (cpu, page) in (0..3).flat_map(|cpu| (0..3).map(move |page| (cpu, page))) {
            assert_eq!(guest.read_obj::<u64>(gpa(word(cpu, page))), Ok(COUNTS), "CPU {cpu}, page {page}");
        }
        end(&model, guest);
    }
}

/// Memory is mapped, moved, restricted and unmapped while guests touch it on three CPUs: every access has an end, and
/// reads what that page may hold.
#[test]
fn every_access_has_an_end_whatever_the_hypervisor_does() {
    const COUNT: usize = 6;
    for kind in [Kind::CortexA57, Kind::NeoverseN1, Kind::Everything] {
        let model = Model::new(kind);
        let guest = Guest::new(&model).expect("a guest");
        model.race();
        let left = AtomicUsize::new(3);
        let touch = |cpu: usize| {
            let _running = Running(&left);
            for round in 0..60 {
                let page = (round * 5 + cpu) % COUNT;
                let (at, tag) = (RAM + page * PAGE, page as u64 + 1);
                let step = if round % 3 == 0 { Step::Read(at) } else { Step::Write(at, tag) };
                match guest.seat(cpu, cpu).tries(step, 10_000).expect("an end") {
                    Came::Value(value) => assert!(value == 0 || value == tag, "page {page} holds {value:#x}"),
                    Came::NotMapped | Came::Denied(READ) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        let change = |_| model.on(HOST, || until_done(&left, |round| change(&guest, round, COUNT)));
        race(&[&touch, &touch, &touch, &change]);
        end(&model, guest);
    }
}

/// One of the things that a hypervisor does.
fn change(guest: &Guest<'_, Model>, round: usize, count: usize) {
    let start = round * 5 % count;
    let some = range(RAM + start * PAGE, (count - start).min(3) * PAGE);
    let result = match round % 6 {
        0 | 3 => guest.map(some, if round % 12 < 6 { LAZY } else { PAGES }, RW),
        1 => guest.relocate(some).map(drop),
        2 => guest.protect(some, READ),
        4 => guest.protect(some, RW),
        _ => guest.unmap(some),
    };
    match result {
        Ok(()) | Err(Error::NotMapped(_) | Error::Overlap { .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Ends the guest: every frame comes back, and the model has no complaint.
fn end(model: &Model, guest: Guest<'_, Model>) {
    model.park();
    drop(guest);
    assert_eq!(model.allocated(), 0);
    model.check();
}
