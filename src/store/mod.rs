//! The durable store: what the broker's verbs append, and what acknowledgements wait for.
//!
//! Called by `broker` and `net`: they gather [`Records`] and append them, all or nothing, and hold an acknowledgement
//! back until the commit sequence it waits for is reached. What always holds: sequences grow; once
//! [`Store::committed`] has reached a sequence, everything appended under it and before it survives what the store
//! promises to survive. The store knows records, not MQTT flow.
//!
//! What is kept for a session or a shared group stands in *rows*: one a message, numbered by the broker in the order of
//! delivery. A row only ever moves forward: waiting, sent, released, done. Records about one row may therefore come in
//! any order; the furthest counts. All other records about one thing are appended in the order in which they happened,
//! because the broker appends them under the lock that guards the thing.

pub mod disk;
mod memory;
pub mod record;

use std::fmt::Debug;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;

pub use disk::{DiskStore, OpenError, Statistics};
pub use memory::MemoryStore;
pub use record::{
    Damaged, GroupImage, Identifiers, MessageImage, Owner, Record, RecordIter, Records, RetainedSlot, Row,
    RowSeq, RowState, SessionImage, Timebase, Timestamp, WillImage,
};

use crate::codec::{PacketId, SubscriptionOptions};
use crate::message::Message;

/// A position in the order of appends. Zero: nothing to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CommitSeq(pub u64);

/// See the module.
pub trait Store: Send + Sync + Debug {
    /// Whether anything is kept at all. If not, nothing needs to be appended.
    fn keeps(&self) -> bool;

    /// Reserves the sequence under which [`Store::finish`] will append: nothing from here on is committed before that.
    /// To be finished within microseconds; use [`Transaction`], which cannot forget it.
    fn begin(&self) -> CommitSeq;

    /// Appends records under a sequence that was reserved. All of them are committed, or none is.
    fn finish(&self, sequence: CommitSeq, records: &Records);

    /// Appends records, all or nothing; returns at once with the sequence whose commit includes them.
    fn append(&self, records: &Records) -> CommitSeq {
        let sequence = self.begin();
        self.finish(sequence, records);
        sequence
    }

    /// The highest sequence given out.
    fn appended(&self) -> CommitSeq;

    /// The highest sequence that is committed, as everything before it is.
    fn committed(&self) -> CommitSeq;

    /// Wakes once the sequence is committed; at once if it is already. A waker may be woken more than once.
    fn wake_when_committed(&self, sequence: CommitSeq, waker: &Waker);

    /// Reads messages back, without blocking: the answer comes into `fetch`, which wakes who waits for it.
    fn fetch(&self, fetch: Arc<Fetch>);

    /// How the store is.
    fn condition(&self) -> Condition;

    /// What the store is known by, random: a key for hashes that must be the same after a restart.
    fn secret(&self) -> [u8; 16];

    /// What it has done and has, if it keeps count.
    fn statistics(&self) -> Option<Statistics> {
        None
    }

    /// How its times relate to the process's.
    fn timebase(&self) -> Timebase;
}

/// How a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// It commits.
    #[default]
    Well,
    /// More waits to be written than is good: who appends should pause for a moment.
    Pressed,
    /// It cannot write: nothing new that must last can be accepted. It tries again by itself.
    Failing,
}

/// Messages of one owner that are to be read back.
#[derive(Debug)]
pub struct Fetch {
    /// Whose.
    pub owner: Owner,
    /// Which rows, in ascending order.
    pub rows: Vec<RowSeq>,
    state: Mutex<FetchState>,
}

#[derive(Debug, Default)]
struct FetchState {
    wakers: Vec<Waker>,
    answer: Option<Vec<Fetched>>,
}

/// One message that was read back.
#[derive(Debug)]
pub struct Fetched {
    /// The row.
    pub seq: RowSeq,
    /// What it holds; `None` if it cannot be had: the row is done, or the disk does not give it (the log says so).
    pub content: Option<FetchedRow>,
}

/// What a row holds.
#[derive(Debug)]
pub struct FetchedRow {
    /// The message.
    pub message: Arc<Message>,
    /// On what terms it is delivered.
    pub qos: crate::codec::QoS,
    /// RETAIN as the subscriber is to see it.
    pub retain: bool,
    /// Subscription Identifiers to bear.
    pub identifiers: Option<Arc<[u32]>>,
}

impl Fetch {
    /// Asks for these rows; `waker` is woken when the answer is there.
    pub fn new(owner: Owner, rows: Vec<RowSeq>, waker: Waker) -> Arc<Self> {
        let state = FetchState { wakers: vec![waker], answer: None };
        Arc::new(Self { owner, rows, state: Mutex::new(state) })
    }

    /// Gives the answer: one entry for every row asked for, in order, or for the first of them, if others are not
    /// committed yet: those are to be asked for again.
    pub fn answer(&self, rows: Vec<Fetched>) {
        let mut state = self.state.lock();
        state.answer = Some(rows);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes the answer, if it is there. If not, this waker is woken, too.
    pub fn take(&self, waker: &Waker) -> Option<Vec<Fetched>> {
        let mut state = self.state.lock();
        let answer = state.answer.take();
        if answer.is_none() && !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        answer
    }
}

/// A sequence that is reserved. Dropped unfinished, it appends nothing.
#[derive(Debug)]
#[must_use = "nothing after it is committed before it is finished"]
pub struct Transaction {
    /// Taken when it is finished.
    store: Option<Arc<dyn Store>>,
    sequence: CommitSeq,
}

impl Transaction {
    /// Reserves a sequence.
    pub fn begin(store: &Arc<dyn Store>) -> Self {
        Self { store: Some(store.clone()), sequence: store.begin() }
    }

    /// The sequence that commits what it will append.
    pub fn sequence(&self) -> CommitSeq {
        self.sequence
    }

    /// Appends these records.
    pub fn finish(mut self, records: &Records) {
        if let Some(store) = self.store.take() {
            store.finish(self.sequence, records);
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            store.finish(self.sequence, &Records::default());
        }
    }
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Sessions, with all that is theirs.
    pub sessions: Vec<RecoveredSession>,
    /// Shared groups with messages that wait.
    pub groups: Vec<RecoveredGroup>,
    /// Retained messages.
    pub retained: Vec<(RetainedSlot, Arc<Message>)>,
    /// Every owner's number is below this.
    pub next_owner: u64,
}

/// A session as the last commit left it.
#[derive(Debug)]
pub struct RecoveredSession {
    /// Its number.
    pub owner: Owner,
    /// Its Client Identifier.
    pub client_id: Box<str>,
    /// The user whose it is.
    pub user: Option<Box<str>>,
    /// The groups that user was in.
    pub user_groups: Vec<Box<str>>,
    /// How long it outlives its connection, in seconds; `None`: for ever.
    pub expiry: Option<u32>,
    /// When it ends if nobody comes back; `None` if it was connected, or never ends.
    pub expires_at: Option<Timestamp>,
    /// Filters as they were sent (`$share/…` included), with options and Subscription Identifier (0: none).
    pub subscriptions: Vec<(Box<str>, SubscriptionOptions, u32)>,
    /// QoS 2 identifiers received and not released.
    pub received: Vec<PacketId>,
    /// Its Will, not published yet: the message with no expiry set, its interval, the delay, and when it is due if the
    /// delay had begun.
    pub will: Option<RecoveredWill>,
    /// Its rows, ascending.
    pub rows: Vec<RecoveredRow>,
    /// The number that its next row gets.
    pub next_row: RowSeq,
}

/// A Will that was not published.
#[derive(Debug)]
pub struct RecoveredWill {
    /// What is to be published.
    pub message: Message,
    /// Message Expiry Interval in seconds.
    pub expiry: Option<u32>,
    /// Will Delay Interval in seconds.
    pub delay: u32,
    /// When it is to be published, if the connection had ended.
    pub due: Option<Timestamp>,
}

/// A shared group as the last commit left it.
#[derive(Debug)]
pub struct RecoveredGroup {
    /// Its number.
    pub owner: Owner,
    /// Its ShareName.
    pub name: Box<str>,
    /// Its Topic Filter.
    pub filter: Box<str>,
    /// What waits, ascending.
    pub rows: Vec<RecoveredRow>,
    /// The number that its next row gets.
    pub next_row: RowSeq,
}

/// A row as the last commit left it; its message stays on disk.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredRow {
    /// Its number.
    pub seq: RowSeq,
    /// How far it is.
    pub state: RowState,
    /// The QoS at which it is delivered.
    pub qos: crate::codec::QoS,
    /// [`Message::cost`] of its message.
    pub cost: u32,
    /// When its message expires.
    pub expires_at: Option<Timestamp>,
}
