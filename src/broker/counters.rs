//! What the broker counts, without anything global being touched per message.
//!
//! A connection adds up a whole batch and then adds the sums to the block of its worker thread. Reading sums
//! over the blocks: exact once the workers rest, and never more than a batch behind.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::DropReason;

/// A thing that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Counter {
    BytesReceived,
    BytesSent,
    /// Control Packets of any kind.
    PacketsReceived,
    PacketsSent,
    PublishReceived,
    PublishSent,
    PublishBytesReceived,
    PublishBytesSent,
    Queued,
    DroppedOutboxFull,
    DroppedQueueFull,
    DroppedExpired,
    DroppedTooLarge,
    /// The store had them and could not read them.
    DroppedUnreadable,
    /// They waited for a session that may not read them any more.
    DroppedDenied,
    /// Messages that the store could not keep, and so nobody got.
    RefusedByStore,
    /// Messages that their publishers were not allowed to publish.
    DeniedPublish,
    /// Topic Filters that clients were not allowed to subscribe to.
    DeniedSubscribe,
    SocketsAccepted,
    ConnectionsAccepted,
    ConnectionsRefused,
    /// Among them those of which nobody knew who they were.
    LoginsRefused,
    /// And those that were more than their listener takes in a second.
    RefusedTooFast,
    /// And those that are kept out for a while.
    RefusedBanned,
    /// Addresses and Client Identifiers that were banned.
    Bans,
    /// Times that a client was not read from for a while, as it sent more than it may.
    ReadingPauses,
    SessionsExpired,
    Takeovers,
    PublisherStalls,
}

impl Counter {
    const COUNT: usize = Self::PublisherStalls as usize + 1;

    /// The counter of messages dropped for a reason.
    pub fn of_drop(reason: DropReason) -> Self {
        match reason {
            DropReason::OutboxFull => Self::DroppedOutboxFull,
            DropReason::QueueFull => Self::DroppedQueueFull,
            DropReason::Expired => Self::DroppedExpired,
            DropReason::TooLarge => Self::DroppedTooLarge,
            DropReason::Unreadable => Self::DroppedUnreadable,
        }
    }
}

/// One thread's block, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Block([AtomicU64; Counter::COUNT]);

/// See the module.
#[derive(Debug)]
pub struct Counters {
    blocks: Box<[Block]>,
}

impl Counters {
    /// With a block for each of this many threads.
    pub fn new(threads: usize) -> Self {
        Self { blocks: (0..threads.max(1)).map(|_| Block::default()).collect() }
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, amount: u64) {
        if amount == 0 {
            return;
        }
        let block = super::worker_index() % self.blocks.len();
        if let Some(cell) = self.blocks.get(block).and_then(|block| block.0.get(counter as usize)) {
            cell.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// The sum over all threads.
    pub fn get(&self, counter: Counter) -> u64 {
        self.blocks
            .iter()
            .filter_map(|block| block.0.get(counter as usize))
            .map(|cell| cell.load(Ordering::Relaxed))
            .sum()
    }
}
