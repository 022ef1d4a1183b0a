//! What is kept, record by record, and the bytes of each.
//!
//! Written by the broker's verbs into [`Records`], read by the store's engine. The bytes are the same in memory, in
//! frames on disk and in copies: a record is a length, a tag and its fields, numbers as variable-length integers of
//! seven bits a byte, low bits first. What always holds: what [`Records::push`] wrote, [`Records::iter`] gives back;
//! any other bytes give [`Damaged`], never a panic and never an allocation larger than the input.

mod bytes;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use self::bytes::{Reader, read_record, write_record};
use crate::codec::{PacketId, QoS, SubscriptionOptions};
use crate::message::{Message, Publisher};

/// Whose rows: a session or a shared group. Never used again, also not after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub u64);

/// A row's number, unique and growing within its owner. Zero: no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RowSeq(pub u64);

/// A retained message's place; free again when the message is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RetainedSlot(pub u32);

/// Milliseconds since 1970: time that a restart does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// What one process calls now, for turning its own time into [`Timestamp`]s and back.
#[derive(Debug, Clone, Copy)]
pub struct Timebase {
    instant: Instant,
    timestamp: Timestamp,
}

impl Timebase {
    /// Reads both clocks.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), timestamp: Timestamp(since.as_millis() as u64) }
    }

    /// A moment of this process, for keeping.
    pub fn timestamp(&self, at: Instant) -> Timestamp {
        let Timestamp(now) = self.timestamp;
        match at.checked_duration_since(self.instant) {
            Some(later) => Timestamp(now.saturating_add(later.as_millis() as u64)),
            None => Timestamp(now.saturating_sub(self.instant.duration_since(at).as_millis() as u64)),
        }
    }

    /// A kept moment in this process; what lies before its start counts as its start, and what it cannot tell, as far
    /// away.
    pub fn instant(&self, at: Timestamp) -> Instant {
        let later = Duration::from_millis(at.0.saturating_sub(self.timestamp.0));
        self.instant.checked_add(later).unwrap_or_else(|| self.instant + Duration::from_secs(u32::MAX.into()))
    }
}

/// An Application Message as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageImage<'a> {
    /// Topic Name.
    pub topic: &'a str,
    /// The forwarded properties, encoded.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// As published.
    pub qos: QoS,
    /// RETAIN as published.
    pub retain: bool,
    /// When it must not be delivered any more.
    pub expires_at: Option<Timestamp>,
    /// Who published it.
    pub publisher: Publisher,
}

impl<'a> MessageImage<'a> {
    /// Of a message in memory.
    pub fn of(message: &'a Message, timebase: &Timebase) -> Self {
        Self {
            topic: message.topic().as_str(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos,
            retain: message.retain,
            expires_at: message.expires_at.map(|at| timebase.timestamp(at)),
            publisher: message.publisher,
        }
    }

    /// The message in memory.
    pub fn to_message(&self, timebase: &Timebase) -> Message {
        Message::restore(
            (self.topic, self.properties, self.payload),
            (self.qos, self.retain),
            self.publisher,
            self.expires_at.map(|at| timebase.instant(at)),
        )
    }

    /// [`Message::cost`] of the message in memory.
    pub fn cost(&self) -> u64 {
        Message::cost_of(self.topic.len() + self.properties.len() + self.payload.len())
    }
}

/// How far a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    /// It was not sent.
    Waiting,
    /// PUBLISH was sent under this identifier.
    Sent(PacketId),
    /// PUBREC has come.
    Released(PacketId),
}

/// One message for one session or group, on its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Whose.
    pub owner: Owner,
    /// Its number.
    pub seq: RowSeq,
    /// How far it is.
    pub state: RowState,
    /// The QoS at which it is delivered.
    pub qos: QoS,
    /// RETAIN as the subscriber is to see it.
    pub retain: bool,
    /// Subscription Identifiers to bear.
    pub identifiers: Identifiers<'a>,
}

/// Subscription Identifiers, in memory or as bytes.
#[derive(Debug, Clone, Copy)]
pub enum Identifiers<'a> {
    /// As numbers.
    Numbers(&'a [u32]),
    /// As they stand in a record: checked, variable-length integers one behind the other.
    Bytes(&'a [u8]),
}

impl Identifiers<'_> {
    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let (numbers, mut bytes) = match self {
            Self::Numbers(numbers) => (*numbers, Reader(&[])),
            Self::Bytes(bytes) => (&[][..], Reader(bytes)),
        };
        numbers
            .iter()
            .copied()
            .chain(std::iter::from_fn(move || bytes.number().ok().map(|number| number as u32)))
    }
}

impl PartialEq for Identifiers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Identifiers<'_> {}

/// A session that outlives its connection: its whole image, the last one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionImage<'a> {
    /// Its number.
    pub owner: Owner,
    /// Its Client Identifier.
    pub client_id: &'a str,
    /// The user whose it is.
    pub user: Option<&'a str>,
    /// The groups that user is in.
    pub user_groups: Vec<&'a str>,
    /// How long it outlives its connection, in seconds; `None`: for ever.
    pub expiry: Option<u32>,
    /// When it ends if nobody comes back; `None` while it is connected, and if it never ends.
    pub expires_at: Option<Timestamp>,
}

/// A shared group with rows of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupImage<'a> {
    /// Its number.
    pub owner: Owner,
    /// Its ShareName.
    pub name: &'a str,
    /// Its Topic Filter.
    pub filter: &'a str,
}

/// A Will that is still to be published: its whole image, the last one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WillImage<'a> {
    /// Whose: a session.
    pub owner: Owner,
    /// What is published, without its expiry.
    pub message: MessageImage<'a>,
    /// Message Expiry Interval in seconds.
    pub expiry: Option<u32>,
    /// Will Delay Interval in seconds.
    pub delay: u32,
    /// When it is to be published; `None` while the client is connected.
    pub due: Option<Timestamp>,
}

/// One thing to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message; the rows that follow in the same [`Records`] are its rows. One without rows is nobody's.
    Message(MessageImage<'a>),
    /// A row of the message before it. A row of an owner that is not known, or has ended, is nobody's.
    Row(Row<'a>),
    /// These rows, numbered in turn, were sent under these identifiers, numbered in turn.
    Sent {
        /// Whose.
        owner: Owner,
        /// The first.
        first: RowSeq,
        /// Its identifier.
        packet_id: PacketId,
        /// How many; the identifiers do not wrap.
        count: u16,
    },
    /// PUBREC came for a row.
    Released {
        /// Whose.
        owner: Owner,
        /// Which.
        seq: RowSeq,
    },
    /// These rows, numbered in turn, are finished: acknowledged or dropped.
    Done {
        /// Whose.
        owner: Owner,
        /// The first.
        first: RowSeq,
        /// How many.
        count: u64,
    },
    /// The message is its topic's retained one from now on, and has this place.
    Kept {
        /// Its place.
        slot: RetainedSlot,
        /// The message.
        message: MessageImage<'a>,
    },
    /// The place is free: its topic has no retained message any more.
    Forgotten {
        /// The place.
        slot: RetainedSlot,
    },
    /// A QoS 2 PUBLISH of the session's client came; it must not be delivered again [MQTT-4.3.3-10].
    Received {
        /// The session.
        owner: Owner,
        /// Under this identifier.
        packet_id: PacketId,
    },
    /// The client released the identifier.
    Completed {
        /// The session.
        owner: Owner,
        /// The identifier.
        packet_id: PacketId,
    },
    /// A session that outlives its connection exists.
    Session(SessionImage<'a>),
    /// A group exists.
    Group(GroupImage<'a>),
    /// The session or group has ended; nothing of it is to be kept.
    Ended {
        /// Which.
        owner: Owner,
    },
    /// The session has this subscription; a second one with the same filter replaces the first.
    Subscribed {
        /// The session.
        owner: Owner,
        /// The filter as it was sent, `$share/…` included.
        filter: &'a str,
        /// The options granted.
        options: SubscriptionOptions,
        /// The Subscription Identifier; 0: none.
        identifier: u32,
    },
    /// The session's subscription has ended.
    Unsubscribed {
        /// The session.
        owner: Owner,
        /// The filter as it was sent.
        filter: &'a str,
    },
    /// The session has a Will.
    Will(WillImage<'a>),
    /// It has none any more: it was published or discarded.
    WillEnded {
        /// The session.
        owner: Owner,
    },
}

/// Bytes that are no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("these bytes are no record: {0}")]
pub struct Damaged(pub &'static str);

/// Records that belong together, as bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where the last record begins, if it is a run that may grow.
    run: Option<(usize, Run)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Sent { owner: Owner, first: RowSeq, packet_id: PacketId, count: u16 },
    Done { owner: Owner, first: RowSeq, count: u64 },
}

impl Records {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Their bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Removes all of them.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.run = None;
    }

    /// Adds one.
    pub fn push(&mut self, record: &Record<'_>) {
        self.run = None;
        write_record(&mut self.bytes, record);
    }

    /// Adds that a row was sent; to a run, if it continues one.
    pub fn push_sent(&mut self, owner: Owner, seq: RowSeq, packet_id: PacketId) {
        let mut run = Run::Sent { owner, first: seq, packet_id, count: 1 };
        if let Some((start, Run::Sent { owner: last, first, packet_id: first_id, count })) = self.run
            && last == owner
            && first.0 + u64::from(count) == seq.0
            && first_id.get().checked_add(count) == Some(packet_id.get())
        {
            self.bytes.truncate(start);
            run = Run::Sent { owner, first, packet_id: first_id, count: count + 1 };
        }
        self.push_run(run);
    }

    /// Adds that a row is finished; to a run, if it continues one.
    pub fn push_done(&mut self, owner: Owner, seq: RowSeq) {
        let mut run = Run::Done { owner, first: seq, count: 1 };
        if let Some((start, Run::Done { owner: last, first, count })) = self.run
            && last == owner
            && first.0 + count == seq.0
        {
            self.bytes.truncate(start);
            run = Run::Done { owner, first, count: count + 1 };
        }
        self.push_run(run);
    }

    fn push_run(&mut self, run: Run) {
        let start = self.bytes.len();
        let record = match run {
            Run::Sent { owner, first, packet_id, count } => Record::Sent { owner, first, packet_id, count },
            Run::Done { owner, first, count } => Record::Done { owner, first, count },
        };
        write_record(&mut self.bytes, &record);
        self.run = Some((start, run));
    }

    /// All of them, in order.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter::new(&self.bytes)
    }
}

/// Walks over the records in some bytes. After an error it ends.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    rest: Reader<'a>,
    length: usize,
}

impl<'a> RecordIter<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: Reader(bytes), length: bytes.len() }
    }

    /// Where the next record begins, in bytes from the start.
    pub fn position(&self) -> usize {
        self.length - self.rest.0.len()
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            return None;
        }
        let record = self.rest.bytes().and_then(read_record);
        if record.is_err() {
            self.rest = Reader(&[]);
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::RetainHandling;

    fn samples() -> Vec<Record<'static>> {
        let owner = Owner(300);
        let packet_id = PacketId::new(65_535).unwrap();
        let message = MessageImage {
            topic: "a/b",
            properties: &[0x01, 0x01],
            payload: &[7; 200],
            qos: QoS::ExactlyOnce,
            retain: true,
            expires_at: Some(Timestamp(1 << 41)),
            publisher: Publisher(u64::MAX),
        };
        let row = Row {
            owner,
            seq: RowSeq(1),
            state: RowState::Waiting,
            qos: QoS::AtLeastOnce,
            retain: false,
            identifiers: Identifiers::Numbers(&[]),
        };
        vec![
            Record::Message(message),
            Record::Message(MessageImage { payload: &[], properties: &[], expires_at: None, ..message }),
            Record::Row(row),
            Record::Row(Row {
                state: RowState::Sent(packet_id),
                retain: true,
                identifiers: Identifiers::Numbers(&[1, 268_435_455]),
                ..row
            }),
            Record::Row(Row { state: RowState::Released(packet_id), qos: QoS::ExactlyOnce, ..row }),
            Record::Sent { owner, first: RowSeq(u64::MAX - 1), packet_id, count: 1 },
            Record::Released { owner, seq: RowSeq(9) },
            Record::Done { owner, first: RowSeq(1), count: 1 << 40 },
            Record::Kept { slot: RetainedSlot(u32::MAX), message },
            Record::Forgotten { slot: RetainedSlot(0) },
            Record::Received { owner, packet_id },
            Record::Completed { owner, packet_id },
            Record::Session(SessionImage {
                owner,
                client_id: "client",
                user: Some("user"),
                user_groups: vec!["one", ""],
                expiry: Some(u32::MAX),
                expires_at: None,
            }),
            Record::Session(SessionImage {
                owner,
                client_id: "",
                user: None,
                user_groups: vec![],
                expiry: None,
                expires_at: Some(Timestamp(0)),
            }),
            Record::Group(GroupImage { owner, name: "group", filter: "a/#" }),
            Record::Ended { owner },
            Record::Subscribed {
                owner,
                filter: "$share/group/a/#",
                options: SubscriptionOptions {
                    qos: QoS::ExactlyOnce,
                    no_local: true,
                    retain_as_published: true,
                    retain_handling: RetainHandling::DoNotSend,
                },
                identifier: 268_435_455,
            },
            Record::Unsubscribed { owner, filter: "+" },
            Record::Will(WillImage {
                owner,
                message,
                expiry: Some(0),
                delay: u32::MAX,
                due: Some(Timestamp(5)),
            }),
            Record::WillEnded { owner },
        ]
    }

    #[test]
    fn every_record_is_read_as_it_was_written() {
        let mut records = Records::default();
        samples().iter().for_each(|record| records.push(record));
        let read: Result<Vec<_>, _> = records.iter().collect();
        assert_eq!(read.unwrap(), samples());
    }

    #[test]
    fn every_record_is_refused_when_it_is_cut_anywhere() {
        for record in samples() {
            let mut records = Records::default();
            records.push(&record);
            let bytes = records.as_bytes();
            for end in 1..bytes.len() {
                let read: Result<Vec<_>, _> = RecordIter::new(&bytes[..end]).collect();
                assert!(read.is_err(), "{record:?} cut at {end}");
            }
        }
    }

    #[test]
    fn runs_grow_as_long_as_they_are_unbroken() {
        let (one, other) = (Owner(1), Owner(2));
        let id = |number| PacketId::new(number).unwrap();
        let mut records = Records::default();
        (1..=100).for_each(|seq| records.push_done(one, RowSeq(seq)));
        records.push_done(one, RowSeq(102));
        records.push_done(other, RowSeq(103));
        for (seq, packet_id) in [(1, 65_534), (2, 65_535), (3, 1), (4, 2), (5, 4)] {
            records.push_sent(one, RowSeq(seq), id(packet_id));
        }
        let sent = |first, packet_id, count| Record::Sent {
            owner: one,
            first: RowSeq(first),
            packet_id: id(packet_id),
            count,
        };
        let read: Vec<_> = records.iter().map(Result::unwrap).collect();
        assert_eq!(
            read,
            [
                Record::Done { owner: one, first: RowSeq(1), count: 100 },
                Record::Done { owner: one, first: RowSeq(102), count: 1 },
                Record::Done { owner: other, first: RowSeq(103), count: 1 },
                sent(1, 65_534, 2),
                sent(3, 1, 2),
                sent(5, 4, 1),
            ]
        );
    }

    #[test]
    fn times_come_back_after_a_restart() {
        let timebase = Timebase::now();
        let later = timebase.instant + Duration::from_secs(100);
        assert_eq!(timebase.instant(timebase.timestamp(later)), later);
        assert_eq!(timebase.instant(Timestamp(0)), timebase.instant, "long past is now");
        assert!(timebase.instant(Timestamp(u64::MAX)) > later);
    }
}
