//! Retained messages: the tree, its bounds, and the replay to new subscriptions.
//!
//! Owner: [`super::Broker`]. What always holds: at most one message a topic [MQTT-3.3.1-5]; an empty payload removes
//! it [MQTT-3.3.1-6], [MQTT-3.3.1-7]; the bounds hold, and a message for which there is no room is not retained but
//! still routed. The replay walks the tree in slices, each under the lock for some microseconds.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::deadlines::DeadlineKey;
use super::handle::{Replay, SessionState};
use super::{Broker, Deadline, SessionHandle};
use crate::auth::acl::Decision;
use crate::codec::QoS;
use crate::message::{Expiry, Message, Publisher, fetch_ahead};
use crate::routing::{Cursor, RetainedTree};
use crate::session::Terms;
use crate::session::{Report, SessionLimits};
use crate::store::{CommitSeq, Record, RetainedSlot};
use crate::topic::TopicFilter;

/// Messages taken out of the tree at a time, for one subscriber.
const SLICE: usize = 512;

/// Nodes of the tree walked at a time, for one subscriber.
const SLICE_STEPS: usize = 1_024;

/// Nodes of the tree walked to find out whether a new subscription is to get anything.
const GLANCE_STEPS: usize = 64;

/// Bounds of all retained messages together.
#[derive(Debug, Clone, Copy)]
pub struct RetainedLimits {
    /// Whether messages are retained at all; if not, 5.0 clients are told so.
    pub available: bool,
    /// Messages at most.
    pub messages: usize,
    /// Bytes at most, as [`Message::cost`] counts them.
    pub bytes: u64,
}

/// A retained message, and its place in the store.
#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    slot: RetainedSlot,
    /// Of the tree when it was retained.
    age: RetainedAge,
}

/// How many replays of the tree have begun. It stays at its highest value, behind which nothing is told apart any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RetainedAge(u32);

impl RetainedAge {
    /// Whether what was retained at another age is newer than a replay that began at this one.
    fn is_before(self, other: Self) -> bool {
        other >= self && self.0 < u32::MAX
    }
}

/// Where a message is retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// There.
    At(RetainedSlot),
    /// Nowhere: it had no payload.
    Nowhere,
    /// Nowhere, for want of room.
    NoRoom,
}

/// See the module.
#[derive(Debug)]
pub struct Retained {
    tree: RetainedTree<Kept>,
    age: RetainedAge,
    /// Places in the store that are free again, and the first that never was taken.
    free: Vec<u32>,
    next_slot: u32,
    bytes: u64,
    limits: RetainedLimits,
    /// Messages that were not retained for want of room.
    refused: u64,
}

impl Retained {
    /// An empty tree.
    pub fn new(limits: RetainedLimits) -> Self {
        Self {
            tree: RetainedTree::new(),
            age: RetainedAge::default(),
            free: Vec::new(),
            next_slot: 0,
            bytes: 0,
            limits,
            refused: 0,
        }
    }

    /// Retains a message, or removes the topic's if the payload is empty. The place it has in the store, unless it was
    /// removed or there is no room for it; and what stood there before.
    fn set(&mut self, message: &Arc<Message>) -> (Placed, Option<Kept>) {
        let (placed, previous) = if message.payload().is_empty() {
            (Placed::Nowhere, self.tree.remove(message.topic()))
        } else {
            let known = self.tree.get(message.topic()).map(|old| (old.message.cost(), old.slot));
            let replaced = known.map_or(0, |(cost, _)| cost);
            let is_new = replaced == 0;
            let bytes = self.bytes - replaced + message.cost();
            if bytes > self.limits.bytes || (is_new && self.tree.len() >= self.limits.messages) {
                self.refused += 1;
                // The older message must not stay: it would be older than one that was acknowledged.
                let removed = self.tree.remove(message.topic());
                self.forget(removed.as_ref());
                return (Placed::NoRoom, removed);
            }
            self.bytes += message.cost();
            let slot = match known {
                Some((_, slot)) => slot,
                None => self.take_slot(),
            };
            let kept = Kept { message: message.clone(), slot, age: self.age };
            let previous = self.tree.insert(message.topic(), kept);
            self.bytes -= previous.as_ref().map_or(0, |old| old.message.cost());
            return (Placed::At(slot), previous);
        };
        self.forget(previous.as_ref());
        (placed, previous)
    }

    /// Counts one that was removed no more, and frees its place.
    fn forget(&mut self, removed: Option<&Kept>) {
        if let Some(removed) = removed {
            self.bytes -= removed.message.cost();
            self.free.push(removed.slot.0);
        }
    }

    fn take_slot(&mut self) -> RetainedSlot {
        RetainedSlot(self.free.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        }))
    }

    /// Puts messages where the store had them when it was opened.
    pub(super) fn restore(&mut self, kept: Vec<(RetainedSlot, Arc<Message>)>) {
        let mut taken: Vec<u32> = kept.iter().map(|(slot, _)| slot.0).collect();
        taken.sort_unstable();
        self.next_slot = taken.last().map_or(0, |last| last + 1);
        let mut taken = taken.into_iter().peekable();
        self.free = (0..self.next_slot).filter(|slot| taken.next_if_eq(slot).is_none()).collect();
        for (slot, message) in kept {
            self.bytes += message.cost();
            let topic = message.clone();
            self.tree.insert(topic.topic(), Kept { message, slot, age: self.age });
        }
    }

    /// Whether a filter may match anything; a glance that sees no end of it says yes.
    fn may_match(&self, filter: &TopicFilter) -> bool {
        let mut matches = false;
        let cursor = self.tree.scan(filter, None, 1, GLANCE_STEPS, &mut |_| matches = true);
        matches || cursor.is_some()
    }

    /// The next messages of a replay, at most `room` and about as many `bytes`, one at least; and where to go on.
    fn slice<'t>(
        &'t self,
        replay: &Replay,
        room: usize,
        bytes: u64,
        slice: &mut Vec<Arc<Message>>,
    ) -> Option<Cursor> {
        let scan = |limit: usize, found: &mut Vec<&'t Kept>| {
            let visit = &mut |kept| found.push(kept);
            self.tree.scan(&replay.filter, replay.cursor.as_ref(), limit, SLICE_STEPS, visit)
        };
        // Looked at one after the other, and only then counted as held: so a processor waits for many at once that
        // are in no cache.
        let mut found = Vec::with_capacity(room.min(SLICE));
        let mut cursor = scan(room.min(SLICE), &mut found);
        let mut taken = 0;
        let fit = found.iter().take_while(|kept| {
            let is_within = taken < bytes;
            taken += kept.message.cost();
            is_within
        });
        let fit = fit.count().max(1);
        if fit < found.len() {
            found.clear();
            // Where the shorter slice ends, only a walk of that length can tell.
            cursor = scan(fit, &mut found);
        }
        let there = found.iter().filter(|kept| !replay.age.is_before(kept.age));
        slice.extend(there.map(|kept| kept.message.clone()));
        cursor
    }
}

impl Broker {
    /// The age of what is retained by now, if any of it may match a filter. If the subscription stands in the trie already, what
    /// is retained from now on is routed after that, and so reaches the subscriber: it is not for the replay.
    pub(super) fn begin_replay(&self, filter: &TopicFilter) -> Option<RetainedAge> {
        let mut retained = self.retained.lock();
        if !retained.may_match(filter) {
            return None;
        }
        retained.age = RetainedAge(retained.age.0.saturating_add(1));
        Some(retained.age)
    }

    /// Sends at once what new subscriptions are to get, as far as there is room: the next packet of their client may replace
    /// what is retained now. `replays`: how many of them there are at most.
    pub fn replay_at_once(&self, handle: &SessionHandle, replays: usize, report: &mut Report, now: Instant) {
        for _ in 0..replays {
            if !self.replay(handle, report, now) {
                break;
            }
        }
    }

    /// Retains a message, or removes its topic's.
    pub(super) fn retain(&self, message: &Arc<Message>) -> CommitSeq {
        if !self.settings.retained.available {
            return CommitSeq::default();
        }
        let mut retained = self.retained.lock();
        let (placed, previous) = retained.set(message);
        let refused = retained.refused;
        // Under the lock: who retains something for the topic later is appended later.
        // What the broker says of itself is said anew after a restart.
        let is_own = message.publisher == Publisher::BROKER;
        let sequence = self.append(|records| match (placed, &previous) {
            _ if is_own => {}
            (Placed::At(slot), _) => {
                records.push(&Record::Kept { slot, message: self.retained_image(message) });
            }
            (Placed::Nowhere | Placed::NoRoom, Some(previous)) => {
                records.push(&Record::Forgotten { slot: previous.slot });
            }
            (Placed::Nowhere | Placed::NoRoom, None) => {}
        });
        drop(retained);
        self.remove_deadline(previous.as_ref().and_then(|kept| self.expiry_key(&kept.message)));
        if placed == Placed::NoRoom && refused.is_power_of_two() {
            tracing::warn!(
                refused,
                topic = message.topic().as_str(),
                "a message was not retained, there is no room: raise retained.max_messages or retained.max_bytes"
            );
        }
        if matches!(placed, Placed::At(_)) {
            self.watch_expiry(message);
        }
        sequence
    }

    /// Has a retained message removed when its time has come.
    pub(super) fn watch_expiry(&self, message: &Arc<Message>) {
        if let Some(key) = self.expiry_key(message) {
            let deadline = Deadline::RetainedExpiry(Arc::downgrade(message));
            if self.deadlines.lock().insert_numbered(key, deadline) {
                self.nearer.notify_one();
            }
        }
    }

    /// The key of a retained message's deadline. While the deadline stands it holds the message's allocation, so no
    /// other message has the same address.
    fn expiry_key(&self, message: &Arc<Message>) -> Option<DeadlineKey> {
        let at = message.expires_at?;
        Some(self.deadlines.lock().numbered(at, Arc::as_ptr(message).addr() as u64))
    }

    /// Removes a message whose time has come, unless another one stands in its place.
    pub(super) fn expire_retained(&self, message: &Weak<Message>) {
        let Some(message) = message.upgrade() else { return };
        let mut retained = self.retained.lock();
        if retained.tree.get(message.topic()).is_some_and(|found| Arc::ptr_eq(&found.message, &message)) {
            let removed = retained.tree.remove(message.topic());
            retained.forget(removed.as_ref());
            if let Some(Kept { slot, .. }) = removed {
                self.append(|records| records.push(&Record::Forgotten { slot }));
            }
        }
    }

    /// Retained messages, and the bytes they take.
    pub fn retained(&self) -> (usize, u64) {
        let retained = self.retained.lock();
        (retained.tree.len(), retained.bytes)
    }

    /// Sends the next retained messages that a session's new subscriptions are to get, as far as its window and
    /// outbox have room. Whether more could be sent at once: the caller comes back, others first.
    pub(super) fn replay(&self, handle: &SessionHandle, report: &mut Report, now: Instant) -> bool {
        let context = self.context(now);
        let mut slice: Vec<Arc<Message>> = Vec::new();
        // Held until the slice is delivered: what a publisher retains after the tree was read must reach the session
        // behind it, or the client would end with the older one.
        let mut guard = handle.lock();
        let state = &mut *guard;
        let next = state.extras().and_then(|extras| extras.replays.pop_first());
        let Some((id, mut replay)) = next else { return false };
        let room = room_for_replay(state, &replay, context.limits);
        if room == 0 {
            state.make_extras().replays.insert(id, replay);
            return false;
        }
        let cursor =
            self.retained.lock().slice(&replay, room, room_in_outbox(state, context.limits), &mut slice);
        let permissions = state.permissions.clone();
        fetch_ahead(slice.iter());
        for message in &slice {
            let decision = permissions
                .as_ref()
                .map_or(Decision::FREE, |permissions| permissions.receive(message.topic()));
            if !decision.allowed {
                continue;
            }
            let is_own = replay.no_local && message.publisher == handle.publisher;
            if is_own || message.expiry(now) == Expiry::Expired {
                continue;
            }
            // [MQTT-3.3.1-8]: RETAIN is set on what a new subscription gets.
            let terms = replay.granted.terms(false);
            let terms = Terms { qos: terms.qos.min(decision.maximum_qos), ..terms };
            state.session.deliver_kept(message, true, &terms, context, report);
        }
        if cursor.is_some() {
            replay.cursor = cursor;
            state.make_extras().replays.insert(id, replay);
        }
        state.has_replays()
    }
}

/// How many messages of a replay the session can take now without queueing or dropping any.
pub(super) fn room_for_replay(state: &SessionState, replay: &Replay, limits: &SessionLimits) -> usize {
    let Some(link) = &state.session.link else { return 0 };
    if link.pending() >= limits.outbox_soft {
        return 0;
    }
    match replay.granted.qos {
        QoS::AtMostOnce => SLICE,
        QoS::AtLeastOnce | QoS::ExactlyOnce if state.session.has_room() => {
            usize::from(link.window.saturating_sub(state.session.in_flight()))
        }
        QoS::AtLeastOnce | QoS::ExactlyOnce => 0,
    }
}

/// How many bytes of a replay fit into the session's outbox before it is at its soft bound.
fn room_in_outbox(state: &SessionState, limits: &SessionLimits) -> u64 {
    let pending = state.session.link.as_ref().map_or(0, |link| link.pending());
    limits.outbox_soft.saturating_sub(pending) as u64
}
