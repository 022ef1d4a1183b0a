//! One timer for everything that has to happen at a certain time.
//!
//! A queue of deadlines, without a clock: the broker's timer task asks for the next one, sleeps, and takes what
//! is due. Owner: [`super::Broker`]; added to and removed from by its verbs. What always holds: what was removed
//! is never taken; deadlines are taken in the order of their time.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Names a deadline, so that it can be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadlineKey {
    /// In nanoseconds since the queue's start: half of what an `Instant` takes, in every session.
    at: u64,
    number: NonZeroU64,
}

/// See the module.
#[derive(Debug)]
pub struct Deadlines<T> {
    waiting: BTreeMap<DeadlineKey, T>,
    /// No deadline is before it.
    start: Instant,
    last_number: NonZeroU64,
}

/// Set in the numbers of callers, so that those given out here are never the same.
const CALLERS: NonZeroU64 = NonZeroU64::new(1 << 63).unwrap();

impl<T> Deadlines<T> {
    /// None yet.
    pub fn new(start: Instant) -> Self {
        Self { waiting: BTreeMap::new(), start, last_number: NonZeroU64::MIN }
    }

    /// The key of a deadline that the caller numbers itself, with a number below 2^63.
    pub fn numbered(&self, at: Instant, number: u64) -> DeadlineKey {
        DeadlineKey { at: self.nanoseconds(at), number: CALLERS | number }
    }

    /// Adds a deadline; and whether it is now the next one, so that the timer has to be told.
    pub fn insert(&mut self, at: Instant, what: T) -> (DeadlineKey, bool) {
        self.last_number = self.last_number.saturating_add(1);
        let key = DeadlineKey { at: self.nanoseconds(at), number: self.last_number };
        (key, self.insert_numbered(key, what))
    }

    /// Adds a deadline under a key that the caller can tell again later: see [`Deadlines::numbered`].
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
        let (key, _) = self.waiting.first_key_value()?;
        self.start.checked_add(Duration::from_nanos(key.at))
    }

    /// Takes the next deadline, if it is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<(DeadlineKey, T)> {
        let now = self.nanoseconds(now);
        let first = self.waiting.first_entry()?;
        if first.key().at <= now { Some(first.remove_entry()) } else { None }
    }

    /// Nothing is further away than five centuries.
    fn nanoseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
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
        let mut deadlines = Deadlines::new(start);
        let pop = |deadlines: &mut Deadlines<_>, now| deadlines.pop_due(now).map(|(_, what)| what);
        assert!(deadlines.insert(at(5), "five").1);
        let (three, is_next) = deadlines.insert(at(3), "three");
        assert!(is_next);
        assert!(!deadlines.insert(at(4), "four").1);
        assert!(!deadlines.insert(at(4), "four again").1);
        assert_eq!(deadlines.remove(three), Some("three"));
        assert_eq!(deadlines.next(), Some(at(4)));
        assert_eq!(pop(&mut deadlines, at(3)), None);
        assert_eq!(pop(&mut deadlines, at(4)), Some("four"));
        assert_eq!(pop(&mut deadlines, at(9)), Some("four again"));
        assert_eq!(pop(&mut deadlines, at(9)), Some("five"));
        assert_eq!(deadlines.next(), None);
    }
}
