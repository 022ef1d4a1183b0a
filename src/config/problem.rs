//! What is wrong with a configuration: where it is written, which key, which value, what was expected.

use std::fmt;

use thiserror::Error;

/// Everything that is wrong, in the order of the sources and of their lines; never empty when [`load`](super::load) returns it.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    /// One problem a line.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// One thing that is wrong.
#[derive(Debug, Error)]
#[error("{place}: {fault}")]
pub struct Problem {
    /// Where it is written.
    pub place: Place,
    /// What it is.
    pub fault: Fault,
}

/// Where something is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// A file's path, or the name of an environment variable or of a flag.
    pub name: String,
    /// The line in the file, from 1, if it was found.
    pub line: Option<usize>,
}

impl From<String> for Place {
    fn from(name: String) -> Self {
        Self { name, line: None }
    }
}

impl fmt::Display for Place {
    /// `fulmar.toml:12`, which editors understand.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        match self.line {
            Some(line) => write!(formatter, ":{line}"),
            None => Ok(()),
        }
    }
}

/// What can be wrong.
#[derive(Debug, Error)]
pub enum Fault {
    /// The file or the environment could not be read, or is no TOML.
    #[error("{0}")]
    Unreadable(String),
    /// A key has a value that it does not take.
    #[error("{key} = {value}: {expectation}")]
    Value {
        /// The dotted key.
        key: String,
        /// What was written.
        value: String,
        /// What should have been.
        expectation: String,
    },
    /// There is no such key.
    #[error("{key}: there is no such key{}", .suggestion.as_ref().map(|known| format!("; did you mean {known}?")).unwrap_or_default())]
    UnknownKey {
        /// What was written.
        key: String,
        /// The known key that looks most like it.
        suggestion: Option<String>,
    },
    /// A key that must be there is not.
    #[error("{key} is missing: {expectation}")]
    Missing {
        /// The dotted key.
        key: String,
        /// What should have been.
        expectation: String,
    },
    /// Values that are right alone and wrong together.
    #[error("{0}")]
    Conflict(String),
}

/// The known name that looks most like `written`, if any comes near.
pub(super) fn closest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    known
        .map(|name| {
            // The right key in the wrong section is as near as a typing mistake.
            let moved = last(name) == last(written);
            (if moved { 1 } else { distance(written, name) }, name)
        })
        .filter(|(distance, name)| *distance <= name.len().max(6) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The number of characters to insert, drop or replace (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut previous[0], row + 1);
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = previous[column + 1];
            previous[column + 1] = replaced.min(diagonal + 1).min(previous[column] + 1);
        }
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] =
        ["limits.max_packet_size", "limits.max_connections", "queue.messages", "log.level"];

    #[test]
    fn distance_counts_edits() {
        for (left, right, edits) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("same", "same", 0)]
        {
            assert_eq!(distance(left, right), edits, "{left} {right}");
        }
    }

    #[test]
    fn a_mistyped_key_finds_its_neighbour() {
        for (written, meant) in [
            ("limits.max_paket_size", Some("limits.max_packet_size")),
            ("limit.max_connections", Some("limits.max_connections")),
            ("max_connections", Some("limits.max_connections")),
            ("log.levle", Some("log.level")),
            ("bridge.peers", None),
            ("", None),
        ] {
            assert_eq!(closest(written, KNOWN.into_iter()), meant, "{written}");
        }
    }
}
