//! A store that keeps nothing: what lives in the broker's memory is all there is.
//!
//! `durability = "none"`: every append is committed at once, because its promise, that state lives as long as
//! the process, is kept by the sessions themselves.

use std::sync::Arc;
use std::task::Waker;

use super::record::Timebase;
use super::{CommitSeq, Condition, Fetch, Fetched, Records, Store};

/// See the module.
#[derive(Debug)]
pub struct MemoryStore {
    timebase: Timebase,
    secret: [u8; 16],
}

impl Default for MemoryStore {
    fn default() -> Self {
        let mut secret = [0; 16];
        // Without randomness, who knows how it is used could find two clients that are taken for one (No Local).
        let _: Result<(), getrandom::Error> = getrandom::fill(&mut secret);
        Self { timebase: Timebase::now(), secret }
    }
}

impl Store for MemoryStore {
    fn keeps(&self) -> bool {
        false
    }

    fn begin(&self) -> CommitSeq {
        CommitSeq::default()
    }

    fn finish(&self, _sequence: CommitSeq, _records: &Records) {}

    fn appended(&self) -> CommitSeq {
        CommitSeq::default()
    }

    fn committed(&self) -> CommitSeq {
        CommitSeq::default()
    }

    fn wake_when_committed(&self, _sequence: CommitSeq, waker: &Waker) {
        waker.wake_by_ref();
    }

    /// Nothing was ever appended, so nothing can be had.
    fn fetch(&self, fetch: Arc<Fetch>) {
        let rows = fetch.rows.iter().map(|seq| Fetched { seq: *seq, content: None }).collect();
        fetch.answer(rows);
    }

    fn condition(&self) -> Condition {
        Condition::Well
    }

    fn secret(&self) -> [u8; 16] {
        self.secret
    }

    fn timebase(&self) -> Timebase {
        self.timebase
    }
}
