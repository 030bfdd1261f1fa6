//! The hypervisor's own access to guest memory: through the map, as the guest would.

use core::ptr::NonNull;

use super::{GuestSpace, Platform, State};
use crate::{
    Access, Cause, Content, Error, Fault, Frames, GuestPhysAddr, GuestPhysRange, Invalidate, LockFamily, MappingFlags,
    MemoryArea, Origin, Plain, SpaceLock, Word,
    backend::Backend,
    plain::{self, sealed::Cell},
    table::{Found, Installed},
};

/// Guest memory within one page, for as long as the space's lock is held.
struct Window {
    pointer: NonNull<u8>,
    len: usize,
    content: Content,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Reads guest memory from `gpa` on, across pages, populating lazy memory as the guest's own read would.
    ///
    /// Aligned values of two, four and eight bytes are read whole; between them the guest may write. The lock is held
    /// for a page at a time.
    ///
    /// # Errors
    /// [`Error::Overflow`], [`Error::BeyondInput`], [`Error::NotMapped`], [`Error::NotMemory`] for a device,
    /// [`Error::Denied`] where the guest may not read, [`Error::NoMemory`]: with the part that was not read. What is
    /// before that part was. [`Error::Invalidation`] if an earlier operation's invalidation still fails.
    pub fn read(&self, gpa: GuestPhysAddr, to: &mut [u8]) -> Result<(), Error> {
        let range = self.bytes(gpa, to.len())?;
        let mut done = 0;
        while done < to.len() {
            let rest = GuestPhysRange { start: gpa + done, end: range.end };
            done += self.with_window(rest, Access::Read, |window| {
                // SAFETY: the window is valid while the lock is held, and everybody who shares it uses atomics.
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
        // SAFETY: `word` gives an aligned window of the size, and everybody who shares it uses atomics.
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
        let geometry = self.builder.geometry();
        if range.end.as_usize() > geometry.limit() {
            return Err(Error::BeyondInput { range, bits: geometry.input_bits() });
        }
        Ok(range)
    }

    /// Runs `each` on the first page's part of `range`, with the space's lock held shared.
    fn with_window<R>(
        &self,
        range: GuestPhysRange,
        access: Access,
        each: impl FnOnce(Window) -> R,
    ) -> Result<R, Error> {
        let cpu = super::anybody();
        loop {
            let state = self.state.shared(cpu);
            if let Some(window) = self.window(&state, range, access)? {
                let (pointer, len, content) = (window.pointer, window.len, window.content);
                let operations = self.shootdown.operations();
                let whole = len == self.builder.geometry().page_size();
                if access == Access::Read || !whole {
                    // The guest may have written it past the cache, or the rest of a line of which a part is written
                    // here; what is read is not fetched.
                    let content = if content == Content::Code { Content::Data } else { content };
                    operations.synchronize(pointer, len, content);
                }
                let result = each(window);
                if access == Access::Write {
                    state.table.touch(range.start, Access::Write);
                    operations.synchronize(pointer, len, content);
                }
                return Ok(result);
            }
            drop(state);
            self.state.exclusive().settle(&self.shootdown)?;
        }
    }

    /// The first page's part of `range`; `None` if an earlier operation must be finished first.
    fn window(&self, state: &State<P>, range: GuestPhysRange, access: Access) -> Result<Option<Window>, Error> {
        let area = state.areas.find(range.start).ok_or(Error::NotMapped(range))?;
        let flags = area.flags();
        if flags.contains(MappingFlags::DEVICE) {
            return Err(Error::NotMemory(range));
        }
        if !flags.contains(access.flag()) {
            return Err(Error::Denied { range, flags });
        }
        loop {
            match (state.table.find(range.start), area.backend()) {
                (Found::Leaf { leaf, span, .. }, _) => {
                    let page = super::page_of(self.builder.geometry(), range.start);
                    let pointer = self.builder.frames().pointer(leaf.at + (range.start - span.start));
                    let len = range.end.min(page.end) - range.start;
                    return Ok(Some(Window { pointer, len, content: content_of(area, access) }));
                }
                (Found::Changing | Found::Busy, _) => return Ok(None),
                (Found::Nothing(level), Backend::Private(policy)) => {
                    let level = self.largest(area.va_range(), range.start, *policy, level);
                    self.populate_here(state, range, access, super::fault::Missing { level, flags })?;
                }
                (Found::Nothing(_), Backend::Shared(view)) => {
                    if self.map_page(state, area, range.start).map_err(|error| rest_of(error, range))?.is_none() {
                        self.populate_page(view, range.start).map_err(|error| rest_of(error, range))?;
                    }
                }
                (Found::Nothing(_), Backend::Linear(_)) => return Err(Error::NotMapped(range)),
            }
        }
    }

    /// Populates the leaf over the start of `range` with the lock that is held.
    fn populate_here(
        &self,
        state: &State<P>,
        range: GuestPhysRange,
        access: Access,
        missing: super::fault::Missing,
    ) -> Result<Installed, Error> {
        let fault = Fault { gpa: range.start, access, cause: Cause::Translation, origin: Origin::Instruction };
        // To whoever asked, the page means nothing: the part of the range that is left does.
        let (frames, level, leaf) = self.own_leaf(&fault, missing).map_err(|_| Error::NoMemory(range))?;
        let installed = state.table.install(range.start, level, &leaf, frames).map_err(|_| Error::NoMemory(range))?;
        self.shootdown.operations().publish();
        Ok(installed)
    }
}

/// What an access needs of the caches: whoever else maps what is written may do so uncached, or fetch from it.
fn content_of(area: &MemoryArea<Backend>, access: Access) -> Content {
    match area.backend() {
        Backend::Shared(_) if access == Access::Write => Content::Uncached,
        _ => Content::of(area.flags()),
    }
}

/// An error about a page, to somebody to whom the part of the range that is left means more.
fn rest_of(error: Error, range: GuestPhysRange) -> Error {
    match error {
        Error::NoMemory(_) => Error::NoMemory(range),
        other => other,
    }
}
