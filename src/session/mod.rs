//! One client's session, sans-IO: packets in, bytes out, time as an argument.
//!
//! Owner: `broker`, which keeps every session under a lock of its own. Callers: `broker`'s verbs for publishers
//! ([`Session::deliver`]), and the client's own connection for acknowledgements and output.
//!
//! The contract: `attach` a [`Link`] when a connection is accepted; `deliver*` and `handle_*` at any time;
//! [`Session::poll_output`] whenever the link was scheduled or something was handled; `detach` when the
//! connection ends. What always holds:
//! - per publisher, topic and QoS, messages leave in the order they came [MQTT-4.6.0-5], [MQTT-4.6.0-6];
//! - no more than the client's Receive Maximum is in flight, and identifiers are unique [MQTT-3.3.4-9];
//! - nothing is larger than the client's Maximum Packet Size [MQTT-3.1.2-24];
//! - what is in flight survives the connection if the session does, and is sent again with DUP in the original
//!   order [MQTT-4.4.0-1];
//! - of a session that the store keeps, nothing with QoS 2 leaves before the store has committed it, because
//!   otherwise a crash would deliver it twice; QoS 1 may, and is then sent once more.

mod aliases;
mod deliver;
mod exchanges;
mod frames;
mod link;
mod outbox;
mod queue;
mod received;
mod report;
mod stored;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::exchanges::{Exchanges, OnDemand};
use self::stored::Kept;
pub use aliases::{IncomingAliases, OutgoingAliases};
pub use deliver::{DropReason, Terms};
pub use link::{Close, Link, LinkId};
pub use outbox::{Batch, BufferPool, Outbox};
pub use queue::{Pushed, Queue, QueueBudget, QueueLimits, Queued};
pub use report::{NewRow, Report};
pub use window::{Content, Details, Ended, Entry, GroupNumber, InFlight, Phase, Window};

use crate::codec::{AckKind, PacketId, QoS, ReasonCode};
use crate::message::Message;
use crate::store::{CommitSeq, Owner, Record, Timebase};

/// Bounds that every session of a broker has in common.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Messages in flight to one client at most, whatever its Receive Maximum says.
    pub max_inflight: u16,
    /// Bounds of the queue.
    pub queue: QueueLimits,
    /// Bytes on their way to a client from which on its publishers are stalled.
    pub outbox_soft: usize,
    /// Bytes on their way to a client beyond which QoS 0 is dropped and the rest queued.
    pub outbox_hard: usize,
}

/// What handling something needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The bounds.
    pub limits: &'a SessionLimits,
    /// The time.
    pub now: Instant,
    /// How it relates to what is kept.
    pub timebase: &'a Timebase,
}

/// How long a session outlives its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It ends with the connection.
    Connection,
    /// It ends this long after the connection.
    After(Duration),
    /// It never ends (Session Expiry Interval 0xFFFFFFFF).
    Forever,
}

/// What a PUBACK, PUBREC, PUBREL or PUBCOMP led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// The exchange goes on: this is to be answered.
    Answer(AckKind, PacketId, ReasonCode),
    /// The exchange is over.
    Done,
    /// Nothing was in flight under that identifier; nothing changed.
    Unknown,
    /// What is in flight under that identifier is of another QoS or not so far: a protocol error.
    Contradiction,
}

/// What [`Session::poll_output`] found.
#[derive(Debug)]
pub struct Output {
    /// Bytes to write, perhaps none.
    pub batch: Batch,
    /// The connection is to end after these bytes.
    pub close: Option<Close>,
    /// More waits that the window has room for, and only the outbox had not.
    pub more: bool,
    /// Something may leave only when the store has committed this.
    pub wait_for: Option<CommitSeq>,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    /// The live connection. In an allocation of its own: a session without one has no room for it.
    pub link: Option<Box<Link>>,
    /// How long it outlives its connection.
    pub lifetime: Lifetime,
    /// What there is to know if the store keeps what is the session's.
    kept: Option<Box<Kept>>,
    exchanges: OnDemand,
}

impl Session {
    /// A new session, not connected; with an owner, the store keeps what is its.
    pub fn new(lifetime: Lifetime, owner: Option<Owner>, budget: Arc<QueueBudget>) -> Self {
        Self {
            link: None,
            lifetime,
            kept: owner.map(|owner| Box::new(Kept::new(owner))),
            exchanges: OnDemand::new(budget),
        }
    }

    /// Whether what is in flight and queued must outlive the connection.
    pub fn is_persistent(&self) -> bool {
        self.lifetime != Lifetime::Connection
    }

    /// Gives the session its connection. What is in flight from before is sent again by the next
    /// [`Session::poll_output`]. Returns the link it replaces, if another connection had the session.
    pub fn attach(&mut self, mut link: Link) -> Option<Box<Link>> {
        self.take_back_untaken();
        if !self.exchanges.window.is_empty() {
            self.exchanges.window.iter_mut().for_each(|entry| entry.in_flight.resend = true);
        }
        link.to_resend = self.exchanges.window.unfinished();
        self.link.replace(Box::new(link))
    }

    /// Takes the link away if it still is this connection's. What the store keeps is left to it.
    pub fn detach(&mut self, id: LinkId, timebase: &Timebase) -> Option<Box<Link>> {
        if !self.is_attached(id) {
            return None;
        }
        self.take_back_untaken();
        self.leave_to_store(timebase);
        self.exchanges.shrink();
        self.link.take()
    }

    /// What the outbox of a connection that has ended holds was not sent: DUP would be wrong on it [MQTT-3.3.1-1], and it
    /// may expire.
    fn take_back_untaken(&mut self) {
        if let Some(link) = self.link.as_ref().filter(|link| link.untaken > 0) {
            self.exchanges.window.take_back(link.untaken);
        }
    }

    /// Whether this connection has the session.
    pub fn is_attached(&self, id: LinkId) -> bool {
        self.link.as_ref().is_some_and(|link| link.id == id)
    }

    /// Takes what came through shared groups and need not stay with this session when its connection breaks:
    /// QoS 1 goes to another member at once; QoS 2 stays, [MQTT-4.8.2-4], [MQTT-4.8.2-5].
    /// Those of a group that the session has left since stay, too: nobody else may be there to take them.
    pub fn release_group_messages(
        &mut self,
        is_member: impl Fn(GroupNumber) -> bool,
    ) -> Vec<(GroupNumber, Queued)> {
        if self.exchanges.window.is_empty() {
            return Vec::new();
        }
        let taken = self
            .exchanges
            .window
            .extract(|entry| entry.group().is_some_and(&is_member) && entry.in_flight.phase == Phase::PubAck);
        if let Some(link) = &mut self.link {
            // No more than are unfinished, which 16 bits count.
            link.to_resend =
                self.exchanges.window.iter_mut().filter(|entry| entry.in_flight.resend).count() as u16;
        }
        let message = |content| match content {
            Content::Message(queued) => Some(queued),
            // A group's messages stay in memory.
            Content::Nothing | Content::Stored(_) => None,
        };
        taken.into_iter().filter_map(|details| Some((details.group?, message(details.content)?))).collect()
    }

    /// Messages in flight to the client.
    pub fn in_flight(&self) -> u16 {
        self.exchanges.window.unfinished()
    }

    /// Messages waiting for the window.
    pub fn queued(&self) -> usize {
        self.exchanges.queue.len()
    }

    /// Drops the waiting messages that are not to be kept; how many those were. What is in flight stays, and what is in
    /// the store alone is looked at when it is fetched.
    pub fn retain_queued(&mut self, keep: impl FnMut(&Message) -> bool, report: &mut Report) -> u64 {
        let owner = self.owner();
        if self.exchanges.queue.is_empty() {
            return 0;
        }
        self.exchanges.queue.retain(keep, &mut |row| report.done(owner, row))
    }

    /// Messages dropped for this session, for one reason.
    pub fn dropped(&self, reason: DropReason) -> u32 {
        self.exchanges.drops[reason as usize]
    }

    /// How much the client has to do: for the choice among the members of a shared group. `u32::MAX` if it can
    /// take nothing with an acknowledgement now.
    pub fn load(&self) -> u32 {
        if self.has_room() { u32::from(self.exchanges.window.unfinished()) } else { u32::MAX }
    }

    /// Whether a message with QoS 1 or 2 could be sent at once.
    pub fn has_room(&self) -> bool {
        self.exchanges.queue.is_empty() && self.window_is_open()
    }

    /// Notes a PUBLISH with QoS 2, whose reception is committed with `sequence`. If its identifier was received before
    /// and not released, it must not be delivered again [MQTT-4.3.3-10]: then it is told what commits the first.
    pub fn receive(&mut self, packet_id: PacketId, sequence: CommitSeq) -> Result<(), CommitSeq> {
        self.exchanges.received.insert(packet_id, sequence)
    }

    /// QoS 2 exchanges of the client's that are not released.
    pub fn unreleased(&self) -> usize {
        self.exchanges.received.len()
    }

    /// Forgets a received identifier, because its PUBREL came or because the message was refused. Whether it
    /// was there.
    pub fn release(&mut self, packet_id: PacketId) -> bool {
        !self.exchanges.received.is_empty() && self.exchanges.received.remove(packet_id)
    }

    /// Handles PUBACK, PUBREC or PUBCOMP of the client's for what we sent it, and PUBREL for what it sent [MQTT-4.3.2],
    /// [MQTT-4.3.3]. What the store has to know is added to the report; of a session that is kept, an answer waits for
    /// the report's sequence.
    pub fn handle_acknowledgement(
        &mut self,
        kind: AckKind,
        packet_id: PacketId,
        reason: ReasonCode,
        report: &mut Report,
    ) -> Acknowledged {
        let owner = self.owner();
        if kind != AckKind::PubRel && self.exchanges.window.is_empty() {
            let is_answered = kind == AckKind::PubRec && !reason.is_error();
            let answer =
                || Acknowledged::Answer(AckKind::PubRel, packet_id, ReasonCode::PacketIdentifierNotFound);
            return if is_answered { answer() } else { Acknowledged::Unknown };
        }
        match kind {
            AckKind::PubAck => self.finish(packet_id, Phase::PubAck, report),
            AckKind::PubComp => self.finish(packet_id, Phase::PubComp, report),
            // [MQTT-4.3.3-4]: an error in PUBREC ends the exchange.
            AckKind::PubRec if reason.is_error() => self.finish(packet_id, Phase::PubRec, report),
            AckKind::PubRec => match self.exchanges.window.get_mut(packet_id) {
                Some(mut entry) if entry.in_flight.phase != Phase::PubAck => {
                    let is_first = entry.in_flight.phase == Phase::PubRec;
                    if let Some(owner) = entry.row_owner(owner).filter(|_| is_first) {
                        report.records.push(&Record::Released { owner, seq: entry.row() });
                        if let Some(details) = &mut entry.details {
                            // Also when it is sent again.
                            details.gate = report.sequence;
                        }
                    }
                    entry.in_flight.phase = Phase::PubComp;
                    entry.set_content(Content::Nothing);
                    let resent = std::mem::take(&mut entry.in_flight.resend);
                    self.note_resent(resent);
                    Acknowledged::Answer(AckKind::PubRel, packet_id, ReasonCode::Success)
                }
                Some(_) => Acknowledged::Contradiction,
                None => {
                    Acknowledged::Answer(AckKind::PubRel, packet_id, ReasonCode::PacketIdentifierNotFound)
                }
            },
            AckKind::PubRel => {
                let found = self.release(packet_id);
                if let Some(owner) = owner.filter(|_| found) {
                    report.records.push(&Record::Completed { owner, packet_id });
                }
                let reason = if found { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
                Acknowledged::Answer(AckKind::PubComp, packet_id, reason)
            }
        }
    }

    /// Handles acknowledgements of one kind, that say Success, as long as nothing comes of them but the usual answer: PUBREL
    /// to PUBREC, PUBCOMP to PUBREL; how many. The rest are for [`Session::handle_acknowledgement`].
    pub fn acknowledge_in_turn(
        &mut self,
        kind: AckKind,
        mut packet_ids: impl Iterator<Item = PacketId>,
    ) -> usize {
        if self.is_kept() || self.exchanges.is_empty() {
            return 0;
        }
        let Exchanges { window, received, .. } = &mut *self.exchanges;
        match kind {
            AckKind::PubAck => window.finish_in_turn(Phase::PubAck, packet_ids),
            AckKind::PubRec => window.release_in_turn(packet_ids),
            AckKind::PubRel => {
                let mut released = 0;
                while packet_ids.next().is_some_and(|packet_id| received.remove(packet_id)) {
                    released += 1;
                }
                released
            }
            AckKind::PubComp => window.finish_in_turn(Phase::PubComp, packet_ids),
        }
    }

    /// Moves what waits into the window as far as it is open, and takes what is to be written. `None` if the
    /// session is not this connection's any more. `committed` is how far the store is.
    pub fn poll_output(
        &mut self,
        id: LinkId,
        committed: CommitSeq,
        context: Context<'_>,
        report: &mut Report,
    ) -> Option<Output> {
        if !self.is_attached(id) {
            return None;
        }
        let wait_for = self.pump(committed, context, report);
        let more = self.exchanges.queue.is_ready() && self.window_is_open();
        let link = self.link.as_mut()?;
        link.scheduled = false;
        let batch = if link.outbox.is_empty() { Batch::default() } else { link.outbox.take() };
        link.untaken = 0;
        Some(Output { batch, close: link.close, more, wait_for })
    }

    fn finish(&mut self, packet_id: PacketId, phase: Phase, report: &mut Report) -> Acknowledged {
        let owner = self.owner();
        match self.exchanges.window.finish(packet_id, phase, owner) {
            Some(Ended { was_pending, row }) => {
                self.note_resent(was_pending);
                if let Some((owner, row)) = row {
                    report.records.push_done(owner, row);
                }
                Acknowledged::Done
            }
            None if self.exchanges.window.get_mut(packet_id).is_some() => Acknowledged::Contradiction,
            None => Acknowledged::Unknown,
        }
    }

    /// An entry that was to be sent again need not be any more.
    fn note_resent(&mut self, was_pending: bool) {
        if let (true, Some(link)) = (was_pending, &mut self.link) {
            link.to_resend = link.to_resend.saturating_sub(1);
        }
    }

    /// Whether the window has room and the outbox is not full.
    fn window_is_open(&self) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| link.to_resend == 0 && self.exchanges.window.unfinished() < link.window)
    }
}

/// The phase in which a message of this QoS starts; `None` for QoS 0, which has no exchange.
fn first_phase(qos: QoS) -> Option<Phase> {
    match qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(Phase::PubAck),
        QoS::ExactlyOnce => Some(Phase::PubRec),
    }
}
