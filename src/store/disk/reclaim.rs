//! Gives the space of what is done back: copies what is alive in the oldest segment to the end of the log, and lets the
//! segment go.
//!
//! Driven by the writer, which puts the copies in front of a frame's own records. What always holds: a segment goes only
//! once the frame with the last copies is on the disk, and only the oldest goes; so whatever speaks of a thing goes
//! after the thing itself.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::record::{Record, Records, Row};
use super::files::read_full;
use super::frame::{BLOCK, FRAME_HEADER, FrameHeader, StoredIter, store};
use super::index::Index;
use super::recovery::Sealed;
use super::segment::Segment;
use super::shared::Shared;

/// The least and the most that one step reads.
const STEP: (usize, usize) = (256 * 1024, 1024 * 1024);

/// See the module.
#[derive(Debug)]
pub(super) struct Reclaim {
    oldest: u32,
    /// Segments that are not written any more, oldest first.
    sealed: VecDeque<Sealed>,
    /// How far the oldest one has been copied.
    at: u64,
    /// The frame that is being made says that the oldest goes.
    is_leaving: bool,
    /// Segments that go once this frame is on the disk.
    leaving: VecDeque<(u64, Arc<Segment>)>,
    /// Bytes of all segments.
    total: u64,
    /// The oldest cannot be read, so nothing can be given back.
    is_stuck: bool,
    buffer: Vec<u8>,
}

impl Reclaim {
    pub fn new(oldest: u32, sealed: VecDeque<Sealed>, total: u64) -> Self {
        Self {
            oldest,
            sealed,
            at: BLOCK,
            is_leaving: false,
            leaving: VecDeque::new(),
            total,
            is_stuck: false,
            buffer: Vec::new(),
        }
    }

    /// Segments below this are not needed, once the frame that says so is on the disk.
    pub fn oldest(&self, may_leave: bool) -> u32 {
        self.oldest + u32::from(may_leave && self.is_leaving)
    }

    /// The number of the first frame in the others; `current` is that of the segment that is written.
    pub fn oldest_first(&self, may_leave: bool, current: u64) -> u64 {
        let stay = self.sealed.iter().skip((may_leave && self.is_leaving).into());
        stay.map(|sealed| sealed.first).fold(current, u64::min)
    }

    /// Frames above this number are written anew, all that they say in the next one.
    pub fn distrust(&mut self, synced: u64) {
        for (frame, _) in &mut self.leaving {
            *frame = (*frame).min(synced + 1);
        }
    }

    /// How many segments there are, and their bytes.
    pub fn size(&self) -> (u64, u64) {
        (self.sealed.len() as u64 + 1, self.total)
    }

    /// A segment is full, and one of this size has taken its place.
    pub fn seal(&mut self, sealed: Sealed, next: u64) {
        self.sealed.push_back(sealed);
        self.total += next;
    }

    /// Whether there is enough to be gained.
    pub fn is_wanted(&mut self, shared: &Shared, index: &Index) -> bool {
        self.let_go(shared);
        let Some(oldest) = self.sealed.front().filter(|_| !self.is_stuck) else {
            return false;
        };
        let live = u64::try_from(index.live.total).unwrap_or_default();
        self.at > BLOCK
            || index.live.of(oldest.segment.number) == 0
            || self.total > 2 * live + shared.options.slack
    }

    /// Whether space can be gained with little.
    pub fn is_worth(&mut self, shared: &Shared, index: &Index) -> bool {
        self.let_go(shared);
        let oldest = self.sealed.front().filter(|_| !self.is_stuck);
        oldest.is_some_and(|oldest| {
            let live = u64::try_from(index.live.of(oldest.segment.number)).unwrap_or_default();
            self.at > BLOCK || live <= oldest.segment.size / 4 * 3
        })
    }

    /// How far it is, for [`Reclaim::go_back`].
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What was copied since is in no frame after all.
    pub fn go_back(&mut self, at: u64) {
        self.at = at;
        self.is_leaving = false;
    }

    /// Reads a part of the oldest segment and appends copies of what is alive to `body`. Says whether there is a frame
    /// to be written for it.
    pub fn step(&mut self, shared: &Shared, index: &Index, fresh: usize, body: &mut Vec<u8>) -> bool {
        let budget = (fresh * 3).clamp(STEP.0, STEP.1);
        let Some(Sealed { segment, end, .. }) = self.sealed.front() else {
            return false;
        };
        let (segment, end) = (segment.clone(), *end);
        if index.live.of(segment.number) > 0 && self.at < end {
            if let Err(error) = self.copy(shared, index, &segment, end, budget, body) {
                tracing::error!(
                    "the store cannot read its oldest file, {}: {error}; the space of what is delivered does not come \
                     back until the broker is restarted",
                    super::segment::segment_name(segment.number)
                );
                self.is_stuck = true;
                return body.len() > FRAME_HEADER;
            }
        } else {
            self.at = end;
        }
        if self.at >= end {
            self.is_leaving = true;
        }
        self.is_leaving || body.len() > FRAME_HEADER
    }

    fn copy(
        &mut self,
        shared: &Shared,
        index: &Index,
        segment: &Segment,
        end: u64,
        budget: usize,
        body: &mut Vec<u8>,
    ) -> io::Result<()> {
        let most = |wanted: usize, at: u64| usize::try_from(end - at).unwrap_or(wanted).min(wanted);
        self.buffer.resize(most(budget, self.at), 0);
        let read = read_full(&*segment.file, &mut self.buffer, self.at)?;
        self.buffer.truncate(read);
        let mut done = 0;
        while self.at < end {
            let rest = self.buffer.get(done..).unwrap_or_default();
            let announced = FrameHeader::announced(rest);
            let needed = announced.unwrap_or(FRAME_HEADER);
            if needed > rest.len() {
                if done > 0 {
                    return Ok(());
                }
                // A frame that is larger than a step.
                let whole = most(needed, self.at);
                if whole <= rest.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.buffer.resize(whole, 0);
                let read = read_full(&*segment.file, &mut self.buffer, self.at)?;
                self.buffer.truncate(read);
                continue;
            }
            let identity = &shared.yard.plan.identity;
            let Some((header, records)) = FrameHeader::read(identity, segment.number, rest) else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("no frame at byte {}", self.at),
                ));
            };
            let offset = self.at as u32 + FRAME_HEADER as u32;
            copy_records(index, segment.number, offset, records, body)?;
            let stride = header.stride(segment.sync);
            self.at += stride;
            done += stride as usize;
            if done >= self.buffer.len() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A frame is committed; if it said that the oldest segment goes, that is so now.
    pub fn committed(&mut self, shared: &Shared, index: &mut Index, frame: u64) {
        if std::mem::take(&mut self.is_leaving)
            && let Some(Sealed { segment, .. }) = self.sealed.pop_front()
        {
            index.live.forget(segment.number);
            self.oldest = segment.number + 1;
            shared.segments.lock().remove(&segment.number);
            self.total = self.total.saturating_sub(segment.size);
            self.at = BLOCK;
            self.buffer.truncate(STEP.1);
            self.buffer.shrink_to(STEP.1);
            self.leaving.push_back((frame, segment));
        }
        self.let_go(shared);
    }

    /// Hands over the segments whose end is on the disk.
    fn let_go(&mut self, shared: &Shared) {
        let synced = shared.yard.synced.load(Ordering::Acquire);
        while let Some((_, segment)) = self.leaving.pop_front_if(|(frame, _)| *frame <= synced) {
            shared.yard.bury(segment);
        }
    }
}

/// Appends copies of those of a frame's records that are alive.
fn copy_records(
    index: &Index,
    segment: u32,
    offset: u32,
    records: &[u8],
    body: &mut Vec<u8>,
) -> io::Result<()> {
    let mut message = None;
    let mut scratch = Records::default();
    for stored in StoredIter::new(records) {
        let stored =
            stored.map_err(|damaged| io::Error::new(io::ErrorKind::InvalidData, damaged.to_string()))?;
        let at = offset + stored.start as u32;
        match &stored.record {
            Record::Message(_) => message = Some(stored.bytes),
            Record::Row(row) => {
                let Some(state) = index.current_row(row, segment, at) else {
                    continue;
                };
                if let Some(message) = message.take() {
                    store(body, message, true);
                }
                scratch.clear();
                scratch.push(&Record::Row(Row { state, ..*row }));
                store(body, scratch.as_bytes(), true);
            }
            record => {
                if !index.is_current(record, segment, at) {
                    continue;
                }
                store(body, stored.bytes, false);
                let owner = match record {
                    Record::Session(image) => image.owner,
                    Record::Group(image) => image.owner,
                    _ => continue,
                };
                // No record may be left of its finished rows; their numbers must not come again.
                if let Some(seq) = index.highest_finished(owner) {
                    scratch.clear();
                    scratch.push_done(owner, seq);
                    store(body, scratch.as_bytes(), false);
                }
            }
        }
    }
    Ok(())
}
