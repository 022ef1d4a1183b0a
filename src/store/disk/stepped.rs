//! A store without threads, for tests: every step is taken by hand, on files of any kind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use super::super::record::Timebase;
use super::super::{CommitSeq, Condition, Fetch, Records, Recovered, Store};
use super::fetch::Fetches;
use super::shared::Shared;
use super::writer::{Step, Writer};
use super::{Files, OpenError, Options, Statistics, start};
use parking_lot::Mutex;

/// See the module. It does what a [`super::DiskStore`] does, when it is told to.
#[derive(Debug)]
pub struct SteppedStore {
    shared: Arc<Shared>,
    fetches: Arc<Fetches>,
    writer: Mutex<Writer>,
}

impl SteppedStore {
    /// Opens a store on these files.
    pub fn open(
        files: Arc<dyn Files>,
        sync: bool,
        options: Options,
        timebase: Timebase,
    ) -> Result<(Self, Recovered), OpenError> {
        let (shared, writer, recovered) = start(files, sync, options, timebase)?;
        Ok((Self { shared, fetches: Arc::default(), writer: Mutex::new(writer) }, recovered))
    }

    /// Lets the writer take one step.
    pub fn step(&self) -> Step {
        self.writer.lock().step()
    }

    /// Does what the helper thread has to do; with `sync`, as if its time had come.
    pub fn help(&self, sync: bool) {
        self.shared.yard.work(sync && !self.shared.yard.plan.sync);
    }

    /// Answers what was asked for.
    pub fn serve(&self) {
        self.fetches.serve_all(&self.shared);
    }

    /// Whether all that is written is known to be on the disk.
    pub fn is_synced(&self) -> bool {
        let yard = &self.shared.yard;
        yard.synced.load(Ordering::Acquire) >= yard.written.load(Ordering::Acquire)
    }

    /// Ends the log cleanly.
    pub fn close(&self) {
        self.writer.lock().close();
    }

    /// What the store has done and has.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }
}

impl Store for SteppedStore {
    fn keeps(&self) -> bool {
        true
    }

    fn begin(&self) -> CommitSeq {
        CommitSeq(self.shared.front.begin())
    }

    fn finish(&self, sequence: CommitSeq, records: &Records) {
        self.shared.front.finish(sequence.0, records.as_bytes());
    }

    fn appended(&self) -> CommitSeq {
        CommitSeq(self.shared.front.appended())
    }

    fn committed(&self) -> CommitSeq {
        CommitSeq(self.shared.front.committed())
    }

    fn wake_when_committed(&self, sequence: CommitSeq, waker: &Waker) {
        self.shared.front.wake_when_committed(sequence.0, waker);
    }

    fn fetch(&self, fetch: Arc<Fetch>) {
        self.fetches.ask(self.shared.front.appended(), fetch);
    }

    fn condition(&self) -> Condition {
        self.shared.condition()
    }

    fn secret(&self) -> [u8; 16] {
        self.shared.yard.plan.identity.secret
    }

    fn timebase(&self) -> Timebase {
        self.shared.timebase
    }
}
