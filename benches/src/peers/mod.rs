//! Page tables of other crates, with frames of the same list, asked for the same work.

mod aarch64_paging;
mod page_table_generic;
mod page_table_multiarch;
mod x86_64;

pub use self::{
    aarch64_paging::Aarch64Paging, page_table_generic::PageTableGeneric, page_table_multiarch::PageTableMultiarch,
    x86_64::X8664,
};

/// What such a table can be asked for. Pages are counted from [`BASE`](crate::machine::BASE) on.
pub trait Peer: 'static {
    /// What a table of results calls it.
    const NAME: &'static str;

    /// A table in which no page is mapped.
    fn new() -> Self;

    /// Maps pages to where [`TARGET`](crate::machine::TARGET) begins.
    fn map(&mut self, pages: usize);

    /// Unmaps them.
    fn unmap(&mut self, pages: usize);

    /// Write-protects them.
    fn protect(&mut self, pages: usize);

    /// Maps one page to a frame.
    fn map_page(&mut self, page: usize, frame: usize);

    /// Unmaps it.
    fn unmap_page(&mut self, page: usize);

    /// Write-protects it, or lets it be written again.
    fn protect_page(&mut self, page: usize, access: Access);

    /// Where a page leads to.
    fn translate(&self, page: usize) -> Option<usize>;
}

/// What a page may be used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}
