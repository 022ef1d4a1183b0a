//! Looks at the store of a broker that does not run: what is in it, whether it is sound, and copies of it.
//!
//! Called by `cli`. What always holds: the store is locked while it is looked at, and nothing in it is changed.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::Recovered;
use super::super::record::{MessageImage, Record, Row, Timebase};
use super::error::OpenError;
use super::files::{Files, StdFiles, read_full, write_full};
use super::frame::{BLOCK, FRAME_HEADER, FrameHeader, ReadBack, StoredIter, is_read_back, read_back};
use super::recovery::{Purpose, Recovery, read_segment, recover};
use super::segment::{segment_name, segment_number};
use super::{explained, lock, make};

/// A store that is looked at.
#[derive(Debug)]
pub struct Examined {
    recovery: Recovery,
    losses: Vec<String>,
    _lock: File,
}

/// Something that is alive.
#[derive(Debug)]
pub enum Live<'a> {
    /// A message, and those of its rows that are alive, as far as they are.
    Message(MessageImage<'a>, Vec<Row<'a>>),
    /// Any other record that says what is.
    Record(Record<'a>),
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Sessions.
    pub sessions: u64,
    /// Subscriptions of all sessions.
    pub subscriptions: u64,
    /// Shared groups.
    pub groups: u64,
    /// Messages that wait, counted once for each session and group.
    pub queued: u64,
    /// Retained messages.
    pub retained: u64,
    /// Wills that were not published.
    pub wills: u64,
    /// Files of the log.
    pub segments: u64,
    /// Bytes in them that are written.
    pub written_bytes: u64,
    /// Bytes of what is alive, roughly.
    pub live_bytes: u64,
    /// Group commits since the store was made.
    pub commits: u64,
}

impl Examined {
    /// Reads a store, which must be there.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let is_store = |entry: io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.file_name().to_str().and_then(segment_number).is_some())
        };
        if !std::fs::read_dir(directory).is_ok_and(|mut entries| entries.any(is_store)) {
            return Err(OpenError::NoStore { directory: directory.to_owned() });
        }
        let lock = lock(directory)?;
        let read = recover(&StdFiles::new(directory), Timebase::now(), Purpose::Examine);
        let (recovery, losses) = read.map_err(|error| explained(directory, error))?;
        let recovery = recovery.ok_or_else(|| OpenError::NoStore { directory: directory.to_owned() })?;
        Ok(Self { recovery, losses, _lock: lock })
    }

    /// What a start would cut off, in words.
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// What a start would find.
    pub fn recovered(&self) -> &Recovered {
        &self.recovery.recovered
    }

    /// The key of its hashes.
    pub fn secret(&self) -> [u8; 16] {
        self.recovery.identity.secret
    }

    /// How much there is.
    pub fn summary(&self) -> Summary {
        let recovered = self.recovered();
        let of_sessions = recovered.sessions.iter().map(|session| session.rows.len());
        let of_groups = recovered.groups.iter().map(|group| group.rows.len());
        Summary {
            sessions: recovered.sessions.len() as u64,
            subscriptions: recovered.sessions.iter().map(|session| session.subscriptions.len() as u64).sum(),
            groups: recovered.groups.len() as u64,
            queued: of_sessions.chain(of_groups).sum::<usize>() as u64,
            retained: recovered.retained.len() as u64,
            wills: recovered.sessions.iter().filter(|session| session.will.is_some()).count() as u64,
            segments: self.recovery.sealed.len() as u64,
            written_bytes: self.recovery.sealed.iter().map(|sealed| sealed.end).sum(),
            live_bytes: u64::try_from(self.recovery.index.live.total).unwrap_or_default(),
            commits: self.recovery.next_seq - 1,
        }
    }

    /// Calls `with` for all that is alive, in the order of the log. Every checksum on the way is verified.
    pub fn each(&self, mut with: impl FnMut(Live<'_>) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = Vec::new();
        for sealed in &self.recovery.sealed {
            let segment = &sealed.segment;
            buffer = read_segment(segment, buffer)?;
            let mut at = BLOCK;
            while at < sealed.end {
                let rest = buffer.get(at as usize..).unwrap_or_default();
                let frame = FrameHeader::read(&self.recovery.identity, segment.number, rest);
                let (header, body) = frame.ok_or_else(|| broken(segment.number, at))?;
                let offset = at as u32 + FRAME_HEADER as u32;
                self.each_of_frame(segment.number, offset, body, &mut with)?;
                at += header.stride(segment.sync);
            }
        }
        Ok(())
    }

    fn each_of_frame(
        &self,
        segment: u32,
        offset: u32,
        body: &[u8],
        with: &mut impl FnMut(Live<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let index = &self.recovery.index;
        let mut message: Option<MessageImage<'_>> = None;
        let mut rows: Vec<Row<'_>> = Vec::new();
        for stored in StoredIter::new(body) {
            let at = |start: usize| offset + start as u32;
            let stored = stored.map_err(|_| broken(segment, at(0).into()))?;
            if is_read_back(&stored.record) {
                let bytes = body.get(stored.start..).unwrap_or_default();
                if !matches!(read_back(bytes), ReadBack::Whole(_)) {
                    return Err(broken(segment, at(stored.start).into()));
                }
            }
            match stored.record {
                Record::Row(row) => {
                    let state = index.current_row(&row, segment, at(stored.start));
                    rows.extend(state.map(|state| Row { state, ..row }));
                }
                Record::Message(image) => {
                    give(message.replace(image), &mut rows, with)?;
                }
                record => {
                    if index.is_current(&record, segment, at(stored.start)) {
                        with(Live::Record(record))?;
                    }
                }
            }
        }
        give(message, &mut rows, with)
    }

    /// Copies the store to a directory that is empty or does not exist; says how many bytes it took.
    pub fn copy_to(&self, directory: &Path) -> Result<u64, OpenError> {
        let failed = |source| OpenError::io("fill", directory.display().to_string(), source);
        make(directory).map_err(|source| OpenError::Missing { directory: directory.to_owned(), source })?;
        if std::fs::read_dir(directory).map_err(failed)?.next().is_some() {
            return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it is not empty")));
        }
        let files: Arc<dyn Files> = Arc::new(StdFiles::new(directory));
        let copy = || {
            let mut copied = 0;
            let mut buffer = vec![0; 1 << 20];
            for sealed in &self.recovery.sealed {
                let to = files.create(&segment_name(sealed.segment.number))?;
                let mut at = 0;
                while at < sealed.end {
                    let wanted = usize::try_from(sealed.end - at).unwrap_or(buffer.len()).min(buffer.len());
                    let part = buffer.get_mut(..wanted).unwrap_or_default();
                    let read = read_full(&*sealed.segment.file, part, at)?;
                    if read < part.len() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    write_full(&*to, part, at)?;
                    at += read as u64;
                }
                to.sync_data()?;
                copied += sealed.end;
            }
            files.sync_directory()?;
            Ok(copied)
        };
        copy().map_err(failed)
    }
}

/// A message's rows are all there.
fn give<'a>(
    message: Option<MessageImage<'a>>,
    rows: &mut Vec<Row<'a>>,
    with: &mut impl FnMut(Live<'_>) -> io::Result<()>,
) -> io::Result<()> {
    match message {
        Some(image) if !rows.is_empty() => with(Live::Message(image, std::mem::take(rows))),
        _ => Ok(()),
    }
}

fn broken(segment: u32, at: u64) -> io::Error {
    let name = segment_name(segment);
    io::Error::new(io::ErrorKind::InvalidData, format!("{name}, byte {at}: what stands here is damaged"))
}
