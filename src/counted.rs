//! A value with a reference count, whose allocation may fail: `Arc` aborts when memory runs out.
#![allow(unsafe_code, reason = "counting references is what this file is for")]

use alloc::{
    alloc::{Layout, alloc},
    boxed::Box,
};
use core::{
    fmt,
    ops::Deref,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering, fence},
};

/// One of the owners of a value, which goes with the last of them.
pub(crate) struct Counted<T: ?Sized>(NonNull<Inner<T>>);

/// The value and its count.
pub(crate) struct Inner<T: ?Sized> {
    count: AtomicUsize,
    value: T,
}

// SAFETY: owners on several threads share `&T` (`T: Sync`), and the last of them, on any thread, drops it (`T: Send`).
unsafe impl<T: ?Sized + Send + Sync> Send for Counted<T> {}
// SAFETY: as above; a clone through `&Counted` is one atomic addition.
unsafe impl<T: ?Sized + Send + Sync> Sync for Counted<T> {}

impl<T> Counted<T> {
    /// The first owner; `None` where there is no memory, and the value is dropped.
    pub(crate) fn try_new(value: T) -> Option<Self> {
        Self::try_new_as(value, |inner| inner)
    }
}

impl<T: ?Sized> Counted<T> {
    /// The same for an owner that knows a trait of the value and not its type: `unsize` is a coercion, `|inner| inner`.
    pub(crate) fn try_new_as<V>(value: V, unsize: fn(NonNull<Inner<V>>) -> NonNull<Inner<T>>) -> Option<Self> {
        // SAFETY: the layout is not empty: the count is in it.
        let memory = unsafe { alloc(Layout::new::<Inner<V>>()) }.cast::<Inner<V>>();
        let inner = NonNull::new(memory)?;
        // SAFETY: just allocated, with the layout of what is written.
        unsafe { inner.write(Inner { count: AtomicUsize::new(1), value }) };
        Some(Self(unsize(inner)))
    }

    /// The same owner, which knows a trait of the value and not its type: `unsize` is a coercion, `|inner| inner`.
    pub(crate) fn known_as<U: ?Sized>(self, unsize: fn(NonNull<Inner<T>>) -> NonNull<Inner<U>>) -> Counted<U> {
        // The new value has this one's place in the count.
        Counted(unsize(core::mem::ManuallyDrop::new(self).0))
    }

    /// Whether both own the same value.
    pub(crate) fn is(&self, other: &Self) -> bool {
        core::ptr::addr_eq(self.0.as_ptr(), other.0.as_ptr())
    }

    /// Where the value is: the same for all of its owners, and for those of no other value.
    pub(crate) fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Whether there is no other owner. None can come while this one is not cloned.
    pub(crate) fn is_sole(&self) -> bool {
        self.owners() == 1
    }

    /// How many owners there are. No more can come while none of them is cloned.
    pub(crate) fn owners(&self) -> usize {
        // SAFETY: this owner still counts. Acquire: what owners that are gone did comes before what this one does.
        unsafe { &self.0.as_ref().count }.load(Ordering::Acquire)
    }

    /// Lets go of the value, unless this is its last owner: then it is given back.
    pub(crate) fn release(self) -> Option<Self> {
        // SAFETY: this owner still counts.
        let count = unsafe { &self.0.as_ref().count };
        let mut owners = count.load(Ordering::Acquire);
        while owners > 1 {
            // Release: what this owner did comes before the end of the value.
            match count.compare_exchange_weak(owners, owners - 1, Ordering::Release, Ordering::Acquire) {
                Ok(_) => {
                    core::mem::forget(self);
                    return None;
                }
                Err(now) => owners = now,
            }
        }
        Some(self)
    }

    /// The value, for its only owner.
    pub(crate) fn sole(&mut self) -> Option<&mut T> {
        if !self.is_sole() {
            return None;
        }
        // SAFETY: there is no other owner, and none can come while this one is borrowed.
        Some(unsafe { &mut self.0.as_mut().value })
    }
}

/// Owners are equal that own the same value.
impl<T: ?Sized> PartialEq for Counted<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
    }
}

impl<T: ?Sized> Clone for Counted<T> {
    fn clone(&self) -> Self {
        // SAFETY: the value stands as long as this owner does. Relaxed: a clone is made of an owner, so that the
        // count is not 0 meanwhile. No machine runs long enough to let it overflow.
        unsafe { self.0.as_ref() }.count.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl<T: ?Sized> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value stands as long as this owner does, and no reference to it is mutable.
        unsafe { &self.0.as_ref().value }
    }
}

impl<T: ?Sized> Drop for Counted<T> {
    fn drop(&mut self) {
        // SAFETY: this owner still counts. Release: what it did comes before the end of the value.
        if unsafe { self.0.as_ref() }.count.fetch_sub(1, Ordering::Release) == 1 {
            // What all other owners did comes before what follows.
            fence(Ordering::Acquire);
            // SAFETY: it was the last owner; the memory came from the global allocator with the layout of `Inner`.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Counted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, thread, vec::Vec};

    use super::*;

    struct Last<'a>(&'a Mutex<Vec<u8>>, u8);

    impl Drop for Last<'_> {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(self.1);
        }
    }

    #[test]
    fn the_last_owner_takes_the_value_along_and_no_other() {
        let log = Mutex::new(Vec::new());
        let first = Counted::try_new(Last(&log, 7)).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                let other = first.clone();
                scope.spawn(move || assert_eq!(other.clone().1, 7));
            }
        });
        assert!(log.lock().unwrap().is_empty());
        drop(first);
        assert_eq!(*log.lock().unwrap(), [7]);
    }

    #[test]
    fn the_last_owner_that_lets_go_keeps_the_value() {
        let log = Mutex::new(Vec::new());
        let mut first = Counted::try_new(Last(&log, 7)).unwrap();
        let other = first.clone();
        assert!(first.sole().is_none());
        assert!(other.release().is_none());
        first.sole().unwrap().1 = 8;
        let last = first.release().unwrap();
        assert!(log.lock().unwrap().is_empty());
        drop(last);
        assert_eq!(*log.lock().unwrap(), [8]);
    }

    /// Two owners that let go at once would each leave the value to the other.
    #[test]
    fn of_owners_that_let_go_at_once_one_keeps_the_value() {
        let log = Mutex::new(Vec::new());
        for _ in 0..if cfg!(miri) { 20 } else { 500 } {
            let first = Counted::try_new(Last(&log, 7)).unwrap();
            let others = [first.clone(), first];
            let kept = thread::scope(|scope| {
                let threads = others.map(|owner| scope.spawn(|| owner.release()));
                threads.map(|thread| thread.join().unwrap()).into_iter().flatten().count()
            });
            assert_eq!((kept, log.lock().unwrap().drain(..).count()), (1, 1));
        }
    }

    #[test]
    fn a_value_that_is_known_by_a_trait_is_the_same() {
        let number = Counted::<dyn fmt::Debug>::try_new_as(5_u8, |inner| inner).unwrap();
        assert_eq!(std::format!("{number:?}"), "5");
        assert!(number.is(&number.clone()));
    }
}
