//! The durable store's seam: what the broker's verbs append, and what acknowledgements wait for.
//!
//! Called by `broker` (append) and `net` (an acknowledgement is held back until the commit sequence it waits for is
//! reached). What always holds: sequences grow; once [`Store::committed`] has reached a sequence, everything
//! appended up to it survives what the store promises to survive. The store knows records, not MQTT flow.

mod memory;

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

pub use memory::MemoryStore;

use crate::codec::{PacketId, SubscriptionOptions};
use crate::message::{Message, SessionNumber};

/// A position in the order of appends. Zero: nothing to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CommitSeq(pub u64);

/// One thing to be kept.
#[derive(Debug, Clone, Copy)]
pub enum Record<'a> {
    /// A message that sessions which outlive their connections must get. One message, however many get it.
    Queued {
        /// The message.
        message: &'a Arc<Message>,
        /// Who gets it.
        recipients: &'a [SessionNumber],
    },
    /// The message is its topic's retained one from now on.
    Retained {
        /// The message.
        message: &'a Arc<Message>,
    },
    /// The topic has no retained message any more.
    Forgotten {
        /// The Topic Name.
        topic: &'a str,
    },
    /// A session that outlives its connection exists, with this image.
    Session {
        /// Its number.
        number: SessionNumber,
        /// Its Client Identifier.
        client_id: &'a str,
        /// How long it outlives its connection; `None`: for ever.
        expiry: Option<Duration>,
    },
    /// The session has ended; nothing of it is to be kept.
    SessionEnded {
        /// Its number.
        number: SessionNumber,
    },
    /// The session has this subscription; a second one with the same filter replaces the first.
    Subscribed {
        /// The session's number.
        number: SessionNumber,
        /// The filter as it was sent, `$share/…` included.
        filter: &'a str,
        /// The options granted.
        options: SubscriptionOptions,
        /// The Subscription Identifier; 0: none.
        identifier: u32,
    },
    /// The session's subscription has ended.
    Unsubscribed {
        /// The session's number.
        number: SessionNumber,
        /// The filter as it was sent.
        filter: &'a str,
    },
    /// A QoS 2 PUBLISH of the session's client came; it must not be delivered again [MQTT-4.3.3-10].
    Received {
        /// The session's number.
        number: SessionNumber,
        /// Under this identifier.
        packet_id: PacketId,
    },
    /// The client released the identifier.
    Released {
        /// The session's number.
        number: SessionNumber,
        /// The identifier.
        packet_id: PacketId,
    },
}

/// See the module.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Takes a record; returns at once with the sequence whose commit includes it.
    fn append(&self, record: Record<'_>) -> CommitSeq;

    /// The highest sequence that is committed.
    fn committed(&self) -> CommitSeq;

    /// Wakes once the sequence is committed; at once if it is already. A waker may be woken more than once.
    fn wake_when_committed(&self, sequence: CommitSeq, waker: &Waker);
}
