//! CONNECT, §3.1, in its three versions, and CONNACK, §3.2.
//!
//! A CONNECT says itself which version it is in, so it is the one packet that is decoded without being told.

use super::frame::read_header;
use super::property::{Place, Property, PropertyValues, put_optional, put_user_properties, take_list};
use super::publish::read_message_properties;
use super::wire::{Reader, put_binary, put_frame, put_two_byte_integer, put_with_length};
use super::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, DecodeError, Detail, EncodeError, PacketType,
    ProtocolVersion, QoS, ReasonCode, Will, library,
};

const CLEAN_START: u8 = 0x02;
const WILL_FLAG: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// Which version the CONNECT at the start of `input` is in, as soon as its first bytes tell, even if it is
/// wrong further on or not there in full: in that version its sender is to be answered. `None` if it is no
/// CONNECT, of no version, or too short yet.
pub fn connect_version(input: &[u8]) -> Option<ProtocolVersion> {
    let header = read_header(input).ok().flatten()?;
    let body = input.get(header.header_length..)?;
    if header.packet_type() == Some(PacketType::Connect) {
        read_version(&mut Reader::new(body)).ok()
    } else {
        None
    }
}

/// Decodes what follows the fixed header of a CONNECT.
pub(super) fn decode_connect_body(body: &[u8]) -> Result<Connect<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let version = read_version(&mut reader)?;
    let flags = reader.byte()?;
    check_flags(version, flags)?;
    let keep_alive = reader.two_byte_integer()?;
    let properties = match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ConnectProperties::default(),
        ProtocolVersion::V5 => read_connect_properties(&mut reader)?,
    };
    let client_id = reader.string()?;
    let will = if flags & WILL_FLAG != 0 { Some(read_will(&mut reader, version, flags)?) } else { None };
    // 3.1 §3.1 lets both be missing although they were announced.
    let may_be_missing = version == ProtocolVersion::V3_1;
    let is_there = |reader: &Reader<'_>, flag| flags & flag != 0 && !(may_be_missing && reader.is_empty());
    let username = if is_there(&reader, USER_NAME) { Some(reader.string()?) } else { None };
    let password = if is_there(&reader, PASSWORD) { Some(reader.binary()?) } else { None };
    reader.finish()?;
    let clean_start = flags & CLEAN_START != 0;
    if client_id.is_empty() {
        match version {
            ProtocolVersion::V3_1 => return Err(DecodeError::ClientIdEmpty),
            ProtocolVersion::V3_1_1 if !clean_start => return Err(DecodeError::ClientIdEmpty),
            ProtocolVersion::V3_1_1 | ProtocolVersion::V5 => {}
        }
    }
    Ok(Connect { version, clean_start, keep_alive, client_id, will, username, password, properties })
}

/// Protocol name and level.
fn read_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name = reader.binary()?;
    if !matches!(name, b"MQTT" | b"MQIsdp") {
        return Err(DecodeError::ProtocolName);
    }
    match (name, reader.byte()?) {
        (b"MQIsdp", 3) => Ok(ProtocolVersion::V3_1),
        (b"MQTT", 4) => Ok(ProtocolVersion::V3_1_1),
        (b"MQTT", 5) => Ok(ProtocolVersion::V5),
        (_, level) => Err(DecodeError::UnsupportedProtocolLevel(level)),
    }
}

fn check_flags(version: ProtocolVersion, flags: u8) -> Result<(), DecodeError> {
    // 3.1 says of the lowest bit only that it is not used.
    if flags & 1 != 0 && version != ProtocolVersion::V3_1 {
        return Err(DecodeError::ConnectFlagReserved);
    }
    let has_will = flags & WILL_FLAG != 0;
    // In 3.1 what is said of a Will that is not there is disregarded.
    if !has_will && flags & (WILL_QOS | WILL_RETAIN) != 0 && version != ProtocolVersion::V3_1 {
        return Err(DecodeError::WillFlagsWithoutWill);
    }
    if has_will && flags & WILL_QOS == WILL_QOS {
        return Err(DecodeError::InvalidQoS);
    }
    if flags & (USER_NAME | PASSWORD) == PASSWORD && version != ProtocolVersion::V5 {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    Ok(())
}

fn read_connect_properties<'a>(reader: &mut Reader<'a>) -> Result<ConnectProperties<'a>, DecodeError> {
    let values = PropertyValues::read(reader, PacketType::Connect)?;
    Ok(ConnectProperties {
        session_expiry_interval: values.session_expiry_interval,
        receive_maximum: values.receive_maximum,
        maximum_packet_size: values.maximum_packet_size,
        topic_alias_maximum: values.topic_alias_maximum,
        request_response_information: values.request_response_information,
        request_problem_information: values.request_problem_information,
        user_properties: values.user_properties,
        authentication_method: values.authentication_method,
        authentication_data: values.authentication_data,
    })
}

fn read_will<'a>(
    reader: &mut Reader<'a>,
    version: ProtocolVersion,
    flags: u8,
) -> Result<Will<'a>, DecodeError> {
    let (properties, delay_interval) = match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => Default::default(),
        ProtocolVersion::V5 => read_message_properties(take_list(reader)?, Place::Will)?,
    };
    Ok(Will {
        qos: match flags & WILL_QOS {
            0x00 => QoS::AtMostOnce,
            0x08 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        },
        retain: flags & WILL_RETAIN != 0,
        topic: reader.string()?,
        payload: reader.binary()?,
        delay_interval,
        properties,
    })
}

/// Appends a CONNECT in its own version.
pub(super) fn encode(connect: &Connect<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Connect { version, clean_start, keep_alive, client_id, will, username, password, properties } =
        connect;
    put_frame(out, PacketType::Connect, |out| {
        let (name, level): (&[u8], _) = match version {
            ProtocolVersion::V3_1 => (b"MQIsdp", 3),
            ProtocolVersion::V3_1_1 => (b"MQTT", 4),
            ProtocolVersion::V5 => (b"MQTT", 5),
        };
        let set = |flag, condition| if condition { flag } else { 0 };
        put_binary(out, name)?;
        out.push(level);
        out.push(
            set(CLEAN_START, *clean_start)
                | will
                    .as_ref()
                    .map_or(0, |will| WILL_FLAG | (will.qos as u8) << 3 | set(WILL_RETAIN, will.retain))
                | set(USER_NAME, username.is_some())
                | set(PASSWORD, password.is_some()),
        );
        put_two_byte_integer(out, *keep_alive);
        let has_properties = *version == ProtocolVersion::V5;
        if has_properties {
            put_with_length(out, |out| put_connect_properties(out, properties))?;
        }
        put_binary(out, client_id.as_bytes())?;
        if let Some(will) = will {
            if has_properties {
                put_with_length(out, |out| {
                    out.extend_from_slice(will.properties.raw);
                    Ok(())
                })?;
            }
            put_binary(out, will.topic.as_bytes())?;
            put_binary(out, will.payload)?;
        }
        if let Some(username) = username {
            put_binary(out, username.as_bytes())?;
        }
        password.map_or(Ok(()), |password| put_binary(out, password))
    })
}

fn put_connect_properties(out: &mut Vec<u8>, properties: &ConnectProperties<'_>) -> Result<(), EncodeError> {
    let ConnectProperties {
        session_expiry_interval,
        receive_maximum,
        maximum_packet_size,
        topic_alias_maximum,
        request_response_information,
        request_problem_information,
        user_properties,
        authentication_method,
        authentication_data,
    } = properties;
    put_optional(out, *session_expiry_interval, Property::SessionExpiryInterval)?;
    put_optional(out, *receive_maximum, Property::ReceiveMaximum)?;
    put_optional(out, *maximum_packet_size, Property::MaximumPacketSize)?;
    put_optional(out, *topic_alias_maximum, Property::TopicAliasMaximum)?;
    put_optional(out, *request_response_information, Property::RequestResponseInformation)?;
    put_optional(out, *request_problem_information, Property::RequestProblemInformation)?;
    put_user_properties(out, user_properties)?;
    put_optional(out, *authentication_method, Property::AuthenticationMethod)?;
    put_optional(out, *authentication_data, Property::AuthenticationData)
}

/// Decodes what follows the fixed header of a CONNACK.
pub(super) fn decode_connack<'a>(
    version: ProtocolVersion,
    body: &'a [u8],
) -> Result<ConnAck<'a>, DecodeError> {
    let mut reader = Reader::new(body);
    let flags = reader.byte()?;
    let code = reader.byte()?;
    let (reason, properties) = match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
            reader.finish()?;
            (library::decode_connack_reason(flags, code)?, ConnAckProperties::default())
        }
        ProtocolVersion::V5 => {
            let reason = ReasonCode::read(code, PacketType::ConnAck)?;
            let properties = read_connack_properties(&mut reader)?;
            reader.finish()?;
            (reason, properties)
        }
    };
    let session_present = match (version, flags) {
        // A reserved byte in 3.1.
        (ProtocolVersion::V3_1, _) => false,
        (ProtocolVersion::V3_1_1 | ProtocolVersion::V5, 0) => false,
        (ProtocolVersion::V3_1_1 | ProtocolVersion::V5, 1) if reason == ReasonCode::Success => true,
        (ProtocolVersion::V3_1_1 | ProtocolVersion::V5, _) => return Err(DecodeError::ConnAckFlags(flags)),
    };
    Ok(ConnAck { session_present, reason, properties })
}

fn read_connack_properties<'a>(reader: &mut Reader<'a>) -> Result<ConnAckProperties<'a>, DecodeError> {
    let values = PropertyValues::read(reader, PacketType::ConnAck)?;
    Ok(ConnAckProperties {
        session_expiry_interval: values.session_expiry_interval,
        receive_maximum: values.receive_maximum,
        maximum_qos: values.maximum_qos,
        retain_available: values.retain_available,
        maximum_packet_size: values.maximum_packet_size,
        assigned_client_identifier: values.assigned_client_identifier,
        topic_alias_maximum: values.topic_alias_maximum,
        reason_string: values.reason_string,
        user_properties: values.user_properties,
        wildcard_subscription_available: values.wildcard_subscription_available,
        subscription_identifiers_available: values.subscription_identifiers_available,
        shared_subscription_available: values.shared_subscription_available,
        server_keep_alive: values.server_keep_alive,
        response_information: values.response_information,
        server_reference: values.server_reference,
        authentication_method: values.authentication_method,
        authentication_data: values.authentication_data,
    })
}

/// Appends a CONNACK with nothing but a reason. It always fits.
pub(super) fn encode_connack(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    session_present: bool,
    reason: ReasonCode,
) {
    match version {
        ProtocolVersion::V3_1 => library::encode_connack(out, false, reason),
        ProtocolVersion::V3_1_1 => library::encode_connack(out, session_present, reason),
        ProtocolVersion::V5 => {
            let first_byte = PacketType::ConnAck.first_byte();
            out.extend_from_slice(&[first_byte, 3, u8::from(session_present), reason as u8, 0]);
        }
    }
}

/// Appends a CONNACK.
pub(super) fn encode_full_connack(
    connack: &ConnAck<'_>,
    version: ProtocolVersion,
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let ConnAck { session_present, reason, properties } = connack;
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
            encode_connack(out, version, *session_present, *reason);
            Ok(())
        }
        ProtocolVersion::V5 => put_frame(out, PacketType::ConnAck, |out| {
            out.push(u8::from(*session_present));
            out.push(*reason as u8);
            put_with_length(out, |out| put_connack_properties(out, properties, detail))
        }),
    }
}

fn put_connack_properties(
    out: &mut Vec<u8>,
    properties: &ConnAckProperties<'_>,
    detail: Detail,
) -> Result<(), EncodeError> {
    let ConnAckProperties {
        session_expiry_interval,
        receive_maximum,
        maximum_qos,
        retain_available,
        maximum_packet_size,
        assigned_client_identifier,
        topic_alias_maximum,
        reason_string,
        user_properties,
        wildcard_subscription_available,
        subscription_identifiers_available,
        shared_subscription_available,
        server_keep_alive,
        response_information,
        server_reference,
        authentication_method,
        authentication_data,
    } = properties;
    put_optional(out, *session_expiry_interval, Property::SessionExpiryInterval)?;
    put_optional(out, *receive_maximum, Property::ReceiveMaximum)?;
    // 2 must not be sent: leaving it out says it, §3.2.2.3.4.
    put_optional(out, maximum_qos.filter(|qos| *qos != QoS::ExactlyOnce), Property::MaximumQoS)?;
    put_optional(out, *retain_available, Property::RetainAvailable)?;
    put_optional(out, *maximum_packet_size, Property::MaximumPacketSize)?;
    put_optional(out, *assigned_client_identifier, Property::AssignedClientIdentifier)?;
    put_optional(out, *topic_alias_maximum, Property::TopicAliasMaximum)?;
    put_optional(out, detail.reason_string(*reason_string), Property::ReasonString)?;
    put_user_properties(out, detail.user_properties(user_properties))?;
    put_optional(out, *wildcard_subscription_available, Property::WildcardSubscriptionAvailable)?;
    put_optional(out, *subscription_identifiers_available, Property::SubscriptionIdentifierAvailable)?;
    put_optional(out, *shared_subscription_available, Property::SharedSubscriptionAvailable)?;
    put_optional(out, *server_keep_alive, Property::ServerKeepAlive)?;
    put_optional(out, *response_information, Property::ResponseInformation)?;
    put_optional(out, *server_reference, Property::ServerReference)?;
    put_optional(out, *authentication_method, Property::AuthenticationMethod)?;
    put_optional(out, *authentication_data, Property::AuthenticationData)
}
