//! What the hardware notes in leaves between the load and the store of one that the hypervisor changes (H12).
//!
//! No hook stands between the two instructions. The memory of the table is made read-only instead: the store traps, the
//! hardware notes accesses in all leaves, and the store is made anew. A plain one then forgets what was noted.

use std::{
    ffi::{c_int, c_void},
    ptr::{self, NonNull},
    sync::atomic::AtomicPtr,
};

use super::*;

const SIGSEGV: c_int = 11;
const DEFAULT: usize = 0;
const READABLE: c_int = 1;
const WRITABLE: c_int = 2;
/// The largest pages that hosts have.
const HOST_PAGE: usize = 0x1_0000;

/// The table whose next store traps.
static TRAPPED: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C" {
    fn signal(signal: c_int, handler: usize) -> usize;
    fn mprotect(start: *mut c_void, size: usize, rights: c_int) -> c_int;
}

/// Makes the next store to a table trap.
fn trap(table: NonNull<AtomicU64>) {
    let handler: extern "C" fn(c_int) = note_accesses;
    TRAPPED.store(table.as_ptr(), Ordering::Release);
    // SAFETY: the handler calls what handlers may call. The memory is the board's, of which an edit writes this table alone.
    unsafe {
        signal(SIGSEGV, handler as usize);
        assert_eq!(mprotect(host_page(table), HOST_PAGE, READABLE), 0);
    }
}

/// A store trapped: the hardware notes accesses in all leaves first.
extern "C" fn note_accesses(_: c_int) {
    let Some(table) = NonNull::new(TRAPPED.swap(ptr::null_mut(), Ordering::AcqRel)) else {
        // SAFETY: none but the test's own fault comes here, and ends it.
        unsafe { signal(SIGSEGV, DEFAULT) };
        return;
    };
    // SAFETY: as in `trap`.
    unsafe { mprotect(host_page(table), HOST_PAGE, READABLE | WRITABLE) };
    for entry in entries(table) {
        let raw = entry.load(Ordering::Acquire);
        entry.store(Toy.touched(Level::PAGE, raw, Access::Read), Ordering::Release);
    }
}

fn host_page(table: NonNull<AtomicU64>) -> *mut c_void {
    table.as_ptr().map_addr(|at| at & !(HOST_PAGE - 1)).cast()
}

fn entries<'b>(table: NonNull<AtomicU64>) -> &'b [AtomicU64] {
    // SAFETY: the table is on a board that outlives the answer; it has 32 entries, which are only reached as atomics.
    unsafe { std::slice::from_raw_parts(table.as_ptr(), 32) }
}

/// The table of pages that translates the first block of a space.
fn first_pages(board: &Board, space: &GuestSpace<Machine>) -> NonNull<AtomicU64> {
    let mut table = PhysAddr::from_usize(space.root() as usize);
    for level in [3, 2, 1] {
        let first = &entries(board.pointer(table).cast())[0];
        match Toy.decode(Level(level), first.load(Ordering::Acquire)) {
            Entry::Table(below) => table = below,
            other => panic!("{other:?}"),
        }
    }
    board.pointer(table).cast()
}

fn used(entry: &AtomicU64) -> Used {
    match Toy.decode(Level::PAGE, entry.load(Ordering::Acquire)) {
        Entry::Leaf(leaf) => leaf.used,
        other => panic!("{other:?}"),
    }
}

#[test]
fn notes_nothing_that_an_edit_of_leaves_forgets() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, BLOCK), PAGES, RW).unwrap();
    let table = first_pages(&board, &space);
    let marks = Toy.fields(Level::PAGE).hardware;
    for (part, flags) in [(BLOCK, READ), (BLOCK, RW), (BLOCK, RWX), (BLOCK, READ), (PAGE, RW), (PAGE, READ)] {
        for entry in entries(table) {
            entry.fetch_and(!marks, Ordering::AcqRel);
            assert_eq!(used(entry), Used::Not);
        }
        trap(table);
        space.protect(range(BLOCK - part, part), flags).unwrap();
        assert!(TRAPPED.load(Ordering::Acquire).is_null(), "no store trapped");
        assert!(entries(table).iter().all(|entry| used(entry) == Used::Accessed), "{flags:?}");
        assert_eq!(space.translate(gpa(BLOCK - PAGE)).unwrap().flags, flags);
    }
    // SAFETY: nothing traps any more.
    unsafe { signal(SIGSEGV, DEFAULT) };
}
