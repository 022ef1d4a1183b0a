//! What came of a batch, gathered over all sessions it reached: whom to wake, what to count, what to keep.
//!
//! Owner: the worker that handles the batch; passed down to every session it touches, and settled by the broker. What
//! always holds: nothing in it is lost, because settling appends what the store has not been told yet.

use std::sync::Arc;
use std::task::Waker;

use super::deliver::DropReason;
use super::outbox::BufferPool;
use crate::codec::QoS;
use crate::message::Message;
use crate::store::{CommitSeq, Owner, Records, RowSeq, RowState};

/// See the module.
#[derive(Debug, Default)]
pub struct Report {
    /// Connections to wake once the batch is done.
    pub wakers: Vec<Waker>,
    /// Some outbox was beyond its soft limit already, or the store has much to write: the publisher is to pause.
    pub pressed: bool,
    /// PUBLISH packets written to outboxes.
    pub sent: u64,
    /// Their payloads, in bytes.
    pub sent_bytes: u64,
    /// Control Packets other than PUBLISH.
    pub packets_sent: u64,
    /// Messages put into queues.
    pub queued: u64,
    /// Messages dropped, by reason.
    pub dropped: [u64; DropReason::COUNT],
    /// What the last call dropped, to be taken by the caller, who knows for whom.
    pub fresh_drop: Option<DropReason>,
    /// A queue is filling up: taken by the caller, who knows whose.
    pub filling: bool,
    /// Empty buffers for outboxes that begin to fill.
    pub buffers: BufferPool,
    /// The sequence under which rows and records will be appended: reserved by the broker before it touches a session
    /// that the store keeps, and what that session's QoS 2 packets wait for.
    pub sequence: CommitSeq,
    /// New rows, to be appended.
    pub rows: Vec<NewRow>,
    /// What happened to rows, to be appended behind the new ones.
    pub records: Records,
}

/// A message that a session or a group has taken, and the store is to keep for it.
#[derive(Debug)]
pub struct NewRow {
    /// What.
    pub message: Arc<Message>,
    /// For whom.
    pub owner: Owner,
    /// Under which number.
    pub seq: RowSeq,
    /// Whether it was sent at once.
    pub state: RowState,
    /// Granted QoS.
    pub qos: QoS,
    /// RETAIN as the subscriber is to see it.
    pub retain: bool,
    /// Subscription Identifiers to bear.
    pub identifiers: Option<Arc<[u32]>>,
}

impl Report {
    /// Notes that a row is finished, if there is one.
    pub fn done(&mut self, owner: Option<Owner>, row: RowSeq) {
        if let Some(owner) = owner.filter(|_| row != RowSeq::default()) {
            self.records.push_done(owner, row);
        }
    }

    /// Whether the store is to be told something.
    pub fn has_records(&self) -> bool {
        !self.rows.is_empty() || !self.records.is_empty()
    }
}
