//! What was appended and is in no frame yet, finish by finish.
//!
//! Owned by the writer. What always holds: a frame's watermark is below every sequence that is still here.

use super::super::record::{Damaged, Record, RecordIter};
use super::front::{Appended, Front, Taken};
use super::index::Owners;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Batch {
    appended: Appended,
    /// The first finish that is in no frame.
    next: usize,
    /// Until everything is in a frame.
    taken: Option<Taken>,
    spare: Appended,
}

/// Finishes that go into one frame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    /// The first.
    first: usize,
    /// Where their bytes are.
    from: usize,
    to: usize,
    taken: Taken,
    /// What is committed with them.
    pub watermark: u64,
    /// It was taken out of turn.
    is_drained: bool,
}

impl Part {
    /// How many bytes it has.
    pub fn length(&self) -> usize {
        self.to - self.from
    }

    /// The highest sequence given out before it was taken.
    pub fn given(&self) -> u64 {
        self.taken.given
    }

    /// Whether it can be put back.
    pub fn can_wait(&self) -> bool {
        !self.is_drained
    }

    /// Of a frame that holds nothing appended.
    pub fn nothing(committed: u64) -> Self {
        let taken = Taken { ceiling: committed, given: committed };
        Self { taken, watermark: committed, ..Self::default() }
    }
}

impl Batch {
    /// What goes into the next frame, up to so many bytes unless one finish has more. Takes what was appended if there is
    /// nothing left; if there is nothing at all, the writer counts as idle, if it may.
    pub fn next(&mut self, front: &Front, limit: usize, may_sleep: bool) -> Option<Part> {
        if self.taken.is_none() {
            self.next = 0;
            self.taken = front.take(&mut self.appended, may_sleep);
        }
        let taken = self.taken?;
        let (first, from) = (self.next, self.begin_of(self.next));
        let mut to = from;
        while let Some((_, end)) = self.appended.finishes.get(self.next) {
            if to > from && end - from > limit {
                break;
            }
            to = *end;
            self.next += 1;
        }
        let watermark = self.watermark(taken);
        if self.next == self.appended.finishes.len() {
            self.taken = None;
        }
        Some(Part { first, from, to, taken, watermark, is_drained: false })
    }

    /// The records of a part.
    pub fn bytes(&self, part: Part) -> &[u8] {
        self.appended.bytes.get(part.from..part.to).unwrap_or_default()
    }

    /// The part that was given out last is in no frame after all.
    pub fn put_back(&mut self, part: Part) {
        self.next = part.first;
        self.taken = Some(part.taken);
    }

    /// Takes out what speaks only of how far rows are, which may overtake everything else. Appends it to `drained`.
    pub fn drain(&mut self, front: &Front, owners: &Owners, drained: &mut Vec<u8>) -> Result<Part, Damaged> {
        let mut fresh = std::mem::take(&mut self.spare);
        if let Some(taken) = front.take(&mut fresh, false) {
            if self.taken.is_none() {
                self.appended.bytes.clear();
                self.appended.finishes.clear();
                self.next = 0;
            }
            self.taken = Some(taken);
        }
        let taken = self.taken.unwrap_or(Part::nothing(front.committed()).taken);
        let mut kept = Appended::default();
        for (appended, first) in [(&self.appended, self.next), (&fresh, 0)] {
            let mut from =
                first.checked_sub(1).and_then(|at| appended.finishes.get(at)).map_or(0, |(_, end)| *end);
            for (sequence, end) in appended.finishes.iter().skip(first) {
                let bytes = appended.bytes.get(from..*end).unwrap_or_default();
                from = *end;
                if is_progress(owners, bytes)? {
                    drained.extend_from_slice(bytes);
                } else {
                    kept.bytes.extend_from_slice(bytes);
                    kept.finishes.push((*sequence, kept.bytes.len()));
                }
            }
        }
        self.spare = fresh;
        self.appended = kept;
        self.next = 0;
        let watermark = self.watermark(taken);
        if self.appended.finishes.is_empty() {
            self.taken = None;
        }
        Ok(Part { to: drained.len(), taken, watermark, is_drained: true, ..Part::default() })
    }

    fn begin_of(&self, finish: usize) -> usize {
        finish.checked_sub(1).and_then(|before| self.appended.finishes.get(before)).map_or(0, |(_, end)| *end)
    }

    /// What is committed once all that is not here any more is.
    fn watermark(&self, taken: Taken) -> u64 {
        let left = self.appended.finishes.get(self.next..).unwrap_or_default();
        let lowest = left.iter().map(|(sequence, _)| *sequence).min();
        lowest.map_or(taken.ceiling, |lowest| taken.ceiling.min(lowest - 1))
    }
}

/// Whether these records speak only of how far rows are, of owners that are committed.
fn is_progress(owners: &Owners, bytes: &[u8]) -> Result<bool, Damaged> {
    for record in RecordIter::new(bytes) {
        let (Record::Sent { owner, .. } | Record::Released { owner, .. } | Record::Done { owner, .. }) =
            record?
        else {
            return Ok(false);
        };
        if !owners.contains(owner) {
            return Ok(false);
        }
    }
    Ok(true)
}
