//! What the `mqttbytes` crate does for us at run time: the 3.x control packets whose form it knows.
//!
//! Called by the packets' own files after their checks, because `mqttbytes` looks neither at flags nor at what
//! is left over. It works on buffers of its own, so each call here costs an allocation or two; these packets
//! are exchanged once a connection or subscription. The table in [`super`] says why the rest is not its job.

use bytes::{Bytes, BytesMut};
use mqttbytes::{Error, FixedHeader, v4};

use super::{
    DecodeError, EncodeError, PacketId, PacketType, QoS, ReasonCode, SubscriptionRequest,
    frame::MAXIMUM_REMAINING_LENGTH,
};

/// The reason that the return code of a 3.x CONNACK stands for, 3.1.1 §3.2.2.3.
pub(super) fn decode_connack_reason(flags: u8, code: u8) -> Result<ReasonCode, DecodeError> {
    let (header, frame) = frame_of(PacketType::ConnAck, &[flags, code]);
    let connack = v4::ConnAck::read(header, frame).map_err(|error| refused(PacketType::ConnAck, error))?;
    Ok(match connack.code {
        v4::ConnectReturnCode::Success => ReasonCode::Success,
        v4::ConnectReturnCode::RefusedProtocolVersion => ReasonCode::UnsupportedProtocolVersion,
        v4::ConnectReturnCode::BadClientId => ReasonCode::ClientIdentifierNotValid,
        v4::ConnectReturnCode::ServiceUnavailable => ReasonCode::ServerUnavailable,
        v4::ConnectReturnCode::BadUserNamePassword => ReasonCode::BadUserNameOrPassword,
        v4::ConnectReturnCode::NotAuthorized => ReasonCode::NotAuthorized,
    })
}

/// The reasons in the body of a 3.x SUBACK; 0x80 is read as Unspecified error.
pub(super) fn decode_suback_reasons(body: &[u8]) -> Result<Vec<ReasonCode>, DecodeError> {
    let (header, frame) = frame_of(PacketType::SubAck, body);
    let suback = v4::SubAck::read(header, frame).map_err(|error| refused(PacketType::SubAck, error))?;
    Ok(suback
        .return_codes
        .into_iter()
        .map(|code| match code {
            v4::SubscribeReasonCode::Success(mqttbytes::QoS::AtMostOnce) => ReasonCode::Success,
            v4::SubscribeReasonCode::Success(mqttbytes::QoS::AtLeastOnce) => ReasonCode::GrantedQoS1,
            v4::SubscribeReasonCode::Success(mqttbytes::QoS::ExactlyOnce) => ReasonCode::GrantedQoS2,
            v4::SubscribeReasonCode::Failure => ReasonCode::UnspecifiedError,
        })
        .collect())
}

/// Appends a 3.x CONNACK.
pub(super) fn encode_connack(out: &mut Vec<u8>, session_present: bool, reason: ReasonCode) {
    let connack = v4::ConnAck::new(return_code(reason), session_present);
    let mut buffer = BytesMut::with_capacity(4);
    // Two bytes of Remaining Length cannot fail.
    if connack.write(&mut buffer).is_ok() {
        out.extend_from_slice(&buffer);
    }
}

/// Appends a 3.x SUBACK.
pub(super) fn encode_suback(
    out: &mut Vec<u8>,
    packet_id: PacketId,
    reasons: &[ReasonCode],
) -> Result<(), EncodeError> {
    let codes = reasons.iter().map(|reason| granted(*reason)).collect();
    let suback = v4::SubAck::new(packet_id.get(), codes);
    append(out, suback.len(), |buffer| suback.write(buffer))
}

/// Appends a 3.x UNSUBACK.
pub(super) fn encode_unsuback(out: &mut Vec<u8>, packet_id: PacketId) -> Result<(), EncodeError> {
    append(out, 2, |buffer| v4::UnsubAck::new(packet_id.get()).write(buffer))
}

/// Appends a 3.x SUBSCRIBE.
pub(super) fn encode_subscribe(
    out: &mut Vec<u8>,
    packet_id: PacketId,
    requests: &[SubscriptionRequest<'_>],
) -> Result<(), EncodeError> {
    let mut filters = Vec::with_capacity(requests.len());
    for SubscriptionRequest { filter, options } in requests {
        let qos = match options.qos {
            QoS::AtMostOnce => mqttbytes::QoS::AtMostOnce,
            QoS::AtLeastOnce => mqttbytes::QoS::AtLeastOnce,
            QoS::ExactlyOnce => mqttbytes::QoS::ExactlyOnce,
        };
        filters.push(v4::SubscribeFilter::new(field(filter)?, qos));
    }
    let mut subscribe = v4::Subscribe::new_many(filters);
    subscribe.pkid = packet_id.get();
    append(out, subscribe.len(), |buffer| subscribe.write(buffer))
}

/// Appends a 3.x UNSUBSCRIBE.
pub(super) fn encode_unsubscribe(
    out: &mut Vec<u8>,
    packet_id: PacketId,
    filters: &[&str],
) -> Result<(), EncodeError> {
    let topics = filters.iter().map(|filter| field(filter)).collect::<Result<Vec<_>, _>>()?;
    let length = 2 + topics.iter().map(|topic| 2 + topic.len()).sum::<usize>();
    let unsubscribe = v4::Unsubscribe { pkid: packet_id.get(), topics };
    append(out, length, |buffer| unsubscribe.write(buffer))
}

/// A frame of ours as `mqttbytes` wants it. It only reads the lengths in the header, so one byte of it is enough.
fn frame_of(packet: PacketType, body: &[u8]) -> (FixedHeader, Bytes) {
    let mut frame = Vec::with_capacity(1 + body.len());
    frame.push(packet.first_byte());
    frame.extend_from_slice(body);
    (FixedHeader::new(packet.first_byte(), 0, body.len()), Bytes::from(frame))
}

/// Lets `write` fill a buffer and appends it, unless the body is too large for a packet: `mqttbytes` writes a
/// first byte before it finds out.
fn append(
    out: &mut Vec<u8>,
    length: usize,
    write: impl FnOnce(&mut BytesMut) -> Result<usize, Error>,
) -> Result<(), EncodeError> {
    if length > MAXIMUM_REMAINING_LENGTH {
        return Err(EncodeError::LengthTooLarge(length));
    }
    let mut buffer = BytesMut::with_capacity(5 + length);
    write(&mut buffer).map_err(|_| EncodeError::LengthTooLarge(length))?;
    out.extend_from_slice(&buffer);
    Ok(())
}

/// A text that fits its two bytes of length, which `mqttbytes` would cut off silently.
fn field(text: &str) -> Result<String, EncodeError> {
    if text.len() > usize::from(u16::MAX) {
        return Err(EncodeError::FieldTooLong(text.len()));
    }
    Ok(text.to_owned())
}

fn refused(packet: PacketType, error: Error) -> DecodeError {
    match error {
        Error::InvalidConnectReturnCode(code) | Error::InvalidSubscribeReasonCode(code) => {
            DecodeError::ReasonNotAllowed { packet, code }
        }
        // A foreign enum; what is left speaks of fields that are not there.
        _ => DecodeError::Truncated,
    }
}

/// 0x80 for every refusal: 3.1.1 §3.9.3 knows one, and 3.1 none, whose clients had better see one too.
fn granted(reason: ReasonCode) -> v4::SubscribeReasonCode {
    if reason.is_error() {
        return v4::SubscribeReasonCode::Failure;
    }
    v4::SubscribeReasonCode::Success(if reason == ReasonCode::GrantedQoS2 {
        mqttbytes::QoS::ExactlyOnce
    } else if reason == ReasonCode::GrantedQoS1 {
        mqttbytes::QoS::AtLeastOnce
    } else {
        mqttbytes::QoS::AtMostOnce
    })
}

/// The nearest of the six return codes, 3.1.1 §3.2.2.3.
fn return_code(reason: ReasonCode) -> v4::ConnectReturnCode {
    match reason {
        ReasonCode::Success
        | ReasonCode::GrantedQoS1
        | ReasonCode::GrantedQoS2
        | ReasonCode::DisconnectWithWillMessage
        | ReasonCode::NoMatchingSubscribers
        | ReasonCode::NoSubscriptionExisted
        | ReasonCode::ContinueAuthentication
        | ReasonCode::ReAuthenticate => v4::ConnectReturnCode::Success,
        ReasonCode::UnsupportedProtocolVersion => v4::ConnectReturnCode::RefusedProtocolVersion,
        ReasonCode::ClientIdentifierNotValid => v4::ConnectReturnCode::BadClientId,
        ReasonCode::BadUserNameOrPassword | ReasonCode::BadAuthenticationMethod => {
            v4::ConnectReturnCode::BadUserNamePassword
        }
        ReasonCode::NotAuthorized | ReasonCode::Banned => v4::ConnectReturnCode::NotAuthorized,
        ReasonCode::UnspecifiedError
        | ReasonCode::MalformedPacket
        | ReasonCode::ProtocolError
        | ReasonCode::ImplementationSpecificError
        | ReasonCode::ServerUnavailable
        | ReasonCode::ServerBusy
        | ReasonCode::ServerShuttingDown
        | ReasonCode::KeepAliveTimeout
        | ReasonCode::SessionTakenOver
        | ReasonCode::TopicFilterInvalid
        | ReasonCode::TopicNameInvalid
        | ReasonCode::PacketIdentifierInUse
        | ReasonCode::PacketIdentifierNotFound
        | ReasonCode::ReceiveMaximumExceeded
        | ReasonCode::TopicAliasInvalid
        | ReasonCode::PacketTooLarge
        | ReasonCode::MessageRateTooHigh
        | ReasonCode::QuotaExceeded
        | ReasonCode::AdministrativeAction
        | ReasonCode::PayloadFormatInvalid
        | ReasonCode::RetainNotSupported
        | ReasonCode::QoSNotSupported
        | ReasonCode::UseAnotherServer
        | ReasonCode::ServerMoved
        | ReasonCode::SharedSubscriptionsNotSupported
        | ReasonCode::ConnectionRateExceeded
        | ReasonCode::MaximumConnectTime
        | ReasonCode::SubscriptionIdentifiersNotSupported
        | ReasonCode::WildcardSubscriptionsNotSupported => v4::ConnectReturnCode::ServiceUnavailable,
    }
}
