//! What waits for a session's window: a bounded queue of kept messages, of which the store may hold the greater part.
//!
//! Owner: [`super::Session`], or a shared group, under its lock. What always holds: the order is that of
//! arrival; count and bytes stay within the bounds; what the queue holds in memory is counted in the broker's
//! [`QueueBudget`], also when it is dropped. Of a queue that is in the store, only the first messages are in memory, and
//! none while the client is away; the rest are rows, whose messages are fetched as the queue moves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Instant;

use crate::codec::QoS;
use crate::config::Overflow;
use crate::message::{Expiry, Message, fetch_ahead};
use crate::store::{Fetch, Fetched, FetchedRow, Owner, RecoveredRow, RowSeq, Timebase};

/// Messages fetched from the store at a time.
const FETCHED_AT_ONCE: usize = 512;

/// Messages the processor is to fetch at a time before they are sent.
const FETCHED_AHEAD: usize = 64;

/// A message with the terms on which one subscriber gets it.
#[derive(Debug, Clone)]
pub struct Queued {
    /// What to send.
    pub message: Arc<Message>,
    /// Subscription Identifiers to bear.
    pub identifiers: Option<Arc<[u32]>>,
    /// Its row in the store; zero: it has none.
    pub row: RowSeq,
    /// Granted QoS, at most the message's.
    pub qos: QoS,
    /// RETAIN as the subscriber is to see it.
    pub retain: bool,
}

impl Queued {
    /// A row that was fetched.
    pub fn of_row(row: RowSeq, content: FetchedRow) -> Self {
        let FetchedRow { message, qos, retain, identifiers } = content;
        Self { message, identifiers, row, qos, retain }
    }
}

/// Bounds of one queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes, as [`Message::cost`] counts them, in memory or not.
    pub bytes: u64,
    /// What happens at the bound.
    pub overflow: Overflow,
    /// Messages that are held in memory, of a queue that is in the store.
    pub in_memory: usize,
}

/// Bytes of memory queued in all sessions together, against one bound.
#[derive(Debug)]
pub struct QueueBudget {
    used: AtomicU64,
    bound: u64,
}

impl QueueBudget {
    /// A budget of this many bytes.
    pub fn new(bound: u64) -> Self {
        Self { used: AtomicU64::new(0), bound }
    }

    /// Bytes queued now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn has_room(&self, cost: u64) -> bool {
        self.used().saturating_add(cost) <= self.bound
    }
}

/// What became of a message that was to be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// It waits, and this many older ones were dropped for it.
    Displaced(u32),
    /// It was dropped.
    Dropped,
    /// It was dropped, and the publisher is to hear of it.
    Rejected,
}

/// A message that waits in the store alone.
#[derive(Debug, Clone, Copy)]
struct Stored {
    row: RowSeq,
    /// [`Message::cost`]
    cost: u32,
    /// In seconds since 1970, rounded up; the highest number: never.
    expires: u32,
}

impl Stored {
    /// What one costs in memory: this, and its place in the store's index.
    const COST: u64 = 40;

    fn of(queued: &Queued, timebase: &Timebase) -> Self {
        let expires = queued.message.expires_at.map(|at| timebase.timestamp(at).0);
        Self::new(queued.row, queued.message.cost(), expires)
    }

    fn new(row: RowSeq, cost: u64, expires: Option<u64>) -> Self {
        let seconds = |milliseconds: u64| u32::try_from(milliseconds.div_ceil(1_000)).unwrap_or(u32::MAX);
        Self {
            row,
            cost: u32::try_from(cost).unwrap_or(u32::MAX),
            expires: expires.map_or(u32::MAX, seconds),
        }
    }

    fn is_expired(&self, now: Instant, timebase: &Timebase) -> bool {
        self.expires != u32::MAX && u64::from(self.expires) * 1_000 <= timebase.timestamp(now).0
    }
}

/// What of a queue is in the store alone.
#[derive(Debug, Default)]
struct InStore {
    rows: VecDeque<Stored>,
    /// The first of them are under way.
    fetch: Option<Arc<Fetch>>,
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Queued>,
    /// Behind those, what waits in the store alone; few sessions have any.
    stored: Option<Box<InStore>>,
    bytes: u64,
    /// Bytes of memory, as the budget counts them.
    memory: u64,
    /// Somebody was told that it is filling up.
    told: bool,
    budget: Arc<QueueBudget>,
}

impl Queue {
    /// An empty queue that counts against this budget.
    pub fn new(budget: Arc<QueueBudget>) -> Self {
        Self { waiting: VecDeque::new(), stored: None, bytes: 0, memory: 0, told: false, budget }
    }

    /// Adds rows at the end that the store had when it was opened.
    pub fn restore(&mut self, rows: impl Iterator<Item = RecoveredRow>) {
        for row in rows {
            let expires = row.expires_at.map(|at| at.0);
            self.push_stored(Stored::new(row.seq, row.cost.into(), expires));
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.budget.clone());
    }

    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.in_store()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_store() == 0
    }

    /// Whether the next message is there, and not only in the store.
    pub fn is_ready(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether some of it is in the store alone, or on its way from there.
    pub fn is_in_store(&self) -> bool {
        self.stored.is_some()
    }

    /// Bytes waiting, in memory or not.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a message at the end, within the bounds. One that has a row stays in memory only if there is room for it
    /// and its client is there. `dropped` hears of the rows that are dropped for it.
    pub fn push(
        &mut self,
        queued: Queued,
        limits: &QueueLimits,
        is_connected: bool,
        (now, timebase): (Instant, &Timebase),
        dropped: &mut dyn FnMut(RowSeq),
    ) -> Pushed {
        let cost = queued.message.cost();
        let in_memory = if is_connected { limits.in_memory } else { 0 };
        let is_stored =
            queued.row != RowSeq::default() && (self.in_store() > 0 || self.waiting.len() >= in_memory);
        let memory = if is_stored { Stored::COST } else { cost };
        let mut displaced = 0;
        while !self.has_room(cost, memory, limits) {
            // Those that have expired make room first; they would never be delivered.
            if self.drop_expired(now, timebase, dropped) > 0 {
                continue;
            }
            match limits.overflow {
                // Older messages go only where that makes room: not for one that is too large by itself, nor when
                // it is the other sessions that have used up what there is.
                Overflow::DropOldest
                    if self.could_have_room(cost, memory, limits) && self.drop_oldest(dropped) =>
                {
                    displaced += 1;
                }
                Overflow::DropOldest | Overflow::DropNewest => return Pushed::Dropped,
                Overflow::Reject => return Pushed::Rejected,
            }
        }
        if is_stored {
            self.push_stored(Stored::of(&queued, timebase));
        } else {
            self.add_cost(cost, cost);
            self.waiting.push_back(queued);
        }
        if displaced > 0 { Pushed::Displaced(displaced) } else { Pushed::Queued }
    }

    /// Whether it has just become as full as its owner should know: four fifths of a bound. Told again when it was half
    /// empty meanwhile.
    pub fn is_newly_filling(&mut self, limits: &QueueLimits) -> bool {
        let share = |parts: u64| {
            (self.len() as u64).saturating_mul(5) >= (limits.messages as u64).saturating_mul(parts)
                || self.bytes.saturating_mul(5) >= limits.bytes.saturating_mul(parts)
        };
        let (is_filling, is_half_full) = (share(4), share(2));
        let is_new = is_filling && !self.told;
        self.told = is_filling || (self.told && is_half_full);
        is_new
    }

    /// Puts messages back at the front, in this order and without looking at the bounds: they had their place
    /// already, and were in flight.
    pub fn put_back(&mut self, returned: Vec<Queued>) {
        for queued in returned.into_iter().rev() {
            let cost = queued.message.cost();
            self.add_cost(cost, cost);
            self.waiting.push_front(queued);
        }
    }

    /// Has the processor fetch the next messages that are in memory; how many those are.
    pub fn fetch_ahead(&self) -> usize {
        let next = self.waiting.iter().take(FETCHED_AHEAD);
        let count = next.len();
        fetch_ahead(next.map(|queued| &queued.message));
        count
    }

    /// Takes the oldest message, if it is in memory.
    pub fn pop(&mut self) -> Option<Queued> {
        let queued = self.waiting.pop_front()?;
        let cost = queued.message.cost();
        self.subtract_cost(cost, cost);
        if self.waiting.is_empty() && self.waiting.capacity() > 64 {
            self.waiting = VecDeque::new();
        }
        Some(queued)
    }

    /// Drops every message in memory that is not to be kept; how many those were.
    pub fn retain(&mut self, mut keep: impl FnMut(&Message) -> bool, dropped: &mut dyn FnMut(RowSeq)) -> u64 {
        let before = self.waiting.len();
        let mut cost = 0;
        self.waiting.retain(|queued| {
            let kept = keep(&queued.message);
            if !kept {
                cost += queued.message.cost();
                dropped(queued.row);
            }
            kept
        });
        self.subtract_cost(cost, cost);
        (before - self.waiting.len()) as u64
    }

    /// The client is away: what has a row need not be in memory.
    pub fn leave_to_store(&mut self, timebase: &Timebase) {
        if let Some(stored) = &mut self.stored {
            stored.fetch = None;
        }
        if self.waiting.iter().any(|queued| queued.row == RowSeq::default()) {
            return;
        }
        while let Some(queued) = self.waiting.pop_back() {
            let cost = queued.message.cost();
            self.subtract_cost(cost, cost);
            self.add_cost(cost, Stored::COST);
            let stored = Stored::of(&queued, timebase);
            self.stored.get_or_insert_default().rows.push_front(stored);
        }
        self.waiting = VecDeque::new();
    }

    /// Whether it waits for the store to read.
    pub fn is_fetching(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.fetch.is_some())
    }

    /// What is to be fetched from the store now; the answer wakes this waker.
    #[must_use = "the store has to be asked"]
    pub fn next_fetch(&mut self, owner: Owner, limits: &QueueLimits, waker: &Waker) -> Option<Arc<Fetch>> {
        let stored = self.stored.as_mut()?;
        if stored.fetch.is_some() || self.waiting.len() * 4 > limits.in_memory {
            return None;
        }
        let rows = stored.rows.iter().take(FETCHED_AT_ONCE).map(|stored| stored.row).collect();
        let fetch = Fetch::new(owner, rows, waker.clone());
        stored.fetch = Some(fetch.clone());
        Some(fetch)
    }

    /// Takes in what the store has fetched meanwhile; those that are not to be kept are dropped, and counted. If it is
    /// not there yet, it wakes this waker.
    pub fn take_fetched(
        &mut self,
        waker: &Waker,
        mut keep: impl FnMut(&Message) -> bool,
        dropped: &mut dyn FnMut(RowSeq),
    ) -> u64 {
        let Some(in_store) = &mut self.stored else { return 0 };
        let Some(rows) = in_store.fetch.as_ref().and_then(|fetch| fetch.take(waker)) else { return 0 };
        in_store.fetch = None;
        let mut denied = 0;
        for Fetched { seq, content } in rows {
            // Some may have been dropped meanwhile.
            if self.first_stored().is_none_or(|stored| stored.row != seq) {
                continue;
            }
            self.pop_stored();
            match content {
                // What cannot be had is not done: after a restart it may be.
                None => {}
                Some(content) if keep(&content.message) => {
                    let queued = Queued::of_row(seq, content);
                    let cost = queued.message.cost();
                    self.add_cost(cost, cost);
                    self.waiting.push_back(queued);
                }
                Some(_) => {
                    denied += 1;
                    dropped(seq);
                }
            }
        }
        denied
    }

    /// Drops the expired messages at the front; how many those were.
    fn drop_expired(&mut self, now: Instant, timebase: &Timebase, dropped: &mut dyn FnMut(RowSeq)) -> u32 {
        let mut count = 0;
        loop {
            let is_expired = match (self.waiting.front(), self.first_stored()) {
                (Some(queued), _) => queued.message.expiry(now) == Expiry::Expired,
                (None, Some(stored)) => stored.is_expired(now, timebase),
                (None, None) => false,
            };
            if !is_expired || !self.drop_oldest(dropped) {
                return count;
            }
            count += 1;
        }
    }

    /// Drops the oldest message, in memory or not; whether there was one.
    fn drop_oldest(&mut self, dropped: &mut dyn FnMut(RowSeq)) -> bool {
        if let Some(queued) = self.pop() {
            dropped(queued.row);
            return true;
        }
        let Some(stored) = self.pop_stored() else { return false };
        dropped(stored.row);
        true
    }

    fn in_store(&self) -> usize {
        self.stored.as_ref().map_or(0, |stored| stored.rows.len())
    }

    fn first_stored(&self) -> Option<&Stored> {
        self.stored.as_ref()?.rows.front()
    }

    fn pop_stored(&mut self) -> Option<Stored> {
        let in_store = self.stored.as_mut()?;
        let stored = in_store.rows.pop_front();
        if in_store.rows.is_empty() {
            self.stored = None;
        }
        let stored = stored?;
        self.subtract_cost(stored.cost.into(), Stored::COST);
        Some(stored)
    }

    fn push_stored(&mut self, stored: Stored) {
        self.add_cost(stored.cost.into(), Stored::COST);
        self.stored.get_or_insert_default().rows.push_back(stored);
    }

    fn has_room(&self, cost: u64, memory: u64, limits: &QueueLimits) -> bool {
        self.len() < limits.messages
            && self.bytes.saturating_add(cost) <= limits.bytes
            && self.budget.has_room(memory)
    }

    /// Whether it would have room if it were empty.
    fn could_have_room(&self, cost: u64, memory: u64, limits: &QueueLimits) -> bool {
        let used_by_others = self.budget.used().saturating_sub(self.memory);
        limits.messages > 0
            && cost <= limits.bytes
            && used_by_others.saturating_add(memory) <= self.budget.bound
    }

    fn add_cost(&mut self, cost: u64, memory: u64) {
        self.bytes += cost;
        self.memory += memory;
        self.budget.used.fetch_add(memory, Ordering::Relaxed);
    }

    fn subtract_cost(&mut self, cost: u64, memory: u64) {
        self.bytes -= cost;
        self.memory -= memory;
        self.budget.used.fetch_sub(memory, Ordering::Relaxed);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.memory, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn message(number: u8) -> Queued {
        let topic = TopicName::parse(b"t").unwrap();
        let message = Message::own(topic, &[number], QoS::AtLeastOnce, false);
        Queued { message, identifiers: None, row: RowSeq::default(), qos: QoS::AtLeastOnce, retain: false }
    }

    fn time() -> (Instant, Timebase) {
        (Instant::now(), Timebase::now())
    }

    fn push(queue: &mut Queue, queued: Queued, limits: &QueueLimits, time: (Instant, Timebase)) -> Pushed {
        queue.push(queued, limits, true, (time.0, &time.1), &mut |_| {})
    }

    fn payloads(queue: &Queue) -> Vec<u8> {
        queue.waiting.iter().map(|queued| queued.message.payload()[0]).collect()
    }

    #[test]
    fn each_policy_keeps_what_it_says() {
        let time = time();
        for (overflow, last, kept) in [
            (Overflow::DropOldest, Pushed::Displaced(1), vec![1, 2]),
            (Overflow::DropNewest, Pushed::Dropped, vec![0, 1]),
            (Overflow::Reject, Pushed::Rejected, vec![0, 1]),
        ] {
            let budget = Arc::new(QueueBudget::new(u64::MAX));
            let mut queue = Queue::new(budget);
            let limits = QueueLimits { messages: 2, bytes: u64::MAX, overflow, in_memory: 0 };
            assert_eq!(push(&mut queue, message(0), &limits, time), Pushed::Queued);
            assert_eq!(push(&mut queue, message(1), &limits, time), Pushed::Queued);
            assert_eq!(push(&mut queue, message(2), &limits, time), last);
            assert_eq!(payloads(&queue), kept);
        }
    }

    #[test]
    fn a_queue_that_fills_up_says_so_once_until_it_was_half_empty() {
        let time = time();
        let limits =
            QueueLimits { messages: 10, bytes: u64::MAX, overflow: Overflow::DropOldest, in_memory: 0 };
        let mut queue = Queue::new(Arc::new(QueueBudget::new(u64::MAX)));
        let mut told = Vec::new();
        for number in 1..=10 {
            push(&mut queue, message(number), &limits, time);
            told.push(queue.is_newly_filling(&limits));
        }
        assert_eq!(told.iter().position(|told| *told), Some(7), "at 8 of 10");
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
        for (left, again) in [(5, false), (3, true)] {
            while queue.len() > left {
                queue.pop();
            }
            assert!(!queue.is_newly_filling(&limits));
            let mut is_told = false;
            while queue.len() < 10 {
                push(&mut queue, message(0), &limits, time);
                is_told |= queue.is_newly_filling(&limits);
            }
            assert_eq!(is_told, again, "after {left} were left");
        }
    }

    #[test]
    fn bytes_are_bounded_per_queue_and_in_all() {
        let time = time();
        let cost = message(0).message.cost();
        let budget = Arc::new(QueueBudget::new(3 * cost));
        let limits =
            QueueLimits { messages: 100, bytes: 2 * cost, overflow: Overflow::DropNewest, in_memory: 0 };
        let (mut first, mut second) = (Queue::new(budget.clone()), Queue::new(budget.clone()));
        for number in 0..5 {
            push(&mut first, message(number), &limits, time);
            push(&mut second, message(number), &limits, time);
        }
        assert_eq!((first.len(), second.len()), (2, 1));
        assert_eq!(budget.used(), 3 * cost);
        drop(first);
        assert_eq!(budget.used(), cost);
        second.pop();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_message_that_can_never_fit_drives_out_nothing() {
        let time = time();
        let cost = message(0).message.cost();
        let limits =
            QueueLimits { messages: 9, bytes: 2 * cost, overflow: Overflow::DropOldest, in_memory: 0 };
        let topic = TopicName::parse(b"t").unwrap();
        let large = Message::own(topic, &[0; 1_000], QoS::AtLeastOnce, false);
        let large = Queued { message: large, ..message(0) };
        let mut queue = Queue::new(Arc::new(QueueBudget::new(u64::MAX)));
        push(&mut queue, message(1), &limits, time);
        assert_eq!(push(&mut queue, large, &limits, time), Pushed::Dropped);
        assert_eq!(payloads(&queue), [1]);

        let budget = Arc::new(QueueBudget::new(3 * cost));
        let (mut first, mut second) = (Queue::new(budget.clone()), Queue::new(budget));
        push(&mut second, message(1), &limits, time);
        push(&mut first, message(2), &limits, time);
        push(&mut first, message(3), &limits, time);
        assert_eq!(
            push(&mut second, message(4), &limits, time),
            Pushed::Displaced(1),
            "it has room of its own"
        );
        second.pop();
        push(&mut first, message(5), &limits, time);
        assert_eq!((payloads(&first), payloads(&second)), (vec![3, 5], vec![]));
    }

    #[test]
    fn what_is_put_back_comes_first_in_its_order() {
        let time = time();
        let mut queue = Queue::new(Arc::new(QueueBudget::new(u64::MAX)));
        let limits =
            QueueLimits { messages: 1, bytes: u64::MAX, overflow: Overflow::DropOldest, in_memory: 0 };
        push(&mut queue, message(9), &limits, time);
        queue.put_back(vec![message(1), message(2)]);
        assert_eq!(payloads(&queue), [1, 2, 9]);
    }
}
