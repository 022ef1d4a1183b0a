//! Reads messages back, on a thread of its own.
//!
//! Places come from the index, under its lock; reading needs none. A record may be copied and its segment used again while
//! it is read: then what is found is not what was looked for, and the index says where it is now.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use parking_lot::{Condvar, Mutex};

use super::super::record::{Owner, Record, Row, RowSeq};
use super::super::{Fetch, Fetched, FetchedRow};
use super::files::read_full;
use super::frame::{ReadBack, read_back};
use super::place::RowEntry;
use super::segment::{Segment, segment_name};
use super::shared::Shared;

/// Rows closer than this are read together.
const GAP: u64 = 32 * 1024;
/// At most so much is read at once, unless one record is larger.
const READ: u64 = 256 * 1024;
/// So much is read behind where the last record begins, whose length is not known.
const TAIL: u64 = 4 * 1024;
/// How often a place is looked up anew when something else was found there.
const ATTEMPTS: usize = 5;

/// What is asked for.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// With the sequence that includes everything appended before it was asked for.
    asked: VecDeque<(u64, Arc<Fetch>)>,
    is_stopping: bool,
}

/// Asks again once everything is committed that was appended before.
struct Again {
    fetches: Weak<Fetches>,
    sequence: u64,
    fetch: Arc<Fetch>,
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        if let Some(fetches) = self.fetches.upgrade() {
            fetches.ask(self.sequence, self.fetch.clone());
        }
    }
}

impl Fetches {
    pub fn ask(&self, sequence: u64, fetch: Arc<Fetch>) {
        self.state.lock().asked.push_back((sequence, fetch));
        self.bell.notify_one();
    }

    pub fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.bell.notify_one();
    }

    /// What the thread does until it is stopped.
    pub fn run(self: &Arc<Self>, shared: &Shared) {
        let mut reader = Reader::default();
        loop {
            let mut state = self.state.lock();
            while state.asked.is_empty() && !state.is_stopping {
                self.bell.wait(&mut state);
            }
            let Some((sequence, fetch)) = state.asked.pop_front() else {
                return;
            };
            drop(state);
            self.serve(shared, &mut reader, sequence, fetch);
        }
    }

    /// Answers what is asked for, without waiting for more. For tests, which have no threads.
    pub fn serve_all(self: &Arc<Self>, shared: &Shared) {
        let mut reader = Reader::default();
        loop {
            let asked = self.state.lock().asked.pop_front();
            let Some((sequence, fetch)) = asked else {
                return;
            };
            self.serve(shared, &mut reader, sequence, fetch);
        }
    }

    fn serve(self: &Arc<Self>, shared: &Shared, reader: &mut Reader, sequence: u64, fetch: Arc<Fetch>) {
        // Asked before the rows are looked up: what is committed is in the index.
        let is_all_there = shared.front.committed() >= sequence;
        let is_known = |seq: &&RowSeq| shared.owners.row(fetch.owner, **seq).is_some();
        // What is there does not wait for what is not: with a full disk, it is what makes room.
        let there =
            if is_all_there { fetch.rows.len() } else { fetch.rows.iter().take_while(is_known).count() };
        if there == 0 && !is_all_there {
            let again = Again { fetches: Arc::downgrade(self), sequence, fetch };
            shared.front.wake_when_committed(sequence, &Waker::from(Arc::new(again)));
            return;
        }
        let rows = reader.read(shared, fetch.owner, fetch.rows.get(..there).unwrap_or_default());
        fetch.answer(rows);
    }
}

/// Reads rows, and keeps what it last read.
#[derive(Debug, Default)]
struct Reader {
    segment: Option<Arc<Segment>>,
    start: u64,
    bytes: Vec<u8>,
}

/// What stood where a row should.
enum Looked {
    Row(FetchedRow),
    Elsewhere,
    Failed(io::Error),
}

impl Reader {
    fn read(&mut self, shared: &Shared, owner: Owner, rows: &[RowSeq]) -> Vec<Fetched> {
        // What was read for another fetch may have changed.
        self.segment = None;
        let find = |seq: &RowSeq| shared.owners.row(owner, *seq);
        let mut wanted: Vec<(RowEntry, usize)> =
            rows.iter().enumerate().filter_map(|(at, seq)| Some((find(seq)?, at))).collect();
        wanted.sort_unstable_by_key(|(entry, _)| (entry.segment, entry.message));
        let mut answer: Vec<Fetched> = rows.iter().map(|seq| Fetched { seq: *seq, content: None }).collect();
        for (at, (entry, row)) in wanted.iter().enumerate() {
            let until = reach(wanted.get(at..).unwrap_or_default());
            if let Some(fetched) = answer.get_mut(*row) {
                fetched.content = self.row(shared, owner, fetched.seq, *entry, until);
            }
        }
        answer
    }

    fn row(
        &mut self,
        shared: &Shared,
        owner: Owner,
        seq: RowSeq,
        mut entry: RowEntry,
        until: u64,
    ) -> Option<FetchedRow> {
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            match self.look(shared, owner, seq, entry, until) {
                Looked::Row(row) => return Some(row),
                Looked::Elsewhere => {}
                Looked::Failed(error) => failed = Some(error),
            }
            self.segment = None;
            entry = shared.owners.row(owner, seq)?;
        }
        let why = failed.map_or("what stands there is something else".to_owned(), |error| error.to_string());
        tracing::error!(
            "the store cannot read message {} of owner {} back, from {} at byte {}: {why}; it is passed over",
            seq.0,
            owner.0,
            segment_name(entry.segment),
            entry.message
        );
        shared.statistics.unreadable.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn look(&mut self, shared: &Shared, owner: Owner, seq: RowSeq, entry: RowEntry, until: u64) -> Looked {
        if self.segment.as_ref().is_none_or(|segment| segment.number != entry.segment) {
            let segment = shared.segments.lock().get(&entry.segment).cloned();
            let Some(segment) = segment else {
                return Looked::Elsewhere;
            };
            (self.segment, self.start) = (Some(segment), 0);
            self.bytes.clear();
        }
        let message = self.record(entry.message.into(), until, |record| match record {
            Record::Message(image) => Some(image.to_message(&shared.timebase)),
            _ => None,
        });
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Looked::Elsewhere,
            Err(error) => return Looked::Failed(error),
        };
        let row = self.record(entry.row.into(), until, |record| match record {
            Record::Row(row) if row.owner == owner && row.seq == seq => Some(terms(row)),
            _ => None,
        });
        match row {
            Ok(Some((qos, retain, identifiers))) => {
                Looked::Row(FetchedRow { message: Arc::new(message), qos, retain, identifiers })
            }
            Ok(None) => Looked::Elsewhere,
            Err(error) => Looked::Failed(error),
        }
    }

    /// What `with` makes of the record that begins here.
    fn record<T>(
        &mut self,
        offset: u64,
        until: u64,
        with: impl Fn(&Record<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut needed = 0;
        loop {
            let rest = self.window(offset, needed, until)?;
            match read_back(rest) {
                ReadBack::Whole(record) => return Ok(with(&record)),
                // The file ends, or it is no longer than that after all.
                ReadBack::Short(more) if more <= rest.len() || more <= needed => return Ok(None),
                ReadBack::Short(more) => needed = more,
                ReadBack::Damaged => return Ok(None),
            }
        }
    }

    /// The bytes from here on, so many at least if there are as many.
    fn window(&mut self, offset: u64, needed: usize, until: u64) -> io::Result<&[u8]> {
        let have = self.start + self.bytes.len() as u64;
        if offset < self.start || offset >= have || offset + (needed as u64) > have {
            let Some(segment) = &self.segment else {
                return Ok(&[]);
            };
            let length = until.saturating_sub(offset).max(TAIL).max(needed as u64);
            let length = length.min(segment.file.length()?.saturating_sub(offset));
            self.bytes.resize(usize::try_from(length).unwrap_or_default(), 0);
            let read = read_full(&*segment.file, &mut self.bytes, offset);
            self.start = offset;
            self.bytes.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        let skip = usize::try_from(offset - self.start).unwrap_or_default();
        Ok(self.bytes.get(skip..).unwrap_or_default())
    }
}

/// Where reading ends that begins with the first of these rows, so that it serves those that are close.
fn reach(wanted: &[(RowEntry, usize)]) -> u64 {
    let Some((first, _)) = wanted.first() else {
        return 0;
    };
    let begin = u64::from(first.message);
    let mut end = begin;
    for (entry, _) in wanted {
        let next = u64::from(entry.row);
        if entry.segment != first.segment || next > end + GAP || next > begin + READ {
            break;
        }
        end = next;
    }
    end + TAIL
}

type Terms = (crate::codec::QoS, bool, Option<Arc<[u32]>>);

fn terms(row: &Row<'_>) -> Terms {
    let identifiers: Vec<u32> = row.identifiers.iter().collect();
    (row.qos, row.retain, (!identifiers.is_empty()).then(|| identifiers.into()))
}
