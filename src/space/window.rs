//! Where the hypervisor sees guest memory: a page at a time, with the space's lock held.

use core::{hint, ptr::NonNull};

use page_table_multiarch::MappingFlags;

use spin::rwlock::RwLockReadGuard;

use super::{GuestSpace, State};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level, PhysAddr},
    backend::Backend,
    error::Error,
    fault::{Cause, Fault, Origin, Outcome},
    format::{Access, Owner},
    frame::Frames,
    invalidate::{Content, Invalidate},
    lock::{LockFamily, SpaceLock},
    ownership::PageState,
    pages::{Inherited, Pages},
    platform::Platform,
    set::MemoryArea,
    table::{Context, Found},
};

/// Guest memory within one page, for as long as the space's lock is held.
pub(super) struct Window<'s> {
    pub pointer: NonNull<u8>,
    pub len: usize,
    content: Content,
    _pin: Option<Pin<'s>>,
}

/// Keeps an inherited page, which another CPU of the space may copy meanwhile, and another guest then take for
/// its own.
type Pin<'s> = RwLockReadGuard<'s, Pages>;

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Runs `each` on the first page's part of `range`, with the space's lock held shared.
    ///
    /// Where no leaf suffices, the access is answered as a fault of the guest's would be, and looked at again.
    pub(super) fn with_window<R>(
        &self,
        range: GuestPhysRange,
        access: Access,
        each: impl FnOnce(Window<'_>) -> R,
    ) -> Result<R, Error> {
        let cpu = super::any_cpu();
        let fault = Fault { gpa: range.start, access, cause: Cause::Translation, origin: Origin::Instruction };
        loop {
            {
                let state = self.state.shared(cpu);
                if let Some(window) = self.window(&state, range, access)? {
                    return Ok(self.look(&state, range.start, access, window, each));
                }
            }
            match self.answer(cpu, &fault).map_err(|error| rest_of(error, range))? {
                Outcome::Resolved => {}
                // Another CPU is about to finish something.
                Outcome::Retry => hint::spin_loop(),
                Outcome::NotMapped | Outcome::Inject => return Err(Error::NotMapped(range)),
                Outcome::Denied { flags } => return Err(Error::Denied { range, flags }),
                Outcome::Lent => return Err(Error::State { range, state: PageState::Lent }),
                Outcome::NotYet(ticket) => return Err(Error::NotYet { range, ticket }),
                Outcome::SourceFailed(ticket) => return Err(Error::SourceFailed { range, ticket }),
            }
        }
    }

    /// Runs `each` on a window, with what it takes for the caches and the marks.
    fn look<R>(
        &self,
        state: &State,
        gpa: GuestPhysAddr,
        access: Access,
        window: Window<'_>,
        each: impl FnOnce(Window<'_>) -> R,
    ) -> R {
        let (pointer, len, content) = (window.pointer, window.len, window.content);
        let operations = self.context.operations();
        let whole = len == Context::<P>::span(Level::PAGE);
        if access == Access::Read || !whole {
            // The guest may have written it past the cache, or the rest of a line of which a part is written
            // here; what is read is not fetched.
            let content = if content == Content::Code { Content::Data } else { content };
            operations.synchronize(pointer, len, content);
        }
        let result = each(window);
        if access == Access::Write {
            state.table.seek(&self.context, gpa).touch(&self.context, Access::Write);
            operations.synchronize(pointer, len, content);
        }
        result
    }

    /// The first page's part of `range`, if a leaf is there that suffices for the access.
    fn window<'s>(&self, state: &'s State, range: GuestPhysRange, access: Access) -> Result<Option<Window<'s>>, Error> {
        let area = state.areas.find(range.start).ok_or(Error::NotMapped(range))?;
        let flags = area.flags();
        if flags.contains(MappingFlags::DEVICE) {
            return Err(Error::NotMemory(range));
        }
        if !flags.contains(access.flag()) {
            return Err(Error::Denied { range, flags });
        }
        let found = state.table.find(&self.context, range.start);
        let Found::Leaf { leaf, span, .. } = found else { return Ok(None) };
        let mut pin = None;
        if leaf.owner == Owner::Frozen {
            if access == Access::Write {
                return Ok(None);
            }
            pin = state.inherited.as_deref().map(Inherited::pin);
            // Another CPU may have copied the page before it was pinned.
            if state.table.find(&self.context, range.start) != found {
                return Ok(None);
            }
        }
        if access == Access::Write {
            state.check_rest()?;
        }
        Ok(Some(self.open(range, access, area, leaf.at + (range.start - span.start), pin)))
    }

    /// The window on what was found.
    fn open<'s>(
        &self,
        range: GuestPhysRange,
        access: Access,
        area: &MemoryArea<Backend>,
        at: PhysAddr,
        pin: Option<Pin<'s>>,
    ) -> Window<'s> {
        let page = Context::<P>::page_of(range.start);
        let pointer = self.context.frames.pointer(at);
        let len = range.end.min(page.end) - range.start;
        Window { pointer, len, content: content_of(area, access), _pin: pin }
    }
}

/// What an access needs of the caches: other mappings of what is written may be uncached, or be executed.
fn content_of(area: &MemoryArea<Backend>, access: Access) -> Content {
    match area.backend() {
        Backend::Shared(_) | Backend::Borrowed(_) if access == Access::Write => Content::Uncached,
        _ => Content::of(area.flags()),
    }
}

/// An error about a page, as one about the part of the range that is left.
fn rest_of(error: Error, range: GuestPhysRange) -> Error {
    match error {
        Error::NoMemory(_) => Error::NoMemory(range),
        Error::Limit { what, limit, .. } => Error::Limit { range, what, limit },
        other => other,
    }
}
