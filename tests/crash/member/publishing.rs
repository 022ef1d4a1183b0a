//! What a client publishes: messages, values of retained topics, Wills; and what is known of their acknowledgement.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Member, WINDOW};
use crate::cast::{PASSING, PLAIN, SHARED};
use crate::ledger::{MessageIndex, Topic};
use crate::sessions::Lifetime;
use crate::support::light;
use crate::wills::{self, Return, Will};
use crate::world::Deed;

/// Tokens of retained messages have this bit, the topic from bit 40 on, and their position below.
pub(super) const RETAINED_TOKEN: u64 = 1 << 63;

impl Member {
    pub(super) fn publish_some(&mut self) {
        let count = if self.random.percent(3) { WINDOW as u64 } else { 1 + self.random.below(2) };
        for _ in 0..count {
            if self.client.in_flight() >= WINDOW {
                return;
            }
            if self.role.publishes {
                let topic = match self.random.below(10) {
                    0..=5 => Topic::Plain(self.random.below(PLAIN as u64) as usize),
                    6 => Topic::Passing(self.random.below(PASSING as u64) as usize),
                    _ => Topic::Shared(self.random.below(SHARED as u64) as usize),
                };
                let qos = 1 + self.random.below(2) as u8;
                self.publish(topic, qos);
            } else if !self.role.retains.is_empty() {
                self.retain();
            }
        }
    }

    pub(super) fn publish(&mut self, topic: Topic, qos: u8) {
        let mut world = self.shared.world.borrow_mut();
        let at = world.now();
        let resumable = self.role.lifetime == Lifetime::Lasting;
        let (message, payload) = world.ledger.send(at, self.index, topic, qos, resumable);
        self.client.publish(&topic.name(), &payload, qos, message as u64, &mut self.out);
    }

    /// The next value of a retained topic, or an empty one.
    pub(super) fn retain(&mut self) {
        let topic = self.role.retains[self.random.below(self.role.retains.len() as u64) as usize];
        let clear = self.random.percent(10);
        let mut world = self.shared.world.borrow_mut();
        let (position, value) = world.retained.publish(topic, clear);
        world.counts.retained_published += 1;
        let payload = value.map_or_else(Vec::new, |value| value.to_string().into_bytes());
        let qos = retained_qos(topic);
        let token = RETAINED_TOKEN | (topic as u64) << 40 | position as u64;
        self.client.publish_retained(&retained_topic(topic), &payload, qos, token, &mut self.out);
    }

    /// One message with each QoS to every topic, so that every subscription is seen to stand.
    pub(super) fn publish_last(&mut self) {
        if self.last.is_none() {
            let topics = (0..PLAIN).map(Topic::Plain);
            let topics = topics.chain((0..PASSING).map(Topic::Passing)).chain((0..SHARED).map(Topic::Shared));
            self.last = Some(topics.flat_map(|topic| [(topic, 1), (topic, 2)]).collect());
        }
        while self.role.publishes && self.client.in_flight() < WINDOW {
            let Some((topic, qos)) = self.last.as_mut().and_then(VecDeque::pop_front) else { return };
            self.publish(topic, qos);
        }
    }

    /// PUBACK and PUBREC, or PUBCOMP.
    pub(super) fn acknowledged(&self, token: u64, completed: bool) {
        let mut world = self.shared.world.borrow_mut();
        let at = world.now();
        let mut deed = if completed { Deed::PubComp } else { Deed::PubRec };
        if token & RETAINED_TOKEN == 0 {
            if completed {
                world.ledger.completed(at, token as usize);
            } else if world.ledger.acknowledged(at, token as usize) {
                deed = Deed::PubAck;
            }
        } else {
            let (topic, position) = ((token & !RETAINED_TOKEN) >> 40, token & 0xFF_FFFF_FFFF);
            // A broker may retain a QoS 2 message as late as at PUBREL.
            if completed || retained_qos(topic as usize) == 1 {
                world.retained.acknowledged(topic as usize, position as usize);
            }
        }
        drop(world);
        self.shared.seen(deed);
    }

    /// A new Will for every connection; it must not come before its client is gone. The one before is judged
    /// once the client is back.
    pub(super) fn next_will(&mut self) -> Option<light::Will> {
        let delay = self.role.will?;
        let mut world = self.shared.world.borrow_mut();
        let at = world.now();
        let (message, payload) = world.ledger.send(at, self.index, Topic::Will, 2, false);
        drop(world);
        self.decide(message, Will::MustNot, "CONNECT");
        self.next_will = Some(message);
        Some(light::Will { topic: Topic::Will.name(), payload, qos: 2, delay })
    }

    /// CONNACK: the last connection's Will has come, is still to come, or never will.
    pub(super) fn judge_last_will(&mut self) {
        let last = std::mem::replace(&mut self.will, self.next_will.take());
        let (Some(last), Some((ending, ended)), Some(delay)) = (last, self.ending.take(), self.role.will)
        else {
            return;
        };
        let mut world = self.shared.world.borrow_mut();
        let (asked, answered, ready) = (self.asked, std::time::Instant::now(), world.ready);
        let restarted = world.starts.iter().copied().find(|start| *start >= ended).unwrap_or(ready);
        let back = Return { asked, answered, ready, restarted, promised: world.promises_wills };
        let killed = |from, to| world.kills.iter().any(|at| from <= *at && *at <= to);
        let will = wills::at_the_return(ending, ended, Duration::from_secs(u64::from(delay)), back, killed);
        world.counts.wills[will as usize] += 1;
        drop(world);
        let ago = back.answered - ended;
        self.decide(last, will, &format!("back {ago:?} after {ending:?}"));
    }

    pub(super) fn decide(&self, message: MessageIndex, will: Will, why: &str) {
        let mut world = self.shared.world.borrow_mut();
        let world = &mut *world;
        let at = world.now();
        world.ledger.decide(at, message, will, why, &mut world.faults);
    }
}

/// The QoS belongs to the retained topic, because only then its values keep their order.
fn retained_qos(topic: usize) -> u8 {
    if topic % 4 < 2 { 1 } else { 2 }
}

/// The Topic Name of a retained topic.
pub fn retained_topic(topic: usize) -> String {
    format!("crash/retained/{topic}")
}
