//! The server half: Fulmar's session, and around it what a connection's task does, without a socket.

use std::io::IoSlice;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use fulmar::codec::{
    AckKind, Acknowledgement, Packet, PacketId, ProtocolVersion, Publish, PublishHeader, PublishProperties,
    QoS, ReasonCode, decode, decode_publish, encode_acknowledgement, encode_publish, read_header,
};
use fulmar::config::Overflow;
use fulmar::message::{Incoming, Message, Publisher, Run};
use fulmar::session::{
    Acknowledged, Batch, Context, Lifetime, Link, LinkId, Outbox, OutgoingAliases, QueueBudget, QueueLimits,
    Report, Session, SessionLimits, Terms,
};
use fulmar::store::{CommitSeq, RowSeq, Timebase};
use fulmar::topic::TopicName;

use crate::client::{Sent, number_of};
use crate::monitor::Monitor;
use crate::pair::{MAXIMUM_PACKET_SIZE, Size};

/// Small bounds, so that they are met.
const LIMITS: SessionLimits = SessionLimits {
    max_inflight: 50,
    queue: QueueLimits { messages: 100_000, bytes: u64::MAX, overflow: Overflow::DropOldest, in_memory: 0 },
    outbox_soft: 2 * 1024,
    outbox_hard: 64 * 1024,
};

/// What a client says in its CONNECT.
#[derive(Debug, Clone, Copy)]
pub struct NewLink {
    /// `u16::MAX` in 3.x.
    pub receive_maximum: u16,
    pub aliases: u16,
}

/// See the module.
pub struct Server {
    session: Session,
    version: ProtocolVersion,
    budget: Arc<QueueBudget>,
    link: Option<LinkId>,
    links: u64,
    report: Report,
    input: Vec<u8>,
    acks: Vec<u8>,
    writing: Vec<u8>,
    /// There is a reason to poll the connection.
    woken: bool,
    monitor: Monitor,
    /// What was given to the session.
    sent: Vec<Sent>,
    /// What the client published, once it was routed.
    published: Vec<(QoS, u64)>,
}

impl Server {
    pub fn new(version: ProtocolVersion, _: Instant) -> Self {
        let budget = Arc::new(QueueBudget::new(u64::MAX));
        Self {
            session: Session::new(Lifetime::Forever, None, budget.clone()),
            version,
            budget,
            link: None,
            links: 0,
            report: Report::default(),
            input: Vec::new(),
            acks: Vec::new(),
            writing: Vec::new(),
            woken: false,
            monitor: Monitor::default(),
            sent: Vec::new(),
            published: Vec::new(),
        }
    }

    /// All that the client was to get.
    pub fn sent(&self) -> &[Sent] {
        &self.sent
    }

    /// What the client published must have come as often as its QoS says, in order.
    pub fn check_against(&self, sent: &[Sent]) {
        crate::client::check("the server", &self.published, sent);
    }

    pub fn connect(&mut self, new: NewLink) {
        self.lose_connection();
        self.links += 1;
        let id = LinkId(self.links);
        let window = new.receive_maximum.min(LIMITS.max_inflight);
        let is_v5 = self.version == ProtocolVersion::V5;
        // What is left in the outbox of one that it replaces was not sent, and must not have DUP later.
        self.session.attach(Link {
            id,
            version: self.version,
            maximum_packet_size: if is_v5 { MAXIMUM_PACKET_SIZE as u32 } else { u32::MAX },
            window,
            aliases: (new.aliases > 0).then(|| Box::new(OutgoingAliases::new(new.aliases))),
            outbox: Outbox::default(),
            waker: Waker::noop().clone(),
            scheduled: false,
            close: None,
            last_packet: 0,
            silence_allowed: None,
            blocked: None,
            watched: false,
            to_resend: 0,
            untaken: 0,
            gated: None,
        });
        self.monitor.connect(window);
        self.link = Some(id);
        self.woken = true;
    }

    pub fn disconnect(&mut self) {
        if let Some(id) = self.link.take() {
            let timebase = Timebase::now();
            assert!(self.session.detach(id, &timebase).is_some());
            assert!(self.session.detach(id, &timebase).is_none());
        }
        self.lose_connection();
    }

    fn lose_connection(&mut self) {
        (self.input, self.acks, self.writing) = (Vec::new(), Vec::new(), Vec::new());
        self.woken = false;
    }

    /// A message for the client, out of a publisher's packet or as it is kept.
    pub fn deliver(&mut self, qos: QoS, size: Size, expiry: Option<u32>, live: bool, now: Instant) {
        let length = self.length(size);
        self.deliver_packets(qos, 1, length, expiry, live, now);
        if let Some(sent) = self.sent.last_mut() {
            sent.fits = !matches!(size, Size::TooLarge);
            sent.expires_at = expiry.map(|seconds| now + Duration::from_secs(seconds.into()));
        }
    }

    /// Several messages that came in one read.
    pub fn deliver_run(&mut self, qos: QoS, count: u8, size: Size, now: Instant) {
        let length = self.length(size);
        self.deliver_packets(qos, count, length, None, true, now);
    }

    fn length(&self, size: Size) -> usize {
        match size {
            Size::Small => 8 + self.sent.len() % 60,
            Size::Large => 5_000,
            Size::TooLarge => MAXIMUM_PACKET_SIZE,
        }
    }

    fn deliver_packets(
        &mut self,
        qos: QoS,
        count: u8,
        length: usize,
        expiry: Option<u32>,
        live: bool,
        now: Instant,
    ) {
        let topic = format!("topic/{}", self.sent.len() % 3);
        let mut input = Vec::new();
        let mut ends = vec![0];
        for index in 0..count {
            let number = self.sent.len() as u64;
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(length, b'.');
            let header = PublishHeader {
                dup: false,
                qos,
                retain: false,
                packet_id: PacketId::new(u16::from(index) + 1).filter(|_| qos > QoS::AtMostOnce),
            };
            let properties =
                PublishProperties { message_expiry_interval: expiry, ..PublishProperties::default() };
            encode_publish(&mut input, self.version, &header, topic.as_bytes(), properties, &payload)
                .unwrap();
            ends.push(input.len());
            self.sent.push(Sent { qos, number, fits: true, expires_at: None, refused: false });
        }
        let input = Arc::new(input);
        let messages: Vec<Incoming<'_>> = ends
            .windows(2)
            .map(|ends| {
                let frame = &input[ends[0]..ends[1]];
                let header = read_header(frame).unwrap().unwrap();
                let body = &frame[header.header_length..];
                let publish: Publish<'_> = decode_publish(self.version, header.first_byte, body).unwrap();
                Incoming::new(publish, frame)
            })
            .collect();
        let topic = TopicName::parse(topic.as_bytes()).unwrap();
        let timebase = Timebase::now();
        let context = Context { limits: &LIMITS, now, timebase: &timebase };
        let terms = Terms {
            qos: QoS::ExactlyOnce,
            retain_as_published: false,
            identifiers: None,
            group: None,
            group_row: RowSeq::default(),
            several: length > 100,
        };
        if live {
            let run = Run {
                version: self.version,
                topics: &[topic.as_str().into()],
                messages: &messages,
                now,
                publisher: Publisher(77),
                publisher_session: None,
                plain: Some(&input[..]),
                buffer: Some(&input),
                copy: None,
                longest_frame: messages.iter().map(|incoming| incoming.frame.len()).max().unwrap_or(0),
                payload_bytes: messages.iter().map(|incoming| incoming.publish.payload.len()).sum(),
            };
            self.session.deliver(&run, &terms, context, &mut self.report);
        } else {
            for incoming in &messages {
                let message = Message::keep(topic, &incoming.publish, Publisher(77), now);
                self.session.deliver_kept(&message, false, &terms, context, &mut self.report);
            }
        }
        self.note_wakers();
    }

    fn note_wakers(&mut self) {
        self.woken |= !self.report.wakers.is_empty();
        self.report.wakers.clear();
    }

    /// What the client sent arrives.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.input.extend_from_slice(bytes);
        self.woken = true;
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some(header) = read_header(rest).unwrap() {
            let Some((frame, behind)) = rest.split_at_checked(header.frame_length()) else { break };
            let packet = decode(self.version, frame).unwrap();
            self.handle_packet(&packet);
            rest = behind;
        }
        self.input = rest.to_vec();
    }

    fn handle_packet(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::PubAck(ack) => self.handle_acknowledgement(AckKind::PubAck, ack),
            Packet::PubRec(ack) => self.handle_acknowledgement(AckKind::PubRec, ack),
            Packet::PubRel(ack) => self.handle_acknowledgement(AckKind::PubRel, ack),
            Packet::PubComp(ack) => self.handle_acknowledgement(AckKind::PubComp, ack),
            other => panic!("the client model sends no {other:?}"),
        }
    }

    fn handle_publish(&mut self, publish: &Publish<'_>) {
        let packet_id = publish.packet_id.unwrap();
        let (kind, is_new) = match publish.qos {
            QoS::ExactlyOnce => {
                (AckKind::PubRec, self.session.receive(packet_id, CommitSeq::default()).is_ok())
            }
            QoS::AtLeastOnce | QoS::AtMostOnce => (AckKind::PubAck, true),
        };
        if is_new {
            self.published.push((publish.qos, number_of(publish.payload)));
        }
        encode_acknowledgement(&mut self.acks, self.version, kind, packet_id, ReasonCode::Success);
    }

    fn handle_acknowledgement(&mut self, kind: AckKind, ack: &Acknowledgement<'_>) {
        match self.session.handle_acknowledgement(kind, ack.packet_id, ack.reason, &mut self.report) {
            Acknowledged::Answer(answer, packet_id, reason) => {
                if kind == AckKind::PubRec && reason == ReasonCode::Success {
                    self.monitor.received(packet_id);
                }
                encode_acknowledgement(&mut self.acks, self.version, answer, packet_id, reason);
            }
            Acknowledged::Done => self.monitor.finished(ack.packet_id),
            Acknowledged::Unknown => {}
            Acknowledged::Contradiction => panic!("the client contradicts itself: {ack:?}"),
        }
    }

    /// What a poll of the connection's task does, if there is a reason for one.
    pub fn run(&mut self, now: Instant, room: usize, out: &mut impl Extend<u8>) {
        let Some(id) = self.link else { return };
        let mut room = room;
        let was_blocked = !self.writing.is_empty();
        self.write(&mut room, out, now);
        // The task looks for more when what it could not write before is written.
        self.woken |= was_blocked && self.writing.is_empty();
        if !self.woken || !self.writing.is_empty() {
            return;
        }
        self.woken = false;
        let timebase = Timebase::now();
        let context = Context { limits: &LIMITS, now, timebase: &timebase };
        if let Some(link) = &mut self.session.link {
            link.note_unwritten(0, true, now);
        }
        let output = self.session.poll_output(id, CommitSeq::default(), context, &mut self.report).unwrap();
        // A task is not woken by its own poll.
        self.report.wakers.clear();
        self.woken |= output.more;
        self.writing = std::mem::take(&mut self.acks);
        let bytes = bytes_of(output.batch);
        self.watch(&bytes, now);
        self.writing.extend(bytes);
        self.write(&mut room, out, now);
    }

    fn write(&mut self, room: &mut usize, out: &mut impl Extend<u8>, now: Instant) {
        let count = self.writing.len().min(*room);
        *room -= count;
        out.extend(self.writing.drain(..count));
        if let Some(link) = &mut self.session.link {
            link.note_unwritten(self.writing.len(), true, now);
        }
    }

    /// Shows the monitor what leaves.
    fn watch(&mut self, bytes: &[u8], now: Instant) {
        let mut rest = bytes;
        while let Some(header) = read_header(rest).unwrap() {
            let (frame, behind) = rest.split_at(header.frame_length());
            rest = behind;
            match decode(self.version, frame).unwrap() {
                Packet::Publish(publish) => {
                    let number = number_of(publish.payload);
                    self.check_size(frame, number);
                    self.check_expiry(&publish, number, now);
                    self.monitor.publish(publish.qos, publish.packet_id, publish.dup, number);
                }
                Packet::PubRel(ack) => self.monitor.pubrel_again(ack.packet_id),
                other => panic!("the session sends no {other:?}"),
            }
        }
        assert!(rest.is_empty(), "a batch ends with a packet");
    }

    fn check_size(&self, frame: &[u8], number: u64) {
        let sent = &self.sent[number as usize];
        assert!(sent.fits, "{number} is larger than the client takes");
        let is_v5 = self.version == ProtocolVersion::V5;
        assert!(!is_v5 || frame.len() <= MAXIMUM_PACKET_SIZE, "{} bytes", frame.len());
    }

    fn check_expiry(&self, publish: &Publish<'_>, number: u64, now: Instant) {
        let sent = &self.sent[number as usize];
        let Some(expires_at) = sent.expires_at else {
            assert_eq!(publish.properties.message_expiry_interval, None);
            return;
        };
        let left = expires_at.saturating_duration_since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let told: u64 = publish.properties.message_expiry_interval.expect("an expiry is passed on").into();
        // What waits in the outbox was written at another time than it is looked at: it may say a little more.
        assert!(publish.dup || told >= seconds, "{told} s told, {seconds} s left");
    }

    pub fn is_idle(&self) -> bool {
        self.session.in_flight() == 0
            && self.session.queued() == 0
            && self.session.unreleased() == 0
            && self.monitor.unfinished() == 0
            && self.budget.used() == 0
            && self.writing.is_empty()
            && self.acks.is_empty()
            && !self.woken
    }

    pub fn what_is_left(&self) -> String {
        format!(
            "server: {} in flight, {} queued, {} not released, {} bytes of budget, {:?}",
            self.session.in_flight(),
            self.session.queued(),
            self.session.unreleased(),
            self.budget.used(),
            self.monitor
        )
    }
}

/// All bytes of a batch, taken in pieces.
fn bytes_of(mut batch: Batch) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !batch.is_finished() {
        let mut slices = [IoSlice::new(&[]); 3];
        let filled = batch.slices(&mut slices);
        let taken: Vec<u8> =
            slices[..filled].iter().flat_map(|slice| slice.iter().copied()).take(777).collect();
        batch.advance(taken.len());
        bytes.extend(taken);
    }
    bytes
}
