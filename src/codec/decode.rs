//! From one whole frame to one packet: the dispatch over the fifteen types.

use super::acknowledgement::{AckKind, decode_acknowledgement};
use super::frame::{check_first_byte, read_header};
use super::wire::Reader;
use super::{
    Connect, DecodeError, Packet, PacketType, ProtocolVersion, connect, disconnect, publish, subscribe,
};

/// Decodes one whole packet. A CONNECT is decoded in its own version, whatever `version` says.
pub fn decode<'a>(version: ProtocolVersion, frame: &'a [u8]) -> Result<Packet<'a>, DecodeError> {
    let (first_byte, body) = split_frame(frame)?;
    decode_body(version, first_byte, body)
}

/// Decodes the first packet of a connection.
///
/// # Errors
/// As [`decode`]; a frame of another type is a protocol error that the caller sees from its header.
pub fn decode_connect(frame: &[u8]) -> Result<Connect<'_>, DecodeError> {
    let (first_byte, body) = split_frame(frame)?;
    match PacketType::from_first_byte(first_byte) {
        Some(PacketType::Connect) => connect::decode_connect_body(body),
        Some(_) | None => Err(DecodeError::NotConnect),
    }
}

/// Decodes what follows the fixed header, for callers that have read the header already: `first_byte` must be
/// one that [`read_header`] lets through.
pub fn decode_body<'a>(
    version: ProtocolVersion,
    first_byte: u8,
    body: &'a [u8],
) -> Result<Packet<'a>, DecodeError> {
    let packet = PacketType::from_first_byte(first_byte).ok_or(DecodeError::ReservedPacketType)?;
    let acknowledgement = |kind| decode_acknowledgement(version, kind, first_byte, body);
    check_first_byte(version, first_byte, packet)?;
    match packet {
        PacketType::Connect => connect::decode_connect_body(body).map(Packet::Connect),
        PacketType::ConnAck => connect::decode_connack(version, body).map(Packet::ConnAck),
        PacketType::Publish => publish::decode_publish(version, first_byte, body).map(Packet::Publish),
        PacketType::PubAck => acknowledgement(AckKind::PubAck).map(Packet::PubAck),
        PacketType::PubRec => acknowledgement(AckKind::PubRec).map(Packet::PubRec),
        PacketType::PubRel => acknowledgement(AckKind::PubRel).map(Packet::PubRel),
        PacketType::PubComp => acknowledgement(AckKind::PubComp).map(Packet::PubComp),
        PacketType::Subscribe => subscribe::decode_subscribe(version, body).map(Packet::Subscribe),
        PacketType::SubAck => subscribe::decode_suback(version, body).map(Packet::SubAck),
        PacketType::Unsubscribe => subscribe::decode_unsubscribe(version, body).map(Packet::Unsubscribe),
        PacketType::UnsubAck => subscribe::decode_unsuback(version, body).map(Packet::UnsubAck),
        PacketType::PingReq => Reader::new(body).finish().map(|()| Packet::PingReq),
        PacketType::PingResp => Reader::new(body).finish().map(|()| Packet::PingResp),
        PacketType::Disconnect => disconnect::decode_disconnect(version, body).map(Packet::Disconnect),
        PacketType::Auth => disconnect::decode_auth(body).map(Packet::Auth),
    }
}

/// First byte and body of a frame that is neither too short nor too long.
fn split_frame(frame: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let header = read_header(frame)?.ok_or(DecodeError::Truncated)?;
    let body = frame.get(header.header_length..).ok_or(DecodeError::Truncated)?;
    match body.len().checked_sub(header.remaining_length) {
        None => Err(DecodeError::Truncated),
        Some(0) => Ok((header.first_byte, body)),
        Some(left) => Err(DecodeError::TrailingBytes(left)),
    }
}
