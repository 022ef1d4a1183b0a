//! What the verbs tell the store.
//!
//! Called by all verbs. What always holds: whatever concerns one session, group or topic is appended under its lock, so
//! that the store hears of it in the order in which it happened; a publish reserves its sequence before it touches the
//! first session that is kept, and all that it appends is committed as a whole. Without a store that keeps anything,
//! nothing here costs more than a test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::{PendingWill, SessionHandle, SessionState};
use super::{Broker, groups::Group};
use crate::message::{Message, SessionNumber};
use crate::session::{Lifetime, Report};
use crate::store::{
    CommitSeq, Condition, GroupImage, Identifiers, MessageImage, Owner, Record, Records, Row, SessionImage,
    Timestamp, Transaction, WillImage,
};

impl SessionNumber {
    /// The owner of the session's rows.
    pub fn owner(self) -> Owner {
        Owner(self.0)
    }
}

impl Broker {
    /// Whether the store keeps anything.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// Reserves a sequence for what the report will gather; nothing if nothing is kept.
    pub fn reserve(&self, report: &mut Report) -> Option<Transaction> {
        let transaction = self.keeps.then(|| Transaction::begin(&self.store));
        report.sequence = transaction.as_ref().map_or(CommitSeq::default(), Transaction::sequence);
        transaction
    }

    /// Appends what the report has gathered, under the sequence that was reserved for it; what is to be waited for,
    /// if anything was.
    pub fn append_gathered(&self, transaction: Option<Transaction>, report: &mut Report) -> CommitSeq {
        report.sequence = CommitSeq::default();
        self.write_rows(report);
        if report.records.is_empty() {
            return CommitSeq::default();
        }
        let sequence = match transaction {
            Some(transaction) => {
                let sequence = transaction.sequence();
                transaction.finish(&report.records);
                sequence
            }
            None => self.store.append(&report.records),
        };
        report.records.clear();
        report.pressed |= self.store.condition() == Condition::Pressed;
        sequence
    }

    /// Turns the report's new rows into records: each message once, and all its rows behind it.
    fn write_rows(&self, report: &mut Report) {
        let Report { rows, records, .. } = report;
        // Recipient by recipient they came; those of one recipient are of different messages.
        let owner = rows.first().map(|row| row.owner);
        let is_for_one = rows.iter().all(|row| Some(row.owner) == owner);
        if !is_for_one {
            rows.sort_by_key(|row| Arc::as_ptr(&row.message).addr());
        }
        for of_one in rows.chunk_by(|one, other| Arc::ptr_eq(&one.message, &other.message)) {
            for (index, row) in of_one.iter().enumerate() {
                if index == 0 {
                    let image = MessageImage::of(&row.message, &self.timebase);
                    records.push(&Record::Message(image));
                }
                let identifiers = row.identifiers.as_deref().unwrap_or_default();
                records.push(&Record::Row(Row {
                    owner: row.owner,
                    seq: row.seq,
                    state: row.state,
                    qos: row.qos,
                    retain: row.retain,
                    identifiers: Identifiers::Numbers(identifiers),
                }));
            }
        }
        rows.clear();
    }

    /// Appends what `write` says, if anything is kept and it says anything.
    pub(super) fn append(&self, write: impl FnOnce(&mut Records)) -> CommitSeq {
        if !self.keeps {
            return CommitSeq::default();
        }
        let mut records = Records::default();
        write(&mut records);
        if records.is_empty() { CommitSeq::default() } else { self.store.append(&records) }
    }

    /// A session as it is to be kept. `expires_at` if its client has left.
    pub(super) fn write_session(
        &self,
        handle: &SessionHandle,
        state: &SessionState,
        expires_at: Option<Instant>,
        records: &mut Records,
    ) {
        let identity = state.identity.as_deref();
        records.push(&Record::Session(SessionImage {
            owner: handle.number.owner(),
            client_id: &handle.client_id,
            user: identity.and_then(|identity| identity.user.as_deref()),
            user_groups: identity
                .map(|identity| identity.groups.iter().map(|group| &**group).collect())
                .unwrap_or_default(),
            expiry: match state.session.lifetime {
                Lifetime::Connection => Some(0),
                Lifetime::After(after) => Some(u32::try_from(after.as_secs()).unwrap_or(u32::MAX)),
                Lifetime::Forever => None,
            },
            expires_at: self.timestamp(expires_at),
        }));
    }

    /// A Will as it is to be kept. `due` if its client has left.
    pub(super) fn write_will(
        &self,
        handle: &SessionHandle,
        will: &PendingWill,
        due: Option<Instant>,
        records: &mut Records,
    ) {
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        records.push(&Record::Will(WillImage {
            owner: handle.number.owner(),
            message: MessageImage::of(&will.message, &self.timebase),
            expiry: will.expiry.map(seconds),
            delay: seconds(will.delay),
            due: self.timestamp(due),
        }));
    }

    /// A group as it is to be kept.
    pub(super) fn write_group(group: &Group, records: &mut Records) {
        records.push(&Record::Group(GroupImage {
            owner: group.number.owner(),
            name: &group.name,
            filter: group.filter.as_str(),
        }));
    }

    /// Whether a message that has to last cannot be taken now.
    pub(super) fn is_failing(&self) -> bool {
        self.keeps && self.store.condition() == Condition::Failing
    }

    fn timestamp(&self, at: Option<Instant>) -> Option<Timestamp> {
        at.map(|at| self.timebase.timestamp(at))
    }

    pub(super) fn retained_image<'a>(&self, message: &'a Message) -> MessageImage<'a> {
        MessageImage::of(message, &self.timebase)
    }
}
