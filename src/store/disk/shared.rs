//! What the store's threads share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::Condition;
use super::super::record::Timebase;
use super::front::Front;
use super::index::Owners;
use super::segment::{Segment, Yard};
use super::writer::Fault;

/// How a store is run. The defaults are right; tests make things smaller.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Set what is damaged aside and start with what is sound.
    pub salvage: bool,
    /// The secret of a store that is made anew; without it, a random one.
    pub secret: Option<[u8; 16]>,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments that stand ready.
    pub segments_ahead: usize,
    /// Bytes that may be wasted, besides as much as is alive, before space is given back.
    pub slack: u64,
    /// Bytes of a group, unless one append is larger.
    pub group_bytes: usize,
    /// Bytes that may wait before who appends should pause.
    pub pressed_bytes: u64,
    /// How often `os` syncs.
    pub sync_interval: Duration,
    /// How long after a failure it is tried again.
    pub retry: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            salvage: false,
            secret: None,
            segment_bytes: 32 << 20,
            segments_ahead: 2,
            slack: 128 << 20,
            group_bytes: 1 << 20,
            pressed_bytes: 16 << 20,
            sync_interval: Duration::from_secs(1),
            retry: Duration::from_millis(250),
        }
    }
}

/// What a store has done and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Bytes written to the log.
    pub written_bytes: u64,
    /// Times that a group was synced to the disk.
    pub syncs: u64,
    /// Groups committed.
    pub groups: u64,
    /// Segments in use.
    pub segments: u64,
    /// Bytes of what is alive, roughly.
    pub live_bytes: u64,
    /// Bytes of all segments in use.
    pub total_bytes: u64,
    /// Writes and syncs that failed.
    pub failures: u64,
    /// Messages that could not be read back.
    pub unreadable: u64,
    /// Bytes appended and not committed.
    pub waiting_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub written_bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub groups: AtomicU64,
    pub segments: AtomicU64,
    pub live_bytes: AtomicU64,
    pub total_bytes: AtomicU64,
    pub failures: AtomicU64,
    pub unreadable: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub front: Arc<Front>,
    pub yard: Yard,
    /// Those in use, by number.
    pub segments: Mutex<BTreeMap<u32, Arc<Segment>>>,
    pub owners: Arc<Owners>,
    pub statistics: Counters,
    pub options: Options,
    pub timebase: Timebase,
    is_failing: AtomicBool,
}

impl Shared {
    pub fn new(yard: Yard, owners: Arc<Owners>, options: Options, timebase: Timebase) -> Self {
        Self {
            front: Arc::new(Front::default()),
            yard,
            segments: Mutex::default(),
            owners,
            statistics: Counters::default(),
            options,
            timebase,
            is_failing: AtomicBool::new(false),
        }
    }

    pub fn condition(&self) -> Condition {
        if self.is_failing.load(Ordering::Relaxed) {
            Condition::Failing
        } else if self.front.waiting() > self.options.pressed_bytes {
            Condition::Pressed
        } else {
            Condition::Well
        }
    }

    pub fn statistics(&self) -> Statistics {
        let counters = &self.statistics;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            written_bytes: read(&counters.written_bytes),
            syncs: read(&counters.syncs),
            groups: read(&counters.groups),
            segments: read(&counters.segments),
            live_bytes: read(&counters.live_bytes),
            total_bytes: read(&counters.total_bytes),
            failures: read(&counters.failures),
            unreadable: read(&counters.unreadable),
            waiting_bytes: self.front.waiting(),
        }
    }

    /// Something could not be written.
    pub fn fails(&self, fault: &Fault) {
        let what = match fault {
            // The helper is at it.
            Fault::NoSegment(None) => return,
            Fault::NoSegment(Some(error)) => format!("no room can be had for its next file: {error}"),
            Fault::Write(error) => format!("writing failed: {error}"),
            Fault::Sync(error) => format!("the disk did not confirm what was written: {error}"),
        };
        self.statistics.failures.fetch_add(1, Ordering::Relaxed);
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the store cannot write: {what}; nothing is acknowledged that must last, and it tries again until it \
                 works; make room, or see to the disk (the system's log may say more)"
            );
        }
    }

    /// Something was written.
    pub fn works(&self) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the store writes again; what waited is acknowledged");
        }
    }

    /// It will not work again in this process.
    pub fn breaks(&self) {
        self.is_failing.store(true, Ordering::Relaxed);
    }
}
