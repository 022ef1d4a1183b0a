//! PUBACK, PUBREC, PUBREL and PUBCOMP, §3.4 to §3.7: the same form four times.
//!
//! One comes and goes for every message of QoS 1, three for QoS 2, so both directions are free of allocations
//! when there is nothing but a reason in them.

use super::frame::check_first_byte;
use super::property::{Property, PropertyValues, put_optional, put_user_properties};
use super::wire::{Reader, put_frame, put_packet_id, put_with_length};
use super::{
    Acknowledgement, DecodeError, Detail, EncodeError, PacketId, PacketType, ProtocolVersion, ReasonCode,
};

/// Which of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    /// As one of all packet types.
    pub const fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }
}

/// Bytes of one of the four in its shortest form.
pub const SHORTEST: usize = 4;

/// Decodes what follows the fixed header of one of the four.
#[inline]
pub fn decode_acknowledgement<'a>(
    version: ProtocolVersion,
    kind: AckKind,
    first_byte: u8,
    body: &'a [u8],
) -> Result<Acknowledgement<'a>, DecodeError> {
    let packet = kind.packet_type();
    check_first_byte(version, first_byte, packet)?;
    let mut reader = Reader::new(body);
    let mut acknowledgement = Acknowledgement {
        packet_id: reader.packet_id()?,
        reason: ReasonCode::Success,
        reason_string: None,
        user_properties: Vec::new(),
    };
    if version == ProtocolVersion::V5 && !reader.is_empty() {
        acknowledgement.reason = ReasonCode::read(reader.byte()?, packet)?;
        if !reader.is_empty() {
            let values = PropertyValues::read(&mut reader, packet)?;
            acknowledgement.reason_string = values.reason_string;
            acknowledgement.user_properties = values.user_properties;
        }
    }
    reader.finish()?;
    Ok(acknowledgement)
}

/// The Packet Identifiers of the acknowledgements of one kind at the start of `input`, up to the first that is not in its
/// shortest form, which is the same in all versions and nearly always used.
#[inline]
pub fn shortest_acknowledgements(input: &[u8], kind: AckKind) -> impl Iterator<Item = PacketId> {
    let first_byte = kind.packet_type().first_byte();
    input.chunks_exact(SHORTEST).map_while(move |packet| match *packet {
        [first, 2, high, low] if first == first_byte => PacketId::new(u16::from_be_bytes([high, low])),
        _ => None,
    })
}

/// Appends one of the four in its shortest form: 5.0 leaves out the reason when it is Success, 3.x always.
#[inline]
pub fn encode_acknowledgement(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    kind: AckKind,
    packet_id: PacketId,
    reason: ReasonCode,
) {
    let first_byte = kind.packet_type().first_byte();
    let [high, low] = packet_id.get().to_be_bytes();
    if version == ProtocolVersion::V5 && reason != ReasonCode::Success {
        out.extend_from_slice(&[first_byte, 3, high, low, reason as u8]);
    } else {
        out.extend_from_slice(&[first_byte, 2, high, low]);
    }
}

/// Appends acknowledgements of one kind that say Success, in their shortest form, which is the same in all versions: one for
/// each identifier, `at_most` so many.
#[inline]
pub fn encode_shortest_acknowledgements(
    out: &mut Vec<u8>,
    kind: AckKind,
    packet_ids: impl Iterator<Item = PacketId>,
    at_most: usize,
) {
    let first_byte = kind.packet_type().first_byte();
    let start = out.len();
    out.resize(start + at_most * SHORTEST, 0);
    let (places, _) = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<SHORTEST>();
    let mut written = 0;
    for (place, packet_id) in places.iter_mut().zip(packet_ids) {
        let [high, low] = packet_id.get().to_be_bytes();
        *place = [first_byte, 2, high, low];
        written += SHORTEST;
    }
    out.truncate(start + written);
}

/// Appends one of the four with its properties.
pub(super) fn encode(
    kind: AckKind,
    acknowledgement: &Acknowledgement<'_>,
    version: ProtocolVersion,
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let Acknowledgement { packet_id, reason, reason_string, user_properties } = acknowledgement;
    let reason_string = detail.reason_string(*reason_string);
    let user_properties = detail.user_properties(user_properties);
    if version != ProtocolVersion::V5 || reason_string.is_none() && user_properties.is_empty() {
        encode_acknowledgement(out, version, kind, *packet_id, *reason);
        return Ok(());
    }
    put_frame(out, kind.packet_type(), |out| {
        put_packet_id(out, *packet_id);
        out.push(*reason as u8);
        put_with_length(out, |out| {
            put_optional(out, reason_string, Property::ReasonString)?;
            put_user_properties(out, user_properties)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_written_as_one_by_one_and_read_back() {
        let packet_ids: Vec<PacketId> =
            [1, 2, 255, 256, 65_535].into_iter().filter_map(PacketId::new).collect();
        for kind in [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp] {
            for (at_most, count) in [(0, 0), (2, 2), (5, 5), (9, 5)] {
                let mut many = b"before".to_vec();
                let mut one_by_one = many.clone();
                encode_shortest_acknowledgements(&mut many, kind, packet_ids.iter().copied(), at_most);
                for packet_id in &packet_ids[..count] {
                    let success = ReasonCode::Success;
                    encode_acknowledgement(&mut one_by_one, ProtocolVersion::V5, kind, *packet_id, success);
                }
                assert_eq!(many, one_by_one);
                assert!(shortest_acknowledgements(&many[6..], kind).eq(packet_ids[..count].iter().copied()));
            }
        }
    }
}
