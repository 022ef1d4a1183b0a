//! Reads the log at start: what is whole, in order, through the same index as commits.
//!
//! Called by [`super::DiskStore::open`] and by whoever examines a store. What always holds: every frame that was known
//! to be on the disk is taken in, or the store is refused; a tail that was never finished is cut off.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::super::Recovered;
use super::super::record::Timebase;
use super::error::OpenError;
use super::files::{Files, StoreFile, read_full, write_full};
use super::frame::{
    BLOCK, FRAME_HEADER, FrameHeader, HeaderFault, Identity, SegmentHeader, VERSION, find_frame,
};
use super::index::{Index, Position};
use super::rebuilt::Rebuilt;
use super::segment::{Segment, UNFINISHED, segment_name, segment_number};

/// How much of a segment is read to find its first frame.
const GLANCE: usize = 256 * 1024;

/// A segment that is not written any more.
#[derive(Debug)]
pub(super) struct Sealed {
    pub segment: Arc<Segment>,
    /// The number of its first frame; the highest number if it has none.
    pub first: u64,
    /// Where its frames end.
    pub end: u64,
}

/// What recovery found.
#[derive(Debug)]
pub(super) struct Recovery {
    pub identity: Identity,
    pub index: Index,
    pub recovered: Recovered,
    /// Oldest first.
    pub sealed: VecDeque<Sealed>,
    /// Not needed any more, but still there.
    pub dead: Vec<Arc<Segment>>,
    pub next_seq: u64,
    pub next_number: u32,
    /// Segments below this are not needed.
    pub oldest: u32,
}

impl Recovery {
    /// Of a store that does not exist yet.
    pub fn fresh(identity: Identity) -> Self {
        Self {
            identity,
            index: Index::new(),
            recovered: Recovered { next_owner: 1, ..Recovered::default() },
            sealed: VecDeque::new(),
            dead: Vec::new(),
            next_seq: 1,
            next_number: 1,
            oldest: 1,
        }
    }
}

/// A segment as it is found.
#[derive(Debug)]
struct Found {
    segment: Arc<Segment>,
    header: SegmentHeader,
    /// The number of its first frame, if it has a whole one.
    first: Option<u64>,
}

/// Where the log cannot be followed any further.
#[derive(Debug)]
struct Damage {
    /// Which of the segments found.
    at: usize,
    offset: u64,
    /// The frame that should be there.
    seq: u64,
    reason: String,
}

/// What reading the log gives.
#[derive(Debug)]
struct Log {
    index: Index,
    rebuilt: Rebuilt,
    /// Where each segment's frames end, and the last one's number.
    ends: Vec<(u64, u64)>,
    next_seq: u64,
    synced: u64,
    oldest: u32,
    /// The number of the first frame that is needed.
    oldest_first: u64,
    losses: Vec<String>,
}

/// What a store is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To go on with it, if it is whole.
    Open,
    /// To go on with what is sound of it.
    Salvage,
    /// To look at it; nothing is changed.
    Examine,
}

/// Reads everything, if there is a store; says in words what was cut off or set aside.
pub(super) fn recover(
    files: &dyn Files,
    timebase: Timebase,
    purpose: Purpose,
) -> Result<(Option<Recovery>, Vec<String>), OpenError> {
    let salvage = purpose == Purpose::Salvage;
    let mut numbers = segment_numbers(files, purpose)?;
    let mut losses = Vec::new();
    let mut aside = Vec::new();
    let mut found = Vec::new();
    while let Some(number) = numbers.get(found.len()).copied() {
        match examine(files, number, found.first()) {
            Ok(segment) => found.push(segment),
            Err(error @ (OpenError::Damaged { .. } | OpenError::Foreign { .. })) if salvage => {
                losses.push(error.to_string());
                aside.extend(numbers.drain(found.len()..));
            }
            Err(error) => return Err(error),
        }
    }
    let number_of = |found: &[Found], at: usize| found.get(at).map_or(0, |found| found.segment.number);
    let mut stop = None;
    let mut partly = None;
    let (log, start) = loop {
        // What has no frame yet stood ready.
        let used = found.iter().rposition(|found| found.first.is_some()).map_or(0, |last| last + 1);
        let gap = (1..found.len()).rev().find(|at| number_of(&found, *at) != number_of(&found, at - 1) + 1);
        let start = gap.unwrap_or(0);
        let log = found.get(start..used.max(start)).unwrap_or_default();
        match read_log(files, log, number_of(&found, start), timebase, stop) {
            Ok(read) => break (read, start),
            Err(damage) => {
                let at = start + damage.at;
                let file = segment_name(number_of(&found, at));
                let error = OpenError::Damaged { file, offset: damage.offset, reason: damage.reason };
                if !salvage || stop == Some(damage.seq) {
                    return Err(error);
                }
                losses.push(error.to_string());
                let keeps_some = damage.offset > BLOCK;
                if keeps_some {
                    partly = Some(number_of(&found, at));
                }
                let set_aside = found.drain(if keeps_some { at + 1 } else { at }..);
                aside.extend(set_aside.map(|found| found.segment.number));
                stop = keeps_some.then_some(damage.seq);
            }
        }
    };
    let Log { mut index, rebuilt, ends, next_seq, synced, oldest, losses: cut, .. } = log;
    losses.extend(cut);
    if !aside.is_empty() || partly.is_some() {
        losses.push(set_aside(files, &aside, partly)?);
    }
    let Some(identity) = found.first().map(|found| found.header.identity) else {
        return Ok((None, losses));
    };
    let recovered = rebuilt.into_recovered(&mut index);
    let mut recovery = Recovery {
        identity,
        index,
        recovered,
        sealed: VecDeque::new(),
        dead: Vec::new(),
        next_seq,
        next_number: 1,
        oldest,
    };
    for (at, found) in found.into_iter().enumerate() {
        let (number, first) = (found.segment.number, found.first.unwrap_or(u64::MAX));
        let Some((end, last)) = at.checked_sub(start).and_then(|at| ends.get(at)).copied() else {
            if at < start {
                recovery.dead.push(found.segment);
            } else {
                // Never used; a new one takes its number. The last goes first, so that there is never a gap.
                recovery.sealed.push_back(Sealed { segment: found.segment, first, end: 0 });
            }
            continue;
        };
        if last > synced && purpose != Purpose::Examine {
            found
                .segment
                .file
                .sync_data()
                .map_err(|source| OpenError::io("sync", segment_name(number), source))?;
        }
        recovery.next_number = number + 1;
        if number < oldest {
            recovery.dead.push(found.segment);
        } else {
            recovery.sealed.push_back(Sealed { segment: found.segment, first, end });
        }
    }
    remove_unused(files, &mut recovery, purpose)?;
    Ok((Some(recovery), losses))
}

/// Removes what stood ready, the last first, so that there is never a gap.
fn remove_unused(files: &dyn Files, recovery: &mut Recovery, purpose: Purpose) -> Result<(), OpenError> {
    while let Some(unused) = recovery.sealed.pop_back_if(|sealed| sealed.end == 0) {
        if purpose == Purpose::Examine {
            continue;
        }
        let name = segment_name(unused.segment.number);
        let removed = files.remove(&name).and_then(|()| files.sync_directory());
        removed.map_err(|source| OpenError::io("remove", name, source))?;
    }
    Ok(())
}

/// The numbers of all segments, ascending. What was not finished is removed.
fn segment_numbers(files: &dyn Files, purpose: Purpose) -> Result<Vec<u32>, OpenError> {
    let names = files.list().map_err(|source| OpenError::io("list", "the directory".into(), source))?;
    let is_unfinished = |name: &&String| name.ends_with(UNFINISHED) && purpose != Purpose::Examine;
    for name in names.iter().filter(is_unfinished) {
        files.remove(name).map_err(|source| OpenError::io("remove", name.clone(), source))?;
    }
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a segment and reads how it begins.
fn examine(files: &dyn Files, number: u32, first: Option<&Found>) -> Result<Found, OpenError> {
    let name = segment_name(number);
    let failed = |source| OpenError::io("read", name.clone(), source);
    let file = files.open(&name).map_err(failed)?;
    let size = file.length().map_err(failed)?;
    let mut start = vec![0; GLANCE.max(BLOCK as usize)];
    let read = read_full(&*file, &mut start, 0).map_err(failed)?;
    start.truncate(read);
    let damaged =
        |reason: &str| OpenError::Damaged { file: name.clone(), offset: 0, reason: reason.to_owned() };
    let header = match SegmentHeader::decode(&start) {
        Ok(header) if header.number == number => header,
        Ok(_) => return Err(damaged("it is another segment's, under this name")),
        Err(HeaderFault::Damaged) => return Err(damaged("its header cannot be read")),
        Err(HeaderFault::Version(version)) => {
            return Err(OpenError::Version { file: name, version, known: VERSION });
        }
    };
    if first.is_some_and(|first| first.header.identity != header.identity) {
        return Err(OpenError::Foreign { file: name });
    }
    let segment = Arc::new(Segment { number, sync: header.sync, file, size });
    let first = first_seq(&segment, &header, &start).map_err(failed)?;
    Ok(Found { segment, header, first })
}

/// The number of the segment's first frame, by any of its frames that is whole.
fn first_seq(segment: &Segment, header: &SegmentHeader, start: &[u8]) -> io::Result<Option<u64>> {
    let at_first = start.get(BLOCK as usize..).unwrap_or_default();
    let read = |bytes| FrameHeader::read(&header.identity, segment.number, bytes);
    if let Some((frame, _)) = read(at_first) {
        return Ok(Some(frame.first_seq()));
    }
    let bytes = read_segment(segment, Vec::new())?;
    let frame = find_frame(&header.identity, segment.number, header.sync, &bytes, BLOCK as usize);
    Ok(frame.map(|(_, frame)| frame.first_seq()))
}

/// All of a segment's bytes, in this buffer.
pub(super) fn read_segment(segment: &Segment, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = segment.file.length()?;
    buffer.resize(usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?, 0);
    let read = read_full(&*segment.file, &mut buffer, 0)?;
    buffer.truncate(read);
    Ok(buffer)
}

/// Follows the log as far as it goes. `lowest` is where it begins; frames at or above `stop` do not count.
fn read_log(
    files: &dyn Files,
    found: &[Found],
    lowest: u32,
    timebase: Timebase,
    stop: Option<u64>,
) -> Result<Log, Damage> {
    let mut log = Log {
        index: Index::recovering(),
        rebuilt: Rebuilt::new(timebase),
        ends: Vec::new(),
        // Not always the first one's: its frames may all be void.
        next_seq: found.iter().filter_map(|found| found.first).min().unwrap_or(1),
        synced: 0,
        oldest: 1,
        oldest_first: 1,
        losses: Vec::new(),
    };
    let begin = log.next_seq;
    let boot = files.boot();
    let mut buffer = Vec::new();
    let mut is_cut = false;
    for (at, segment) in found.iter().enumerate() {
        // Whatever a newer segment begins with takes the place of what stands here under that number or above.
        let newer = found.get(at + 1..).unwrap_or_default();
        let limit = newer.iter().filter_map(|newer| newer.first).chain(stop).min();
        let damage = |offset, seq, reason: String| Damage { at, offset, seq, reason };
        if is_cut {
            log.ends.push((BLOCK, 0));
            continue;
        }
        buffer = read_segment(&segment.segment, buffer)
            .map_err(|error| damage(0, log.next_seq, format!("it cannot be read: {error}")))?;
        let end = log
            .follow(segment, &buffer, limit)
            .map_err(|(offset, reason)| damage(offset, log.next_seq, reason))?;
        log.ends.push((end, log.next_seq - 1));
        if limit.is_some_and(|limit| log.next_seq >= limit) {
            is_cut = stop.is_some_and(|stop| log.next_seq >= stop);
            continue;
        }
        // Nothing newer continues from here: this is where the log ends, or was broken.
        is_cut = true;
        let seq = log.next_seq;
        let name = segment_name(segment.segment.number);
        match behind(segment, &buffer, end, newer, seq) {
            Some(_) if segment.header.sync || segment.header.boot == boot => {
                return Err(damage(end, seq, "what stands here is no frame, but whole ones follow".to_owned()));
            }
            Some(synced) if synced >= seq => {
                let reason = "what stands here is no frame, but it was on the disk before later ones were written";
                return Err(damage(end, seq, reason.to_owned()));
            }
            Some(_) => log.losses.push(format!(
                "{name} from byte {end} on: the power failed before this was on the disk; it and what came after it, \
                 about the last second, is lost, as durability = \"os\" allows"
            )),
            None if has_remains(&buffer, end) => {
                log.losses.push(format!("{name} from byte {end} on: an unfinished write is cut off"));
            }
            None => {}
        }
    }
    if log.oldest < lowest {
        let reason = format!("the segments before it, from {} on, are missing", segment_name(log.oldest));
        return Err(Damage { at: 0, offset: 0, seq: 0, reason });
    }
    if log.oldest_first < begin {
        let reason = format!("the frames from {} to {} are missing", log.oldest_first, begin - 1);
        return Err(Damage { at: 0, offset: BLOCK, seq: log.oldest_first, reason });
    }
    log.index.recovered();
    Ok(log)
}

impl Log {
    /// Takes in the frames of one segment up to the limit, or to the first that is not whole; says where they end.
    fn follow(&mut self, found: &Found, bytes: &[u8], limit: Option<u64>) -> Result<u64, (u64, String)> {
        let (segment, identity) = (&found.segment, &found.header.identity);
        let mut at = BLOCK;
        let mut index = 0;
        while limit.is_none_or(|limit| self.next_seq < limit) {
            let rest = bytes.get(at as usize..).unwrap_or_default();
            let Some((header, body)) = FrameHeader::read(identity, segment.number, rest)
                .filter(|(header, _)| header.seq == self.next_seq && header.index == index)
            else {
                break;
            };
            let position = Position {
                frame: header.seq,
                segment: segment.number,
                offset: at as u32 + FRAME_HEADER as u32,
            };
            self.index
                .apply(position, body, &mut self.rebuilt)
                .map_err(|damaged| (at, damaged.to_string()))?;
            self.index.settle(header.settled);
            self.index.next_owner = self.index.next_owner.max(header.next_owner);
            self.synced = self.synced.max(header.synced);
            self.oldest = self.oldest.max(header.oldest);
            self.oldest_first = header.oldest_first;
            self.next_seq += 1;
            index += 1;
            at += header.stride(segment.sync);
        }
        Ok(at)
    }
}

/// Whether whole frames stand behind a place where there should be one; if so, the highest that they know to be on the
/// disk.
fn behind(found: &Found, bytes: &[u8], end: u64, newer: &[Found], seq: u64) -> Option<u64> {
    let mut synced = None;
    let mut note = |found: &Found, bytes: &[u8], from: usize| {
        let mut from = from;
        while let Some((at, frame)) =
            find_frame(&found.header.identity, found.segment.number, found.header.sync, bytes, from)
        {
            if frame.seq > seq {
                synced = synced.max(Some(frame.synced));
            }
            from = at + FRAME_HEADER + frame.length as usize;
        }
    };
    note(found, bytes, end as usize);
    for newer in newer {
        if let Ok(bytes) = read_segment(&newer.segment, Vec::new()) {
            note(newer, &bytes, BLOCK as usize);
        }
    }
    synced
}

/// Whether something was begun where the log ends.
fn has_remains(bytes: &[u8], end: u64) -> bool {
    let rest = bytes.get(end as usize..).unwrap_or_default();
    rest.iter().take(FRAME_HEADER).any(|byte| *byte != 0)
}

/// Moves segments to a folder of their own, and a copy of the one that stays in part; says so.
fn set_aside(files: &dyn Files, numbers: &[u32], partly: Option<u32>) -> Result<String, OpenError> {
    let mut folder = String::new();
    for attempt in 1.. {
        folder = format!("salvaged-{attempt}");
        match files.create_folder(&folder) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(OpenError::io("make", folder, source)),
        }
    }
    let moved = || {
        if let Some(number) = partly {
            let name = segment_name(number);
            copy(&*files.open(&name)?, &*files.create(&format!("{folder}/{name}"))?)?;
        }
        for number in numbers.iter().rev() {
            let name = segment_name(*number);
            files.rename(&name, &format!("{folder}/{name}"))?;
        }
        files.sync_directory()
    };
    moved().map_err(|source| OpenError::io("fill", folder.clone(), source))?;
    let count = numbers.len() + usize::from(partly.is_some());
    Ok(format!("{count} damaged segments, or what came after damage, were set aside in {folder}"))
}

fn copy(from: &dyn StoreFile, to: &dyn StoreFile) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = read_full(from, &mut buffer, at)?;
        write_full(to, buffer.get(..read).unwrap_or_default(), at)?;
        at += read as u64;
        if read < buffer.len() {
            return to.sync_data();
        }
    }
}
