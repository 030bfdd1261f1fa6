#![allow(missing_docs)]
use crate::{GuestPhysAddr, MappingFlags};
use alloc::vec::Vec;
use memory_addr::AddrRange;
pub trait MappingBackend {}
pub enum MappingError {}
pub type MappingResult<T = ()> = Result<T, MappingError>;
#[derive(Clone, Copy)]
pub struct MemoryArea<B> {
    r: AddrRange<GuestPhysAddr>,
    f: MappingFlags,
    b: B,
}
impl<B: Copy> MemoryArea<B> {
    pub fn new(s: GuestPhysAddr, size: usize, f: MappingFlags, b: B) -> Self {
        Self { r: AddrRange::from_start_size(s, size), f, b }
    }
    pub fn va_range(&self) -> AddrRange<GuestPhysAddr> {
        self.r
    }
    pub fn flags(&self) -> MappingFlags {
        self.f
    }
    pub fn backend(&self) -> &B {
        &self.b
    }
    pub fn start(&self) -> GuestPhysAddr {
        self.r.start
    }
    pub fn end(&self) -> GuestPhysAddr {
        self.r.end
    }
}
pub struct MemorySet<B> {
    v: Vec<MemoryArea<B>>,
}
pub struct Plan<'a, B> {
    s: &'a mut MemorySet<B>,
    r: AddrRange<GuestPhysAddr>,
}
impl<B: Copy> MemorySet<B> {
    pub const fn new() -> Self {
        Self { v: Vec::new() }
    }
    pub fn len(&self) -> usize {
        self.v.len()
    }
    pub fn iter(&self) -> impl Iterator<Item = &MemoryArea<B>> {
        self.v.iter()
    }
    pub fn find(&self, a: GuestPhysAddr) -> Option<&MemoryArea<B>> {
        self.v.iter().find(|x| x.r.contains(a))
    }
    pub fn overlap(&self, r: AddrRange<GuestPhysAddr>) -> Option<&MemoryArea<B>> {
        self.v.iter().find(|x| x.r.overlaps(r))
    }
    pub fn insert(&mut self, a: MemoryArea<B>) -> Result<(), ()> {
        self.v.push(a);
        self.v.sort_by_key(|a| a.r.start);
        Ok(())
    }
    pub fn plan(&mut self, r: AddrRange<GuestPhysAddr>) -> Result<Plan<'_, B>, ()> {
        Ok(Plan { s: self, r })
    }
}
impl<B: Copy> Plan<'_, B> {
    pub fn pieces(&self) -> impl Iterator<Item = (&MemoryArea<B>, AddrRange<GuestPhysAddr>)> {
        let r = self.r;
        self.s
            .v
            .iter()
            .filter(move |a| a.r.overlaps(r))
            .map(move |a| (a, AddrRange { start: a.r.start.max(r.start), end: a.r.end.min(r.end) }))
    }
    fn split(&mut self) -> Vec<MemoryArea<B>> {
        let mut out = Vec::new();
        let mut keep = Vec::new();
        for a in self.s.v.drain(..) {
            if !a.r.overlaps(self.r) {
                keep.push(a);
                continue;
            }
            if a.r.start < self.r.start {
                keep.push(MemoryArea { r: AddrRange { start: a.r.start, end: self.r.start }, ..a })
            }
            if a.r.end > self.r.end {
                keep.push(MemoryArea { r: AddrRange { start: self.r.end, end: a.r.end }, ..a })
            }
            out.push(MemoryArea {
                r: AddrRange { start: a.r.start.max(self.r.start), end: a.r.end.min(self.r.end) },
                ..a
            });
        }
        self.s.v = keep;
        self.s.v.sort_by_key(|a| a.r.start);
        out
    }
    pub fn carve(mut self) -> Vec<MemoryArea<B>> {
        self.split()
    }
    pub fn replace(mut self, f: impl Fn(MappingFlags) -> MappingFlags) -> Vec<MemoryArea<B>> {
        let v = self.split();
        for a in &v {
            self.s.v.push(MemoryArea { f: f(a.f), ..*a })
        }
        self.s.v.sort_by_key(|a| a.r.start);
        v
    }
}
