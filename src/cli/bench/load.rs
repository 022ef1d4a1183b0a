//! A load: publishers that write in batches and keep a bounded distance to their subscribers, and subscribers that count,
//! time and acknowledge what arrives. All on one thread, in one structure.
//!
//! Every message carries when it was due, who sent it and its number, so a delivery needs no table to be looked up in.
//! What always holds: `delivered` counts each arrival once; a message that is due and could not be sent in time is timed
//! from when it was due, so that a broker that stalls does not look fast for having stopped the clock.

use std::collections::VecDeque;

use super::super::client::{ClientError, Connections, Handler, Incoming, refuse_disconnect};
use super::histogram::Times;
use super::publishing::{Flows, Heads, Publishing, STAMP, greatest_common_divisor};
use super::schedule::Schedule;
use crate::codec::{
    AckKind, PacketType, QoS, ReasonCode, decode_acknowledgement, decode_publish, encode_acknowledgement,
};

/// Set in the owner's number of a subscriber's connection.
pub(super) const SUBSCRIBER: u32 = 1 << 31;

/// Bytes that may wait in a publisher's buffer.
const BACKLOG: usize = 128 * 1024;

/// Deliveries that are remembered at most, to tell those that come again: a bit each, 256 MiB.
const MOST_SEEN: u64 = 1 << 31;

struct Publisher {
    connection: usize,
    topic: usize,
    packet_id: u16,
    sent: u64,
    /// When those were due that are not acknowledged yet, in order.
    unacknowledged: VecDeque<u64>,
    acknowledged: u64,
    limit: u64,
    /// Messages known to have reached every subscriber, or given up.
    settled: u64,
    given_up: u64,
    /// Messages due and not sent yet.
    owed: u64,
    /// It stands in the list of those who are to send.
    is_called: bool,
}

/// See the module.
pub(super) struct Load {
    publishing: Publishing,
    flows: Flows,
    heads: Heads,
    /// A publisher's next topic is so many further on.
    stride: usize,
    filler: Vec<u8>,
    message_length: usize,
    publishers: Vec<Publisher>,
    pub schedule: Option<Schedule>,
    called: Vec<u32>,
    /// Arrivals of each publisher's messages, in all and at each subscriber that is counted on its own.
    arrived: Vec<u64>,
    cells: Vec<u64>,
    /// The number that is expected next, where order is watched: of each topic at each place that is counted on its own,
    /// as MQTT orders the messages of one topic alone (§4.6).
    expected: Vec<u32>,
    /// Topics that each publisher takes in turn.
    turn: usize,
    /// One bit a delivery, where duplicates are looked for.
    seen: Option<Vec<u64>>,
    /// Messages due before this are not timed.
    pub measure_from: u64,
    pub times: Times,
    /// From when a message was due to when its publisher heard that the broker has it.
    pub acknowledgements: Times,
    /// How much later than due messages were written.
    pub lags: Times,
    pub sent: u64,
    pub acknowledged: u64,
    pub rejected: u64,
    pub delivered: u64,
    pub given_up: u64,
    pub out_of_order: u64,
    pub duplicates: u64,
    pub foreign: u64,
    /// QoS 2 messages that arrived, and those of them that were released.
    pub exactly_once: u64,
    pub released: u64,
    per_subscriber: Vec<u64>,
}

impl Load {
    /// Publisher p takes the topics p, p + `stride`, p + 2 `stride` and so on, in turn.
    pub fn new(
        mut publishing: Publishing,
        flows: Flows,
        heads: Heads,
        stride: usize,
        connections: &[usize],
        schedule: Option<Schedule>,
    ) -> Self {
        let topics = heads.len().max(1);
        let message_length = heads.get(0).len() + publishing.payload;
        publishing.batch = publishing.batch.clamp(1, (BACKLOG / message_length / 2).max(1) as u64);
        let count = connections.len() as u64;
        let publisher = |(index, connection): (usize, &usize)| Publisher {
            connection: *connection,
            topic: index % topics,
            packet_id: 0,
            sent: 0,
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            limit: publishing.limit / count + u64::from((index as u64) < publishing.limit % count),
            settled: 0,
            given_up: 0,
            owed: 0,
            is_called: false,
        };
        let publishers = connections.iter().enumerate().map(publisher).collect();
        let turn = topics / greatest_common_divisor(stride, topics);
        let watched = if flows.is_ordered { flows.publishers * flows.width() * turn } else { 0 };
        Self {
            filler: (0..publishing.payload).map(|index| b'a' + (index % 26) as u8).collect(),
            publishing,
            flows,
            heads,
            stride: stride % topics,
            message_length,
            publishers,
            schedule,
            called: Vec::new(),
            arrived: vec![0; flows.publishers],
            cells: vec![0; if flows.is_broadcast { flows.publishers * flows.width() } else { 0 }],
            expected: vec![0; watched],
            turn,
            seen: None,
            measure_from: u64::MAX,
            times: Times::new(),
            acknowledgements: Times::new(),
            lags: Times::new(),
            sent: 0,
            acknowledged: 0,
            rejected: 0,
            delivered: 0,
            given_up: 0,
            out_of_order: 0,
            duplicates: 0,
            foreign: 0,
            exactly_once: 0,
            released: 0,
            per_subscriber: vec![0; flows.subscribers],
        }
    }

    /// Counts a message that comes twice apart from its first arrival, if that can be told: the messages have to be
    /// limited, and one subscriber or each is to get them once.
    pub fn look_for_duplicates(&mut self) {
        let each = self.publishing.limit / self.flows.publishers.max(1) as u64 + 1;
        let deliveries = each.saturating_mul((self.flows.publishers * self.flows.width()) as u64);
        if self.flows.copies == 1 && deliveries <= MOST_SEEN {
            self.seen = Some(vec![0; deliveries as usize / 64 + 1]);
        }
    }

    /// Deliveries that came again; `None` if they were not looked for.
    pub fn duplicates(&self) -> Option<u64> {
        self.seen.as_ref().map(|_| self.duplicates)
    }

    /// Everything that is to be sent has been.
    pub fn is_sent(&self) -> bool {
        self.sent >= self.publishing.limit
    }

    /// Messages that wait for an acknowledgement.
    pub fn unacknowledged(&self) -> u64 {
        if self.publishing.qos == QoS::AtMostOnce { 0 } else { self.sent.saturating_sub(self.acknowledged) }
    }

    /// When the next message is due, if there is a clock to go by.
    pub fn next_due(&self) -> Option<u64> {
        let schedule = self.schedule.as_ref().filter(|schedule| schedule.issued < self.publishing.limit);
        schedule.map(Schedule::next)
    }

    /// Everything that was sent has arrived, QoS 2 to its end.
    pub fn is_delivered(&self) -> bool {
        self.delivered >= self.sent * self.flows.per_message() && self.released >= self.exactly_once
    }

    /// Deliveries that are still to come, or are lost.
    pub fn missing(&self) -> i64 {
        (self.sent * self.flows.per_message()).cast_signed() - self.delivered.cast_signed()
    }

    /// Deliveries to each subscriber.
    pub fn per_subscriber(&self) -> &[u64] {
        &self.per_subscriber
    }

    /// Messages of a publisher that have reached all their subscribers.
    fn reached(&self, publisher: usize) -> u64 {
        let width = self.flows.width();
        let arrived = self.arrived.get(publisher).copied().unwrap_or(0);
        if width == 1 {
            return arrived / self.flows.copies;
        }
        let settled = self
            .publishers
            .get(publisher)
            .map_or(0, |publisher| publisher.settled.saturating_sub(publisher.given_up));
        // The slowest cannot be further than the average, and to look for it takes time.
        if arrived / width as u64 <= settled {
            return settled;
        }
        let cells = self.cells.get(publisher * width..(publisher + 1) * width).unwrap_or_default();
        cells.iter().copied().min().unwrap_or(0)
    }

    /// How many messages a publisher may send now.
    fn room(&mut self, connections: &Connections, index: usize) -> u64 {
        let Some(publisher) = self.publishers.get(index) else { return 0 };
        let backlog = connections.backlog(publisher.connection);
        let fitting = BACKLOG.saturating_sub(backlog) / self.message_length;
        let mut room = if backlog == 0 { fitting.max(1) } else { fitting } as u64;
        room = room.min(publisher.limit - publisher.sent);
        if self.publishing.qos != QoS::AtMostOnce {
            let in_flight = publisher.sent.saturating_sub(publisher.acknowledged);
            room = room.min(self.publishing.in_flight.saturating_sub(in_flight));
        }
        let Some(window) = self.publishing.window else { return room };
        let ahead = publisher.sent - publisher.settled;
        if room > 0 && window.saturating_sub(ahead) < room {
            let reached = self.reached(index);
            if let Some(publisher) = self.publishers.get_mut(index) {
                let settled = (reached + publisher.given_up).min(publisher.sent);
                publisher.settled = publisher.settled.max(settled);
                room = room.min(window.saturating_sub(publisher.sent - publisher.settled));
            }
        }
        room
    }

    #[inline]
    fn send(&mut self, out: &mut Vec<u8>, index: usize, due: u64) {
        let Some(publisher) = self.publishers.get_mut(index) else { return };
        out.extend_from_slice(self.heads.get(publisher.topic));
        if self.publishing.qos != QoS::AtMostOnce {
            publisher.unacknowledged.push_back(due);
            publisher.packet_id = publisher.packet_id.checked_add(1).unwrap_or(1);
            let at = out.len() - self.heads.packet_id;
            if let Some(place) = out.get_mut(at..at + 2) {
                place.copy_from_slice(&publisher.packet_id.to_be_bytes());
            }
        }
        if let Some(rest) = self.filler.get(STAMP..) {
            let mut stamp = [0; STAMP];
            let (time, who) = stamp.split_at_mut(8);
            let (sender, number) = who.split_at_mut(4);
            time.copy_from_slice(&due.to_le_bytes());
            sender.copy_from_slice(&(index as u32).to_le_bytes());
            number.copy_from_slice(&(publisher.sent as u32).to_le_bytes());
            out.extend_from_slice(&stamp);
            out.extend_from_slice(rest);
        }
        publisher.sent += 1;
        self.sent += 1;
        publisher.topic += self.stride;
        if publisher.topic >= self.heads.len() {
            publisher.topic -= self.heads.len();
        }
    }

    /// Sends what may be sent now.
    pub fn send_all(&mut self, connections: &mut Connections) {
        let now = connections.now();
        if self.schedule.is_some() {
            self.send_due(connections, now);
            return;
        }
        for index in 0..self.publishers.len() {
            let room = self.room(connections, index);
            let Some(publisher) = self.publishers.get(index) else { continue };
            if room > 0 && room >= self.publishing.batch.min(publisher.limit - publisher.sent) {
                let out = connections.queue(publisher.connection);
                for _ in 0..room {
                    self.send(out, index, now);
                }
            }
        }
    }

    /// Sends what is due by the clock.
    fn send_due(&mut self, connections: &mut Connections, now: u64) {
        let count = self.publishers.len() as u64;
        let Some(mut schedule) = self.schedule.take() else { return };
        schedule.start(now);
        while schedule.issued < self.publishing.limit && schedule.due(schedule.issued) <= now {
            let index = (schedule.issued % count) as usize;
            if let Some(publisher) = self.publishers.get_mut(index) {
                publisher.owed += 1;
            }
            self.call(index);
            schedule.issued += 1;
        }
        let mut called = std::mem::take(&mut self.called);
        for index in called.drain(..) {
            let index = index as usize;
            let room = self.room(connections, index);
            let Some(publisher) = self.publishers.get_mut(index) else { continue };
            publisher.is_called = false;
            let messages = room.min(publisher.owed);
            publisher.owed -= messages;
            let (first, connection) = (publisher.sent, publisher.connection);
            let out = connections.queue(connection);
            for message in first..first + messages {
                let due = schedule.due(message * count + index as u64).min(now);
                if due >= self.measure_from {
                    self.lags.record(now - due);
                }
                self.send(out, index, due);
            }
            // Nobody calls it again who has room in the window, and only the buffer was full.
            if self.has_room_in_flight(index) {
                self.call(index);
            }
        }
        // What was called meanwhile keeps its place.
        called.append(&mut self.called);
        self.called = called;
        self.schedule = Some(schedule);
    }

    fn has_room_in_flight(&self, index: usize) -> bool {
        self.publishing.qos == QoS::AtMostOnce
            || self.publishers.get(index).is_some_and(|publisher| {
                publisher.sent.saturating_sub(publisher.acknowledged) < self.publishing.in_flight
            })
    }

    /// Messages are overdue and could be written now.
    pub fn is_pressed(&self, connections: &Connections) -> bool {
        self.called.iter().any(|index| {
            let publisher = self.publishers.get(*index as usize);
            publisher.is_some_and(|publisher| connections.backlog(publisher.connection) == 0)
        })
    }

    /// Counts what is due and was never sent as late as it is by now, once for each delivery it would have been.
    pub fn count_unsent(&mut self, now: u64) {
        let Some(schedule) = &self.schedule else { return };
        let count = self.publishers.len() as u64;
        for (index, publisher) in self.publishers.iter().enumerate() {
            for message in publisher.sent..publisher.sent + publisher.owed {
                let due = schedule.due(message * count + index as u64);
                if (self.measure_from..now).contains(&due) {
                    self.times.record_many(now - due, self.flows.per_message());
                }
            }
        }
    }

    /// Messages that are due and not sent.
    pub fn unsent(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.owed).sum()
    }

    /// Stops waiting for deliveries that do not come; how many messages that were.
    pub fn give_up(&mut self) -> u64 {
        let mut lost = 0;
        for index in 0..self.publishers.len() {
            let reached = self.reached(index);
            if let Some(publisher) = self.publishers.get_mut(index) {
                let here = publisher.sent - (reached + publisher.given_up).min(publisher.sent);
                publisher.given_up += here;
                lost += here;
            }
        }
        self.given_up += lost;
        lost
    }

    /// Has a publisher looked at again if messages of it are overdue.
    #[inline]
    fn call(&mut self, index: usize) {
        if let Some(publisher) = self.publishers.get_mut(index)
            && publisher.owed > 0
            && !publisher.is_called
        {
            publisher.is_called = true;
            self.called.push(index as u32);
        }
    }

    /// A message has come for a subscriber.
    #[inline]
    fn arrive(&mut self, subscriber: usize, payload: &[u8], read_at: u64) {
        let Some((time, who)) = payload.split_first_chunk::<8>() else {
            self.foreign += 1;
            return;
        };
        let (Some(sender), Some(number)) = (who.first_chunk::<4>(), who.get(4..8)) else {
            self.foreign += 1;
            return;
        };
        let due = u64::from_le_bytes(*time);
        let index = u32::from_le_bytes(*sender) as usize;
        let number = number.try_into().map_or(0, u32::from_le_bytes);
        let Some(arrived) = self.arrived.get_mut(index) else {
            self.foreign += 1;
            return;
        };
        let mut cell = index;
        if self.flows.is_broadcast {
            cell = index * self.flows.subscribers + subscriber;
        }
        if let Some(seen) = &mut self.seen {
            let bit = number as usize * self.flows.publishers * self.flows.width() + cell;
            if let Some(word) = seen.get_mut(bit / 64) {
                if *word >> (bit % 64) & 1 == 1 {
                    self.duplicates += 1;
                    return;
                }
                *word |= 1 << (bit % 64);
            }
        }
        *arrived += 1;
        self.delivered += 1;
        if self.flows.is_broadcast
            && let Some(count) = self.cells.get_mut(cell)
        {
            *count += 1;
        }
        if let Some(count) = self.per_subscriber.get_mut(subscriber) {
            *count += 1;
        }
        let place = if self.turn == 1 { cell } else { cell * self.turn + number as usize % self.turn };
        if let Some(expected) = self.expected.get_mut(place) {
            // The number is what 32 bits hold of it.
            if number.wrapping_sub(*expected).cast_signed() < 0 {
                self.out_of_order += 1;
            } else {
                *expected = number.wrapping_add(1);
            }
        }
        if due >= self.measure_from {
            self.times.record(read_at.saturating_sub(due));
        }
    }

    #[inline]
    fn at_subscriber(
        &mut self,
        connections: &mut Connections,
        id: usize,
        subscriber: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError> {
        let version = self.publishing.version;
        match packet.kind() {
            Some(PacketType::Publish) => {
                let publish = decode_publish(version, packet.header.first_byte, packet.body)?;
                if let Some(packet_id) = publish.packet_id {
                    let kind = if publish.qos == QoS::AtLeastOnce {
                        AckKind::PubAck
                    } else {
                        self.exactly_once += 1;
                        AckKind::PubRec
                    };
                    let out = connections.queue(id);
                    encode_acknowledgement(out, version, kind, packet_id, ReasonCode::Success);
                }
                self.arrive(subscriber, publish.payload, connections.read_at());
                Ok(())
            }
            Some(PacketType::PubRel) => {
                let release =
                    decode_acknowledgement(version, AckKind::PubRel, packet.header.first_byte, packet.body)?;
                self.released += 1;
                let out = connections.queue(id);
                encode_acknowledgement(
                    out,
                    version,
                    AckKind::PubComp,
                    release.packet_id,
                    ReasonCode::Success,
                );
                Ok(())
            }
            _ => refuse_disconnect(packet),
        }
    }

    #[inline]
    fn at_publisher(
        &mut self,
        connections: &mut Connections,
        id: usize,
        index: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError> {
        let kind = match packet.kind() {
            Some(PacketType::PubAck) => AckKind::PubAck,
            Some(PacketType::PubRec) => AckKind::PubRec,
            Some(PacketType::PubComp) => AckKind::PubComp,
            _ => return refuse_disconnect(packet),
        };
        let version = self.publishing.version;
        let acknowledgement = decode_acknowledgement(version, kind, packet.header.first_byte, packet.body)?;
        let is_rejected = acknowledgement.reason.is_error();
        if kind == AckKind::PubRec && !is_rejected {
            let out = connections.queue(id);
            encode_acknowledgement(
                out,
                version,
                AckKind::PubRel,
                acknowledgement.packet_id,
                ReasonCode::Success,
            );
            return Ok(());
        }
        self.rejected += u64::from(is_rejected);
        self.acknowledged += 1;
        if let Some(publisher) = self.publishers.get_mut(index) {
            publisher.acknowledged += 1;
            let due = publisher.unacknowledged.pop_front().filter(|due| *due >= self.measure_from);
            if let Some(due) = due {
                self.acknowledgements.record(connections.read_at().saturating_sub(due));
            }
        }
        self.call(index);
        Ok(())
    }
}

impl Handler for Load {
    #[inline]
    fn packet(
        &mut self,
        connections: &mut Connections,
        id: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError> {
        let owner = connections.owner(id);
        if owner & SUBSCRIBER != 0 {
            self.at_subscriber(connections, id, (owner & !SUBSCRIBER) as usize, packet)
        } else {
            self.at_publisher(connections, id, owner as usize, packet)
        }
    }

    fn writable(&mut self, connections: &mut Connections, id: usize) {
        let owner = connections.owner(id);
        if owner & SUBSCRIBER == 0 {
            self.call(owner as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ProtocolVersion;

    fn load(publishers: usize, subscribers: usize, is_broadcast: bool) -> Load {
        let publishing = Publishing {
            version: ProtocolVersion::V5,
            qos: QoS::AtLeastOnce,
            retain: false,
            payload: 20,
            maximum_packet_size: u32::MAX,
            in_flight: 10,
            window: Some(5),
            batch: 1,
            limit: 100,
        };
        let flows = Flows { publishers, subscribers, is_broadcast, copies: 1, is_ordered: true };
        let heads = Heads::new(&publishing, ["a/b".to_owned(), "c/d".to_owned()].into_iter()).unwrap();
        let connections: Vec<_> = (0..publishers).collect();
        Load::new(publishing, flows, heads, 1, &connections, None)
    }

    /// What is written, decoded as the broker would.
    fn sent(load: &mut Load, count: usize) -> Vec<(Vec<u8>, u16, Vec<u8>)> {
        let mut out = Vec::new();
        for _ in 0..count {
            load.send(&mut out, 0, 7_000);
        }
        let mut all = Vec::new();
        let mut rest = &out[..];
        while let Some(header) = crate::codec::read_header(rest).unwrap() {
            let (frame, behind) = rest.split_at(header.frame_length());
            rest = behind;
            let publish =
                decode_publish(ProtocolVersion::V5, header.first_byte, &frame[header.header_length..])
                    .unwrap();
            all.push((publish.topic.to_vec(), publish.packet_id.unwrap().get(), publish.payload.to_vec()));
        }
        all
    }

    #[test]
    fn messages_take_the_topics_in_turn_and_are_counted_where_they_arrive() {
        let mut load = load(1, 1, false);
        let messages = sent(&mut load, 4);
        let topics: Vec<_> = messages.iter().map(|(topic, id, _)| (topic.as_slice(), *id)).collect();
        assert_eq!(topics, [(&b"a/b"[..], 1), (b"c/d", 2), (b"a/b", 3), (b"c/d", 4)]);
        load.look_for_duplicates();
        load.measure_from = 7_000;
        // 1 may come after 2, which is of another topic; 0 may not, nor 1 again.
        for index in [2, 0, 1, 1, 3] {
            load.arrive(0, &messages[index].2, 7_500);
        }
        load.arrive(0, b"somebody else's", 7_500);
        let counts = (load.delivered, load.out_of_order, load.duplicates(), load.foreign, load.missing());
        assert_eq!(counts, (4, 1, Some(1), 1, 0));
        assert!(load.is_delivered());
        assert_eq!((load.times.count(), load.times.quantile(0.5) / 10), (4, 50));
    }

    #[test]
    fn the_slowest_subscriber_holds_the_window_until_it_is_given_up() {
        let mut load = load(1, 2, true);
        let connections = Connections::new().unwrap();
        let messages = sent(&mut load, 5);
        assert_eq!(load.room(&connections, 0), 0);
        for (_, _, payload) in &messages {
            load.arrive(0, payload, 8_000);
        }
        load.arrive(1, &messages[0].2, 8_000);
        assert_eq!(load.room(&connections, 0), 1, "only one has reached both");
        assert_eq!(load.missing(), 4);
        assert_eq!(load.give_up(), 4);
        assert_eq!(load.room(&connections, 0), 5);
    }

    #[test]
    fn each_subscriber_may_have_a_message_once() {
        let mut load = load(1, 2, true);
        load.look_for_duplicates();
        let messages = sent(&mut load, 3);
        for subscriber in [0, 1, 1] {
            messages.iter().for_each(|(_, _, payload)| load.arrive(subscriber, payload, 8_000));
        }
        assert_eq!((load.delivered, load.duplicates(), load.missing()), (6, Some(3), 0));
    }

    #[test]
    fn what_is_overdue_goes_out_as_soon_as_the_broker_or_the_buffer_lets_it() {
        let mut connections = Connections::new().unwrap();
        for (qos, payload, at_once, is_pressed) in
            [(QoS::AtLeastOnce, 20, 10, false), (QoS::AtMostOnce, 20_000, 1 + 6, true)]
        {
            let mut load = load(1, 1, false);
            load.schedule = Some(Schedule::new(1e9));
            load.publishing = Publishing { qos, payload, window: None, ..load.publishing };
            load.message_length = payload;
            for now in [0, 1_000_000] {
                load.send_due(&mut connections, now);
            }
            assert_eq!((load.sent, load.unsent()), (at_once, 100 - at_once), "{qos:?}");
            assert_eq!(load.is_pressed(&connections), is_pressed, "{qos:?}");
            (0..20).for_each(|_| load.send_due(&mut connections, 1_000_000));
            assert_eq!(load.sent, if is_pressed { 100 } else { at_once }, "{qos:?}");
        }
    }
}
