//! Values by number: four bytes name one, and the number of a removed value is used again.
//!
//! Both trees keep their nodes in here rather than in boxes: a link costs 4 bytes instead of 8, a node has no
//! overhead of the allocator, and dropping a tree of any depth is dropping a few vectors.

use hashbrown::HashTable;
use std::ops::{Index, IndexMut};

/// Values that lie together. A power of two; so many are 96 to 128 KiB.
const CHUNK: usize = 4096;

/// A sequence with holes. A hole holds the default value.
///
/// It grows by chunks and moves no value but those of the first: a vector that is copied when it grows leaves its old places behind, which
/// no allocator can hand to anything as large, so that a tree which has grown would cost twice what it needs.
#[derive(Debug)]
pub(super) struct Slab<T> {
    /// All but the last are full; all but the first have their room from the beginning.
    chunks: Vec<Vec<T>>,
    holes: Vec<u32>,
}

impl<T: Default> Slab<T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), holes: Vec::new() }
    }

    /// Keeps the value and returns its number, below `u32::MAX`.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(number) = self.holes.pop() {
            self[number] = value;
            return number;
        }
        let number = u32::try_from(self.slots()).unwrap_or(u32::MAX);
        assert!(number < u32::MAX, "four billion nodes, and more memory than this was built for");
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(value),
            None => self.chunks.push(vec![value]),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(value);
                self.chunks.push(chunk);
            }
        }
        number
    }

    /// Takes the value out; its number may be given to the next.
    pub(super) fn remove(&mut self, number: u32) -> T {
        self.holes.push(number);
        std::mem::take(&mut self[number])
    }

    /// The value, or the default in a hole; `None` for a number that was never given.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (chunk, place) = split(number);
        self.chunks.get(chunk)?.get(place)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (chunk, place) = split(number);
        self.chunks.get_mut(chunk)?.get_mut(place)
    }

    /// How many values it holds.
    pub(super) fn len(&self) -> usize {
        self.slots() - self.holes.len()
    }

    /// Values and holes.
    fn slots(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        let (chunk, place) = split(number);
        &self.chunks[chunk][place]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        let (chunk, place) = split(number);
        &mut self.chunks[chunk][place]
    }
}

/// The chunk, and the place in it.
fn split(number: u32) -> (usize, usize) {
    (number as usize / CHUNK, number as usize % CHUNK)
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

    #[test]
    fn values_keep_their_numbers_over_many_chunks() {
        let mut slab = Slab::new();
        let count = 3 * CHUNK + 1;
        for value in 0..count {
            assert_eq!(slab.insert(value) as usize, value);
        }
        for number in (0..count as u32).step_by(7) {
            assert_eq!(slab.remove(number), number as usize);
        }
        assert_eq!(slab.len(), count - count.div_ceil(7));
        for number in 0..count as u32 {
            let expected = if number % 7 == 0 { 0 } else { number as usize };
            assert_eq!((slab[number], slab.get(number)), (expected, Some(&expected)));
        }
        assert_eq!(slab.get(count as u32), None);
        assert_eq!(slab.get_mut(u32::MAX), None);
    }
}
