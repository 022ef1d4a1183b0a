//! The bytes on disk: the header of a segment, frames, and the records in them.
//!
//! A frame is one group commit: its checksum covers all of it and what must not be forged or mixed up, the number
//! of its segment and a secret of the store, so neither an older frame of a file that is used again nor a payload
//! that looks like a frame passes for one. A record that is read back by itself, a message or a row, is followed
//! by a checksum of its own.

use super::super::record::{Damaged, Record, RecordIter};

/// What a segment begins with, and the granularity of `sync`.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of a frame before its records.
pub(super) const FRAME_HEADER: usize = 64;

const SEGMENT_MAGIC: [u8; 8] = *b"FULMARST";
const FRAME_MAGIC: [u8; 4] = [0xF1, 0x4A, 0xE5, 0x0B];
/// The version of the format.
pub(super) const VERSION: u32 = 1;
const CHECKSUM: usize = 4;

/// What does not change while a store exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Names the store.
    pub id: [u8; 16],
    /// Keys its hashes.
    pub secret: [u8; 16],
}

impl Identity {
    /// Of a new store.
    pub fn new() -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; 16], [0; 16]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(Self { id, secret })
    }

    /// What every checksum of the store begins with.
    fn seed(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.id), &self.secret)
    }
}

/// What stands at the beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub identity: Identity,
    pub number: u32,
    /// Whether each frame was synced before the next was written.
    pub sync: bool,
    /// When the machine was switched on that wrote it.
    pub boot: [u8; 16],
}

/// Why a segment's header is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK as usize);
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.identity.id);
        bytes.extend_from_slice(&self.identity.secret);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.push(self.sync.into());
        bytes.extend_from_slice(&self.boot);
        bytes.resize(BLOCK as usize - CHECKSUM, 0);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let mut fields = Fields(bytes);
        if fields.array() != Some(SEGMENT_MAGIC) {
            return Err(HeaderFault::Damaged);
        }
        let version = fields.u32().ok_or(HeaderFault::Damaged)?;
        let block = bytes.get(..BLOCK as usize).ok_or(HeaderFault::Damaged)?;
        let (checked, checksum) = block.split_at(BLOCK as usize - CHECKSUM);
        let is_whole = checksum == crc32c::crc32c(checked).to_le_bytes();
        if version != VERSION {
            // A later version may have its checksum elsewhere.
            return Err(HeaderFault::Version(version));
        }
        let mut read = || {
            let identity = Identity { id: fields.array()?, secret: fields.array()? };
            let (number, sync) = (fields.u32()?, fields.array::<1>()? != [0]);
            Some(Self { identity, number, sync, boot: fields.array()? })
        };
        read().filter(|_| is_whole).ok_or(HeaderFault::Damaged)
    }
}

/// What a frame says besides its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Its segment.
    pub segment: u32,
    /// How many frames of the segment come before it.
    pub index: u32,
    /// Its number in the log, growing by one.
    pub seq: u64,
    /// The highest number known to be on the disk when it was written.
    pub synced: u64,
    /// Segments below this are not needed any more.
    pub oldest: u32,
    /// The number of the first frame in those that are.
    pub oldest_first: u64,
    /// Every owner's number is below this.
    pub next_owner: u64,
    /// Rows that frames up to this one were early for have all come, if they ever come.
    pub settled: u64,
    /// Bytes of records.
    pub length: u32,
}

impl FrameHeader {
    /// Every earlier segment's frames at or above this number are void.
    pub fn first_seq(&self) -> u64 {
        self.seq.saturating_sub(self.index.into())
    }

    /// Writes the header into the first bytes of `frame`, whose rest are the records; the checksum is over all.
    pub fn write(&self, identity: &Identity, frame: &mut [u8]) {
        let mut header = Vec::with_capacity(FRAME_HEADER);
        header.extend_from_slice(&FRAME_MAGIC);
        header.extend_from_slice(&[0; CHECKSUM]);
        header.extend_from_slice(&self.length.to_le_bytes());
        header.extend_from_slice(&self.segment.to_le_bytes());
        header.extend_from_slice(&self.index.to_le_bytes());
        header.extend_from_slice(&self.oldest.to_le_bytes());
        header.extend_from_slice(&self.seq.to_le_bytes());
        header.extend_from_slice(&self.synced.to_le_bytes());
        header.extend_from_slice(&self.next_owner.to_le_bytes());
        header.extend_from_slice(&self.settled.to_le_bytes());
        header.extend_from_slice(&self.oldest_first.to_le_bytes());
        header.resize(FRAME_HEADER, 0);
        let (head, body) = frame.split_at_mut(FRAME_HEADER);
        let of_header = crc32c::crc32c_append(identity.seed(), &header[4 + CHECKSUM..]);
        header[4..4 + CHECKSUM].copy_from_slice(&crc32c::crc32c_append(of_header, body).to_le_bytes());
        head.copy_from_slice(&header);
    }

    /// The header at the beginning of these bytes, before its checksum is looked at.
    fn parse(bytes: &[u8]) -> Option<(Self, u32)> {
        let mut fields = Fields(bytes.get(..FRAME_HEADER)?);
        if fields.array()? != FRAME_MAGIC {
            return None;
        }
        let checksum = fields.u32()?;
        let (length, segment, index, oldest) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let (seq, synced, next_owner) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (settled, oldest_first) = (fields.u64()?, fields.u64()?);
        let header = Self { segment, index, seq, synced, oldest, oldest_first, next_owner, settled, length };
        Some((header, checksum))
    }

    /// How long the frame that begins here would be; `None` if none can begin here.
    pub fn announced(bytes: &[u8]) -> Option<usize> {
        Self::parse(bytes).map(|(header, _)| FRAME_HEADER + header.length as usize)
    }

    /// The whole frame of this segment at the beginning of these bytes, and its records.
    pub fn read<'a>(identity: &Identity, segment: u32, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, checksum) = Self::parse(bytes)?;
        let frame = bytes.get(..FRAME_HEADER.checked_add(header.length as usize)?)?;
        let is_whole = header.segment == segment
            && crc32c::crc32c_append(identity.seed(), &frame[4 + CHECKSUM..]) == checksum;
        is_whole.then(|| (header, &frame[FRAME_HEADER..]))
    }

    /// Bytes until the next frame.
    pub fn stride(&self, sync: bool) -> u64 {
        padded(FRAME_HEADER as u64 + u64::from(self.length), sync)
    }
}

/// The first whole frame of the segment at or after `from`, with where it is.
pub(super) fn find_frame(
    identity: &Identity,
    segment: u32,
    sync: bool,
    bytes: &[u8],
    from: usize,
) -> Option<(usize, FrameHeader)> {
    let step = if sync { BLOCK as usize } else { 1 };
    let mut at = padded(from as u64, sync) as usize;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= FRAME_HEADER) {
        if step == 1 {
            at += memchr::memmem::find(rest, &FRAME_MAGIC)?;
        }
        if let Some((header, _)) = bytes.get(at..).and_then(|rest| FrameHeader::read(identity, segment, rest))
        {
            return Some((at, header));
        }
        at += step;
    }
    None
}

/// How much room so many bytes take.
pub(super) fn padded(length: u64, sync: bool) -> u64 {
    if sync { length.next_multiple_of(BLOCK) } else { length }
}

/// Appends a record's bytes as they stand in a frame.
pub(super) fn store(body: &mut Vec<u8>, record: &[u8], is_read_back: bool) {
    body.extend_from_slice(record);
    if is_read_back {
        body.extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
    }
}

/// A record in a frame.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    /// Where it begins, in bytes from the beginning of the records.
    pub start: usize,
    /// Its bytes, without its checksum.
    pub bytes: &'a [u8],
    /// The bytes that it takes.
    pub length: usize,
    /// What it says.
    pub record: Record<'a>,
}

/// Walks over the records of a frame. Ends after an error.
#[derive(Debug)]
pub(super) struct StoredIter<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> StoredIter<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }
}

impl<'a> Iterator for StoredIter<'a> {
    type Item = Result<Stored<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        let (start, rest) = (self.at, self.body.get(self.at..)?);
        let mut records = RecordIter::new(rest);
        let record = match records.next()? {
            Ok(record) => record,
            Err(damaged) => {
                self.at = self.body.len();
                return Some(Err(damaged));
            }
        };
        let bytes = &rest[..records.position()];
        let length = bytes.len() + if is_read_back(&record) { CHECKSUM } else { 0 };
        self.at = start + length;
        if self.at > self.body.len() {
            return Some(Err(Damaged("a checksum is missing")));
        }
        Some(Ok(Stored { start, bytes, length, record }))
    }
}

/// Whether a record has a checksum of its own.
pub(super) fn is_read_back(record: &Record<'_>) -> bool {
    matches!(record, Record::Message(_) | Record::Row(_))
}

/// The record of a frame at the beginning of these bytes, its checksum verified.
pub(super) fn read_back(bytes: &[u8]) -> ReadBack<'_> {
    let Some(length) = announced_record(bytes) else {
        return if bytes.len() < 10 { ReadBack::Short(10) } else { ReadBack::Damaged };
    };
    let (Some(record), Some(checksum)) = (bytes.get(..length), bytes.get(length..length + CHECKSUM)) else {
        return ReadBack::Short(length + CHECKSUM);
    };
    if checksum != crc32c::crc32c(record).to_le_bytes() {
        return ReadBack::Damaged;
    }
    match RecordIter::new(record).next() {
        Some(Ok(record)) => ReadBack::Whole(record),
        Some(Err(_)) | None => ReadBack::Damaged,
    }
}

/// What [`read_back`] finds.
#[derive(Debug)]
pub(super) enum ReadBack<'a> {
    Whole(Record<'a>),
    /// So many bytes are needed.
    Short(usize),
    Damaged,
}

/// How long the record that begins here is, by what it begins with.
fn announced_record(bytes: &[u8]) -> Option<usize> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(index + 1 + length);
        }
    }
    None
}

/// Fixed fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
