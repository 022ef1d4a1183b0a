//! The identifiers of a client's QoS 2 messages that were received and not released yet [MQTT-4.3.3-10].
//!
//! Owner: [`super::Session`], under its lock. Clients give out identifiers in turn and release them in that order, so what
//! is kept are ranges: one for most clients, two while it goes round. What always holds: the ranges are in order, apart
//! from each other, and none is empty.

use hashbrown::HashMap;

use crate::codec::PacketId;
use crate::store::CommitSeq;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Received {
    ranges: Vec<Range>,
    count: u16,
    /// What commits that they were received, if the store keeps the session.
    commits: HashMap<PacketId, CommitSeq>,
}

/// All identifiers from the first to the last.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u16,
    last: u16,
}

impl Received {
    /// Those that the store had when it was opened.
    pub fn restore(packet_ids: &[PacketId]) -> Self {
        let mut received = Self::default();
        for packet_id in packet_ids {
            // One that is there twice is there.
            let _ = received.insert(*packet_id, CommitSeq::default());
        }
        received
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one whose reception is committed with `sequence`; if it is there already, what commits that.
    pub fn insert(&mut self, packet_id: PacketId, sequence: CommitSeq) -> Result<(), CommitSeq> {
        let number = packet_id.get();
        let index = self.index_of(number);
        let (before, behind) = self.ranges.split_at_mut_checked(index).unwrap_or_default();
        if behind.first().is_some_and(|range| range.first <= number) {
            return Err(self.commits.get(&packet_id).copied().unwrap_or_default());
        }
        let follows = before.last_mut().filter(|range| range.last + 1 == number);
        let precedes = behind.first_mut().filter(|range| range.first - 1 == number);
        match (follows, precedes) {
            (Some(range), Some(next)) => {
                range.last = next.last;
                self.ranges.remove(index);
            }
            (Some(range), None) => range.last = number,
            (None, Some(range)) => range.first = number,
            (None, None) => self.ranges.insert(index, Range { first: number, last: number }),
        }
        self.count += 1;
        if sequence != CommitSeq::default() {
            self.commits.insert(packet_id, sequence);
        }
        Ok(())
    }

    /// Takes one out; whether it was there.
    pub fn remove(&mut self, packet_id: PacketId) -> bool {
        let number = packet_id.get();
        let index = self.index_of(number);
        let Some(range) = self.ranges.get_mut(index).filter(|range| range.first <= number) else {
            return false;
        };
        let Range { first, last } = *range;
        match (first == number, last == number) {
            (true, true) => {
                self.ranges.remove(index);
            }
            (true, false) => range.first += 1,
            (false, true) => range.last -= 1,
            (false, false) => {
                range.first = number + 1;
                self.ranges.insert(index, Range { first, last: number - 1 });
            }
        }
        self.count -= 1;
        self.commits.remove(&packet_id);
        if self.count == 0 && (self.ranges.capacity() > 64 || self.commits.capacity() > 64) {
            *self = Self::default();
        }
        true
    }

    /// Where the range is that has this identifier, or else the first behind it.
    fn index_of(&self, number: u16) -> usize {
        match self.ranges.last() {
            // As with most that are added.
            Some(last) if last.last < number => self.ranges.len(),
            _ => self.ranges.partition_point(|range| range.last < number),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(operations in prop::collection::vec((any::<bool>(), 0_u16..40), 0..400), base in 0..3_usize) {
            // At the start, in the middle, and at the end of the identifiers.
            let base = [1, 30_000, u16::MAX - 39][base];
            let (mut received, mut model) = (Received::default(), BTreeMap::new());
            for (sequence, (is_added, number)) in operations.into_iter().enumerate() {
                let packet_id = PacketId::new(base + number).unwrap();
                // Some of no session that is kept.
                let sequence = CommitSeq(sequence as u64 / 2 % 5);
                if is_added {
                    let expected = model.get(&packet_id).copied().map_or(Ok(()), Err);
                    model.entry(packet_id).or_insert(sequence);
                    prop_assert_eq!(received.insert(packet_id, sequence), expected);
                } else {
                    prop_assert_eq!(received.remove(packet_id), model.remove(&packet_id).is_some());
                }
                prop_assert_eq!((received.len(), received.is_empty()), (model.len(), model.is_empty()));
                let listed: Vec<u16> = received.ranges.iter().flat_map(|range| range.first..=range.last).collect();
                let expected: Vec<u16> = model.keys().map(|packet_id| packet_id.get()).collect();
                prop_assert_eq!(listed, expected);
                prop_assert!(received.ranges.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
                let kept = model.values().filter(|sequence| **sequence != CommitSeq::default()).count();
                prop_assert_eq!(received.commits.len(), kept);
            }
        }
    }

    #[test]
    fn all_identifiers_in_turn_are_one_range() {
        let mut received = Received::default();
        for number in 1..=u16::MAX {
            assert_eq!(received.insert(PacketId::new(number).unwrap(), CommitSeq::default()), Ok(()));
            assert_eq!(received.ranges.len(), 1);
        }
        assert_eq!(received.len(), 65_535);
        for number in 1..=u16::MAX {
            assert!(received.remove(PacketId::new(number).unwrap()));
            assert!(received.ranges.len() <= 1);
        }
        assert!(received.is_empty());
    }
}
