//! Something small for every row of one owner, found by the row's number.
//!
//! Numbers grow and most of them go in the order in which they came, but one may stay for ever, and there are gaps. So
//! rows stand in chunks of 256 consecutive numbers, each no larger than what is in it.

use std::collections::VecDeque;

const CHUNK: u64 = 256;

/// What is kept for a row. It knows the lowest byte of the row's number.
pub(super) trait Entry: Copy {
    /// The lowest byte of the row's number.
    fn low(&self) -> u8;
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rows<T> {
    /// Ascending, none empty.
    chunks: VecDeque<Chunk<T>>,
}

#[derive(Debug)]
struct Chunk<T> {
    /// The rows' numbers without their lowest byte.
    high: u64,
    /// Ascending.
    entries: Vec<T>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { chunks: VecDeque::new() }
    }
}

impl<T: Entry> Rows<T> {
    pub fn get(&self, seq: u64) -> Option<&T> {
        let chunk = self.chunks.get(self.find(seq).ok()?)?;
        chunk.entries.get(chunk.find(seq).ok()?)
    }

    pub fn get_mut(&mut self, seq: u64) -> Option<&mut T> {
        let at = self.find(seq).ok()?;
        let chunk = self.chunks.get_mut(at)?;
        let at = chunk.find(seq).ok()?;
        chunk.entries.get_mut(at)
    }

    /// Puts an entry in; gives back what was in its place.
    pub fn insert(&mut self, seq: u64, entry: T) -> Option<T> {
        let at = match self.find(seq) {
            Ok(at) => at,
            Err(at) => {
                if self.chunks.len() == self.chunks.capacity() {
                    self.chunks.reserve_exact((self.chunks.len() / 2).max(1));
                }
                self.chunks.insert(at, Chunk { high: seq / CHUNK, entries: Vec::new() });
                at
            }
        };
        let chunk = self.chunks.get_mut(at)?;
        match chunk.find(seq) {
            Ok(at) => chunk.entries.get_mut(at).map(|old| std::mem::replace(old, entry)),
            Err(at) => {
                if chunk.entries.len() == chunk.entries.capacity() {
                    chunk.entries.reserve_exact((chunk.entries.len() / 4).max(2));
                }
                chunk.entries.insert(at, entry);
                None
            }
        }
    }

    pub fn remove(&mut self, seq: u64) -> Option<T> {
        let at = self.find(seq).ok()?;
        let chunk = self.chunks.get_mut(at)?;
        let place = chunk.find(seq).ok()?;
        let removed = chunk.entries.remove(place);
        if chunk.entries.is_empty() {
            self.chunks.remove(at);
        } else {
            chunk.trim();
        }
        Some(removed)
    }

    /// Takes out all rows from `first` to `last`.
    pub fn remove_range(&mut self, first: u64, last: u64, mut removed: impl FnMut(u64, T)) {
        let mut at = self.chunks.partition_point(|chunk| chunk.high < first / CHUNK);
        while let Some(chunk) = self.chunks.get_mut(at).filter(|chunk| chunk.high <= last / CHUNK) {
            let high = chunk.high;
            let seq = |entry: &T| high * CHUNK + u64::from(entry.low());
            let from = chunk.entries.partition_point(|entry| seq(entry) < first);
            let to = chunk.entries.partition_point(|entry| seq(entry) <= last);
            chunk.entries.drain(from..to).for_each(|entry| removed(seq(&entry), entry));
            if chunk.entries.is_empty() {
                self.chunks.remove(at);
            } else {
                chunk.trim();
                at += 1;
            }
        }
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.chunks.iter().flat_map(|chunk| {
            chunk.entries.iter().map(|entry| (chunk.high * CHUNK + u64::from(entry.low()), entry))
        })
    }

    /// Where the row's chunk is, or would be.
    fn find(&self, seq: u64) -> Result<usize, usize> {
        let high = seq / CHUNK;
        // Nearly always the first, or the last.
        match (self.chunks.front(), self.chunks.back()) {
            (Some(first), _) if first.high == high => Ok(0),
            (_, Some(last)) if last.high == high => Ok(self.chunks.len() - 1),
            (_, Some(last)) if last.high < high => Err(self.chunks.len()),
            _ => self.chunks.binary_search_by(|chunk| chunk.high.cmp(&high)),
        }
    }
}

impl<T: Entry> Chunk<T> {
    fn find(&self, seq: u64) -> Result<usize, usize> {
        let low = (seq % CHUNK) as u8;
        match self.entries.last() {
            Some(last) if last.low() < low => Err(self.entries.len()),
            _ => self.entries.binary_search_by(|entry| entry.low().cmp(&low)),
        }
    }

    /// Gives memory back once half of it is unused.
    fn trim(&mut self) {
        let used = self.entries.len();
        if self.entries.capacity() > 2 * used + 8 {
            self.entries.shrink_to(used + used / 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl Entry for (u8, u32) {
        fn low(&self) -> u8 {
            self.0
        }
    }

    #[test]
    fn it_does_what_a_map_does() {
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let (mut rows, mut map) = (Rows::default(), BTreeMap::new());
        for round in 0..20_000_u32 {
            let seq = next(2_000) + u64::from(round) / 4;
            match next(5) {
                0..=2 => {
                    let entry = (seq as u8, round);
                    assert_eq!(rows.insert(seq, entry), map.insert(seq, entry));
                }
                3 => assert_eq!(rows.remove(seq), map.remove(&seq)),
                _ => {
                    let last = seq + next(40);
                    let mut removed = Vec::new();
                    rows.remove_range(seq, last, |seq, entry| removed.push((seq, entry)));
                    let expected: Vec<_> = map.range(seq..=last).map(|(seq, entry)| (*seq, *entry)).collect();
                    map.retain(|at, _| !(seq..=last).contains(at));
                    assert_eq!(removed, expected);
                }
            }
            assert_eq!(rows.get(seq), map.get(&seq));
            assert_eq!(rows.iter().next().is_none(), map.is_empty());
        }
        assert!(rows.iter().map(|(seq, entry)| (seq, *entry)).eq(map.into_iter()));
        rows.remove_range(0, u64::MAX, |_, _| {});
        assert!(rows.chunks.is_empty());
    }
}
