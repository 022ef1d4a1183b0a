//! The lines about connections: who came, who went and why; at a rate that a flood cannot raise.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bans::Ban;
use super::failure::Failure;
use crate::broker::Denial;
use crate::codec::ProtocolVersion;

/// Lines a second that are written however many connections come and go.
const LINES_PER_SECOND: u32 = 50;

/// Lines that may be written at once after a quiet time.
const BURST: u32 = 500;

/// How many lines may still be written. Those that are not are counted, and the count is a line.
#[derive(Debug)]
pub struct LineBudget(Mutex<Budget>);

#[derive(Debug)]
struct Budget {
    left: u32,
    refilled: Option<Instant>,
    suppressed: u64,
}

impl LineBudget {
    /// A full budget.
    pub fn new() -> Self {
        Self(Mutex::new(Budget { left: BURST, refilled: None, suppressed: 0 }))
    }

    /// Whether a line may be written.
    pub fn take(&self, now: Instant) -> bool {
        let mut budget = self.0.lock();
        let since = budget.refilled.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if since >= Duration::from_secs(1) {
            let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
            budget.left = seconds.saturating_mul(LINES_PER_SECOND).saturating_add(budget.left).min(BURST);
            budget.refilled = Some(now);
            let suppressed = std::mem::take(&mut budget.suppressed);
            if suppressed > 0 {
                tracing::info!(
                    lines = suppressed,
                    "lines about connections were left out, there were too many"
                );
            }
        }
        match budget.left.checked_sub(1) {
            Some(left) => {
                budget.left = left;
                true
            }
            None => {
                budget.suppressed += 1;
                false
            }
        }
    }

    /// A client has connected.
    pub fn connected(
        &self,
        client: &str,
        user: Option<&str>,
        peer: Option<SocketAddr>,
        version: ProtocolVersion,
        session_present: bool,
        now: Instant,
    ) {
        if tracing::enabled!(tracing::Level::INFO) && self.take(now) {
            tracing::info!(
                client,
                user,
                peer = peer.map(tracing::field::display),
                version = version_text(version),
                resumed = session_present,
                "connected"
            );
        }
    }

    /// A client may not do something.
    pub fn denied(
        &self,
        client: &str,
        user: Option<&str>,
        peer: Option<SocketAddr>,
        denial: &Denial,
        now: Instant,
    ) {
        if self.take(now) {
            tracing::warn!(
                client,
                user,
                peer = peer.map(tracing::field::display),
                topic = &*denial.topic,
                rule = denial.rule,
                "denied: {}",
                denial.action
            );
        }
    }

    /// A client's connection has ended.
    pub fn disconnected(
        &self,
        client: &str,
        peer: Option<SocketAddr>,
        version: ProtocolVersion,
        why: &Failure,
        now: Instant,
    ) {
        if !self.take(now) {
            return;
        }
        let (peer, version) = (peer.map(tracing::field::display), version_text(version));
        if why.is_offence() {
            tracing::warn!(client, peer, version, reason = %why, "disconnected for breaking the protocol");
        } else {
            tracing::info!(client, peer, version, reason = %why, "disconnected");
        }
    }

    /// Somebody is kept out from now on.
    pub fn banned(&self, listener: &str, ban: &Ban, now: Instant) {
        if self.take(now) {
            let Ban { subject, reason, count, window, duration } = ban;
            tracing::warn!(
                listener,
                "banned for {duration:?}: {subject}, for {count} {reason} within {window:?}"
            );
        }
    }

    /// A client sends more than its listener lets it.
    pub fn held_back(&self, client: &str, now: Instant) {
        if self.take(now) {
            tracing::info!(
                client,
                "it sends more than messages_per_second or bytes_per_second of its listener; it is read more slowly"
            );
        }
    }

    /// A connection ended before it had a session.
    pub fn refused(&self, peer: Option<SocketAddr>, why: &Failure, now: Instant) {
        if !self.take(now) {
            return;
        }
        let peer = peer.map(tracing::field::display);
        if matches!(why, Failure::Banned(_)) {
            // That there is a ban was told when it began.
            tracing::debug!(peer, reason = %why, "a connection was refused");
        } else if why.is_of_a_stranger() {
            tracing::debug!(peer, reason = %why, "a connection ended without CONNECT");
        } else {
            tracing::info!(peer, reason = %why, "a connection was refused");
        }
    }
}

fn version_text(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V3_1 => "3.1",
        ProtocolVersion::V3_1_1 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_a_bounded_number_of_lines() {
        let lines = LineBudget::new();
        let start = Instant::now();
        let written = |at: Duration| (0..10_000).filter(|_| lines.take(start + at)).count();
        assert_eq!(written(Duration::ZERO), 500);
        assert_eq!(written(Duration::from_millis(999)), 0);
        assert_eq!(written(Duration::from_secs(1)), 50);
        assert_eq!(written(Duration::from_secs(3_600)), 500);
    }
}
