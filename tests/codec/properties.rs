//! What holds for every packet, and for every sequence of bytes.

use fulmar::codec::{
    DecodeError, Packet, ProtocolVersion, connect_version, decode, decode_body, decode_connect,
    decode_publish, read_header,
};
use proptest::prelude::*;

use crate::{VERSIONS, frame, packets};

fn encode(version: ProtocolVersion, packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(version, &mut out).unwrap();
    out
}

proptest! {
    #[test]
    fn what_was_written_is_read_back((version, packet) in packets::packet()) {
        let bytes = encode(version, &packet);
        prop_assert_eq!(decode(version, &bytes), Ok(packet));
    }

    #[test]
    fn writing_appends((version, packet) in packets::packet()) {
        let bytes = encode(version, &packet);
        let mut out = b"before".to_vec();
        packet.encode(version, &mut out).unwrap();
        prop_assert_eq!(&out[..6], b"before");
        prop_assert_eq!(&out[6..], bytes);
    }

    /// Cut as the network cuts: the header says how much is missing, or that it is missing itself.
    #[test]
    fn a_part_of_a_packet_is_not_a_packet((version, packet) in packets::packet()) {
        let bytes = encode(version, &packet);
        let whole = read_header(&bytes).unwrap().unwrap();
        prop_assert_eq!(whole.frame_length(), bytes.len());
        prop_assert_eq!(whole.packet_type(), Some(packet.packet_type()));
        for cut in 0..bytes.len() {
            match read_header(&bytes[..cut]) {
                Ok(None) => prop_assert!(cut < whole.header_length),
                Ok(Some(header)) => prop_assert_eq!(header, whole),
                Err(error) => prop_assert!(false, "cut at {}: {}", cut, error),
            }
            prop_assert_eq!(decode(version, &bytes[..cut]), Err(DecodeError::Truncated));
        }
    }

    /// Cut as a liar cuts: the Remaining Length agrees with what is there.
    #[test]
    fn a_packet_cut_short_is_refused((version, packet) in packets::packet()) {
        let bytes = encode(version, &packet);
        let header = read_header(&bytes).unwrap().unwrap();
        let body = &bytes[header.header_length..];
        for cut in 0..body.len() {
            let short = frame(header.first_byte, &body[..cut]);
            if let Ok(other) = decode(version, &short) {
                prop_assert!(may_end_early(version, &packet, &other), "cut at {}: {:?}", cut, other);
                // Then it is a packet in its own right.
                let written = encode(version, &other);
                prop_assert_eq!(decode(version, &written), Ok(other));
            }
        }
    }

    /// A changed byte is refused or makes another packet; what it makes can be written and read again.
    #[test]
    fn a_changed_byte_is_another_packet_or_none(
        (version, packet) in packets::packet(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode(version, &packet);
        let index = at.index(bytes.len());
        bytes[index] = byte;
        if let Ok(changed) = decode(version, &bytes) {
            let written = encode(version, &changed);
            prop_assert_eq!(decode(version, &written), Ok(changed));
        }
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        all_ways_in(&bytes);
    }

    #[test]
    fn any_body_gets_an_answer(
        first_byte in any::<u8>(),
        body in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        all_ways_in(&frame(first_byte, &body));
        for version in VERSIONS {
            // Even past the checks of `read_header`.
            let _ = decode_body(version, first_byte, &body);
            let _ = decode_publish(version, first_byte, &body);
        }
    }

    #[test]
    fn the_header_takes_what_the_packet_takes(first_byte in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..40)) {
        for version in VERSIONS {
            let bytes = frame(first_byte, &body);
            if let Err(error) = read_header(&bytes) {
                prop_assert_eq!(decode(version, &bytes), Err(error));
            }
        }
    }
}

/// Nothing here may panic, and what is accepted must be a packet that can be written.
fn all_ways_in(bytes: &[u8]) {
    let _ = read_header(bytes);
    let _ = connect_version(bytes);
    let _ = decode_connect(bytes);
    for version in VERSIONS {
        match decode(version, bytes) {
            Ok(packet) => {
                let written = encode(version, &packet);
                assert_eq!(decode(version, &written), Ok(packet));
            }
            Err(error) => {
                let mut out = Vec::new();
                error.answer(version).encode(false, &mut out);
                error.answer(version).encode(true, &mut out);
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

/// Packets whose last part may be missing by the standard.
fn may_end_early(version: ProtocolVersion, whole: &Packet<'_>, part: &Packet<'_>) -> bool {
    if whole.packet_type() != part.packet_type() {
        return false;
    }
    match part {
        // Any shorter payload is a payload.
        Packet::Publish(_) => true,
        // One filter or reason less.
        Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::SubAck(_) | Packet::UnsubAck(_) => true,
        // Reason and properties may be left out in 5.0, §3.4.2.1, §3.14.2.1, §3.15.2.1.
        Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::Disconnect(_)
        | Packet::Auth(_) => version == ProtocolVersion::V5,
        // What was announced may be missing in 3.1.
        Packet::Connect(_) => version == ProtocolVersion::V3_1,
        Packet::ConnAck(_) | Packet::PingReq | Packet::PingResp => false,
    }
}
