//! The hypervisor's own access to guest memory: through the map, as the guest would.

use core::ptr::NonNull;

use super::GuestSpace;
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange},
    error::Error,
    format::Access,
    lock::LockFamily,
    plain::{self, Plain, Word, sealed::Cell},
    platform::Platform,
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Reads guest memory from `gpa` on, across pages, populating lazy memory as the guest's own read would.
    ///
    /// Aligned values of two, four and eight bytes are read whole; between them the guest may write. The lock is held
    /// for a page at a time.
    ///
    /// # Errors
    /// [`Error::Overflow`], [`Error::BeyondInput`], [`Error::NotMapped`], [`Error::NotMemory`] for a device,
    /// [`Error::Denied`] where the guest may not read, [`Error::NoMemory`], [`Error::Limit`], and for memory from
    /// a source [`Error::NotYet`] and [`Error::SourceFailed`]: each with the part that was not read; what is before it
    /// was. [`Error::Invalidation`] if an earlier operation's invalidation still fails.
    pub fn read(&self, gpa: GuestPhysAddr, to: &mut [u8]) -> Result<(), Error> {
        let range = self.bytes(gpa, to.len())?;
        let mut done = 0;
        while done < to.len() {
            let rest = GuestPhysRange { start: gpa + done, end: range.end };
            done += self.with_window(rest, Access::Read, |window| {
                // SAFETY: the window is valid while the lock is held, and all accesses to it are atomic.
                #[allow(unsafe_code, reason = "guest memory")]
                unsafe {
                    plain::copy_out(window.pointer, &mut to[done..done + window.len]);
                }
                window.len
            })?;
        }
        Ok(())
    }

    /// Writes guest memory from `gpa` on, across pages, populating lazy memory as the guest's own write would.
    ///
    /// What is written is coherent with the guest's uncached accesses and its instruction fetches when it returns.
    ///
    /// # Errors
    /// As for [`read`](Self::read), where the guest may not write.
    pub fn write(&self, gpa: GuestPhysAddr, from: &[u8]) -> Result<(), Error> {
        let range = self.bytes(gpa, from.len())?;
        let mut done = 0;
        while done < from.len() {
            let rest = GuestPhysRange { start: gpa + done, end: range.end };
            done += self.with_window(rest, Access::Write, |window| {
                // SAFETY: as in `read`.
                #[allow(unsafe_code, reason = "guest memory")]
                unsafe {
                    plain::copy_in(&from[done..done + window.len], window.pointer);
                }
                window.len
            })?;
        }
        Ok(())
    }

    /// Reads a value.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_obj<T: Plain>(&self, gpa: GuestPhysAddr) -> Result<T, Error> {
        plain::from_bytes(|bytes| self.read(gpa, bytes))
    }

    /// Writes a value.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn write_obj<T: Plain>(&self, gpa: GuestPhysAddr, value: T) -> Result<(), Error> {
        self.write(gpa, plain::as_bytes(&value))
    }

    /// Loads a word with acquire ordering: what the guest wrote before it is seen by later reads.
    ///
    /// # Errors
    /// As for [`read`](Self::read); [`Error::Unaligned`].
    pub fn load<T: Word>(&self, gpa: GuestPhysAddr) -> Result<T, Error> {
        // SAFETY: `word` gives an aligned window of the size, and all accesses to it are atomic.
        #[allow(unsafe_code, reason = "guest memory")]
        self.word::<T, _>(gpa, Access::Read, |at| unsafe { T::load(at) })
    }

    /// Stores a word with release ordering: what was written before it is seen by a guest that reads it.
    ///
    /// # Errors
    /// As for [`write`](Self::write); [`Error::Unaligned`].
    pub fn store<T: Word>(&self, gpa: GuestPhysAddr, value: T) -> Result<(), Error> {
        // SAFETY: as in `load`.
        #[allow(unsafe_code, reason = "guest memory")]
        self.word::<T, _>(gpa, Access::Write, |at| unsafe { T::store(at, value) })
    }

    /// Replaces `old` by `new` if it is there, with acquire and release ordering: what was there, as `Ok` if it was
    /// replaced.
    ///
    /// # Errors
    /// As for [`write`](Self::write); [`Error::Unaligned`].
    pub fn compare_exchange<T: Word>(&self, gpa: GuestPhysAddr, old: T, new: T) -> Result<Result<T, T>, Error> {
        // SAFETY: as in `load`.
        #[allow(unsafe_code, reason = "guest memory")]
        self.word::<T, _>(gpa, Access::Write, |at| unsafe { T::exchange(at, old, new) })
    }

    /// Runs `each` on an aligned word of guest memory.
    fn word<T: Word + Cell, R>(
        &self,
        gpa: GuestPhysAddr,
        access: Access,
        each: impl FnOnce(NonNull<u8>) -> R,
    ) -> Result<R, Error> {
        let range = self.bytes(gpa, size_of::<T>())?;
        if !gpa.as_usize().is_multiple_of(size_of::<T>()) {
            return Err(Error::Unaligned(range));
        }
        self.with_window(range, access, |window| each(window.pointer))
    }

    /// The range of `len` bytes from `gpa` on.
    fn bytes(&self, gpa: GuestPhysAddr, len: usize) -> Result<GuestPhysRange, Error> {
        let range = GuestPhysRange::try_from_start_size(gpa, len).ok_or(Error::Overflow { start: gpa, size: len })?;
        if range.end.as_usize() > self.context.limit() {
            return Err(Error::BeyondInput { range, bits: self.context.input_bits });
        }
        Ok(range)
    }
}
