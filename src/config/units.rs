//! Durations and sizes as people write them: `"10s"`, `"64MiB"`. Pure text to number and back.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// `"250ms"`, `"10s"`, `"5m"`, `"12h"`, `"7d"`; zero may stand without a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    if number == 0 && unit.is_empty() {
        return Some(Duration::ZERO);
    }
    number.checked_mul(factor(&DURATIONS, unit)?).map(Duration::from_millis)
}

/// In the largest unit that leaves no rest.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 { "0s".to_owned() } else { show(&DURATIONS, millis) }
}

/// `"100"`, `"100B"`, `"4KiB"`, `"16MiB"`, `"1GiB"`, `"1TiB"`, in bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    number.checked_mul(factor(&SIZES, unit)?)
}

/// In the largest unit that leaves no rest.
pub(super) fn show_size(bytes: u64) -> String {
    if bytes == 0 { "0".to_owned() } else { show(&SIZES, bytes) }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

fn show(units: &[(&str, u64)], value: u64) -> String {
    match units.iter().rev().find(|(_, factor)| value.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("90s", 90_000),
            ("5m", 300_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration(" 10 s "), Some(Duration::from_secs(10)));
        for text in
            ["", "10", "s", "-1s", "1.5s", "10 years", "18446744073709551615d", "99999999999999999999s"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["0s", "5ms", "90s", "1m", "25h", "7d"] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), Some(text));
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("100B", 100),
            ("4KiB", 4096),
            ("16 MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "16MB", "16mib", "18446744073709551615TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        for text in ["0", "1000B", "1025B", "4KiB", "64MiB", "1GiB"] {
            assert_eq!(parse_size(text).map(show_size).as_deref(), Some(text));
        }
    }
}
