//! Memory in pieces: where each byte of a range is in the host's memory.

use alloc::vec::Vec;

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use crate::account::Exhausted;

/// Host memory in the order of a guest's addresses, in whole pages of 4 KiB.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Extents {
    extents: Vec<Extent>,
    size: usize,
}

/// Some of it in one piece: up to the next, or the end.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Extent {
    offset: usize,
    at: PhysAddr,
}

/// Whether what lies side by side in the host's memory may be taken for one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seams {
    /// It may.
    Forgotten,
    /// Each piece is freed by itself, since it was allocated so.
    Kept,
}

impl Extents {
    /// Adds `size` bytes at the end.
    ///
    /// # Errors
    /// There is no memory to note it.
    pub(crate) fn push(&mut self, at: PhysAddr, size: usize, seams: Seams) -> Result<(), Exhausted> {
        let follows = self.extents.last().is_some_and(|last| last.at + (self.size - last.offset) == at);
        if !follows || seams == Seams::Kept {
            self.extents.try_reserve(1).map_err(|_| Exhausted::Memory)?;
            self.extents.push(Extent { offset: self.size, at });
        }
        self.size += size;
        Ok(())
    }

    /// How many bytes it is.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// Where the byte at `offset` is, and how many there are from it on in one piece.
    pub(crate) fn at(&self, offset: usize) -> Option<(PhysAddr, usize)> {
        let next = self.extents.partition_point(|extent| extent.offset <= offset);
        let extent = self.extents.get(next.checked_sub(1)?)?;
        let end = self.extents.get(next).map_or(self.size, |next| next.offset);
        (offset < end).then(|| (extent.at + (offset - extent.offset), end - offset))
    }

    /// Every page of 4 KiB.
    pub(crate) fn pages(&self) -> impl Iterator<Item = PhysAddr> {
        let ends = self.extents.iter().skip(1).map(|extent| extent.offset).chain([self.size]);
        self.extents.iter().zip(ends).flat_map(|(extent, end)| {
            (0..end - extent.offset).step_by(PAGE_SIZE_4K).map(move |offset| extent.at + offset)
        })
    }

    /// The first address behind the highest byte.
    pub(crate) fn top(&self) -> usize {
        self.pages().map(|page| page.as_usize() + PAGE_SIZE_4K).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(page: usize) -> PhysAddr {
        PhysAddr::from_usize(page * PAGE_SIZE_4K)
    }

    fn of(pieces: &[(usize, usize)], seams: Seams) -> Extents {
        let mut extents = Extents::default();
        for &(page, pages) in pieces {
            extents.push(at(page), pages * PAGE_SIZE_4K, seams).unwrap();
        }
        extents
    }

    #[test]
    fn every_byte_is_where_it_was_said_to_be() {
        let extents = of(&[(7, 2), (3, 1), (4, 2)], Seams::Forgotten);
        assert_eq!(extents.size(), 5 * PAGE_SIZE_4K);
        assert_eq!(extents.at(0), Some((at(7), 2 * PAGE_SIZE_4K)));
        assert_eq!(extents.at(PAGE_SIZE_4K + 5), Some((at(8) + 5, PAGE_SIZE_4K - 5)));
        assert_eq!(extents.at(2 * PAGE_SIZE_4K), Some((at(3), 3 * PAGE_SIZE_4K)), "side by side is one piece");
        assert_eq!(extents.at(5 * PAGE_SIZE_4K), None);
        assert!(extents.pages().eq([7, 8, 3, 4, 5].map(at)));
        assert_eq!(extents.top(), 9 * PAGE_SIZE_4K);
    }

    #[test]
    fn what_is_freed_by_itself_stays_a_piece() {
        let extents = of(&[(3, 1), (4, 2)], Seams::Kept);
        assert_eq!(extents.at(0), Some((at(3), PAGE_SIZE_4K)));
        assert_eq!(extents.at(PAGE_SIZE_4K), Some((at(4), 2 * PAGE_SIZE_4K)));
        assert!(extents.pages().eq([3, 4, 5].map(at)));
    }

    #[test]
    fn nothing_is_nowhere() {
        let nothing = Extents::default();
        assert_eq!((nothing.at(0), nothing.top(), nothing.pages().count()), (None, 0, 0));
    }
}
