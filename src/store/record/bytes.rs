//! The bytes of a record: a length, a tag and its fields.
//!
//! Called by [`super::Records`] and [`super::RecordIter`] alone. What always holds: what was written is read back, and any
//! other bytes are [`Damaged`]. A tag is never given to another record: files on disk have it.

use super::{
    Damaged, GroupImage, Identifiers, MessageImage, Owner, Record, RetainedSlot, Row, RowSeq, RowState,
    SessionImage, Timestamp, WillImage,
};
use crate::codec::{PacketId, QoS, RetainHandling, SubscriptionOptions};
use crate::message::Publisher;

const MESSAGE: u8 = 1;
const ROW: u8 = 2;
const SENT: u8 = 3;
const RELEASED: u8 = 4;
const DONE: u8 = 5;
const KEPT: u8 = 6;
const FORGOTTEN: u8 = 7;
const RECEIVED: u8 = 8;
const COMPLETED: u8 = 9;
const SESSION: u8 = 10;
const GROUP: u8 = 11;
const ENDED: u8 = 12;
const SUBSCRIBED: u8 = 13;
const UNSUBSCRIBED: u8 = 14;
const WILL: u8 = 15;
const WILL_ENDED: u8 = 16;

pub(super) fn write_record(bytes: &mut Vec<u8>, record: &Record<'_>) {
    // Room for the shortest length; longer ones, of records with text or payload, move what is behind them.
    let start = bytes.len();
    bytes.push(0);
    write_fields(bytes, record);
    let length = bytes.len() - start - 1;
    if length < 0x80 {
        bytes[start] = length as u8;
    } else {
        let mut prefix = [0; 10];
        let used = encode_number(&mut prefix, length as u64);
        bytes.splice(start..=start, prefix[..used].iter().copied());
    }
}

fn write_fields(bytes: &mut Vec<u8>, record: &Record<'_>) {
    match record {
        Record::Message(message) => {
            bytes.push(MESSAGE);
            write_message(bytes, message);
        }
        Record::Row(row) => {
            bytes.push(ROW);
            write_number(bytes, row.owner.0);
            write_number(bytes, row.seq.0);
            let (state, packet_id) = match row.state {
                RowState::Waiting => (0, None),
                RowState::Sent(packet_id) => (1, Some(packet_id)),
                RowState::Released(packet_id) => (2, Some(packet_id)),
            };
            bytes.push(state | ((row.qos as u8) << 2) | (u8::from(row.retain) << 4));
            packet_id.into_iter().for_each(|packet_id| write_number(bytes, packet_id.get().into()));
            row.identifiers.iter().for_each(|identifier| write_number(bytes, identifier.into()));
        }
        Record::Sent { owner, first, packet_id, count } => {
            bytes.push(SENT);
            write_number(bytes, owner.0);
            write_number(bytes, first.0);
            write_number(bytes, packet_id.get().into());
            write_number(bytes, (*count).into());
        }
        Record::Released { owner, seq } => {
            bytes.push(RELEASED);
            write_number(bytes, owner.0);
            write_number(bytes, seq.0);
        }
        Record::Done { owner, first, count } => {
            bytes.push(DONE);
            write_number(bytes, owner.0);
            write_number(bytes, first.0);
            write_number(bytes, *count);
        }
        Record::Kept { slot, message } => {
            bytes.push(KEPT);
            write_number(bytes, slot.0.into());
            write_message(bytes, message);
        }
        Record::Forgotten { slot } => {
            bytes.push(FORGOTTEN);
            write_number(bytes, slot.0.into());
        }
        Record::Received { owner, packet_id } => {
            bytes.push(RECEIVED);
            write_number(bytes, owner.0);
            write_number(bytes, packet_id.get().into());
        }
        Record::Completed { owner, packet_id } => {
            bytes.push(COMPLETED);
            write_number(bytes, owner.0);
            write_number(bytes, packet_id.get().into());
        }
        Record::Session(session) => {
            bytes.push(SESSION);
            write_number(bytes, session.owner.0);
            write_bytes(bytes, session.client_id.as_bytes());
            write_option(bytes, session.expiry.map(u64::from));
            write_option(bytes, session.expires_at.map(|at| at.0));
            bytes.push(session.user.is_some().into());
            session.user.into_iter().for_each(|user| write_bytes(bytes, user.as_bytes()));
            session.user_groups.iter().for_each(|group| write_bytes(bytes, group.as_bytes()));
        }
        Record::Group(group) => {
            bytes.push(GROUP);
            write_number(bytes, group.owner.0);
            write_bytes(bytes, group.name.as_bytes());
            write_bytes(bytes, group.filter.as_bytes());
        }
        Record::Ended { owner } => {
            bytes.push(ENDED);
            write_number(bytes, owner.0);
        }
        Record::Subscribed { owner, filter, options, identifier } => {
            bytes.push(SUBSCRIBED);
            write_number(bytes, owner.0);
            write_bytes(bytes, filter.as_bytes());
            bytes.push(
                options.qos as u8
                    | (u8::from(options.no_local) << 2)
                    | (u8::from(options.retain_as_published) << 3)
                    | ((options.retain_handling as u8) << 4),
            );
            write_number(bytes, (*identifier).into());
        }
        Record::Unsubscribed { owner, filter } => {
            bytes.push(UNSUBSCRIBED);
            write_number(bytes, owner.0);
            write_bytes(bytes, filter.as_bytes());
        }
        Record::Will(will) => {
            bytes.push(WILL);
            write_number(bytes, will.owner.0);
            write_option(bytes, will.expiry.map(u64::from));
            write_number(bytes, will.delay.into());
            write_option(bytes, will.due.map(|at| at.0));
            write_message(bytes, &will.message);
        }
        Record::WillEnded { owner } => {
            bytes.push(WILL_ENDED);
            write_number(bytes, owner.0);
        }
    }
}

fn write_message(bytes: &mut Vec<u8>, message: &MessageImage<'_>) {
    bytes.push(message.qos as u8 | (u8::from(message.retain) << 2));
    write_option(bytes, message.expires_at.map(|at| at.0));
    bytes.extend_from_slice(&message.publisher.0.to_le_bytes());
    write_bytes(bytes, message.topic.as_bytes());
    write_bytes(bytes, message.properties);
    bytes.extend_from_slice(message.payload);
}

pub(super) fn read_record(body: &[u8]) -> Result<Record<'_>, Damaged> {
    let mut reader = Reader(body);
    let record = match reader.byte()? {
        MESSAGE => Record::Message(reader.message()?),
        ROW => Record::Row(reader.row()?),
        SENT => {
            let (owner, first, packet_id) = (reader.owner()?, reader.seq()?, reader.packet_id()?);
            let count = reader.number_of::<u16>()?;
            let fits = count > 0 && packet_id.get().checked_add(count - 1).is_some();
            if !fits || first.0.checked_add(count.into()).is_none() {
                return Err(Damaged("a run of identifiers that wraps"));
            }
            Record::Sent { owner, first, packet_id, count }
        }
        RELEASED => Record::Released { owner: reader.owner()?, seq: reader.seq()? },
        DONE => {
            let (owner, first, count) = (reader.owner()?, reader.seq()?, reader.number()?);
            if first.0.checked_add(count).is_none() {
                return Err(Damaged("a run of rows that wraps"));
            }
            Record::Done { owner, first, count }
        }
        KEPT => Record::Kept { slot: RetainedSlot(reader.number_of()?), message: reader.message()? },
        FORGOTTEN => Record::Forgotten { slot: RetainedSlot(reader.number_of()?) },
        RECEIVED => Record::Received { owner: reader.owner()?, packet_id: reader.packet_id()? },
        COMPLETED => Record::Completed { owner: reader.owner()?, packet_id: reader.packet_id()? },
        SESSION => Record::Session(reader.session()?),
        GROUP => {
            Record::Group(GroupImage { owner: reader.owner()?, name: reader.text()?, filter: reader.text()? })
        }
        ENDED => Record::Ended { owner: reader.owner()? },
        SUBSCRIBED => {
            let (owner, filter, options) = (reader.owner()?, reader.text()?, reader.byte()?);
            Record::Subscribed {
                owner,
                filter,
                options: read_options(options)?,
                identifier: reader.number_of()?,
            }
        }
        UNSUBSCRIBED => Record::Unsubscribed { owner: reader.owner()?, filter: reader.text()? },
        WILL => {
            let owner = reader.owner()?;
            let expiry = reader.option()?.map(narrow).transpose()?;
            let delay = reader.number_of()?;
            let due = reader.option()?.map(Timestamp);
            Record::Will(WillImage { owner, message: reader.message()?, expiry, delay, due })
        }
        WILL_ENDED => Record::WillEnded { owner: reader.owner()? },
        _ => return Err(Damaged("a record of an unknown kind")),
    };
    if reader.0.is_empty() { Ok(record) } else { Err(Damaged("a record that is too long")) }
}

fn read_options(byte: u8) -> Result<SubscriptionOptions, Damaged> {
    let retain_handling = match byte >> 4 {
        0 => RetainHandling::SendAlways,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(Damaged("unknown subscription options")),
    };
    Ok(SubscriptionOptions {
        qos: read_qos(byte & 3)?,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling,
    })
}

fn read_qos(number: u8) -> Result<QoS, Damaged> {
    match number {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        _ => Err(Damaged("an unknown QoS")),
    }
}

fn narrow<T: TryFrom<u64>>(number: u64) -> Result<T, Damaged> {
    T::try_from(number).map_err(|_| Damaged("a number that is too large"))
}

/// What is left to be read.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Damaged> {
        let (first, rest) = self.0.split_first().ok_or(Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Damaged("a number that is too long"))
    }

    pub(super) fn number_of<T: TryFrom<u64>>(&mut self) -> Result<T, Damaged> {
        narrow(self.number()?)
    }

    fn option(&mut self) -> Result<Option<u64>, Damaged> {
        Ok(self.number()?.checked_sub(1))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let length: usize = self.number_of()?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damaged("text that is not UTF-8"))
    }

    fn owner(&mut self) -> Result<Owner, Damaged> {
        Ok(Owner(self.number()?))
    }

    fn seq(&mut self) -> Result<RowSeq, Damaged> {
        match self.number()? {
            0 => Err(Damaged("a row without a number")),
            number => Ok(RowSeq(number)),
        }
    }

    fn packet_id(&mut self) -> Result<PacketId, Damaged> {
        PacketId::new(self.number_of()?).ok_or(Damaged("a packet identifier of zero"))
    }

    fn message(&mut self) -> Result<MessageImage<'a>, Damaged> {
        let flags = self.byte()?;
        let expires_at = self.option()?.map(Timestamp);
        let (publisher, rest) = self.0.split_first_chunk::<8>().ok_or(Damaged("it ends too early"))?;
        self.0 = rest;
        let (topic, properties) = (self.text()?, self.bytes()?);
        if topic.is_empty() || topic.len() > usize::from(u16::MAX) || topic.contains(['\0', '+', '#']) {
            return Err(Damaged("a message without a topic name"));
        }
        Ok(MessageImage {
            topic,
            properties,
            payload: std::mem::take(&mut self.0),
            qos: read_qos(flags & 3)?,
            retain: flags & 4 != 0,
            expires_at,
            publisher: Publisher(u64::from_le_bytes(*publisher)),
        })
    }

    fn row(&mut self) -> Result<Row<'a>, Damaged> {
        let (owner, seq, flags) = (self.owner()?, self.seq()?, self.byte()?);
        let state = match flags & 3 {
            0 => RowState::Waiting,
            1 => RowState::Sent(self.packet_id()?),
            2 => RowState::Released(self.packet_id()?),
            _ => return Err(Damaged("an unknown state of a row")),
        };
        let identifiers = std::mem::take(&mut self.0);
        let mut rest = Reader(identifiers);
        while !rest.0.is_empty() {
            rest.number_of::<u32>()?;
        }
        Ok(Row {
            owner,
            seq,
            state,
            qos: read_qos(flags >> 2 & 3)?,
            retain: flags & 0x10 != 0,
            identifiers: Identifiers::Bytes(identifiers),
        })
    }

    fn session(&mut self) -> Result<SessionImage<'a>, Damaged> {
        let (owner, client_id) = (self.owner()?, self.text()?);
        let expiry = self.option()?.map(narrow).transpose()?;
        let expires_at = self.option()?.map(Timestamp);
        let user = if self.byte()? == 0 { None } else { Some(self.text()?) };
        let mut user_groups = Vec::new();
        while !self.0.is_empty() {
            user_groups.push(self.text()?);
        }
        Ok(SessionImage { owner, client_id, user, user_groups, expiry, expires_at })
    }
}

/// Writes `Some` as the number above it, and `None` as 0; of the highest number, the one below.
fn write_option(bytes: &mut Vec<u8>, number: Option<u64>) {
    write_number(bytes, number.map_or(0, |number| number.saturating_add(1)));
}

fn write_bytes(bytes: &mut Vec<u8>, field: &[u8]) {
    write_number(bytes, field.len() as u64);
    bytes.extend_from_slice(field);
}

fn write_number(bytes: &mut Vec<u8>, number: u64) {
    let mut encoded = [0; 10];
    let used = encode_number(&mut encoded, number);
    bytes.extend_from_slice(&encoded[..used]);
}

fn encode_number(encoded: &mut [u8; 10], mut number: u64) -> usize {
    for (index, byte) in encoded.iter_mut().enumerate() {
        *byte = (number & 0x7F) as u8;
        number >>= 7;
        if number == 0 {
            return index + 1;
        }
        *byte |= 0x80;
    }
    encoded.len()
}
