//! The entries of one filter. Most filters have one subscriber, some have a hundred thousand.
//!
//! One entry lies in the filter itself, a few in a list that is searched, many in a list with an index, so
//! that adding, replacing and removing cost the same however many there are. The order of a list means
//! nothing: a removed entry's place is taken by the last.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::{BuildHasher, Hash};

/// What can stand in a [`Trie`](super::Trie): identified by a key among the entries of one filter.
pub trait Entry {
    /// What tells the entries of one filter apart, such as a session's number. It must not change while the
    /// entry stands.
    type Key: Copy + Eq + Hash;

    /// The key of this entry.
    fn key(&self) -> Self::Key;
}

/// Beyond this many a list is not searched but indexed.
const INDEXED_BEYOND: usize = 16;
/// A list that has shrunk to this many drops its index: lower than the above, so that a subscriber who comes
/// and goes does not build one each time.
const SEARCHED_BELOW: usize = 8;

/// The entries of one filter; none only in a filter that does not stand.
#[derive(Debug)]
pub(super) enum Entries<E> {
    None,
    One(E),
    /// Two at least. Boxed to keep the usual case small.
    Many(Box<Many<E>>),
}

/// A list, and where in it a key is.
#[derive(Debug)]
pub(super) struct Many<E> {
    list: Vec<E>,
    /// Positions in `list`, by the hash of the key.
    index: Option<HashTable<u32>>,
}

impl<E: Entry> Entries<E> {
    pub(super) fn as_slice(&self) -> &[E] {
        match self {
            Self::None => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(many) => &many.list,
        }
    }

    pub(super) fn get(&self, key: E::Key, hasher: &DefaultHashBuilder) -> Option<&E> {
        match self {
            Self::None => None,
            Self::One(entry) => (entry.key() == key).then_some(entry),
            Self::Many(many) => many.list.get(many.position(key, hasher)?),
        }
    }

    /// Adds an entry, and returns that of the same key which it replaced.
    pub(super) fn insert(&mut self, entry: E, hasher: &DefaultHashBuilder) -> Option<E> {
        match self {
            Self::None => {
                *self = Self::One(entry);
                None
            }
            Self::One(first) if first.key() == entry.key() => Some(std::mem::replace(first, entry)),
            Self::One(_) => {
                if let Self::One(first) = std::mem::replace(self, Self::None) {
                    *self = Self::Many(Box::new(Many { list: vec![first, entry], index: None }));
                }
                None
            }
            Self::Many(many) => many.insert(entry, hasher),
        }
    }

    pub(super) fn remove(&mut self, key: E::Key, hasher: &DefaultHashBuilder) -> Option<E> {
        match self {
            Self::None => None,
            Self::One(entry) if entry.key() != key => None,
            Self::One(_) => match std::mem::replace(self, Self::None) {
                Self::One(entry) => Some(entry),
                Self::None | Self::Many(_) => None,
            },
            Self::Many(many) => {
                let removed = many.remove(key, hasher);
                if many.list.len() == 1
                    && let Some(last) = many.list.pop()
                {
                    *self = Self::One(last);
                }
                removed
            }
        }
    }
}

impl<E: Entry> Many<E> {
    fn position(&self, key: E::Key, hasher: &DefaultHashBuilder) -> Option<usize> {
        match &self.index {
            None => self.list.iter().position(|entry| entry.key() == key),
            Some(index) => index
                .find(hasher.hash_one(key), |&at| self.list[at as usize].key() == key)
                .map(|&at| at as usize),
        }
    }

    fn insert(&mut self, entry: E, hasher: &DefaultHashBuilder) -> Option<E> {
        if let Some(at) = self.position(entry.key(), hasher) {
            return Some(std::mem::replace(&mut self.list[at], entry));
        }
        self.list.push(entry);
        let Self { list, index } = self;
        let hash_at = |&at: &u32| hasher.hash_one(list[at as usize].key());
        let unindexed = match index {
            Some(_) => list.len() - 1,
            None if list.len() > INDEXED_BEYOND => 0,
            None => return None,
        };
        let index = index.get_or_insert_default();
        for at in unindexed..list.len() {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            index.insert_unique(hash_at(&at), at, hash_at);
        }
        None
    }

    fn remove(&mut self, key: E::Key, hasher: &DefaultHashBuilder) -> Option<E> {
        let at = self.position(key, hasher)?;
        let last = self.list.len() - 1;
        let Self { list, index } = self;
        if let Some(index) = index {
            if let Ok(entry) =
                index.find_entry(hasher.hash_one(key), |&position| list[position as usize].key() == key)
            {
                entry.remove();
            }
            if let Some(moved) = (at != last).then(|| &list[last])
                && let Some(position) =
                    index.find_mut(hasher.hash_one(moved.key()), |&position| position as usize == last)
            {
                *position = u32::try_from(at).unwrap_or(u32::MAX);
            }
        }
        let removed = list.swap_remove(at);
        self.give_back(hasher);
        Some(removed)
    }

    /// Gives memory back when most of it lies idle.
    fn give_back(&mut self, hasher: &DefaultHashBuilder) {
        let Self { list, index } = self;
        if list.len() <= SEARCHED_BELOW {
            *index = None;
        }
        if list.len() < list.capacity() / 4 {
            list.shrink_to(list.len() * 2);
            if let Some(index) = index {
                index.shrink_to(list.len() * 2, |&at| hasher.hash_one(list[at as usize].key()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    impl Entry for (u32, u32) {
        type Key = u32;

        fn key(&self) -> u32 {
            self.0
        }
    }

    #[test]
    fn few_and_many_behave_like_a_map() {
        let hasher = DefaultHashBuilder::default();
        let mut entries = Entries::None;
        let mut model = BTreeMap::new();
        // Up through every threshold and down again, with a step that visits the keys out of order.
        for turn in 0..3 {
            for n in 0..100 {
                let key = n * 37 % 101;
                assert_eq!(
                    entries.insert((key, turn), &hasher),
                    model.insert(key, turn).map(|old| (key, old))
                );
                assert_eq!(entries.insert((key, turn), &hasher), Some((key, turn)));
            }
            for n in 0..100 {
                let key = n * 53 % 101;
                if turn < 2 || n > 2 {
                    assert_eq!(entries.remove(key, &hasher), model.remove(&key).map(|old| (key, old)));
                    assert_eq!(entries.remove(key, &hasher), None);
                }
                let mut listed = entries.as_slice().to_vec();
                listed.sort_unstable();
                assert_eq!(listed, model.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
                for key in 0..101 {
                    assert_eq!(entries.get(key, &hasher).map(|entry| &entry.1), model.get(&key));
                }
            }
        }
    }
}
