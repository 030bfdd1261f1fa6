//! What a kind of table is: its geometry and its entries, as values that the walker understands.
//!
//! A format knows bits and nothing else: no table, no area, no instruction. It is built and tested on every host.

use core::fmt::Debug;

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use crate::addr::{GuestPhysAddr, Level};
pub use crate::geometry::Geometry;

/// How large the leaves of private memory may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafPolicy {
    /// Pages only.
    Pages,
    /// The largest block that alignment, the area, the format and the allocator allow, smaller ones where one of them
    /// does not. A fault populates 2 MiB at most (4 KiB granule): a guest must not cause more work than that at once.
    Largest,
}

/// One architecture's table entries: pure encoding and decoding.
///
/// A format is a value, since what a CPU can do is known when the hypervisor starts. The walker hands it only
/// flags that [`check`](Format::check) accepted, addresses below 2^[`output_bits`](Format::output_bits) that are
/// aligned to their leaf, and levels that [`maps`](Format::maps) or that hold tables.
///
/// # Runs
/// Most tables hold runs of leaves that differ in their address alone, and the walker takes a run as one: it encodes the
/// first two leaves and adds their difference for each that follows, or decodes one leaf and changes the same bits in
/// all. [`fields`](Format::fields) says which bits that concerns.
pub trait Format: Clone + Debug + Send + Sync + 'static {
    /// log2 of a page's size in bytes.
    const PAGE_SHIFT: u32;
    /// log2 of the number of entries in a table below the root.
    const INDEX_BITS: u32;

    /// What the CPU's registers get for a space: base, identifier, configuration.
    type Root: Copy + Debug + Send + Sync + 'static;

    /// The level of the root's entries, and log2 of how many it has. Constant for the life of the value.
    fn root_shape(&self) -> (Level, u32);

    /// The shape of the tree.
    fn geometry(&self) -> Geometry {
        let (root_level, root_index_bits) = self.root_shape();
        Geometry { page_shift: Self::PAGE_SHIFT, index_bits: Self::INDEX_BITS, root_level, root_index_bits }
    }

    /// The register values for a space whose root table is at `table`.
    fn root(&self, table: PhysAddr) -> Self::Root;

    /// The number of bits in a host-physical address that an entry can hold and the CPU accepts.
    fn output_bits(&self) -> u32;

    /// Whether an entry of `level` may be a leaf.
    fn maps(&self, level: Level) -> bool;

    /// Refuses flags that no entry expresses exactly.
    ///
    /// # Errors
    /// [`Inexpressible`] with the flags that cannot be had, or not together.
    fn check(&self, flags: MappingFlags) -> Result<(), Inexpressible>;

    /// What a leaf of `level` allows where `flags` are asked for: less, where a large leaf may not have it all
    /// ([H18](crate::hardware#h18)).
    ///
    /// [`leaf`](Format::leaf) and [`with_flags`](Format::with_flags) give just that. A guest that is denied what its
    /// area allows then gets a smaller leaf. A page always allows what was asked for.
    fn allowed(&self, level: Level, flags: MappingFlags) -> MappingFlags {
        let _ = level;
        flags
    }

    /// The entry that maps no memory. The hardware's walker faults on it, and does not cache it.
    fn absent(&self) -> u64 {
        0
    }

    /// The entry that points to a finished table.
    fn table(&self, at: PhysAddr) -> u64;

    /// The entry that maps memory.
    fn leaf(&self, level: Level, leaf: &Leaf) -> u64;

    /// `entry`, a table or leaf of `level`, made invalid for the hardware but complete for [`decode`](Format::decode):
    /// [`Entry::Lent`] for a leaf that is [on loan](Owner::OnLoan), else [`Entry::Marked`].
    fn mark(&self, level: Level, entry: u64) -> u64;

    /// The invalid entry of a leaf that is being changed by a CPU that will finish.
    fn busy(&self) -> u64;

    /// What an entry says.
    fn decode(&self, level: Level, entry: u64) -> Entry;

    /// The table that a valid entry points to, if it points to one: the short form of [`decode`](Format::decode), for a
    /// walk that descends.
    #[inline]
    fn next_table(&self, level: Level, entry: u64) -> Option<PhysAddr> {
        match self.decode(level, entry) {
            Entry::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The address of a leaf, or of a leaf that was [marked](Format::mark): the short form of [`decode`](Format::decode)
    /// for an entry that is known to be one.
    #[inline]
    fn leaf_address(&self, level: Level, entry: u64) -> PhysAddr {
        match self.decode(level, entry) {
            Entry::Leaf(leaf) | Entry::Marked(Marked::Leaf(leaf)) | Entry::Lent(leaf) => leaf.at,
            _ => PhysAddr::from_usize(0),
        }
    }

    /// What the bits of the entries of a level are.
    fn fields(&self, level: Level) -> Fields;

    /// The leaf `entry` with other flags; everything else stays, what the hardware noted included.
    ///
    /// Write-protecting takes *every* way to write (on Arm also DBM, [H12](crate::hardware#h12)) and keeps the
    /// dirtiness in the entry.
    fn with_flags(&self, level: Level, entry: u64, flags: MappingFlags) -> u64;

    /// The leaf `entry` with its accessed mark set, and its dirty mark where the hypervisor wrote.
    fn touched(&self, level: Level, entry: u64, access: Access) -> u64;

    /// How a live leaf `old` may become the leaf `new` ([H7](crate::hardware#h7), [H15](crate::hardware#h15)).
    fn change(&self, level: Level, old: u64, new: u64) -> Change;

    /// Whether a CPU may go on denying after the entry allows ([H3](crate::hardware#h3)).
    fn denials(&self) -> Denials;
}

/// What the bits of a level's entries are, for a walker that takes many entries as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Where a leaf's address is. Entries that agree in all other bits decode to the same, but for the address.
    pub address: u64,
    /// What the CPU may set in a valid leaf at any time. Where it sets nothing, a valid leaf may be changed by a plain
    /// store under the space's lock.
    pub hardware: u64,
    /// At least one of these is set in every leaf of the space's own memory, a marked one too: a table in which none is
    /// set has nothing to be freed.
    pub owned: u64,
}

/// An entry, as all code but its format sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// It maps no memory.
    Absent,
    /// A table of the next level below.
    Table(PhysAddr),
    /// Memory.
    Leaf(Leaf),
    /// Taken away, and waiting for the invalidation: what stood here, for the reaper ([H22](crate::hardware#h22)).
    Marked(Marked),
    /// The space's own memory that it lent to another: out of reach until it comes back.
    Lent(Leaf),
    /// A leaf that a CPU is changing and will finish ([H26](crate::hardware#h26)).
    Busy,
}

/// What a marked entry was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Marked {
    /// A table, whose entries are as they were.
    Table(PhysAddr),
    /// A leaf.
    Leaf(Leaf),
}

/// A mapping of memory by one entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leaf {
    /// The host-physical address, aligned to the leaf's size.
    pub at: PhysAddr,
    /// What the guest may do, and the memory's type.
    pub flags: MappingFlags,
    /// The owner of the frame.
    pub owner: Owner,
    /// What was noted of its use.
    pub used: Used,
}

/// The owner of the frame that a leaf maps: written in the leaf itself, so that unmapping need not look elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The space's own: it goes back to the allocator when it is unmapped.
    Space,
    /// Not the space's: a device, memory that is passed through.
    Foreign,
    /// A region's, which other guests may map too: it stays when it is unmapped.
    Shared,
    /// A frozen region's, to be copied before it is written: such a leaf never allows that.
    Frozen,
    /// The space's own, and another space has a view of it: it stays when the space goes, until no space has.
    OnLoan,
    /// Another space's: it goes back to that one when it is unmapped, and nothing is ever executed from it.
    Borrowed,
}

impl Owner {
    /// What of `flags` a leaf of this owner's memory may allow.
    #[must_use]
    pub fn limit(self, flags: MappingFlags) -> MappingFlags {
        match self {
            Self::Frozen => flags - MappingFlags::WRITE,
            Self::Borrowed => flags - MappingFlags::EXECUTE,
            Self::Space | Self::Foreign | Self::Shared | Self::OnLoan => flags,
        }
    }
}

/// What the hardware, or the hypervisor in its place, noted of a leaf's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// It was not used yet.
    Not,
    /// It was read or walked.
    Accessed,
    /// It was written.
    Dirty,
}

impl Used {
    /// The access that made `before` into what it is now; `None` if it is the same.
    pub(crate) fn since(self, before: Self) -> Option<Access> {
        match self {
            now if now == before => None,
            Self::Dirty => Some(Access::Write),
            Self::Accessed => Some(Access::Read),
            // Marks are only added.
            Self::Not => None,
        }
    }
}

/// What a guest tried to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A load, or a walk that reads.
    Read,
    /// A store, or a walk that updates.
    Write,
    /// An instruction fetch.
    Execute,
}

impl Access {
    /// The flag that allows it.
    #[must_use]
    pub const fn flag(self) -> MappingFlags {
        match self {
            Self::Read => MappingFlags::READ,
            Self::Write => MappingFlags::WRITE,
            Self::Execute => MappingFlags::EXECUTE,
        }
    }
}

/// How a live entry may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// In place; nothing that a CPU cached allows too much.
    Raise,
    /// In place; CPUs must forget the old one afterwards.
    Restrict,
    /// Only by break-before-make.
    Break,
}

/// What a CPU does with an entry that denied an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denials {
    /// It may cache it, and deny again after the entry was raised, until it is told (Arm).
    Cached,
    /// The fault drops it (Intel, AMD).
    Dropped,
}

/// Flags that a format cannot express.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the format cannot express flags {0:?}")]
pub struct Inexpressible(pub MappingFlags);

/// A leaf's translation of one address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Translation {
    /// Where the address is in the host's memory.
    pub hpa: PhysAddr,
    /// What the guest may do there.
    pub flags: MappingFlags,
    /// The size in bytes of the leaf that maps it.
    pub size: usize,
    /// The first guest-physical address of that leaf.
    pub leaf_start: GuestPhysAddr,
}
