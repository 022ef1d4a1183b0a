//! A store in memory that is told when to commit, and what is left of it after a crash.
//!
//! It takes the records as a disk would and says what they come to, written a second time and simply: what was
//! appended and not committed is lost, and what is recovered is folded from the beginning.

#![allow(dead_code, reason = "each test target uses the part it needs")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

use fulmar::codec::{PacketId, QoS, SubscriptionOptions};
use fulmar::store::{
    CommitSeq, Condition, Fetch, Fetched, FetchedRow, Owner, Record, Records, Recovered, RecoveredGroup,
    RecoveredRow, RecoveredSession, RecoveredWill, RetainedSlot, RowSeq, RowState, Store, Timebase,
};
use parking_lot::Mutex;

/// See the module.
#[derive(Debug)]
pub struct Twin {
    timebase: Timebase,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reserved: u64,
    open: BTreeSet<u64>,
    committed: u64,
    /// What was finished, in that order.
    log: Vec<Vec<u8>>,
    /// How much of it is on the disk that is none.
    durable: usize,
    seen: usize,
    wakers: Vec<Waker>,
    fetches: Vec<Arc<Fetch>>,
    condition: Condition,
    commits_at_once: bool,
}

impl Twin {
    /// One that commits when it is told to.
    pub fn new() -> Arc<Self> {
        Self::after(Vec::new(), false)
    }

    /// One that commits everything as soon as it can.
    pub fn prompt() -> Arc<Self> {
        Self::after(Vec::new(), true)
    }

    fn after(log: Vec<Vec<u8>>, commits_at_once: bool) -> Arc<Self> {
        let durable = log.len();
        let state = State { log, durable, commits_at_once, ..State::default() };
        Arc::new(Self { timebase: Timebase::now(), state: Mutex::new(state) })
    }

    /// Commits what was appended, as a group commit does, and answers who waits.
    pub fn commit(&self) {
        let mut state = self.state.lock();
        state.committed = state.open.first().map_or(state.reserved, |first| first - 1);
        state.durable = state.log.len();
        let wakers = std::mem::take(&mut state.wakers);
        let fetches = std::mem::take(&mut state.fetches);
        let log = if fetches.is_empty() { Vec::new() } else { state.log.clone() };
        drop(state);
        for fetch in fetches {
            let rows = fetch
                .rows
                .iter()
                .map(|seq| Fetched { seq: *seq, content: self.find(&log, fetch.owner, *seq) });
            let rows = rows.collect();
            fetch.answer(rows);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether anything waits for a commit.
    pub fn has_uncommitted(&self) -> bool {
        let state = self.state.lock();
        state.durable < state.log.len() || !state.fetches.is_empty()
    }

    /// How much was appended.
    pub fn appended_batches(&self) -> usize {
        self.state.lock().log.len()
    }

    /// What was appended since this was last asked, to be looked at. What it holds is not told by that.
    pub fn take_batches(&self) -> Vec<Vec<u8>> {
        let mut state = self.state.lock();
        let end = state.log.len();
        let seen = std::mem::replace(&mut state.seen, end);
        state.log[seen..].to_vec()
    }

    pub fn set_condition(&self, condition: Condition) {
        self.state.lock().condition = condition;
    }

    /// The process ends. What is left, in a store of its own, and what that says it holds.
    pub fn crash(&self) -> (Arc<Self>, Recovered) {
        let state = self.state.lock();
        let log = state.log[..state.durable].to_vec();
        let next = Self::after(log.clone(), state.commits_at_once);
        let recovered = recover(&log, &next.timebase);
        (next, recovered)
    }

    /// Everything it holds by now, committed or not, as text, for comparing.
    pub fn is_empty_of_rows(&self) -> bool {
        let state = self.state.lock();
        let recovered = recover(&state.log, &self.timebase);
        recovered.sessions.iter().all(|session| session.rows.is_empty())
            && recovered.groups.iter().all(|group| group.rows.is_empty())
    }

    fn find(&self, log: &[Vec<u8>], owner: Owner, seq: RowSeq) -> Option<FetchedRow> {
        let mut found = None;
        for bytes in log {
            let mut last = None;
            for record in fulmar::store::RecordIter::new(bytes) {
                match record.unwrap() {
                    Record::Message(message) => last = Some(message),
                    Record::Row(row) if (row.owner, row.seq) == (owner, seq) => {
                        let identifiers: Vec<u32> = row.identifiers.iter().collect();
                        found = last.map(|message| FetchedRow {
                            message: Arc::new(message.to_message(&self.timebase)),
                            qos: row.qos,
                            retain: row.retain,
                            identifiers: (!identifiers.is_empty()).then(|| identifiers.into()),
                        });
                    }
                    _ => {}
                }
            }
        }
        found
    }
}

impl Store for Twin {
    fn keeps(&self) -> bool {
        true
    }

    fn begin(&self) -> CommitSeq {
        let mut state = self.state.lock();
        state.reserved += 1;
        let sequence = state.reserved;
        state.open.insert(sequence);
        CommitSeq(sequence)
    }

    fn finish(&self, sequence: CommitSeq, records: &Records) {
        let mut state = self.state.lock();
        assert!(state.open.remove(&sequence.0), "it was reserved, and is finished once");
        if !records.is_empty() {
            state.log.push(records.as_bytes().to_vec());
        }
        let at_once = state.commits_at_once;
        drop(state);
        if at_once {
            self.commit();
        }
    }

    fn appended(&self) -> CommitSeq {
        CommitSeq(self.state.lock().reserved)
    }

    fn committed(&self) -> CommitSeq {
        CommitSeq(self.state.lock().committed)
    }

    fn wake_when_committed(&self, sequence: CommitSeq, waker: &Waker) {
        let mut state = self.state.lock();
        if sequence.0 <= state.committed {
            waker.wake_by_ref();
        } else {
            state.wakers.push(waker.clone());
        }
    }

    fn fetch(&self, fetch: Arc<Fetch>) {
        let at_once = {
            let mut state = self.state.lock();
            state.fetches.push(fetch);
            state.commits_at_once
        };
        if at_once {
            self.commit();
        }
    }

    fn condition(&self) -> Condition {
        self.state.lock().condition
    }

    fn secret(&self) -> [u8; 16] {
        [7; 16]
    }

    fn timebase(&self) -> Timebase {
        self.timebase
    }
}

#[derive(Debug, Default)]
struct Known {
    session: Option<RecoveredSession>,
    group: Option<(Box<str>, Box<str>)>,
    subscriptions: BTreeMap<String, (SubscriptionOptions, u32)>,
    received: BTreeSet<PacketId>,
    rows: BTreeMap<RowSeq, (RecoveredRow, Progress)>,
    early: BTreeMap<RowSeq, Progress>,
    last: u64,
}

/// How far a row is: the furthest counts, whatever the order.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    sent: Option<PacketId>,
    released: bool,
    done: bool,
}

impl Progress {
    fn merge(&mut self, other: Self) {
        self.sent = self.sent.or(other.sent);
        self.released |= other.released;
        self.done |= other.done;
    }
}

impl Known {
    fn progress(&mut self, seq: RowSeq, progress: Progress) {
        self.last = self.last.max(seq.0);
        match self.rows.get_mut(&seq) {
            Some((_, known)) => known.merge(progress),
            None => self.early.entry(seq).or_default().merge(progress),
        }
    }

    fn rows(&self) -> Vec<RecoveredRow> {
        self.rows
            .values()
            .filter(|(_, progress)| !progress.done)
            .map(|(row, progress)| RecoveredRow {
                state: match (progress.sent, progress.released) {
                    (Some(packet_id), true) => RowState::Released(packet_id),
                    (Some(packet_id), false) => RowState::Sent(packet_id),
                    (None, _) => RowState::Waiting,
                },
                ..*row
            })
            .collect()
    }
}

fn recover(log: &[Vec<u8>], timebase: &Timebase) -> Recovered {
    let mut owners: BTreeMap<Owner, Known> = BTreeMap::new();
    let mut retained: BTreeMap<u32, _> = BTreeMap::new();
    let mut next_owner = 1;
    for bytes in log {
        let mut message = None;
        for record in fulmar::store::RecordIter::new(bytes) {
            apply(&record.unwrap(), &mut owners, &mut retained, &mut message, &mut next_owner, timebase);
        }
    }
    let mut recovered = Recovered { next_owner, ..Recovered::default() };
    for (owner, mut known) in owners {
        let (rows, next_row) = (known.rows(), RowSeq(known.last + 1));
        if let Some(mut session) = known.session.take() {
            session.rows = rows;
            session.next_row = next_row;
            session.received = known.received.into_iter().collect();
            let subscriptions = known.subscriptions.into_iter();
            session.subscriptions =
                subscriptions.map(|(filter, (options, id))| (filter.into(), options, id)).collect();
            recovered.sessions.push(session);
        } else if let Some((name, filter)) = known.group {
            recovered.groups.push(RecoveredGroup { owner, name, filter, rows, next_row });
        }
    }
    recovered.retained = retained.into_iter().map(|(slot, message)| (RetainedSlot(slot), message)).collect();
    recovered
}

fn apply<'a>(
    record: &Record<'a>,
    owners: &mut BTreeMap<Owner, Known>,
    retained: &mut BTreeMap<u32, Arc<fulmar::message::Message>>,
    last: &mut Option<fulmar::store::MessageImage<'a>>,
    next_owner: &mut u64,
    timebase: &Timebase,
) {
    match record {
        Record::Message(message) => *last = Some(*message),
        Record::Row(row) => {
            let message = last.as_ref().expect("a row comes behind its message");
            let Some(known) = owners.get_mut(&row.owner) else { return };
            let restored = RecoveredRow {
                seq: row.seq,
                state: RowState::Waiting,
                qos: row.qos,
                cost: message.cost() as u32,
                expires_at: message.expires_at,
            };
            let mut progress = known.early.remove(&row.seq).unwrap_or_default();
            progress.merge(match row.state {
                RowState::Waiting => Progress::default(),
                RowState::Sent(id) => Progress { sent: Some(id), ..Progress::default() },
                RowState::Released(id) => Progress { sent: Some(id), released: true, done: false },
            });
            known.last = known.last.max(row.seq.0);
            assert!(row.qos > QoS::AtMostOnce, "QoS 0 touches no disk");
            let replaced = known.rows.insert(row.seq, (restored, progress));
            assert!(replaced.is_none(), "a row's number is used once: {row:?}");
        }
        Record::Sent { owner, first, packet_id, count } => {
            for offset in 0..*count {
                let sent = PacketId::new(packet_id.get() + offset);
                let seq = RowSeq(first.0 + u64::from(offset));
                let Some(known) = owners.get_mut(owner) else { continue };
                known.progress(seq, Progress { sent, ..Progress::default() });
            }
        }
        Record::Released { owner, seq } => {
            if let Some(known) = owners.get_mut(owner) {
                known.progress(*seq, Progress { released: true, ..Progress::default() });
            }
        }
        Record::Done { owner, first, count } => {
            for seq in first.0..first.0 + count {
                if let Some(known) = owners.get_mut(owner) {
                    known.progress(RowSeq(seq), Progress { done: true, ..Progress::default() });
                }
            }
        }
        Record::Kept { slot, message } => {
            retained.insert(slot.0, Arc::new(message.to_message(timebase)));
        }
        Record::Forgotten { slot } => {
            assert!(retained.remove(&slot.0).is_some(), "something stood there");
        }
        Record::Received { owner, packet_id } => {
            if let Some(known) = owners.get_mut(owner) {
                known.received.insert(*packet_id);
            }
        }
        Record::Completed { owner, packet_id } => {
            if let Some(known) = owners.get_mut(owner) {
                known.received.remove(packet_id);
            }
        }
        Record::Session(image) => {
            *next_owner = (*next_owner).max(image.owner.0 + 1);
            let known = owners.entry(image.owner).or_default();
            let will = known.session.take().and_then(|session| session.will);
            known.session = Some(RecoveredSession {
                owner: image.owner,
                client_id: image.client_id.into(),
                user: image.user.map(Into::into),
                user_groups: image.user_groups.iter().map(|group| (*group).into()).collect(),
                expiry: image.expiry,
                expires_at: image.expires_at,
                subscriptions: Vec::new(),
                received: Vec::new(),
                will,
                rows: Vec::new(),
                next_row: RowSeq(1),
            });
        }
        Record::Group(image) => {
            *next_owner = (*next_owner).max(image.owner.0 + 1);
            let known = owners.entry(image.owner).or_default();
            known.group = Some((image.name.into(), image.filter.into()));
        }
        Record::Ended { owner } => {
            owners.remove(owner);
        }
        Record::Subscribed { owner, filter, options, identifier } => {
            if let Some(known) = owners.get_mut(owner) {
                known.subscriptions.insert((*filter).to_owned(), (*options, *identifier));
            }
        }
        Record::Unsubscribed { owner, filter } => {
            if let Some(known) = owners.get_mut(owner) {
                assert!(known.subscriptions.remove(*filter).is_some(), "there was such a subscription");
            }
        }
        Record::Will(image) => {
            let session = owners.get_mut(&image.owner).and_then(|known| known.session.as_mut());
            if let Some(session) = session {
                session.will = Some(RecoveredWill {
                    message: image.message.to_message(timebase),
                    expiry: image.expiry,
                    delay: image.delay,
                    due: image.due,
                });
            }
        }
        Record::WillEnded { owner } => {
            if let Some(session) = owners.get_mut(owner).and_then(|known| known.session.as_mut()) {
                session.will = None;
            }
        }
    }
}
