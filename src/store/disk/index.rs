//! Where everything that is alive stands on disk, and how far each row is.
//!
//! Written by the writer alone, once a frame is committed, through the same [`Index::apply`] that recovery uses; the
//! thread that fetches looks rows up in [`Owners`], which is locked in parts. What always holds: a record is the
//! current one of its thing if, and only if, the index points at it.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};

use super::super::record::{Damaged, MessageImage, Owner, Record, RetainedSlot, Row, RowSeq, RowState};
use super::frame::{Stored, StoredIter};
use super::place::{Place, RowEntry, further};
use super::rows::Rows;
use crate::codec::PacketId;

const SHARDS: usize = 256;
const SLAB: usize = 4096;

/// What a session has besides its image and its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Thing {
    /// By the keyed hash of its filter.
    Subscription(u64),
    Received(PacketId),
    Will,
}

#[derive(Debug, Default)]
pub(super) struct OwnerEntry {
    /// Of its SESSION or GROUP.
    image: Place,
    /// The highest row number in any record.
    highest: u64,
    pub rows: Rows<RowEntry>,
    things: HashMap<Thing, Place>,
    /// Progress of rows that have not come.
    early: Vec<Early>,
}

/// Progress of rows that have not come.
#[derive(Debug, Clone, Copy)]
struct Early {
    /// The frame that it came in.
    frame: u64,
    first: u64,
    last: u64,
    progress: Progress,
}

#[derive(Debug, Clone, Copy)]
enum Progress {
    /// The first one's identifier.
    Sent(PacketId),
    Released,
    Done,
}

/// What a row is to be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its owner is not known.
    Nobodys,
    /// It is done already.
    Dead,
    /// This far.
    Alive(RowState),
}

impl OwnerEntry {
    /// What becomes of a row that comes in this state.
    fn fate(&self, seq: u64, state: RowState) -> Fate {
        let mut state = state;
        let mut is_released = false;
        for early in self.early.iter().filter(|early| (early.first..=early.last).contains(&seq)) {
            match early.progress {
                Progress::Done => return Fate::Dead,
                Progress::Sent(_) => state = early.progress.of(early.first, seq, state),
                Progress::Released => is_released = true,
            }
        }
        Fate::Alive(if is_released { Progress::Released.of(seq, seq, state) } else { state })
    }
}

impl Progress {
    /// The state of a row that this happens to; the furthest counts.
    fn of(self, first: u64, seq: u64, state: RowState) -> RowState {
        match (self, state) {
            (Self::Sent(first_id), RowState::Waiting | RowState::Sent(_)) => {
                let ahead = u16::try_from(seq - first).unwrap_or_default();
                let packet_id = first_id.get().checked_add(ahead).and_then(PacketId::new);
                packet_id.map_or(state, RowState::Sent)
            }
            (Self::Released, RowState::Sent(packet_id)) => RowState::Released(packet_id),
            (Self::Sent(_), RowState::Released(_)) | (Self::Released | Self::Done, _) => state,
        }
    }
}

/// The owners, in parts that are locked for themselves.
#[derive(Debug)]
pub(super) struct Owners {
    shards: Box<[Mutex<HashMap<u64, OwnerEntry>>]>,
}

impl Owners {
    fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// The part in which the owner is, if there is such an owner.
    pub fn lock(&self, owner: Owner) -> MutexGuard<'_, HashMap<u64, OwnerEntry>> {
        self.shards[owner.0 as usize % SHARDS].lock()
    }

    pub fn contains(&self, owner: Owner) -> bool {
        self.lock(owner).contains_key(&owner.0)
    }

    /// What becomes of a row.
    pub fn fate(&self, owner: Owner, seq: RowSeq, state: RowState) -> Fate {
        self.lock(owner).get(&owner.0).map_or(Fate::Nobodys, |entry| entry.fate(seq.0, state))
    }

    /// Where a row is.
    pub fn row(&self, owner: Owner, seq: RowSeq) -> Option<RowEntry> {
        self.lock(owner).get(&owner.0)?.rows.get(seq.0).copied()
    }
}

/// Hears what happens to the index. Recovery builds what it gives back from it.
pub(super) trait Observer {
    /// A row came, or came once more.
    fn row(&mut self, _row: &Row<'_>, _message: &MessageImage<'_>) {}
    /// A row went.
    fn row_gone(&mut self, _owner: Owner, _seq: RowSeq) {}
    /// Any other record took effect.
    fn record(&mut self, _record: &Record<'_>) {}
}

/// Nobody listens.
#[derive(Debug)]
pub(super) struct Unobserved;

impl Observer for Unobserved {}

/// See the module.
#[derive(Debug)]
pub(super) struct Index {
    pub owners: std::sync::Arc<Owners>,
    retained: Vec<Option<Box<[Place]>>>,
    /// Owners that have progress of rows that have not come, with the frame.
    early: VecDeque<(u64, Owner)>,
    pub live: Live,
    /// Every owner's number is below this.
    pub next_owner: u64,
    hashes: RandomState,
    /// The log is being read. A copy of a session's image stands behind what was the session's before; so for now, what
    /// belongs to nobody known belongs to somebody yet to come.
    is_recovering: bool,
}

/// Bytes alive, in each segment and in all.
#[derive(Debug, Default)]
pub(super) struct Live {
    segments: HashMap<u32, i64>,
    pub total: i64,
}

impl Live {
    fn add(&mut self, segment: u32, bytes: i64) {
        *self.segments.entry(segment).or_default() += bytes;
        self.total += bytes;
    }

    pub fn of(&self, segment: u32) -> i64 {
        self.segments.get(&segment).copied().unwrap_or_default()
    }

    pub fn forget(&mut self, segment: u32) {
        let left = self.segments.remove(&segment);
        debug_assert!(left.unwrap_or_default() == 0, "segment {segment} goes with {left:?} bytes alive");
    }

    /// Nothing of an owner is alive any more.
    fn end(&mut self, owner: OwnerEntry) {
        let places = owner.things.into_values().chain([owner.image]);
        places.for_each(|place| self.replace(place, Place::default()));
        owner.rows.iter().for_each(|(_, entry)| self.add(entry.segment, -entry.live()));
    }

    /// `old` gives way to `new`.
    fn replace(&mut self, old: Place, new: Place) {
        if old.segment != 0 {
            self.add(old.segment, -i64::from(old.length));
        }
        if new.segment != 0 {
            self.add(new.segment, new.length.into());
        }
    }
}

/// Where a frame's records are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// The frame's number.
    pub frame: u64,
    pub segment: u32,
    /// Of the first record, in the segment.
    pub offset: u32,
}

impl Index {
    pub fn new() -> Self {
        Self {
            owners: std::sync::Arc::new(Owners::new()),
            retained: Vec::new(),
            early: VecDeque::new(),
            live: Live::default(),
            next_owner: 1,
            hashes: RandomState::new(),
            is_recovering: false,
        }
    }

    /// One that takes in a log from its beginning.
    pub fn recovering() -> Self {
        Self { is_recovering: true, ..Self::new() }
    }

    /// The log is read: what still belongs to nobody known is nobody's, and who was early was in vain.
    pub fn recovered(&mut self) {
        self.settle(u64::MAX);
        self.is_recovering = false;
        for shard in &self.owners.shards {
            for (_, owner) in shard.lock().extract_if(|_, owner| owner.image.segment == 0) {
                self.live.end(owner);
            }
        }
    }

    /// Takes in the records of a committed frame.
    pub fn apply(
        &mut self,
        position: Position,
        body: &[u8],
        observer: &mut impl Observer,
    ) -> Result<(), Damaged> {
        let mut message: Option<(MessageImage<'_>, usize, usize)> = None;
        let mut rows: Vec<(Row<'_>, usize, usize)> = Vec::new();
        for stored in StoredIter::new(body) {
            let stored = stored?;
            if let Record::Row(row) = stored.record {
                rows.push((row, stored.start, stored.length));
                continue;
            }
            self.place_rows(position, message, &mut rows, observer)?;
            match stored.record {
                Record::Message(image) => message = Some((image, stored.start, stored.length)),
                _ => self.apply_one(position, &stored, observer),
            }
        }
        self.place_rows(position, message, &mut rows, observer)
    }

    /// Takes in rows of one message that stand one behind the other.
    fn place_rows(
        &mut self,
        position: Position,
        message: Option<(MessageImage<'_>, usize, usize)>,
        rows: &mut Vec<(Row<'_>, usize, usize)>,
        observer: &mut impl Observer,
    ) -> Result<(), Damaged> {
        if rows.is_empty() {
            return Ok(());
        }
        let (image, start, length) = message.ok_or(Damaged("a row without a message"))?;
        let share = length.checked_div(rows.len()).unwrap_or_default();
        for (row, row_start, row_length) in rows.drain(..) {
            let place = Place {
                segment: position.segment,
                offset: position.offset + row_start as u32,
                length: (share + row_length) as u32,
            };
            self.place_row(&row, place, position.offset + start as u32, &image, observer);
        }
        Ok(())
    }

    fn place_row(
        &mut self,
        row: &Row<'_>,
        place: Place,
        message: u32,
        image: &MessageImage<'_>,
        observer: &mut impl Observer,
    ) {
        self.next_owner = self.next_owner.max(row.owner.0.saturating_add(1));
        let mut shard = self.owners.lock(row.owner);
        let Some(owner) = known(&mut shard, row.owner, self.is_recovering) else {
            return;
        };
        let seq = row.seq.0;
        owner.highest = owner.highest.max(seq);
        let known = owner.rows.get(seq).map(RowEntry::state);
        let state = match (known, owner.fate(seq, row.state)) {
            // A copy, made from what is known.
            (Some(known), Fate::Alive(_) | Fate::Dead | Fate::Nobodys) => further(known, row.state),
            (None, Fate::Alive(state)) => state,
            (None, Fate::Dead | Fate::Nobodys) => return,
        };
        let entry = RowEntry::new(seq, place, message, state);
        if let Some(old) = owner.rows.insert(seq, entry) {
            self.live.add(old.segment, -old.live());
        }
        self.live.add(entry.segment, entry.live());
        observer.row(row, image);
    }

    fn apply_one(&mut self, position: Position, stored: &Stored<'_>, observer: &mut impl Observer) {
        let place = Place {
            segment: position.segment,
            offset: position.offset + stored.start as u32,
            length: stored.length as u32,
        };
        let record = &stored.record;
        let done = match record {
            Record::Message(_) | Record::Row(_) => false,
            Record::Sent { owner, first, packet_id, count } => {
                let last = first.0 + u64::from(*count) - 1;
                self.advance(position, *owner, (first.0, last), Progress::Sent(*packet_id))
            }
            Record::Released { owner, seq } => {
                self.advance(position, *owner, (seq.0, seq.0), Progress::Released)
            }
            Record::Done { owner, first, count } => {
                self.finish_rows(position, *owner, *first, *count, observer);
                true
            }
            Record::Kept { slot, .. } => {
                self.keep(*slot, place);
                true
            }
            Record::Forgotten { slot } => {
                self.keep(*slot, Place::default());
                true
            }
            Record::Session(image) => self.image(image.owner, place),
            Record::Group(image) => self.image(image.owner, place),
            Record::Ended { owner } => self.end(*owner),
            Record::Received { owner, packet_id } => {
                self.thing(*owner, Thing::Received(*packet_id), Some(place))
            }
            Record::Completed { owner, packet_id } => self.thing(*owner, Thing::Received(*packet_id), None),
            Record::Subscribed { owner, filter, .. } => {
                self.thing(*owner, Thing::Subscription(self.hashes.hash_one(filter)), Some(place))
            }
            Record::Unsubscribed { owner, filter } => {
                self.thing(*owner, Thing::Subscription(self.hashes.hash_one(filter)), None)
            }
            Record::Will(will) => self.thing(will.owner, Thing::Will, Some(place)),
            Record::WillEnded { owner } => self.thing(*owner, Thing::Will, None),
        };
        if done {
            observer.record(record);
        }
    }

    /// Rows were sent, or released.
    fn advance(
        &mut self,
        position: Position,
        of: Owner,
        (first, last): (u64, u64),
        progress: Progress,
    ) -> bool {
        self.next_owner = self.next_owner.max(of.0.saturating_add(1));
        let mut shard = self.owners.lock(of);
        let Some(owner) = known(&mut shard, of, self.is_recovering) else {
            return false;
        };
        owner.highest = owner.highest.max(last);
        let mut is_early = false;
        for seq in first..=last {
            let Some(state) = owner.rows.get(seq).map(RowEntry::state) else {
                is_early = true;
                continue;
            };
            // Released without an identifier is early, too.
            is_early |= matches!((progress, state), (Progress::Released, RowState::Waiting));
            if let (Fate::Alive(state), Some(entry)) =
                (owner.fate(seq, progress.of(first, seq, state)), owner.rows.get_mut(seq))
            {
                entry.set_state(state);
            }
        }
        if is_early {
            owner.early.push(Early { frame: position.frame, first, last, progress });
            self.early.push_back((position.frame, of));
        }
        true
    }

    fn finish_rows(
        &mut self,
        position: Position,
        of: Owner,
        first: RowSeq,
        count: u64,
        observer: &mut impl Observer,
    ) {
        self.next_owner = self.next_owner.max(of.0.saturating_add(1));
        let Some(last) = count.checked_sub(1).map(|more| first.0.saturating_add(more)) else {
            return;
        };
        let mut shard = self.owners.lock(of);
        let Some(owner) = known(&mut shard, of, self.is_recovering) else {
            return;
        };
        owner.highest = owner.highest.max(last);
        let (live, mut finished) = (&mut self.live, 0);
        owner.rows.remove_range(first.0, last, |seq, entry| {
            live.add(entry.segment, -entry.live());
            observer.row_gone(of, RowSeq(seq));
            finished += 1;
        });
        if finished < count {
            let before = owner.early.last_mut().filter(|before| {
                before.frame == position.frame
                    && matches!(before.progress, Progress::Done)
                    && before.last.checked_add(1) == Some(first.0)
            });
            match before {
                Some(before) => before.last = last,
                None => {
                    let early =
                        Early { frame: position.frame, first: first.0, last, progress: Progress::Done };
                    owner.early.push(early);
                    self.early.push_back((position.frame, of));
                }
            }
        }
    }

    /// All rows that frames up to this one were early for have come, if they ever come.
    pub fn settle(&mut self, frame: u64) {
        while let Some((_, of)) = self.early.pop_front_if(|(early, _)| *early <= frame) {
            if let Some(owner) = self.owners.lock(of).get_mut(&of.0) {
                owner.early.retain(|early| early.frame > frame);
                if owner.early.is_empty() {
                    owner.early = Vec::new();
                }
            }
        }
    }

    fn keep(&mut self, slot: RetainedSlot, place: Place) {
        let (slab, within) = (slot.0 as usize / SLAB, slot.0 as usize % SLAB);
        if slab >= self.retained.len() {
            self.retained.resize_with(slab + 1, || None);
        }
        if let Some(slab) = self.retained.get_mut(slab) {
            let slab = slab.get_or_insert_with(|| vec![Place::default(); SLAB].into_boxed_slice());
            if let Some(kept) = slab.get_mut(within) {
                self.live.replace(*kept, place);
                *kept = place;
            }
        }
    }

    fn image(&mut self, of: Owner, place: Place) -> bool {
        self.next_owner = self.next_owner.max(of.0.saturating_add(1));
        let mut shard = self.owners.lock(of);
        let owner = shard.entry(of.0).or_default();
        self.live.replace(owner.image, place);
        owner.image = place;
        true
    }

    fn end(&mut self, of: Owner) -> bool {
        self.next_owner = self.next_owner.max(of.0.saturating_add(1));
        let Some(owner) = self.owners.lock(of).remove(&of.0) else {
            return false;
        };
        self.live.end(owner);
        true
    }

    fn thing(&mut self, of: Owner, thing: Thing, place: Option<Place>) -> bool {
        self.next_owner = self.next_owner.max(of.0.saturating_add(1));
        let mut shard = self.owners.lock(of);
        let Some(owner) = known(&mut shard, of, self.is_recovering) else {
            return false;
        };
        let old = match place {
            Some(place) => owner.things.insert(thing, place),
            None => owner.things.remove(&thing),
        };
        self.live.replace(old.unwrap_or_default(), place.unwrap_or_default());
        true
    }

    /// The number that the owner's next row gets.
    pub fn next_row(&self, owner: Owner) -> RowSeq {
        let highest = self.owners.lock(owner).get(&owner.0).map_or(0, |entry| entry.highest);
        RowSeq(highest.saturating_add(1))
    }

    /// How far a row that stands here is; `None` if this is not the row any more.
    pub fn current_row(&self, row: &Row<'_>, segment: u32, offset: u32) -> Option<RowState> {
        let entry = self.owners.row(row.owner, row.seq)?;
        (entry.segment == segment && entry.row == offset).then(|| entry.state())
    }

    /// Whether a record that stands here, and is neither a message nor a row, says what is.
    pub fn is_current(&self, record: &Record<'_>, segment: u32, offset: u32) -> bool {
        let place = match record {
            Record::Kept { slot, .. } => {
                let slab = self.retained.get(slot.0 as usize / SLAB).and_then(Option::as_ref);
                slab.and_then(|slab| slab.get(slot.0 as usize % SLAB)).copied()
            }
            Record::Session(image) => self.image_of(image.owner),
            Record::Group(image) => self.image_of(image.owner),
            Record::Received { owner, packet_id } => self.thing_of(*owner, Thing::Received(*packet_id)),
            Record::Subscribed { owner, filter, .. } => {
                self.thing_of(*owner, Thing::Subscription(self.hashes.hash_one(filter)))
            }
            Record::Will(will) => self.thing_of(will.owner, Thing::Will),
            Record::Message(_)
            | Record::Row(_)
            | Record::Sent { .. }
            | Record::Released { .. }
            | Record::Done { .. }
            | Record::Forgotten { .. }
            | Record::Completed { .. }
            | Record::Ended { .. }
            | Record::Unsubscribed { .. }
            | Record::WillEnded { .. } => None,
        };
        place.is_some_and(|place| place.segment == segment && place.offset == offset)
    }

    /// The highest row number of an owner, if no row bears it, nor will.
    pub fn highest_finished(&self, of: Owner) -> Option<RowSeq> {
        let shard = self.owners.lock(of);
        let owner = shard.get(&of.0)?;
        let highest = owner.highest;
        let is_to_come = || owner.early.iter().any(|early| (early.first..=early.last).contains(&highest));
        (highest > 0 && owner.rows.get(highest).is_none() && !is_to_come()).then_some(RowSeq(highest))
    }

    fn image_of(&self, owner: Owner) -> Option<Place> {
        Some(self.owners.lock(owner).get(&owner.0)?.image)
    }

    fn thing_of(&self, owner: Owner, thing: Thing) -> Option<Place> {
        self.owners.lock(owner).get(&owner.0)?.things.get(&thing).copied()
    }
}

/// The owner's entry; while the log is read there always is one.
fn known(shard: &mut HashMap<u64, OwnerEntry>, owner: Owner, is_recovering: bool) -> Option<&mut OwnerEntry> {
    if is_recovering {
        return Some(shard.entry(owner.0).or_default());
    }
    shard.get_mut(&owner.0)
}
