//! One client's outgoing window: the packet identifiers in flight towards it, in the order they were sent.
//!
//! Owner: [`super::Session`], under its lock. What always holds: identifiers in flight are unique; no more than
//! Receive Maximum of them are unfinished; the order of the entries is the order of sending, which is the order
//! of redelivery [MQTT-4.6.0-1]. Clauses: [MQTT-2.2.1-4], [MQTT-3.3.4-9], [MQTT-4.3.2], [MQTT-4.3.3], [MQTT-4.4.0-1].
//!
//! Identifiers are given out in turn, so the entries of a well-behaved client form an unbroken sequence and an
//! identifier's entry is found by subtraction. An acknowledgement out of order leaves a finished entry behind,
//! removed as soon as those before it are finished, or when half of the entries are such.

use std::collections::{BTreeSet, VecDeque};

use super::queue::Queued;
use crate::codec::{PacketId, QoS};
use crate::message::SessionNumber;
use crate::store::{CommitSeq, Owner, RowSeq};

/// What an entry waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// QoS 1: PUBACK.
    PubAck,
    /// QoS 2: PUBREC.
    PubRec,
    /// QoS 2: PUBCOMP, the PUBREL being sent.
    PubComp,
    /// Nothing: finished out of order.
    Finished,
}

/// Names a shared group among the broker's; `None` in an entry that came through no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupNumber(pub std::num::NonZeroU64);

impl GroupNumber {
    /// Of a number that no session has.
    pub fn new(number: SessionNumber) -> Option<Self> {
        std::num::NonZeroU64::new(number.0).map(Self)
    }

    /// The owner of the group's rows in the store.
    pub fn owner(self) -> Owner {
        Owner(self.0.get())
    }
}

/// What is to be sent again.
#[derive(Debug, Default)]
pub enum Content {
    /// Nothing: the session ends with the connection, or PUBREC has come.
    #[default]
    Nothing,
    /// This message.
    Message(Queued),
    /// The message of the entry's row, which is in the store.
    Stored(QoS),
}

/// One PUBLISH in flight: what is remembered of every one, in as few bytes as can be.
#[derive(Debug)]
pub struct InFlight {
    /// Its identifier.
    pub packet_id: PacketId,
    /// How far its exchange is.
    pub phase: Phase,
    /// It is from before this connection and has not been sent on it yet.
    pub resend: bool,
    /// It was sent, on this connection or an earlier one.
    pub sent: bool,
    /// Its last PUBLISH was not its first.
    pub repeated: bool,
}

/// What is remembered beside of a message that outlives the connection, or came through a shared group.
#[derive(Debug, Default)]
pub struct Details {
    /// The shared group whose message it is.
    pub group: Option<GroupNumber>,
    /// Its row in the store, the group's or else the session's; zero: none.
    pub row: RowSeq,
    /// What must be committed before it may be sent.
    pub gate: CommitSeq,
    /// What to send again.
    pub content: Content,
}

impl Details {
    /// Whether there is nothing to remember.
    fn is_empty(&self) -> bool {
        self.group.is_none()
            && self.row == RowSeq::default()
            && self.gate == CommitSeq::default()
            && matches!(self.content, Content::Nothing)
    }
}

/// An entry of the window.
#[derive(Debug)]
pub struct Entry<'a> {
    /// What every entry has.
    pub in_flight: &'a mut InFlight,
    /// What this one may have.
    pub details: Option<&'a mut Details>,
}

impl Entry<'_> {
    /// Its row in the store; zero: none.
    pub fn row(&self) -> RowSeq {
        self.details.as_ref().map_or(RowSeq::default(), |details| details.row)
    }

    /// The shared group whose message it is.
    pub fn group(&self) -> Option<GroupNumber> {
        self.details.as_ref().and_then(|details| details.group)
    }

    /// What must be committed before it may be sent.
    pub fn gate(&self) -> CommitSeq {
        self.details.as_ref().map_or(CommitSeq::default(), |details| details.gate)
    }

    /// What to send again.
    pub fn content(&self) -> &Content {
        static NOTHING: Content = Content::Nothing;
        self.details.as_ref().map_or(&NOTHING, |details| &details.content)
    }

    /// Whether the message that is to be sent again is in the store alone.
    pub fn is_stored(&self) -> bool {
        matches!(self.content(), Content::Stored(_))
    }

    /// Replaces what is to be sent again.
    pub fn set_content(&mut self, content: Content) {
        if let Some(details) = &mut self.details {
            details.content = content;
        }
    }

    /// Whose its row is, if it has one: with QoS 1 the group's, which gives the message to another member when the
    /// connection breaks; else the session's.
    pub fn row_owner(&self, session: Option<Owner>) -> Option<Owner> {
        if self.row() == RowSeq::default() {
            return None;
        }
        match self.group() {
            Some(group) if self.in_flight.phase == Phase::PubAck => Some(group.owner()),
            Some(_) | None => session,
        }
    }
}

/// An exchange that is over.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// It was still to be sent again.
    pub was_pending: bool,
    /// Its row, and whose that is.
    pub row: Option<(Owner, RowSeq)>,
}

/// See the module.
#[derive(Debug)]
pub struct Window {
    entries: VecDeque<InFlight>,
    /// Of each entry, at the same place; empty as long as no entry has any.
    details: VecDeque<Details>,
    next: u16,
    unfinished: u16,
    /// Identifiers were given out past one that is still in use, so the entries are not in the circle's order.
    disordered: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self { entries: VecDeque::new(), details: VecDeque::new(), next: 1, unfinished: 0, disordered: false }
    }
}

impl Window {
    /// Whether no identifier is in use.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Exchanges not finished yet.
    pub fn unfinished(&self) -> u16 {
        self.unfinished
    }

    /// Fills an empty window with what was in flight when the store was closed, in the order of sending. An identifier
    /// that is there already is not added.
    pub fn restore(&mut self, entries: impl Iterator<Item = (PacketId, Phase, Details)>) {
        let mut known = BTreeSet::new();
        for (packet_id, phase, details) in entries {
            if !known.insert(packet_id) {
                continue;
            }
            self.next = after(packet_id);
            // Their identifiers may have been given out by several connections.
            self.disordered = true;
            self.push(InFlight { packet_id, phase, resend: false, sent: true, repeated: false }, details);
        }
    }

    /// Takes an identifier and remembers what goes out under it; or what is to go out, if it is not `sent` now. `None` if
    /// every identifier is in use, which a Receive Maximum of 65,535 permits.
    pub fn send(&mut self, phase: Phase, sent: bool, details: Details) -> Option<PacketId> {
        let packet_id = match self.next_in_turn() {
            Some(packet_id) => {
                self.next = after(packet_id);
                packet_id
            }
            None => self.free_packet_id()?,
        };
        self.push(InFlight { packet_id, phase, resend: false, sent, repeated: false }, details);
        Some(packet_id)
    }

    /// Takes this many identifiers, one behind the other, for messages that go out now and of which nothing else is
    /// remembered; the first. `None` if it is not their turn: then each has to look for its own.
    pub fn send_in_turn(&mut self, phase: Phase, count: usize) -> Option<PacketId> {
        let first = self.next_in_turn()?;
        let last = usize::from(first.get()) + count.checked_sub(1)?;
        let last = PacketId::new(u16::try_from(last).ok()?)?;
        let passes_front =
            |front: &InFlight| distance(front.packet_id, last) < distance(front.packet_id, first);
        if !self.details.is_empty() || self.entries.front().is_some_and(passes_front) {
            return None;
        }
        let in_flight = |number| InFlight {
            // Never zero, as `first` is not.
            packet_id: PacketId::new(number).unwrap_or(first),
            phase,
            resend: false,
            sent: true,
            repeated: false,
        };
        self.entries.extend((first.get()..=last.get()).map(in_flight));
        self.next = after(last);
        self.unfinished += last.get() - first.get() + 1;
        Some(first)
    }

    /// Notes that the last so many PUBLISH packets of this connection were not sent, although they were to be.
    pub fn take_back(&mut self, count: u16) {
        let sent = self.entries.iter_mut().rev().filter(|entry| {
            let waits_for_an_answer = matches!(entry.phase, Phase::PubAck | Phase::PubRec);
            entry.sent && !entry.resend && waits_for_an_answer
        });
        sent.take(count.into()).for_each(|entry| entry.sent = entry.repeated);
    }

    fn push(&mut self, in_flight: InFlight, details: Details) {
        if !self.details.is_empty() || !details.is_empty() {
            // Those before it had none.
            self.details.resize_with(self.entries.len(), Details::default);
            self.details.push_back(details);
        }
        self.entries.push_back(in_flight);
        self.unfinished += 1;
    }

    /// The entry of an identifier that is not finished.
    pub fn get_mut(&mut self, packet_id: PacketId) -> Option<Entry<'_>> {
        let index = self.index_of(packet_id)?;
        Some(Entry { in_flight: self.entries.get_mut(index)?, details: self.details.get_mut(index) })
    }

    /// Ends the exchange of an identifier if it is in this phase, and gives the slot back. `session` is the owner of the
    /// session's rows.
    pub fn finish(&mut self, packet_id: PacketId, phase: Phase, session: Option<Owner>) -> Option<Ended> {
        if self.is_first_and_plain(packet_id, phase) {
            self.entries.pop_front();
            self.unfinished -= 1;
            self.tidy();
            return Some(Ended { was_pending: false, row: None });
        }
        let mut entry = self.get_mut(packet_id).filter(|entry| entry.in_flight.phase == phase)?;
        let row = entry.row_owner(session).map(|owner| (owner, entry.row()));
        let ended = Ended { was_pending: entry.in_flight.resend, row };
        entry.in_flight.phase = Phase::Finished;
        entry.set_content(Content::Nothing);
        self.unfinished -= 1;
        self.tidy();
        Some(ended)
    }

    /// Ends the exchanges of these identifiers as long as they are the next ones, in this phase, and nothing else is
    /// remembered of them; how many.
    pub fn finish_in_turn(&mut self, phase: Phase, packet_ids: impl Iterator<Item = PacketId>) -> usize {
        if !self.details.is_empty() {
            return 0;
        }
        let is_next = |(entry, packet_id): &(&InFlight, PacketId)| {
            entry.packet_id == *packet_id && entry.phase == phase && !entry.resend
        };
        let finished = self.entries.iter().zip(packet_ids).take_while(is_next).count();
        if finished > 0 {
            self.entries.drain(..finished);
            // No more than are unfinished, which 16 bits count.
            self.unfinished -= finished as u16;
            self.tidy();
        }
        finished
    }

    /// Notes PUBREC of these identifiers, as long as they follow each other in the order of sending, wait for it, and
    /// nothing else is remembered of them; how many.
    pub fn release_in_turn(&mut self, packet_ids: impl Iterator<Item = PacketId>) -> usize {
        let mut packet_ids = packet_ids.peekable();
        let from = packet_ids.peek().and_then(|first| self.index_of(*first));
        let (Some(from), true) = (from, self.details.is_empty()) else { return 0 };
        let mut released = 0;
        for (entry, packet_id) in self.entries.range_mut(from..).zip(packet_ids) {
            if entry.packet_id != packet_id || entry.phase != Phase::PubRec || entry.resend {
                break;
            }
            entry.phase = Phase::PubComp;
            released += 1;
        }
        released
    }

    /// Whether it is the turn of this identifier and nothing else is remembered of it: as with most acknowledgements.
    fn is_first_and_plain(&self, packet_id: PacketId, phase: Phase) -> bool {
        let is_first =
            |first: &InFlight| first.packet_id == packet_id && first.phase == phase && !first.resend;
        self.details.is_empty() && self.entries.front().is_some_and(is_first)
    }

    /// Removes what is finished: at the front, and all of it when that is more than half.
    fn tidy(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.phase == Phase::Finished) {
            self.entries.pop_front();
            self.details.pop_front();
        }
        if self.entries.len() > 32 && usize::from(self.unfinished) * 2 < self.entries.len() {
            self.drop_finished();
        }
        if self.entries.is_empty() {
            self.disordered = false;
            if self.entries.capacity() > 1_024 || self.details.capacity() > 256 {
                (self.entries, self.details) = Default::default();
            }
        }
    }

    /// The unfinished entries in the order they were sent, for redelivery.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Entry<'_>> {
        let mut details = self.details.iter_mut();
        let entries =
            self.entries.iter_mut().map(move |in_flight| Entry { in_flight, details: details.next() });
        entries.filter(|entry| entry.in_flight.phase != Phase::Finished)
    }

    /// Takes out the unfinished entries that `select` picks, in order; their slots are free again.
    pub fn extract(&mut self, mut select: impl FnMut(&Entry<'_>) -> bool) -> Vec<Details> {
        let mut taken = Vec::new();
        for mut entry in self.iter_mut() {
            if select(&entry) {
                entry.in_flight.phase = Phase::Finished;
                taken.extend(entry.details.as_mut().map(|details| std::mem::take(*details)));
            }
        }
        self.drop_finished();
        self.unfinished = self.entries.len() as u16;
        taken
    }

    fn drop_finished(&mut self) {
        let mut entries = self.entries.iter();
        self.details.retain(|_| entries.next().is_none_or(|entry| entry.phase != Phase::Finished));
        self.entries.retain(|entry| entry.phase != Phase::Finished);
    }

    /// The next identifier, if it is past all that are in flight: so it is unless they are a whole turn of the circle.
    fn next_in_turn(&mut self) -> Option<PacketId> {
        let candidate = PacketId::new(self.next)?;
        match (self.entries.front(), self.entries.back()) {
            (Some(front), Some(back)) => {
                let is_past =
                    distance(front.packet_id, candidate) > distance(front.packet_id, back.packet_id);
                (is_past && !self.disordered).then_some(candidate)
            }
            _ => {
                self.disordered = false;
                Some(candidate)
            }
        }
    }

    /// Goes round the circle for an identifier that is not in use.
    fn free_packet_id(&mut self) -> Option<PacketId> {
        if self.entries.len() >= usize::from(u16::MAX) {
            self.drop_finished();
            if self.entries.len() >= usize::from(u16::MAX) {
                return None;
            }
        }
        // At most one turn round the circle: fewer identifiers are in use than there are.
        loop {
            let candidate = PacketId::new(self.next);
            self.next = candidate.map_or(1, after);
            match candidate {
                Some(id) if !self.in_use(id) => {
                    self.disordered = true;
                    return Some(id);
                }
                _ => {}
            }
        }
    }

    /// Whether an identifier stands among the entries, finished or not.
    fn in_use(&self, packet_id: PacketId) -> bool {
        self.position(packet_id).is_some()
    }

    fn index_of(&self, packet_id: PacketId) -> Option<usize> {
        let found = self.position(packet_id)?;
        self.entries.get(found).filter(|entry| entry.phase != Phase::Finished).map(|_| found)
    }

    /// Where an identifier stands. Usually the entries follow each other on the circle, mostly without a gap; only
    /// a turn past a straggler asks for a search of all.
    fn position(&self, packet_id: PacketId) -> Option<usize> {
        let front = self.entries.front()?.packet_id;
        let guess = distance(front, packet_id);
        match self.entries.get(guess) {
            Some(entry) if entry.packet_id == packet_id => Some(guess),
            _ if self.disordered => self.entries.iter().position(|entry| entry.packet_id == packet_id),
            _ => self.entries.binary_search_by_key(&guess, |entry| distance(front, entry.packet_id)).ok(),
        }
    }
}

/// The identifier behind another on the circle.
fn after(packet_id: PacketId) -> u16 {
    packet_id.get().checked_add(1).unwrap_or(1)
}

/// Steps from one identifier to another on the circle 1..=65,535.
fn distance(from: PacketId, to: PacketId) -> usize {
    let (from, to) = (usize::from(from.get()), usize::from(to.get()));
    if to >= from { to - from } else { to + usize::from(u16::MAX) - from }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(window: &mut Window) -> PacketId {
        window.send(Phase::PubAck, true, Details::default()).unwrap()
    }

    #[test]
    fn identifiers_are_unique_while_in_flight_and_skip_zero() {
        let mut window = Window::default();
        let straggler = send(&mut window);
        for _ in 0..200_000 {
            let id = send(&mut window);
            assert_ne!(id, straggler);
            assert!(window.finish(id, Phase::PubAck, None).is_some());
        }
        assert_eq!(window.unfinished(), 1);
        assert!(window.entries.len() <= 33, "finished entries pile up: {}", window.entries.len());
    }

    #[test]
    fn identifiers_past_several_stragglers_are_unique() {
        for stragglers in [vec![1, 65_535], vec![1, 2, 65_534, 65_535], vec![1, 30_000, 65_535]] {
            let mut window = Window::default();
            let mut in_use = BTreeSet::new();
            for number in 1..=200_000_u32 {
                let id = send(&mut window);
                assert!(in_use.insert(id), "{id:?} is in use, {stragglers:?}");
                if number > 65_535 || !stragglers.contains(&number) {
                    assert!(window.finish(id, Phase::PubAck, None).is_some());
                    in_use.remove(&id);
                }
            }
        }
    }

    #[test]
    fn all_identifiers_can_be_in_flight_and_then_none_is_left() {
        let mut window = Window::default();
        let ids: Vec<_> = (0..65_535).map(|_| send(&mut window)).collect();
        assert!(window.send(Phase::PubAck, true, Details::default()).is_none());
        assert!(window.finish(ids[40_000], Phase::PubAck, None).is_some());
        assert_eq!(send(&mut window), ids[40_000]);
    }

    #[test]
    fn an_acknowledgement_of_the_wrong_kind_changes_nothing() {
        let mut window = Window::default();
        let id = send(&mut window);
        assert!(window.finish(id, Phase::PubRec, None).is_none());
        assert!(window.finish(id, Phase::PubComp, None).is_none());
        assert_eq!(window.unfinished(), 1);
        assert!(window.finish(id, Phase::PubAck, None).is_some());
        assert!(window.finish(id, Phase::PubAck, None).is_none());
    }

    #[test]
    fn out_of_order_acknowledgements_keep_the_order_of_the_rest() {
        let mut window = Window::default();
        let ids: Vec<_> = (0..100).map(|_| send(&mut window)).collect();
        for id in ids.iter().skip(1).step_by(2) {
            assert!(window.finish(*id, Phase::PubAck, None).is_some());
        }
        let left: Vec<_> = window.iter_mut().map(|entry| entry.in_flight.packet_id).collect();
        let expected: Vec<_> = ids.iter().step_by(2).copied().collect();
        assert_eq!(left, expected);
        assert_eq!(usize::from(window.unfinished()), expected.len());
    }

    #[test]
    fn identifiers_in_turn_are_given_out_and_taken_back_as_one_by_one() {
        let (mut window, mut in_use) = (Window::default(), std::collections::VecDeque::new());
        let mut given_out = 0;
        // Several times round the circle, with sizes that meet its end in every way.
        for round in 0..2_000_usize {
            let count = 1 + round * 7 % 300;
            match window.send_in_turn(Phase::PubRec, count) {
                Some(first) => {
                    let ids = (first.get()..=u16::MAX).take(count).map(|id| PacketId::new(id).unwrap());
                    in_use.extend(ids);
                }
                // At the end of the circle, where one by one still works.
                None => in_use.push_back(window.send(Phase::PubRec, true, Details::default()).unwrap()),
            }
            given_out = in_use.len().max(given_out);
            let distinct: BTreeSet<_> = in_use.iter().copied().collect();
            assert_eq!((distinct.len(), usize::from(window.unfinished())), (in_use.len(), in_use.len()));
            let ids: Vec<_> = in_use.iter().copied().take(1 + round * 11 % 250).collect();
            assert_eq!(window.finish_in_turn(Phase::PubComp, ids.iter().copied()), 0, "not so far yet");
            assert_eq!(window.release_in_turn(ids.iter().copied()), ids.len());
            assert_eq!(window.finish_in_turn(Phase::PubComp, ids.iter().copied()), ids.len());
            in_use.drain(..ids.len());
        }
        assert!(given_out > 300, "some were in flight while others followed: {given_out}");
    }

    #[test]
    fn what_is_not_in_turn_stays_for_others() {
        let mut window = Window::default();
        let first = window.send_in_turn(Phase::PubAck, 10).unwrap();
        let id = |number: u16| PacketId::new(first.get() + number).unwrap();
        assert_eq!(window.finish_in_turn(Phase::PubAck, [id(1), id(2)].into_iter()), 0);
        assert_eq!(window.finish_in_turn(Phase::PubAck, [id(0), id(2)].into_iter()), 1);
        assert_eq!(window.release_in_turn([id(3)].into_iter()), 0, "it has QoS 1");
        window.get_mut(id(1)).unwrap().in_flight.resend = true;
        assert_eq!(window.finish_in_turn(Phase::PubAck, [id(1)].into_iter()), 0, "it is to be sent again");
        assert!(window.finish(id(5), Phase::PubAck, None).is_some());
        window.get_mut(id(1)).unwrap().in_flight.resend = false;
        let rest = (1..10).map(id);
        assert_eq!(window.finish_in_turn(Phase::PubAck, rest), 4, "up to the one that is finished already");
        assert_eq!(window.unfinished(), 4);
        assert_eq!(window.finish_in_turn(Phase::PubAck, (6..10).map(id)), 4);
        assert!(window.is_empty());
    }

    #[test]
    fn identifiers_in_turn_never_run_into_those_in_flight() {
        let mut window = Window::default();
        let straggler = window.send_in_turn(Phase::PubAck, 1).unwrap();
        let mut lap = 0;
        while let Some(first) = window.send_in_turn(Phase::PubAck, 1_000) {
            let ids = first.get()..first.get() + 1_000;
            assert!(!ids.contains(&straggler.get()), "lap {lap}");
            for id in ids {
                assert!(window.finish(PacketId::new(id).unwrap(), Phase::PubAck, None).is_some());
            }
            lap += 1;
        }
        assert_eq!(lap, 65, "so many fit before the end of the circle");
        // The end of the circle, and past the straggler, one by one.
        for _ in 0..2_000 {
            let id = send(&mut window);
            assert_ne!(id, straggler);
            assert!(window.finish(id, Phase::PubAck, None).is_some());
        }
        assert_eq!(window.send_in_turn(Phase::PubAck, 70_000), None);
        assert_eq!(window.send_in_turn(Phase::PubAck, 0), None);
    }

    #[test]
    fn details_stay_with_their_entry() {
        let mut window = Window::default();
        let with_row = |row| Details { row: RowSeq(row), ..Details::default() };
        let mut expected = Vec::new();
        for number in 0..200_u64 {
            let row = if number % 3 == 2 { number } else { 0 };
            let packet_id = window.send(Phase::PubAck, true, with_row(row)).unwrap();
            expected.push((packet_id, RowSeq(row)));
        }
        // Out of order, then from the front, then by choice.
        for index in (0..200).filter(|index| index % 7 > 1).chain((0..40).filter(|index| index % 7 <= 1)) {
            let ended = window.finish(expected[index].0, Phase::PubAck, Some(Owner(1))).unwrap();
            assert_eq!(ended.row.map_or(RowSeq(0), |(_, row)| row), expected[index].1);
        }
        let extracted = window.extract(|entry| entry.row().0 > 150);
        let left: Vec<_> = window.iter_mut().map(|entry| (entry.in_flight.packet_id, entry.row())).collect();
        let is_left = |index: &usize| *index >= 40 && index % 7 <= 1;
        let unfinished: Vec<_> = (0..200).filter(is_left).map(|index| expected[index]).collect();
        let (taken, stay): (Vec<_>, Vec<_>) = unfinished.into_iter().partition(|(_, row)| row.0 > 150);
        assert_eq!(left, stay);
        assert_eq!(
            extracted.iter().map(|details| details.row).collect::<Vec<_>>(),
            taken.iter().map(|(_, row)| *row).collect::<Vec<_>>()
        );
        assert_eq!(usize::from(window.unfinished()), stay.len());
    }
}
