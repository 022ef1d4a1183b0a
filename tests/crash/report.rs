//! What was found: faults by kind, and the table that is printed.

use std::collections::BTreeMap;
use std::fmt;

/// So many faults of a kind are told in full; the others are counted.
const TOLD: usize = 8;

/// When something happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamp {
    /// How often the broker had been killed.
    pub round: u32,
    /// Since the start.
    pub milliseconds: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, milliseconds } = self;
        write!(f, "@{}.{:03} (round {round})", milliseconds / 1_000, milliseconds % 1_000)
    }
}

/// What a broker can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An acknowledged message did not come to somebody who had subscribed.
    Lost,
    /// A QoS 2 message came twice, or one of QoS 1 without anything that explains it.
    Twice,
    /// A message came for the first time after a later one.
    OutOfOrder,
    /// A message came to somebody who had not subscribed, or not any more.
    Unasked,
    /// A session that must be present was not.
    SessionLost,
    /// A session that must have ended was present.
    SessionRaised,
    /// A retained value older than the acknowledged one.
    RetainedOlder,
    /// No retained value where one was acknowledged.
    RetainedGone,
    /// A retained value that had been cleared.
    RetainedRaised,
    /// A Will that should have been published was not, or one that should not was.
    Will,
    /// An exchange that never came to its end.
    Unfinished,
    /// A message that is not what was sent.
    Corrupt,
    /// A packet that must not come, or a refusal without a reason.
    Protocol,
    /// The broker did not start, or ended by itself.
    Broker,
}

impl Kind {
    /// In words, for the table.
    fn name(self) -> &'static str {
        match self {
            Self::Lost => "messages lost",
            Self::Twice => "messages doubled",
            Self::OutOfOrder => "messages out of order",
            Self::Unasked => "messages nobody had asked for",
            Self::SessionLost => "sessions lost",
            Self::SessionRaised => "sessions risen from the dead",
            Self::RetainedOlder => "retained values too old",
            Self::RetainedGone => "retained values gone",
            Self::RetainedRaised => "retained values risen from the dead",
            Self::Will => "Wills wrong",
            Self::Unfinished => "exchanges never finished",
            Self::Corrupt => "messages mutilated",
            Self::Protocol => "breaches of the protocol",
            Self::Broker => "broker ended by itself",
        }
    }
}

/// All faults.
#[derive(Debug, Default)]
pub struct Faults(BTreeMap<Kind, (u64, Vec<String>)>);

impl Faults {
    pub fn add(&mut self, kind: Kind, at: Stamp, what: String) {
        let (count, told) = self.0.entry(kind).or_default();
        *count += 1;
        if told.len() < TOLD {
            told.push(format!("{at} {what}"));
        }
    }

    pub fn count(&self, kind: Kind) -> u64 {
        self.0.get(&kind).map_or(0, |(count, _)| *count)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Kinds and counts, a line each.
    pub fn summary(&self) -> String {
        self.0.iter().map(|(kind, (count, _))| format!("  {:<36} {count:>8}\n", kind.name())).collect()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, (count, told)) in &self.0 {
            writeln!(f, "{}: {count}", kind.name())?;
            for what in told {
                writeln!(f, "  {what}")?;
            }
            if *count > told.len() as u64 {
                writeln!(f, "  ... and {} more", count - told.len() as u64)?;
            }
        }
        Ok(())
    }
}
