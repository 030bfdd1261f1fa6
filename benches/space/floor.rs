//! The least that the same work can cost: loops over tables that stand ready, written for this one purpose.
#![allow(unsafe_code, reason = "follows descriptors")]

use memory_addr::PAGE_SIZE_4K;

use crate::pool::{give_page, take_zeroed_page};

/// A page descriptor but for its address: valid, a page, write-back, read and write, inner shareable, accessed, not
/// executable (Arm DDI 0487, edition K.a, D8.3 to D8.6).
const LEAF: u64 = 1 << 54 | 1 << 10 | 0b11 << 8 | 0b11 << 6 | 0b1111 << 2 | 0b11;
/// S2AP\[1\] (D8.4).
const WRITE: u64 = 1 << 7;
/// A software bit (D8.3).
const OWNED: u64 = 1 << 55;
/// A table descriptor but for its address.
const TABLE: u64 = 0b11;
/// The output address (D8.3).
const ADDRESS: u64 = ((1 << 48) - 1) & !0xfff;
/// Entries in a table.
const ENTRIES: usize = 512;

/// A table on a page of the pool.
struct Table(*mut u64);

impl Table {
    fn new() -> Self {
        Self(std::ptr::with_exposed_provenance_mut(take_zeroed_page()))
    }

    fn entries(&mut self) -> &mut [u64] {
        // SAFETY: the page is this value's.
        unsafe { std::slice::from_raw_parts_mut(self.0, ENTRIES) }
    }

    fn descriptor(&self) -> u64 {
        self.0.expose_provenance() as u64 | TABLE
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        give_page(self.0.expose_provenance());
    }
}

/// Three levels for pages from address 0 on, up to 1 GiB of them.
pub struct Tables {
    root: Table,
    middle: Table,
    leaves: Vec<Table>,
}

impl Tables {
    /// Empty tables for `pages` pages.
    pub fn new(pages: usize) -> Self {
        let leaves = (0..pages.div_ceil(ENTRIES)).map(|_| Table::new()).collect();
        Self { root: Table::new(), middle: Table::new(), leaves }
    }

    /// Maps everything to where `target` begins.
    pub fn map(&mut self, target: usize) {
        let mut leaf = target as u64 | LEAF;
        self.link(|| {
            let this = leaf;
            leaf += PAGE_SIZE_4K as u64;
            this
        });
    }

    /// Maps everything to zeroed pages of the pool.
    pub fn populate(&mut self) {
        self.link(|| take_zeroed_page() as u64 | LEAF | OWNED);
    }

    fn link(&mut self, mut next: impl FnMut() -> u64) {
        for (entry, table) in self.middle.entries().iter_mut().zip(&mut self.leaves) {
            table.entries().iter_mut().for_each(|leaf| *leaf = next());
            *entry = table.descriptor();
        }
        self.root.entries()[0] = self.middle.descriptor();
    }

    /// Unlinks everything by one store, then gives back the pages that leaves own, and the tables.
    pub fn unmap(&mut self) {
        self.root.entries()[0] = 0;
        for table in &mut self.leaves {
            table
                .entries()
                .iter()
                .filter(|leaf| **leaf & OWNED != 0)
                .for_each(|leaf| give_page((leaf & ADDRESS) as usize));
        }
        self.leaves.clear();
    }

    /// Write-protects everything.
    pub fn protect(&mut self) {
        self.leaves.iter_mut().for_each(|table| table.entries().iter_mut().for_each(|leaf| *leaf &= !WRITE));
    }

    /// Maps a zeroed page, as a fault does.
    pub fn install(&mut self, page: usize) {
        self.leaves[page / ENTRIES].entries()[page % ENTRIES] = take_zeroed_page() as u64 | LEAF | OWNED;
    }

    /// Takes the page away again.
    pub fn remove(&mut self, page: usize) {
        let leaf = std::mem::take(&mut self.leaves[page / ENTRIES].entries()[page % ENTRIES]);
        give_page((leaf & ADDRESS) as usize);
    }

    /// Walks as hardware does.
    pub fn walk(&self, page: usize) -> u64 {
        let mut table = self.root.0.cast_const();
        for shift in [18, 9, 0] {
            // SAFETY: the table stands as long as `self` does, and an index has nine bits.
            let entry = unsafe { table.add(page >> shift & (ENTRIES - 1)).read_volatile() };
            if entry & 1 == 0 {
                return 0;
            }
            table = std::ptr::with_exposed_provenance((entry & ADDRESS) as usize);
        }
        table.addr() as u64
    }
}
