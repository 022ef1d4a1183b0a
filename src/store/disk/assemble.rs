//! Makes a frame's records of what was appended, leaving out what need not be written.
//!
//! A row that was finished, or whose owner ended, before it was written is never written; nor is what only speaks of
//! such rows, nor a message that has no row left. Rows are written as far as they are, if they were sent before they
//! came. Called by the writer, before a frame is written.

use std::hash::RandomState;

use hashbrown::{HashMap, HashSet};

use super::super::record::{Damaged, Owner, Record, RecordIter, Records, Row, RowSeq};
use super::frame::store;
use super::index::{Fate, Owners};

/// What a group says about rows that it may hold itself.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// Rows that are finished.
    finished: HashMap<u64, Spans, RandomState>,
    /// Rows that are left out.
    dropped: HashMap<u64, Spans, RandomState>,
    born: HashSet<u64, RandomState>,
    ended: HashSet<u64, RandomState>,
    scratch: Records,
}

/// Numbers, as ranges.
#[derive(Debug, Default)]
struct Spans(Vec<(u64, u64)>);

impl Spans {
    fn add(&mut self, first: u64, last: u64) {
        match self.0.last_mut() {
            Some(before) if before.1.checked_add(1) == Some(first) => before.1 = last,
            _ => self.0.push((first, last)),
        }
    }

    /// Makes them ascending, and one of those that touch.
    fn sort(&mut self) {
        self.0.sort_unstable();
        let touch = |before: &(u64, u64), next: &(u64, u64)| next.0 <= before.1.saturating_add(1);
        self.0.dedup_by(|next, before| {
            let is_one = touch(before, next);
            if is_one {
                before.1 = before.1.max(next.1);
            }
            is_one
        });
    }

    /// Whether all of these are among them.
    fn cover(&self, first: u64, last: u64) -> bool {
        let before = self.0.partition_point(|(begin, _)| *begin <= first);
        before.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, end)| *end >= last)
    }
}

/// The message whose rows are coming.
#[derive(Debug, Clone, Copy)]
enum Of<'a> {
    Nothing,
    Unwritten(&'a [u8]),
    Written,
}

impl Assembler {
    /// Appends to `body` what is to be written of these records.
    pub fn assemble(&mut self, owners: &Owners, bytes: &[u8], body: &mut Vec<u8>) -> Result<(), Damaged> {
        self.look(bytes)?;
        self.drop_rows(owners, bytes)?;
        let mut records = RecordIter::new(bytes);
        let mut message = Of::Nothing;
        loop {
            let start = records.position();
            let Some(record) = records.next() else {
                return Ok(());
            };
            let record = record?;
            let bytes = bytes.get(start..records.position()).unwrap_or_default();
            match &record {
                Record::Message(_) => message = Of::Unwritten(bytes),
                Record::Row(row) => {
                    if self.dropped.get(&row.owner.0).is_some_and(|spans| spans.cover(row.seq.0, row.seq.0)) {
                        continue;
                    }
                    let state = match owners.fate(row.owner, row.seq, row.state) {
                        Fate::Alive(state) => state,
                        Fate::Nobodys | Fate::Dead => row.state,
                    };
                    match message {
                        Of::Nothing => return Err(Damaged("a row without a message")),
                        Of::Unwritten(bytes) => store(body, bytes, true),
                        Of::Written => {}
                    }
                    message = Of::Written;
                    if state == row.state {
                        store(body, bytes, true);
                    } else {
                        self.scratch.clear();
                        self.scratch.push(&Record::Row(Row { state, ..*row }));
                        store(body, self.scratch.as_bytes(), true);
                    }
                }
                Record::Done { owner, first, count } => {
                    if !self.is_dropped(*owner, *first, *count) {
                        store(body, bytes, false);
                    }
                }
                Record::Sent { owner, first, count, .. } => {
                    if !self.is_dropped(*owner, *first, (*count).into()) {
                        store(body, bytes, false);
                    }
                }
                Record::Released { owner, seq } => {
                    if !self.is_dropped(*owner, *seq, 1) {
                        store(body, bytes, false);
                    }
                }
                Record::Kept { .. }
                | Record::Forgotten { .. }
                | Record::Received { .. }
                | Record::Completed { .. }
                | Record::Session(_)
                | Record::Group(_)
                | Record::Ended { .. }
                | Record::Subscribed { .. }
                | Record::Unsubscribed { .. }
                | Record::Will(_)
                | Record::WillEnded { .. } => store(body, bytes, false),
            }
        }
    }

    /// Notes what is finished, begun and ended.
    fn look(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        self.finished.clear();
        self.dropped.clear();
        self.born.clear();
        self.ended.clear();
        for record in RecordIter::new(bytes) {
            match record? {
                Record::Done { owner, first, count } => {
                    if let Some(more) = count.checked_sub(1) {
                        let last = first.0.saturating_add(more);
                        self.finished.entry(owner.0).or_default().add(first.0, last);
                    }
                }
                Record::Session(image) => {
                    self.born.insert(image.owner.0);
                }
                Record::Group(image) => {
                    self.born.insert(image.owner.0);
                }
                Record::Ended { owner } => {
                    self.ended.insert(owner.0);
                }
                _ => {}
            }
        }
        self.finished.values_mut().for_each(Spans::sort);
        Ok(())
    }

    /// Decides which rows are left out.
    fn drop_rows(&mut self, owners: &Owners, bytes: &[u8]) -> Result<(), Damaged> {
        for record in RecordIter::new(bytes) {
            let Record::Row(row) = record? else {
                continue;
            };
            let (owner, seq) = (row.owner.0, row.seq.0);
            let is_finished = self.finished.get(&owner).is_some_and(|spans| spans.cover(seq, seq));
            let is_dropped = is_finished
                || self.ended.contains(&owner)
                || match owners.fate(row.owner, row.seq, row.state) {
                    Fate::Dead => true,
                    Fate::Nobodys => !self.born.contains(&owner),
                    Fate::Alive(_) => false,
                };
            if is_dropped {
                self.dropped.entry(owner).or_default().add(seq, seq);
            }
        }
        self.dropped.values_mut().for_each(Spans::sort);
        Ok(())
    }

    fn is_dropped(&self, owner: Owner, first: RowSeq, count: u64) -> bool {
        let last = first.0.saturating_add(count.saturating_sub(1));
        self.dropped.get(&owner.0).is_some_and(|spans| spans.cover(first.0, last))
    }
}
