//! What a client sends, packet by packet: from a read buffer to the broker's verbs and the acknowledgements owed.
//!
//! Owner: the connection. The hot path is a run: consecutive PUBLISH packets are gathered and routed at once.
//! Whatever else comes ends the run first, so everything happens in the order it was sent. What always holds: a QoS 2
//! message is routed once, however often it is sent [MQTT-4.3.3-10]; an acknowledgement goes out after what it
//! acknowledges was routed, and committed where it has to last.

mod exchanges;

use std::borrow::Cow;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use self::exchanges::{Received, Then, acknowledgement_kind, unreleased};
use super::Shared;
use super::acks::Acks;
use super::failure::Failure;
use super::gathering::{Gathering, renew};
use super::login::auth_packet;
use super::permit::{Permits, covers};
use crate::auth::acl::Decision;
use crate::auth::{Exchange, Refused, SCRAM_SHA_256, Why};
use crate::broker::{Counter, Denial, Ending, SessionHandle, Subscribed};
use crate::codec::{
    Auth, DecodeError, Disconnect, Packet, PacketType, ProtocolVersion, Publish, QoS, ReasonCode, SubAck,
    Subscribe, UnsubAck, Unsubscribe, decode_body, decode_publish, read_header,
};
use crate::config::DeniedPublish;
use crate::message::{Incoming, Run};
use crate::session::{Close, IncomingAliases, Lifetime, LinkId, Report};
use crate::store::{CommitSeq, Condition};
use crate::topic::TopicName;

/// All of a PINGRESP.
const PINGRESP: [u8; 2] = [PacketType::PingResp.first_byte(), 0];

/// See the module.
#[derive(Debug)]
pub struct Inbound {
    shared: Arc<Shared>,
    handle: Arc<SessionHandle>,
    /// The connection that this is.
    link: LinkId,
    version: ProtocolVersion,
    /// The client's Maximum Packet Size.
    maximum_packet_size: u32,
    /// Ours towards it.
    packet_limit: u32,
    /// QoS 2 exchanges of the client's that are not released.
    unreleased: u16,
    /// As many of those as may be from earlier connections: they do not count against the Receive Maximum, §4.9.
    inherited: u16,
    /// The store keeps what is the session's; that does not change while it is connected.
    kept: bool,
    /// The listener forgives more messages in flight than were granted.
    forgives_receive_maximum: bool,
    /// It was forgiven something, and the log says so.
    forgiven: bool,
    aliases: Option<Box<IncomingAliases>>,
    /// What its client may publish; `None` as long as there are no rules.
    permits: Option<Box<Permits>>,
    /// How the client may prove again who it is; `None` if it did not say so that way.
    again: Option<Box<Again>>,
    /// What is owed to the client.
    pub acks: Acks,
    /// How the client asked to be disconnected, if it did.
    pub ending: Option<Box<Ending>>,
}

/// What re-authentication needs.
#[derive(Debug)]
struct Again {
    listener: Box<str>,
    /// One that waits for the client's second message.
    exchange: Option<Exchange>,
}

/// Borrowed for one batch.
#[derive(Debug)]
pub struct Batch<'r> {
    /// What the batch does.
    pub report: &'r mut Report,
    /// When it was read.
    pub now: Instant,
    /// PUBLISH packets that may still be handled.
    pub messages: usize,
    /// Empty; the room that the next run takes.
    pub run: &'r mut Vec<Incoming<'static>>,
}

/// What was counted in one batch.
#[derive(Debug, Default)]
struct Tally {
    packets: u64,
    publishes: u64,
    publish_bytes: u64,
}

impl Inbound {
    /// For a connection whose CONNECT was accepted.
    pub fn new(
        shared: Arc<Shared>,
        handle: Arc<SessionHandle>,
        link: LinkId,
        version: ProtocolVersion,
        maximum_packet_size: Option<u32>,
        packet_limit: u32,
        forgives_receive_maximum: bool,
    ) -> Self {
        let (unreleased, kept) = {
            let state = handle.lock();
            (unreleased(&state.session), state.session.is_kept())
        };
        Self {
            shared,
            handle,
            link,
            unreleased,
            inherited: unreleased,
            kept,
            version,
            maximum_packet_size: maximum_packet_size.unwrap_or(u32::MAX),
            packet_limit,
            forgives_receive_maximum,
            forgiven: false,
            aliases: None,
            permits: None,
            again: None,
            acks: Acks::default(),
            ending: None,
        }
    }

    /// What all connections share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Has go out what the store has committed meanwhile; it wakes this waker when there is more.
    pub fn release_acknowledgements(&mut self, waker: &Waker) {
        self.acks.release(&*self.shared.broker.store, waker);
    }

    /// What the client speaks.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// The connection's name.
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// The session it speaks to.
    pub fn handle(&self) -> &Arc<SessionHandle> {
        &self.handle
    }

    /// The client came in by enhanced authentication on this listener, and may repeat it.
    pub fn may_authenticate_again(&mut self, listener: &str) {
        self.again = Some(Box::new(Again { listener: listener.into(), exchange: None }));
    }

    /// Handles every whole packet in a buffer, up to a PUBLISH that the client may not send yet; how many bytes those were.
    /// Whoever is to be sent what is in it may hold the buffer.
    ///
    /// # Errors
    /// Why the connection is to end. All packets before the offending one have been handled.
    pub fn handle_bytes(&mut self, input: &Arc<Vec<u8>>, batch: &mut Batch<'_>) -> Result<usize, Failure> {
        Permits::renew(&mut self.permits, &self.shared.broker, &self.handle);
        let mut run = Gathering::new(renew(std::mem::take(batch.run)));
        let mut tally = Tally::default();
        let result = self.handle_packets(input, &mut run, &mut tally, batch);
        // What it has to say comes first.
        let result = self.flush(&mut run, input, batch).and(result);
        *batch.run = renew(run.messages);
        let counters = &self.shared.broker.counters;
        counters.add(Counter::BytesReceived, *result.as_ref().unwrap_or(&input.len()) as u64);
        counters.add(Counter::PacketsReceived, tally.packets);
        counters.add(Counter::PublishReceived, tally.publishes);
        counters.add(Counter::PublishBytesReceived, tally.publish_bytes);
        result
    }

    fn handle_packets<'a>(
        &mut self,
        input: &'a Arc<Vec<u8>>,
        run: &mut Gathering<'a>,
        tally: &mut Tally,
        batch: &mut Batch<'_>,
    ) -> Result<usize, Failure> {
        let mut position = 0;
        let limit = self.packet_limit as usize;
        while let Some(rest) = input.get(position..) {
            let alike = run.extend(self.version, input, position, limit, batch.messages);
            if alike.packets > 0 {
                batch.messages -= alike.packets;
                tally.packets += alike.packets as u64;
                tally.publishes += alike.packets as u64;
                tally.publish_bytes += alike.payload_bytes as u64;
                position += alike.bytes;
                continue;
            }
            let Some(header) = read_header(rest)? else { break };
            let size = header.frame_length();
            if size > limit {
                return Err(DecodeError::PacketTooLarge { size, limit }.into());
            }
            let Some((frame, _)) = rest.split_at_checked(size) else { break };
            let body = frame.get(header.header_length..).unwrap_or_default();
            if acknowledgement_kind(header.first_byte).is_some() {
                self.flush(run, input, batch)?;
                position += self.handle_acknowledgements(rest, tally, batch)?;
                continue;
            }
            let is_publish = header.first_byte >> 4 == PacketType::Publish as u8;
            if is_publish && batch.messages == 0 {
                break;
            }
            tally.packets += 1;
            if is_publish {
                batch.messages -= 1;
                tally.publishes += 1;
                let publish = decode_publish(self.version, header.first_byte, body)?;
                tally.publish_bytes += publish.payload.len() as u64;
                self.gather(publish, frame, position, input, run, batch)?;
            } else {
                self.flush(run, input, batch)?;
                if header.packet_type() == Some(PacketType::Connect) {
                    // Whatever it says: what is wrong with a first CONNECT does not matter in a second.
                    return Err(Failure::SecondConnect);
                }
                let packet = decode_body(self.version, header.first_byte, body)?;
                self.handle_packet(packet, batch)?;
            }
            position += size;
        }
        Ok(position)
    }

    /// Adds a PUBLISH to the run, or routes the run and begins another.
    fn gather<'a>(
        &mut self,
        publish: Publish<'a>,
        frame: &'a [u8],
        position: usize,
        input: &'a Arc<Vec<u8>>,
        run: &mut Gathering<'a>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Failure> {
        self.check_publish(&publish)?;
        let has_alias = publish.properties.topic_alias.is_some();
        let resolved = if has_alias { Some(self.resolve_alias(&publish)?) } else { None };
        let topic = resolved.as_deref().map_or(publish.topic, str::as_bytes);
        let mut place = run.place_of(topic);
        if !run.takes(place, &publish) {
            self.flush(run, input, batch)?;
            place = run.place_of(topic);
        }
        let place = match (place, resolved) {
            (Some(place), _) => place,
            (None, resolved) => {
                let topic = match resolved {
                    Some(topic) => Cow::Owned(topic),
                    None => Cow::Borrowed(TopicName::parse(publish.topic)?.as_str()),
                };
                let permit = self.permit(&topic);
                run.add_topic(topic, permit)
            }
        };
        run.turn_to(place);
        let (_, permit) = run.current();
        let is_allowed = covers(&permit, &publish);
        if !is_allowed {
            self.deny(run, batch)?;
        }
        if is_allowed {
            run.push(publish, frame, position);
            run.note_head();
            return Ok(());
        }
        self.flush(run, input, batch)?;
        let denied = [Incoming::new(publish, frame)];
        let is_exactly_once = denied.iter().any(|denied| denied.publish.qos == QoS::ExactlyOnce);
        let (reason, wait_for) = match self.receive(&denied, is_exactly_once).then {
            Some(Then::Failed(failure)) => return Err(*failure),
            Some(Then::Repeated(first)) => (ReasonCode::Success, first),
            None if self.version == ProtocolVersion::V5 => (ReasonCode::NotAuthorized, CommitSeq::default()),
            // In 3.x an acknowledgement cannot say so.
            None => (ReasonCode::Success, CommitSeq::default()),
        };
        let [Incoming { publish, .. }] = &denied;
        self.answer(publish, reason, wait_for, batch);
        Ok(())
    }

    /// Routes what was gathered, and acknowledges it.
    ///
    /// # Errors
    /// As soon as a message may not be sent; those before it have been routed.
    fn flush(
        &mut self,
        run: &mut Gathering<'_>,
        input: &Arc<Vec<u8>>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Failure> {
        let mut result = Ok(());
        let mut rest = &run.messages[..];
        // Before 5.0 a client may have as many QoS 1 messages in flight as it likes.
        let is_counted = run.exactly_once || run.is_owed && self.version == ProtocolVersion::V5;
        while !rest.is_empty() {
            let all = Received { count: rest.len(), transaction: None, then: None };
            let received = if is_counted { self.receive(rest, run.exactly_once) } else { all };
            let Received { count, transaction, then } = received;
            let (messages, behind) = rest.split_at_checked(count).unwrap_or_default();
            let is_whole = messages.len() == run.messages.len();
            if !messages.is_empty() {
                let routed = self.shared.broker.publish(
                    &Run {
                        version: self.version,
                        topics: &run.topics,
                        messages,
                        now: batch.now,
                        publisher: self.handle.publisher,
                        publisher_session: self.kept.then_some(self.handle.number),
                        plain: if run.plain && is_whole { input.get(run.start..run.end) } else { None },
                        // Of some of the messages it is not known how much of it they are.
                        buffer: is_whole.then_some(input),
                        copy: None,
                        longest_frame: run.longest_frame,
                        payload_bytes: run.payload_bytes,
                    },
                    transaction,
                    batch.report,
                );
                if run.is_owed {
                    self.acknowledge(messages, run.plain, routed, batch);
                }
            }
            let (Some(then), Some((next, behind_next))) = (then, behind.split_first()) else { break };
            rest = behind_next;
            match then {
                // What it repeats may have gone nowhere meanwhile: then it is a new message.
                Then::Repeated(_) if messages.iter().any(Incoming::is_rejected) => rest = behind,
                // It is acknowledged again, and nothing more.
                Then::Repeated(first) => self.answer(&next.publish, ReasonCode::Success, first, batch),
                Then::Failed(failure) => {
                    result = Err(*failure);
                    break;
                }
            }
        }
        run.clear();
        result
    }

    /// What the client may publish to a topic: nothing to `$SYS`, which is the broker's own.
    fn permit(&mut self, topic: &str) -> Decision {
        let topic = TopicName::assume_checked(topic);
        match &mut self.permits {
            _ if topic.is_of_the_broker() => Decision::default(),
            Some(permits) => permits.decide(topic),
            None => Decision::FREE,
        }
    }

    /// Notes a message that its client may not publish; an error if the connection is to end for it.
    fn deny(&self, run: &Gathering<'_>, batch: &Batch<'_>) -> Result<(), Failure> {
        self.shared.broker.counters.add(Counter::DeniedPublish, 1);
        let (topic, permit) = run.current();
        let topic = TopicName::assume_checked(topic);
        let denial = if topic.is_of_the_broker() {
            Some(Denial::of_the_broker("publish", topic))
        } else {
            self.permits.as_ref().and_then(|permits| permits.denial(topic.as_str(), permit))
        };
        let Some(denial) = denial else { return Ok(()) };
        self.log_denial(&denial, batch.now);
        let close = self.shared.auth.denied_publish() == DeniedPublish::Close;
        if close && self.version != ProtocolVersion::V5 {
            Err(Failure::PublishDenied(denial))
        } else {
            Ok(())
        }
    }

    fn log_denial(&self, denial: &Denial, now: Instant) {
        let state = self.handle.lock();
        let user = state.identity.as_ref().and_then(|identity| identity.user.clone());
        let peer = state.peer.socket_address();
        drop(state);
        self.shared.denials.denied(&self.handle.client_id, user.as_deref(), peer, denial, now);
    }

    /// What a PUBLISH may not ask of this broker.
    fn check_publish(&self, publish: &Publish<'_>) -> Result<(), Failure> {
        let settings = &self.shared.broker.settings;
        if publish.properties.has_subscription_identifier {
            return Err(Failure::SubscriptionIdentifier);
        }
        if publish.qos > settings.maximum_qos {
            return Err(Failure::QoSNotSupported);
        }
        if publish.retain && !settings.retained.available {
            return Err(Failure::RetainNotSupported);
        }
        Ok(())
    }

    /// The topic of a PUBLISH with an alias, which it sets or uses, §3.3.2.3.4.
    fn resolve_alias(&mut self, publish: &Publish<'_>) -> Result<String, Failure> {
        let Some(alias) = publish.properties.topic_alias else { return Err(DecodeError::TopicEmpty.into()) };
        let most = self.shared.broker.settings.topic_alias_maximum;
        if alias.get() > most {
            return Err(Failure::TopicAliasTooLarge(alias.get(), most));
        }
        if publish.topic.is_empty() {
            let topic = self.aliases.as_ref().and_then(|aliases| aliases.get(alias));
            return topic
                .map(|topic| topic.as_str().to_owned())
                .ok_or(Failure::TopicAliasUnknown(alias.get()));
        }
        let topic = TopicName::parse(publish.topic)?;
        self.aliases.get_or_insert_default().set(alias, topic);
        Ok(topic.as_str().to_owned())
    }

    fn handle_packet(&mut self, packet: Packet<'_>, batch: &mut Batch<'_>) -> Result<(), Failure> {
        if !self.handle.lock().session.is_attached(self.link) {
            return Err(Failure::Close(Close::TakenOver));
        }
        match packet {
            Packet::Subscribe(packet) => self.subscribe(&packet, batch)?,
            Packet::Unsubscribe(packet) => self.unsubscribe(&packet, batch)?,
            Packet::PingReq => self.answer_ping(batch),
            Packet::Disconnect(packet) => return Err(self.disconnect(&packet)),
            Packet::Auth(packet) => self.authenticate_again(&packet, batch)?,
            // The first six were taken out before.
            Packet::Connect(_)
            | Packet::Publish(_)
            | Packet::PubAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => return Err(Failure::UnexpectedPacket(packet.packet_type())),
        }
        Ok(())
    }

    /// Behind what is owed, as one would expect; but a disk that is full must not make a client take us for dead.
    fn answer_ping(&mut self, batch: &mut Batch<'_>) {
        let store = &*self.shared.broker.store;
        let pool = &mut batch.report.buffers;
        batch.report.packets_sent += 1;
        if store.condition() == Condition::Failing {
            self.acks.push_ahead(&PINGRESP, store, pool);
        } else {
            self.acks.push(CommitSeq::default(), store, pool, |bytes| bytes.extend_from_slice(&PINGRESP));
        }
    }

    /// The client proves again who it is, while everything else goes on, §4.12.1.
    fn authenticate_again(&mut self, packet: &Auth<'_>, batch: &mut Batch<'_>) -> Result<(), Failure> {
        let unexpected = Failure::UnexpectedPacket(PacketType::Auth);
        // [MQTT-4.12.0-5]: the method stays what it was.
        let Some(again) = self.again.as_mut().filter(|_| packet.authentication_method == Some(SCRAM_SHA_256))
        else {
            return Err(unexpected);
        };
        let auth = &self.shared.auth;
        let data = packet.authentication_data.unwrap_or_default();
        let (reason, answer) = match (packet.reason, again.exchange.take()) {
            (ReasonCode::ReAuthenticate, None) => {
                let begun = auth.begin_scram(&again.listener, data).ok_or(unexpected)?;
                let (exchange, answer) = begun.map_err(Failure::NotProvedAgain)?;
                again.exchange = Some(exchange);
                (ReasonCode::ContinueAuthentication, answer)
            }
            (ReasonCode::ContinueAuthentication, Some(exchange)) => {
                let (identity, answer) =
                    auth.finish_scram(exchange, data).map_err(Failure::NotProvedAgain)?;
                let known = self.handle.lock().identity.as_ref().and_then(|known| known.user.clone());
                if identity.user != known {
                    let why = Why::AnotherUser;
                    return Err(Failure::NotProvedAgain(Refused { authenticator: SCRAM_SHA_256, why }));
                }
                (ReasonCode::Success, answer)
            }
            (_, _) => return Err(unexpected),
        };
        self.send(&auth_packet(reason, &answer), CommitSeq::default(), batch)
    }

    fn subscribe(&mut self, packet: &Subscribe<'_>, batch: &mut Batch<'_>) -> Result<(), Failure> {
        let Subscribed { reasons, sequence, denials } = self.shared.broker.subscribe(&self.handle, packet)?;
        for denial in &denials {
            self.log_denial(denial, batch.now);
        }
        let answer =
            SubAck { packet_id: packet.packet_id, reason_string: None, user_properties: Vec::new(), reasons };
        self.send(&Packet::SubAck(answer), sequence, batch)?;
        // What a kept session gets may have to be kept, and comes behind the SUBACK with all else.
        if !self.kept && !self.acks.hold_a_suback() {
            let Batch { report, now, .. } = batch;
            self.shared.broker.replay_at_once(&self.handle, packet.requests.len(), report, *now);
        }
        Ok(())
    }

    fn unsubscribe(&mut self, packet: &Unsubscribe<'_>, batch: &mut Batch<'_>) -> Result<(), Failure> {
        let (reasons, sequence) = self.shared.broker.unsubscribe(&self.handle, &packet.filters);
        let answer = UnsubAck {
            packet_id: packet.packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reasons,
        };
        self.send(&Packet::UnsubAck(answer), sequence, batch)
    }

    /// Notes how the client wants to end, and ends the connection.
    fn disconnect(&mut self, packet: &Disconnect<'_>) -> Failure {
        let asks_for_expiry = packet.session_expiry_interval.is_some_and(|seconds| seconds > 0);
        if asks_for_expiry && self.handle.lock().session.lifetime == Lifetime::Connection {
            return Failure::SessionExpiryInterval;
        }
        self.ending = Some(Box::new(Ending::Disconnect {
            discard_will: packet.reason == ReasonCode::Success,
            session_expiry_interval: packet.session_expiry_interval,
        }));
        Failure::of_disconnect(packet.reason)
    }

    /// Owes a packet to the client.
    ///
    /// # Errors
    /// If it is larger than the client takes, even in its shortest form: the client would wait for it for ever.
    pub fn send(
        &mut self,
        packet: &Packet<'_>,
        sequence: CommitSeq,
        batch: &mut Batch<'_>,
    ) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        packet
            .encode_within(self.version, Some(self.maximum_packet_size), &mut bytes)
            .map_err(|_| Failure::AnswerTooLarge(packet.packet_type()))?;
        batch.report.packets_sent += 1;
        let pool = &mut batch.report.buffers;
        self.acks.push(sequence, &*self.shared.broker.store, pool, |out| out.extend_from_slice(&bytes));
        Ok(())
    }
}
