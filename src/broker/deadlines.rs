//! One timer for everything that has to happen at a certain time.
//!
//! A queue of deadlines, without a clock: the broker's timer task asks for the next one, sleeps, and takes what
//! is due. Owner: [`super::Broker`]; added to and removed from by its verbs. What always holds: what was removed
//! is never taken; deadlines are taken in the order of their time.

use std::collections::BTreeMap;
use std::time::Instant;

/// Names a deadline, so that it can be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadlineKey {
    at: Instant,
    number: u64,
}

impl DeadlineKey {
    /// The key of a deadline that the caller numbers itself. Numbers are below 2^63; those given out by
    /// [`Deadlines::insert`] are never the same.
    pub fn numbered(at: Instant, number: u64) -> Self {
        Self { at, number: number | 1 << 63 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Deadlines<T> {
    waiting: BTreeMap<DeadlineKey, T>,
    numbers: u64,
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), numbers: 0 }
    }
}

impl<T> Deadlines<T> {
    /// Adds a deadline; and whether it is now the next one, so that the timer has to be told.
    pub fn insert(&mut self, at: Instant, what: T) -> (DeadlineKey, bool) {
        self.numbers += 1;
        let key = DeadlineKey { at, number: self.numbers };
        let is_next = self.waiting.first_key_value().is_none_or(|(first, _)| key < *first);
        self.waiting.insert(key, what);
        (key, is_next)
    }

    /// Adds a deadline under a number that the caller has for it, so that it can tell the key again later: see
    /// [`DeadlineKey::numbered`].
    pub fn insert_numbered(&mut self, key: DeadlineKey, what: T) -> bool {
        let is_next = self.waiting.first_key_value().is_none_or(|(first, _)| key < *first);
        self.waiting.insert(key, what);
        is_next
    }

    /// Takes a deadline back.
    pub fn remove(&mut self, key: DeadlineKey) -> Option<T> {
        self.waiting.remove(&key)
    }

    /// When the next deadline is.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(key, _)| key.at)
    }

    /// Takes the next deadline, if it is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        let first = self.waiting.first_entry()?;
        if first.key().at <= now { Some(first.remove()) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadlines_come_in_order_and_removed_ones_never() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        assert!(deadlines.insert(at(5), "five").1);
        let (three, is_next) = deadlines.insert(at(3), "three");
        assert!(is_next);
        assert!(!deadlines.insert(at(4), "four").1);
        assert!(!deadlines.insert(at(4), "four again").1);
        assert_eq!(deadlines.remove(three), Some("three"));
        assert_eq!(deadlines.next(), Some(at(4)));
        assert_eq!(deadlines.pop_due(at(3)), None);
        assert_eq!(deadlines.pop_due(at(4)), Some("four"));
        assert_eq!(deadlines.pop_due(at(9)), Some("four again"));
        assert_eq!(deadlines.pop_due(at(9)), Some("five"));
        assert_eq!(deadlines.next(), None);
    }
}
