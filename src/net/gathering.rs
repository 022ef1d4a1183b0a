//! The run that is being gathered: consecutive PUBLISH packets of one read to one topic.
//!
//! Owner: [`Inbound`](super::inbound::Inbound), which adds packet after packet and routes the run when something else comes.
//! What always holds: the frames of a plain run lie one behind the other in the input.

use std::borrow::Cow;
use std::sync::Arc;

use crate::auth::acl::Decision;
use crate::codec::{MessageProperties, PacketId, ProtocolVersion, Publish, QoS};
use crate::message::Incoming;

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
    /// Some of its messages are to be acknowledged.
    pub is_owed: bool,
    /// Some of its messages have QoS 2.
    pub exactly_once: bool,
    /// The last packet's first byte, and its topic with the length before it: what begins so again needs no second look.
    /// Its topic is the run's, and its client may publish so there.
    head: Option<(u8, &'a [u8])>,
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

/// A list of a run that has grown longer than this is not kept.
const LONGEST_KEPT_RUN: usize = 8 * 1024;

impl<'a> Gathering<'a> {
    /// Nothing yet, from an input that may be shared if it is `own`; with the room of an empty list.
    pub fn new(own: Option<&'a Arc<Vec<u8>>>, messages: Vec<Incoming<'a>>) -> Self {
        Self { own, messages, ..Self::default() }
    }

    /// Forgets its messages.
    pub fn clear(&mut self) {
        self.messages.clear();
        (self.is_owed, self.exactly_once) = (false, false);
        (self.longest_frame, self.payload_bytes) = (0, 0);
    }

    /// Begins with a topic, at the frame that is at this position of the input.
    pub fn begin(&mut self, topic: Cow<'a, str>, position: usize) {
        self.topic = topic;
        self.start = position;
        self.plain = true;
        self.head = None;
    }

    /// Decodes a PUBLISH that differs from the last one in its identifier and payload alone, if it is one.
    #[inline]
    pub fn decode_next(
        &self,
        version: ProtocolVersion,
        first_byte: u8,
        body: &'a [u8],
    ) -> Option<Publish<'a>> {
        let (_, head) = self.head.filter(|(first, _)| *first == first_byte)?;
        let rest = body.strip_prefix(head)?;
        let qos = match first_byte >> 1 & 0b11 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let (packet_id, rest) = match qos {
            QoS::AtMostOnce => (None, rest),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                let (packet_id, rest) = rest.split_first_chunk::<2>()?;
                (Some(PacketId::new(u16::from_be_bytes(*packet_id))?), rest)
            }
        };
        let payload = if version == ProtocolVersion::V5 { rest.strip_prefix(&[0])? } else { rest };
        let (dup, retain) = (first_byte & 0b1000 != 0, first_byte & 1 != 0);
        let topic = head.get(2..)?;
        let properties = MessageProperties::default();
        Some(Publish { dup, qos, retain, topic, packet_id, properties, payload })
    }

    /// Adds a message, whose frame is at this position of the input.
    pub fn push(&mut self, publish: Publish<'a>, frame: &'a [u8], position: usize) {
        if self.messages.is_empty() {
            self.start = position;
            self.plain = true;
        }
        let qos = self.messages.first().map_or(publish.qos, |first| first.publish.qos);
        self.plain &=
            publish.qos == qos && !publish.dup && !publish.retain && publish.properties.topic_alias.is_none();
        self.is_owed |= publish.packet_id.is_some();
        self.exactly_once |= publish.qos == QoS::ExactlyOnce;
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

    /// Notes how the packet that was just added began.
    pub fn note_head(&mut self) {
        let Some(last) = self.messages.last().filter(|last| last.publish.properties.topic_alias.is_none())
        else {
            return;
        };
        let end = last.behind_topic();
        let topic = last.frame.get(end - 2 - last.publish.topic.len()..end);
        self.head = last.frame.first().copied().zip(topic);
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
    use crate::codec::decode_publish;

    #[test]
    fn a_list_of_messages_keeps_its_room() {
        let list: Vec<Incoming<'_>> = Vec::with_capacity(100);
        let place = list.as_ptr().addr();
        let list: Vec<Incoming<'static>> = renew(list);
        assert_eq!((list.capacity(), list.as_ptr().addr()), (100, place));
    }

    #[test]
    fn what_begins_like_the_packet_before_is_decoded_as_any_other() {
        for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
            let end = if version == ProtocolVersion::V5 { &b"\0"[..] } else { b"" };
            for first_byte in [0x30, 0x31, 0x32, 0x3A, 0x34, 0x3D] {
                let id = if first_byte & 0b110 == 0 { &b""[..] } else { b"\0\x07" };
                let body = [b"\0\x03a/b", id, end, b"payload"].concat();
                let frame = [&[first_byte, body.len() as u8], &body[..]].concat();
                let mut run = Gathering::default();
                run.begin(Cow::Borrowed("a/b"), 0);
                run.push(decode_publish(version, first_byte, &body).unwrap(), &frame, 0);
                assert_eq!(run.decode_next(version, first_byte, &body), None, "nothing to compare with yet");
                run.note_head();
                let bodies = [
                    [b"\0\x03a/b", id, end, b"another"].concat(),
                    [b"\0\x03a/b", id, end].concat(),
                    [b"\0\x03a/c", id, end, b"another topic"].concat(),
                    [b"\0\x04a/bb", id, end, b"a longer one"].concat(),
                    [b"\0\x02a/", id, end, b"a shorter one"].concat(),
                    b"\0\x03a/b".to_vec(),
                    b"\0\x03a/b\0\0\0".to_vec(),
                    [b"\0\x03a/b", id, b"\x02\x01\x01", b"properties in 5.0"].concat(),
                    b"\0\x03a".to_vec(),
                ];
                let mut taken = 0;
                for next in &bodies {
                    for first in [0x30, 0x31, 0x32, 0x3A, 0x34, 0x3D] {
                        let Some(decoded) = run.decode_next(version, first, next) else { continue };
                        assert_eq!(Ok(decoded), decode_publish(version, first, next), "{next:02x?}");
                        assert_eq!((first, &next[..5]), (first_byte, &b"\0\x03a/b"[..]));
                        taken += 1;
                    }
                }
                assert!(taken >= 2, "{version:?} {first_byte:#x}: {taken}");
                run.begin(Cow::Borrowed("a/b"), 0);
                assert_eq!(run.decode_next(version, first_byte, &body), None, "of another run");
            }
        }
    }
}
