//! A session and what the store has of it: rows left there while the client is away, and fetched when it is back.
//!
//! Called by `broker` when a session is restored, when its connection ends, and in each poll of its connection. What
//! always holds: what is in flight keeps its place in the window, whether its message is in memory or not.

use std::sync::Arc;
use std::task::Waker;

use super::received::Received;
use super::window::{Content, Details, Entry};
use super::{Context, DropReason, Phase, Queued, Report, Session, first_phase};
use crate::codec::{PacketId, QoS};
use crate::message::Message;
use crate::store::{Fetch, Owner, RecoveredRow, RowSeq, RowState, Timebase};

/// Messages in flight that are fetched at a time.
const FETCHED_AT_ONCE: usize = 256;

/// What a session knows that the store keeps.
#[derive(Debug)]
pub(super) struct Kept {
    /// Whose its rows are.
    owner: Owner,
    /// The row that the next message gets.
    next_row: RowSeq,
    /// What of the window is being fetched.
    fetch: Option<Arc<Fetch>>,
}

impl Kept {
    pub(super) fn new(owner: Owner) -> Self {
        Self { owner, next_row: RowSeq(1), fetch: None }
    }
}

impl Session {
    /// Whose its rows are, if the store keeps any.
    pub fn owner(&self) -> Option<Owner> {
        self.kept.as_ref().map(|kept| kept.owner)
    }

    /// Whether the store keeps what is this session's.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Takes over what the store had of it when it was opened.
    pub fn restore(&mut self, rows: &[RecoveredRow], next_row: RowSeq, received: &[PacketId]) {
        if let Some(kept) = &mut self.kept {
            kept.next_row = next_row;
        }
        if rows.is_empty() && received.is_empty() {
            return;
        }
        self.exchanges.received = Received::restore(received);
        let in_flight = rows.iter().filter_map(|row| {
            let (packet_id, phase, content) = match row.state {
                RowState::Waiting => return None,
                RowState::Sent(packet_id) => (packet_id, first_phase(row.qos)?, Content::Stored(row.qos)),
                RowState::Released(packet_id) => (packet_id, Phase::PubComp, Content::Nothing),
            };
            Some((packet_id, phase, Details { row: row.seq, content, ..Details::default() }))
        });
        self.exchanges.window.restore(in_flight);
        self.exchanges.queue.restore(rows.iter().copied().filter(|row| row.state == RowState::Waiting));
    }

    /// What is to be fetched from the store now; the answer wakes this waker.
    #[must_use = "the store has to be asked"]
    pub fn next_fetches(&mut self, context: Context<'_>, waker: &Waker) -> [Option<Arc<Fetch>>; 2] {
        let (Some(kept), Some(link)) = (&mut self.kept, &self.link) else { return [None, None] };
        let owner = kept.owner;
        let mut window = None;
        if kept.fetch.is_none() && link.to_resend > 0 {
            let is_missing = |entry: &Entry<'_>| entry.in_flight.resend && entry.is_stored();
            let missing = self.exchanges.window.iter_mut().filter(is_missing);
            let mut rows: Vec<_> = missing.take(FETCHED_AT_ONCE).map(|entry| entry.row()).collect();
            rows.sort_unstable();
            if !rows.is_empty() {
                let fetch = Fetch::new(owner, rows, waker.clone());
                kept.fetch = Some(fetch.clone());
                window = Some(fetch);
            }
        }
        if !self.exchanges.queue.is_in_store() {
            return [window, None];
        }
        [window, self.exchanges.queue.next_fetch(owner, &context.limits.queue, waker)]
    }

    /// Takes in what the store has fetched meanwhile. What waits and is not to be kept is dropped; how many those
    /// were.
    pub fn take_fetched(
        &mut self,
        waker: &Waker,
        keep: impl FnMut(&Message) -> bool,
        report: &mut Report,
    ) -> u64 {
        let fetch = self.kept.as_mut().map(|kept| &mut kept.fetch);
        let fetched = fetch.and_then(|fetch| {
            let rows = fetch.as_ref()?.take(waker)?;
            *fetch = None;
            Some(rows)
        });
        if let Some(rows) = fetched {
            for row in rows {
                let entry = self
                    .exchanges
                    .window
                    .iter_mut()
                    .find(|entry| entry.row() == row.seq && entry.is_stored());
                let Some(mut entry) = entry else { continue };
                match row.content {
                    Some(content) => entry.set_content(Content::Message(Queued::of_row(row.seq, content))),
                    None => {
                        // It cannot be had, and so never be sent again: its identifier is free.
                        let (packet_id, phase) = (entry.in_flight.packet_id, entry.in_flight.phase);
                        if let Some(ended) = self.exchanges.window.finish(packet_id, phase, None) {
                            self.note_resent(ended.was_pending);
                        }
                        self.count_drop(DropReason::Unreadable, 1, report);
                    }
                }
            }
        }
        if !self.exchanges.queue.is_in_store() {
            return 0;
        }
        let owner = self.owner();
        self.exchanges.queue.take_fetched(waker, keep, &mut |row| report.done(owner, row))
    }

    /// Whether the window or the queue waits for the store to read.
    pub fn is_fetching(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.fetch.is_some()) || self.exchanges.queue.is_fetching()
    }

    /// The client is away: messages that have a row need not be in memory.
    pub(super) fn leave_to_store(&mut self, timebase: &Timebase) {
        let Some(kept) = &mut self.kept else { return };
        kept.fetch = None;
        if self.exchanges.window.is_empty() && self.exchanges.queue.is_empty() {
            return;
        }
        for mut entry in self.exchanges.window.iter_mut() {
            let is_own = entry.group().is_none() || entry.in_flight.phase != Phase::PubAck;
            if entry.row() != RowSeq::default() && is_own {
                let qos = match entry.in_flight.phase {
                    Phase::PubAck => QoS::AtLeastOnce,
                    Phase::PubRec => QoS::ExactlyOnce,
                    Phase::PubComp | Phase::Finished => continue,
                };
                entry.set_content(Content::Stored(qos));
            }
        }
        self.exchanges.queue.leave_to_store(timebase);
    }

    /// The number of the next row, if the store keeps any.
    pub(super) fn take_row(&mut self) -> RowSeq {
        let Some(kept) = &mut self.kept else { return RowSeq::default() };
        let row = kept.next_row;
        kept.next_row = RowSeq(row.0 + 1);
        row
    }
}
