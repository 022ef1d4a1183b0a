//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK, §3.8 to §3.11.
//!
//! Filters are given on as text: each has its own answer in the SUBACK, so a bad one does not make a bad packet.

use super::property::{Property, PropertyValues, put_optional, put_user_properties};
use super::wire::{Reader, put_binary, put_frame, put_packet_id, put_with_length};
use super::{
    DecodeError, Detail, EncodeError, PacketType, ProtocolVersion, QoS, ReasonCode, RetainHandling, SubAck,
    Subscribe, SubscriptionOptions, SubscriptionRequest, UnsubAck, Unsubscribe, library,
};

const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;

/// Decodes what follows the fixed header of a SUBSCRIBE.
pub(super) fn decode_subscribe(version: ProtocolVersion, body: &[u8]) -> Result<Subscribe<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let values = read_properties(&mut reader, version, PacketType::Subscribe)?;
    let mut requests = Vec::new();
    while !reader.is_empty() {
        let filter = reader.string()?;
        requests.push(SubscriptionRequest { filter, options: read_options(version, reader.byte()?)? });
    }
    if requests.is_empty() {
        return Err(DecodeError::NoTopicFilters(PacketType::Subscribe));
    }
    Ok(Subscribe {
        packet_id,
        subscription_identifier: values.subscription_identifier,
        user_properties: values.user_properties,
        requests,
    })
}

fn read_options(version: ProtocolVersion, byte: u8) -> Result<SubscriptionOptions, DecodeError> {
    // 3.1 says of all but the QoS only that it is not used.
    let (used, reserved) = match version {
        ProtocolVersion::V3_1 => (0b11, 0),
        ProtocolVersion::V3_1_1 => (0b11, 0b1111_1100),
        ProtocolVersion::V5 => (0b0011_1111, 0b1100_0000),
    };
    if byte & reserved != 0 {
        return Err(DecodeError::SubscriptionOptionsReserved(byte));
    }
    let byte = byte & used;
    Ok(SubscriptionOptions {
        qos: match byte & 0b11 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return Err(DecodeError::InvalidMaximumQoS),
        },
        no_local: byte & NO_LOCAL != 0,
        retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
        retain_handling: match byte >> 4 & 0b11 {
            0 => RetainHandling::SendAlways,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::InvalidRetainHandling),
        },
    })
}

/// Decodes what follows the fixed header of an UNSUBSCRIBE.
pub(super) fn decode_unsubscribe(
    version: ProtocolVersion,
    body: &[u8],
) -> Result<Unsubscribe<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let values = read_properties(&mut reader, version, PacketType::Unsubscribe)?;
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.string()?);
    }
    if filters.is_empty() {
        return Err(DecodeError::NoTopicFilters(PacketType::Unsubscribe));
    }
    Ok(Unsubscribe { packet_id, user_properties: values.user_properties, filters })
}

/// Decodes what follows the fixed header of a SUBACK.
pub(super) fn decode_suback(version: ProtocolVersion, body: &[u8]) -> Result<SubAck<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let values = read_properties(&mut reader, version, PacketType::SubAck)?;
    if reader.is_empty() {
        return Err(DecodeError::NoReasonCodes(PacketType::SubAck));
    }
    let reasons = match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => library::decode_suback_reasons(body)?,
        ProtocolVersion::V5 => read_reasons(reader, PacketType::SubAck)?,
    };
    let PropertyValues { reason_string, user_properties, .. } = values;
    Ok(SubAck { packet_id, reason_string, user_properties, reasons })
}

/// Decodes what follows the fixed header of an UNSUBACK.
pub(super) fn decode_unsuback(version: ProtocolVersion, body: &[u8]) -> Result<UnsubAck<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let values = read_properties(&mut reader, version, PacketType::UnsubAck)?;
    let reasons = match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
            reader.finish()?;
            Vec::new()
        }
        ProtocolVersion::V5 if reader.is_empty() => {
            return Err(DecodeError::NoReasonCodes(PacketType::UnsubAck));
        }
        ProtocolVersion::V5 => read_reasons(reader, PacketType::UnsubAck)?,
    };
    let PropertyValues { reason_string, user_properties, .. } = values;
    Ok(UnsubAck { packet_id, reason_string, user_properties, reasons })
}

fn read_reasons(reader: Reader<'_>, packet: PacketType) -> Result<Vec<ReasonCode>, DecodeError> {
    reader.rest().iter().map(|byte| ReasonCode::read(*byte, packet)).collect()
}

/// The properties, which 3.x does not have.
fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: ProtocolVersion,
    packet: PacketType,
) -> Result<PropertyValues<'a>, DecodeError> {
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => Ok(PropertyValues::default()),
        ProtocolVersion::V5 => PropertyValues::read(reader, packet),
    }
}

/// Appends a SUBSCRIBE.
pub(super) fn encode_subscribe(
    subscribe: &Subscribe<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let Subscribe { packet_id, subscription_identifier, user_properties, requests } = subscribe;
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
            library::encode_subscribe(out, *packet_id, requests)
        }
        ProtocolVersion::V5 => put_frame(out, PacketType::Subscribe, |out| {
            put_packet_id(out, *packet_id);
            put_with_length(out, |out| {
                put_optional(out, *subscription_identifier, Property::SubscriptionIdentifier)?;
                put_user_properties(out, user_properties)
            })?;
            for SubscriptionRequest { filter, options } in requests {
                put_binary(out, filter.as_bytes())?;
                let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling } = options;
                out.push(
                    *qos as u8
                        | if *no_local { NO_LOCAL } else { 0 }
                        | if *retain_as_published { RETAIN_AS_PUBLISHED } else { 0 }
                        | (*retain_handling as u8) << 4,
                );
            }
            Ok(())
        }),
    }
}

/// Appends an UNSUBSCRIBE.
pub(super) fn encode_unsubscribe(
    unsubscribe: &Unsubscribe<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let Unsubscribe { packet_id, user_properties, filters } = unsubscribe;
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
            library::encode_unsubscribe(out, *packet_id, filters)
        }
        ProtocolVersion::V5 => put_frame(out, PacketType::Unsubscribe, |out| {
            put_packet_id(out, *packet_id);
            put_with_length(out, |out| put_user_properties(out, user_properties))?;
            filters.iter().try_for_each(|filter| put_binary(out, filter.as_bytes()))
        }),
    }
}

/// Appends a SUBACK.
pub(super) fn encode_suback(
    suback: &SubAck<'_>,
    version: ProtocolVersion,
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let SubAck { packet_id, reason_string, user_properties, reasons } = suback;
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => library::encode_suback(out, *packet_id, reasons),
        ProtocolVersion::V5 => put_frame(out, PacketType::SubAck, |out| {
            put_packet_id(out, *packet_id);
            put_with_length(out, |out| {
                put_optional(out, detail.reason_string(*reason_string), Property::ReasonString)?;
                put_user_properties(out, detail.user_properties(user_properties))
            })?;
            out.extend(reasons.iter().map(|reason| *reason as u8));
            Ok(())
        }),
    }
}

/// Appends an UNSUBACK.
pub(super) fn encode_unsuback(
    unsuback: &UnsubAck<'_>,
    version: ProtocolVersion,
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let UnsubAck { packet_id, reason_string, user_properties, reasons } = unsuback;
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => library::encode_unsuback(out, *packet_id),
        ProtocolVersion::V5 => put_frame(out, PacketType::UnsubAck, |out| {
            put_packet_id(out, *packet_id);
            put_with_length(out, |out| {
                put_optional(out, detail.reason_string(*reason_string), Property::ReasonString)?;
                put_user_properties(out, detail.user_properties(user_properties))
            })?;
            out.extend(reasons.iter().map(|reason| *reason as u8));
            Ok(())
        }),
    }
}
