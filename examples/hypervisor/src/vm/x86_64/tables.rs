//! The guest's own tables, in 64-bit mode (Intel SDM Vol. 3A, edition of December 2024, 4.5).

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

/// An entry that leads to a table.
pub const fn to_table(at: usize) -> u64 {
    at as u64 | PRESENT | WRITABLE
}

/// An entry of the last level but one that maps 2 MiB.
pub const fn to_block(at: usize) -> u64 {
    at as u64 | PRESENT | WRITABLE | PAGE_SIZE
}
