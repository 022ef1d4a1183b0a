//! The verb publish: from a run of messages, or one kept message, to the sessions that get it.
//!
//! The hot path of the broker: a cache look-up, then one lock a recipient for the whole run. Called by `net` for
//! runs; by the broker itself for Wills and `$SYS`.

use std::sync::Arc;
use std::time::Instant;

use super::matches::Matches;
use super::{Broker, Counter, SessionHandle};
use crate::message::{Message, Run};
use crate::session::{DropReason, Report};
use crate::store::CommitSeq;
use crate::topic::TopicName;

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    /// Somebody subscribes to the topic. Otherwise a 5.0 publisher may be told 0x10.
    pub matched: bool,
    /// What an acknowledgement has to wait for.
    pub sequence: CommitSeq,
}

impl Broker {
    /// Routes a run of messages. The caller wakes `report.wakers` when its whole batch is done.
    pub fn publish(&self, run: &Run<'_>, report: &mut Report) -> Routed {
        let mut sequence = CommitSeq::default();
        // Retained first: who subscribes meanwhile gets the message from the tree, from the trie, or both.
        if let Some(last) = run.messages.iter().rev().find(|incoming| incoming.publish.retain) {
            sequence = self.retain(run.keep(last));
        }
        let matches = self.matches(run.topic);
        let context = self.context(run.now);
        let several = matches.recipients.len() > 1;
        let mut persistent = Vec::new();
        for recipient in &matches.recipients {
            let Some(granted) = recipient.granted(run.publisher) else { continue };
            let mut state = recipient.handle.lock();
            if state.ended {
                continue;
            }
            state.session.deliver(run, &granted.terms(several), context, report);
            if std::mem::take(&mut report.kept) {
                persistent.push(recipient.handle.number);
            }
            if let Some(reason) = report.fresh_drop.take() {
                self.note_drop(&recipient.handle, reason, state.session.dropped(reason));
            }
            recipient.handle.note_load(&state);
        }
        for group in &matches.groups {
            group.deliver(run, context, report);
        }
        if !persistent.is_empty() {
            sequence = sequence.max(CommitSeq::default());
        }
        Routed { matched: !matches.is_empty(), sequence }
    }

    /// Routes a message of which there is only the kept form, and wakes who got it.
    pub fn publish_message(&self, message: &Arc<Message>, now: Instant) {
        if message.retain {
            self.retain(message);
        }
        let matches = self.matches(message.topic());
        let context = self.context(now);
        let mut report = Report::default();
        let mut persistent = Vec::new();
        for recipient in &matches.recipients {
            let Some(granted) = recipient.granted(message.publisher) else { continue };
            let mut state = recipient.handle.lock();
            if state.ended {
                continue;
            }
            let retain = message.retain && granted.retain_as_published;
            state.session.deliver_kept(message, retain, &granted.terms(true), context, &mut report);
            if std::mem::take(&mut report.kept) {
                persistent.push(recipient.handle.number);
            }
            recipient.handle.note_load(&state);
        }
        for group in &matches.groups {
            group.deliver_kept(message, context, &mut report);
        }
        self.settle(&mut report);
    }

    /// Adds up what a batch did, and wakes the connections it touched.
    pub fn settle(&self, report: &mut Report) {
        self.counters.add(Counter::PublishSent, report.sent);
        self.counters.add(Counter::PublishBytesSent, report.sent_bytes);
        self.counters.add(Counter::PacketsSent, report.sent + report.packets_sent);
        self.counters.add(Counter::Queued, report.queued);
        for reason in DropReason::ALL {
            let dropped = report.dropped.get_mut(reason as usize).map_or(0, std::mem::take);
            self.counters.add(Counter::of_drop(reason), dropped);
        }
        (report.sent, report.sent_bytes, report.packets_sent, report.queued) = (0, 0, 0, 0);
        (report.kept, report.pressed, report.fresh_drop) = (false, false, None);
        for waker in report.wakers.drain(..) {
            waker.wake();
        }
    }

    /// Who gets the messages of a topic.
    fn matches(&self, topic: &TopicName) -> Arc<Matches> {
        let cache = self.caches.get(super::worker_index() % self.caches.len());
        if let Some(matches) = cache.and_then(|cache| cache.lock().get(topic, &self.generations)) {
            return matches;
        }
        let (stamp, matches) = {
            let trie = self.trie.read();
            (self.generations.stamp(topic), Arc::new(Matches::find(&trie, topic, self.rules_changes() > 0)))
        };
        if let Some(cache) = cache {
            cache.lock().insert(topic, stamp, matches.clone());
        }
        matches
    }

    /// One line for the first message that a policy dropped for a session, and then at every power of two.
    pub(super) fn note_drop(&self, handle: &SessionHandle, reason: DropReason, dropped: u32) {
        if dropped.is_power_of_two() {
            tracing::warn!(
                client = %handle.client_id,
                dropped,
                "dropped messages for a client because {}; see [queue] and [limits] in the configuration",
                reason.text()
            );
        }
    }
}
