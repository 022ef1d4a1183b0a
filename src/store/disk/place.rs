//! Where things are on disk, and how far rows are, in as few bytes as will do.

use super::super::record::RowState;
use super::rows::Entry;
use crate::codec::PacketId;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The segment; 0: nowhere.
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
}

/// Where a row is, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowEntry {
    pub segment: u32,
    /// Of its message.
    pub message: u32,
    /// Of the row itself.
    pub row: u32,
    /// From the lowest bit: the lowest byte of the row's number, 2 bits of state, 16 of packet identifier, 6 of size.
    packed: u32,
}

impl Entry for RowEntry {
    fn low(&self) -> u8 {
        self.packed as u8
    }
}

impl RowEntry {
    pub fn new(seq: u64, place: Place, message: u32, state: RowState) -> Self {
        let packed = (seq & 0xFF) as u32 | u32::from(Size::of(place.length).0) << 26;
        let mut entry = Self { segment: place.segment, message, row: place.offset, packed };
        entry.set_state(state);
        entry
    }

    pub fn state(&self) -> RowState {
        let packet_id = PacketId::new((self.packed >> 10) as u16);
        match (self.packed >> 8 & 3, packet_id) {
            (1, Some(packet_id)) => RowState::Sent(packet_id),
            (2, Some(packet_id)) => RowState::Released(packet_id),
            _ => RowState::Waiting,
        }
    }

    pub fn set_state(&mut self, state: RowState) {
        let (kind, packet_id) = match state {
            RowState::Waiting => (0, 0),
            RowState::Sent(packet_id) => (1, packet_id.get()),
            RowState::Released(packet_id) => (2, packet_id.get()),
        };
        self.packed = self.packed & !(0x3FFFF << 8) | kind << 8 | u32::from(packet_id) << 10;
    }

    /// Bytes that it keeps alive, its share of the message included; roughly, but always the same.
    pub fn live(&self) -> i64 {
        Size((self.packed >> 26) as u8).bytes()
    }
}

/// A size in six bits: two or three, times a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u8);

impl Size {
    fn of(bytes: u32) -> Self {
        let bytes = bytes.max(2);
        let exponent = bytes.ilog2() - 1;
        let above = bytes >> exponent; // 2 or 3
        let half = exponent > 0 && bytes >> (exponent - 1) & 1 == 1;
        // Rounded to the nearest; three becomes the next power's two.
        let code = (exponent << 1 | (above & 1)) + u32::from(half);
        Self(code.min(63) as u8)
    }

    fn bytes(self) -> i64 {
        i64::from(2 | (self.0 & 1)) << (self.0 >> 1)
    }
}

/// The further of two states; of two that are equally far, the later one.
pub(super) fn further(known: RowState, later: RowState) -> RowState {
    let rank = |state| match state {
        RowState::Waiting => 0,
        RowState::Sent(_) => 1,
        RowState::Released(_) => 2,
    };
    if rank(known) > rank(later) { known } else { later }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_right_within_a_quarter() {
        for bytes in (2..4096).chain([1 << 20, (1 << 20) + (1 << 19), u32::MAX / 2]) {
            let size = Size::of(bytes).bytes();
            assert!((size - i64::from(bytes)).abs() * 4 <= i64::from(bytes), "{bytes} became {size}");
        }
    }

    #[test]
    fn states_survive_being_packed() {
        let id = |number| PacketId::new(number).unwrap();
        let place = Place { segment: 7, offset: 8, length: 300 };
        for state in [RowState::Waiting, RowState::Sent(id(65_535)), RowState::Released(id(1))] {
            let entry = RowEntry::new(0x1FF, place, 9, state);
            assert_eq!((entry.state(), entry.low(), entry.live()), (state, 0xFF, 256));
        }
    }
}
