//! How long things took, by an HDR histogram: to the nanosecond at the low end, to one in a hundred throughout.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The longest time that is told apart from longer ones: ten minutes.
const LONGEST: u64 = 600_000_000_000;

/// Significant digits; with three the counters would not fit the processor's cache beside the load's own data.
const DIGITS: u8 = 2;

/// The share of all that took no longer, and its name.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Times in nanoseconds.
pub(super) struct Times {
    histogram: Option<Histogram<u64>>,
    /// What was recorded last and how often, not yet in the histogram: the messages of a batch arrive together.
    last: u64,
    again: u64,
}

impl Times {
    pub fn new() -> Self {
        Self { histogram: Histogram::new_with_max(LONGEST, DIGITS).ok(), last: 0, again: 0 }
    }

    #[inline]
    pub fn record(&mut self, nanoseconds: u64) {
        self.record_many(nanoseconds, 1);
    }

    #[inline]
    pub fn record_many(&mut self, nanoseconds: u64, count: u64) {
        if nanoseconds == self.last {
            self.again += count;
        } else {
            self.settle();
            (self.last, self.again) = (nanoseconds, count);
        }
    }

    fn settle(&mut self) {
        if let Some(histogram) = &mut self.histogram
            && self.again > 0
        {
            histogram.saturating_record_n(self.last, self.again);
        }
        self.again = 0;
    }

    pub fn clear(&mut self) {
        self.again = 0;
        if let Some(histogram) = &mut self.histogram {
            histogram.reset();
        }
    }

    /// In nanoseconds.
    pub fn quantile(&mut self, quantile: f64) -> u64 {
        self.settle();
        self.histogram.as_ref().map_or(0, |histogram| histogram.value_at_quantile(quantile))
    }

    pub fn count(&mut self) -> u64 {
        self.settle();
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// In microseconds.
    pub fn json(&mut self) -> Value {
        let mut object = serde_json::Map::new();
        for (name, quantile) in QUANTILES {
            if self.count() > 0 {
                object.insert(name.to_owned(), json!(self.quantile(quantile) as f64 / 1_000.0));
            }
        }
        object.insert("count".to_owned(), json!(self.count()));
        Value::Object(object)
    }

    /// For people.
    pub fn text(&mut self) -> String {
        if self.count() == 0 {
            return "none".to_owned();
        }
        let quantiles: Vec<_> = QUANTILES
            .into_iter()
            .map(|(name, quantile)| format!("{name} {}", duration(self.quantile(quantile))))
            .collect();
        quantiles.join(", ")
    }
}

/// A time as people write it.
pub(super) fn duration(nanoseconds: u64) -> String {
    match nanoseconds as f64 {
        short if short < 1e3 => format!("{short} ns"),
        short if short < 1e6 => format!("{:.3} µs", short / 1e3).replace(".000", ""),
        middle if middle < 1e9 => format!("{:.3} ms", middle / 1e6),
        long => format!("{:.3} s", long / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_percent_whether_times_repeat_or_not() {
        let mut times = Times::new();
        for time in 1..=100_000 {
            for _ in 0..3 {
                times.record(time * 1_000);
            }
        }
        assert_eq!(times.count(), 300_000);
        for (quantile, expected) in [(0.5, 50e6), (0.99, 99e6), (1.0, 100e6)] {
            let found = times.quantile(quantile) as f64;
            assert!((found / expected - 1.0).abs() < 0.01, "{quantile}: {found}");
        }
        times.clear();
        assert_eq!((times.count(), times.text()), (0, "none".to_owned()));
    }

    #[test]
    fn times_are_written_for_people() {
        for (time, text) in
            [(999, "999 ns"), (1_500, "1.500 µs"), (2_000_000, "2.000 ms"), (3_250_000_000, "3.250 s")]
        {
            assert_eq!(duration(time), text);
        }
    }
}
