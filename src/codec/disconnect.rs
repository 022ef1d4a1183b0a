//! DISCONNECT, §3.14, and AUTH, §3.15: short forms, reasons, and in 3.x nothing at all.

use super::property::{Property, PropertyValues, put_optional, put_user_properties};
use super::wire::{Reader, put_frame, put_with_length};
use super::{Auth, DecodeError, Detail, Disconnect, EncodeError, PacketType, ProtocolVersion, ReasonCode};

/// Decodes what follows the fixed header of a DISCONNECT.
pub(super) fn decode_disconnect(
    version: ProtocolVersion,
    body: &[u8],
) -> Result<Disconnect<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let mut disconnect = Disconnect {
        reason: ReasonCode::Success,
        session_expiry_interval: None,
        reason_string: None,
        user_properties: Vec::new(),
        server_reference: None,
    };
    if version == ProtocolVersion::V5 && !reader.is_empty() {
        disconnect.reason = ReasonCode::read(reader.byte()?, PacketType::Disconnect)?;
        if !reader.is_empty() {
            let values = PropertyValues::read(&mut reader, PacketType::Disconnect)?;
            disconnect.session_expiry_interval = values.session_expiry_interval;
            disconnect.reason_string = values.reason_string;
            disconnect.user_properties = values.user_properties;
            disconnect.server_reference = values.server_reference;
        }
    }
    reader.finish()?;
    Ok(disconnect)
}

/// Decodes what follows the fixed header of an AUTH.
pub(super) fn decode_auth(body: &[u8]) -> Result<Auth<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let mut auth = Auth {
        reason: ReasonCode::Success,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    };
    // §3.15.2.1 allows an AUTH of nothing, §3.15.2.2.2 demands a method: of all that have properties, then.
    if !reader.is_empty() {
        auth.reason = ReasonCode::read(reader.byte()?, PacketType::Auth)?;
        let values = PropertyValues::read(&mut reader, PacketType::Auth)?;
        reader.finish()?;
        if values.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        auth.authentication_method = values.authentication_method;
        auth.authentication_data = values.authentication_data;
        auth.reason_string = values.reason_string;
        auth.user_properties = values.user_properties;
    }
    Ok(auth)
}

/// Appends a 5.0 DISCONNECT with nothing but a reason. It always fits.
pub(super) fn encode_disconnect_reason(out: &mut Vec<u8>, reason: ReasonCode) {
    let first_byte = PacketType::Disconnect.first_byte();
    match reason {
        ReasonCode::Success => out.extend_from_slice(&[first_byte, 0]),
        reason => out.extend_from_slice(&[first_byte, 1, reason as u8]),
    }
}

/// Appends a DISCONNECT.
pub(super) fn encode_disconnect(
    disconnect: &Disconnect<'_>,
    version: ProtocolVersion,
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let Disconnect { reason, session_expiry_interval, reason_string, user_properties, server_reference } =
        disconnect;
    let reason_string = detail.reason_string(*reason_string);
    let user_properties = detail.user_properties(user_properties);
    let has_properties = session_expiry_interval.is_some()
        || reason_string.is_some()
        || !user_properties.is_empty()
        || server_reference.is_some();
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
            encode_disconnect_reason(out, ReasonCode::Success);
            Ok(())
        }
        ProtocolVersion::V5 if !has_properties => {
            encode_disconnect_reason(out, *reason);
            Ok(())
        }
        ProtocolVersion::V5 => put_frame(out, PacketType::Disconnect, |out| {
            out.push(*reason as u8);
            put_with_length(out, |out| {
                put_optional(out, *session_expiry_interval, Property::SessionExpiryInterval)?;
                put_optional(out, reason_string, Property::ReasonString)?;
                put_user_properties(out, user_properties)?;
                put_optional(out, *server_reference, Property::ServerReference)
            })
        }),
    }
}

/// Appends an AUTH.
pub(super) fn encode_auth(
    auth: &Auth<'_>,
    version: ProtocolVersion,
    detail: Detail,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let Auth { reason, authentication_method, authentication_data, reason_string, user_properties } = auth;
    let reason_string = detail.reason_string(*reason_string);
    let user_properties = detail.user_properties(user_properties);
    if version != ProtocolVersion::V5 {
        return Err(EncodeError::AuthBeforeV5);
    }
    let has_properties = authentication_method.is_some()
        || authentication_data.is_some()
        || reason_string.is_some()
        || !user_properties.is_empty();
    put_frame(out, PacketType::Auth, |out| {
        if *reason == ReasonCode::Success && !has_properties {
            return Ok(());
        }
        out.push(*reason as u8);
        put_with_length(out, |out| {
            put_optional(out, *authentication_method, Property::AuthenticationMethod)?;
            put_optional(out, *authentication_data, Property::AuthenticationData)?;
            put_optional(out, reason_string, Property::ReasonString)?;
            put_user_properties(out, user_properties)
        })
    })
}
