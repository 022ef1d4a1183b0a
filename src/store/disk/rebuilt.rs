//! What a store held, gathered while recovery reads the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use super::super::record::{
    MessageImage, Owner, Record, RetainedSlot, Row, RowSeq, RowState, SessionImage, Timebase, Timestamp,
    WillImage,
};
use super::super::{Recovered, RecoveredGroup, RecoveredRow, RecoveredSession, RecoveredWill};
use super::index::{Index, Observer};
use super::rows::{Entry, Rows};
use crate::codec::{PacketId, QoS, SubscriptionOptions};
use crate::message::Message;

/// See the module.
#[derive(Debug)]
pub(super) struct Rebuilt {
    timebase: Timebase,
    sessions: BTreeMap<u64, Session>,
    groups: BTreeMap<u64, (Box<str>, Box<str>)>,
    retained: Vec<Option<Arc<Message>>>,
    rows: HashMap<u64, Rows<Extra>>,
}

#[derive(Debug, Default)]
struct Session {
    /// Its image came. A copy of it may come after what is the session's.
    is_known: bool,
    client_id: Box<str>,
    user: Option<Box<str>>,
    user_groups: Vec<Box<str>>,
    expiry: Option<u32>,
    expires_at: Option<Timestamp>,
    subscriptions: BTreeMap<Box<str>, (SubscriptionOptions, u32)>,
    received: BTreeSet<u16>,
    will: Option<RecoveredWill>,
}

/// What a row's owner will want to know of its message, without reading it.
#[derive(Debug, Clone, Copy)]
struct Extra {
    /// In milliseconds since 1970, and one more; 0: never.
    expires: u64,
    cost: u32,
    low: u8,
    qos: QoS,
}

impl Entry for Extra {
    fn low(&self) -> u8 {
        self.low
    }
}

impl Rebuilt {
    pub fn new(timebase: Timebase) -> Self {
        Self {
            timebase,
            sessions: BTreeMap::new(),
            groups: BTreeMap::new(),
            retained: Vec::new(),
            rows: HashMap::new(),
        }
    }

    /// Gives back what there is; how far rows are, the index knows.
    pub fn into_recovered(mut self, index: &mut Index) -> Recovered {
        let sessions = std::mem::take(&mut self.sessions);
        let groups = std::mem::take(&mut self.groups);
        let retained = std::mem::take(&mut self.retained).into_iter().enumerate();
        Recovered {
            sessions: sessions
                .into_iter()
                .filter(|(_, session)| session.is_known)
                .map(|(owner, session)| self.session(index, owner, session))
                .collect(),
            groups: groups
                .into_iter()
                .map(|(number, (name, filter))| {
                    let owner = Owner(number);
                    let rows = self.rows(index, owner);
                    RecoveredGroup { owner, name, filter, rows, next_row: index.next_row(owner) }
                })
                .collect(),
            retained: retained
                .filter_map(|(slot, message)| Some((RetainedSlot(slot as u32), message?)))
                .collect(),
            next_owner: index.next_owner,
        }
    }

    fn session(&mut self, index: &mut Index, number: u64, session: Session) -> RecoveredSession {
        let owner = Owner(number);
        RecoveredSession {
            owner,
            client_id: session.client_id,
            user: session.user,
            user_groups: session.user_groups,
            expiry: session.expiry,
            expires_at: session.expires_at,
            subscriptions: session
                .subscriptions
                .into_iter()
                .map(|(filter, (options, identifier))| (filter, options, identifier))
                .collect(),
            received: session.received.into_iter().filter_map(PacketId::new).collect(),
            will: session.will,
            rows: self.rows(index, owner),
            next_row: index.next_row(owner),
        }
    }

    fn rows(&mut self, index: &mut Index, owner: Owner) -> Vec<RecoveredRow> {
        let extras = self.rows.remove(&owner.0).unwrap_or_default();
        let mut shard = index.owners.lock(owner);
        let Some(entry) = shard.get_mut(&owner.0) else {
            return Vec::new();
        };
        let states = entry.rows.iter().map(|(seq, entry)| (seq, entry.state()));
        let mut rows: Vec<_> = states
            .zip(extras.iter())
            .map(|((seq, state), (of, extra))| {
                debug_assert_eq!(seq, of, "two lists of the same rows");
                let expires_at = extra.expires.checked_sub(1).map(Timestamp);
                RecoveredRow { seq: RowSeq(seq), state, qos: extra.qos, cost: extra.cost, expires_at }
            })
            .collect();
        // No two rows may be in flight under one identifier; if the log says so, the later one is.
        let mut used: HashMap<PacketId, RowSeq> = HashMap::new();
        for row in rows.iter_mut().rev() {
            let (RowState::Sent(packet_id) | RowState::Released(packet_id)) = row.state else {
                continue;
            };
            if let Some(later) = used.insert(packet_id, row.seq) {
                used.insert(packet_id, later);
                tracing::warn!(
                    "the store says that rows {} and {} of owner {} are both sent under {}; \
                     the first is sent again",
                    row.seq.0,
                    later.0,
                    owner.0,
                    packet_id.get()
                );
                row.state = RowState::Waiting;
                if let Some(entry) = entry.rows.get_mut(row.seq.0) {
                    entry.set_state(RowState::Waiting);
                }
            }
        }
        rows
    }

    fn keep(&mut self, slot: RetainedSlot, message: Option<&MessageImage<'_>>) {
        let at = slot.0 as usize;
        if at >= self.retained.len() {
            self.retained.resize(at + 1, None);
        }
        if let Some(kept) = self.retained.get_mut(at) {
            *kept = message.map(|message| Arc::new(message.to_message(&self.timebase)));
        }
    }

    fn begin(&mut self, image: &SessionImage<'_>) {
        let session = self.sessions.entry(image.owner.0).or_default();
        session.is_known = true;
        session.client_id = image.client_id.into();
        session.user = image.user.map(Into::into);
        session.user_groups = image.user_groups.iter().map(|group| (*group).into()).collect();
        session.expiry = image.expiry;
        session.expires_at = image.expires_at;
    }

    fn of(&mut self, owner: Owner) -> &mut Session {
        self.sessions.entry(owner.0).or_default()
    }

    fn will(&self, will: &WillImage<'_>) -> RecoveredWill {
        let message = will.message.to_message(&self.timebase);
        RecoveredWill { message, expiry: will.expiry, delay: will.delay, due: will.due }
    }
}

impl Observer for Rebuilt {
    fn row(&mut self, row: &Row<'_>, message: &MessageImage<'_>) {
        let extra = Extra {
            expires: message.expires_at.map_or(0, |at| at.0.saturating_add(1)),
            cost: u32::try_from(message.cost()).unwrap_or(u32::MAX),
            low: row.seq.0 as u8,
            qos: row.qos,
        };
        self.rows.entry(row.owner.0).or_default().insert(row.seq.0, extra);
    }

    fn row_gone(&mut self, owner: Owner, seq: RowSeq) {
        if let Some(rows) = self.rows.get_mut(&owner.0) {
            rows.remove(seq.0);
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        match record {
            Record::Message(_)
            | Record::Row(_)
            | Record::Sent { .. }
            | Record::Released { .. }
            | Record::Done { .. } => {}
            Record::Kept { slot, message } => self.keep(*slot, Some(message)),
            Record::Forgotten { slot } => self.keep(*slot, None),
            Record::Session(image) => self.begin(image),
            Record::Group(image) => {
                self.groups.insert(image.owner.0, (image.name.into(), image.filter.into()));
            }
            Record::Ended { owner } => {
                self.sessions.remove(&owner.0);
                self.groups.remove(&owner.0);
                self.rows.remove(&owner.0);
            }
            Record::Received { owner, packet_id } => {
                self.of(*owner).received.insert(packet_id.get());
            }
            Record::Completed { owner, packet_id } => {
                self.of(*owner).received.remove(&packet_id.get());
            }
            Record::Subscribed { owner, filter, options, identifier } => {
                self.of(*owner).subscriptions.insert((*filter).into(), (*options, *identifier));
            }
            Record::Unsubscribed { owner, filter } => {
                self.of(*owner).subscriptions.remove(*filter);
            }
            Record::Will(will) => {
                let recovered = self.will(will);
                self.of(will.owner).will = Some(recovered);
            }
            Record::WillEnded { owner } => self.of(*owner).will = None,
        }
    }
}
