//! A slab whose values are reached by [`Key`], so that a stale key finds nothing.

use slab::Slab;

use super::{Key, Owner};

/// The values of one owner.
#[derive(Debug)]
pub struct Slots<T> {
    owner: Owner,
    entries: Slab<Entry<T>>,
    /// That of the value that came last.
    generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: T,
}

/// A free slot, whose key is known before there is a value.
pub struct Vacancy<'a, T> {
    slot: slab::VacantEntry<'a, Entry<T>>,
    key: Key,
}

impl<T> Slots<T> {
    /// No values.
    pub fn new(owner: Owner) -> Slots<T> {
        Slots { owner, entries: Slab::new(), generation: 0 }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A free slot; `None` when there are as many values as an owner may have ([`Key::new`]).
    pub fn vacancy(&mut self) -> Option<Vacancy<'_, T>> {
        self.generation = self.generation.wrapping_add(1).max(1);
        let slot = self.entries.vacant_entry();
        let key = Key::new(self.owner, slot.key(), self.generation)?;
        Some(Vacancy { slot, key })
    }

    /// The value of a key, unless it has been removed.
    pub fn get(&self, key: Key) -> Option<&T> {
        debug_assert_eq!(key.owner(), self.owner);
        self.entries.get(key.slot()).filter(|entry| entry.generation == key.generation).map(|entry| &entry.value)
    }

    /// As [`Slots::get`].
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        debug_assert_eq!(key.owner(), self.owner);
        let entry = self.entries.get_mut(key.slot()).filter(|entry| entry.generation == key.generation)?;
        Some(&mut entry.value)
    }

    /// Takes out the value of a key, unless that has happened already.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        self.entries.try_remove(key.slot()).map(|entry| entry.value)
    }

    /// All values with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let key = |slot, generation| Key::new(self.owner, slot, generation);
        self.entries.iter().filter_map(move |(slot, entry)| Some((key(slot, entry.generation)?, &entry.value)))
    }

    /// Takes out all values with their keys.
    pub fn take_all(&mut self) -> impl Iterator<Item = (Key, T)> + use<T> {
        let owner = self.owner;
        let keyed =
            move |(slot, entry): (usize, Entry<T>)| Some((Key::new(owner, slot, entry.generation)?, entry.value));
        std::mem::take(&mut self.entries).into_iter().filter_map(keyed)
    }
}

impl<'a, T> Vacancy<'a, T> {
    /// The key that the value will have.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Puts a value in.
    pub fn insert(self, value: T) -> &'a mut T {
        &mut self.slot.insert(Entry { generation: self.key.generation, value }).value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(slots: &mut Slots<&'static str>, value: &'static str) -> Key {
        let vacancy = slots.vacancy().unwrap();
        let key = vacancy.key();
        vacancy.insert(value);
        key
    }

    #[test]
    fn a_stale_key_does_not_find_the_next_value_of_its_slot() {
        let mut slots = Slots::new(Owner::KeepAlive);
        let first = insert(&mut slots, "first");
        assert_eq!((first.owner(), slots.get(first)), (Owner::KeepAlive, Some(&"first")));
        assert_eq!(slots.remove(first), Some("first"));
        let second = insert(&mut slots, "second");
        assert_eq!(second.slot(), first.slot());
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(second, &"second")]);
    }

    #[test]
    fn a_vacancy_that_is_not_used_takes_no_slot() {
        let mut slots: Slots<()> = Slots::new(Owner::Session);
        let unused = slots.vacancy().unwrap().key();
        let vacancy = slots.vacancy().unwrap();
        assert_eq!(vacancy.key().slot(), unused.slot());
        vacancy.insert(());
        assert_eq!((slots.len(), slots.take_all().count(), slots.is_empty()), (1, 1, true));
    }
}
