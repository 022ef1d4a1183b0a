//! A broker on invented time, and clients of it that are polled by hand.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use fulmar::auth::Identity;
use fulmar::broker::{
    Accepted, Broker, Ending, NewConnection, Progress, Refusal, RetainedLimits, Routed, SessionHandle,
    Settings, SysReporter,
};
use fulmar::codec::{
    AckKind, Connect, ConnectProperties, MessageProperties, Packet, PacketId, ProtocolVersion, PublishHeader,
    PublishProperties, QoS, ReasonCode, Subscribe, SubscriptionOptions, SubscriptionRequest, Will, decode,
    decode_publish, encode_publish, read_header,
};
use fulmar::config::{Overflow, SharedStrategy};
use fulmar::message::{Incoming, Publisher, Run};
use fulmar::session::{Acknowledged, LinkId, QueueLimits, Report, SessionLimits};
use fulmar::store::{CommitSeq, MemoryStore, Recovered, Store, Transaction};
use fulmar::topic::TopicName;

pub use QoS::{AtLeastOnce as Q1, AtMostOnce as Q0, ExactlyOnce as Q2};

/// What the tests begin with: no bound is met unless a test sets one.
pub fn settings() -> Settings {
    Settings {
        session: SessionLimits {
            max_inflight: 1_000,
            queue: QueueLimits {
                messages: 1_000_000,
                bytes: u64::MAX,
                overflow: Overflow::DropOldest,
                in_memory: 1_000_000,
            },
            outbox_soft: 256 * 1024,
            outbox_hard: 8 * 1024 * 1024,
        },
        total_queue_bytes: u64::MAX,
        receive_maximum: 1_024,
        topic_alias_maximum: 64,
        topic_alias_maximum_outgoing: 0,
        max_keep_alive: 0,
        expiry_3x: None,
        max_expiry: None,
        maximum_qos: Q2,
        allow_empty_client_id: true,
        max_client_id_length: 1_000,
        max_sessions: usize::MAX,
        max_subscriptions: usize::MAX,
        shared_strategy: SharedStrategy::LeastInFlight,
        retained: RetainedLimits { available: true, messages: usize::MAX, bytes: u64::MAX },
        write_timeout: Duration::from_secs(30),
        workers: 4,
    }
}

/// A broker and its time.
pub struct Bench {
    pub broker: Arc<Broker>,
    pub now: Instant,
    reporter: SysReporter,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_store(Arc::new(MemoryStore::default()), change)
    }

    pub fn with_store(store: Arc<dyn Store>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let now = Instant::now();
        Self { broker: Broker::new(settings, store, now), now, reporter: SysReporter::new() }
    }

    /// The broker begins again with what a store held; its connections are gone.
    pub fn restart(&mut self, store: Arc<dyn Store>, recovered: Recovered) {
        let settings = self.broker.settings.clone();
        self.broker = Broker::new(settings, store, self.now);
        self.broker.restore(recovered, self.now);
    }

    /// Time passes; what was due meanwhile is done when it was due.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.broker.next_deadline().filter(|next| *next <= end) {
            self.now = next;
            self.broker.handle_deadlines(next);
        }
        self.now = end;
        self.broker.handle_deadlines(end);
    }

    /// Publishes as nobody in particular.
    pub fn publish(&self, topic: &str, payload: impl AsRef<[u8]>, qos: QoS) -> Published {
        self.publish_all(topic, &[payload], &Spec { qos, ..Spec::default() })
    }

    /// Publishes a run of messages.
    pub fn publish_all(&self, topic: &str, payloads: &[impl AsRef<[u8]>], spec: &Spec) -> Published {
        let messages: Vec<_> = payloads.iter().map(|payload| (topic, payload.as_ref())).collect();
        self.publish_each(&messages, spec)
    }

    /// Publishes a run of messages, each with its topic and payload.
    pub fn publish_each(&self, messages: &[(&str, &[u8])], spec: &Spec) -> Published {
        let mut input = Vec::new();
        let mut ends = vec![0];
        let mut topics: Vec<Cow<'_, str>> = Vec::new();
        let mut places = Vec::new();
        for (topic, payload) in messages {
            places.push(topics.iter().position(|known| known == topic).unwrap_or(topics.len()));
            if places.last() == Some(&topics.len()) {
                topics.push(TopicName::parse(topic.as_bytes()).unwrap().as_str().into());
            }
            let header = PublishHeader {
                dup: false,
                qos: spec.qos,
                retain: spec.retain,
                packet_id: PacketId::new(1).filter(|_| spec.qos > Q0),
            };
            let properties =
                PublishProperties { message_expiry_interval: spec.expiry, ..PublishProperties::default() };
            encode_publish(&mut input, ProtocolVersion::V5, &header, topic.as_bytes(), properties, payload)
                .unwrap();
            ends.push(input.len());
        }
        let input = Arc::new(input);
        let messages: Vec<Incoming<'_>> = ends
            .windows(2)
            .zip(places)
            .map(|(ends, place)| {
                let frame = &input[ends[0]..ends[1]];
                let header = read_header(frame).unwrap().unwrap();
                let body = &frame[header.header_length..];
                let publish = decode_publish(ProtocolVersion::V5, header.first_byte, body).unwrap();
                let mut incoming = Incoming::new(publish, frame);
                incoming.topic = place as u8;
                incoming
            })
            .collect();
        let mut report = Report::default();
        let run = Run {
            version: ProtocolVersion::V5,
            topics: &topics,
            messages: &messages,
            now: self.now,
            publisher: spec.publisher,
            publisher_session: None,
            plain: (!spec.retain).then_some(&input[..]),
            buffer: Some(&input),
            copy: None,
            longest_frame: messages.iter().map(|incoming| incoming.frame.len()).max().unwrap_or(0),
            payload_bytes: messages.iter().map(|incoming| incoming.publish.payload.len()).sum(),
        };
        let routed = self.broker.publish(&run, None, &mut report);
        let pressed = report.pressed;
        self.broker.settle(&mut report);
        let rejected = messages.iter().filter(|incoming| incoming.is_rejected()).count();
        let unmatched = messages.iter().map(Incoming::is_unmatched).collect();
        Published { routed, rejected, unmatched, pressed }
    }

    /// Connects; panics if it is refused.
    pub fn connect(&self, guest: &Guest) -> Party {
        self.try_connect(guest).unwrap()
    }

    pub fn try_connect(&self, guest: &Guest) -> Result<Party, Refusal> {
        let wakes = Arc::new(Wakes::default());
        let connect = guest.packet();
        let new = NewConnection {
            connect: &connect,
            admission: &self.broker.admission(&connect)?,
            identity: Arc::new(Identity::anonymous()),
            peer: None,
            waker: Waker::from(wakes.clone()),
            now: self.now,
        };
        let Accepted { handle, link, session_present, .. } = self.broker.connect(new)?;
        let broker = self.broker.clone();
        let released = Vec::new();
        Ok(Party { broker, handle, link, session_present, wakes, seen: 0, released })
    }

    /// What `$SYS` says.
    pub fn sys(&mut self, name: &str) -> u64 {
        let mut watcher = self.connect(&Guest::new("sys-watcher"));
        watcher.subscribe("$SYS/#", Q0);
        self.reporter = SysReporter::new();
        self.reporter.publish(&self.broker, self.now);
        let topic = format!("$SYS/broker/{name}");
        let got = watcher.poll(self.now);
        watcher.leave(self.now);
        let value = got.iter().rev().find(|got| got.topic == topic).expect("a $SYS topic");
        String::from_utf8_lossy(&value.payload).parse().unwrap()
    }
}

/// What became of a run.
#[derive(Debug)]
pub struct Published {
    pub routed: Routed,
    pub rejected: usize,
    /// Of each message, whether nobody subscribes to its topic.
    pub unmatched: Vec<bool>,
    /// The publisher is to pause.
    pub pressed: bool,
}

/// How messages are published.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub qos: QoS,
    pub retain: bool,
    pub expiry: Option<u32>,
    pub publisher: Publisher,
}

impl Default for Spec {
    fn default() -> Self {
        Self { qos: Q0, retain: false, expiry: None, publisher: Publisher(u64::MAX) }
    }
}

/// Counts how often a connection was woken.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A CONNECT to be: 5.0, with Clean Start and without Keep Alive.
#[derive(Debug, Clone)]
pub struct Guest {
    pub client_id: String,
    pub clean_start: bool,
    /// Seconds.
    pub expiry: u32,
    pub keep_alive: u16,
    pub receive_maximum: u16,
    pub maximum_packet_size: Option<u32>,
    /// Topic, QoS and delay in seconds.
    pub will: Option<(&'static str, QoS, u32)>,
}

impl Guest {
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            clean_start: true,
            expiry: 0,
            keep_alive: 0,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            will: None,
        }
    }

    /// One whose session lives an hour, and goes on.
    pub fn staying(client_id: impl Into<String>) -> Self {
        Self { clean_start: false, expiry: 3_600, ..Self::new(client_id) }
    }

    pub fn window(self, receive_maximum: u16) -> Self {
        Self { receive_maximum, ..self }
    }

    fn packet(&self) -> Connect<'_> {
        Connect {
            version: ProtocolVersion::V5,
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            client_id: &self.client_id,
            will: self.will.map(|(topic, qos, delay)| Will {
                qos,
                retain: false,
                topic,
                payload: b"gone",
                delay_interval: Some(delay),
                properties: MessageProperties::default(),
            }),
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval: Some(self.expiry),
                receive_maximum: self.receive_maximum.try_into().ok(),
                maximum_packet_size: self.maximum_packet_size,
                ..ConnectProperties::default()
            },
        }
    }
}

/// A message a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub packet_id: Option<PacketId>,
    pub dup: bool,
    pub retain: bool,
    pub expiry: Option<u32>,
    /// The property list as it came.
    pub properties: Vec<u8>,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

pub fn texts(got: &[Got]) -> Vec<String> {
    got.iter().map(Got::text).collect()
}

/// One connection.
pub struct Party {
    broker: Arc<Broker>,
    pub handle: Arc<SessionHandle>,
    pub link: LinkId,
    pub session_present: bool,
    wakes: Arc<Wakes>,
    seen: usize,
    /// PUBREL packets that came with a poll.
    pub released: Vec<PacketId>,
}

impl Party {
    /// Publishes as this session's client does; what the acknowledgement waits for. What was received before goes
    /// nowhere.
    pub fn publish(&self, topic: &str, payload: &str, qos: QoS, id: PacketId, now: Instant) -> CommitSeq {
        let mut input = Vec::new();
        let header = PublishHeader { dup: false, qos, retain: false, packet_id: Some(id) };
        let properties = PublishProperties::default();
        let bytes = payload.as_bytes();
        encode_publish(&mut input, ProtocolVersion::V5, &header, topic.as_bytes(), properties, bytes)
            .unwrap();
        let frame = &input[..];
        let header = read_header(frame).unwrap().unwrap();
        let body = &frame[header.header_length..];
        let publish = decode_publish(ProtocolVersion::V5, header.first_byte, body).unwrap();
        let mut transaction = None;
        if qos == Q2 {
            let begun = Transaction::begin(&self.broker.store);
            if let Err(first) = self.handle.lock().session.receive(id, begun.sequence()) {
                return first;
            }
            transaction = Some(begun);
        }
        let mut report = Report::default();
        let run = Run {
            version: ProtocolVersion::V5,
            topics: &[TopicName::parse(topic.as_bytes()).unwrap().as_str().into()],
            messages: &[Incoming::new(publish, frame)],
            now,
            publisher: self.handle.publisher,
            publisher_session: Some(self.handle.number),
            plain: None,
            buffer: None,
            copy: None,
            longest_frame: frame.len(),
            payload_bytes: payload.len(),
        };
        let routed = self.broker.publish(&run, transaction, &mut report);
        self.broker.settle(&mut report);
        routed.sequence
    }

    /// Acknowledges, or releases; the answer, and what it waits for.
    pub fn answer_to(&self, kind: AckKind, id: PacketId) -> (Acknowledged, CommitSeq) {
        let mut report = Report::default();
        let mut state = self.handle.lock();
        let transaction = self.broker.reserve(&mut report);
        let sequence = report.sequence;
        let acknowledged = state.session.handle_acknowledgement(kind, id, ReasonCode::Success, &mut report);
        self.broker.append_gathered(transaction, &mut report);
        (acknowledged, sequence)
    }

    fn waker(&self) -> Waker {
        Waker::from(self.wakes.clone())
    }

    /// Whether it was woken since this was last asked.
    pub fn was_woken(&mut self) -> bool {
        let wakes = self.wakes.0.load(Ordering::Relaxed);
        std::mem::replace(&mut self.seen, wakes) < wakes
    }

    /// Whether it has its session still.
    pub fn is_owner(&self) -> bool {
        self.handle.lock().session.is_attached(self.link)
    }

    /// Polls as long as there is more; panics if the session is lost.
    pub fn poll(&mut self, now: Instant) -> Vec<Got> {
        let mut got = Vec::new();
        loop {
            let (messages, more) = self.poll_once(now).expect("it owns its session");
            got.extend(messages);
            if !more {
                return got;
            }
        }
    }

    /// Polls only if it was woken, as a task does.
    pub fn poll_if_woken(&mut self, now: Instant) -> Vec<Got> {
        if self.was_woken() { self.poll(now) } else { Vec::new() }
    }

    /// One poll; whether it asks for another. `None` if the session is lost.
    pub fn poll_once(&mut self, now: Instant) -> Option<(Vec<Got>, bool)> {
        let mut report = Report::default();
        let progress = Progress { take: true, may_replay: true, ..Progress::default() };
        let polled = self.broker.poll(&self.handle, self.link, progress, &mut report, &self.waker(), now)?;
        let mut batch = polled.output.batch;
        let mut bytes = Vec::new();
        while !batch.is_finished() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let filled = batch.slices(&mut slices);
            let before = bytes.len();
            slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
            batch.advance(bytes.len() - before);
        }
        let mut got = Vec::new();
        let mut rest = &bytes[..];
        while let Some(header) = read_header(rest).unwrap() {
            let (frame, behind) = rest.split_at(header.frame_length());
            rest = behind;
            let packet = decode(ProtocolVersion::V5, frame).unwrap();
            if let Packet::PubRel(pubrel) = &packet {
                self.released.push(pubrel.packet_id);
            }
            if let Packet::Publish(publish) = packet {
                got.push(Got {
                    topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                    payload: publish.payload.to_vec(),
                    qos: publish.qos,
                    packet_id: publish.packet_id,
                    dup: publish.dup,
                    retain: publish.retain,
                    expiry: publish.properties.message_expiry_interval,
                    properties: publish.properties.raw.to_vec(),
                });
            }
        }
        Some((got, polled.more))
    }

    /// What the session asks its connection to do.
    pub fn close(&self) -> Option<fulmar::session::Close> {
        self.handle.lock().session.link.as_ref().and_then(|link| link.close)
    }

    /// Tells how writing goes; takes nothing.
    pub fn progress(&mut self, progress: Progress, now: Instant) {
        let mut report = Report::default();
        assert!(
            self.broker.poll(&self.handle, self.link, progress, &mut report, &self.waker(), now).is_some()
        );
    }

    /// Acknowledges a message in full.
    pub fn acknowledge(&self, got: &Got) {
        let Some(id) = got.packet_id else { return };
        if got.qos == Q2 {
            self.acknowledge_as(AckKind::PubRec, id, ReasonCode::Success);
            self.acknowledge_as(AckKind::PubComp, id, ReasonCode::Success);
        } else {
            self.acknowledge_as(AckKind::PubAck, id, ReasonCode::Success);
        }
    }

    pub fn acknowledge_as(&self, kind: AckKind, id: PacketId, reason: ReasonCode) -> Acknowledged {
        let mut report = Report::default();
        let mut state = self.handle.lock();
        let transaction = self.broker.reserve(&mut report);
        let acknowledged = state.session.handle_acknowledgement(kind, id, reason, &mut report);
        self.broker.append_gathered(transaction, &mut report);
        acknowledged
    }

    /// Polls and acknowledges until nothing comes.
    pub fn drain(&mut self, now: Instant) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            let got = self.poll(now);
            if got.is_empty() {
                return all;
            }
            got.iter().for_each(|got| self.acknowledge(got));
            all.extend(got);
        }
    }

    pub fn subscribe(&mut self, filter: &str, qos: QoS) {
        let reason = self.subscribe_as(filter, 0, SubscriptionOptions { qos, ..Default::default() });
        assert_eq!(reason as u8, qos as u8);
    }

    /// Subscribes; in a session that was taken away meanwhile that is refused.
    pub fn subscribe_if_owner(&mut self, filter: &str) {
        let options = SubscriptionOptions { qos: Q1, ..Default::default() };
        self.subscribe_as(filter, 0, options);
    }

    pub fn subscribe_as(
        &mut self,
        filter: &str,
        identifier: u32,
        options: SubscriptionOptions,
    ) -> ReasonCode {
        let subscribe = Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            subscription_identifier: (identifier > 0).then_some(identifier),
            user_properties: Vec::new(),
            requests: vec![SubscriptionRequest { filter, options }],
        };
        self.broker.subscribe(&self.handle, &subscribe).unwrap().reasons[0]
    }

    pub fn unsubscribe(&self, filter: &str) -> ReasonCode {
        self.broker.unsubscribe(&self.handle, &[filter]).0[0]
    }

    /// The connection breaks.
    pub fn cut(&self, now: Instant) {
        self.broker.disconnect(&self.handle, self.link, Ending::Broken, now);
    }

    /// It says DISCONNECT.
    pub fn leave(&self, now: Instant) {
        let ending = Ending::Disconnect { discard_will: true, session_expiry_interval: None };
        self.broker.disconnect(&self.handle, self.link, ending, now);
    }

    pub fn leave_with(&self, session_expiry_interval: u32, now: Instant) {
        let session_expiry_interval = Some(session_expiry_interval);
        let ending = Ending::Disconnect { discard_will: true, session_expiry_interval };
        self.broker.disconnect(&self.handle, self.link, ending, now);
    }
}
