//! A list that seldom has more than one element.

use std::iter::Chain;
use std::{option, slice};

/// Elements in their order. The first needs no allocation.
#[derive(Debug)]
pub(super) struct Few<T> {
    first: Option<T>,
    /// Empty if there is no first.
    others: Vec<T>,
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Few { first: None, others: Vec::new() }
    }
}

impl<T> Few<T> {
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn push(&mut self, element: T) {
        match &self.first {
            None => self.first = Some(element),
            Some(_) => self.others.push(element),
        }
    }

    /// Takes out the element at this place; `None` if there is none.
    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        match place.checked_sub(1) {
            None => {
                let next = (!self.others.is_empty()).then(|| self.others.remove(0));
                std::mem::replace(&mut self.first, next)
            }
            Some(place) => (place < self.others.len()).then(|| self.others.remove(place)),
        }
    }

    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&T) -> bool) {
        self.others.retain(&mut keeps);
        if self.first.as_ref().is_some_and(|first| !keeps(first)) {
            self.remove(0);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Few::default();
    }

    pub(super) fn iter(&self) -> Chain<option::Iter<'_, T>, slice::Iter<'_, T>> {
        self.first.iter().chain(&self.others)
    }

    pub(super) fn iter_mut(&mut self) -> Chain<option::IterMut<'_, T>, slice::IterMut<'_, T>> {
        self.first.iter_mut().chain(&mut self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_keep_their_order_when_some_are_removed() {
        let listed = |few: &Few<u8>| few.iter().copied().collect::<Vec<_>>();
        let mut few = Few::default();
        assert!(few.is_empty() && few.remove(0).is_none());
        (1..=5).for_each(|element| few.push(element));
        few.iter_mut().for_each(|element| *element *= 10);
        assert_eq!((few.remove(0), few.remove(2), few.remove(3)), (Some(10), Some(40), None));
        assert_eq!(listed(&few), [20, 30, 50]);
        few.retain(|element| *element != 20);
        assert_eq!((listed(&few), few.len()), (vec![30, 50], 2));
        few.retain(|element| *element != 50);
        few.clear();
        assert!(few.is_empty() && listed(&few).is_empty());
    }
}
