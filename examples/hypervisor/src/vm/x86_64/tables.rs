//! The guest's own tables, in 64-bit mode (Intel SDM Vol. 3A, edition of December 2024, 4.5).

use alloc::vec::Vec;

use memory_addr::PAGE_SIZE_4K;

/// An entry's bits for its address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// An entry: present.
const PRESENT: u64 = 1 << 0;
/// An entry: it may be written through.
const WRITABLE: u64 = 1 << 1;
/// An entry above the last level: it maps memory.
const PAGE_SIZE: u64 = 1 << 7;

/// The levels that there are.
pub const TABLE_LEVELS: usize = 4;

/// The address of the root table, out of CR3.
pub fn root_table(register: u64) -> usize {
    (register & ADDRESS) as usize
}

/// The table that an entry above the last level leads to.
pub fn table_below(entry: u64) -> Option<usize> {
    (entry & (PRESENT | PAGE_SIZE) == PRESENT).then_some((entry & ADDRESS) as usize)
}

/// Three tables for a guest to begin with, to be put at `at`: the first GiB where it stands, in blocks of 2 MiB.
pub fn first_gib(at: usize) -> Vec<u8> {
    const TABLE: u64 = PRESENT | WRITABLE;
    let mut entries = [0; 3 * 512];
    entries[0] = (at + PAGE_SIZE_4K) as u64 | TABLE;
    entries[512] = (at + 2 * PAGE_SIZE_4K) as u64 | TABLE;
    for (block, entry) in (0..).zip(&mut entries[1024..]) {
        *entry = block << 21 | TABLE | PAGE_SIZE;
    }
    entries.map(u64::to_le_bytes).concat()
}
