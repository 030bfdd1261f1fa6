//! A platform whose allocator may tell what pool it is of or not, and a source that answers at once.

use std::ptr::NonNull;

use stage2::{Config, Platform, frames::Contents};

use super::*;

/// Which guests' allocators tell what pool they are of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pooled {
    All,
    Some,
    None,
}

/// The board's frames.
#[derive(Clone)]
pub struct Store {
    board: Board,
    pooled: bool,
}

// SAFETY: all of it is the board's.
unsafe impl Frames for Store {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        self.board.allocate(count, align)
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.board.free(at, count) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.board.pointer(at)
    }

    fn contents(&self) -> Contents {
        self.board.contents()
    }

    fn pieces(&self) -> Pieces {
        self.board.pieces()
    }

    fn pool(&self) -> Option<usize> {
        self.board.pool().filter(|_| self.pooled)
    }
}

/// The platform.
pub struct Host;

impl Platform for Host {
    type Format = Toy;
    type Frames = Store;
    type Invalidate = Board;
}

/// A space whose allocator tells its pool or not.
pub fn space(board: &Board, pooled: bool) -> GuestSpace<Host> {
    let Config { format, frames, invalidate, cpus, limits } = board.config();
    let frames = Store { board: frames, pooled };
    GuestSpace::new(Config { format, frames, invalidate, cpus, limits }).expect("a space")
}

/// Frames that are no table's.
pub fn held<'s>(board: &Board, spaces: impl IntoIterator<Item = &'s GuestSpace<Host>>) -> usize {
    board.allocated() - spaces.into_iter().map(|space| space.stats().table_frames).sum::<usize>()
}

/// Does what a guest does that accesses a page: where the page is by then.
pub fn as_guest(space: &GuestSpace<Host>, gpa: GuestPhysAddr, access: Access) -> Result<PhysAddr, String> {
    let needed = if access == Access::Write { MappingFlags::WRITE } else { READ };
    for _ in 0..8 {
        let cause = match space.translate(gpa) {
            Some(leaf) if leaf.flags.contains(needed) => return Ok(leaf.hpa),
            Some(_) => Cause::Permission,
            None => Cause::Translation,
        };
        match space.fault(CpuId(0), Fault { gpa, access, cause, origin: Origin::Instruction }) {
            Ok(Outcome::Resolved | Outcome::Retry) => {}
            other => return Err(format!("{access:?} at {gpa:?}: {other:?}")),
        }
    }
    Err(format!("{access:?} at {gpa:?} faults for ever"))
}

/// An image whose page `n` starts with `brought(n)`.
#[derive(Default)]
pub struct Image {
    asked: AtomicU64,
}

impl Image {
    /// How many pages it was asked for.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Source for Image {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        self.asked.fetch_add(1, Ordering::Relaxed);
        page[..8].copy_from_slice(&twin::brought(ticket.offset() / PAGE).to_le_bytes());
        Supply::Ready
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

/// The image, and a pager for it.
pub fn image() -> (Arc<Image>, Pager) {
    let image = Arc::new(Image::default());
    let pager = Pager::new(image.clone(), std::num::NonZeroUsize::MIN).expect("memory");
    (image, pager)
}
