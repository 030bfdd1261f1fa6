//! What stands behind an area: a value for the set, operations for a page table.

use memory_addr::MemoryAddr;

/// What stands behind an area, as far as a set is concerned: a value that is cloned when its area is split.
///
/// It is not told of the split, so it must not depend on where its area starts: a linear backend keeps the (wrapping)
/// difference between the two address spaces, not the address that its area starts at. Every [`MappingBackend`] is
/// one; a type that drives its page table by other means implements this alone.
pub trait Backing: Clone {
    /// The addresses of the areas. Any two compare as their numbers do.
    type Addr: MemoryAddr;
    /// What an area allows.
    type Flags: Copy;
}

impl<B: MappingBackend> Backing for B {
    type Addr = <B as MappingBackend>::Addr;
    type Flags = <B as MappingBackend>::Flags;
}

/// A change that a backend is about to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingChange<F> {
    /// [`MappingBackend::map`] with these flags.
    Map(F),
    /// [`MappingBackend::unmap`].
    Unmap,
    /// [`MappingBackend::protect`] with these flags.
    Protect(F),
}

/// How the areas of one kind are written into a page table.
///
/// The range that an operation gets lies within one area and may be any part of it. Each answers whether it succeeded.
/// The set believes that answer and changes its record accordingly; see [`prepare`](Self::prepare) for a way to fail
/// while that is still harmless.
pub trait MappingBackend: Clone {
    /// The addresses of the areas.
    type Addr: MemoryAddr;
    /// What an area allows.
    type Flags: Copy;
    /// What the mappings are written into.
    type PageTable;

    /// Maps `size` bytes at `start`, or answers `false` with nothing of it mapped.
    ///
    /// A backend that fails half-way takes back its own first half: only it knows which entries it wrote, and which
    /// were another backend's before.
    fn map(&self, start: Self::Addr, size: usize, flags: Self::Flags, page_table: &mut Self::PageTable) -> bool;

    /// Unmaps `size` bytes at `start`. After `false` the area stays recorded as a whole, so that it can be tried again.
    fn unmap(&self, start: Self::Addr, size: usize, page_table: &mut Self::PageTable) -> bool;

    /// Gives `size` bytes at `start` other flags. After `false` the area keeps its old flags.
    fn protect(&self, start: Self::Addr, size: usize, new_flags: Self::Flags, page_table: &mut Self::PageTable)
    -> bool;

    /// Whether `change` to `size` bytes at `start` can be done: asked for every part of an operation before the first
    /// of them changes anything. One `false` refuses the whole operation.
    ///
    /// This is the place to allocate what the change needs. It must change nothing that a walk of the table can see,
    /// and the change need not follow, because another part may refuse.
    #[expect(unused_variables, reason = "an implementation needs them")]
    fn prepare(
        &self,
        change: MappingChange<Self::Flags>,
        start: Self::Addr,
        size: usize,
        page_table: &mut Self::PageTable,
    ) -> bool {
        true
    }
}
