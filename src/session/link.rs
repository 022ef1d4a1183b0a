//! What a session knows of its live connection: how to write to it, and how to wake it.
//!
//! Owner: [`super::Session`]. Made by `broker` when a CONNECT is accepted, gone when the connection is.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::aliases::OutgoingAliases;
use super::outbox::Outbox;
use crate::codec::{PacketId, ProtocolVersion};

/// Names one connection among all of a broker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Why the broker wants a connection to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Another connection took the session over [MQTT-3.1.4-3].
    TakenOver,
    /// Nothing came for one and a half times the Keep Alive [MQTT-3.1.2-22].
    KeepAliveTimeout,
    /// It has read nothing for `limits.write_timeout`.
    WriteTimeout,
    /// What its client proved has expired.
    Expired,
    /// Its client is no longer one that may be connected.
    NotAuthorized,
    /// The broker stops.
    ServerShuttingDown,
    /// The broker stops and waits no longer: nothing more is written.
    Aborted,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    /// Which connection.
    pub id: LinkId,
    /// What it speaks.
    pub version: ProtocolVersion,
    /// What the client accepts at most, in bytes [MQTT-3.1.2-24]; `u32::MAX` if it did not say.
    pub maximum_packet_size: u32,
    /// The smaller of the client's Receive Maximum and our own bound.
    pub window: u16,
    /// Our aliases, if the client takes any.
    pub aliases: Option<Box<OutgoingAliases>>,
    /// Where frames gather.
    pub outbox: Outbox,
    /// Wakes the connection's task.
    pub waker: Waker,
    /// The waker was handed out since the connection last took the outbox.
    pub scheduled: bool,
    /// The connection is to end.
    pub close: Option<Close>,
    /// When a packet last came in, or the connection was made: in milliseconds of a clock of the caller's that may begin
    /// anew.
    pub last_packet: u32,
    /// How long nothing may come in, in milliseconds: one and a half times the Keep Alive.
    pub silence_allowed: Option<NonZeroU32>,
    /// What its socket has not taken yet, if there is something.
    pub blocked: Option<Box<Blocked>>,
    /// A deadline looks at `blocked`.
    pub watched: bool,
    /// In flight from before this connection and not sent again yet.
    pub to_resend: u16,
    /// In flight, and in the outbox since it was last taken: the client cannot have seen them.
    pub untaken: u16,
    /// In flight and not sent yet, because the store has not committed it: in the order of sending.
    pub gated: Option<Box<VecDeque<PacketId>>>,
}

/// Bytes taken from the outbox and not written yet.
#[derive(Debug, Clone, Copy)]
pub struct Blocked {
    unwritten: usize,
    /// When writing last made progress.
    since: Instant,
}

impl Link {
    /// Notes how many bytes that were taken from the outbox are not written yet, and whether some were since it was
    /// last told.
    pub fn note_unwritten(&mut self, unwritten: usize, wrote: bool, now: Instant) {
        match &mut self.blocked {
            _ if unwritten == 0 => self.blocked = None,
            Some(blocked) => {
                blocked.unwritten = unwritten;
                if wrote {
                    blocked.since = now;
                }
            }
            None => self.blocked = Some(Box::new(Blocked { unwritten, since: now })),
        }
    }

    /// Since when writing has made no progress, while there is something to write.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked.as_ref().map(|blocked| blocked.since)
    }

    /// How long nothing may come in.
    pub fn silence_allowed(&self) -> Option<Duration> {
        self.silence_allowed.map(|milliseconds| Duration::from_millis(milliseconds.get().into()))
    }

    /// Bytes on their way to the client.
    pub fn pending(&self) -> usize {
        self.outbox.len() + self.blocked.as_ref().map_or(0, |blocked| blocked.unwritten)
    }

    /// Notes that the connection has something to do; its waker, if it is not under way already.
    #[must_use = "the connection sleeps until it is woken"]
    pub fn schedule(&mut self) -> Option<Waker> {
        if std::mem::replace(&mut self.scheduled, true) { None } else { Some(self.waker.clone()) }
    }

    /// Asks the connection to end, unless it was asked before; nothing waits for a connection that is aborted.
    #[must_use = "the connection sleeps until it is woken"]
    pub fn request_close(&mut self, close: Close) -> Option<Waker> {
        if close == Close::Aborted {
            self.close = Some(close);
        } else {
            self.close.get_or_insert(close);
        }
        // Woken even if it was scheduled: one that waits for its socket does not look at what is scheduled.
        self.scheduled = true;
        Some(self.waker.clone())
    }
}
