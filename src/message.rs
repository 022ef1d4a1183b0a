//! Application Messages: as they come in (a run of borrowed PUBLISH packets) and as they are kept.
//!
//! `net` gathers a [`Run`], `broker` routes it, `session` delivers it. What is queued, retained or in flight for
//! a session that outlives its connection is a [`Message`]: one right-sized allocation, shared by all who hold
//! it, never a slice of a read buffer. A message is made of a PUBLISH at most once, and only if somebody keeps it.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codec::{MessageProperties, PacketId, ProtocolVersion, Publish, QoS, Will, header_length};
use crate::topic::TopicName;

/// Names a session; unique while the broker lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionNumber(pub u64);

/// Who published a message, for No Local: a keyed hash of the Client Identifier, because a retained message is its
/// client's own also after that has come back with another session [MQTT-3.8.3-3].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publisher(pub u64);

impl Publisher {
    /// The broker itself, as the publisher of `$SYS`.
    pub const BROKER: Self = Self(0);
}

/// Payloads of at least this many bytes are referenced instead of copied, where somebody else holds them too.
pub const REFERENCE_FROM: usize = 4 * 1024;

/// Frames of at least this many bytes together are sent on in their buffer or in a copy that many share, if nothing has to
/// be changed in them: for fewer, what a reference costs is more than a copy.
pub const HOLD_FROM: usize = 1024;

/// Payloads of at least this many bytes are sent on in their buffer, each behind a head of its own. Measured: 8 KiB are
/// copied for less.
pub const HOLD_PAYLOADS_FROM: usize = 16 * 1024;

/// A kept Application Message.
#[derive(Debug)]
pub struct Message {
    /// Topic Name, forwarded properties and payload, one after the other.
    data: Box<[u8]>,
    properties_length: u32,
    topic_length: u16,
    /// As published; a subscriber gets at most this.
    pub qos: QoS,
    /// RETAIN as published.
    pub retain: bool,
    /// When it must not be delivered any more [MQTT-3.3.2-5].
    pub expires_at: Option<Instant>,
    /// Who published it.
    pub publisher: Publisher,
}

/// What is left of a Message Expiry Interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// The publisher set none.
    Never,
    /// Seconds left, rounded up, so that a message delivered at once bears what its publisher set.
    Left(u32),
    /// It has passed.
    Expired,
}

impl Message {
    /// Copies what a PUBLISH holds. `topic` is the checked topic, its alias resolved.
    pub fn keep(topic: &TopicName, publish: &Publish<'_>, publisher: Publisher, now: Instant) -> Arc<Self> {
        let properties = &publish.properties;
        let expires_at = properties.message_expiry_interval.and_then(|seconds| expiry_of(seconds, now));
        let flags = (publish.qos, publish.retain);
        Arc::new(Self::build(topic, properties, publish.payload, flags, publisher, expires_at))
    }

    /// The message a Will becomes when it is published; its expiry, which counts from then, is set by the caller.
    pub fn of_will(topic: &TopicName, will: &Will<'_>, publisher: Publisher) -> Self {
        Self::build(topic, &will.properties, will.payload, (will.qos, will.retain), publisher, None)
    }

    /// A message of the broker's own.
    pub fn own(topic: &TopicName, payload: &[u8], qos: QoS, retain: bool) -> Arc<Self> {
        let properties = MessageProperties::default();
        Arc::new(Self::build(topic, &properties, payload, (qos, retain), Publisher::BROKER, None))
    }

    fn build(
        topic: &TopicName,
        properties: &MessageProperties<'_>,
        payload: &[u8],
        (qos, retain): (QoS, bool),
        publisher: Publisher,
        expires_at: Option<Instant>,
    ) -> Self {
        let topic = topic.as_str().as_bytes();
        let mut data = Vec::with_capacity(topic.len() + properties.raw.len() + payload.len());
        data.extend_from_slice(topic);
        properties.append_forwarded(&mut data);
        let properties_length = data.len() - topic.len();
        data.extend_from_slice(payload);
        Self {
            data: data.into_boxed_slice(),
            properties_length: properties_length as u32,
            topic_length: topic.len() as u16,
            qos,
            retain,
            expires_at,
            publisher,
        }
    }

    /// A message that was kept elsewhere: a checked Topic Name, encoded properties and a payload; QoS and RETAIN.
    pub fn restore(
        (topic, properties, payload): (&str, &[u8], &[u8]),
        (qos, retain): (QoS, bool),
        publisher: Publisher,
        expires_at: Option<Instant>,
    ) -> Self {
        Self {
            data: [topic.as_bytes(), properties, payload].concat().into_boxed_slice(),
            properties_length: properties.len() as u32,
            topic_length: topic.len() as u16,
            qos,
            retain,
            expires_at,
            publisher,
        }
    }

    /// The Topic Name.
    pub fn topic(&self) -> &TopicName {
        // The bytes were copied from a `TopicName` and never change, so the fallback is never taken.
        TopicName::assume_checked(std::str::from_utf8(self.topic_bytes()).unwrap_or_default())
    }

    /// The bytes of the Topic Name: for writing it, as [`Message::topic`] has to look at them first.
    pub fn topic_bytes(&self) -> &[u8] {
        &self.data[..usize::from(self.topic_length)]
    }

    /// The properties that travel with the message, encoded, in the order the publisher sent them
    /// [MQTT-3.3.2-17], [MQTT-3.3.2-18]; without Message Expiry Interval, Topic Alias and Subscription Identifier.
    pub fn properties(&self) -> &[u8] {
        let start = usize::from(self.topic_length);
        &self.data[start..start + self.properties_length as usize]
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.data[usize::from(self.topic_length) + self.properties_length as usize..]
    }

    /// What the message costs in memory, in bytes; what queues and the retained tree count.
    pub fn cost(&self) -> u64 {
        Self::cost_of(self.data.len())
    }

    /// [`Message::cost`] of a message whose topic, properties and payload have this length together.
    pub fn cost_of(length: usize) -> u64 {
        (length + size_of::<Self>() + 2 * size_of::<usize>()) as u64
    }

    /// What is left of its expiry interval [MQTT-3.3.2-6].
    pub fn expiry(&self, now: Instant) -> Expiry {
        match self.expires_at {
            None => Expiry::Never,
            Some(at) if at <= now => Expiry::Expired,
            Some(at) => {
                let left = at.duration_since(now);
                let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                // A clock that was set back may have left more than there ever was.
                Expiry::Left(u32::try_from(seconds).unwrap_or(u32::MAX))
            }
        }
    }
}

/// Reads a byte at both ends of each message, one read waiting for no other: what is in no cache of the processor's comes
/// many at a time. With a million retained messages that takes an eighth to a third off what a replay costs.
pub fn fetch_ahead<'m>(messages: impl Iterator<Item = &'m Arc<Message>>) {
    for message in messages {
        let ends = (message.topic_bytes().first().copied(), message.payload().last().copied());
        std::hint::black_box(ends);
    }
}

fn expiry_of(seconds: u32, now: Instant) -> Option<Instant> {
    now.checked_add(Duration::from_secs(seconds.into()))
}

/// One PUBLISH of a run.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The packet.
    pub publish: Publish<'a>,
    /// Its bytes from the fixed header on; a slice of the run's.
    pub frame: &'a [u8],
    /// The place of its topic among the run's.
    pub topic: u8,
    /// What became of it: some of the bits below.
    fate: Cell<u8>,
    kept: OnceCell<Arc<Message>>,
}

const REJECTED: u8 = 1;
const REFUSED: u8 = 2;
const UNMATCHED: u8 = 4;

impl<'a> Incoming<'a> {
    /// A packet that nobody has kept yet, to the first of the run's topics.
    pub fn new(publish: Publish<'a>, frame: &'a [u8]) -> Self {
        Self::of_topic(0, publish, frame)
    }

    /// The same, to the topic at this place of the run's.
    #[inline]
    pub fn of_topic(topic: u8, publish: Publish<'a>, frame: &'a [u8]) -> Self {
        Self { publish, frame, topic, fate: Cell::new(0), kept: OnceCell::new() }
    }

    /// Where in the frame the topic ends, and with QoS 1 and 2 the Packet Identifier begins.
    #[inline]
    pub fn behind_topic(&self) -> usize {
        header_length(self.frame.len()) + 2 + self.publish.topic.len()
    }

    /// Notes that a subscriber's queue had no room for it and the publisher is to hear of it.
    pub fn reject(&self) {
        self.fate.set(self.fate.get() | REJECTED);
    }

    /// Notes that it goes nowhere, because the store cannot keep it now.
    pub fn refuse(&self) {
        self.fate.set(self.fate.get() | REFUSED);
    }

    /// Notes that nobody subscribes to its topic.
    pub fn note_unmatched(&self) {
        self.fate.set(self.fate.get() | UNMATCHED);
    }

    /// Whether nobody subscribes to its topic.
    pub fn is_unmatched(&self) -> bool {
        self.fate.get() & UNMATCHED != 0
    }

    /// Whether it goes nowhere, because the store cannot keep it now.
    pub fn is_refused(&self) -> bool {
        self.fate.get() & REFUSED != 0
    }

    /// Whether the publisher is to be told that there was no room.
    pub fn is_rejected(&self) -> bool {
        self.fate.get() & REJECTED != 0
    }
}

/// The frames of a plain run as one subscriber got them, for others who get the same: with QoS 1 and 2 those whose next
/// identifier is the same, as it is with all who got the same messages since they connected.
#[derive(Debug, Default)]
pub struct SharedCopy {
    last: RefCell<Option<Numbered>>,
}

/// Frames with identifiers from `first` on, without any in QoS 0; if they were made.
#[derive(Debug)]
struct Numbered {
    first: Option<PacketId>,
    frames: Option<Arc<Vec<u8>>>,
}

impl SharedCopy {
    /// The frames, their identifiers from `first` on, made for the second in a row who asks for them. `None` for the first,
    /// as there may be no other.
    pub fn get(&self, first: Option<PacketId>, make: impl FnOnce() -> Vec<u8>) -> Option<Arc<Vec<u8>>> {
        let last = self.last.take().filter(|last| last.first == first);
        let frames = last.map(|last| last.frames.unwrap_or_else(|| Arc::new(make())));
        self.last.replace(Some(Numbered { first, frames: frames.clone() }));
        frames
    }
}

/// Topics that the messages of a run have at most.
pub const TOPICS_OF_A_RUN: usize = 16;

/// Consecutive PUBLISH packets of one client, out of one read: to one topic, or to several with the same flags.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// What the publisher speaks.
    pub version: ProtocolVersion,
    /// The topics they have, checked: at least one, and at most [`TOPICS_OF_A_RUN`].
    pub topics: &'a [Cow<'a, str>],
    /// At least one.
    pub messages: &'a [Incoming<'a>],
    /// When they were read.
    pub now: Instant,
    /// Who sent them.
    pub publisher: Publisher,
    /// The publisher's session, if the store keeps which QoS 2 messages it has received.
    pub publisher_session: Option<SessionNumber>,
    /// All frames are of one QoS, without DUP, RETAIN or a Topic Alias, and lie one behind the other in these bytes: a
    /// subscriber of the same version can have them as they are, but for identifiers.
    pub plain: Option<&'a [u8]>,
    /// What the frames were read into, if that may be held by whoever sends them on.
    pub buffer: Option<&'a Arc<Vec<u8>>>,
    /// The copy of a plain run that its subscribers share, if there are many.
    pub copy: Option<&'a SharedCopy>,
    /// The longest frame of the run, in bytes.
    pub longest_frame: usize,
    /// All payloads together, in bytes.
    pub payload_bytes: usize,
}

impl<'a> Run<'a> {
    /// The topic of one of its messages, an alias resolved.
    pub fn topic(&self, incoming: &Incoming<'_>) -> &'a TopicName {
        let topic = self.topics.get(usize::from(incoming.topic)).map_or("", |topic| &**topic);
        TopicName::assume_checked(topic)
    }

    /// The kept form of one of the run's messages, made when it is first asked for.
    pub fn keep<'m>(&self, incoming: &'m Incoming<'_>) -> &'m Arc<Message> {
        let keep = || Message::keep(self.topic(incoming), &incoming.publish, self.publisher, self.now);
        incoming.kept.get_or_init(keep)
    }

    /// The buffer of a plain run, if subscribers had better hold that than have copies: it is pinned as a whole, so the run
    /// has to be half of it.
    pub fn held_whole(&self) -> Option<&'a Arc<Vec<u8>>> {
        let length = self.plain.map_or(0, <[u8]>::len);
        self.buffer.filter(|buffer| length >= HOLD_FROM.max(buffer.capacity() / 2))
    }

    /// The buffer, if subscribers that take all of the run had better hold that than have copies of its payloads.
    pub fn held_payloads(&self) -> Option<&'a Arc<Vec<u8>>> {
        let are_large = self.payload_bytes >= self.messages.len() * HOLD_PAYLOADS_FROM;
        self.buffer.filter(|buffer| are_large && self.payload_bytes >= buffer.capacity() / 2)
    }

    /// Whether the identifier of one of its QoS 2 messages is free again at once: the publisher hears of an error
    /// [MQTT-4.3.3-9], or in 3.x, which has none in a PUBREC, nothing.
    pub fn is_given_back(&self, incoming: &Incoming<'_>) -> bool {
        incoming.is_refused() || incoming.is_rejected() && self.version == ProtocolVersion::V5
    }

    /// Some of its messages, before which its frames have so many bytes.
    pub fn part(&self, messages: &'a [Incoming<'a>], start: usize) -> Self {
        let (mut length, mut longest_frame, mut payload_bytes) = (0, 0, 0);
        for incoming in messages {
            length += incoming.frame.len();
            longest_frame = longest_frame.max(incoming.frame.len());
            payload_bytes += incoming.publish.payload.len();
        }
        let plain = self.plain.and_then(|bytes| bytes.get(start..start + length));
        Self { messages, plain, longest_frame, payload_bytes, ..*self }
    }
}
