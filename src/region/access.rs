//! The hypervisor's own access to a region, as a virtio back end has it: by offset, whichever guests map it.

use core::ptr::NonNull;

use memory_addr::PAGE_SIZE_4K;

use super::{RegionError, RegionWriter, SharedRegion};
use crate::{
    invalidate::Content,
    plain::{self, Plain, Word, sealed::Cell},
};

impl SharedRegion {
    /// Reads from `offset` on. What is untouched yet is zero, and stays untouched; a page that comes from a source is
    /// asked for.
    ///
    /// Aligned values of two, four and eight bytes are read whole; between them guests may write.
    ///
    /// # Errors
    /// [`RegionError::Beyond`], before anything was read. Of a region whose pages come from a source:
    /// [`RegionError::NotYet`], [`RegionError::SourceFailed`], [`RegionError::NoMemory`] with what was not read.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), RegionError> {
        self.check(offset, to.len())?;
        let mut done = 0;
        while done < to.len() {
            let len = in_page(offset + done, to.len() - done);
            self.bring(offset + done, to.len() - done)?;
            let part = &mut to[done..done + len];
            let read = self.existing(offset + done, len, |bytes| {
                // SAFETY: the frame stays meanwhile, and all accesses to it are atomic.
                #[allow(unsafe_code, reason = "shared memory")]
                unsafe {
                    plain::copy_out(bytes, part);
                }
            });
            if read.is_none() {
                part.fill(0);
            }
            done += len;
        }
        Ok(())
    }

    /// Reads a value.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_obj<T: Plain>(&self, offset: usize) -> Result<T, RegionError> {
        plain::from_bytes(|bytes| self.read(offset, bytes))
    }

    /// Loads a word with acquire ordering: what was written before it is seen by later reads.
    ///
    /// # Errors
    /// As for [`read`](Self::read); [`RegionError::Unaligned`].
    pub fn load<T: Word>(&self, offset: usize) -> Result<T, RegionError> {
        self.check_word::<T>(offset)?;
        self.bring(offset, size_of::<T>())?;
        // SAFETY: as in `read`; the word is aligned.
        #[allow(unsafe_code, reason = "shared memory")]
        let word = self.existing(offset, size_of::<T>(), |bytes| unsafe { T::load(bytes) });
        word.map_or_else(|| plain::from_bytes(|_| Ok(())), Ok)
    }

    /// Runs `each` on `len` bytes within a page, in step with what was written past the caches; `None` if it has no frame.
    fn existing<R>(&self, offset: usize, len: usize, each: impl FnOnce(NonNull<u8>) -> R) -> Option<R> {
        // With the lock: the page may be discarded.
        let book = self.0.reading();
        let at = book.pages.frame(self.0.places().of(offset / PAGE_SIZE_4K))?;
        let bytes = self.0.pointer(at + offset % PAGE_SIZE_4K);
        self.0.synchronize(bytes, len, Content::Data);
        let result = each(bytes);
        drop(book);
        Some(result)
    }

    pub(super) fn check(&self, offset: usize, size: usize) -> Result<(), RegionError> {
        let region = self.size();
        if offset.checked_add(size).is_none_or(|end| end > region) {
            return Err(RegionError::Beyond { offset, size, region });
        }
        Ok(())
    }

    fn check_word<T>(&self, offset: usize) -> Result<(), RegionError> {
        let align = size_of::<T>();
        self.check(offset, align)?;
        if offset.is_multiple_of(align) { Ok(()) } else { Err(RegionError::Unaligned { offset, align }) }
    }
}

impl RegionWriter {
    /// The region.
    #[must_use]
    pub fn region(&self) -> &SharedRegion {
        &self.0
    }

    /// Writes from `offset` on, populating what is untouched yet.
    ///
    /// What is written is coherent with every guest's uncached accesses and instruction fetches when it returns.
    ///
    /// # Errors
    /// [`RegionError::Beyond`] before anything was written; [`RegionError::NoMemory`] with what was not. Of a region whose
    /// pages come from a source, [`RegionError::NotYet`] and [`RegionError::SourceFailed`] likewise: each page that is
    /// written is asked for first.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), RegionError> {
        self.0.check(offset, from.len())?;
        let mut done = 0;
        while done < from.len() {
            let len = in_page(offset + done, from.len() - done);
            self.change(offset + done, len, from.len() - done, |bytes| {
                // SAFETY: the frame stays meanwhile, and all accesses to it are atomic.
                #[allow(unsafe_code, reason = "shared memory")]
                unsafe {
                    plain::copy_in(&from[done..done + len], bytes);
                }
            })?;
            done += len;
        }
        Ok(())
    }

    /// Writes a value.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn write_obj<T: Plain>(&self, offset: usize, value: T) -> Result<(), RegionError> {
        self.write(offset, plain::as_bytes(&value))
    }

    /// Stores a word with release ordering: what was written before it is seen by a reader of it.
    ///
    /// # Errors
    /// As for [`write`](Self::write); [`RegionError::Unaligned`].
    pub fn store<T: Word>(&self, offset: usize, value: T) -> Result<(), RegionError> {
        // SAFETY: `word` gives an aligned word, and all accesses to it are atomic.
        #[allow(unsafe_code, reason = "shared memory")]
        self.word::<T, _>(offset, |at| unsafe { T::store(at, value) })
    }

    /// Replaces `old` by `new` if it is there, with acquire and release ordering: what was there, as `Ok` if it was
    /// replaced.
    ///
    /// # Errors
    /// As for [`write`](Self::write); [`RegionError::Unaligned`].
    pub fn compare_exchange<T: Word>(&self, offset: usize, old: T, new: T) -> Result<Result<T, T>, RegionError> {
        // SAFETY: as in `store`.
        #[allow(unsafe_code, reason = "shared memory")]
        self.word::<T, _>(offset, |at| unsafe { T::exchange(at, old, new) })
    }

    fn word<T: Word + Cell, R>(&self, offset: usize, each: impl FnOnce(NonNull<u8>) -> R) -> Result<R, RegionError> {
        self.0.check_word::<T>(offset)?;
        self.change(offset, size_of::<T>(), size_of::<T>(), each)
    }

    /// Runs `each` on `len` bytes within a page, of which `left` are still to be written from there on.
    fn change<R>(
        &self,
        offset: usize,
        len: usize,
        left: usize,
        each: impl FnOnce(NonNull<u8>) -> R,
    ) -> Result<R, RegionError> {
        let mut each = Some(each);
        loop {
            self.0.bring(offset, left)?;
            let region = &self.0.0;
            let populated = region.as_dyn().populate(offset / PAGE_SIZE_4K);
            populated.map_err(|_| RegionError::NoMemory { offset, size: left })?;
            let written = self.0.existing(offset, len, |bytes| {
                let result = each.take().map(|each| each(bytes));
                // Some guest may fetch from it, another go past the caches.
                region.synchronize(bytes, len, Content::Uncached);
                result
            });
            if let Some(Some(result)) = written {
                return Ok(result);
            }
            // It was discarded meanwhile.
        }
    }
}

/// How many of `len` bytes from `offset` on lie in its page.
fn in_page(offset: usize, len: usize) -> usize {
    len.min(PAGE_SIZE_4K - offset % PAGE_SIZE_4K)
}
