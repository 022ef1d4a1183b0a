//! What a run found: for people, or as one JSON object.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::super::client::ClientError;
use super::histogram::Times;
use super::meter::{Mark, Meter};
use crate::codec::QoS;

/// Findings, in the order they are told.
#[derive(Default)]
pub(super) struct Report {
    fields: Map<String, Value>,
    lines: Vec<(String, String)>,
    /// Why the run ended too early.
    failure: Option<ClientError>,
}

impl Report {
    /// A figure for programs.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.fields.insert(key.to_owned(), value.into());
    }

    /// A line for people.
    pub fn say(&mut self, label: &str, text: impl Into<String>) {
        self.lines.push((label.to_owned(), text.into()));
    }

    /// The run ended too early; what was found until then is told nevertheless.
    pub fn fail(&mut self, error: ClientError) {
        self.set("error", error.to_string());
        self.failure = Some(error);
    }

    /// Why the run ended too early, if it did.
    pub fn failure(self) -> Option<ClientError> {
        self.failure
    }

    /// Times for both.
    pub fn times(&mut self, key: &str, label: &str, times: &mut Times) {
        self.set(key, times.json());
        self.say(label, times.text());
    }

    /// The QoS of subscriptions, where the broker granted a lower one than was asked for.
    pub fn granted(&mut self, asked: QoS, granted: QoS) {
        self.set("subscriber_qos", asked as u8);
        self.set("granted_qos", granted as u8);
        if granted < asked {
            self.say("granted", format!("QoS {} instead of {}", granted as u8, asked as u8));
        }
    }

    /// The rate of `count` operations between two marks and what they cost.
    pub fn operations(&mut self, operation: &str, count: u64, from: &Mark, to: &Mark, meter: &Meter) {
        let seconds = to.at.saturating_sub(from.at) as f64 / 1e9;
        // Of none it is no number.
        let per_operation = |cpu: f64| cpu * 1e6 / if count == 0 { f64::NAN } else { count as f64 };
        let rate = count as f64 / seconds;
        self.set("operation", operation);
        self.set("operations", count);
        self.set("seconds", rounded(seconds));
        self.set("operations_per_s", rounded(rate));
        self.say("rate", format!("{} {operation}s/s over {seconds:.2} s", grouped(rate)));
        let own = to.own_cpu - from.own_cpu;
        self.set("generator_cpu_us_per_operation", rounded(per_operation(own)));
        self.set("generator_cpu_share", rounded(own / seconds));
        self.say(
            "generator",
            format!("{:.0} % of a core, {:.3} µs each", own / seconds * 100.0, per_operation(own)),
        );
        if meter.knows_broker() {
            let cpu = to.broker_cpu - from.broker_cpu;
            self.set("broker_cpu_us_per_operation", rounded(per_operation(cpu)));
            self.set("broker_cpu_share", rounded(cpu / seconds));
            self.set("broker_memory_start_bytes", meter.start_memory);
            self.set("broker_memory_peak_bytes", meter.peak_memory);
            self.say(
                "broker",
                format!(
                    "{:.0} % of a core, {:.3} µs each; {:.1} MiB of memory at most",
                    cpu / seconds * 100.0,
                    per_operation(cpu),
                    meter.peak_memory as f64 / 1_048_576.0
                ),
            );
        }
    }

    /// The broker's memory that each of `count` things took.
    pub fn memory_each(&mut self, key: &str, of: &str, count: u64, from: &Mark, to: &Mark, meter: &Meter) {
        if meter.knows_broker() && count > 0 {
            let each = (to.broker_memory as f64 - from.broker_memory as f64) / count as f64;
            self.set(key, rounded(each));
            self.say("memory", format!("{each:.0} bytes a {of}"));
        }
    }

    /// Prints it to standard output.
    pub fn print(&self, as_json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if as_json {
            return writeln!(out, "{}", Value::Object(self.fields.clone()));
        }
        let width = self.lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        for (label, text) in &self.lines {
            writeln!(out, "{label:width$}  {text}")?;
        }
        Ok(())
    }
}

/// To three decimals; what is no number becomes null.
pub(super) fn rounded(value: f64) -> Value {
    json!((value * 1_000.0).round() / 1_000.0)
}

/// A whole number with its thousands apart.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (value, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (1_000.0, "1,000"),
            (12_345_678.9, "12,345,679"),
            (-1_500.0, "-1,500"),
        ] {
            assert_eq!(grouped(value), text);
        }
        assert_eq!(rounded(f64::NAN), Value::Null);
    }
}
