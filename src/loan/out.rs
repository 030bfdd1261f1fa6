//! Which pages of a loan its borrower still has: a bit each, so that a return changes bits and needs no memory.

use alloc::vec::Vec;
use core::ops::Range;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicUsize, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};

use crate::account::Exhausted;

const BITS: usize = usize::BITS as usize;

/// The bits of some pages, which are counted from 0.
pub(super) struct Out(Vec<AtomicUsize>);

impl Out {
    /// Those of `pages` pages, none of which is out.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(super) fn none_of(pages: usize) -> Result<Self, Exhausted> {
        let mut words = Vec::new();
        let count = pages.div_ceil(BITS);
        words.try_reserve_exact(count).map_err(|_| Exhausted::Memory)?;
        words.extend((0..count).map(|_| AtomicUsize::new(0)));
        Ok(Self(words))
    }

    /// The borrower has these pages from now on.
    pub(super) fn take(&self, pages: Range<usize>) {
        for (word, mask) in words(pages) {
            // Relaxed: the borrower's lock is held, and only its holder changes its pages.
            self.0[word].fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// No CPU of the borrower's reaches these pages any more. Release: what its CPUs wrote comes before a lender that sees
    /// them returned.
    pub(super) fn give_back(&self, pages: Range<usize>) {
        for (word, mask) in words(pages) {
            self.0[word].fetch_and(!mask, Ordering::Release);
        }
    }

    /// How many of these pages the borrower has. Acquire: its CPUs forgot the others before this says so.
    pub(super) fn count(&self, pages: Range<usize>) -> usize {
        words(pages).map(|(word, mask)| (self.0[word].load(Ordering::Acquire) & mask).count_ones() as usize).sum()
    }

    /// The first pages side by side, among these, that the borrower has.
    pub(super) fn first_run(&self, pages: Range<usize>) -> Option<Range<usize>> {
        let start = self.first(pages.clone(), 0)?;
        let end = self.first(start..pages.end, usize::MAX).unwrap_or(pages.end);
        Some(start..end)
    }

    /// The first of these pages whose bit is not that of `other`, in which all bits are the same.
    fn first(&self, pages: Range<usize>, other: usize) -> Option<usize> {
        words(pages).find_map(|(word, mask)| {
            let differing = (self.0[word].load(Ordering::Acquire) ^ other) & mask;
            (differing != 0).then(|| word * BITS + differing.trailing_zeros() as usize)
        })
    }
}

/// The words that pages are in, each with the bits of those pages.
fn words(pages: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    (pages.start / BITS..pages.end.div_ceil(BITS)).filter_map(move |word| {
        let first = pages.start.saturating_sub(word * BITS);
        let end = (pages.end - word * BITS).min(BITS);
        let count = end.checked_sub(first).filter(|count| *count > 0)?;
        Some((word, usize::MAX >> (BITS - count) << first))
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn runs(out: &Out, pages: Range<usize>) -> Vec<Range<usize>> {
        let mut rest = pages;
        core::iter::from_fn(|| {
            let run = out.first_run(rest.clone())?;
            rest.start = run.end;
            Some(run)
        })
        .collect()
    }

    #[test]
    fn what_is_given_back_is_out_no_more() {
        let out = Out::none_of(200).unwrap();
        assert_eq!((out.count(0..200), runs(&out, 0..200)), (0, Vec::new()));
        out.take(0..200);
        assert_eq!((out.count(0..200), out.first_run(0..200)), (200, Some(0..200)));
        // Inside of a word, over the borders of words, at both ends.
        for (pages, left) in [(3..5, 198), (60..130, 128), (0..1, 127), (199..200, 126)] {
            out.give_back(pages);
            assert_eq!(out.count(0..200), left);
        }
        assert_eq!(runs(&out, 0..200), [1..3, 5..60, 130..199]);
        assert_eq!((out.count(2..8), runs(&out, 2..8)), (4, Vec::from([2..3, 5..8])));
        assert_eq!((out.count(7..7), runs(&out, 64..128)), (0, Vec::new()));
    }
}
