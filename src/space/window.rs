//! Where the hypervisor sees guest memory: a page at a time, with the space's lock held.

use core::{hint, ptr::NonNull};

use spin::rwlock::RwLockReadGuard;

use super::{GuestSpace, State, copy::Copied, supply::is_left_to};
use crate::{
    MappingFlags,
    addr::{GuestPhysAddr, GuestPhysRange, Level, PhysAddr},
    backend::Backend,
    error::Error,
    fault::{Cause, Fault, Origin},
    format::{Access, Owner},
    frame::Frames,
    invalidate::{Content, Invalidate},
    loan::PageState,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
    region::{Book, View},
    set::MemoryArea,
    source::Supplied,
    table::{Context, Found, Installed},
};

/// Guest memory within one page, for as long as the space's lock is held.
pub(super) struct Window<'s> {
    pub pointer: NonNull<u8>,
    pub len: usize,
    content: Content,
    _pin: Option<Pin<'s>>,
}

/// Keeps the page of a frozen region, which another CPU of the space may copy meanwhile, and another guest then take for
/// its own.
type Pin<'s> = RwLockReadGuard<'s, Book>;

/// What is found where the hypervisor wants to look.
enum Sight<'s> {
    /// Memory.
    Open(Window<'s>),
    /// Nothing yet.
    Not(Later),
}

/// What comes before another look.
enum Later {
    /// An earlier operation must be finished.
    Unsettled,
    /// Another CPU is about to finish something.
    Busy,
    /// The page that is to be written must come out of the frozen block over it.
    Block,
    /// A limit refuses it, unless another CPU has what it is about to give back.
    Limit,
    /// A page of a region that nobody touched yet must come.
    Missing(View),
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Runs `each` on the first page's part of `range`, with the space's lock held shared.
    pub(super) fn with_window<R>(
        &self,
        range: GuestPhysRange,
        access: Access,
        each: impl FnOnce(Window<'_>) -> R,
    ) -> Result<R, Error> {
        let cpu = super::anybody();
        loop {
            let later = {
                let state = self.state.shared(cpu);
                match self.window(&state, range, access) {
                    Ok(Sight::Open(window)) => return Ok(self.look(&state, range.start, access, window, each)),
                    Ok(Sight::Not(later)) => later,
                    Err(Error::Limit { .. }) => Later::Limit,
                    Err(error) => return Err(error),
                }
            };
            match later {
                // Nobody is about to give anything back while the lock is held.
                Later::Limit => drop(self.window(&self.state.exclusive(), range, access)?),
                Later::Unsettled => drop(self.exclusive()?),
                Later::Busy => hint::spin_loop(),
                Later::Block => self.cut_out(range.start).map_err(|error| rest_of(error, range))?,
                Later::Missing(view) => match self.bring(&view, range.start).map_err(|error| rest_of(error, range))? {
                    Supplied::Ready => {}
                    Supplied::NotYet(ticket) => return Err(Error::NotYet { range, ticket }),
                    Supplied::Failed(ticket) => return Err(Error::SourceFailed { range, ticket }),
                },
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

    /// The first page's part of `range`.
    fn window<'s>(&self, state: &'s State, range: GuestPhysRange, access: Access) -> Result<Sight<'s>, Error> {
        let area = state.areas.find(range.start).ok_or(Error::NotMapped(range))?;
        let flags = area.flags();
        if flags.contains(MappingFlags::DEVICE) {
            return Err(Error::NotMemory(range));
        }
        if !flags.contains(access.flag()) {
            return Err(Error::Denied { range, flags });
        }
        loop {
            let found = state.table.find(&self.context, range.start);
            if access == Access::Write || matches!(found, Found::Absent(_)) {
                state.check_rest()?;
            }
            match (found, area.backend()) {
                (Found::Leaf { leaf, level, span }, Backend::CopyOnWrite(view)) if leaf.owner == Owner::Frozen => {
                    let at = leaf.at + (range.start - span.start);
                    if access == Access::Read {
                        let pin = view.region().reading();
                        if state.table.find(&self.context, range.start) == found {
                            return Ok(Sight::Open(self.open(range, access, area, at, Some(pin))));
                        }
                    } else if level == Level::PAGE {
                        if let Copied::Missing(view) = self.copy_for(state, (area, view), (range, access))? {
                            return Ok(Sight::Not(Later::Missing(view)));
                        }
                    } else {
                        return Ok(Sight::Not(Later::Block));
                    }
                }
                (Found::Leaf { leaf, span, .. }, _) => {
                    let at = leaf.at + (range.start - span.start);
                    return Ok(Sight::Open(self.open(range, access, area, at, None)));
                }
                (Found::Changing, _) => return Ok(Sight::Not(Later::Unsettled)),
                (Found::Busy, _) => return Ok(Sight::Not(Later::Busy)),
                (Found::Lent(_), _) => return Err(Error::State { range, state: PageState::Lent }),
                (Found::Absent(level), Backend::Private(policy)) => {
                    let level = self.largest(area.va_range(), range.start, *policy, level);
                    let missing = super::fault::Missing { level, flags };
                    self.populate_here(state, range, access, missing).map_err(|error| rest_of(error, range))?;
                }
                (Found::Absent(_), Backend::CopyOnWrite(view)) if access == Access::Write || is_left_to(area, view) => {
                    if let Copied::Missing(view) = self.copy_for(state, (area, view), (range, access))? {
                        return Ok(Sight::Not(Later::Missing(view)));
                    }
                }
                (Found::Absent(_), Backend::Shared(view) | Backend::CopyOnWrite(view)) => {
                    if self.map_page(state, area, range.start).map_err(|error| rest_of(error, range))?.is_none() {
                        return Ok(Sight::Not(Later::Missing(view.clone())));
                    }
                }
                (Found::Absent(_), Backend::Linear(_) | Backend::Borrowed(_)) => return Err(Error::NotMapped(range)),
            }
        }
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

    /// Gives the guest its own page at the start of `range`, with the lock that is held.
    fn copy_for(
        &self,
        state: &State,
        behind: (&MemoryArea<Backend>, &View),
        (range, access): (GuestPhysRange, Access),
    ) -> Result<Copied, Error> {
        let page = (range.start, access);
        let copied = self.frame_for(range.start).and_then(|frame| self.copy_here(state, behind, page, frame));
        copied.map_err(|error| rest_of(error, range))
    }

    /// Populates the leaf over the start of `range` with the lock that is held.
    fn populate_here(
        &self,
        state: &State,
        range: GuestPhysRange,
        access: Access,
        missing: super::fault::Missing,
    ) -> Result<Installed, Error> {
        let fault = Fault { gpa: range.start, access, cause: Cause::Translation, origin: Origin::Instruction };
        let (frames, level, leaf) = self.own_leaf(&fault, missing)?;
        self.install(state, range.start, level, &leaf, frames)
    }
}

/// What an access needs of the caches: whoever else maps what is written may do so uncached, or fetch from it.
fn content_of(area: &MemoryArea<Backend>, access: Access) -> Content {
    match area.backend() {
        Backend::Shared(_) | Backend::Borrowed(_) if access == Access::Write => Content::Uncached,
        _ => Content::of(area.flags()),
    }
}

/// An error about a page, to somebody to whom the part of the range that is left means more.
fn rest_of(error: Error, range: GuestPhysRange) -> Error {
    match error {
        Error::NoMemory(_) => Error::NoMemory(range),
        Error::Limit { what, limit, .. } => Error::Limit { range, what, limit },
        other => other,
    }
}
