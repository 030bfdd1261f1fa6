//! What a space owes the allocator: it is on its accounts until it is free, and nothing else uses it.

use super::{areas::Map, frames::Claims, report::Use};
use crate::{account::Exhausted, lock::LockFamily, platform::Platform, table::Waiting};

/// How many frames of 4 KiB a space owes.
#[derive(Default)]
pub(super) struct Owed {
    pub frames: usize,
    pub table_frames: usize,
}

impl Owed {
    /// What a space owes of its own memory and of its tables.
    pub fn read<P: Platform, L: LockFamily>(map: &Map<'_, '_, P, L>, claims: &mut Claims) -> Result<Self, Exhausted> {
        let (held, mut owed) = (&map.subject.held, Self::default());
        let Some(memory) = held.owed_memory() else { return Ok(owed) };
        memory.each(held.context(), &mut |waiting| {
            let (at, pages, count) = match waiting {
                Waiting::Frames(at, pages) => (at, pages, &mut owed.frames),
                Waiting::Table(at, pages) => (at, pages, &mut owed.table_frames),
            };
            *count += pages;
            // It has no address in the guest any more.
            let range = held.context().everything();
            claims.add((at, pages * memory_addr::PAGE_SIZE_4K), Use::Owed, map.subject.number, range)
        })?;
        Ok(owed)
    }
}
