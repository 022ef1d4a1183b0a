//! The segments' files: made ahead, used again, removed and, in `os`, synced, by a helper thread.
//!
//! The writer only takes one that stands ready. A segment bears its final name only once its header is on the disk, so
//! a header that cannot be read is damage. What always holds: the numbers of those that stand ready follow those in use.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::files::{Files, StoreFile, write_full};
use super::frame::{Identity, SegmentHeader};

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u32,
    /// Whether its frames are padded.
    pub sync: bool,
    pub file: Arc<dyn StoreFile>,
    /// Bytes allocated when it was made.
    pub size: u64,
}

pub(super) fn segment_name(number: u32) -> String {
    format!("{number:010}.seg")
}

/// The number of a segment with this name.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// Ends the names of files that are not segments yet.
pub(super) const UNFINISHED: &str = ".new";

/// How segments are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub identity: Identity,
    pub sync: bool,
    pub boot: [u8; 16],
    /// Bytes.
    pub size: u64,
    /// How many stand ready.
    pub ahead: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Yard {
    pub files: Arc<dyn Files>,
    pub plan: Plan,
    state: Mutex<State>,
    bell: Condvar,
    /// The highest frame written.
    pub written: AtomicU64,
    /// The highest frame known to be on the disk, as are all before it.
    pub synced: AtomicU64,
}

#[derive(Debug)]
struct State {
    next_number: u32,
    ready: VecDeque<Arc<Segment>>,
    /// Not needed any more, oldest first.
    dead: VecDeque<Arc<Segment>>,
    /// Segments with frames that may not be on the disk, oldest first; the last is the current one.
    unsynced: Vec<Arc<Segment>>,
    /// Grows when what is unsynced is written anew; what a sync of before finds then means nothing.
    epoch: u64,
    /// Why no segment can be made.
    starved: Option<String>,
    /// What a sync met.
    sync_failed: Option<String>,
    is_stopping: bool,
}

impl Yard {
    pub fn new(files: Arc<dyn Files>, plan: Plan, next_number: u32) -> Self {
        let state = State {
            next_number,
            ready: VecDeque::new(),
            dead: VecDeque::new(),
            unsynced: Vec::new(),
            epoch: 0,
            starved: None,
            sync_failed: None,
            is_stopping: false,
        };
        let (written, synced) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { files, plan, state: Mutex::new(state), bell: Condvar::new(), written, synced }
    }

    /// Makes one segment, for the start.
    pub fn make(&self) -> io::Result<Arc<Segment>> {
        let number = self.state.lock().next_number;
        let segment = Arc::new(self.build(number, None)?);
        self.state.lock().next_number = number + 1;
        Ok(segment)
    }

    /// The next segment, if one stands ready and there is room for so many bytes; it counts as in use and unsynced. The last
    /// one only goes to who may have it, because nothing can be given back without it.
    pub fn take(&self, needed: u64, may_be_last: bool) -> Option<Arc<Segment>> {
        let mut state = self.state.lock();
        if state.ready.len() < 2 && !may_be_last {
            return None;
        }
        let segment = state.ready.pop_front()?;
        if needed > segment.size
            && let Err(error) = segment.file.allocate(needed)
        {
            state.starved = Some(error.to_string());
            state.ready.push_front(segment);
            return None;
        }
        if !self.plan.sync {
            state.unsynced.push(segment.clone());
        }
        self.bell.notify_one();
        Some(segment)
    }

    /// How many stand ready, and why there are not more.
    pub fn ready(&self) -> (usize, Option<String>) {
        let state = self.state.lock();
        (state.ready.len(), state.starved.clone())
    }

    /// This segment is in use, and unsynced.
    pub fn watch(&self, segment: Arc<Segment>) {
        if !self.plan.sync {
            self.state.lock().unsynced.push(segment);
        }
    }

    /// This segment is not needed any more.
    pub fn bury(&self, segment: Arc<Segment>) {
        self.state.lock().dead.push_back(segment);
        self.bell.notify_one();
    }

    /// What a sync met, if it did not succeed.
    pub fn take_sync_failure(&self) -> Option<String> {
        self.state.lock().sync_failed.take()
    }

    /// The segments with frames that may not be on the disk. From here on the helper syncs none of them.
    pub fn give_up_unsynced(&self) -> Vec<Arc<Segment>> {
        let mut state = self.state.lock();
        state.epoch += 1;
        self.written.store(self.synced.load(Ordering::Acquire), Ordering::Release);
        std::mem::take(&mut state.unsynced)
    }

    pub fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.bell.notify_one();
    }

    /// What the helper thread does until it is stopped. `rouse` is called when the writer may have waited for it.
    pub fn run(&self, interval: Duration, retry: Duration, rouse: impl Fn()) {
        let mut next_sync = Instant::now() + interval;
        loop {
            let now = Instant::now();
            let is_due = !self.plan.sync && now >= next_sync;
            if is_due {
                next_sync = now + interval;
            }
            let may_wait = self.work(is_due);
            if self.state.lock().sync_failed.is_some() || may_wait {
                rouse();
            }
            let mut state = self.state.lock();
            if state.is_stopping {
                return;
            }
            let is_well = state.starved.is_none();
            let has_work = !state.dead.is_empty() || state.ready.len() < self.plan.ahead;
            if !(is_well && has_work) {
                let until_sync = next_sync.saturating_duration_since(Instant::now());
                let pause = match (is_well, self.plan.sync) {
                    (false, _) => retry,
                    (true, true) => Duration::from_secs(3600),
                    (true, false) => until_sync,
                };
                self.bell.wait_for(&mut state, pause);
            }
        }
    }

    /// Does all there is to do; says whether a segment was made.
    pub fn work(&self, sync: bool) -> bool {
        if sync {
            self.sync();
        }
        let mut has_made = false;
        loop {
            let (wants, number, dead) = {
                let mut state = self.state.lock();
                let wants = state.ready.len() < self.plan.ahead;
                (wants, state.next_number, state.dead.pop_front())
            };
            let made = match dead {
                Some(dead) if wants && self.can_be_used_again(&dead) => self.build(number, Some(&dead)),
                Some(dead) => {
                    self.remove(&dead);
                    continue;
                }
                None if wants => self.build(number, None),
                None => return has_made,
            };
            let mut state = self.state.lock();
            match made {
                Ok(segment) => {
                    state.next_number += 1;
                    state.ready.push_back(Arc::new(segment));
                    state.starved = None;
                    has_made = true;
                }
                Err(error) => {
                    state.starved = Some(error.to_string());
                    return true;
                }
            }
        }
    }

    /// In `sync`, blocks that were written before are synced faster than fresh ones. Nobody may still read it.
    fn can_be_used_again(&self, segment: &Arc<Segment>) -> bool {
        self.plan.sync && segment.size == self.plan.size && Arc::strong_count(segment) == 1
    }

    fn build(&self, number: u32, used: Option<&Segment>) -> io::Result<Segment> {
        let Plan { identity, sync, boot, size, .. } = self.plan;
        let unfinished = format!("{number:010}{UNFINISHED}");
        let make = || {
            let file = match used {
                Some(used) => {
                    self.files.rename(&segment_name(used.number), &unfinished)?;
                    // Or else the power might leave the old name with the new header.
                    self.files.sync_directory()?;
                    used.file.clone()
                }
                None => {
                    // What is left of an attempt that failed, if there is any.
                    let _ = self.files.remove(&unfinished);
                    self.files.create(&unfinished)?
                }
            };
            file.allocate(size)?;
            write_full(&*file, &SegmentHeader { identity, number, sync, boot }.encode(), 0)?;
            file.sync_data()?;
            self.files.rename(&unfinished, &segment_name(number))?;
            self.files.sync_directory()?;
            Ok(Segment { number, sync, file, size })
        };
        let made = make();
        if made.is_err() {
            // Whatever is left of it would be in the way of the next attempt.
            let _ = self.files.remove(&unfinished);
            let _ = self.files.remove(&segment_name(number));
        }
        made
    }

    fn remove(&self, segment: &Segment) {
        if let Err(error) = self.files.remove(&segment_name(segment.number)) {
            tracing::warn!(
                "the store cannot remove {}, which it does not need any more: {error}; it is removed at the next start",
                segment_name(segment.number)
            );
        }
    }

    /// Makes sure that everything written so far is on the disk.
    pub fn sync(&self) {
        let (segments, epoch, written) = {
            let state = self.state.lock();
            // Whatever frame it counts is in one of the segments.
            (state.unsynced.clone(), state.epoch, self.written.load(Ordering::Acquire))
        };
        if written == self.synced.load(Ordering::Acquire) {
            return;
        }
        let done = segments.iter().try_for_each(|segment| segment.file.sync_data());
        let mut state = self.state.lock();
        if state.epoch != epoch {
            return;
        }
        match done {
            Ok(()) => {
                self.synced.store(written, Ordering::Release);
                // All but the last were complete.
                let complete = segments.len().saturating_sub(1).min(state.unsynced.len());
                state.unsynced.drain(..complete);
            }
            Err(error) => state.sync_failed = Some(error.to_string()),
        }
    }
}
