//! One client's outgoing window: the packet identifiers in flight towards it, in the order they were sent.
//!
//! Owner: [`super::Session`], under its lock. What always holds: identifiers in flight are unique; no more than
//! Receive Maximum of them are unfinished; the order of the entries is the order of sending, which is the order
//! of redelivery [MQTT-4.6.0-1]. Clauses: [MQTT-2.2.1-4], [MQTT-3.3.4-9], [MQTT-4.3.2], [MQTT-4.3.3], [MQTT-4.4.0-1].
//!
//! Identifiers are given out in turn, so the entries of a well-behaved client form an unbroken sequence and an
//! identifier's entry is found by subtraction. An acknowledgement out of order leaves a finished entry behind,
//! removed as soon as those before it are finished, or when half of the entries are such.

use std::collections::VecDeque;

use super::queue::Queued;
use crate::codec::PacketId;

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
pub struct GroupNumber(pub std::num::NonZeroU32);

/// One PUBLISH in flight.
#[derive(Debug)]
pub struct InFlight {
    /// Its identifier.
    pub packet_id: PacketId,
    /// How far its exchange is.
    pub phase: Phase,
    /// The shared group whose message it is.
    pub group: Option<GroupNumber>,
    /// It is from before this connection and has not been sent on it yet.
    pub resend: bool,
    /// What to send again; `None` if the session ends with the connection, and after PUBREC.
    pub content: Option<Queued>,
}

/// See the module.
#[derive(Debug)]
pub struct Window {
    entries: VecDeque<InFlight>,
    next: u16,
    unfinished: u16,
    /// Identifiers were given out past one that is still in use, so the entries are not in the circle's order.
    disordered: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self { entries: VecDeque::new(), next: 1, unfinished: 0, disordered: false }
    }
}

impl Window {
    /// Exchanges not finished yet.
    pub fn unfinished(&self) -> u16 {
        self.unfinished
    }

    /// Takes an identifier and remembers what goes out under it. `None` if every identifier is in use, which
    /// a Receive Maximum of 65,535 permits.
    pub fn send(
        &mut self,
        phase: Phase,
        group: Option<GroupNumber>,
        content: Option<Queued>,
    ) -> Option<PacketId> {
        let packet_id = self.free_packet_id()?;
        self.disordered = match (self.entries.front(), self.entries.back()) {
            (Some(front), Some(back)) => {
                let span = distance(front.packet_id, back.packet_id);
                self.disordered || distance(front.packet_id, packet_id) <= span
            }
            _ => false,
        };
        self.entries.push_back(InFlight { packet_id, phase, group, resend: false, content });
        self.unfinished += 1;
        Some(packet_id)
    }

    /// The entry of an identifier that is not finished.
    pub fn get_mut(&mut self, packet_id: PacketId) -> Option<&mut InFlight> {
        let index = self.index_of(packet_id)?;
        self.entries.get_mut(index)
    }

    /// Ends the exchange of an identifier if it is in this phase, and gives the slot back; tells whether the entry
    /// was still to be sent again.
    pub fn finish(&mut self, packet_id: PacketId, phase: Phase) -> Option<bool> {
        let index = self.index_of(packet_id)?;
        let entry = self.entries.get_mut(index).filter(|entry| entry.phase == phase)?;
        entry.phase = Phase::Finished;
        entry.content = None;
        let resend = entry.resend;
        self.unfinished -= 1;
        while self.entries.front().is_some_and(|entry| entry.phase == Phase::Finished) {
            self.entries.pop_front();
        }
        if self.entries.len() > 32 && usize::from(self.unfinished) * 2 < self.entries.len() {
            self.entries.retain(|entry| entry.phase != Phase::Finished);
        }
        if self.entries.is_empty() && self.entries.capacity() > 256 {
            self.entries = VecDeque::new();
        }
        Some(resend)
    }

    /// The unfinished entries in the order they were sent, for redelivery.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut InFlight> {
        self.entries.iter_mut().filter(|entry| entry.phase != Phase::Finished)
    }

    /// Takes out the unfinished entries that `select` picks, in order; their slots are free again.
    pub fn extract(&mut self, mut select: impl FnMut(&InFlight) -> bool) -> Vec<InFlight> {
        let mut taken = Vec::new();
        let entries = std::mem::take(&mut self.entries);
        for entry in entries {
            if entry.phase == Phase::Finished {
                continue;
            }
            if select(&entry) {
                self.unfinished -= 1;
                taken.push(entry);
            } else {
                self.entries.push_back(entry);
            }
        }
        taken
    }

    fn free_packet_id(&mut self) -> Option<PacketId> {
        if self.entries.len() >= usize::from(u16::MAX) {
            self.entries.retain(|entry| entry.phase != Phase::Finished);
            if self.entries.len() >= usize::from(u16::MAX) {
                return None;
            }
        }
        // At most one turn round the circle: fewer identifiers are in use than there are.
        loop {
            let candidate = PacketId::new(self.next);
            self.next = if self.next == u16::MAX { 1 } else { self.next + 1 };
            match candidate {
                Some(id) if !self.in_use(id) => return Some(id),
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

/// Steps from one identifier to another on the circle 1..=65,535.
fn distance(from: PacketId, to: PacketId) -> usize {
    let (from, to) = (usize::from(from.get()), usize::from(to.get()));
    if to >= from { to - from } else { to + usize::from(u16::MAX) - from }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(window: &mut Window) -> PacketId {
        window.send(Phase::PubAck, None, None).unwrap()
    }

    #[test]
    fn identifiers_are_unique_while_in_flight_and_skip_zero() {
        let mut window = Window::default();
        let straggler = send(&mut window);
        for _ in 0..200_000 {
            let id = send(&mut window);
            assert_ne!(id, straggler);
            assert!(window.finish(id, Phase::PubAck).is_some());
        }
        assert_eq!(window.unfinished(), 1);
        assert!(window.entries.len() <= 33, "finished entries pile up: {}", window.entries.len());
    }

    #[test]
    fn identifiers_past_several_stragglers_are_unique() {
        for stragglers in [vec![1, 65_535], vec![1, 2, 65_534, 65_535], vec![1, 30_000, 65_535]] {
            let mut window = Window::default();
            let mut in_use = std::collections::BTreeSet::new();
            for number in 1..=200_000_u32 {
                let id = send(&mut window);
                assert!(in_use.insert(id), "{id:?} is in use, {stragglers:?}");
                if number > 65_535 || !stragglers.contains(&number) {
                    assert!(window.finish(id, Phase::PubAck).is_some());
                    in_use.remove(&id);
                }
            }
        }
    }

    #[test]
    fn all_identifiers_can_be_in_flight_and_then_none_is_left() {
        let mut window = Window::default();
        let ids: Vec<_> = (0..65_535).map(|_| send(&mut window)).collect();
        assert_eq!(window.send(Phase::PubAck, None, None), None);
        assert!(window.finish(ids[40_000], Phase::PubAck).is_some());
        assert_eq!(send(&mut window), ids[40_000]);
    }

    #[test]
    fn an_acknowledgement_of_the_wrong_kind_changes_nothing() {
        let mut window = Window::default();
        let id = send(&mut window);
        assert!(window.finish(id, Phase::PubRec).is_none());
        assert!(window.finish(id, Phase::PubComp).is_none());
        assert_eq!(window.unfinished(), 1);
        assert!(window.finish(id, Phase::PubAck).is_some());
        assert!(window.finish(id, Phase::PubAck).is_none());
    }

    #[test]
    fn out_of_order_acknowledgements_keep_the_order_of_the_rest() {
        let mut window = Window::default();
        let ids: Vec<_> = (0..100).map(|_| send(&mut window)).collect();
        for id in ids.iter().skip(1).step_by(2) {
            assert!(window.finish(*id, Phase::PubAck).is_some());
        }
        let left: Vec<_> = window.iter_mut().map(|entry| entry.packet_id).collect();
        let expected: Vec<_> = ids.iter().step_by(2).copied().collect();
        assert_eq!(left, expected);
        assert_eq!(usize::from(window.unfinished()), expected.len());
    }
}
