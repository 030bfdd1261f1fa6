//! The guest, in 64-bit code: one access a run, behind tables that map addresses to themselves, or behind tables in its
//! own memory.
#![allow(unsafe_code, reason = "a guest's program and its tables")]

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memory_addr::PAGE_SIZE_4K;
use stage2::PhysAddr;
use stage2_scenarios::{Step, View, reserved};

use crate::cpus;

/// What the guest does in one run.
#[derive(Clone, Copy, Debug)]
pub enum Errand {
    /// A scenario's step.
    Step(Step),
    /// Loads the word at the address again and again, until it is the value. After the first time it says so: it stores
    /// the value [`WAITS`] bytes further.
    WaitFor(usize, u64),
}

/// How far from the word that the guest waits for it says that it does.
pub const WAITS: usize = 8;

/// Where a routine begins in the program's page.
const READ: u64 = 0;
const WRITE: u64 = 0x20;
const EXECUTE: u64 = 0x40;
const COUNT: u64 = 0x60;
const FORGET: u64 = 0x80;
const WAIT: u64 = 0xa0;

/// The last 512 GiB of linear addresses: the machine's own, in all tables.
pub const HIGH_INDEX: usize = 511;
const HIGH: u64 = 0xffff_ff80_0000_0000;
/// The block of 2 MiB with the machine's pages.
const BLOCK: usize = 2 << 20;

/// An entry of the guest's that points to a table: present, writable, accessed (Intel SDM Vol. 3A, 4.5).
pub const TABLE: u64 = 0x23;
/// An entry of the guest's that maps a page: dirty too.
pub const PAGE: u64 = 0x63;
/// The same for 2 MiB.
const LARGE_PAGE: u64 = 0xe3;

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    fn set(&self, index: usize, entry: u64) {
        self.0[index].store(entry, Ordering::Relaxed);
    }
}

/// The guest's tables that are the machine's: those of the upper end, and for each CPU three that map one block of
/// 2 MiB to itself, as the errand needs it.
#[repr(C, align(4096))]
struct Tables {
    high: [Table; 2],
    identity: [[Table; 3]; cpus::MOST],
}

static TABLES: Tables =
    Tables { high: [const { Table::new() }; 2], identity: [const { [const { Table::new() }; 3] }; cpus::MOST] };

/// Pages of tables.
pub const TABLE_PAGES: usize = 2 + 3 * cpus::MOST;

/// The program's place in every space.
#[must_use]
pub fn program_place() -> usize {
    reserved().start.as_usize()
}

/// The tables' place in every space.
#[must_use]
pub fn tables_place() -> usize {
    program_place() + PAGE_SIZE_4K
}

/// The program's place on the host: where [`guest_program`](crate::guest_program) put it.
#[must_use]
pub fn program() -> PhysAddr {
    unsafe extern "C" {
        static guest_program: u8;
    }
    PhysAddr::from_usize((&raw const guest_program).expose_provenance())
}

/// The tables' place on the host.
#[must_use]
pub fn tables() -> PhysAddr {
    PhysAddr::from_usize((&raw const TABLES).expose_provenance())
}

/// Where the guest sees the machine's table of that number.
fn table_place(number: usize) -> u64 {
    (tables_place() + number * PAGE_SIZE_4K) as u64
}

/// What every root of the guest's own needs at [`HIGH_INDEX`]: the program.
#[must_use]
pub fn high_entry() -> u64 {
    table_place(0) | TABLE
}

/// Fills what never changes. Once.
pub fn write_tables() {
    TABLES.high[0].set(0, table_place(1) | TABLE);
    TABLES.high[1].set(0, (program_place() & !(BLOCK - 1)) as u64 | LARGE_PAGE);
    for identity in &TABLES.identity {
        identity[0].set(HIGH_INDEX, high_entry());
    }
}

/// The block that each CPU's own tables map.
static MAPPED: [AtomicUsize; cpus::MOST] = [const { AtomicUsize::new(usize::MAX) }; cpus::MOST];

/// What a run needs of the guest's translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translations {
    /// Those that it has.
    Kept,
    /// None of what it had: its tables are others.
    Forgotten,
}

/// The root of this CPU's own tables, with the block that `address` lies in mapped to itself.
fn identity_root(address: usize) -> (u64, Translations) {
    let number = 2 + 3 * cpus::here();
    let [top, middle, low] = &TABLES.identity[cpus::here()];
    let index = |level: u32| address >> (12 + 9 * level) & 0x1ff;
    let block = address & !(BLOCK - 1);
    if MAPPED[cpus::here()].swap(block, Ordering::Relaxed) == block {
        return (table_place(number), Translations::Kept);
    }
    (0..HIGH_INDEX).for_each(|index| top.set(index, 0));
    top.set(index(3), table_place(number + 1) | TABLE);
    (0..512).for_each(|index| middle.set(index, 0));
    middle.set(index(2), table_place(number + 2) | TABLE);
    low.set(index(1), block as u64 | LARGE_PAGE);
    (table_place(number), Translations::Forgotten)
}

/// What a virtual CPU needs before a run.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Its root table.
    pub cr3: u64,
    /// Whether it has to forget its translations even if the root is the one that it has.
    pub translations: Translations,
    /// Where it begins.
    pub rip: u64,
    /// RCX: the address.
    pub address: u64,
    /// RDX: the value.
    pub value: u64,
}

/// What an errand needs.
#[must_use]
pub fn start(errand: Errand, view: View) -> Start {
    let (routine, address, value) = match errand {
        Errand::Step(Step::Read(at)) => (READ, at, 0),
        Errand::Step(Step::Write(at, value)) => (WRITE, at, value),
        Errand::Step(Step::Execute(at)) => (EXECUTE, at, 0),
        Errand::Step(Step::CountTo(at, value)) => (COUNT, at, value),
        Errand::Step(Step::Forget) => (FORGET, 0, 0),
        Errand::WaitFor(at, value) => (WAIT, at, value),
    };
    let (cr3, translations) = match view {
        View::Physical => identity_root(address),
        View::Virtual(root) => (root.as_usize() as u64, Translations::Kept),
    };
    let rip = HIGH + (program_place() % BLOCK) as u64 + routine;
    Start { cr3, translations, rip, address: address as u64, value }
}

/// Puts the guest's program into the suite's own: each routine ends with the vendor's call of the hypervisor, and its
/// answer in RAX.
#[macro_export]
macro_rules! guest_program {
    ($call:literal) => {
        core::arch::global_asm!(concat!(
            r#"
            .macro call_host
            "#,
            $call,
            r#"
            .endm
            .section .rodata.guest, "a"
            .balign 4096
            .global guest_program
        guest_program:
            mov  rax, [rcx]
            call_host
            .org guest_program + 0x20
            mov  [rcx], rdx
            call_host
            .org guest_program + 0x40
            lea  rdx, [rip + 1f]
            jmp  rcx
        1:  call_host
            .org guest_program + 0x60
        1:  mov  rax, [rcx]
            cmp  rax, rdx
            jae  2f
            inc  rax
            mov  [rcx], rax
            jmp  1b
        2:  call_host
            .org guest_program + 0x80
            mov  rax, cr3
            mov  cr3, rax
            call_host
            .org guest_program + 0xa0
            mov  rax, [rcx]
            mov  [rcx + 8], rdx
        1:  mov  rax, [rcx]
            cmp  rax, rdx
            jne  1b
            call_host
            .balign 4096
            "#
        ));
    };
}
