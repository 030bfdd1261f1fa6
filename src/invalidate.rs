//! What the tables ask of the CPUs: to see what was written, and to forget what was taken away.

use core::ptr::NonNull;

use page_table_multiarch::MappingFlags;

use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    cpu_id::CpuId,
};

/// The CPU's side of changing tables that it walks.
///
/// `R` is the format's root: it names the space whose translations are meant (VMID, EP4TA). Called under the space's
/// locks: it must not call back into the space.
pub trait Invalidate<R>: Send + Sync + 'static {
    /// Whether an invalidation on one CPU reaches all.
    fn reach(&self) -> Reach;

    /// Entries that this CPU wrote so far are visible to every walker when it returns, and to this CPU
    /// ([H5](crate::hardware#h5)).
    fn publish(&self);

    /// Forgets what was cached of `scope`: everywhere with [`Reach::Everywhere`], else on this CPU.
    ///
    /// It publishes first; when it returns, nothing is cached any more of the entries that this CPU wrote over, nor of
    /// anything derived from them.
    fn invalidate(&self, root: R, scope: Scope);

    /// Forgets everything that was cached of the root's identifier, as far as `invalidate` reaches.
    fn invalidate_all(&self, root: R);

    /// With [`Reach::ThisCpu`]: the same on `cpu`, which is this one, where it may fail.
    ///
    /// The one operation that a space then asks for: it comes before a CPU runs the guest, and after it was interrupted.
    ///
    /// # Errors
    /// [`Unreachable`] with `cpu`: it must not run the guest, and nothing is freed.
    fn flush(&self, root: R, cpu: CpuId) -> Result<(), Unreachable> {
        let _ = cpu;
        self.invalidate_all(root);
        Ok(())
    }

    /// On this CPU only, forgets an entry that denied an access at `gpa` ([H3](crate::hardware#h3)).
    fn invalidate_denial(&self, root: R, gpa: GuestPhysAddr);

    /// On this CPU only, separates two virtual CPUs of one space that run here in turn ([H6](crate::hardware#h6)).
    fn switch_vcpu(&self, root: R);

    /// With [`Reach::ThisCpu`]: has every CPU of `cpus` run `GuestSpace::flush(cpu)` soon, and leave the guest for it.
    ///
    /// # Errors
    /// [`Unreachable`] with the CPU that cannot be told; nothing is freed then.
    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable>;

    /// Makes `len` bytes that the hypervisor wrote, or is about to read, the same for the guest's uncached accesses,
    /// and with [`Content::Code`] for its instruction fetches ([H14](crate::hardware#h14)).
    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content);

    /// Whether [`synchronize`](Self::synchronize) does anything for such memory: where it does not, it need not be asked
    /// for each page.
    fn synchronizes(&self, content: Content) -> bool {
        let _ = content;
        true
    }

    /// Loads the root into this CPU's registers.
    fn activate(&self, root: R);
}

/// How far an invalidation reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every CPU (Arm's inner shareable operations).
    Everywhere,
    /// The CPU that executes it (Intel, AMD); others are interrupted.
    ThisCpu,
}

/// What changed, for an invalidation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scope {
    /// The addresses whose translation changed, whole pages; whole spans of the tables that went.
    pub range: GuestPhysRange,
    /// Which entries changed.
    pub entries: Changed,
}

/// Which entries an invalidation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Leaves of one level, no table.
    Leaves(Level),
    /// Leaves of several levels, no table.
    MixedLeaves,
    /// Tables too.
    Tables,
}

impl Changed {
    /// What covers both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Tables, _) | (_, Self::Tables) => Self::Tables,
            (one, two) if one == two => one,
            _ => Self::MixedLeaves,
        }
    }
}

/// What memory is used for, as far as caches care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Loads and stores.
    Data,
    /// Instruction fetches too.
    Code,
    /// Anything, past the caches, whatever else the CPUs agree on: [`UNCACHED`](crate::MappingFlags::UNCACHED) memory.
    Uncached,
}

impl Content {
    /// What a guest may do with memory of these flags.
    #[must_use]
    pub const fn of(flags: MappingFlags) -> Self {
        if flags.contains(MappingFlags::UNCACHED) {
            Self::Uncached
        } else if flags.contains(MappingFlags::EXECUTE) {
            Self::Code
        } else {
            Self::Data
        }
    }
}

/// A CPU that did not answer an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be told to forget its translations")]
pub struct Unreachable(pub CpuId);

/// How often a space had CPUs forget something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Invalidations {
    /// Of a range of addresses.
    pub ranges: u64,
    /// Of everything a space has.
    pub all: u64,
    /// Of one cached denial, on one CPU.
    pub denials: u64,
}
