//! Delivery to one session: straight into the outbox where that is possible, into the queue where it is not.
//!
//! Implements the sending side of §4.3 and the subscriber's side of §3.3. The hot path is [`Session::deliver`]:
//! one lock for a whole run of messages, and for a plain run a single copy of the publisher's bytes.

use std::sync::Arc;
use std::task::Waker;

use super::frames::{Properties, Source, is_v5, write};
use super::outbox::{BufferPool, REFERENCE_FROM};
use super::queue::{Pushed, Queued};
use super::window::GroupNumber;
use super::{AckKind, Context, Phase, QoS, Session, first_phase};
use crate::codec::{PublishHeader, ReasonCode, encode_acknowledgement};
use crate::message::{Expiry, Message, Run};

/// Why a message was dropped for one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// QoS 0, and the client reads too slowly.
    OutboxFull = 0,
    /// QoS 1 or 2, and the queue is full.
    QueueFull = 1,
    /// Its Message Expiry Interval has passed [MQTT-3.3.2-5].
    Expired = 2,
    /// Larger than the client's Maximum Packet Size [MQTT-3.1.2-25].
    TooLarge = 3,
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = 4;

    /// All of them, by their number.
    pub const ALL: [Self; Self::COUNT] = [Self::OutboxFull, Self::QueueFull, Self::Expired, Self::TooLarge];

    /// For the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::OutboxFull => "the client reads too slowly",
            Self::QueueFull => "its queue is full",
            Self::Expired => "they have expired",
            Self::TooLarge => "they exceed its Maximum Packet Size",
        }
    }
}

/// What came of a publisher's batch, gathered over all sessions it reached.
#[derive(Debug, Default)]
pub struct Report {
    /// Connections to wake once the batch is done.
    pub wakers: Vec<Waker>,
    /// Some outbox is beyond its soft limit: the publisher is to pause.
    pub pressed: bool,
    /// A session that outlives its connection took a message with QoS 1 or 2.
    pub kept: bool,
    /// PUBLISH packets written to outboxes.
    pub sent: u64,
    /// Their payloads, in bytes.
    pub sent_bytes: u64,
    /// Control Packets other than PUBLISH.
    pub packets_sent: u64,
    /// Messages put into queues.
    pub queued: u64,
    /// Messages dropped, by reason.
    pub dropped: [u64; DropReason::COUNT],
    /// What the last call dropped, to be taken by the caller, who knows for whom.
    pub fresh_drop: Option<DropReason>,
    /// Empty buffers for outboxes that begin to fill.
    pub buffers: BufferPool,
}

/// On what terms a session gets a message: what its matching subscriptions granted.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The highest granted QoS.
    pub qos: QoS,
    /// RETAIN is passed on as published [MQTT-3.3.1-13].
    pub retain_as_published: bool,
    /// The Subscription Identifiers of all matching subscriptions [MQTT-3.3.4-4].
    pub identifiers: Option<&'a Arc<[u32]>>,
    /// The shared group it comes through.
    pub group: Option<GroupNumber>,
    /// Other sessions get the same message: a large payload is better referenced than copied.
    pub several: bool,
}

impl Session {
    /// Delivers a run of messages, each at the lower of its QoS and the granted one [MQTT-3.8.4-8].
    pub fn deliver(&mut self, run: &Run<'_>, terms: &Terms<'_>, context: Context<'_>, report: &mut Report) {
        if !self.deliver_plain(run, terms, context, report) {
            for incoming in run.messages {
                let retain = incoming.publish.retain && terms.retain_as_published;
                let qos = incoming.publish.qos.min(terms.qos);
                self.deliver_one(Source::Live(run, incoming), qos, retain, terms, context, report);
            }
        }
        self.after_delivery(context, report);
    }

    /// Delivers a message that is kept: a Will, a retained one, one of a shared group's queue. `retain` as the
    /// subscriber is to see it.
    pub fn deliver_kept(
        &mut self,
        message: &Arc<Message>,
        retain: bool,
        terms: &Terms<'_>,
        context: Context<'_>,
        report: &mut Report,
    ) {
        let qos = message.qos.min(terms.qos);
        if message.expiry(context.now) == Expiry::Expired {
            self.count_drop(DropReason::Expired, 1, report);
        } else {
            self.deliver_one(Source::Kept(message), qos, retain, terms, context, report);
        }
        self.after_delivery(context, report);
    }

    /// Sends again what was in flight before this connection, then what waits, as far as the window and the
    /// outbox have room.
    pub(super) fn pump(&mut self, context: Context<'_>, report: &mut Report) {
        if self.link.as_ref().is_some_and(|link| link.to_resend > 0) {
            self.resend(context, report);
        }
        while self.window_is_open()
            && self.link.as_ref().is_some_and(|link| link.pending() < context.limits.outbox_soft)
        {
            let Some(queued) = self.queue.pop() else { break };
            if queued.message.expiry(context.now) == Expiry::Expired {
                self.count_drop(DropReason::Expired, 1, report);
                continue;
            }
            self.send_queued(queued, context, report);
        }
    }

    /// The whole run as it came, if nothing in it has to change for this client.
    fn deliver_plain(
        &mut self,
        run: &Run<'_>,
        terms: &Terms<'_>,
        context: Context<'_>,
        report: &mut Report,
    ) -> bool {
        let (Some(bytes), Some(link)) = (run.plain, &mut self.link) else { return false };
        let as_it_is = is_v5(link.version) == is_v5(run.version)
            && terms.identifiers.is_none()
            && link.aliases.is_none()
            && run.longest_frame <= link.maximum_packet_size as usize
            && !(terms.several && run.longest_frame >= REFERENCE_FROM)
            && link.pending() + bytes.len() <= context.limits.outbox_hard;
        if as_it_is {
            link.outbox.begin(&mut report.buffers);
            link.outbox.bytes.extend_from_slice(bytes);
            report.sent += run.messages.len() as u64;
            report.sent_bytes += run.payload_bytes as u64;
        }
        as_it_is
    }

    fn deliver_one(
        &mut self,
        source: Source<'_>,
        qos: QoS,
        retain: bool,
        terms: &Terms<'_>,
        context: Context<'_>,
        report: &mut Report,
    ) {
        let Some(phase) = first_phase(qos) else {
            return self.send_at_most_once(source, retain, terms, context, report);
        };
        let persistent = self.is_persistent();
        report.kept |= persistent;
        let link_has_room =
            self.link.as_ref().is_some_and(|link| link.pending() < context.limits.outbox_hard);
        if link_has_room && self.has_room() {
            let content = (persistent || terms.group.is_some()).then(|| Queued {
                message: source.kept().clone(),
                identifiers: terms.identifiers.cloned(),
                qos,
                retain,
            });
            self.send_in_flight(source, phase, retain, terms, content, context, report);
        } else if persistent || self.link.is_some() {
            let queued = Queued {
                message: source.kept().clone(),
                identifiers: terms.identifiers.cloned(),
                qos,
                retain,
            };
            match self.queue.push(queued, &context.limits.queue, context.now) {
                Pushed::Queued => report.queued += 1,
                Pushed::Displaced(count) => {
                    report.queued += 1;
                    self.count_drop(DropReason::QueueFull, count, report);
                }
                Pushed::Dropped => self.count_drop(DropReason::QueueFull, 1, report),
                Pushed::Rejected => {
                    source.reject();
                    self.count_drop(DropReason::QueueFull, 1, report);
                }
            }
        }
    }

    fn send_at_most_once(
        &mut self,
        source: Source<'_>,
        retain: bool,
        terms: &Terms<'_>,
        context: Context<'_>,
        report: &mut Report,
    ) {
        let Some(link) = &mut self.link else { return };
        let properties = Properties::of(source, terms.identifiers, context);
        if link.pending() >= context.limits.outbox_hard {
            self.count_drop(DropReason::OutboxFull, 1, report);
        } else if !properties.fit(link, source, false) {
            self.count_drop(DropReason::TooLarge, 1, report);
        } else {
            let header = PublishHeader { dup: false, qos: QoS::AtMostOnce, retain, packet_id: None };
            link.outbox.begin(&mut report.buffers);
            write(link, source, header, &properties, terms.several);
            report.sent += 1;
            report.sent_bytes += source.payload().len() as u64;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one step of deliver_one and of pump, split for its name")]
    fn send_in_flight(
        &mut self,
        source: Source<'_>,
        phase: Phase,
        retain: bool,
        terms: &Terms<'_>,
        content: Option<Queued>,
        context: Context<'_>,
        report: &mut Report,
    ) {
        let Some(link) = &mut self.link else { return };
        let properties = Properties::of(source, terms.identifiers, context);
        if !properties.fit(link, source, true) {
            return self.count_drop(DropReason::TooLarge, 1, report);
        }
        let qos = if phase == Phase::PubAck { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        // The window has room, so an identifier is free.
        let Some(packet_id) = self.window.send(phase, terms.group, content) else { return };
        let header = PublishHeader { dup: false, qos, retain, packet_id: Some(packet_id) };
        link.outbox.begin(&mut report.buffers);
        write(link, source, header, &properties, terms.several);
        report.sent += 1;
        report.sent_bytes += source.payload().len() as u64;
    }

    fn send_queued(&mut self, queued: Queued, context: Context<'_>, report: &mut Report) {
        let Some(phase) = first_phase(queued.qos) else { return };
        let message = queued.message.clone();
        let identifiers = queued.identifiers.clone();
        let terms = Terms {
            qos: queued.qos,
            retain_as_published: true,
            identifiers: identifiers.as_ref(),
            group: None,
            several: Arc::strong_count(&message) > 2,
        };
        let retain = queued.retain;
        let content = self.is_persistent().then_some(queued);
        self.send_in_flight(Source::Kept(&message), phase, retain, &terms, content, context, report);
    }

    /// Sends PUBLISH with DUP, or PUBREL, for what was in flight before this connection, under the identifiers of
    /// then and in the order of then, no more at a time than the client's Receive Maximum.
    fn resend(&mut self, context: Context<'_>, report: &mut Report) {
        let Some(link) = &mut self.link else { return };
        link.outbox.begin(&mut report.buffers);
        let mut room =
            (usize::from(link.window) + link.to_resend).saturating_sub(usize::from(self.window.unfinished()));
        let mut too_large = Vec::new();
        for entry in self.window.iter_mut().filter(|entry| entry.resend) {
            if room == 0 {
                break;
            }
            entry.resend = false;
            link.to_resend -= 1;
            room -= 1;
            match &entry.content {
                Some(queued) if entry.phase != Phase::PubComp => {
                    let source = Source::Kept(&queued.message);
                    let properties = Properties::of(source, queued.identifiers.as_ref(), context);
                    if !properties.fit(link, source, true) {
                        // It gives its slot back.
                        room += 1;
                        too_large.push((entry.packet_id, entry.phase));
                        continue;
                    }
                    let header = PublishHeader {
                        dup: true,
                        qos: queued.qos,
                        retain: queued.retain,
                        packet_id: Some(entry.packet_id),
                    };
                    write(link, source, header, &properties, false);
                    report.sent += 1;
                    report.sent_bytes += queued.message.payload().len() as u64;
                }
                Some(_) | None => {
                    report.packets_sent += 1;
                    let (version, bytes) = (link.version, &mut link.outbox.bytes);
                    encode_acknowledgement(
                        bytes,
                        version,
                        AckKind::PubRel,
                        entry.packet_id,
                        ReasonCode::Success,
                    );
                }
            }
        }
        for (packet_id, phase) in too_large {
            self.window.finish(packet_id, phase);
            self.count_drop(DropReason::TooLarge, 1, report);
        }
    }

    fn after_delivery(&mut self, context: Context<'_>, report: &mut Report) {
        let Some(link) = &mut self.link else { return };
        let pending = link.pending();
        report.pressed |= pending > context.limits.outbox_soft && pending < context.limits.outbox_hard;
        if !link.outbox.is_empty() {
            report.wakers.extend(link.schedule());
        }
    }

    fn count_drop(&mut self, reason: DropReason, count: u32, report: &mut Report) {
        self.drops[reason as usize] = self.drops[reason as usize].saturating_add(count);
        report.dropped[reason as usize] += u64::from(count);
        report.fresh_drop = Some(reason);
    }
}
