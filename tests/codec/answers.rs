//! What a bad packet is answered with, before and after the CONNECT was accepted.

use fulmar::codec::ProtocolVersion::{self, V3_1, V3_1_1, V5};
use fulmar::codec::{DecodeError, ReasonCode, connect_version, decode_connect, read_header};

use crate::{VERSIONS, bytes, frame};

/// What `net` would send for a bad first packet.
fn answer_to_first(frame: &[u8]) -> Vec<u8> {
    let error = match read_header(frame) {
        Err(error) => error,
        Ok(_) => decode_connect(frame).unwrap_err(),
    };
    let version = connect_version(frame).unwrap_or(ProtocolVersion::V3_1_1);
    let mut out = Vec::new();
    error.answer(version).encode(false, &mut out);
    out
}

#[test]
fn first_packets() {
    for (what, body, answer) in [
        ("level 6", "'MQTT' 06 02 0000 00 'a'", &[0x20, 3, 0, 0x84, 0][..]),
        ("level 127", "'MQTT' 7F", &[0x20, 3, 0, 0x84, 0]),
        ("level 255", "'MQTT' FF", &[0x20, 3, 0, 0x84, 0]),
        ("level 2", "'MQTT' 02 02 0000 'a'", &[0x20, 2, 0, 1]),
        ("level 0", "'MQTT' 00", &[0x20, 2, 0, 1]),
        ("a bridge of 3.1", "'MQIsdp' 83 02 0000 'a'", &[0x20, 2, 0, 1]),
        ("a bridge of 3.1.1", "'MQTT' 84 02 0000 'a'", &[0x20, 2, 0, 1]),
        ("another protocol", "'AMQP' 04 02 0000 'a'", &[]),
        ("3.1.1, no client identifier", "'MQTT' 04 00 0000 ''", &[0x20, 2, 0, 2]),
        ("3.1, no client identifier", "'MQIsdp' 03 02 0000 ''", &[0x20, 2, 0, 2]),
        ("3.1.1, malformed", "'MQTT' 04 03 0000 'a'", &[]),
        ("3.1, malformed", "'MQIsdp' 03 1E 0000 'a' 't' 'm'", &[]),
        ("5.0, malformed", "'MQTT' 05 03 0000 00 'a'", &[0x20, 3, 0, 0x81, 0]),
        ("5.0, protocol error", "'MQTT' 05 02 0000 03 210000 'a'", &[0x20, 3, 0, 0x82, 0]),
    ] {
        assert_eq!(answer_to_first(&frame(0x10, &bytes(body))), answer, "{what}");
    }
    assert_eq!(answer_to_first(b"GET / HTTP/1.1\r\n\r\n"), [0_u8; 0]);
    assert_eq!(answer_to_first(&[0xC0, 0]), [0_u8; 0]);
}

#[test]
fn later_packets() {
    use DecodeError::*;
    for (error, reason) in [
        (Truncated, 0x81),
        (NotUtf8, 0x81),
        (InvalidQoS, 0x81),
        (PacketIdZero, 0x82),
        (InvalidRetainHandling, 0x82),
        (InvalidMaximumQoS, 0x82),
        (TopicAliasMissing, 0x82),
        (TopicAliasZero, 0x94),
        (PacketTooLarge { size: 2, limit: 1 }, 0x95),
    ] {
        let mut out = Vec::new();
        error.answer(V5).encode(true, &mut out);
        assert_eq!(out, [0xE0, 1, reason], "{error}");
        for version in [V3_1, V3_1_1] {
            let mut out = Vec::new();
            error.answer(version).encode(true, &mut out);
            assert_eq!(out, [0_u8; 0], "{error}: a 3.x server has no way to say so");
        }
    }
}

#[test]
fn an_answer_may_stand_in_its_packet() {
    use DecodeError::*;
    use fulmar::codec::{PacketType, PropertyId};
    let property = PropertyId::TopicAlias;
    let packet = PacketType::Publish;
    for error in [
        ReservedPacketType,
        AuthBeforeV5,
        ReservedFlags { packet, flags: 1 },
        VariableByteIntegerTooLong,
        VariableByteIntegerNotMinimal,
        PacketTooLarge { size: 2, limit: 1 },
        Truncated,
        TrailingBytes(1),
        NotUtf8,
        NullCharacter,
        InvalidQoS,
        DupWithQoS0,
        PacketIdZero,
        TopicEmpty,
        TopicAliasMissing,
        TopicAliasZero,
        ResponseTopicInvalid,
        UnknownProperty(0),
        PropertyNotAllowed { property, packet },
        PropertyRepeated(property),
        PropertyLength,
        PropertyOutOfRange { property, value: 0 },
        AuthenticationDataWithoutMethod,
        AuthenticationMethodMissing,
        NotConnect,
        ProtocolName,
        UnsupportedProtocolLevel(9),
        ConnectFlagReserved,
        WillFlagsWithoutWill,
        PasswordWithoutUserName,
        ClientIdEmpty,
        NoTopicFilters(packet),
        SubscriptionOptionsReserved(0x40),
        InvalidMaximumQoS,
        InvalidRetainHandling,
        ReasonNotAllowed { packet, code: 1 },
        NoReasonCodes(packet),
        ConnAckFlags(2),
    ] {
        for version in VERSIONS {
            let answer = error.answer(version);
            assert!(answer.reason.is_error(), "{error}");
            // A CONNECT is not refused because of an alias, nor a session ended because of a level.
            let only_later = error == TopicAliasZero;
            let only_first = matches!(error, UnsupportedProtocolLevel(_) | ClientIdEmpty);
            if answer.connack.is_some() && !only_later {
                assert!(answer.reason.is_allowed_in(PacketType::ConnAck), "{error}");
            }
            if answer.disconnect && !only_first {
                assert_eq!(version, V5, "{error}");
                assert!(answer.reason.is_allowed_in(PacketType::Disconnect), "{error}");
            }
        }
    }
    assert_eq!(DecodeError::ProtocolName.answer(V5).connack, None);
    assert_eq!(Truncated.answer(V5).reason, ReasonCode::MalformedPacket);
}

#[test]
fn the_version_shows_before_the_packet_is_whole() {
    let whole = frame(0x10, &bytes("'MQTT' 05 02 0000 00 'client'"));
    for cut in 0..whole.len() {
        let expected = if cut < 9 { None } else { Some(V5) };
        assert_eq!(connect_version(&whole[..cut]), expected, "cut at {cut}");
    }
    assert_eq!(connect_version(&[0xC0, 0]), None);
}
