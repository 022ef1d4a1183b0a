//! Values by number: four bytes name one, and the number of a removed value is used again.
//!
//! Both trees keep their nodes in here rather than in boxes: a link costs 4 bytes instead of 8, a node has no
//! overhead of the allocator, and dropping a tree of any depth is dropping one vector.

use hashbrown::HashTable;
use std::ops::{Index, IndexMut};

/// A vector with holes. A hole holds the default value.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<T>,
    holes: Vec<u32>,
}

impl<T: Default> Slab<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), holes: Vec::new() }
    }

    /// Keeps the value and returns its number, below `u32::MAX`.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(number) = self.holes.pop() {
            self[number] = value;
            return number;
        }
        let number = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        assert!(number < u32::MAX, "four billion nodes, and more memory than this was built for");
        if self.slots.len() == self.slots.capacity() {
            // An eighth more at a time: doubling would leave up to half of the largest allocation empty.
            self.slots.reserve_exact((self.slots.len() / 8).max(8));
        }
        self.slots.push(value);
        number
    }

    /// Takes the value out; its number may be given to the next.
    pub(super) fn remove(&mut self, number: u32) -> T {
        self.holes.push(number);
        std::mem::take(&mut self[number])
    }

    /// The value, or the default in a hole; `None` for a number that was never given.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.slots.get(number as usize)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.slots.get_mut(number as usize)
    }

    /// How many values it holds.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.holes.len()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.slots[number as usize]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.slots[number as usize]
    }
}

/// Lets a table shrink when seven eighths of it lie idle; it stays half empty, so that this is rare.
pub(super) fn give_back<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if table.capacity() > 64 && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_only_after_its_value_has_gone() {
        let mut slab = Slab::new();
        let (first, second) = (slab.insert("a"), slab.insert("b"));
        assert_eq!(slab.remove(first), "a");
        assert_eq!((slab.len(), slab.get(first), slab.get(second)), (1, Some(&""), Some(&"b")));
        assert_eq!(slab.insert("c"), first);
        assert_ne!(slab.insert("d"), second);
        assert_eq!(slab[first], "c");
        assert_eq!(slab.get(99), None);
    }
}
