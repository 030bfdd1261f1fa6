//! A list that is mostly short.

use alloc::{
    collections::TryReserveError,
    vec::{self, Vec},
};
use core::{iter::Chain, option};

/// A list whose first item needs no heap: most edits touch one area.
///
/// [`Plan`](super::Plan) hands back in it what went, in address order.
#[derive(Debug)]
pub struct Few<T> {
    /// There is one unless the list is empty.
    first: Option<T>,
    /// There is none without heap, so that a short list is dropped without a look at it.
    rest: Option<Vec<T>>,
}

impl<T> Few<T> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { first: None, rest: None }
    }

    /// An empty list with what [`room_for`] gave.
    pub(super) const fn in_room(rest: Option<Vec<T>>) -> Self {
        Self { first: None, rest }
    }

    /// An empty list with room for `count` items.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn with_room(count: usize) -> Result<Self, TryReserveError> {
        room_for(count).map(Self::in_room)
    }

    /// Appends an item, for which there is room.
    pub(crate) fn push(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.get_or_insert_default().push(item);
        }
    }

    /// Takes the last item out.
    pub fn pop(&mut self) -> Option<T> {
        self.rest.as_mut().and_then(Vec::pop).or_else(|| self.first.take())
    }

    /// Takes over all items of another list, if there is memory for them: else both stay as they are.
    pub(crate) fn take_over(&mut self, other: &mut Self) {
        if self.is_empty() {
            core::mem::swap(self, other);
            return;
        }
        let count = other.iter().count();
        if count > 0 && self.rest.get_or_insert_default().try_reserve(count).is_ok() {
            while let Some(item) = other.pop() {
                self.push(item);
            }
        }
    }

    /// Whether there is no item.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The items, in order.
    pub fn iter(&self) -> Chain<option::Iter<'_, T>, core::slice::Iter<'_, T>> {
        self.first.iter().chain(self.rest.as_deref().unwrap_or_default())
    }
}

/// The room that a list of `count` items needs.
pub(super) fn room_for<T>(count: usize) -> Result<Option<Vec<T>>, TryReserveError> {
    if count <= 1 {
        return Ok(None);
    }
    let mut rest = Vec::new();
    rest.try_reserve_exact(count - 1)?;
    Ok(Some(rest))
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = Chain<option::IntoIter<T>, vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest.unwrap_or_default())
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = Chain<option::Iter<'a, T>, core::slice::Iter<'a, T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{Few, room_for};

    #[test]
    fn items_come_out_in_order_and_the_last_is_taken_first() {
        let mut few = Few::in_room(room_for(3).unwrap());
        assert!(few.is_empty() && few.pop().is_none());
        (0..3).for_each(|item| few.push(item));
        assert_eq!(few.iter().collect::<Vec<_>>(), [&0, &1, &2]);
        assert_eq!(few.pop(), Some(2));
        few.push(3);
        assert_eq!(few.into_iter().collect::<Vec<_>>(), [0, 1, 3]);
    }
}
