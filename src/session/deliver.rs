//! Delivery to one session: straight into the outbox where that is possible, into the queue where it is not.
//!
//! Implements the sending side of §4.3 and the subscriber's side of §3.3. The hot path is [`Session::deliver`]:
//! one lock for a whole run of messages. A plain run goes out as the publisher's bytes: in the buffer they were read into,
//! or in one copy, with other identifiers written over those that came.

use std::sync::Arc;

use super::frames::{Properties, Source, copy_frame, is_v5, renumber, write};
use super::queue::{Pushed, Queued};
use super::report::{NewRow, Report};
use super::window::{Content, Details, GroupNumber};
use super::{AckKind, Context, Link, Phase, QoS, Session, first_phase};
use crate::codec::{PacketId, PublishHeader, ReasonCode, encode_acknowledgement};
use crate::message::{Expiry, Incoming, Message, REFERENCE_FROM, Run};
use crate::store::{CommitSeq, RowSeq, RowState};

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
    /// The store has it and could not read it.
    Unreadable = 4,
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = 5;

    /// All of them, by their number.
    pub const ALL: [Self; Self::COUNT] =
        [Self::OutboxFull, Self::QueueFull, Self::Expired, Self::TooLarge, Self::Unreadable];

    /// For the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::OutboxFull => "the client reads too slowly",
            Self::QueueFull => "its queue is full",
            Self::Expired => "they have expired",
            Self::TooLarge => "they exceed its Maximum Packet Size",
            Self::Unreadable => "the store could not read them",
        }
    }
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
    /// The group's row of it in the store; zero: it has none.
    pub group_row: RowSeq,
    /// Other sessions get the same message: a large payload is better referenced than copied.
    pub several: bool,
}

impl Terms<'_> {
    /// Notes that the group is done with its row of the message.
    fn group_row_done(&self, report: &mut Report) {
        report.done(self.group.map(GroupNumber::owner), self.group_row);
    }
}

/// References in an outbox beyond which no further copy is shared.
const MOST_SHARED: usize = 16;

/// Whether a client takes the frames of a run as they came, but for flags and identifiers.
fn takes_as_it_is(link: &Link, run: &Run<'_>, terms: &Terms<'_>) -> bool {
    is_v5(link.version) == is_v5(run.version)
        && terms.identifiers.is_none()
        && link.aliases.is_none()
        && run.longest_frame <= link.maximum_packet_size as usize
}

/// Whether frames stay whole, head and payload together: large payloads are referenced where others get them, too.
fn stays_whole(run: &Run<'_>, terms: &Terms<'_>) -> bool {
    !(terms.several && run.longest_frame >= REFERENCE_FROM) && run.held_payloads().is_none()
}

impl Session {
    /// Delivers a run of messages, each at the lower of its QoS and the granted one [MQTT-3.8.4-8].
    pub fn deliver(&mut self, run: &Run<'_>, terms: &Terms<'_>, context: Context<'_>, report: &mut Report) {
        let before = self.pending();
        if !self.deliver_whole(run, terms, context, report) {
            let is_passed_on = self.passes_on(run, terms);
            for incoming in run.messages.iter().filter(|incoming| !incoming.is_refused()) {
                let retain = incoming.publish.retain && terms.retain_as_published;
                let qos = incoming.publish.qos.min(terms.qos);
                if !is_passed_on || !self.pass_on(incoming, qos, retain, context, report) {
                    self.deliver_one(Source::Live(run, incoming), qos, retain, terms, context, report);
                }
            }
        }
        self.after_delivery(before, context, report);
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
        let before = self.pending();
        if message.expiry(context.now) == Expiry::Expired {
            self.count_drop(DropReason::Expired, 1, report);
            terms.group_row_done(report);
        } else {
            self.deliver_one(Source::Kept(message), qos, retain, terms, context, report);
        }
        self.after_delivery(before, context, report);
    }

    /// Sends again what was in flight before this connection, then what the store has committed meanwhile, then what
    /// waits, as far as the window and the outbox have room. What has to be committed before more can leave.
    pub(super) fn pump(
        &mut self,
        committed: CommitSeq,
        context: Context<'_>,
        report: &mut Report,
    ) -> Option<CommitSeq> {
        let mut wait_for = None;
        if self.link.as_ref().is_some_and(|link| link.to_resend > 0) {
            wait_for = self.resend(committed, context, report);
        }
        let mut ahead = 0_usize;
        while self.window_is_open()
            && self.link.as_ref().is_some_and(|link| link.pending() < context.limits.outbox_soft)
        {
            if !self.exchanges.queue.is_ready() {
                break;
            }
            if ahead == 0 {
                ahead = self.exchanges.queue.fetch_ahead();
            }
            ahead = ahead.saturating_sub(1);
            let Some(queued) = self.exchanges.queue.pop() else { break };
            if queued.message.expiry(context.now) == Expiry::Expired {
                self.count_drop(DropReason::Expired, 1, report);
                report.done(self.owner(), queued.row);
                continue;
            }
            self.send_queued(queued, context, report);
        }
        let gate = self.send_gated(committed, context, report);
        match (wait_for, gate) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// The whole run at once, if nothing in it has to change for this client but identifiers, and all of it can leave now.
    fn deliver_whole(
        &mut self,
        run: &Run<'_>,
        terms: &Terms<'_>,
        context: Context<'_>,
        report: &mut Report,
    ) -> bool {
        let (Some(bytes), Some(first)) = (run.plain, run.messages.first()) else { return false };
        let (Some(link), qos) = (&self.link, first.publish.qos) else { return false };
        let has_room = link.pending() + bytes.len() <= context.limits.outbox_hard;
        // Identifiers are not written into what others hold.
        let held = run.held_whole().filter(|_| qos == QoS::AtMostOnce);
        if !has_room || !takes_as_it_is(link, run, terms) || held.is_none() && !stays_whole(run, terms) {
            return false;
        }
        let packet_id = match first_phase(qos) {
            None => None,
            Some(phase) => {
                let room = usize::from(link.window.saturating_sub(self.in_flight()));
                let leaves_at_once = qos <= terms.qos && self.passes_on(run, terms) && self.has_room();
                if !leaves_at_once || run.messages.len() > room {
                    return false;
                }
                let Some(first) = self.exchanges.window.send_in_turn(phase, run.messages.len()) else {
                    return false;
                };
                Some(first)
            }
        };
        let Some(link) = &mut self.link else { return false };
        let put = |into: &mut Vec<u8>| {
            let start = into.len();
            into.extend_from_slice(bytes);
            if let (Some(first), Some(copied)) = (packet_id, into.get_mut(start..)) {
                renumber(copied, run.messages, first);
            }
        };
        // One who is behind has copies, as they are written in fewer calls.
        let shares = run.copy.filter(|_| held.is_none() && link.outbox.references() < MOST_SHARED);
        let shared = shares.and_then(|copy| {
            copy.get(packet_id, || {
                let mut frames = report.buffers.take_shared(bytes.len()).unwrap_or_default();
                put(&mut frames);
                frames
            })
        });
        if let Some(buffer) = held {
            link.outbox.push_received(buffer, bytes);
        } else if let Some(copy) = shared {
            link.outbox.push_received(&copy, &copy);
        } else {
            link.outbox.begin(&mut report.buffers);
            put(&mut link.outbox.bytes);
        }
        report.sent += run.messages.len() as u64;
        report.sent_bytes += run.payload_bytes as u64;
        true
    }

    /// Whether messages of a run go to this client as they came, but for flags and identifier, and nothing is remembered of
    /// them: asked once a run, as most of them do.
    fn passes_on(&self, run: &Run<'_>, terms: &Terms<'_>) -> bool {
        let Some(link) = &self.link else { return false };
        takes_as_it_is(link, run, terms)
            && terms.group.is_none()
            && stays_whole(run, terms)
            && link.gated.is_none()
            && !self.is_persistent()
            && !self.is_kept()
    }

    /// Sends a message with QoS 1 or 2 of such a run, if it is one and can leave at once.
    fn pass_on(
        &mut self,
        incoming: &Incoming<'_>,
        qos: QoS,
        retain: bool,
        context: Context<'_>,
        report: &mut Report,
    ) -> bool {
        let publish = &incoming.publish;
        let is_unchanged = qos == publish.qos
            && publish.properties.topic_alias.is_none()
            && !publish.properties.needs_filtering;
        let (Some(phase), true, true) = (first_phase(qos), is_unchanged, self.has_room()) else {
            return false;
        };
        let Some(link) = self.link.as_mut().filter(|link| link.pending() < context.limits.outbox_hard) else {
            return false;
        };
        let Some(packet_id) = self.exchanges.window.send(phase, true, Details::default()) else {
            return false;
        };
        link.outbox.begin(&mut report.buffers);
        let header = PublishHeader { dup: false, qos, retain, packet_id: Some(packet_id) };
        copy_frame(&mut link.outbox.bytes, incoming, header);
        report.sent += 1;
        report.sent_bytes += publish.payload.len() as u64;
        true
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
        let link_has_room =
            self.link.as_ref().is_some_and(|link| link.pending() < context.limits.outbox_hard);
        let queued = |row| Queued {
            message: source.kept().clone(),
            identifiers: terms.identifiers.cloned(),
            row,
            qos,
            retain,
        };
        if link_has_room && self.has_room() {
            // With QoS 1 the row stays the group's: another member gets it if this connection breaks.
            let is_groups = terms.group.is_some() && phase == Phase::PubAck;
            let row = if is_groups { terms.group_row } else { self.take_row() };
            let is_new_row = !is_groups && row != RowSeq::default();
            let is_waited_for = self.link.as_ref().is_some_and(|link| link.gated.is_some());
            let is_needed = self.is_persistent() || self.is_kept() || terms.group.is_some() || is_waited_for;
            let content = if is_needed { Content::Message(queued(row)) } else { Content::Nothing };
            let sent = self.send_in_flight(source, phase, retain, terms, content, row, context, report);
            if let (Some(packet_id), Some(owner)) = (sent, self.owner().filter(|_| is_new_row)) {
                report.rows.push(NewRow {
                    message: source.kept().clone(),
                    owner,
                    seq: row,
                    state: RowState::Sent(packet_id),
                    qos,
                    retain,
                    identifiers: terms.identifiers.cloned(),
                });
            }
            if !is_groups {
                terms.group_row_done(report);
            }
        } else if self.is_persistent() || self.is_kept() || self.link.is_some() {
            let queued = queued(self.take_row());
            self.enqueue(source, queued, context, report);
        }
    }

    /// Queues what cannot be sent now.
    fn enqueue(&mut self, source: Source<'_>, queued: Queued, context: Context<'_>, report: &mut Report) {
        let new_row = self.owner().map(|owner| NewRow {
            message: queued.message.clone(),
            owner,
            seq: queued.row,
            state: RowState::Waiting,
            qos: queued.qos,
            retain: queued.retain,
            identifiers: queued.identifiers.clone(),
        });
        let (owner, is_connected) = (self.owner(), self.link.is_some());
        let time = (context.now, context.timebase);
        let limits = &context.limits.queue;
        let pushed =
            self.exchanges.queue.push(queued, limits, is_connected, time, &mut |row| report.done(owner, row));
        match pushed {
            Pushed::Queued | Pushed::Displaced(_) => {
                report.queued += 1;
                report.filling |= self.exchanges.queue.is_newly_filling(limits);
                report.rows.extend(new_row);
                if let Pushed::Displaced(count) = pushed {
                    self.count_drop(DropReason::QueueFull, count, report);
                }
            }
            Pushed::Dropped => self.count_drop(DropReason::QueueFull, 1, report),
            Pushed::Rejected => {
                source.reject();
                self.count_drop(DropReason::QueueFull, 1, report);
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
        terms.group_row_done(report);
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

    /// Gives a message an identifier and sends it, unless it has to wait for the store; `None` if the client does not
    /// take it.
    #[expect(clippy::too_many_arguments, reason = "one step of deliver_one and of pump, split for its name")]
    fn send_in_flight(
        &mut self,
        source: Source<'_>,
        phase: Phase,
        retain: bool,
        terms: &Terms<'_>,
        content: Content,
        row: RowSeq,
        context: Context<'_>,
        report: &mut Report,
    ) -> Option<PacketId> {
        let link = self.link.as_mut()?;
        let properties = Properties::of(source, terms.identifiers, context);
        if !properties.fit(link, source, true) {
            self.count_drop(DropReason::TooLarge, 1, report);
            if terms.group.is_some() && phase == Phase::PubAck {
                terms.group_row_done(report);
            }
            return None;
        }
        let qos = if phase == Phase::PubAck { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        // A crash must neither send a QoS 2 message under two identifiers nor give it to two members of a group.
        let must_wait =
            qos == QoS::ExactlyOnce && (row != RowSeq::default() || terms.group_row != RowSeq::default());
        let gate = if must_wait {
            debug_assert_ne!(report.sequence, CommitSeq::default(), "a sequence was reserved");
            report.sequence
        } else {
            CommitSeq::default()
        };
        // What comes behind keeps its place.
        let waits = must_wait || link.gated.is_some();
        let details = Details { group: terms.group, row, gate, content };
        // The window has room, so an identifier is free.
        let packet_id = self.exchanges.window.send(phase, !waits, details)?;
        if waits {
            link.gated.get_or_insert_default().push_back(packet_id);
            return Some(packet_id);
        }
        let header = PublishHeader { dup: false, qos, retain, packet_id: Some(packet_id) };
        link.outbox.begin(&mut report.buffers);
        write(link, source, header, &properties, terms.several);
        link.untaken = link.untaken.saturating_add(1);
        report.sent += 1;
        report.sent_bytes += source.payload().len() as u64;
        Some(packet_id)
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
            group_row: RowSeq::default(),
            several: Arc::strong_count(&message) > 2,
        };
        let (retain, row) = (queued.retain, queued.row);
        let is_waited_for = self.link.as_ref().is_some_and(|link| link.gated.is_some());
        let is_needed = self.is_persistent() || self.is_kept() || is_waited_for;
        let content = if is_needed { Content::Message(queued) } else { Content::Nothing };
        let source = Source::Kept(&message);
        let sent = self.send_in_flight(source, phase, retain, &terms, content, row, context, report);
        match (sent, self.owner().filter(|_| row != RowSeq::default())) {
            (Some(packet_id), Some(owner)) => report.records.push_sent(owner, row, packet_id),
            (None, owner) => report.done(owner, row),
            (Some(_), None) => {}
        }
    }

    /// Sends PUBLISH with DUP, or PUBREL, for what was in flight before this connection, under the identifiers of
    /// then and in the order of then, of PUBLISH no more at a time than the client's Receive Maximum: nothing else waits
    /// for that [MQTT-3.3.4-10]. What has to be committed before it can go on.
    fn resend(
        &mut self,
        committed: CommitSeq,
        context: Context<'_>,
        report: &mut Report,
    ) -> Option<CommitSeq> {
        let owner = self.owner();
        let link = self.link.as_mut()?;
        link.outbox.begin(&mut report.buffers);
        let mut room = (u32::from(link.window) + u32::from(link.to_resend))
            .saturating_sub(u32::from(self.exchanges.window.unfinished()));
        let mut dropped = Vec::new();
        let mut wait_for = None;
        let mut messages_wait = false;
        for entry in self.exchanges.window.iter_mut().filter(|entry| entry.in_flight.resend) {
            let (packet_id, phase) = (entry.in_flight.packet_id, entry.in_flight.phase);
            messages_wait |= room == 0;
            if messages_wait && phase != Phase::PubComp {
                continue;
            }
            if entry.gate() > committed {
                wait_for = Some(entry.gate());
                break;
            }
            match entry.content() {
                Content::Message(queued) if phase != Phase::PubComp => {
                    let source = Source::Kept(&queued.message);
                    let properties = Properties::of(source, queued.identifiers.as_ref(), context);
                    let is_expired = queued.message.expiry(context.now) == Expiry::Expired;
                    if is_expired && !entry.in_flight.sent {
                        // Its delivery has not begun [MQTT-3.3.2-5].
                        dropped.push((packet_id, phase, DropReason::Expired));
                    } else if !properties.fit(link, source, true) {
                        dropped.push((packet_id, phase, DropReason::TooLarge));
                    } else {
                        let header = PublishHeader {
                            dup: entry.in_flight.sent,
                            qos: queued.qos,
                            retain: queued.retain,
                            packet_id: Some(packet_id),
                        };
                        write(link, source, header, &properties, false);
                        link.untaken = link.untaken.saturating_add(1);
                        room -= 1;
                        report.sent += 1;
                        report.sent_bytes += queued.message.payload().len() as u64;
                    }
                }
                // It goes on when the store has read it.
                Content::Stored(_) if phase != Phase::PubComp => break,
                Content::Message(_) | Content::Stored(_) | Content::Nothing => {
                    // As it is in the window, too, until it is over.
                    room = room.saturating_sub(1);
                    report.packets_sent += 1;
                    let (version, bytes) = (link.version, &mut link.outbox.bytes);
                    encode_acknowledgement(bytes, version, AckKind::PubRel, packet_id, ReasonCode::Success);
                }
            }
            entry.in_flight.resend = false;
            entry.in_flight.repeated = entry.in_flight.sent;
            entry.in_flight.sent = true;
            link.to_resend -= 1;
        }
        for (packet_id, phase, reason) in dropped {
            if let Some((owner, row)) =
                self.exchanges.window.finish(packet_id, phase, owner).and_then(|ended| ended.row)
            {
                report.records.push_done(owner, row);
            }
            self.count_drop(reason, 1, report);
        }
        wait_for
    }

    /// Sends what the store has committed meanwhile. What has to be committed before it can go on.
    fn send_gated(
        &mut self,
        committed: CommitSeq,
        context: Context<'_>,
        report: &mut Report,
    ) -> Option<CommitSeq> {
        let link = self.link.as_mut()?;
        let mut gated = link.gated.take()?;
        while let Some(packet_id) = gated.front() {
            let entry = self.exchanges.window.get_mut(*packet_id).filter(|entry| !entry.in_flight.sent);
            if let Some(entry) = entry {
                let gate = entry.gate();
                if gate > committed {
                    link.gated = Some(gated);
                    return Some(gate);
                }
                entry.in_flight.sent = true;
                if let Content::Message(queued) = entry.content() {
                    let source = Source::Kept(&queued.message);
                    let properties = Properties::of(source, queued.identifiers.as_ref(), context);
                    let header = PublishHeader {
                        dup: false,
                        qos: queued.qos,
                        retain: queued.retain,
                        packet_id: Some(*packet_id),
                    };
                    link.outbox.begin(&mut report.buffers);
                    write(link, source, header, &properties, Arc::strong_count(&queued.message) > 2);
                    link.untaken = link.untaken.saturating_add(1);
                    report.sent += 1;
                    report.sent_bytes += queued.message.payload().len() as u64;
                }
            }
            gated.pop_front();
        }
        None
    }

    /// Bytes on their way to the client.
    fn pending(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.pending())
    }

    /// `before`: bytes that were on their way then.
    fn after_delivery(&mut self, before: usize, context: Context<'_>, report: &mut Report) {
        let Some(link) = &mut self.link else { return };
        // A client that is behind presses, not one that gets much at once.
        let is_behind = before > context.limits.outbox_soft;
        report.pressed |= is_behind && link.pending() < context.limits.outbox_hard;
        // What waits for the store is looked at by the connection, too.
        if !link.outbox.is_empty() || link.gated.is_some() {
            report.wakers.extend(link.schedule());
        }
    }

    pub(super) fn count_drop(&mut self, reason: DropReason, count: u32, report: &mut Report) {
        let drops = &mut self.exchanges.drops[reason as usize];
        *drops = drops.saturating_add(count);
        report.dropped[reason as usize] += u64::from(count);
        report.fresh_drop = Some(reason);
    }
}
