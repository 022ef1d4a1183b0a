//! The exchanges of QoS 1 and 2 with the client, both ways: which messages it may send and what they are acknowledged with, and
//! what it acknowledges itself.
//!
//! Part of [`Inbound`], which calls it for a run and for each row of acknowledgements. What always holds: acknowledgements of
//! messages go out in the order of these [MQTT-4.6.0-2], [MQTT-4.6.0-3]; an identifier is noted before its message is routed, and
//! free again when the client has been told that the message was not taken [MQTT-4.3.3-9].

use super::{Batch, Inbound, Tally};
use crate::broker::Routed;
use crate::codec::{
    AckKind, Acknowledgement, DecodeError, PacketId, ProtocolVersion, Publish, QoS, ReasonCode,
    SHORTEST_ACKNOWLEDGEMENT, decode_acknowledgement, encode_acknowledgement,
    encode_shortest_acknowledgements, read_header, shortest_acknowledgements,
};
use crate::message::Incoming;
use crate::net::failure::Failure;
use crate::session::{Acknowledged, Close, Session};
use crate::store::{CommitSeq, Transaction};

/// What became of messages that were to be received.
pub(super) struct Received {
    /// So many are to be routed.
    pub(super) count: usize,
    /// Reserved, if the session has taken note of QoS 2 messages.
    pub(super) transaction: Option<Transaction>,
    /// What is the matter with the next one.
    pub(super) then: Option<Then>,
}

/// Why a message is not routed.
pub(super) enum Then {
    /// It was received before; what commits that.
    Repeated(CommitSeq),
    /// Its client may not send it now.
    Failed(Box<Failure>),
}

impl Inbound {
    /// Takes note of messages with QoS 2, and counts those with QoS 1 and 2 against the Receive Maximum [MQTT-3.3.4-7].
    pub(super) fn receive(&mut self, messages: &[Incoming<'_>], exactly_once: bool) -> Received {
        // Reserved before the session knows of it: whoever finds it there knows what commits it.
        let transaction = (exactly_once && self.kept).then(|| Transaction::begin(&self.shared.broker.store));
        let sequence = transaction.as_ref().map_or(CommitSeq::default(), Transaction::sequence);
        let most = self.shared.broker.settings.receive_maximum;
        // QoS 2 messages whose PUBREC is held are among the unreleased ones.
        let (held, piles_up) = (self.acks.held_pubacks(), self.acks.held() > 0);
        let (mut count, mut owed, mut then) = (0, 0, None);
        let mut state = exactly_once.then(|| self.handle.lock());
        for incoming in messages {
            let Some(packet_id) = incoming.publish.packet_id else {
                count += 1;
                continue;
            };
            owed += usize::from(incoming.publish.qos == QoS::AtLeastOnce);
            // What is acknowledged at once is in flight alone; what waits for the store piles up.
            let mut in_flight = self.unreleased_here() + held + if piles_up { owed } else { 1 };
            let mut exchange = state.as_mut().filter(|_| incoming.publish.qos == QoS::ExactlyOnce);
            if let Some(state) = &mut exchange {
                // What an earlier connection left in its socket must not begin an exchange that a later one has ended.
                if !state.session.is_attached(self.link) {
                    then = Some(Then::Failed(Box::new(Failure::Close(Close::TakenOver))));
                    break;
                }
                if let Err(first) = state.session.receive(packet_id, sequence) {
                    then = Some(Then::Repeated(first));
                    break;
                }
                self.unreleased = unreleased(&state.session);
                in_flight = self.unreleased_here() + held;
            }
            let exceeds = self.version == ProtocolVersion::V5 && in_flight > usize::from(most);
            if exceeds && !self.forgives_receive_maximum {
                if let Some(state) = &mut exchange {
                    // It goes nowhere, so it is new when it is sent again.
                    state.session.release(packet_id);
                }
                then = Some(Then::Failed(Box::new(Failure::ReceiveMaximumExceeded(most))));
                break;
            }
            if exceeds && !std::mem::replace(&mut self.forgiven, true) {
                tracing::warn!(
                    client = %self.handle.client_id,
                    "it exceeds the receive maximum of {most} that we offer; its listener forgives that"
                );
            }
            count += 1;
        }
        Received { count, transaction, then }
    }

    /// Acknowledges what was routed; `are_alike`: all of it has one QoS.
    pub(super) fn acknowledge(
        &mut self,
        messages: &[Incoming<'_>],
        are_alike: bool,
        routed: Routed,
        batch: &mut Batch<'_>,
    ) {
        let reason = |kind, incoming: &Incoming<'_>| match kind {
            // Said in PUBACK alone: with QoS 2 the message is not done yet.
            AckKind::PubAck if !routed.matched && incoming.is_unmatched() => {
                ReasonCode::NoMatchingSubscribers
            }
            _ => ReasonCode::Success,
        };
        let is_taken = |incoming: &Incoming<'_>| !incoming.is_rejected() && !incoming.is_refused();
        let (store, pool) = (&*self.shared.broker.store, &mut batch.report.buffers);
        if messages.iter().all(is_taken)
            && let Some(ready) = self.acks.ready_for(routed.sequence, store, pool)
        {
            if let Some((kind, _)) = messages.first().and_then(|first| owed_for(&first.publish))
                && are_alike
                && routed.matched
            {
                let packet_ids = messages.iter().filter_map(|incoming| incoming.publish.packet_id);
                encode_shortest_acknowledgements(ready, kind, packet_ids, messages.len());
                batch.report.packets_sent += messages.len() as u64;
                return;
            }
            for incoming in messages {
                let Some((kind, packet_id)) = owed_for(&incoming.publish) else { continue };
                batch.report.packets_sent += 1;
                encode_acknowledgement(ready, self.version, kind, packet_id, reason(kind, incoming));
            }
            return;
        }
        for incoming in messages {
            let Some((kind, packet_id)) = owed_for(&incoming.publish) else { continue };
            let reason =
                if incoming.is_rejected() { ReasonCode::QuotaExceeded } else { reason(kind, incoming) };
            if incoming.is_refused() && self.version != ProtocolVersion::V5 {
                // In 3.x only silence says that it was not taken.
                self.release_refused(kind, packet_id, reason);
            } else {
                self.answer(&incoming.publish, reason, routed.sequence, batch);
            }
        }
    }

    /// Handles the acknowledgements at the start of `input`, the first of which is there in full, under one lock;
    /// how many bytes those were.
    pub(super) fn handle_acknowledgements(
        &mut self,
        input: &[u8],
        tally: &mut Tally,
        batch: &mut Batch<'_>,
    ) -> Result<usize, Failure> {
        let broker = &self.shared.broker;
        let mut state = self.handle.lock();
        // What an earlier connection left in its socket must not end an exchange that a later one has begun.
        if !state.session.is_attached(self.link) {
            return Err(Failure::Close(Close::TakenOver));
        }
        // Appended under the lock, so that the store hears of what happens to the session in its order.
        let transaction = if self.kept { broker.reserve(batch.report) } else { None };
        let sequence = batch.report.sequence;
        let mut position = 0;
        let result = loop {
            let rest = input.get(position..).unwrap_or_default();
            // A client acknowledges one message after the other.
            if let Some(kind) = rest.first().copied().and_then(acknowledgement_kind) {
                let packet_ids = shortest_acknowledgements(rest, kind);
                let count = state.session.acknowledge_in_turn(kind, packet_ids);
                if count > 0 {
                    if let Some(answer) = usual_answer(kind) {
                        batch.report.packets_sent += count as u64;
                        for packet_id in shortest_acknowledgements(rest, kind).take(count) {
                            self.acks.push(sequence, &*broker.store, &mut batch.report.buffers, |bytes| {
                                let success = ReasonCode::Success;
                                encode_acknowledgement(bytes, self.version, answer, packet_id, success);
                            });
                        }
                    }
                    position += count * SHORTEST_ACKNOWLEDGEMENT;
                    tally.packets += count as u64;
                    continue;
                }
            }
            let (kind, packet) = match next_acknowledgement(rest, self.version, self.packet_limit as usize) {
                Ok(Some((kind, packet, length))) => {
                    position += length;
                    (kind, packet)
                }
                Ok(None) => break Ok(position),
                Err(error) => break Err(error.into()),
            };
            tally.packets += 1;
            let (packet_id, reason) = (packet.packet_id, packet.reason);
            match state.session.handle_acknowledgement(kind, packet_id, reason, batch.report) {
                Acknowledged::Answer(answer, packet_id, reason) => {
                    batch.report.packets_sent += 1;
                    // Also of what is not known any more: the end of it may not be committed yet.
                    let pool = &mut batch.report.buffers;
                    self.acks.push(sequence, &*broker.store, pool, |bytes| {
                        encode_acknowledgement(bytes, self.version, answer, packet_id, reason);
                    });
                }
                // An acknowledgement of nothing is no harm: after a lost connection a client may send one twice.
                Acknowledged::Done | Acknowledged::Unknown => {}
                Acknowledged::Contradiction => {
                    break Err(Failure::ContradictoryAcknowledgement(kind.packet_type(), packet_id.get()));
                }
            }
        };
        if transaction.is_some() || batch.report.has_records() {
            broker.append_gathered(transaction, batch.report);
        }
        self.unreleased = unreleased(&state.session);
        self.inherited = self.inherited.min(self.unreleased);
        result
    }

    /// QoS 2 exchanges that this connection has begun and not released: never more than that, and less as long as those
    /// before it are released behind its own.
    fn unreleased_here(&self) -> usize {
        usize::from(self.unreleased.saturating_sub(self.inherited))
    }

    /// Forgets a QoS 2 message that is refused: its identifier is free again [MQTT-4.3.3-9].
    fn release_refused(&mut self, kind: AckKind, packet_id: PacketId, reason: ReasonCode) {
        if kind == AckKind::PubRec && reason.is_error() {
            let mut state = self.handle.lock();
            state.session.release(packet_id);
            self.unreleased = unreleased(&state.session);
        }
    }

    /// Acknowledges one PUBLISH, if it is to be.
    pub(super) fn answer(
        &mut self,
        publish: &Publish<'_>,
        reason: ReasonCode,
        sequence: CommitSeq,
        batch: &mut Batch<'_>,
    ) {
        let Some((kind, packet_id)) = owed_for(publish) else { return };
        let version = self.version;
        // In 3.x a PUBREC cannot say that somebody had no room: the message goes on to the others, once.
        if version == ProtocolVersion::V5 {
            self.release_refused(kind, packet_id, reason);
        }
        batch.report.packets_sent += 1;
        self.acks.push(sequence, &*self.shared.broker.store, &mut batch.report.buffers, |bytes| {
            encode_acknowledgement(bytes, version, kind, packet_id, reason);
        });
    }
}

/// The acknowledgement at the start of `input`, if one is there in full; and its length.
fn next_acknowledgement(
    input: &[u8],
    version: ProtocolVersion,
    limit: usize,
) -> Result<Option<(AckKind, Acknowledgement<'_>, usize)>, DecodeError> {
    let Some(header) = read_header(input)? else { return Ok(None) };
    let length = header.frame_length();
    let (Some(kind), true) = (acknowledgement_kind(header.first_byte), length <= input.len().min(limit))
    else {
        return Ok(None);
    };
    let body = input.get(header.header_length..length).unwrap_or_default();
    Ok(Some((kind, decode_acknowledgement(version, kind, header.first_byte, body)?, length)))
}

/// What a PUBLISH with QoS 1 or 2 is acknowledged with.
fn owed_for(publish: &Publish<'_>) -> Option<(AckKind, PacketId)> {
    let kind = if publish.qos == QoS::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
    Some((kind, publish.packet_id?))
}

/// What an acknowledgement is answered with, if all is well and the exchange goes on.
fn usual_answer(kind: AckKind) -> Option<AckKind> {
    match kind {
        AckKind::PubRec => Some(AckKind::PubRel),
        AckKind::PubRel => Some(AckKind::PubComp),
        AckKind::PubAck | AckKind::PubComp => None,
    }
}

/// Which of the four acknowledgements a first byte begins, if any.
pub(super) fn acknowledgement_kind(first_byte: u8) -> Option<AckKind> {
    match first_byte >> 4 {
        4 => Some(AckKind::PubAck),
        5 => Some(AckKind::PubRec),
        6 => Some(AckKind::PubRel),
        7 => Some(AckKind::PubComp),
        _ => None,
    }
}

/// QoS 2 exchanges that are not released: no more than there are identifiers.
pub(super) fn unreleased(session: &Session) -> u16 {
    u16::try_from(session.unreleased()).unwrap_or(u16::MAX)
}
