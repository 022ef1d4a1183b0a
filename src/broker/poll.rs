//! What a client's own connection asks of its session: output, acknowledgements, QoS 2 identifiers.
//!
//! Called by `net`, once a poll of the connection; a publisher that only sends locks its own session once for a
//! whole batch.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::groups::can_take;
use super::handle::SessionState;
use super::retained::room_for_replay;
use super::{Broker, Counter, Deadline, SessionHandle};
use crate::codec::QoS;
use crate::message::Message;
use crate::session::{Batch, LinkId, Output, Report};
use crate::store::CommitSeq;

/// Bytes that are worth a write of their own even to a client that was written to a moment ago.
const GATHER_BELOW: usize = 16 * 1024;

/// What the connection tells, and asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// A packet came in since the last poll.
    pub heard: bool,
    /// Bytes taken from the outbox before and not written yet.
    pub unwritten: usize,
    /// Bytes were written since the last poll.
    pub wrote: bool,
    /// Something new can be written now.
    pub take: bool,
    /// Retained messages may be sent: no SUBACK that they would overtake waits for the store.
    pub may_replay: bool,
    /// It was written to a moment ago, and has not waited since: a little may gather some more.
    pub may_gather: bool,
}

/// What there is to do for the connection.
#[derive(Debug)]
pub struct Polled {
    /// What to write, and whether to end.
    pub output: Output,
    /// More waits that could go out once this is written: poll again, after others had their turn.
    pub more: bool,
    /// Nothing was taken, so that more gathers while others have their turn: poll again.
    pub gathering: bool,
    /// Another connection waits until all is heard, to take the session over.
    pub has_successors: bool,
}

impl Broker {
    /// Fills the session's outbox with what waits for it, and takes it. The report must be settled. `None` if the connection has lost its
    /// session.
    pub fn poll(
        &self,
        handle: &Arc<SessionHandle>,
        link_id: LinkId,
        progress: Progress,
        report: &mut Report,
        waker: &Waker,
        now: Instant,
    ) -> Option<Polled> {
        let context = self.context(now);
        let mut state = handle.lock();
        if !state.session.is_attached(link_id) {
            return None;
        }
        let has_successors = state.extras().is_some_and(|extras| !extras.successors.is_empty());
        let link = state.session.link.as_mut()?;
        if progress.heard {
            link.last_packet = self.milliseconds(now);
        }
        link.note_unwritten(progress.unwritten, progress.wrote, now);
        if progress.unwritten > 0 && !std::mem::replace(&mut link.watched, true) {
            let deadline = Deadline::Blocked(Box::new((Arc::downgrade(handle), link_id)));
            self.add_deadline(now + self.settings.write_timeout, deadline);
        }
        if !progress.take {
            let output = Output { batch: Batch::default(), close: link.close, more: false, wait_for: None };
            return Some(Polled { output, more: false, gathering: false, has_successors });
        }
        let little = 1..GATHER_BELOW;
        if progress.may_gather && link.close.is_none() && little.contains(&link.outbox.len()) {
            let output = Output { batch: Batch::default(), close: None, more: true, wait_for: None };
            return Some(Polled { output, more: true, gathering: true, has_successors });
        }
        let mut more = false;
        let waiting = state.groups().iter().any(|group| group.has_waiting());
        let replays = progress.may_replay && state.has_replays();
        let appends = state.session.is_kept() && (state.session.queued() > 0 || replays);
        let transaction = if waiting || appends { self.reserve(report) } else { None };
        if waiting || replays {
            let groups: Vec<_> = state.groups().iter().filter(|group| group.has_waiting()).cloned().collect();
            drop(state);
            for group in groups {
                group.pump(handle, context, report);
                group.fetch(&*self.store, waker, context);
            }
            if replays {
                more = self.replay(handle, report, now);
            }
            // It is this connection that would be woken.
            report.wakers.clear();
            state = handle.lock();
        }
        if state.session.is_kept() {
            self.take_fetched(&mut state, waker, report);
        }
        // What is appended is committed later than what may go now.
        let committed = if self.keeps() { self.store.committed() } else { CommitSeq(u64::MAX) };
        let output = state.session.poll_output(link_id, committed, context, report);
        self.append_gathered(transaction, report);
        let output = output?;
        if let Some(sequence) = output.wait_for {
            self.store.wake_when_committed(sequence, waker);
        }
        for fetch in state.session.next_fetches(context, waker).into_iter().flatten() {
            self.store.fetch(fetch);
        }
        if let Some(reason) = report.fresh_drop.take() {
            self.note_drop(handle, reason, state.session.dropped(reason));
        }
        handle.note_load(&state);
        // What waits elsewhere was looked at before the session's own queue, which may have moved since without
        // anything being sent that would be acknowledged: then nobody would come back for it.
        more |= output.more
            || state.groups().iter().any(|group| group.is_ready())
                && can_take(&state.session, QoS::AtLeastOnce, context)
            || progress.may_replay
                && state.replays().any(|replay| room_for_replay(&state, replay, context.limits) > 0);
        drop(state);
        self.settle(report);
        Some(Polled { output, more, gathering: false, has_successors })
    }

    /// Takes in what the store has fetched for a session, but for what its client may not read any more.
    fn take_fetched(&self, state: &mut SessionState, waker: &Waker, report: &mut Report) {
        let permissions = state.permissions.clone();
        let may_read = |message: &Message| {
            permissions.as_ref().is_none_or(|permissions| permissions.receive(message.topic()).allowed)
        };
        let denied = state.session.take_fetched(waker, may_read, report);
        self.counters.add(Counter::DroppedDenied, denied);
    }
}
