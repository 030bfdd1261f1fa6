//! Values that may be read from a guest's memory, and how its bytes are reached (H27).
//!
//! The guest's CPUs change this memory at any time. So there is never a reference to it that is not to atomics, each
//! value is read once, and aligned values of up to eight bytes are read and written whole.
#![allow(unsafe_code, reason = "reaching shared memory, and the marker trait's promise")]

use core::{
    mem::MaybeUninit,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
};

/// A type of which every pattern of bytes is a value, and which has no padding.
///
/// # Safety
/// - Every bit pattern of the type's size is valid.
/// - It has no padding, no pointer, and no interior mutability.
///
/// # Example
/// ```
/// use stage2::guest_memory::Plain;
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// /// A descriptor of a virtqueue.
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// #[repr(C)]
/// struct Descriptor {
///     address: u64,
///     length: u32,
///     flags: u16,
///     next: u16,
/// }
///
/// // SAFETY: integers that lie side by side: any bytes are one, and there is no padding.
/// unsafe impl Plain for Descriptor {}
///
/// let space = guest(1)?;
/// # let lazy = stage2::Mapping::Private { populate: stage2::Populate::Lazy, leaf: stage2::LeafPolicy::Pages };
/// # space.map(range(0x8000_0000, 0x1000), lazy, RW)?;
/// let descriptor = Descriptor { address: 0x8000_0000, length: 64, flags: 0, next: 0 };
/// space.write_obj(0x8000_0000.into(), descriptor)?;
/// assert_eq!(space.read_obj::<Descriptor>(0x8000_0000.into())?, descriptor);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: integers have no invalid patterns and no padding.
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

// SAFETY: elements lie side by side, without padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The value whose bytes `fill` writes.
pub(crate) fn from_bytes<T: Plain, E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<T, E> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of `value`, all of them initialised, borrowed for the call.
    fill(unsafe { slice::from_raw_parts_mut(value.as_mut_ptr().cast(), size_of::<T>()) })?;
    // SAFETY: any bytes are a `T`.
    Ok(unsafe { value.assume_init() })
}

/// The bytes of a value.
pub(crate) fn as_bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding: every byte is initialised.
    unsafe { slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}

/// A value that a CPU reads and writes in one piece.
///
/// Implemented for `u8`, `u16`, `u32` and `u64`.
pub trait Word: Plain + PartialEq + sealed::Cell {}

pub(crate) mod sealed {
    use super::NonNull;

    /// Atomic access to guest memory.
    pub trait Cell: Sized {
        /// Loads with acquire ordering.
        ///
        /// # Safety
        /// `at` is aligned to the type's size, valid, and only ever accessed atomically.
        unsafe fn load(at: NonNull<u8>) -> Self;
        /// Stores with release ordering.
        ///
        /// # Safety
        /// As for [`load`](Self::load).
        unsafe fn store(at: NonNull<u8>, value: Self);
        /// Stores `new` if `old` is there, with acquire and release ordering; else what is there.
        ///
        /// # Safety
        /// As for [`load`](Self::load).
        unsafe fn exchange(at: NonNull<u8>, old: Self, new: Self) -> Result<Self, Self>;
    }
}

macro_rules! word {
    ($($type:ty, $atomic:ty;)*) => {
        $(
            impl Word for $type {}

            impl sealed::Cell for $type {
                unsafe fn load(at: NonNull<u8>) -> Self {
                    // SAFETY: the caller's promise.
                    unsafe { at.cast::<$atomic>().as_ref() }.load(Ordering::Acquire)
                }

                unsafe fn store(at: NonNull<u8>, value: Self) {
                    // SAFETY: the caller's promise.
                    unsafe { at.cast::<$atomic>().as_ref() }.store(value, Ordering::Release);
                }

                unsafe fn exchange(at: NonNull<u8>, old: Self, new: Self) -> Result<Self, Self> {
                    // SAFETY: the caller's promise.
                    let cell = unsafe { at.cast::<$atomic>().as_ref() };
                    cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
                }
            }
        )*
    };
}

word! {
    u8, AtomicU8;
    u16, AtomicU16;
    u32, AtomicU32;
    u64, AtomicU64;
}

/// Copies out of guest memory: whole words where source and length allow.
///
/// # Safety
/// `from` is valid for `to.len()` bytes, which are only ever accessed atomically.
pub(crate) unsafe fn copy_out(from: NonNull<u8>, to: &mut [u8]) {
    let mut done = 0;
    while done < to.len() {
        // SAFETY: `done` is below the length that the caller promised.
        let at = unsafe { from.add(done) };
        let size = word_size(at, to.len() - done);
        let part = &mut to[done..done + size];
        // SAFETY: `at` is aligned to `size`, which does not reach past the promised length.
        unsafe {
            match size {
                8 => part.copy_from_slice(&<u64 as sealed::Cell>::load(at).to_ne_bytes()),
                4 => part.copy_from_slice(&<u32 as sealed::Cell>::load(at).to_ne_bytes()),
                2 => part.copy_from_slice(&<u16 as sealed::Cell>::load(at).to_ne_bytes()),
                _ => part[0] = <u8 as sealed::Cell>::load(at),
            }
        }
        done += size;
    }
}

/// Copies into guest memory: whole words where target and length allow.
///
/// # Safety
/// `to` is valid for `from.len()` bytes, which are only ever accessed atomically.
pub(crate) unsafe fn copy_in(from: &[u8], to: NonNull<u8>) {
    let mut done = 0;
    while done < from.len() {
        // SAFETY: `done` is below the length that the caller promised.
        let at = unsafe { to.add(done) };
        let size = word_size(at, from.len() - done);
        let part = &from[done..done + size];
        // SAFETY: `at` is aligned to `size`, which does not reach past the promised length.
        unsafe {
            match size {
                8 => <u64 as sealed::Cell>::store(at, u64::from_ne_bytes(word(part))),
                4 => <u32 as sealed::Cell>::store(at, u32::from_ne_bytes(word(part))),
                2 => <u16 as sealed::Cell>::store(at, u16::from_ne_bytes(word(part))),
                _ => <u8 as sealed::Cell>::store(at, part[0]),
            }
        }
        done += size;
    }
}

/// The largest word, at most eight bytes, that is aligned at `at` and not longer than `left`.
fn word_size(at: NonNull<u8>, left: usize) -> usize {
    let aligned = 1 << at.addr().trailing_zeros().min(3);
    let fits = 1 << left.ilog2().min(3);
    aligned.min(fits)
}

/// The bytes of a word.
fn word<const SIZE: usize>(bytes: &[u8]) -> [u8; SIZE] {
    let mut word = [0; SIZE];
    word.copy_from_slice(bytes);
    word
}
