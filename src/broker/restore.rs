//! How a broker begins with what its store held.
//!
//! Called once by `server`, after the rules are set and before the first listener opens, so that the first message
//! published reaches everyone who is to get it. What always holds: a session is restored with its number, its
//! subscriptions route, and its clocks go on: what was to end while the broker was away ends now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::{Away, PendingWill, SessionHandle};
use super::{Broker, Deadline, groups::Group};
use crate::auth::Identity;
use crate::codec::{RetainHandling, SubscriptionOptions};
use crate::message::{Expiry, SessionNumber};
use crate::session::{GroupNumber, Lifetime, Session};
use crate::store::{Record, Recovered, RecoveredGroup, RecoveredSession, RecoveredWill};
use crate::topic::{Target, TopicFilter};

/// What was restored, for the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Sessions.
    pub sessions: usize,
    /// Their subscriptions.
    pub subscriptions: usize,
    /// Messages that wait for them, or were in flight.
    pub messages: usize,
    /// Retained messages.
    pub retained: usize,
}

impl Broker {
    /// Takes over what the store held when it was opened.
    pub fn restore(&self, recovered: Recovered, now: Instant) -> Restored {
        let Recovered { mut sessions, groups, retained, next_owner } = recovered;
        let mut restored = Restored { sessions: sessions.len(), ..Restored::default() };
        self.session_numbers.fetch_max(next_owner.saturating_sub(1), std::sync::atomic::Ordering::Relaxed);
        let (retained, expired): (Vec<_>, Vec<_>) =
            retained.into_iter().partition(|(_, message)| message.expiry(now) != Expiry::Expired);
        restored.retained = retained.len();
        for (_, message) in &retained {
            self.watch_expiry(message);
        }
        self.retained.lock().restore(retained);
        for (slot, _) in expired {
            self.append(|records| records.push(&Record::Forgotten { slot }));
        }
        let groups: Vec<_> = groups.into_iter().filter_map(|group| self.restore_group(group)).collect();
        let mut ended = Vec::new();
        // The latest first: of two sessions of one client it is the one that counts.
        sessions.sort_unstable_by_key(|session| std::cmp::Reverse(session.owner));
        for session in sessions {
            restored.subscriptions += session.subscriptions.len();
            restored.messages += session.rows.len();
            ended.extend(self.restore_session(session, now));
        }
        for group in groups {
            restored.messages += group.queued();
            if group.members() == 0 {
                self.remove_group(&mut self.groups.write(), &group);
            }
        }
        // Only now, with everyone there who is to get their Wills.
        for handle in ended {
            self.end_session(&handle, true, now);
        }
        self.handle_deadlines(now);
        restored
    }

    fn restore_group(&self, group: RecoveredGroup) -> Option<Arc<Group>> {
        let number = GroupNumber::new(SessionNumber(group.owner.0))?;
        // The text came out of a valid filter.
        let filter = TopicFilter::parse(&group.filter).ok()?;
        let made = self.add_group(&mut self.groups.write(), number, group.name, filter);
        made.restore(group.rows, group.next_row);
        Some(made)
    }

    /// The session, if it has ended with its connection.
    fn restore_session(&self, recovered: RecoveredSession, now: Instant) -> Option<Arc<SessionHandle>> {
        let lifetime = match recovered.expiry {
            None => Lifetime::Forever,
            Some(0) => Lifetime::Connection,
            Some(seconds) => Lifetime::After(Duration::from_secs(seconds.into())),
        };
        let mut session = Session::new(lifetime, Some(recovered.owner), self.budget.clone());
        session.restore(&recovered.rows, recovered.next_row, &recovered.received);
        let client_id = &*recovered.client_id;
        let publisher = self.registry.publisher(client_id);
        let number = SessionNumber(recovered.owner.0);
        let handle = Arc::new(SessionHandle::new(number, client_id, publisher, session));
        let mut place = self.registry.place(client_id);
        if place.get().is_some() {
            // A clean start was under way: the new session was kept already, and the old one not ended yet.
            drop(place);
            tracing::debug!(client = client_id, "an earlier session of the client was to end, and does");
            self.append(|records| records.push(&Record::Ended { owner: recovered.owner }));
            return None;
        }
        place.put(handle.clone());
        drop(place);
        self.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);

        let mut state = handle.lock();
        state.identity = recovered.user.map(|user| {
            let groups = recovered.user_groups.iter().map(|group| Arc::from(&**group)).collect();
            Arc::new(Identity { groups, ..Identity::of_user(&user, "store") })
        });
        state.permissions = self.permissions_of(state.identity.as_deref(), client_id, None);
        // A client that was connected has left by the end of the broker, for all we know: now.
        let expires_at = match (recovered.expires_at, lifetime) {
            (Some(at), _) => Some(self.timebase.instant(at)),
            (None, Lifetime::After(after)) => now.checked_add(after),
            (None, Lifetime::Connection | Lifetime::Forever) => None,
        };
        let expiry =
            expires_at.map(|at| self.add_deadline(at, Deadline::SessionExpiry(Arc::downgrade(&handle))));
        let had_left = recovered.expires_at.is_some() || lifetime == Lifetime::Forever;
        let will = recovered.will.map(|will| pending(will, |at| self.timebase.instant(at)));
        let due = will.as_ref().map(|(will, due)| due.unwrap_or_else(|| now + will.delay));
        state.will = will.map(|(will, _)| Box::new(will));
        let will = due.map(|due| self.add_deadline(due, Deadline::Will(Arc::downgrade(&handle))));
        state.away = Some(Box::new(Away { expiry, will }));
        if lifetime != Lifetime::Connection && (!had_left || due.is_some()) {
            self.append(|records| {
                self.write_session(&handle, &state, expires_at, records);
                if let Some(will) = &state.will {
                    self.write_will(&handle, will, due, records);
                }
            });
        }
        drop(state);

        for (text, options, identifier) in recovered.subscriptions {
            // What the retained messages were then, it got then.
            let options = SubscriptionOptions { retain_handling: RetainHandling::DoNotSend, ..options };
            match Target::parse(&text) {
                Ok(Target::Own(filter)) => {
                    self.subscribe_own(&handle, filter, options, identifier, None);
                }
                Ok(Target::Shared { group, filter }) => {
                    self.subscribe_shared(&handle, group, filter, options, identifier, None);
                }
                Err(_) => {
                    tracing::error!(
                        client = client_id,
                        filter = &*text,
                        "the store has a filter that is none"
                    );
                }
            }
        }
        (lifetime == Lifetime::Connection).then_some(handle)
    }
}

/// The Will, and when it is due if its delay had begun.
fn pending(
    will: RecoveredWill,
    instant: impl Fn(crate::store::Timestamp) -> Instant,
) -> (PendingWill, Option<Instant>) {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let due = will.due.map(instant);
    let pending =
        PendingWill { message: will.message, expiry: will.expiry.map(seconds), delay: seconds(will.delay) };
    (pending, due)
}
