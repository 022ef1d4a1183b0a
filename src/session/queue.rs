//! What waits for a session's window: a bounded queue of kept messages.
//!
//! Owner: [`super::Session`], or a shared group, under its lock. What always holds: the order is that of
//! arrival; count and bytes stay within the bounds; what the queue holds is counted in the broker's
//! [`QueueBudget`], also when it is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::codec::QoS;
use crate::config::Overflow;
use crate::message::{Expiry, Message};

/// A message with the terms on which one subscriber gets it.
#[derive(Debug, Clone)]
pub struct Queued {
    /// What to send.
    pub message: Arc<Message>,
    /// Subscription Identifiers to bear.
    pub identifiers: Option<Arc<[u32]>>,
    /// Granted QoS, at most the message's.
    pub qos: QoS,
    /// RETAIN as the subscriber is to see it.
    pub retain: bool,
}

/// Bounds of one queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes, as [`Message::cost`] counts them.
    pub bytes: u64,
    /// What happens at the bound.
    pub overflow: Overflow,
}

/// Bytes queued in all sessions together, against one bound.
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

/// See the module.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Queued>,
    bytes: u64,
    budget: Arc<QueueBudget>,
}

impl Queue {
    /// An empty queue that counts against this budget.
    pub fn new(budget: Arc<QueueBudget>) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, budget }
    }

    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a message at the end, within the bounds.
    pub fn push(&mut self, queued: Queued, limits: &QueueLimits, now: Instant) -> Pushed {
        let cost = queued.message.cost();
        let mut displaced = 0;
        while !self.has_room(cost, limits) {
            // Those that have expired make room first; they would never be delivered.
            if self.drop_expired(now) > 0 {
                continue;
            }
            match limits.overflow {
                // Older messages go only where that makes room: not for one that is too large by itself, nor when
                // it is the other sessions that have used up what there is.
                Overflow::DropOldest if self.could_have_room(cost, limits) && self.pop().is_some() => {
                    displaced += 1;
                }
                Overflow::DropOldest | Overflow::DropNewest => return Pushed::Dropped,
                Overflow::Reject => return Pushed::Rejected,
            }
        }
        self.add_cost(cost);
        self.waiting.push_back(queued);
        if displaced > 0 { Pushed::Displaced(displaced) } else { Pushed::Queued }
    }

    /// Puts messages back at the front, in this order and without looking at the bounds: they had their place
    /// already, and were in flight.
    pub fn put_back(&mut self, returned: Vec<Queued>) {
        for queued in returned.into_iter().rev() {
            self.add_cost(queued.message.cost());
            self.waiting.push_front(queued);
        }
    }

    /// Takes the oldest message.
    pub fn pop(&mut self) -> Option<Queued> {
        let queued = self.waiting.pop_front()?;
        self.subtract_cost(queued.message.cost());
        if self.waiting.is_empty() && self.waiting.capacity() > 64 {
            self.waiting = VecDeque::new();
        }
        Some(queued)
    }

    /// The oldest message.
    pub fn front(&self) -> Option<&Queued> {
        self.waiting.front()
    }

    /// Drops every message that is not to be kept; how many those were.
    pub fn retain(&mut self, mut keep: impl FnMut(&Message) -> bool) -> u64 {
        let before = self.waiting.len();
        let mut cost = 0;
        self.waiting.retain(|queued| {
            let kept = keep(&queued.message);
            if !kept {
                cost += queued.message.cost();
            }
            kept
        });
        self.subtract_cost(cost);
        (before - self.waiting.len()) as u64
    }

    /// Drops the expired messages at the front; how many those were.
    fn drop_expired(&mut self, now: Instant) -> u32 {
        let mut dropped = 0;
        while self.front().is_some_and(|queued| queued.message.expiry(now) == Expiry::Expired) {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    fn has_room(&self, cost: u64, limits: &QueueLimits) -> bool {
        self.waiting.len() < limits.messages
            && self.bytes.saturating_add(cost) <= limits.bytes
            && self.budget.has_room(cost)
    }

    /// Whether it would have room if it were empty.
    fn could_have_room(&self, cost: u64, limits: &QueueLimits) -> bool {
        let used_by_others = self.budget.used().saturating_sub(self.bytes);
        limits.messages > 0
            && cost <= limits.bytes
            && used_by_others.saturating_add(cost) <= self.budget.bound
    }

    fn add_cost(&mut self, cost: u64) {
        self.bytes += cost;
        self.budget.used.fetch_add(cost, Ordering::Relaxed);
    }

    fn subtract_cost(&mut self, cost: u64) {
        self.bytes -= cost;
        self.budget.used.fetch_sub(cost, Ordering::Relaxed);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn message(number: u8) -> Queued {
        let topic = TopicName::parse(b"t").unwrap();
        let message = Message::own(topic, &[number], QoS::AtLeastOnce, false);
        Queued { message, identifiers: None, qos: QoS::AtLeastOnce, retain: false }
    }

    fn payloads(queue: &Queue) -> Vec<u8> {
        queue.waiting.iter().map(|queued| queued.message.payload()[0]).collect()
    }

    #[test]
    fn each_policy_keeps_what_it_says() {
        let now = Instant::now();
        for (overflow, last, kept) in [
            (Overflow::DropOldest, Pushed::Displaced(1), vec![1, 2]),
            (Overflow::DropNewest, Pushed::Dropped, vec![0, 1]),
            (Overflow::Reject, Pushed::Rejected, vec![0, 1]),
        ] {
            let budget = Arc::new(QueueBudget::new(u64::MAX));
            let mut queue = Queue::new(budget);
            let limits = QueueLimits { messages: 2, bytes: u64::MAX, overflow };
            assert_eq!(queue.push(message(0), &limits, now), Pushed::Queued);
            assert_eq!(queue.push(message(1), &limits, now), Pushed::Queued);
            assert_eq!(queue.push(message(2), &limits, now), last);
            assert_eq!(payloads(&queue), kept);
        }
    }

    #[test]
    fn bytes_are_bounded_per_queue_and_in_all() {
        let now = Instant::now();
        let cost = message(0).message.cost();
        let budget = Arc::new(QueueBudget::new(3 * cost));
        let limits = QueueLimits { messages: 100, bytes: 2 * cost, overflow: Overflow::DropNewest };
        let (mut first, mut second) = (Queue::new(budget.clone()), Queue::new(budget.clone()));
        for number in 0..5 {
            first.push(message(number), &limits, now);
            second.push(message(number), &limits, now);
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
        let now = Instant::now();
        let cost = message(0).message.cost();
        let limits = QueueLimits { messages: 9, bytes: 2 * cost, overflow: Overflow::DropOldest };
        let topic = TopicName::parse(b"t").unwrap();
        let large = Message::own(topic, &[0; 1_000], QoS::AtLeastOnce, false);
        let large = Queued { message: large, identifiers: None, qos: QoS::AtLeastOnce, retain: false };
        let mut queue = Queue::new(Arc::new(QueueBudget::new(u64::MAX)));
        queue.push(message(1), &limits, now);
        assert_eq!(queue.push(large, &limits, now), Pushed::Dropped);
        assert_eq!(payloads(&queue), [1]);

        let budget = Arc::new(QueueBudget::new(3 * cost));
        let (mut first, mut second) = (Queue::new(budget.clone()), Queue::new(budget));
        second.push(message(1), &limits, now);
        first.push(message(2), &limits, now);
        first.push(message(3), &limits, now);
        assert_eq!(second.push(message(4), &limits, now), Pushed::Displaced(1), "it has room of its own");
        second.pop();
        first.push(message(5), &limits, now);
        assert_eq!((payloads(&first), payloads(&second)), (vec![3, 5], vec![]));
    }

    #[test]
    fn what_is_put_back_comes_first_in_its_order() {
        let now = Instant::now();
        let mut queue = Queue::new(Arc::new(QueueBudget::new(u64::MAX)));
        let limits = QueueLimits { messages: 1, bytes: u64::MAX, overflow: Overflow::DropOldest };
        queue.push(message(9), &limits, now);
        queue.put_back(vec![message(1), message(2)]);
        assert_eq!(payloads(&queue), [1, 2, 9]);
    }
}
