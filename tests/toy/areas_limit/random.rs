//! Random operations at a limit, beside a list of pages in which areas are runs of what is equal.

use super::*;

/// Pages of the twin.
const COUNT: usize = 24;

/// What is behind a page: equal neighbours are one area. A mapping of a region has a number of its own.
type Page = Option<(usize, MappingFlags)>;

const PLAIN: [Mapping; 2] = [LAZY, LAZY_BLOCKS];

fn runs(twin: &[Page]) -> usize {
    let starts = twin.iter().enumerate().filter(|&(at, page)| page.is_some() && (at == 0 || twin[at - 1] != *page));
    starts.count()
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn operations_are_refused_where_the_twin_would_have_too_many() {
    let (mut refusals, mut done) = (0, 0);
    for limit in [1, 2, 3, 5, 8] {
        for seed in 0..20 {
            let (refused, all) = story(limit, seed);
            refusals += refused;
            done += all - refused;
        }
    }
    assert!(refusals > 500 && done > 500, "{refusals} refused, {done} done");
}

/// Sees so many operations refused, of so many that were possible without the limit.
fn story(limit: usize, seed: u64) -> (usize, usize) {
    let space = Board::new().space();
    let (mut twin, mut numbers) = ([None; COUNT], Numbers(seed * 2 + limit as u64));
    let (mut refused, mut all, mut mappings) = (0, 0, 10);
    for step in 0..120 {
        // Now and then it is lower than what is there.
        let limit = if step % 20 < 15 { limit } else { limit / 2 };
        space.set_limits(at_most(limit));
        let first = numbers.below(COUNT);
        let part = first..first + 1 + numbers.below((COUNT - first).min(6));
        let flags = [RW, READ][numbers.below(2)];
        let kind = numbers.below(2);
        let at = pages(part.start, part.len());
        let mut next = twin;
        let is_free = twin[part.clone()].iter().all(Option::is_none);
        let is_full = twin[part.clone()].iter().all(Option::is_some);
        let is = |page: &Page, what: fn(usize) -> bool| page.is_some_and(|(number, _)| what(number));
        let operation = numbers.below(7);
        let possible = match operation {
            0 => is_free,
            1 => !is_free,
            2 | 6 => is_full,
            3 => true,
            4 => twin[part.clone()].iter().all(|page| is(page, |number| number < 2)),
            _ => twin[part.clone()].iter().all(|page| is(page, |number| number >= 2)),
        };
        if !possible {
            continue;
        }
        mappings += 1;
        for page in &mut next[part.clone()] {
            *page = match operation {
                0 | 3 => Some((kind, flags)),
                1 => None,
                2 | 6 => page.map(|(number, _)| (number, flags)),
                4 => page.map(|(_, flags)| (mappings, flags)),
                // Memory that was a region's has leaves of one page.
                _ => page.map(|(_, flags)| (0, flags)),
            };
        }
        let result = match operation {
            0 => space.map(at, PLAIN[kind].clone(), flags),
            1 => space.unmap(at),
            2 => space.protect(at, flags),
            3 => space.replace(at, PLAIN[kind].clone(), flags),
            4 => space.make_shared(at).map(drop),
            5 => space.make_private(at, Handover::Keep),
            _ => {
                let mut protecting = space.protect_in_steps(at, flags).unwrap();
                loop {
                    match protecting.step(usize::MAX) {
                        Ok(Progress::More) => {}
                        other => break other.map(drop),
                    }
                }
            }
        };
        all += 1;
        let (before, after) = (runs(&twin), runs(&next));
        if after > before && after > limit {
            refused += 1;
            assert_eq!(result, Err(Error::Limit { range: at, what: Resource::Areas, limit }), "{operation}: {twin:?}");
        } else {
            assert_eq!(result, Ok(()), "{operation} of {part:?} at {limit}: {twin:?}");
            twin = next;
        }
        assert_eq!(count(&space), runs(&twin), "{operation} of {part:?}: {twin:?}");
    }
    (refused, all)
}
