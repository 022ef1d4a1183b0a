//! The verb publish: from a run of messages, or one kept message, to the sessions that get it.
//!
//! The hot path of the broker: a cache look-up a topic, then one lock a recipient for all that goes to the same.
//! Called by `net` for runs; by the broker itself for Wills and `$SYS`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::matches::Matches;
use super::{Broker, Counter, SessionHandle};
use crate::codec::QoS;
use crate::message::{
    HOLD_FROM, Incoming, Message, REFERENCE_FROM, Run, SessionNumber, SharedCopy, TOPICS_OF_A_RUN,
};
use crate::session::{DropReason, Report};
use crate::store::{CommitSeq, Record, Transaction};
use crate::topic::TopicName;

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    /// Somebody subscribes to each of the topics. Otherwise a 5.0 publisher may be told 0x10 of those messages that
    /// are noted to be unmatched.
    pub matched: bool,
    /// What an acknowledgement has to wait for.
    pub sequence: CommitSeq,
}

/// From so many recipients on, they share one copy.
const SHARED_FROM: usize = 4;

/// Whether one copy for all is worth more than one for each.
fn is_shared(run: &Run<'_>, matches: &Matches) -> bool {
    matches.recipients.len() >= SHARED_FROM
        && run.longest_frame < REFERENCE_FROM
        && run.plain.is_some_and(|bytes| bytes.len() >= HOLD_FROM)
}

/// What is appended together with a message that the broker publishes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Along<'a> {
    /// Nothing.
    Nothing,
    /// The session's Will of this number has ended, if it has no other by now.
    EndOfWill(&'a SessionHandle, u32),
    /// The session has ended.
    EndOfSession(&'a SessionHandle),
}

impl Broker {
    /// Routes a run of messages. `transaction` is reserved already if the publisher's own session has taken note of a
    /// QoS 2 message. The caller wakes `report.wakers` when its whole batch is done.
    pub fn publish(&self, run: &Run<'_>, transaction: Option<Transaction>, report: &mut Report) -> Routed {
        let mut transaction = transaction;
        report.sequence = transaction.as_ref().map_or(CommitSeq::default(), Transaction::sequence);
        let is_failing = self.is_failing();
        let mut sequence = CommitSeq::default();
        // Retained before it is matched: who subscribes meanwhile gets the message from the tree, from the trie, or both.
        let is_retained = |incoming: &&Incoming<'_>| {
            // QoS 0 goes on while the store fails, but leaves nothing behind.
            incoming.publish.retain && !is_failing
        };
        if let Some(last) = run.messages.iter().rev().find(is_retained) {
            sequence = self.retain(run.keep(last));
        }
        // What is refused leaves gaps.
        let with_gaps = is_failing.then_some(Run { plain: None, buffer: None, ..*run });
        let run = with_gaps.as_ref().unwrap_or(run);
        let matched = self.with_matches(run.topics, |matches| {
            let mut matched = true;
            each_part(run, matches, |part, matches| {
                if is_failing {
                    self.refuse(part, matches);
                }
                if matches.is_empty() {
                    matched = false;
                    part.messages.iter().for_each(Incoming::note_unmatched);
                }
                self.deliver(part, matches, &mut transaction, report);
            });
            matched
        });
        if let Some(owner) = run.publisher_session.map(SessionNumber::owner) {
            for incoming in run.messages.iter().filter(|incoming| !run.is_given_back(incoming)) {
                let packet_id = incoming.publish.packet_id;
                if let Some(packet_id) = packet_id.filter(|_| incoming.publish.qos == QoS::ExactlyOnce) {
                    report.records.push(&Record::Received { owner, packet_id });
                }
            }
        }
        if transaction.is_some() || report.has_records() {
            sequence = sequence.max(self.append_gathered(transaction, report));
        }
        Routed { matched, sequence }
    }

    /// Delivers a run to all who get it; reserves the transaction before the first of them that is kept.
    fn deliver(
        &self,
        run: &Run<'_>,
        matches: &Matches,
        transaction: &mut Option<Transaction>,
        report: &mut Report,
    ) {
        let context = self.context(run.now);
        let copy = is_shared(run, matches).then(SharedCopy::default);
        let run = &Run { copy: copy.as_ref(), ..*run };
        let several = matches.recipients.len() > 1;
        for recipient in &matches.recipients {
            let Some(granted) = recipient.granted(run.publisher) else { continue };
            let mut state = recipient.handle.lock();
            if state.ended {
                continue;
            }
            if state.session.is_kept() && transaction.is_none() {
                *transaction = self.reserve(report);
            }
            state.session.deliver(run, &granted.terms(several), context, report);
            if let Some(reason) = report.fresh_drop.take() {
                self.note_drop(&recipient.handle, reason, state.session.dropped(reason));
            }
            if std::mem::take(&mut report.filling) {
                note_filling("client", &recipient.handle.client_id, state.session.queued());
            }
            recipient.handle.note_load(&state);
        }
        for group in &matches.groups {
            if group.is_kept() && transaction.is_none() {
                *transaction = self.reserve(report);
            }
            group.deliver(run, context, report);
        }
    }

    /// Routes a message of which there is only the kept form, and wakes who got it.
    pub fn publish_message(&self, message: &Arc<Message>, now: Instant) {
        self.publish_kept(message, Along::Nothing, now);
    }

    /// The same; `along` is appended with it.
    pub(super) fn publish_kept(&self, message: &Arc<Message>, along: Along<'_>, now: Instant) -> CommitSeq {
        if message.retain {
            self.retain(message);
        }
        let context = self.context(now);
        let mut report = Report::default();
        let transaction = self.reserve(&mut report);
        self.with_matches(&[Cow::Borrowed(message.topic().as_str())], |matches| {
            for recipient in matches.iter().flat_map(|matches| &matches.recipients) {
                let Some(granted) = recipient.granted(message.publisher) else { continue };
                let mut state = recipient.handle.lock();
                if state.ended {
                    continue;
                }
                let retain = message.retain && granted.retain_as_published;
                state.session.deliver_kept(message, retain, &granted.terms(true), context, &mut report);
                if std::mem::take(&mut report.filling) {
                    note_filling("client", &recipient.handle.client_id, state.session.queued());
                }
                recipient.handle.note_load(&state);
            }
            for group in matches.iter().flat_map(|matches| &matches.groups) {
                group.deliver_kept(message, context, &mut report);
            }
        });
        let sequence = match along {
            Along::Nothing => self.append_gathered(transaction, &mut report),
            Along::EndOfWill(handle, number) => {
                // Under the lock: the Will of a client that is back must not be ended by this.
                let state = handle.lock();
                if state.session.is_kept() && state.will_number == number {
                    report.records.push(&Record::WillEnded { owner: handle.number.owner() });
                }
                self.append_gathered(transaction, &mut report)
            }
            Along::EndOfSession(handle) => {
                report.records.push(&Record::Ended { owner: handle.number.owner() });
                self.append_gathered(transaction, &mut report)
            }
        };
        self.settle(&mut report);
        sequence
    }

    /// Refuses the messages of a run that the store would have to keep, as it cannot now.
    fn refuse(&self, run: &Run<'_>, matches: &Matches) {
        let is_kept = run.publisher_session.is_some()
            || matches.recipients.iter().any(|recipient| recipient.handle.lock().session.is_kept())
            || matches.groups.iter().any(|group| group.is_kept());
        for incoming in run.messages {
            let publish = &incoming.publish;
            if publish.qos > QoS::AtMostOnce && (is_kept || publish.retain) {
                incoming.refuse();
                incoming.reject();
                self.counters.add(Counter::RefusedByStore, 1);
            }
        }
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
        (report.pressed, report.fresh_drop) = (false, None);
        if report.has_records() {
            self.append_gathered(None, report);
        }
        for waker in report.wakers.drain(..) {
            waker.wake();
        }
    }

    /// Does something with who gets the messages of each topic: under the lock of the worker's cache, as holding it
    /// costs less than holding what is in it by a count of references.
    fn with_matches<R>(&self, topics: &[Cow<'_, str>], deliver: impl FnOnce(&[&Matches]) -> R) -> R {
        let find = |topic: &TopicName| {
            let trie = self.trie.read();
            (self.generations.stamp(topic), Matches::find(&trie, topic, self.rules_changes() > 0))
        };
        if let Some(cache) = self.caches.get(super::worker_index() % self.caches.len()) {
            let mut cache = cache.lock();
            if let [topic] = topics {
                let topic = TopicName::assume_checked(topic);
                if let Some(matches) = cache.get(topic, &self.generations) {
                    return deliver(&[matches]);
                }
                let (stamp, matches) = find(topic);
                return deliver(&[cache.insert(topic, stamp, matches)]);
            }
            if let Some(matches) = cache.get_all(topics, &self.generations, find) {
                return deliver(&matches);
            }
        }
        let found: Vec<Matches> =
            topics.iter().map(|topic| find(TopicName::assume_checked(topic)).1).collect();
        deliver(&found.iter().collect::<Vec<_>>())
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

/// Takes a run apart where its messages go to others than those before: what goes to the same stays together, whatever
/// its topics. `matches` are those of the run's topics.
fn each_part<'r>(run: &Run<'r>, matches: &[&Matches], mut deliver: impl FnMut(&Run<'r>, &Matches)) {
    // The place of the first of neighbouring topics that go to the same.
    let mut likes: SmallVec<[usize; TOPICS_OF_A_RUN]> = SmallVec::new();
    for (place, these) in matches.iter().enumerate() {
        let like = likes.last().copied().unwrap_or(place);
        let is_like = matches.get(like).is_some_and(|those| these.is_same(those));
        likes.push(if is_like { like } else { place });
    }
    if let Some(all) = matches.first().filter(|_| likes.iter().all(|like| *like == 0)) {
        return deliver(run, all);
    }
    let like = |incoming: &Incoming<'_>| likes.get(usize::from(incoming.topic));
    let mut start = 0;
    for messages in run.messages.chunk_by(|one, other| like(one) == like(other)) {
        let part = run.part(messages, start);
        start += messages.iter().map(|incoming| incoming.frame.len()).sum::<usize>();
        if let Some(matches) = messages.first().and_then(like).and_then(|place| matches.get(*place)) {
            deliver(&part, matches);
        }
    }
}

/// Says that somebody's queue is nearly full.
pub(super) fn note_filling(kind: &str, name: &str, messages: usize) {
    tracing::warn!(
        "the queue of {kind} {name:?} is at four fifths of its bound with {messages} messages; when it is full, \
         queue.overflow says what happens: has the client gone for good, or is it too slow?"
    );
}
