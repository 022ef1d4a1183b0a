//! The run that is being gathered: consecutive PUBLISH packets of one read.
//!
//! Owner: [`Inbound`](super::inbound::Inbound), which adds packet after packet and routes the run when something else comes.
//! What always holds: the frames of a plain run lie one behind the other in the input; only a plain run has several
//! topics. Those it has seen are looked at once: clients that publish to some topics in turn do so in the same order.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::auth::acl::Decision;
use crate::codec::{MessageProperties, PacketId, ProtocolVersion, Publish, QoS};
use crate::message::{Incoming, TOPICS_OF_A_RUN};

/// See the module.
#[derive(Debug, Default)]
pub struct Gathering<'a> {
    /// The topics of its messages, checked.
    pub topics: SmallVec<[Cow<'a, str>; 1]>,
    /// What is known of each of them.
    known: SmallVec<[Known<'a>; 1]>,
    /// The place of the last packet's.
    current: usize,
    /// How the next packet is likely to begin, and the place of its topic.
    expected: Option<(Head<'a>, usize)>,
    /// Its messages, in order.
    pub messages: Vec<Incoming<'a>>,
    /// Some of its messages are to be acknowledged.
    pub is_owed: bool,
    /// Some of its messages have QoS 2.
    pub exactly_once: bool,
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

/// What is known of one of its topics.
#[derive(Debug)]
struct Known<'a> {
    /// What the client may publish there.
    permit: Decision,
    /// How a packet to it began.
    head: Option<Head<'a>>,
    /// The place of the topic that came behind it the last time.
    next: usize,
}

/// A packet's first byte, and its topic with the length before it: what begins so again needs no second look, as its
/// client may publish so there.
#[derive(Debug, Clone, Copy)]
struct Head<'a> {
    first_byte: u8,
    topic: &'a [u8],
}

impl Head<'_> {
    fn begins(&self, first_byte: u8, body: &[u8]) -> bool {
        self.first_byte == first_byte && body.starts_with(self.topic)
    }
}

/// A list of a run that has grown longer than this is not kept.
const LONGEST_KEPT_RUN: usize = 8 * 1024;

impl<'a> Gathering<'a> {
    /// Nothing yet, with the room of an empty list.
    pub fn new(messages: Vec<Incoming<'a>>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// Forgets its messages, and the topics but the last.
    pub fn clear(&mut self) {
        self.messages.clear();
        (self.is_owed, self.exactly_once) = (false, false);
        (self.longest_frame, self.payload_bytes) = (0, 0);
        if self.topics.len() > 1 {
            self.topics.swap(0, self.current);
            self.known.swap(0, self.current);
            self.topics.truncate(1);
            self.known.truncate(1);
            self.current = 0;
            self.known.iter_mut().for_each(|known| known.next = 0);
            self.expect();
        }
    }

    /// The topic of the packet that is being added, and what its client may publish there.
    pub fn current(&self) -> (&str, Decision) {
        let topic = self.topics.get(self.current).map_or("", |topic| &**topic);
        (topic, self.known.get(self.current).map(|known| known.permit).unwrap_or_default())
    }

    /// The place of a topic that is known.
    pub fn place_of(&self, topic: &[u8]) -> Option<usize> {
        let is_it = |place: &usize| self.topics.get(*place).is_some_and(|known| known.as_bytes() == topic);
        Some(self.current).filter(is_it).or_else(|| (0..self.topics.len()).find(is_it))
    }

    /// Whether a message may be added, whose topic has this place or is new: if not, what there is goes first.
    pub fn takes(&self, place: Option<usize>, publish: &Publish<'_>) -> bool {
        let is_one = place == Some(self.current) && self.topics.len() == 1;
        let has_room = place.is_some() || self.topics.len() < TOPICS_OF_A_RUN;
        is_one || self.messages.is_empty() || has_room && self.plain && self.keeps_plain(publish)
    }

    /// Adds a topic; its place.
    pub fn add_topic(&mut self, topic: Cow<'a, str>, permit: Decision) -> usize {
        if self.messages.is_empty() {
            self.topics.clear();
            self.known.clear();
            (self.current, self.expected) = (0, None);
        }
        let place = self.topics.len();
        self.topics.push(topic);
        self.known.push(Known { permit, head: None, next: place });
        place
    }

    /// The next packet has the topic at this place.
    #[inline]
    pub fn turn_to(&mut self, place: usize) {
        if place != self.current {
            if let Some(known) = self.known.get_mut(self.current) {
                known.next = place;
            }
            self.current = place;
            self.expect();
        }
    }

    /// Looks up what is likely to come next.
    fn expect(&mut self) {
        let next = self.known.get(self.current).map(|known| known.next);
        self.expected = next.and_then(|next| Some((self.known.get(next)?.head?, next)));
    }

    /// Decodes a PUBLISH that differs from one that was added in its identifier and payload alone, if it is one that
    /// may be added.
    #[inline]
    pub fn decode_next(
        &mut self,
        version: ProtocolVersion,
        first_byte: u8,
        body: &'a [u8],
    ) -> Option<Publish<'a>> {
        let (head, place) = match self.expected {
            Some((head, place)) if head.begins(first_byte, body) => (head, place),
            _ => self.known.iter().enumerate().find_map(|(place, known)| {
                known.head.filter(|head| head.begins(first_byte, body)).map(|head| (head, place))
            })?,
        };
        let rest = body.get(head.topic.len()..)?;
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
        let topic = head.topic.get(2..)?;
        let properties = MessageProperties::default();
        let publish = Publish { dup, qos, retain, topic, packet_id, properties, payload };
        if place != self.current || self.topics.len() > 1 {
            if !self.takes(Some(place), &publish) {
                return None;
            }
            self.turn_to(place);
        }
        Some(publish)
    }

    /// Whether a message leaves a plain run plain.
    fn keeps_plain(&self, publish: &Publish<'_>) -> bool {
        let qos = self.messages.first().map_or(publish.qos, |first| first.publish.qos);
        publish.qos == qos && !publish.dup && !publish.retain && publish.properties.topic_alias.is_none()
    }

    /// Adds a message, whose frame is at this position of the input.
    pub fn push(&mut self, publish: Publish<'a>, frame: &'a [u8], position: usize) {
        if self.messages.is_empty() {
            self.start = position;
            self.plain = true;
        }
        self.plain &= self.keeps_plain(&publish);
        self.is_owed |= publish.packet_id.is_some();
        self.exactly_once |= publish.qos == QoS::ExactlyOnce;
        self.longest_frame = self.longest_frame.max(frame.len());
        self.payload_bytes += publish.payload.len();
        self.end = position + frame.len();
        self.messages.push(Incoming::of_topic(self.current as u8, publish, frame));
    }

    /// Notes how the packet that was just added began.
    pub fn note_head(&mut self) {
        let Some(last) = self.messages.last().filter(|last| last.publish.properties.topic_alias.is_none())
        else {
            return;
        };
        let end = last.behind_topic();
        let topic = last.frame.get(end - 2 - last.publish.topic.len()..end);
        if let Some(known) = self.known.get_mut(self.current) {
            let head = last.frame.first().zip(topic);
            known.head = head.map(|(first_byte, topic)| Head { first_byte: *first_byte, topic });
        }
        self.expect();
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

    const V4: ProtocolVersion = ProtocolVersion::V3_1_1;

    /// Adds a packet that is not known; its topic is not either.
    fn add<'a>(run: &mut Gathering<'a>, topic: &'a str, frame: &'a [u8]) {
        let place = run.add_topic(Cow::Borrowed(topic), Decision::FREE);
        run.turn_to(place);
        run.push(decode_publish(V4, frame[0], &frame[2..]).unwrap(), frame, 0);
        run.note_head();
    }

    #[test]
    fn topics_that_were_seen_are_known_in_turn_and_out_of_turn() {
        let frames = [*b"\x30\x04\0\x01a1", *b"\x30\x04\0\x01b2", *b"\x30\x04\0\x01c3"];
        let mut run = Gathering::default();
        for (topic, frame) in ["a", "b", "c"].into_iter().zip(&frames) {
            add(&mut run, topic, frame);
        }
        let mut places = vec![0, 1, 2];
        for place in [0, 1, 2, 2, 0, 2, 1, 1, 0, 0, 1, 2, 0] {
            let frame = &frames[place];
            let publish = run.decode_next(V4, frame[0], &frame[2..]).unwrap();
            assert_eq!(Ok(publish), decode_publish(V4, frame[0], &frame[2..]));
            run.push(publish, frame, 0);
            places.push(place);
        }
        assert!(run.messages.iter().map(|incoming| usize::from(incoming.topic)).eq(places));
        // One that has the topic but not the flags cannot be among those of several topics.
        let repeated = b"\x3A\x06\0\x01a\0\x01x";
        assert_eq!(run.decode_next(V4, repeated[0], &repeated[2..]), None);
        assert!(!run.takes(Some(0), &decode_publish(V4, repeated[0], &repeated[2..]).unwrap()));
        // Of those that went, the last is remembered.
        run.clear();
        assert_eq!(run.topics.as_slice(), ["a"]);
        assert_eq!(run.decode_next(V4, frames[1][0], &frames[1][2..]), None);
        assert!(run.decode_next(V4, frames[0][0], &frames[0][2..]).is_some());
    }

    #[test]
    fn a_run_takes_so_many_topics_and_no_more() {
        let names: Vec<String> = (0..=TOPICS_OF_A_RUN).map(|number| format!("{number:02}")).collect();
        let frames: Vec<Vec<u8>> =
            names.iter().map(|name| [b"\x30\x04\0\x02", name.as_bytes()].concat()).collect();
        let mut run = Gathering::default();
        for (name, frame) in names.iter().zip(&frames) {
            let publish = decode_publish(V4, frame[0], &frame[2..]).unwrap();
            assert_eq!(run.takes(None, &publish), run.topics.len() < TOPICS_OF_A_RUN);
            if run.takes(None, &publish) {
                add(&mut run, name, frame);
            }
        }
        assert_eq!(run.topics.len(), TOPICS_OF_A_RUN);
    }

    #[test]
    fn what_begins_like_the_packet_before_is_decoded_as_any_other() {
        for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
            let end = if version == ProtocolVersion::V5 { &b"\0"[..] } else { b"" };
            for first_byte in [0x30, 0x31, 0x32, 0x3A, 0x34, 0x3D] {
                let id = if first_byte & 0b110 == 0 { &b""[..] } else { b"\0\x07" };
                let body = [b"\0\x03a/b", id, end, b"payload"].concat();
                let frame = [&[first_byte, body.len() as u8], &body[..]].concat();
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
                let mut run = Gathering::default();
                run.add_topic(Cow::Borrowed("a/b"), Decision::FREE);
                run.push(decode_publish(version, first_byte, &body).unwrap(), &frame, 0);
                assert_eq!(run.decode_next(version, first_byte, &body), None, "nothing to compare with yet");
                run.note_head();
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
                run.clear();
                assert!(
                    run.decode_next(version, first_byte, &body).is_some(),
                    "the last topic is remembered"
                );
                run.add_topic(Cow::Borrowed("a/b"), Decision::FREE);
                assert_eq!(run.decode_next(version, first_byte, &body), None, "of another run");
            }
        }
    }
}
