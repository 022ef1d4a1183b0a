//! When so many connect at a time that the system had better keep each to itself until it has said something.
//!
//! Owner: the accept loop. Sans-IO. What always holds: two [`SPAN`]s after the last of a rush at most, a client that connects
//! and says nothing is seen at once again.

use std::time::{Duration, Instant};

/// How long connections are counted before it is decided anew.
const SPAN: Duration = Duration::from_millis(100);

/// So many in that time are a rush: then accepting begins to be felt, at 1 to 2 % of a processor.
const MANY: u32 = 50;

/// See the module.
#[derive(Debug)]
pub struct Rush {
    counted_since: Instant,
    count: u32,
    is_on: bool,
}

impl Rush {
    /// None.
    pub fn new(now: Instant) -> Self {
        Self { counted_since: now, count: 0, is_on: false }
    }

    /// Counts a connection. `Some`: whether there is a rush has changed, to this.
    pub fn count(&mut self, now: Instant) -> Option<bool> {
        let changed = self.look(now);
        self.count += 1;
        if self.count >= MANY && !self.is_on {
            self.is_on = true;
            return Some(true);
        }
        changed
    }

    /// Looks whether a rush is over, when [`Rush::look_at`] says so; the same answer as that of [`Rush::count`].
    pub fn look(&mut self, now: Instant) -> Option<bool> {
        if now.saturating_duration_since(self.counted_since) < SPAN {
            return None;
        }
        let is_over = self.is_on && self.count < MANY;
        (self.counted_since, self.count) = (now, 0);
        self.is_on &= !is_over;
        is_over.then_some(false)
    }

    /// When the end of a rush has to be looked for, if there is one.
    pub fn look_at(&self) -> Option<Instant> {
        self.is_on.then(|| self.counted_since + SPAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_many_in_a_span_and_ends_with_a_span_of_few() {
        let start = Instant::now();
        let mut rush = Rush::new(start);
        let mut now = start;
        // Few for long, then many.
        for _ in 0..10 * MANY {
            now += SPAN / (MANY / 2);
            assert_eq!((rush.count(now), rush.look_at()), (None, None));
        }
        now += SPAN;
        for number in 1..=MANY {
            assert_eq!(rush.count(now), (number == MANY).then_some(true));
        }
        assert_eq!(rush.look_at(), Some(now + SPAN));
        // As long as they come, it goes on.
        for _ in 0..10 * MANY {
            now += SPAN / (2 * MANY);
            assert_eq!(rush.count(now), None);
            assert!(rush.look_at().is_some());
        }
        // The span in which they stop may have been of many; the next is not.
        let mut ends = Vec::new();
        while let Some(at) = rush.look_at() {
            assert_eq!(rush.look(at - Duration::from_nanos(1)), None);
            ends.push(rush.look(at));
        }
        assert!(matches!(*ends, [Some(false)] | [None, Some(false)]), "{ends:?}");
        assert_eq!(rush.count(now + 10 * SPAN), None);
    }

    #[test]
    fn one_who_comes_after_a_rush_ends_it() {
        let start = Instant::now();
        let mut rush = Rush::new(start);
        (1..MANY).for_each(|_| assert_eq!(rush.count(start), None));
        assert_eq!(rush.count(start), Some(true));
        assert_eq!(rush.count(start + SPAN), None, "the span before was of many");
        assert_eq!(rush.count(start + 2 * SPAN), Some(false));
    }
}
