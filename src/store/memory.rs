//! A store that keeps nothing: what lives in the broker's memory is all there is.
//!
//! `durability = "none"`: every append is committed at once, because its promise, that state lives as long as
//! the process, is kept by the sessions themselves.

use std::task::Waker;

use super::{CommitSeq, Record, Store};

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryStore;

impl Store for MemoryStore {
    fn append(&self, _record: Record<'_>) -> CommitSeq {
        CommitSeq::default()
    }

    fn committed(&self) -> CommitSeq {
        CommitSeq::default()
    }

    fn wake_when_committed(&self, _sequence: CommitSeq, waker: &Waker) {
        waker.wake_by_ref();
    }
}
