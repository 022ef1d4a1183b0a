//! The run that is being gathered: consecutive PUBLISH packets of one read to one topic, and what is owed for them.
//!
//! Owner: [`Inbound`](super::inbound::Inbound), which adds packet after packet and routes the run when something else comes.
//! What always holds: the frames of a plain run lie one behind the other in the input.

use std::borrow::Cow;
use std::sync::Arc;

use crate::auth::acl::Decision;
use crate::codec::{AckKind, PacketId, Publish, QoS};
use crate::message::Incoming;
use crate::store::{CommitSeq, Transaction};

/// See the module.
#[derive(Debug, Default)]
pub struct Gathering<'a> {
    /// Its topic, checked.
    pub topic: Cow<'a, str>,
    /// Its messages, in order.
    pub messages: Vec<Incoming<'a>>,
    /// What the input is in, if that may be shared.
    pub own: Option<&'a Arc<Vec<u8>>>,
    /// What its client may publish there.
    pub permit: Decision,
    /// Acknowledgements owed for it, in order, and for what.
    pub owed: Vec<(AckKind, PacketId, Owed)>,
    /// Reserved, if the session has taken note of a QoS 2 message in it.
    pub transaction: Option<Transaction>,
    /// Where the first frame begins in the input.
    pub start: usize,
    /// Where the last one ends.
    pub end: usize,
    /// Every frame can be passed on as it is.
    pub plain: bool,
    /// The longest frame, in bytes.
    pub longest_frame: usize,
    /// All payloads together, in bytes.
    pub payload_bytes: usize,
}

/// What an acknowledgement is owed for.
#[derive(Debug, Clone, Copy)]
pub enum Owed {
    /// A message of the run, by its index.
    Message(usize),
    /// One that was routed before; what commits that.
    Repetition(CommitSeq),
    /// One that goes nowhere, as its client may not publish it.
    Denied,
}

/// A list of a run that has grown longer than this is not kept.
const LONGEST_KEPT_RUN: usize = 8 * 1024;

impl<'a> Gathering<'a> {
    /// Begins with a topic, at the frame that is at this position of the input.
    pub fn begin(&mut self, topic: Cow<'a, str>, position: usize) {
        self.topic = topic;
        self.start = position;
        self.plain = true;
    }

    /// Adds a message, whose frame is at this position of the input.
    pub fn push(&mut self, publish: Publish<'a>, frame: &'a [u8], position: usize) {
        if self.messages.is_empty() {
            self.start = position;
            self.plain = true;
        }
        self.plain &=
            publish.qos == QoS::AtMostOnce && !publish.retain && publish.properties.topic_alias.is_none();
        self.longest_frame = self.longest_frame.max(frame.len());
        self.payload_bytes += publish.payload.len();
        self.end = position + frame.len();
        let incoming = match self.own.filter(|own| own.len() == frame.len()) {
            Some(own) => {
                self.plain = false;
                Incoming::in_own(publish, own)
            }
            None => Incoming::new(publish, frame),
        };
        self.messages.push(incoming);
    }
}

/// Empties a list and gives its room to messages of another read. Collecting in place keeps the allocation, as both
/// have the same layout; otherwise each read would let a list grow from nothing.
pub fn renew<'b>(mut messages: Vec<Incoming<'_>>) -> Vec<Incoming<'b>> {
    messages.clear();
    if messages.capacity() > LONGEST_KEPT_RUN {
        return Vec::new();
    }
    messages.into_iter().map_while(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_messages_keeps_its_room() {
        let list: Vec<Incoming<'_>> = Vec::with_capacity(100);
        let place = list.as_ptr().addr();
        let list: Vec<Incoming<'static>> = renew(list);
        assert_eq!((list.capacity(), list.as_ptr().addr()), (100, place));
    }
}
