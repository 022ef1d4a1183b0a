//! Where records are appended and commits are heard of: the side that the broker's threads see.
//!
//! They hold the lock for as long as it takes to copy some bytes. The writer swaps the buffer, and only while it is
//! idle does anybody wake it. What always holds: `committed` never reaches a sequence that is open or not written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::thread::Thread;

use parking_lot::Mutex;

/// How much room a buffer keeps while it is empty.
pub(super) const KEPT: usize = 4 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Front {
    pending: Mutex<Pending>,
    committed: AtomicU64,
    /// Bytes appended and not committed.
    waiting: AtomicU64,
    /// By the sequence that they wait for.
    wakers: Mutex<BTreeMap<u64, Vec<Waker>>>,
    writer: OnceLock<Thread>,
}

#[derive(Debug, Default)]
struct Pending {
    appended: Appended,
    /// Sequences given out and not finished, ascending.
    open: VecDeque<u64>,
    /// The highest sequence given out.
    given: u64,
    /// The writer sleeps, or is about to.
    is_idle: bool,
}

/// Records, finish by finish.
#[derive(Debug, Default)]
pub(super) struct Appended {
    pub bytes: Vec<u8>,
    /// Each one's sequence, and where its bytes end.
    pub finishes: Vec<(u64, usize)>,
}

/// What the writer took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// The highest sequence that is committed once all that was taken is.
    pub ceiling: u64,
    /// The highest sequence given out by then.
    pub given: u64,
}

impl Front {
    /// This thread is the writer.
    pub fn set_writer(&self, writer: Thread) {
        let _ = self.writer.set(writer);
    }

    pub fn begin(&self) -> u64 {
        let mut pending = self.pending.lock();
        pending.given += 1;
        let sequence = pending.given;
        pending.open.push_back(sequence);
        sequence
    }

    pub fn finish(&self, sequence: u64, bytes: &[u8]) {
        let mut pending = self.pending.lock();
        if let Some(at) = pending.open.iter().position(|open| *open == sequence) {
            pending.open.remove(at);
        }
        if !bytes.is_empty() {
            pending.appended.bytes.extend_from_slice(bytes);
            let end = pending.appended.bytes.len();
            pending.appended.finishes.push((sequence, end));
            self.waiting.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        if pending.is_idle && !self.publish_now(&pending) {
            pending.is_idle = false;
            drop(pending);
            self.unpark();
        }
    }

    /// Publishes what there is to publish if that needs neither the writer nor a waker.
    fn publish_now(&self, pending: &Pending) -> bool {
        let ceiling = pending.ceiling();
        if !pending.appended.finishes.is_empty() {
            return false;
        }
        let wakers = self.wakers.lock();
        if wakers.first_key_value().is_some_and(|(first, _)| *first <= ceiling) {
            return false;
        }
        self.committed.store(ceiling, Ordering::Release);
        true
    }

    pub fn appended(&self) -> u64 {
        self.pending.lock().given
    }

    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Bytes appended and not committed.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn wake_when_committed(&self, sequence: u64, waker: &Waker) {
        if self.committed() < sequence {
            // Looked at again under the lock, because who publishes looks for wakers after that.
            let mut wakers = self.wakers.lock();
            if self.committed() < sequence {
                let wakers = wakers.entry(sequence).or_default();
                if !wakers.iter().rev().take(4).any(|known| known.will_wake(waker)) {
                    wakers.push(waker.clone());
                }
                return;
            }
        }
        waker.wake_by_ref();
    }

    /// Swaps what was appended with an empty buffer. If there is nothing, and nothing to publish, the writer counts as
    /// idle from here on, if it may, and is told `None`.
    pub fn take(&self, buffer: &mut Appended, may_sleep: bool) -> Option<Taken> {
        buffer.bytes.clear();
        buffer.finishes.clear();
        // One large message is no reason to keep as much memory for ever.
        buffer.bytes.shrink_to(KEPT);
        let mut pending = self.pending.lock();
        let taken = Taken { ceiling: pending.ceiling(), given: pending.given };
        if pending.appended.finishes.is_empty() && taken.ceiling == self.committed() {
            pending.is_idle = may_sleep;
            return None;
        }
        pending.is_idle = false;
        std::mem::swap(&mut pending.appended, buffer);
        Some(taken)
    }

    /// Some bytes are committed, or were dropped.
    pub fn written(&self, bytes: u64) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Everything up to this sequence is committed.
    pub fn publish(&self, sequence: u64) {
        if sequence <= self.committed() {
            return;
        }
        self.committed.store(sequence, Ordering::Release);
        let due = {
            let mut wakers = self.wakers.lock();
            if wakers.first_key_value().is_none_or(|(first, _)| *first > sequence) {
                return;
            }
            let later = wakers.split_off(&(sequence + 1));
            std::mem::replace(&mut *wakers, later)
        };
        due.into_values().flatten().for_each(Waker::wake);
    }

    /// Wakes the writer, whatever it waits for.
    pub fn rouse(&self) {
        self.pending.lock().is_idle = false;
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

impl Pending {
    fn ceiling(&self) -> u64 {
        self.open.front().map_or(self.given, |open| open - 1)
    }
}
