//! The one who writes: takes what was appended, group by group, and makes it last.
//!
//! A state machine that a thread steps, or a test. What always holds: a sequence is published only once the frame
//! that holds it is written, and in `sync` on the disk; a group that could not be written is written again, whole,
//! before anything else; the index knows only what is committed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::assemble::Assembler;
use super::files::write_full;
use super::frame::{BLOCK, FRAME_HEADER, FrameHeader, Identity, padded};
use super::front::{Appended, Taken};
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
    appended: Appended,
    /// The first finish that is not in a frame yet.
    next_finish: usize,
    taken: Option<Taken>,
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
    is_broken: bool,
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Current {
    pub segment: Arc<Segment>,
    pub capacity: u64,
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
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    /// What is committed with it.
    watermark: u64,
    /// The highest sequence given out before it was gathered.
    given: u64,
    /// Bytes appended that it takes care of.
    bytes: u64,
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
            current: Current { segment, capacity, offset: BLOCK, index: 0 },
            next_seq,
            appended: Appended::default(),
            next_finish: 0,
            taken: None,
            assembler: Assembler::default(),
            frame: vec![0; FRAME_HEADER],
            group: None,
            early: VecDeque::new(),
            settled: 0,
            reclaim,
            rescue: None,
            doubtful: None,
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
                if step == Step::Again {
                    self.shared.works();
                }
                self.tell();
                step
            }
            Err(fault) => {
                if matches!(fault, Fault::Sync(_)) {
                    self.distrust();
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
        if self.group.is_none() && !self.gather() {
            return Ok(if self.is_broken { Step::Later } else { Step::Idle });
        }
        self.commit()?;
        Ok(Step::Again)
    }

    /// Makes the next frame; says whether there is one. What needs no frame is published at once.
    fn gather(&mut self) -> bool {
        loop {
            self.frame.truncate(FRAME_HEADER);
            let wants_reclaim = self.reclaim.is_wanted(&self.shared, &self.index);
            if self.taken.is_none() {
                self.next_finish = 0;
                self.taken = self.shared.front.take(&mut self.appended, !wants_reclaim);
            }
            let Some(taken) = self.taken else {
                if !wants_reclaim {
                    return false;
                }
                if !self.reclaim.step(&self.shared, &self.index, 0, &mut self.frame) {
                    continue;
                }
                let committed = self.shared.front.committed();
                self.group = Some(Group { watermark: committed, given: committed, bytes: 0 });
                return true;
            };
            let (from, to) = self.next_part();
            let fresh = to - from;
            let is_reclaiming = wants_reclaim
                && fresh > 0
                && self.reclaim.step(&self.shared, &self.index, fresh, &mut self.frame);
            let part = self.appended.bytes.get(from..to).unwrap_or_default();
            if let Err(damaged) = self.assembler.assemble(&self.index.owners, part, &mut self.frame) {
                // Our own encoder wrote them. Whatever this is, nothing after it may be acknowledged.
                tracing::error!(
                    "the store was given records that are none ({damaged}); nothing is committed any more"
                );
                self.is_broken = true;
                self.shared.breaks();
                return false;
            }
            let rest = self.appended.finishes.get(self.next_finish..).unwrap_or_default();
            let lowest_left = rest.iter().map(|(sequence, _)| *sequence).min();
            let watermark = lowest_left.map_or(taken.ceiling, |lowest| taken.ceiling.min(lowest - 1));
            if rest.is_empty() {
                self.taken = None;
            }
            let group = Group { watermark, given: taken.given, bytes: fresh as u64 };
            if self.frame.len() == FRAME_HEADER && !is_reclaiming {
                self.publish(group);
                continue;
            }
            self.group = Some(group);
            return true;
        }
    }

    /// The bytes of the finishes that go into the next frame.
    fn next_part(&mut self) -> (usize, usize) {
        let finishes = &self.appended.finishes;
        let end_of = |at: usize| finishes.get(at).map(|(_, end)| *end);
        let from = self.next_finish.checked_sub(1).and_then(end_of).unwrap_or(0);
        let mut to = from;
        while let Some(end) = end_of(self.next_finish) {
            if to > from && end - from > self.shared.options.group_bytes {
                break;
            }
            to = end;
            self.next_finish += 1;
        }
        (from, to)
    }

    /// Writes the frame that was made, and takes it in.
    fn commit(&mut self) -> Result<(), Fault> {
        let Some(group) = self.group else {
            return Ok(());
        };
        let position = self.write_frame(self.shared.yard.plan.sync, true)?;
        self.take_in(position, true);
        self.early.push_back((position.frame, group.given));
        self.group = None;
        self.publish(group);
        Ok(())
    }

    /// Everything up to the group's watermark is committed.
    fn publish(&mut self, group: Group) {
        while let Some((frame, _)) = self.early.pop_front_if(|(_, given)| *given <= group.watermark) {
            self.settled = frame;
        }
        self.index.settle(self.settled);
        self.shared.statistics.groups.fetch_add(1, Ordering::Relaxed);
        self.shared.front.written(group.bytes);
        self.shared.front.publish(group.watermark);
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
            self.roll(taken)?;
        }
        let header = FrameHeader {
            segment: self.current.segment.number,
            index: self.current.index,
            seq: self.next_seq,
            synced: self.shared.yard.synced.load(Ordering::Acquire),
            oldest: self.reclaim.oldest(may_leave),
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
    fn roll(&mut self, needed: u64) -> Result<(), Fault> {
        let Some(segment) = self.shared.yard.take(BLOCK + needed) else {
            return Err(Fault::NoSegment(self.shared.yard.ready().1));
        };
        let capacity = segment.size.max(BLOCK + needed);
        self.shared.segments.lock().insert(segment.number, segment.clone());
        let current = Current { segment, capacity, offset: BLOCK, index: 0 };
        let before = std::mem::replace(&mut self.current, current);
        self.reclaim.seal(Sealed { segment: before.segment, end: before.offset }, capacity);
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
        let Some(records) = self.rescue.take() else {
            return Ok(());
        };
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend_from_slice(&records);
        let waiting = std::mem::replace(&mut self.frame, frame);
        let written = self.write_frame(true, false);
        if let Ok(position) = written {
            self.take_in(position, false);
        }
        self.frame = waiting;
        match written {
            Ok(_) => Ok(()),
            Err(fault) => {
                self.rescue = Some(records);
                Err(fault)
            }
        }
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
