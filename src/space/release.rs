//! Handles that go in steps.

use super::Progress;
use crate::region::{Released, SharedRegion, Snapshot};

impl SharedRegion {
    /// Ends this handle as dropping it does, but leaves the freeing to the caller.
    ///
    /// When it returns the handle is gone: no page can be reached by it. Only the last handle leaves anything to be freed: all
    /// of a region that no guest maps, or what of it no mapping shows. A [`RegionWriter`](crate::region::RegionWriter) is a
    /// handle too. How long it takes does not depend on the region's size.
    ///
    /// # Example
    /// ```
    /// use stage2::space::Progress;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::guest;
    ///
    /// let image = guest(1)?.region(0x10_0000)?;
    /// image.writer()?.write(0, &[1; 0x10_0000])?;
    /// let mut releasing = image.release();
    /// while releasing.step(64) == Progress::More {
    ///     // The hypervisor does something else.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) -> Releasing {
        Releasing(self.end())
    }
}

impl Snapshot {
    /// Ends the snapshot as dropping it does, but leaves the freeing to the caller.
    ///
    /// When it returns the snapshot is gone, unless there is another handle of its [region](Self::region). What guests still
    /// reach of it stays; what the last of them alone reaches becomes its own.
    ///
    /// # Example
    /// ```
    /// use stage2::{LeafPolicy, Mapping, Populate, space::Progress};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// let space = guest(1)?;
    /// space.map(range(0x8000_0000, 0x4000), Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages }, RW)?;
    /// space.write(0x8000_0000.into(), &[1; 0x4000])?;
    /// let snapshot = space.snapshot()?;
    /// space.write(0x8000_0000.into(), &[2; 0x4000])?;
    /// let mut releasing = snapshot.release();
    /// while releasing.step(2) == Progress::More {
    ///     // The hypervisor does something else, and the guest runs.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) -> Releasing {
        Releasing(self.into_region().end())
    }
}

/// Pages that the last handle of a region has left, and that are still to be freed: [`SharedRegion::release`] and
/// [`Snapshot::release`] make it.
///
/// Dropped, it frees the rest at once. No lock is held between two steps. What guests map of the region stays, and what they
/// unmap meanwhile is freed by that. The wait for a page that a source was to bring is over when the page's turn comes.
#[must_use = "dropping it frees everything at once"]
pub struct Releasing(Released);

impl Releasing {
    /// Frees up to `budget` frames of 4 KiB. A page that others keep counts as one too, and so does the region itself.
    pub fn step(&mut self, mut budget: usize) -> Progress {
        self.0.step(&mut budget);
        if self.0.is_empty() { Progress::Done } else { Progress::More }
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        while self.step(usize::MAX) == Progress::More {}
    }
}
