//! Memory that CPUs write often, one place for each, so that they do not take a cache line from each other.

use alloc::{boxed::Box, vec::Vec};

use crate::cpu_id::CpuId;

/// The most places there are: beyond it, CPUs share them.
const MOST: usize = 16;

/// As many `T` as there are CPUs, rounded up to a power of two, at most [`MOST`].
///
/// A `T` is aligned to the cache line, or two CPUs would write one. Which place a CPU has is a matter of speed alone:
/// any number is sound, and two CPUs may have the same.
pub(crate) struct Stripes<T>(Box<[T]>);

impl<T: Default> Stripes<T> {
    /// For `cpus` CPUs; `None` where there is no memory.
    pub(crate) fn new(cpus: usize) -> Option<Self> {
        let count = cpus.clamp(1, MOST).next_power_of_two();
        let mut all = Vec::new();
        all.try_reserve_exact(count).ok()?;
        all.resize_with(count, T::default);
        Some(Self(all.into_boxed_slice()))
    }
}

impl<T> Stripes<T> {
    /// The place of a CPU.
    #[inline]
    pub(crate) fn of(&self, cpu: CpuId) -> &T {
        &self.0[cpu.0 & (self.0.len() - 1)]
    }

    /// All places.
    #[inline]
    pub(crate) fn iter(&self) -> core::slice::Iter<'_, T> {
        self.0.iter()
    }
}

/// A number that spreads callers that were not told on which CPU they run: each CPU has a stack of its own.
#[inline]
pub(crate) fn any_cpu() -> CpuId {
    let here = 0_u8;
    // The golden ratio's digits spread stacks at any distance; the high bits of the product depend on all of its low ones.
    CpuId((&raw const here).addr().wrapping_shr(12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_power_of_two_of_places_and_any_number_has_one() {
        for (cpus, count) in [(0, 1), (1, 1), (2, 2), (3, 4), (16, 16), (17, 16), (usize::MAX, 16)] {
            let stripes = Stripes::<u64>::new(cpus).unwrap();
            assert_eq!(stripes.iter().count(), count);
            let of = |cpu| core::ptr::from_ref(stripes.of(CpuId(cpu)));
            assert_eq!(of(usize::MAX), of(count - 1));
            assert!((1..count).all(|cpu| of(cpu) != of(cpu - 1)));
        }
    }
}
