//! Makes a frame's records of what was appended, leaving out what need not be written.
//!
//! A row that was finished, or whose owner ended, before it was written is never written; nor is what only speaks of
//! such rows, nor a message that has no row left. Rows are written as far as they are, if they were sent before they
//! came. Called by the writer, before a frame is written.

use hashbrown::{HashMap, HashSet};

use super::super::record::{Damaged, Owner, Record, RecordIter, Records, Row, RowSeq, RowState};
use super::frame::store;
use super::index::{Fate, Owners};

/// What a group says about rows that it may hold itself.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// Rows that are finished.
    finished: HashMap<u64, Spans>,
    /// Rows that are left out.
    dropped: HashMap<u64, Spans>,
    born: HashSet<u64>,
    ended: HashSet<u64>,
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

/// A record of the group.
#[derive(Debug)]
struct Item<'a> {
    bytes: &'a [u8],
    record: Record<'a>,
    /// Of a row: how far it is; `None` if it is left out.
    state: Option<RowState>,
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
        let mut items = self.read(bytes)?;
        self.drop_rows(owners, &mut items);
        let mut message = Of::Nothing;
        for Item { bytes, record, state } in &items {
            let is_written = match record {
                Record::Message(_) => {
                    message = Of::Unwritten(bytes);
                    continue;
                }
                Record::Row(row) => {
                    let Some(state) = *state else {
                        continue;
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
                    continue;
                }
                Record::Done { owner, first, count } => !self.is_dropped(*owner, *first, *count),
                Record::Sent { owner, first, count, .. } => !self.is_dropped(*owner, *first, (*count).into()),
                Record::Released { owner, seq } => !self.is_dropped(*owner, *seq, 1),
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
                | Record::WillEnded { .. } => true,
            };
            if is_written {
                store(body, bytes, false);
            }
        }
        Ok(())
    }

    /// Reads all records, and notes what is finished, begun and ended.
    fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Vec<Item<'a>>, Damaged> {
        self.finished.clear();
        self.dropped.clear();
        self.born.clear();
        self.ended.clear();
        let mut items = Vec::new();
        let mut records = RecordIter::new(bytes);
        loop {
            let start = records.position();
            let Some(record) = records.next() else {
                break;
            };
            let record = record?;
            match &record {
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
            let bytes = bytes.get(start..records.position()).unwrap_or_default();
            items.push(Item { bytes, record, state: None });
        }
        self.finished.values_mut().for_each(Spans::sort);
        Ok(items)
    }

    /// Decides which rows are left out, and how far the others are.
    fn drop_rows(&mut self, owners: &Owners, items: &mut [Item<'_>]) {
        for item in items {
            let Record::Row(row) = &item.record else {
                continue;
            };
            let (owner, seq) = (row.owner.0, row.seq.0);
            let is_over = self.ended.contains(&owner)
                || self.finished.get(&owner).is_some_and(|spans| spans.cover(seq, seq));
            item.state = match owners.fate(row.owner, row.seq, row.state) {
                _ if is_over => None,
                Fate::Dead => None,
                Fate::Nobodys => self.born.contains(&owner).then_some(row.state),
                Fate::Alive(state) => Some(state),
            };
            if item.state.is_none() {
                self.dropped.entry(owner).or_default().add(seq, seq);
            }
        }
        self.dropped.values_mut().for_each(Spans::sort);
    }

    fn is_dropped(&self, owner: Owner, first: RowSeq, count: u64) -> bool {
        let last = first.0.saturating_add(count.saturating_sub(1));
        self.dropped.get(&owner.0).is_some_and(|spans| spans.cover(first.0, last))
    }
}
