//! How many mappings show each page of a region.

use alloc::vec::Vec;
use core::ops::Range;

use crate::account::Exhausted;

/// Runs of pages that as many mappings show: the first page of each, and how many. Before the first run it is none.
#[derive(Default)]
pub(crate) struct Cover(Vec<(usize, usize)>);

impl Cover {
    /// A mapping shows some pages.
    pub(crate) fn show(&mut self, pages: Range<usize>) -> Result<(), Exhausted> {
        self.change(pages, |count| count + 1)
    }

    /// A mapping shows some pages no more.
    pub(super) fn hide(&mut self, pages: Range<usize>) -> Result<(), Exhausted> {
        self.change(pages, |count| count.saturating_sub(1))
    }

    /// The runs, in order: the first page of each, and how many mappings show it.
    pub(super) fn runs(&self) -> &[(usize, usize)] {
        &self.0
    }

    /// The first pages of a range, side by side, that no mapping shows.
    pub(super) fn hidden(&self, pages: Range<usize>) -> Option<Range<usize>> {
        let mut first = pages.start;
        while first < pages.end {
            let next = self.0.partition_point(|run| run.0 <= first);
            let end = self.0.get(next).map_or(pages.end, |run| run.0.min(pages.end));
            if next.checked_sub(1).is_none_or(|run| self.0[run].1 == 0) {
                return Some(first..end);
            }
            first = end;
        }
        None
    }

    /// Whether some pages are shown exactly as often as another cover says.
    pub(super) fn agrees(&self, other: &Self, pages: Range<usize>) -> bool {
        self.runs_in(pages.clone()).eq(other.runs_in(pages))
    }

    /// Where in a range of pages a run begins, and how many mappings show it.
    fn runs_in(&self, pages: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let next = self.0.partition_point(|run| run.0 <= pages.start);
        let first = next.checked_sub(1).map_or(0, |run| self.0[run].1);
        let rest = self.0[next..].iter().copied().take_while(move |run| run.0 < pages.end);
        core::iter::once((pages.start, first)).chain(rest)
    }

    fn change(&mut self, pages: Range<usize>, change: impl Fn(usize) -> usize) -> Result<(), Exhausted> {
        self.0.try_reserve(2).map_err(|_| Exhausted::Memory)?;
        let first = self.split(pages.start);
        let end = self.split(pages.end);
        self.0[first..end].iter_mut().for_each(|run| run.1 = change(run.1));
        self.0.dedup_by_key(|run| run.1);
        if self.0.first().is_some_and(|run| run.1 == 0) {
            self.0.remove(0);
        }
        Ok(())
    }

    /// The run that starts with a page, which is made if need be; the room is there.
    fn split(&mut self, page: usize) -> usize {
        let at = self.0.partition_point(|run| run.0 < page);
        if self.0.get(at).is_none_or(|run| run.0 != page) {
            let count = at.checked_sub(1).map_or(0, |before| self.0[before].1);
            self.0.insert(at, (page, count));
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_hidden_that_no_mapping_shows() {
        let mut cover = Cover::default();
        assert_eq!(cover.hidden(0..9), Some(0..9));
        cover.show(2..6).unwrap();
        cover.show(4..8).unwrap();
        assert_eq!((cover.hidden(0..9), cover.hidden(2..9), cover.hidden(3..8)), (Some(0..2), Some(8..9), None));
        cover.hide(3..5).unwrap();
        assert_eq!((cover.hidden(2..9), cover.hidden(4..8)), (Some(3..4), None), "one still shows the fifth");
        cover.hide(2..3).unwrap();
        cover.hide(5..6).unwrap();
        cover.hide(4..8).unwrap();
        assert_eq!((cover.hidden(0..9), cover.0.len()), (Some(0..9), 0));
    }

    #[test]
    fn two_agree_where_as_many_mappings_show_each_page() {
        let covers = [&[2..9, 4..6][..], &[2..9, 5..6], &[2..5, 5..9, 4..6], &[]].map(|shown| {
            let mut cover = Cover::default();
            for pages in shown {
                cover.show(pages.clone()).unwrap();
            }
            cover
        });
        for start in 0..10 {
            for end in start + 1..11 {
                let differ = |at: usize| (start..end).any(|page| page == at);
                assert_eq!(covers[0].agrees(&covers[1], start..end), !differ(4), "{start}..{end}");
                assert!(covers[0].agrees(&covers[2], start..end), "{start}..{end}");
                assert_eq!(covers[0].agrees(&covers[3], start..end), !(2..9).any(differ), "{start}..{end}");
            }
        }
    }
}
