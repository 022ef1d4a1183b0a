//! When messages are due: a rate, by the clock, whether the broker keeps up or not.
//!
//! Messages are gathered into ticks, so that a load needs few wake-ups and none is late only because its tick had not
//! come.

/// Nanoseconds of a tick.
const TICK: f64 = 200_000.0;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    /// Messages a second, of all publishers.
    rate: f64,
    start: Option<u64>,
    /// Messages that have been handed out.
    pub issued: u64,
}

impl Schedule {
    pub fn new(rate: f64) -> Self {
        Self { rate, start: None, issued: 0 }
    }

    /// Begins now, unless it has begun.
    pub fn start(&mut self, now: u64) {
        self.start.get_or_insert(now);
    }

    /// When the message of this number is due.
    pub fn due(&self, number: u64) -> u64 {
        let ticks = number as f64 * 1e9 / (self.rate * TICK);
        self.start.unwrap_or(0) + (ticks.ceil() * TICK) as u64
    }

    /// When the next that was not handed out is due.
    pub fn next(&self) -> u64 {
        self.due(self.issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_spread_over_time_and_gathered_into_ticks() {
        let mut schedule = Schedule::new(10_000.0);
        schedule.start(1_000);
        schedule.start(9_000);
        // Two a tick of 200 µs.
        let due: Vec<_> = (0..5).map(|number| schedule.due(number) - 1_000).collect();
        assert_eq!(due, [0, 200_000, 200_000, 400_000, 400_000]);
        assert_eq!(schedule.due(10_000), 1_000_001_000);
        schedule.issued = 3;
        assert_eq!(schedule.next(), 401_000);
    }
}
