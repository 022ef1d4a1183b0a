//! How connections and sessions end: the Will, expiry, take-over, and the deadlines that lead there.
//!
//! Called by `net` when a connection is gone, and by the timer. Clauses: [MQTT-3.1.2-8] to [MQTT-3.1.2-10],
//! [MQTT-3.1.2-22], [MQTT-3.1.2-23], [MQTT-3.1.3-9], [MQTT-3.14.4-3].

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::deadlines::DeadlineKey;
use super::handle::{Away, Extras, PendingWill, SessionHandle, SessionState};
use super::publish::Along;
use super::{Broker, Counter, Deadline};
use crate::session::{Close, Lifetime, LinkId, Queued, Report};
use crate::store::{CommitSeq, Record};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client sent DISCONNECT; 5.0 clients may ask for their Will all the same (0x04), and may change their
    /// Session Expiry Interval.
    Disconnect {
        /// The Will is not published [MQTT-3.1.2-10].
        discard_will: bool,
        /// The new interval, in seconds.
        session_expiry_interval: Option<u32>,
    },
    /// Everything else.
    Broken,
}

impl Broker {
    /// Takes a connection away from its session. Nothing happens if another connection has the session already:
    /// then its owner has settled everything.
    pub fn disconnect(&self, handle: &Arc<SessionHandle>, link: LinkId, ending: Ending, now: Instant) {
        let mut state = handle.lock();
        if state.session.detach(link, &self.timebase).is_none() {
            return;
        }
        // They look again under the lock of the session's place, or find that it has ended.
        state.take_successors().into_iter().for_each(Waker::wake);
        self.connected.fetch_sub(1, Ordering::Relaxed);
        self.remove_deadline(state.keep_alive.take());
        self.remove_deadline(state.extras().and_then(|extras| extras.proof_ends.take()));
        if let Ending::Disconnect { discard_will, session_expiry_interval } = ending {
            if discard_will {
                state.will = None;
            }
            if let Some(seconds) = session_expiry_interval {
                state.session.lifetime = self.lifetime(seconds);
            }
        }
        let returned = self.returned_group_messages(&mut state);
        let mut will = None;
        let mut expires_at = None;
        match state.session.lifetime {
            Lifetime::Connection => {
                drop(state);
                self.give_back(returned, now);
                // A connection that took the session over meanwhile keeps it.
                self.end_session(handle, true, now);
                return;
            }
            Lifetime::After(after) => expires_at = now.checked_add(after),
            Lifetime::Forever => {}
        }
        let expiry =
            expires_at.map(|at| self.add_deadline(at, Deadline::SessionExpiry(Arc::downgrade(handle))));
        let will_due = match &state.will {
            Some(pending) if pending.delay.is_zero() => {
                will = state.will.take();
                None
            }
            // If the session ends before, the Will is published then [MQTT-3.1.3-9].
            Some(pending) => now.checked_add(pending.delay),
            None => None,
        };
        let due = will_due.map(|at| self.add_deadline(at, Deadline::Will(Arc::downgrade(handle))));
        state.away = Some(Box::new(Away { expiry, will: due }));
        handle.note_load(&state);
        let will_number = state.will_number;
        if state.session.is_kept() {
            self.append(|records| {
                self.write_session(handle, &state, expires_at, records);
                match &state.will {
                    Some(pending) => self.write_will(handle, pending, will_due, records),
                    // One that is to be published ends together with that.
                    None if will.is_none() => {
                        records.push(&Record::WillEnded { owner: handle.number.owner() });
                    }
                    None => {}
                }
            });
        }
        drop(state);
        self.give_back(returned, now);
        self.publish_will(will, handle, Some(will_number), now);
    }

    /// Ends a session: its subscriptions, its queue, its place under its Client Identifier; a Will that still
    /// waits is published. With `only_if_left`, a session that has a connection (again) is spared.
    /// Whether it was ended now, and what to wait for if that must last.
    pub(super) fn end_session(
        &self,
        handle: &Arc<SessionHandle>,
        only_if_left: bool,
        now: Instant,
    ) -> Option<CommitSeq> {
        let mut state = handle.lock();
        let was_connected = state.session.link.is_some();
        if state.ended || (only_if_left && was_connected) {
            return None;
        }
        state.ended = true;
        let returned = self.returned_group_messages(&mut state);
        let subscriptions = std::mem::take(&mut state.subscriptions);
        let will = state.will.take();
        for key in state.take_deadlines() {
            self.remove_deadline(key);
        }
        let Extras { groups, successors, .. } = state.take_extras();
        successors.into_iter().for_each(Waker::wake);
        let is_kept = state.session.is_kept();
        // A link that is still there belongs to a connection that was taken over; it finds out by itself.
        let waker = state.session.link.take().map(|link| link.waker);
        state.session = crate::session::Session::new(Lifetime::Connection, None, self.budget.clone());
        drop(state);
        if was_connected {
            self.connected.fetch_sub(1, Ordering::Relaxed);
        }
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        self.registry.remove(handle);
        self.give_back(returned, now);
        self.remove_subscriptions(handle, subscriptions, groups);
        let end = if is_kept { Along::EndOfSession(handle) } else { Along::Nothing };
        let sequence = match will {
            Some(will) => self.publish_kept(&Arc::new(will.into_message(now)), end, now),
            None => self.append(|records| {
                if is_kept {
                    records.push(&Record::Ended { owner: handle.number.owner() });
                }
            }),
        };
        waker.into_iter().for_each(Waker::wake);
        Some(sequence)
    }

    /// Publishes a Will, if there is one. With its number, the store hears that it has ended.
    pub(super) fn publish_will(
        &self,
        will: Option<Box<PendingWill>>,
        handle: &SessionHandle,
        number: Option<u32>,
        now: Instant,
    ) {
        let Some(will) = will else { return };
        let along = number.map_or(Along::Nothing, |number| Along::EndOfWill(handle, number));
        self.publish_kept(&Arc::new(will.into_message(now)), along, now);
    }

    /// The lifetime that a Session Expiry Interval in seconds asks for, within the bound.
    pub(super) fn lifetime(&self, seconds: u32) -> Lifetime {
        match (seconds, self.settings.max_expiry) {
            (0, _) => Lifetime::Connection,
            (u32::MAX, None) => Lifetime::Forever,
            (seconds, None) => Lifetime::After(Duration::from_secs(seconds.into())),
            (seconds, Some(most)) => Lifetime::After(Duration::from_secs(seconds.into()).min(most)),
        }
    }

    pub(super) fn expire_session(&self, handle: &Weak<SessionHandle>, now: Instant) {
        let Some(handle) = handle.upgrade() else { return };
        if self.end_session(&handle, true, now).is_some() {
            self.counters.add(Counter::SessionsExpired, 1);
            tracing::debug!(client = %handle.client_id, "a session has expired");
        }
    }

    pub(super) fn publish_due_will(&self, handle: &Weak<SessionHandle>, now: Instant) {
        let Some(handle) = handle.upgrade() else { return };
        let mut state = handle.lock();
        if let Some(away) = &mut state.away {
            away.will = None;
        }
        let will = if state.session.link.is_none() { state.will.take() } else { None };
        let number = state.will_number;
        drop(state);
        self.publish_will(will, &handle, Some(number), now);
    }

    /// Ends a connection that was silent for one and a half times its Keep Alive [MQTT-3.1.2-22], or looks again
    /// when that would be.
    pub(super) fn check_keep_alive(&self, weak: Weak<SessionHandle>, key: DeadlineKey, now: Instant) {
        let Some(handle) = weak.upgrade() else { return };
        let mut state = handle.lock();
        // Another connection has another deadline.
        if state.keep_alive != Some(key) {
            return;
        }
        let Some(link) = state.session.link.as_mut() else { return };
        let Some(allowed) = link.silence_allowed() else { return };
        // A packet may have come after this round of deadlines took its time: then the difference is below zero.
        let silent = self.milliseconds(now).wrapping_sub(link.last_packet).cast_signed();
        let silent = Duration::from_millis(u64::try_from(silent).unwrap_or(0));
        let left = allowed.saturating_sub(silent);
        if left.is_zero() {
            let waker = link.request_close(Close::KeepAliveTimeout);
            state.keep_alive = None;
            drop(state);
            waker.into_iter().for_each(Waker::wake);
        } else {
            state.keep_alive = Some(self.add_deadline(now + left, Deadline::KeepAlive(weak)));
        }
    }

    /// Ends a connection whose client has proved who it is only until now.
    pub(super) fn end_expired(&self, weak: &Weak<SessionHandle>, key: DeadlineKey) {
        let Some(handle) = weak.upgrade() else { return };
        let mut state = handle.lock();
        if state.extras().and_then(|extras| extras.proof_ends.take_if(|ends| *ends == key)).is_none() {
            return;
        }
        let waker = state.session.link.as_mut().and_then(|link| link.request_close(Close::Expired));
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Ends a connection whose client has read nothing for `limits.write_timeout`.
    pub(super) fn check_blocked(&self, watched: Box<(Weak<SessionHandle>, LinkId)>, now: Instant) {
        let Some(handle) = watched.0.upgrade() else { return };
        let mut state = handle.lock();
        let Some(link) = state.session.link.as_mut().filter(|link| link.id == watched.1) else { return };
        let Some(since) = link.blocked_since() else {
            link.watched = false;
            return;
        };
        let due = since + self.settings.write_timeout;
        if due <= now {
            let waker = link.request_close(Close::WriteTimeout);
            drop(state);
            waker.into_iter().for_each(Waker::wake);
        } else {
            drop(state);
            self.add_deadline(due, Deadline::Blocked(watched));
        }
    }

    /// QoS 1 messages of shared groups that the session had in flight: they go to another member at once
    /// [MQTT-4.8.2-5].
    fn returned_group_messages(
        &self,
        state: &mut SessionState,
    ) -> Vec<(crate::session::GroupNumber, Queued)> {
        let groups: Vec<_> = state.groups().iter().map(|group| group.number).collect();
        if groups.is_empty() {
            return Vec::new();
        }
        state.session.release_group_messages(|number| groups.contains(&number))
    }

    fn give_back(&self, mut returned: Vec<(crate::session::GroupNumber, Queued)>, now: Instant) {
        returned.sort_by_key(|(number, _)| number.0);
        if returned.is_empty() {
            return;
        }
        let mut report = Report::default();
        let transaction = self.reserve(&mut report);
        for one_group in returned.chunk_by(|one, other| one.0 == other.0) {
            let Some((number, _)) = one_group.first() else { continue };
            let queued = one_group.iter().map(|(_, queued)| queued.clone()).collect();
            if let Some(group) = self.group(*number) {
                group.take_back(queued, self.context(now), &mut report);
            }
        }
        self.append_gathered(transaction, &mut report);
        self.settle(&mut report);
    }
}
