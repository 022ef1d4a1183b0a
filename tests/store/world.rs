//! Random work on a store that is stepped by hand, and what must come of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use fulmar::codec::{PacketId, QoS, SubscriptionOptions};
use fulmar::message::Publisher;
use fulmar::store::disk::{Options, SteppedStore};
use fulmar::store::{
    CommitSeq, Condition, Fetch, GroupImage, Identifiers, MessageImage, Owner, Record, Records, Recovered,
    RetainedSlot, Row, RowSeq, RowState, SessionImage, Store, Timebase, WillImage,
};

use crate::model::{Content, Model, State};
use crate::random::Random;
use crate::sim::Sim;

/// How a run of the store ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Close,
    Kill,
    PowerCut,
}

pub struct World {
    pub sim: Sim,
    pub store: SteppedStore,
    sync: bool,
    random: Random,
    model: Model,
    /// The state after each append of this run, with its sequence; the first is what it began with.
    history: Vec<(u64, State)>,
    /// How much of it survives a power cut.
    durable: usize,
    open: Vec<(CommitSeq, Records)>,
    next_owner: u64,
    next_rows: BTreeMap<u64, u64>,
    payloads: u32,
}

pub fn options() -> Options {
    Options { segment_bytes: 32 << 10, slack: 48 << 10, group_bytes: 4 << 10, ..Options::default() }
}

impl World {
    pub fn new(sim: Sim, sync: bool, seed: u64) -> Self {
        let (store, recovered) = open(&sim, sync);
        assert_eq!(State::of(&recovered), State::default());
        Self {
            sim,
            store,
            sync,
            random: Random::new(seed, 1),
            model: Model::default(),
            history: vec![(0, State::default())],
            durable: 0,
            open: Vec::new(),
            next_owner: 1,
            next_rows: BTreeMap::new(),
            payloads: 0,
        }
    }

    /// Does some random things, unless the process ends before.
    pub fn work(&mut self, count: usize) {
        for _ in 0..count {
            if self.sim.is_dead() {
                return;
            }
            self.act();
            self.note();
        }
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..=4 => self.begin_owner(),
            5..=6 => self.end_owner(),
            7..=29 => self.publish(),
            30..=54 => self.progress(),
            55..=58 => self.finish_many(),
            59..=64 => self.change_session(),
            65..=70 => self.retain(),
            71 => drop(self.append(&Records::default())),
            72..=76 => self.finish_open(),
            77..=94 => drop(self.store.step()),
            95..=98 => self.store.help(false),
            _ => self.store.help(true),
        }
    }

    /// Notes what would survive.
    fn note(&mut self) {
        if self.store.is_synced() {
            self.durable = self.committed();
        }
    }

    /// How many of the history's entries are committed.
    fn committed(&self) -> usize {
        let committed = self.store.committed().0;
        self.history.iter().rposition(|(sequence, _)| *sequence <= committed).unwrap_or(0)
    }

    fn append(&mut self, records: &Records) -> CommitSeq {
        let sequence = self.store.begin();
        self.finish(sequence, records);
        sequence
    }

    fn finish(&mut self, sequence: CommitSeq, records: &Records) {
        self.store.finish(sequence, records);
        self.model.apply(records);
        self.history.push((sequence.0, self.model.state.clone()));
    }

    fn owner(&mut self) -> Option<Owner> {
        let owners = &self.model.state.owners;
        let at = self.random.below(owners.len().max(1) as u64) as usize;
        owners.keys().nth(at).copied().map(Owner)
    }

    fn session(&mut self) -> Option<Owner> {
        let owner = self.owner()?;
        (self.model.state.owners[&owner.0].names.len() == 1).then_some(owner)
    }

    fn begin_owner(&mut self) {
        let owner = Owner(self.next_owner);
        self.next_owner += 1 + self.random.below(300);
        let name = format!("client {}", owner.0);
        let mut records = Records::default();
        if self.random.percent(75) {
            records.push(&Record::Session(SessionImage {
                owner,
                client_id: &name,
                user: None,
                user_groups: vec![],
                expiry: Some(7),
                expires_at: None,
            }));
        } else {
            records.push(&Record::Group(GroupImage { owner, name: &name, filter: "a/#" }));
        }
        self.append(&records);
    }

    fn end_owner(&mut self) {
        if let Some(owner) = self.owner() {
            let mut records = Records::default();
            records.push(&Record::Ended { owner });
            self.append(&records);
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        self.payloads += 1;
        let length = if self.random.percent(3) { 9_000 } else { self.random.below(900) };
        let mut payload = self.payloads.to_le_bytes().to_vec();
        payload.resize(4 + length as usize, self.payloads as u8);
        payload
    }

    fn publish(&mut self) {
        let payload = self.payload();
        let mut records = Records::default();
        let begun = self.store.begin();
        let mut rows = Vec::new();
        for _ in 0..=self.random.below(3) {
            records.push(&Record::Message(message(&payload)));
            for _ in 0..=self.random.below(3) {
                let Some(owner) = self.owner() else { continue };
                let next = self.next_rows.entry(owner.0).or_insert(1);
                *next += if self.random.percent(10) { self.random.below(600) } else { 0 };
                let seq = RowSeq(*next);
                *next += 1;
                rows.push((owner, seq));
                let identifiers = [self.random.below(1000) as u32];
                records.push(&Record::Row(Row {
                    owner,
                    seq,
                    state: RowState::Waiting,
                    qos: if self.random.percent(50) { QoS::AtLeastOnce } else { QoS::ExactlyOnce },
                    retain: self.random.percent(20),
                    identifiers: Identifiers::Numbers(&identifiers[..self.random.below(2) as usize]),
                }));
            }
        }
        // Some are on their way before they are appended.
        for (owner, seq) in rows {
            let mut early = Records::default();
            if self.random.percent(20) {
                early.push_sent(owner, seq, packet_id(seq));
                if self.random.percent(30) {
                    early.push(&Record::Released { owner, seq });
                }
            }
            if self.random.percent(20) {
                early.push_done(owner, seq);
            }
            if !early.is_empty() {
                self.append(&early);
            }
            if self.random.percent(10) {
                self.store.step();
            }
        }
        if self.random.percent(20) {
            self.open.push((begun, records));
        } else {
            self.finish(begun, &records);
        }
    }

    fn finish_open(&mut self) {
        if !self.open.is_empty() {
            let at = self.random.below(self.open.len() as u64) as usize;
            let (sequence, records) = self.open.swap_remove(at);
            self.finish(sequence, &records);
        }
    }

    /// A row goes one step on.
    fn progress(&mut self) {
        let Some(owner) = self.owner() else { return };
        let rows = &self.model.state.owners[&owner.0].rows;
        // Mostly the first ones.
        let below = if self.random.percent(80) { rows.len().min(3) } else { rows.len() };
        let at = self.random.below(below.max(1) as u64) as usize;
        let Some((seq, row)) = rows.iter().nth(at) else { return };
        let seq = RowSeq(*seq);
        let mut records = Records::default();
        match row.state {
            RowState::Waiting if self.random.percent(60) => records.push_sent(owner, seq, packet_id(seq)),
            RowState::Sent(_) if self.random.percent(40) => records.push(&Record::Released { owner, seq }),
            RowState::Waiting | RowState::Sent(_) | RowState::Released(_) => records.push_done(owner, seq),
        }
        self.append(&records);
    }

    /// A run of rows is done, gaps and all.
    fn finish_many(&mut self) {
        let Some(owner) = self.owner() else { return };
        let rows = &self.model.state.owners[&owner.0].rows;
        let Some(first) = rows.keys().next().copied() else { return };
        let last = rows.keys().nth(5).or(rows.keys().last()).copied().unwrap_or(first);
        let mut records = Records::default();
        records.push(&Record::Done { owner, first: RowSeq(first), count: last - first + 1 });
        self.append(&records);
    }

    fn change_session(&mut self) {
        let Some(owner) = self.session() else { return };
        let filter = format!("filter/{}", self.random.below(5));
        let packet_id = PacketId::new(1 + self.random.below(5) as u16).unwrap();
        let payload = self.payload();
        let name = format!("client {}", owner.0);
        let mut records = Records::default();
        records.push(&match self.random.below(7) {
            0 | 1 => Record::Subscribed {
                owner,
                filter: &filter,
                options: SubscriptionOptions::default(),
                identifier: self.random.below(9) as u32,
            },
            2 => Record::Unsubscribed { owner, filter: &filter },
            3 => Record::Received { owner, packet_id },
            4 => Record::Completed { owner, packet_id },
            5 if self.random.percent(50) => Record::WillEnded { owner },
            5 => Record::Will(WillImage {
                owner,
                message: message(&payload),
                expiry: None,
                delay: self.random.below(100) as u32,
                due: None,
            }),
            _ => Record::Session(SessionImage {
                owner,
                client_id: &name,
                user: Some("user"),
                user_groups: vec!["group"],
                expiry: Some(self.random.below(100) as u32),
                expires_at: None,
            }),
        });
        self.append(&records);
    }

    fn retain(&mut self) {
        let slot = RetainedSlot(self.random.below(20) as u32 * 1000);
        let payload = self.payload();
        let mut records = Records::default();
        if self.random.percent(70) {
            records.push(&Record::Kept { slot, message: message(&payload) });
        } else {
            records.push(&Record::Forgotten { slot });
        }
        self.append(&records);
    }

    /// Everything is finished and committed, faults or not.
    pub fn flush(&mut self) {
        while !self.open.is_empty() {
            self.finish_open();
        }
        for _ in 0..5_000 {
            if self.sim.is_dead() || self.store.committed() == self.store.appended() {
                break;
            }
            self.store.step();
            self.store.help(false);
            self.note();
        }
        if !self.sim.is_dead() {
            assert_eq!(self.store.committed(), self.store.appended(), "it never recovered");
            assert_ne!(self.store.condition(), Condition::Failing);
            assert_eq!(self.store.statistics().waiting_bytes, 0);
        }
    }

    /// Every row that is there can be read, and no other.
    pub fn check_contents(&mut self) {
        self.flush();
        for (owner, kept) in self.model.state.owners.clone() {
            let mut rows: Vec<_> = kept.rows.keys().copied().map(RowSeq).collect();
            rows.push(RowSeq(u64::MAX));
            let fetch = Fetch::new(Owner(owner), rows, Waker::noop().clone());
            self.store.fetch(fetch.clone());
            self.store.serve();
            let answer = fetch.take(Waker::noop()).expect("all is committed, so it is answered at once");
            for fetched in answer {
                let content = fetched.content.map(|row| Content {
                    payload: row.message.payload().to_vec(),
                    identifiers: row.identifiers.map(|all| all.to_vec()).unwrap_or_default(),
                    retain: row.retain,
                });
                let expected = kept.rows.get(&fetched.seq.0).and_then(|row| row.content.as_deref());
                let told = |content: Option<&Content>| {
                    content.map(|content| {
                        let length = content.payload.len();
                        (content.payload[..4].to_vec(), length, content.identifiers.clone(), content.retain)
                    })
                };
                let row = fetched.seq;
                assert_eq!(told(content.as_ref()), told(expected), "row {row:?} of {owner}");
                assert!(content.as_ref() == expected, "the payload of row {row:?} of {owner}");
            }
        }
    }

    /// Ends the run and begins another on what is left; what was promised must be there.
    pub fn restart(&mut self, end: End) {
        let least = match end {
            End::Close => {
                self.flush();
                self.store.close();
                self.history.len() - 1
            }
            End::Kill => self.committed(),
            End::PowerCut if self.sync => self.committed(),
            End::PowerCut => self.durable,
        };
        match end {
            End::Close | End::Kill => self.sim.revive(),
            End::PowerCut => self.sim.cut_power(),
        }
        self.open.clear();
        let (store, recovered) = open(&self.sim, self.sync);
        self.store = store;
        self.go_on(&recovered, least);
    }

    /// Takes what was recovered for what is; it must be what it was after `least` appends, or after more.
    fn go_on(&mut self, recovered: &Recovered, least: usize) {
        let found = State::of(recovered);
        let Some(at) = (least..self.history.len()).rev().find(|at| self.history[*at].1 == found) else {
            let count = self.history.len() - 1;
            panic!(
                "after {least} of {count} appends, or later: {}",
                found.difference(&self.history[least].1)
            );
        };
        let state = self.history.swap_remove(at).1;
        self.history = vec![(0, state.clone())];
        self.durable = 0;
        self.model = Model::restarted(state);
        self.next_owner = recovered.next_owner;
        self.next_rows = recovered
            .sessions
            .iter()
            .map(|session| (session.owner.0, session.next_row.0))
            .chain(recovered.groups.iter().map(|group| (group.owner.0, group.next_row.0)))
            .collect();
    }

    /// One session with one row after the other, until the store fails or so many are appended.
    pub fn fill(&mut self, rows: u64) -> u64 {
        if self.next_owner == 1 {
            self.begin_owner();
        }
        let owner = Owner(1);
        for appended in 1..=rows {
            let payload = self.payload();
            let seq = self.next_rows.entry(owner.0).or_insert(1);
            let mut records = Records::default();
            records.push(&Record::Message(message(&payload)));
            records.push(&Record::Row(Row {
                owner,
                seq: RowSeq(*seq),
                state: RowState::Waiting,
                qos: QoS::AtLeastOnce,
                retain: false,
                identifiers: Identifiers::Numbers(&[]),
            }));
            *seq += 1;
            self.append(&records);
            self.turn();
            if self.store.condition() == Condition::Failing {
                return appended;
            }
        }
        rows
    }

    /// The first rows of the session that was filled are done.
    pub fn finish_first(&mut self, count: u64) {
        let owner = Owner(1);
        let first = self.model.state.owners[&1].rows.keys().next().copied().unwrap();
        let mut records = Records::default();
        records.push(&Record::Done { owner, first: RowSeq(first), count });
        self.append(&records);
    }

    /// All threads do what they have to do.
    pub fn turn(&mut self) {
        for _ in 0..5 {
            self.store.step();
            self.store.help(true);
            self.note();
        }
    }

    pub fn state(&self) -> &State {
        &self.model.state
    }
}

pub fn open(sim: &Sim, sync: bool) -> (SteppedStore, Recovered) {
    match try_open(sim, sync, false) {
        Ok(opened) => opened,
        Err(error) => panic!("{error}; there are {:?}", sim.files()),
    }
}

pub fn try_open(
    sim: &Sim,
    sync: bool,
    salvage: bool,
) -> Result<(SteppedStore, Recovered), fulmar::store::OpenError> {
    let options = Options { salvage, ..options() };
    let (store, recovered) = SteppedStore::open(Arc::new(sim.clone()), sync, options, Timebase::now())?;
    store.help(false);
    Ok((store, recovered))
}

/// Rows of one owner that are far apart may not be in flight under one identifier, so near ones have different ones.
fn packet_id(seq: RowSeq) -> PacketId {
    PacketId::new((seq.0 % 65_535) as u16 + 1).unwrap()
}

fn message(payload: &[u8]) -> MessageImage<'_> {
    MessageImage {
        topic: "a/b",
        properties: &[],
        payload,
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at: None,
        publisher: Publisher(1),
    }
}

/// The seeds to be tried: some, or the one that was asked for.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("FULMAR_STORE_SEED") {
        Ok(seed) => vec![seed.parse().expect("FULMAR_STORE_SEED is a number")],
        Err(_) => (1..=if is_long() { count * 50 } else { count }).collect(),
    }
}

pub fn is_long() -> bool {
    std::env::var_os("FULMAR_STORE_LONG").is_some()
}
