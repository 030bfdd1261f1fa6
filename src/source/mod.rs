//! Pages that come from somewhere else: an image in memory, a file, another machine.
//!
//! A [`Pager`] has the [`Source`] and the desk at which is written what was asked and not answered yet. It is called
//! without any lock of a space or a region; its own, the desk's, comes behind all of theirs and is held for a look through
//! the desk.

mod desk;
mod pager;

pub(crate) use self::pager::{Answered, Entered, Supplied};
pub use self::pager::{Pager, SourceError, Waiting};
use crate::{account::Exhausted, ticket::Ticket};

/// Where pages come from. All its methods are called without any lock of this crate's, on whichever CPU missed the page
/// or ended the wait: they may call spaces, regions and pagers.
///
/// # Example
/// ```
/// use std::{num::NonZeroUsize, sync::Arc};
/// use stage2::pager::{Pager, Settled, Source, Supply, Ticket};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// /// An image in the hypervisor's own memory.
/// struct Image(Vec<u8>);
///
/// impl Source for Image {
///     fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
///         let rest = self.0.get(ticket.offset()..).unwrap_or(&[]);
///         let len = rest.len().min(page.len());
///         page[..len].copy_from_slice(&rest[..len]);
///         Supply::Ready
///     }
///
///     // It answers at once, so that no virtual CPU waits.
///     fn settled(&self, _: Ticket, _: Settled) {}
/// }
///
/// let pager = Pager::new(Arc::new(Image(b"a kernel".to_vec())), NonZeroUsize::MIN)?;
/// let space = guest(1)?;
/// space.map_from(range(0x8000_0000, 0x4000), &pager, 0, RW)?;
/// assert_eq!(space.read_obj::<[u8; 8]>(0x8000_0000.into())?, *b"a kernel");
/// assert_eq!(space.stats().owned_frames, 1, "the other pages were not asked for");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Source: Send + Sync {
    /// A page is missed: the 4 KiB from [`ticket.offset()`](Ticket::offset) on.
    ///
    /// `page` is full of zeros. What [`Supply::Ready`] leaves in it is what guests will see; with another answer it is
    /// forgotten. After [`Supply::Later`] the source has [`Pager::complete`] called with the ticket, on any
    /// CPU and at any time, even before this returns. While a ticket stands the page is not asked for again.
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply;

    /// The ticket is over: what waits for it is to look again.
    ///
    /// Called once for each ticket, after [`Pager::state`] has begun to say [`Waiting::Over`] of it. A page that was
    /// [offered](Offered) may be told of while [`ask`](Self::ask) is called for it, or just before. A ticket that is
    /// cancelled may be told of before [`ask`](Self::ask) was called with it, which then never is.
    fn settled(&self, ticket: Ticket, how: Settled);
}

/// Why a page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Something cannot go on without it.
    Now,
    /// Something may be quicker for it later. It is not asked for where only the places are left that are
    /// [kept](Pager::new) for what cannot go on.
    Ahead,
}

/// What pages are brought for.
pub(crate) trait PageOwner: Send + Sync {
    /// Gives a page a frame that `write` fills, which starts as zeros, if `admit` allows it in the end, under the owner's
    /// lock: whether neither of them refused.
    fn receive(
        &self,
        page: usize,
        write: &mut dyn FnMut(&mut [u8]) -> bool,
        admit: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Exhausted>;
}

/// What a source answers at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Supply {
    /// The page is filled.
    Ready,
    /// [`Pager::complete`] will be called.
    Later,
    /// It cannot be had.
    Failed,
}

/// How the wait for a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The page is there.
    Ready,
    /// The source cannot have it.
    Failed,
    /// It is not wanted any more: what it was for was unmapped or dropped. Or it was not asked for after all: there was
    /// no memory for it.
    Cancelled,
}

/// What became of a page that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Offered {
    /// It is there now. Whoever waited for it was told.
    Taken,
    /// It was there before, and may have been written: what was offered is thrown away.
    Late,
}

/// The source cannot have a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source failed")]
pub struct SourceFailed;
