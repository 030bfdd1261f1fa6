//! The least that the same work can cost: loops over tables that stand ready, written for this one purpose.
#![allow(unsafe_code, reason = "follows descriptors")]

use std::{
    collections::BTreeMap,
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};

use memory_addr::PAGE_SIZE_4K;

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

/// Where frames come from.
pub trait Store {
    /// A frame, with whatever is in it.
    fn take() -> usize;
    /// A frame of zeros.
    fn take_zeroed() -> usize;
    /// Takes it back.
    fn give(page: usize);
}

/// A table on a frame of the store.
struct Table<S: Store>(*mut u64, PhantomData<S>);

impl<S: Store> Table<S> {
    fn new() -> Self {
        let mut table = Self(std::ptr::with_exposed_provenance_mut(S::take()), PhantomData);
        table.entries().fill(0);
        table
    }

    fn entries(&mut self) -> &mut [u64] {
        // SAFETY: the frame is this value's.
        unsafe { std::slice::from_raw_parts_mut(self.0, ENTRIES) }
    }

    fn descriptor(&self) -> u64 {
        self.0.expose_provenance() as u64 | TABLE
    }
}

impl<S: Store> Drop for Table<S> {
    fn drop(&mut self) {
        S::give(self.0.expose_provenance());
    }
}

/// Three levels for pages from address 0 on, up to 1 GiB of them.
pub struct Tables<S: Store> {
    root: Table<S>,
    middle: Table<S>,
    leaves: Vec<Table<S>>,
}

impl<S: Store> Tables<S> {
    /// Empty tables for `pages` pages.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        let leaves = (0..pages.div_ceil(ENTRIES)).map(|_| Table::new()).collect();
        let mut tables = Self { root: Table::new(), middle: Table::new(), leaves };
        tables.link();
        tables
    }

    fn link(&mut self) {
        for (entry, table) in self.middle.entries().iter_mut().zip(&self.leaves) {
            *entry = table.descriptor();
        }
        self.root.entries()[0] = self.middle.descriptor();
    }

    /// Maps everything to where `target` begins.
    pub fn map(&mut self, target: usize) {
        let mut leaf = target as u64 | LEAF;
        self.fill(|| {
            let this = leaf;
            leaf += PAGE_SIZE_4K as u64;
            this
        });
    }

    /// Maps everything to zeroed frames of the store.
    pub fn populate(&mut self) {
        self.fill(|| S::take_zeroed() as u64 | LEAF | OWNED);
    }

    fn fill(&mut self, mut next: impl FnMut() -> u64) {
        self.leaves.iter_mut().for_each(|table| table.entries().iter_mut().for_each(|leaf| *leaf = next()));
    }

    /// Unlinks everything by one store, then gives back the frames that leaves own, and the tables.
    pub fn unmap(&mut self) {
        self.root.entries()[0] = 0;
        for table in &mut self.leaves {
            // Most tables hold no frame that is owned, or nothing else.
            let (chunks, _) = table.entries().as_chunks::<32>();
            for chunk in chunks.iter().filter(|chunk| chunk.iter().fold(0, |all, leaf| all | leaf) & OWNED != 0) {
                let owned = chunk.iter().filter(|leaf| **leaf & OWNED != 0);
                owned.for_each(|leaf| S::give((leaf & ADDRESS) as usize));
            }
        }
        self.leaves.clear();
    }

    /// Write-protects everything.
    pub fn protect(&mut self) {
        self.leaves.iter_mut().for_each(|table| table.entries().iter_mut().for_each(|leaf| *leaf &= !WRITE));
    }

    /// Maps a zeroed frame, as a fault does: finds the entry from the root on, and takes it if it is absent still.
    pub fn fault(&self, page: usize) {
        let frame = S::take_zeroed();
        let leaf = frame as u64 | LEAF | OWNED;
        if self.entry(page).compare_exchange(0, leaf, Ordering::Release, Ordering::Relaxed).is_err() {
            S::give(frame);
        }
    }

    /// Maps a page.
    pub fn map_page(&self, page: usize, target: usize) {
        self.entry(page).store((target + page * PAGE_SIZE_4K) as u64 | LEAF, Ordering::Release);
    }

    /// Unmaps a page.
    #[must_use]
    pub fn unmap_page(&self, page: usize) -> u64 {
        self.entry(page).swap(0, Ordering::AcqRel)
    }

    /// Write-protects a page, or lets it be written again.
    #[must_use]
    pub fn protect_page(&self, page: usize) -> u64 {
        self.entry(page).fetch_xor(WRITE, Ordering::AcqRel)
    }

    /// The last level's entry.
    fn entry(&self, page: usize) -> &AtomicU64 {
        let mut table = self.root.0.cast_const();
        for shift in [18, 9] {
            // SAFETY: the table stands as long as `self` does, and an index has nine bits.
            let entry = unsafe { table.add(page >> shift & (ENTRIES - 1)).read_volatile() };
            table = std::ptr::with_exposed_provenance((entry & ADDRESS) as usize);
        }
        // SAFETY: as above; it is reached as an atomic alone while faults may come.
        unsafe { &*table.add(page & (ENTRIES - 1)).cast::<AtomicU64>() }
    }

    /// Takes a page away again, and gives its frame back.
    pub fn remove(&self, page: usize) {
        S::give((self.unmap_page(page) & ADDRESS) as usize);
    }

    /// Walks as hardware does.
    #[must_use]
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

/// Areas in a `BTreeMap` from their starts to their ends and flags, edited in place.
#[derive(Default)]
pub struct Areas(BTreeMap<usize, (usize, u8)>);

impl Areas {
    /// Adds an area.
    pub fn map(&mut self, start: usize, size: usize, flags: u8) {
        self.0.insert(start, (start + size, flags));
    }

    /// Takes away what lies within one area, from its middle.
    pub fn unmap(&mut self, start: usize, size: usize) {
        self.replace(start, size, None);
    }

    /// Changes the flags of what lies within one area, in its middle.
    pub fn protect(&mut self, start: usize, size: usize, flags: u8) {
        self.replace(start, size, Some(flags));
    }

    fn replace(&mut self, start: usize, size: usize, new: Option<u8>) {
        let stop = start + size;
        let (_, area) = self.0.range_mut(..=start).next_back().expect("an area is there");
        let (end, flags) = *area;
        area.0 = start;
        if let Some(new) = new {
            self.0.insert(start, (stop, new));
        }
        self.0.insert(stop, (end, flags));
    }
}
