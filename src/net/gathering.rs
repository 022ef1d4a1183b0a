//! The run that is being gathered: consecutive PUBLISH packets of one read.
//!
//! Owner: [`Inbound`](super::inbound::Inbound), which adds packet after packet and routes the run when something else comes.
//! What always holds: the frames of a plain run lie one behind the other in the input; only a plain run has several
//! topics. Those it has seen are looked at once: clients that publish to some topics in turn do so in the same order.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::auth::acl::Decision;
use crate::codec::{MessageProperties, PacketId, ProtocolVersion, Publish, QoS, usual_lengths};
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
    /// With its length before it.
    topic: &'a [u8],
    /// Without.
    name: &'a [u8],
}

/// What [`Gathering::extend`] has added.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alike {
    /// Packets.
    pub packets: usize,
    /// Bytes of the input that they took.
    pub bytes: usize,
    /// Bytes of their payloads.
    pub payload_bytes: usize,
}

/// What packets may be added.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    version: ProtocolVersion,
    /// The largest packet that the client may send.
    limit: usize,
    /// So many at most.
    most: usize,
}

/// What is behind `start`, if it begins so. Eight bytes at a time, the last ones overlapping: a topic is too short for
/// a call to be worth it.
#[inline]
fn without_start<'b>(bytes: &'b [u8], start: &[u8]) -> Option<&'b [u8]> {
    let (front, behind) = bytes.split_at_checked(start.len())?;
    let is_same = match (front.last_chunk::<8>(), start.last_chunk::<8>()) {
        (Some(end), Some(end_of_start)) => {
            let (eights, _) = front.as_chunks::<8>();
            let (eights_of_start, _) = start.as_chunks::<8>();
            end == end_of_start && eights.iter().zip(eights_of_start).all(|(one, other)| one == other)
        }
        _ => front.iter().zip(start).all(|(one, other)| one == other),
    };
    is_same.then_some(behind)
}

/// Splits off the Packet Identifier, if this QoS has one.
#[inline]
fn split_packet_id(qos: QoS, bytes: &[u8]) -> Option<(Option<PacketId>, &[u8])> {
    if qos == QoS::AtMostOnce {
        return Some((None, bytes));
    }
    let (packet_id, behind) = bytes.split_first_chunk::<2>()?;
    Some((Some(PacketId::new(u16::from_be_bytes(*packet_id))?), behind))
}

/// The payload, of a packet without properties.
#[inline]
fn without_properties(version: ProtocolVersion, bytes: &[u8]) -> Option<&[u8]> {
    if version == ProtocolVersion::V5 { bytes.strip_prefix(&[0]) } else { Some(bytes) }
}

fn qos_of(first_byte: u8) -> QoS {
    match first_byte >> 1 & 0b11 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// Whether it differs from a plain message in more than its QoS.
fn is_flagged(publish: &Publish<'_>) -> bool {
    publish.dup || publish.retain || publish.properties.topic_alias.is_some()
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
        let joins = || self.plain && self.keeps_plain(publish.qos, is_flagged(publish));
        is_one || self.messages.is_empty() || has_room && joins()
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

    /// Adds the packets from a position of the input on that differ from one that was added in identifier and payload alone, up
    /// to one that is another, or is not there in full, or is larger than `limit`; `most` at most.
    pub fn extend(
        &mut self,
        version: ProtocolVersion,
        input: &'a [u8],
        position: usize,
        limit: usize,
        most: usize,
    ) -> Alike {
        let mut all = Alike::default();
        while all.packets < most {
            let position = position + all.bytes;
            // Of several topics, each is likely to come once before the next.
            let most = if self.topics.len() > 1 { 1 } else { most - all.packets };
            let bounds = Bounds { version, limit, most };
            let mut taken = match self.expected {
                Some((head, place)) => self.take_alike(head, place, input, position, bounds),
                None => Alike::default(),
            };
            if taken.packets == 0
                && let Some((head, place)) = self.find_head(input.get(position..).unwrap_or_default())
            {
                taken = self.take_alike(head, place, input, position, bounds);
            }
            if taken.packets == 0 {
                break;
            }
            all.packets += taken.packets;
            all.bytes += taken.bytes;
            all.payload_bytes += taken.payload_bytes;
        }
        all
    }

    /// Adds the packets from a position of the input on that begin like this, if they may be added.
    ///
    /// Nearly all that a busy publisher sends comes through here, so the loop has nothing but what each packet needs.
    fn take_alike(
        &mut self,
        head: Head<'a>,
        place: usize,
        input: &'a [u8],
        position: usize,
        bounds: Bounds,
    ) -> Alike {
        let mut taken = Alike::default();
        let (first_byte, is_first) = (head.first_byte, self.messages.is_empty());
        let (dup, qos, retain) = (first_byte & 0b1000 != 0, qos_of(first_byte), first_byte & 1 != 0);
        let keeps_plain = self.keeps_plain(qos, dup || retain);
        let is_alone = place == self.current && self.topics.len() == 1;
        if !(is_alone || is_first || self.plain && keeps_plain) {
            return taken;
        }
        let mut longest_frame = self.longest_frame;
        while taken.packets < bounds.most
            && let Some(rest) = input.get(position + taken.bytes..)
            && let Some((header_length, remaining_length)) = usual_lengths(rest)
            && let Some((frame, _)) = rest.split_at_checked(header_length + remaining_length)
            && frame.len() <= bounds.limit
            && frame.first() == Some(&first_byte)
            && let Some(behind) = frame.get(header_length..).and_then(|body| without_start(body, head.topic))
            && let Some((packet_id, behind)) = split_packet_id(qos, behind)
            && let Some(payload) = without_properties(bounds.version, behind)
        {
            longest_frame = longest_frame.max(frame.len());
            taken.packets += 1;
            taken.bytes += frame.len();
            taken.payload_bytes += payload.len();
            let (topic, properties) = (head.name, MessageProperties::default());
            let publish = Publish { dup, qos, retain, topic, packet_id, properties, payload };
            self.messages.push(Incoming::of_topic(place as u8, publish, frame));
        }
        if taken.packets > 0 {
            if is_first {
                self.start = position;
            }
            self.plain = keeps_plain && (is_first || self.plain);
            self.is_owed |= qos != QoS::AtMostOnce;
            self.exactly_once |= qos == QoS::ExactlyOnce;
            self.longest_frame = longest_frame;
            self.payload_bytes += taken.payload_bytes;
            self.end = position + taken.bytes;
            self.turn_to(place);
        }
        taken
    }

    /// How one that was added began, if the packet at the start of this begins like it, and the place of its topic.
    fn find_head(&self, input: &[u8]) -> Option<(Head<'a>, usize)> {
        let (header_length, _) = usual_lengths(input)?;
        let (first_byte, body) = (*input.first()?, input.get(header_length..)?);
        let begins = |head: &Head<'_>| head.first_byte == first_byte && body.starts_with(head.topic);
        self.known
            .iter()
            .enumerate()
            .find_map(|(place, known)| known.head.filter(begins).map(|head| (head, place)))
    }

    /// Whether a message with this QoS leaves a plain run plain; `is_flagged`: it has DUP or RETAIN.
    fn keeps_plain(&self, qos: QoS, is_flagged: bool) -> bool {
        !is_flagged && self.messages.first().is_none_or(|first| first.publish.qos == qos)
    }

    /// Adds a message, whose frame is at this position of the input.
    pub fn push(&mut self, publish: Publish<'a>, frame: &'a [u8], position: usize) {
        let keeps_plain = self.keeps_plain(publish.qos, is_flagged(&publish));
        if self.messages.is_empty() {
            self.start = position;
            self.plain = true;
        }
        self.plain &= keeps_plain;
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
            known.head =
                head.map(|(&first_byte, topic)| Head { first_byte, topic, name: last.publish.topic });
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

    /// Adds a packet if it begins like one that was added.
    fn extend<'a>(run: &mut Gathering<'a>, version: ProtocolVersion, frame: &'a [u8]) -> Option<Publish<'a>> {
        let before = run.messages.len();
        let alike = run.extend(version, frame, 0, frame.len(), 1);
        assert_eq!(run.messages.len(), before + alike.packets);
        let last = run.messages.last().filter(|_| alike.packets == 1)?;
        assert_eq!((alike.bytes, alike.payload_bytes), (frame.len(), last.publish.payload.len()));
        assert_eq!(last.frame, frame);
        Some(last.publish)
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
            let publish = extend(&mut run, V4, frame).unwrap();
            assert_eq!(Ok(publish), decode_publish(V4, frame[0], &frame[2..]));
            places.push(place);
        }
        assert!(run.messages.iter().map(|incoming| usize::from(incoming.topic)).eq(places));
        // One that has the topic but not the flags cannot be among those of several topics.
        let repeated = b"\x3A\x06\0\x01a\0\x01x";
        assert_eq!(extend(&mut run, V4, repeated), None);
        assert!(!run.takes(Some(0), &decode_publish(V4, repeated[0], &repeated[2..]).unwrap()));
        // Of those that went, the last is remembered.
        run.clear();
        assert_eq!(run.topics.as_slice(), ["a"]);
        assert_eq!(extend(&mut run, V4, &frames[1]), None);
        assert!(extend(&mut run, V4, &frames[0]).is_some());
    }

    #[test]
    fn it_is_extended_up_to_a_packet_that_is_another_or_too_large_or_not_there_in_full() {
        let frame = *b"\x32\x09\0\x03a/b\0\x01pp";
        let numbered = |number: u8| [&frame[..8], &[number], b"pp"].concat();
        let alike = [numbered(1), numbered(2), numbered(3)].concat();
        let ends = [
            b"\x32\x09\0\x03a/c\0\x01pp".to_vec(),
            b"\x30\x09\0\x03a/bpppp".to_vec(),
            b"\x3A\x09\0\x03a/b\0\x04pp".to_vec(),
            b"\x40\x02\0\x01".to_vec(),
            numbered(0),
            numbered(4)[..10].to_vec(),
            b"\x32\x0A\0\x03a/b\0\x04ppp".to_vec(),
            b"\x32".to_vec(),
            Vec::new(),
        ];
        for end in ends {
            let input = [&frame[..], &alike, &end].concat();
            let mut run = Gathering::default();
            add(&mut run, "a/b", &frame);
            let alike = run.extend(V4, &input, frame.len(), frame.len(), usize::MAX);
            assert_eq!(
                (alike.packets, alike.bytes, alike.payload_bytes),
                (3, 3 * frame.len(), 6),
                "{end:02x?}"
            );
            assert!(run.plain && run.is_owed && !run.exactly_once);
            assert_eq!((run.start, run.end), (0, 4 * frame.len()));
            assert_eq!((run.longest_frame, run.payload_bytes), (frame.len(), 8));
            let ids: Vec<_> = run.messages.iter().filter_map(|incoming| incoming.publish.packet_id).collect();
            assert_eq!(ids.iter().map(|id| id.get()).collect::<Vec<_>>(), [1, 1, 2, 3]);
        }
        let mut run = Gathering::default();
        add(&mut run, "a/b", &frame);
        let most = run.extend(V4, &alike, 0, frame.len(), 2);
        assert_eq!((most.packets, run.messages.len()), (2, 3));
    }

    #[test]
    fn a_start_is_compared_whatever_its_length() {
        let text: Vec<u8> = (0..40).collect();
        for length in 0..=text.len() {
            let start = &text[..length];
            assert_eq!(without_start(&text, start), Some(&text[length..]));
            assert_eq!(
                without_start(&text[..length], &text),
                if length == 40 { Some(&[][..]) } else { None }
            );
            for index in 0..length {
                let mut other = start.to_vec();
                other[index] ^= 1;
                assert_eq!(without_start(&text, &other), None, "{length} {index}");
            }
        }
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
                let framed = |first: u8, body: &[u8]| [&[first, body.len() as u8], body].concat();
                let frame = framed(first_byte, &body);
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
                let others: Vec<Vec<u8>> = [0x30, 0x31, 0x32, 0x3A, 0x34, 0x3D]
                    .into_iter()
                    .flat_map(|first| bodies.iter().map(move |body| framed(first, body)))
                    .collect();
                let mut run = Gathering::default();
                run.add_topic(Cow::Borrowed("a/b"), Decision::FREE);
                run.push(decode_publish(version, first_byte, &body).unwrap(), &frame, 0);
                assert_eq!(extend(&mut run, version, &frame), None, "nothing to compare with yet");
                run.note_head();
                let mut taken = 0;
                for other in &others {
                    let Some(decoded) = extend(&mut run, version, other) else { continue };
                    assert_eq!(Ok(decoded), decode_publish(version, other[0], &other[2..]), "{other:02x?}");
                    assert_eq!((other[0], &other[2..7]), (first_byte, &b"\0\x03a/b"[..]));
                    taken += 1;
                }
                assert!(taken >= 2, "{version:?} {first_byte:#x}: {taken}");
                run.clear();
                assert!(extend(&mut run, version, &frame).is_some(), "the last topic is remembered");
                run.clear();
                run.add_topic(Cow::Borrowed("a/b"), Decision::FREE);
                assert_eq!(extend(&mut run, version, &frame), None, "of another run");
            }
        }
    }
}
