//! The one who writes: takes what was appended, group by group, and makes it last.
//!
//! A state machine that a thread steps, or a test. What always holds: a sequence is published only once the frame
//! that holds it is written, and in `sync` on the disk; a group that could not be written is written again, whole,
//! before anything else; the index knows only what is committed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::record::Damaged;
use super::assemble::Assembler;
use super::batch::{Batch, Part};
use super::files::write_full;
use super::frame::{BLOCK, FRAME_HEADER, FrameHeader, Identity, padded};
use super::front::KEPT;
use super::index::{Index, Position, Unobserved};
use super::reclaim::Reclaim;
use super::recovery::{Sealed, read_segment};
use super::segment::Segment;
use super::shared::Shared;

/// What the writer's thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Step again.
    Again,
    /// Nothing to do until somebody appends.
    Idle,
    /// It does not work now; try again in a moment.
    Later,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    index: Index,
    current: Current,
    /// The number of the next frame.
    next_seq: u64,
    batch: Batch,
    assembler: Assembler,
    /// Room for a header, then the records of the next frame.
    frame: Vec<u8>,
    /// What the frame stands for, if there is one to be written.
    group: Option<Group>,
    /// By frame: the highest sequence given out before it, while rows may still come that it was early for.
    early: VecDeque<(u64, u64)>,
    settled: u64,
    reclaim: Reclaim,
    /// Records of frames that a failed sync may have lost, to be written anew before anything else.
    rescue: Option<Vec<u8>>,
    /// Where those records are, as long as they could not be read.
    doubtful: Option<Doubtful>,
    /// No segment can be made, and the last one that stands ready is for giving space back.
    is_full: bool,
    is_broken: bool,
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Current {
    pub segment: Arc<Segment>,
    pub capacity: u64,
    /// The number of its first frame.
    pub first: u64,
    /// Where the next frame goes.
    pub offset: u64,
    /// How many frames it has.
    pub index: u32,
}

/// Frames that a failed sync may have lost.
#[derive(Debug)]
struct Doubtful {
    /// The highest number that is certain.
    synced: u64,
    /// The number after the last.
    end: u64,
    segments: Vec<Arc<Segment>>,
}

impl Doubtful {
    /// The records of these frames, as the system still has them. After a restart it has them, too, so there is no harm in
    /// trying until it gives them.
    fn read(&self, identity: &Identity) -> io::Result<Vec<u8>> {
        let mut records = Vec::new();
        let mut next = None;
        for segment in &self.segments {
            let bytes = read_segment(segment, Vec::new())?;
            let mut at = BLOCK;
            while let Some((header, body)) = bytes
                .get(at as usize..)
                .and_then(|rest| FrameHeader::read(identity, segment.number, rest))
                .filter(|(header, _)| header.seq < self.end && next.is_none_or(|next| next == header.seq))
            {
                next = Some(header.seq + 1);
                if header.seq > self.synced {
                    records.extend_from_slice(body);
                }
                at += header.stride(segment.sync);
            }
        }
        if next != Some(self.end) {
            tracing::error!(
                "the disk failed to keep what the store had written, and the system does not give it back: up to a \
                 second of acknowledged messages is lost"
            );
        }
        Ok(records)
    }
}

/// What a frame stands for.
#[derive(Debug, Clone, Copy)]
struct Group {
    part: Part,
    /// How far reclaiming was before its copies.
    copied_to: u64,
}

/// Why a frame could not be written.
#[derive(Debug)]
pub(super) enum Fault {
    /// No segment stands ready; perhaps the system said why.
    NoSegment(Option<String>),
    Write(io::Error),
    Sync(String),
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Write(error) => error,
            Fault::Sync(error) | Fault::NoSegment(Some(error)) => Self::other(error),
            Fault::NoSegment(None) => Self::other("no segment stands ready"),
        }
    }
}

impl Writer {
    /// Begins in a fresh segment.
    pub fn new(
        shared: Arc<Shared>,
        index: Index,
        segment: Arc<Segment>,
        next_seq: u64,
        sealed: VecDeque<Sealed>,
        oldest: u32,
    ) -> Self {
        let capacity = segment.size;
        let total = sealed.iter().map(|sealed| sealed.segment.size).sum::<u64>() + capacity;
        let reclaim = Reclaim::new(oldest, sealed, total);
        Self {
            shared,
            index,
            current: Current { segment, capacity, first: next_seq, offset: BLOCK, index: 0 },
            next_seq,
            batch: Batch::default(),
            assembler: Assembler::default(),
            frame: vec![0; FRAME_HEADER],
            group: None,
            early: VecDeque::new(),
            settled: 0,
            reclaim,
            rescue: None,
            doubtful: None,
            is_full: false,
            is_broken: false,
        }
    }

    /// Does one thing.
    pub fn step(&mut self) -> Step {
        if self.is_broken {
            return Step::Later;
        }
        let done = match self.shared.yard.take_sync_failure() {
            Some(failure) => Err(Fault::Sync(failure)),
            None => self.advance(),
        };
        match done {
            Ok(step) => {
                if step == Step::Again && !self.is_full {
                    self.shared.works();
                }
                self.tell();
                step
            }
            Err(fault) => {
                match fault {
                    Fault::Sync(_) => self.distrust(),
                    Fault::NoSegment(Some(_)) if !self.is_full => self.yield_to_progress(),
                    Fault::NoSegment(_) | Fault::Write(_) => {}
                }
                self.shared.fails(&fault);
                Step::Later
            }
        }
    }

    /// Writes a frame, if there is anything to be written.
    fn advance(&mut self) -> Result<Step, Fault> {
        if let Some(doubtful) = &self.doubtful {
            self.rescue = Some(doubtful.read(&self.shared.yard.plan.identity).map_err(Fault::Write)?);
            self.doubtful = None;
        }
        if self.rescue.is_some() {
            self.write_rescue()?;
            return Ok(Step::Again);
        }
        if self.is_full && self.shared.yard.ready().0 > 1 {
            self.is_full = false;
            self.shared.works();
        }
        if self.group.is_none() {
            let gathered = if self.is_full { self.gather_progress() } else { self.gather() };
            match gathered {
                Ok(true) => {}
                Ok(false) if self.is_full => return Ok(Step::Later),
                Ok(false) => return Ok(Step::Idle),
                Err(damaged) => {
                    // Our own encoder wrote them. Whatever this is, nothing after it may be acknowledged.
                    tracing::error!(
                        "the store was given records that are none ({damaged}); nothing is committed any more"
                    );
                    self.is_broken = true;
                    self.shared.breaks();
                    return Ok(Step::Later);
                }
            }
        }
        self.commit()?;
        Ok(Step::Again)
    }

    /// Makes the next frame; says whether there is one. What needs no frame is published at once.
    fn gather(&mut self) -> Result<bool, Damaged> {
        loop {
            self.frame.truncate(FRAME_HEADER);
            self.frame.shrink_to(KEPT);
            let wants_reclaim = self.reclaim.is_wanted(&self.shared, &self.index);
            let copied_to = self.reclaim.at();
            let limit = self.shared.options.group_bytes;
            let Some(part) = self.batch.next(&self.shared.front, limit, !wants_reclaim) else {
                if !wants_reclaim {
                    return Ok(false);
                }
                if self.reclaim.step(&self.shared, &self.index, 0, &mut self.frame) {
                    let part = Part::nothing(self.shared.front.committed());
                    self.group = Some(Group { part, copied_to });
                    return Ok(true);
                }
                continue;
            };
            let is_reclaiming = wants_reclaim
                && part.length() > 0
                && self.reclaim.step(&self.shared, &self.index, part.length(), &mut self.frame);
            self.assembler.assemble(&self.index.owners, self.batch.bytes(part), &mut self.frame)?;
            if self.frame.len() == FRAME_HEADER && !is_reclaiming {
                self.publish(part);
                continue;
            }
            self.group = Some(Group { part, copied_to });
            return Ok(true);
        }
    }

    /// While the disk is full: makes a frame of what only says how far rows are, and of copies that free more than they take;
    /// says whether there is one.
    fn gather_progress(&mut self) -> Result<bool, Damaged> {
        self.frame.truncate(FRAME_HEADER);
        let copied_to = self.reclaim.at();
        let is_reclaiming = self.reclaim.is_worth(&self.shared, &self.index)
            && self.reclaim.step(&self.shared, &self.index, 0, &mut self.frame);
        let mut drained = Vec::new();
        let part = self.batch.drain(&self.shared.front, &self.index.owners, &mut drained)?;
        self.assembler.assemble(&self.index.owners, &drained, &mut self.frame)?;
        if self.frame.len() == FRAME_HEADER && !is_reclaiming {
            self.publish(part);
            return Ok(false);
        }
        self.group = Some(Group { part, copied_to });
        Ok(true)
    }

    /// Writes the frame that was made, and takes it in.
    fn commit(&mut self) -> Result<(), Fault> {
        let Some(group) = self.group else {
            return Ok(());
        };
        let position = self.write_frame(self.shared.yard.plan.sync, true)?;
        self.take_in(position, true);
        self.early.push_back((position.frame, group.part.given()));
        self.group = None;
        self.publish(group.part);
        Ok(())
    }

    /// The disk is full: what waits to be written waits on, and lets pass what only says how far rows are.
    fn yield_to_progress(&mut self) {
        if let Some(group) = self.group.take_if(|group| group.part.can_wait()) {
            self.batch.put_back(group.part);
            self.reclaim.go_back(group.copied_to);
        }
        self.is_full = true;
    }

    /// The part is committed, as is everything up to its watermark.
    fn publish(&mut self, part: Part) {
        while let Some((frame, _)) = self.early.pop_front_if(|(_, given)| *given <= part.watermark) {
            self.settled = frame;
        }
        self.index.settle(self.settled);
        self.shared.statistics.groups.fetch_add(1, Ordering::Relaxed);
        self.shared.front.written(part.length() as u64);
        self.shared.front.publish(part.watermark);
    }

    /// The frame's records are committed.
    fn take_in(&mut self, position: Position, may_leave: bool) {
        let body = self.frame.get(FRAME_HEADER..).unwrap_or_default();
        if let Err(damaged) = self.index.apply(position, body, &mut Unobserved) {
            tracing::error!("the store wrote records that are none ({damaged})");
            debug_assert!(false, "the store wrote records that are none: {damaged}");
        }
        if may_leave {
            self.reclaim.committed(&self.shared, &mut self.index, position.frame);
        }
    }

    /// Writes the frame; says where its records are. Only the frame with the last copies may say that a segment goes.
    fn write_frame(&mut self, sync: bool, may_leave: bool) -> Result<Position, Fault> {
        let length = (self.frame.len() - FRAME_HEADER) as u32;
        let taken = padded(self.frame.len() as u64, self.current.segment.sync);
        if self.current.offset + taken > self.current.capacity {
            self.roll(taken, self.is_full || !may_leave)?;
        }
        let header = FrameHeader {
            segment: self.current.segment.number,
            index: self.current.index,
            seq: self.next_seq,
            synced: self.shared.yard.synced.load(Ordering::Acquire),
            oldest: self.reclaim.oldest(may_leave),
            oldest_first: self.reclaim.oldest_first(may_leave, self.current.first),
            next_owner: self.index.next_owner,
            settled: self.settled,
            length,
        };
        let used = self.frame.len();
        self.frame.resize(taken as usize, 0);
        // The checksum covers the records, not what fills the block.
        let whole = self.frame.get_mut(..used).unwrap_or_default();
        header.write(&self.shared.yard.plan.identity, whole);
        let file = &self.current.segment.file;
        let written = write_full(&**file, &self.frame, self.current.offset);
        self.frame.truncate(used);
        written.map_err(Fault::Write)?;
        let statistics = &self.shared.statistics;
        statistics.written_bytes.fetch_add(taken, Ordering::Relaxed);
        if sync {
            file.sync_data().map_err(|error| Fault::Sync(error.to_string()))?;
            statistics.syncs.fetch_add(1, Ordering::Relaxed);
            self.shared.yard.synced.store(self.next_seq, Ordering::Release);
        }
        let position = Position {
            frame: self.next_seq,
            segment: self.current.segment.number,
            offset: (self.current.offset as usize + FRAME_HEADER) as u32,
        };
        self.current.offset += taken;
        self.current.index += 1;
        self.next_seq += 1;
        self.shared.yard.written.store(position.frame, Ordering::Release);
        Ok(position)
    }

    /// Goes on in the next segment, which has room for so many bytes.
    fn roll(&mut self, needed: u64, may_be_last: bool) -> Result<(), Fault> {
        let Some(segment) = self.shared.yard.take(BLOCK + needed, may_be_last) else {
            return Err(Fault::NoSegment(self.shared.yard.ready().1));
        };
        let capacity = segment.size.max(BLOCK + needed);
        self.shared.segments.lock().insert(segment.number, segment.clone());
        let current = Current { segment, capacity, first: self.next_seq, offset: BLOCK, index: 0 };
        let before = std::mem::replace(&mut self.current, current);
        self.reclaim
            .seal(Sealed { segment: before.segment, first: before.first, end: before.offset }, capacity);
        Ok(())
    }

    /// A sync has failed: what was written since the last one that did not may be lost, whatever the next one says. All
    /// of it goes to a new segment, under the same numbers.
    fn distrust(&mut self) {
        let synced = self.shared.yard.synced.load(Ordering::Acquire);
        let segments = self.shared.yard.give_up_unsynced();
        if self.rescue.is_none() && self.doubtful.is_none() && synced + 1 < self.next_seq {
            self.doubtful = Some(Doubtful { synced, end: self.next_seq, segments });
        }
        self.next_seq = synced + 1;
        for (frame, _) in &mut self.early {
            *frame = (*frame).min(synced + 1);
        }
        self.settled = self.settled.min(synced);
        self.reclaim.distrust(synced);
        // Nothing fits any more, so the next frame goes to the next segment.
        self.current.capacity = 0;
    }

    fn write_rescue(&mut self) -> Result<(), Fault> {
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend_from_slice(self.rescue.as_deref().unwrap_or_default());
        let waiting = std::mem::replace(&mut self.frame, frame);
        let written = self.write_frame(true, false);
        let taken_in = written.map(|position| {
            self.take_in(position, false);
            self.rescue = None;
        });
        self.frame = waiting;
        taken_in
    }

    /// Writes a frame without records, synced: the log is whole up to here.
    pub fn write_mark(&mut self) -> Result<(), Fault> {
        self.frame.truncate(FRAME_HEADER);
        let position = self.write_frame(true, false)?;
        self.take_in(position, false);
        self.shared.yard.synced.store(position.frame, Ordering::Release);
        self.tell();
        Ok(())
    }

    /// Ends the log, if that is possible: everything is synced, and a mark says so.
    pub fn close(&mut self) {
        self.shared.yard.sync();
        let is_certain = self.rescue.is_none() && self.doubtful.is_none();
        let is_whole = self.group.is_none() && is_certain && !self.is_broken;
        let is_synced = self.shared.yard.synced.load(Ordering::Acquire) + 1 == self.next_seq;
        if is_whole && is_synced && self.write_mark().is_err() {
            tracing::warn!("the store could not mark its end; the next start takes it as it takes a crash");
        }
    }

    /// Tells the counters how much there is.
    fn tell(&self) {
        let (segments, total) = self.reclaim.size();
        let statistics = &self.shared.statistics;
        statistics.segments.store(segments, Ordering::Relaxed);
        statistics.total_bytes.store(total, Ordering::Relaxed);
        statistics.live_bytes.store(self.index.live.total.max(0) as u64, Ordering::Relaxed);
    }
}
