//! One row a clause: what must be refused and as what, and what must be accepted although it looks odd.

use fulmar::codec::DecodeError::{self, *};
use fulmar::codec::ProtocolVersion::{self, V3_1, V3_1_1, V5};
use fulmar::codec::{Packet, PacketType, PropertyId, QoS, ReasonCode, decode, decode_connect, read_header};

use crate::{VERSIONS, bytes, frame};

const ALL: &[ProtocolVersion] = &VERSIONS;
const OLD: &[ProtocolVersion] = &[V3_1, V3_1_1];
const NEW: &[ProtocolVersion] = &[V5];

/// Clause, versions, first byte, body, error.
type Refusal = (&'static str, &'static [ProtocolVersion], u8, &'static str, DecodeError);

fn not_allowed(property: PropertyId, packet: PacketType) -> DecodeError {
    PropertyNotAllowed { property, packet }
}

fn out_of_range(property: PropertyId, value: u32) -> DecodeError {
    PropertyOutOfRange { property, value }
}

fn bad_reason(packet: PacketType, code: u8) -> DecodeError {
    ReasonNotAllowed { packet, code }
}

fn check(refusals: &[Refusal]) {
    for (clause, versions, first_byte, body, error) in refusals {
        for version in *versions {
            let frame = frame(*first_byte, &bytes(body));
            assert_eq!(decode(*version, &frame), Err(*error), "{clause} {version:?} {body}");
        }
    }
}

#[test]
fn connects_that_are_refused() {
    use PropertyId as Id;
    check(&[
        ("MQTT-3.1.2-1", ALL, 0x10, "'MQTQ' 04 02 0000 'a'", ProtocolName),
        ("MQTT-3.1.2-1", ALL, 0x10, "'mqtt' 04 02 0000 'a'", ProtocolName),
        ("MQTT-3.1.2-1", ALL, 0x10, "'' 04 02 0000 'a'", ProtocolName),
        ("MQTT-3.1.2-2", ALL, 0x10, "'MQTT' 06 02 0000 'a'", UnsupportedProtocolLevel(6)),
        ("MQTT-3.1.2-2", ALL, 0x10, "'MQTT' 03 02 0000 'a'", UnsupportedProtocolLevel(3)),
        ("MQTT-3.1.2-2", ALL, 0x10, "'MQIsdp' 04 02 0000 'a'", UnsupportedProtocolLevel(4)),
        ("a bridge", ALL, 0x10, "'MQIsdp' 83 02 0000 'a'", UnsupportedProtocolLevel(0x83)),
        ("a bridge", ALL, 0x10, "'MQTT' 84 02 0000 'a'", UnsupportedProtocolLevel(0x84)),
        ("MQTT-3.1.2-3", ALL, 0x10, "'MQTT' 04 03 0000 'a'", ConnectFlagReserved),
        ("MQTT-3.1.2-3", ALL, 0x10, "'MQTT' 05 03 0000 00 'a'", ConnectFlagReserved),
        ("MQTT-3.1.2-11", ALL, 0x10, "'MQTT' 04 0A 0000 'a'", WillFlagsWithoutWill),
        ("MQTT-3.1.2-11", ALL, 0x10, "'MQTT' 05 1A 0000 00 'a'", WillFlagsWithoutWill),
        ("MQTT-3.1.2-13", ALL, 0x10, "'MQTT' 05 22 0000 00 'a'", WillFlagsWithoutWill),
        ("MQTT-3.1.2-12", ALL, 0x10, "'MQTT' 04 1E 0000 'a' 't' 'm'", InvalidQoS),
        ("3.1 will QoS", ALL, 0x10, "'MQIsdp' 03 1E 0000 'a' 't' 'm'", InvalidQoS),
        ("MQTT-3.1.2-12", ALL, 0x10, "'MQTT' 05 1E 0000 00 'a' 00 't' 'm'", InvalidQoS),
        ("3.1.1 MQTT-3.1.2-22", ALL, 0x10, "'MQTT' 04 42 0000 'a' 'p'", PasswordWithoutUserName),
        ("3.1.1 MQTT-3.1.2-22", ALL, 0x10, "'MQIsdp' 03 42 0000 'a' 'p'", PasswordWithoutUserName),
        ("3.1.1 MQTT-3.1.3-8", ALL, 0x10, "'MQTT' 04 00 0000 ''", ClientIdEmpty),
        ("3.1 client identifier", ALL, 0x10, "'MQIsdp' 03 02 0000 ''", ClientIdEmpty),
        ("MQTT-3.1.3-4", ALL, 0x10, "'MQTT' 04 02 0000 0001 FF", NotUtf8),
        ("MQTT-1.5.4-2", ALL, 0x10, "'MQTT' 04 02 0000 0002 6100", NullCharacter),
        ("MQTT-1.5.4-1", ALL, 0x10, "'MQTT' 04 02 0000 0003 EDA080", NotUtf8),
        ("MQTT-3.1.3-11", ALL, 0x10, "'MQTT' 04 06 0000 'a' 0001 FF 'm'", NotUtf8),
        ("MQTT-3.1.3-12", ALL, 0x10, "'MQTT' 04 82 0000 'a' 0001 FF", NotUtf8),
        ("MQTT-3.1.2-16", ALL, 0x10, "'MQTT' 04 82 0000 'a'", Truncated),
        ("MQTT-3.1.2-18", ALL, 0x10, "'MQTT' 04 C2 0000 'a' 'u'", Truncated),
        ("MQTT-3.1.2-17", ALL, 0x10, "'MQTT' 04 02 0000 'a' 'u'", TrailingBytes(3)),
        ("3.1 is lenient about missing fields only", ALL, 0x10, "'MQIsdp' 03 82 0000 'a' 00", Truncated),
        ("3.1.2.11.2", ALL, 0x10, "'MQTT' 05 02 0000 05 1100000001 'a' 00", TrailingBytes(1)),
        (
            "3.1.2.11.2",
            ALL,
            0x10,
            "'MQTT' 05 02 0000 0A 1100000001 1100000001 'a'",
            PropertyRepeated(Id::SessionExpiryInterval),
        ),
        ("3.1.2.11.3", ALL, 0x10, "'MQTT' 05 02 0000 03 210000 'a'", out_of_range(Id::ReceiveMaximum, 0)),
        (
            "3.1.2.11.4",
            ALL,
            0x10,
            "'MQTT' 05 02 0000 05 2700000000 'a'",
            out_of_range(Id::MaximumPacketSize, 0),
        ),
        (
            "3.1.2.11.6",
            ALL,
            0x10,
            "'MQTT' 05 02 0000 02 1902 'a'",
            out_of_range(Id::RequestResponseInformation, 2),
        ),
        (
            "3.1.2.11.7",
            ALL,
            0x10,
            "'MQTT' 05 02 0000 02 17FF 'a'",
            out_of_range(Id::RequestProblemInformation, 255),
        ),
        ("3.1.2.11.10", ALL, 0x10, "'MQTT' 05 02 0000 04 16'x' 'a'", AuthenticationDataWithoutMethod),
        (
            "2.2.2.2",
            ALL,
            0x10,
            "'MQTT' 05 02 0000 03 230001 'a'",
            not_allowed(Id::TopicAlias, PacketType::Connect),
        ),
        ("2.2.2.2", ALL, 0x10, "'MQTT' 05 02 0000 02 0000 'a'", UnknownProperty(0)),
        ("2.2.2.2", ALL, 0x10, "'MQTT' 05 02 0000 02 8001 'a'", UnknownProperty(0x80)),
        ("2.2.2.1", ALL, 0x10, "'MQTT' 05 02 0000 7F 'a'", PropertyLength),
        ("2.2.2.1", ALL, 0x10, "'MQTT' 05 02 0000 04 1100000001 'a'", PropertyLength),
        ("MQTT-1.5.5-1", ALL, 0x10, "'MQTT' 05 02 0000 8000 'a'", VariableByteIntegerNotMinimal),
        (
            "3.1.3.2",
            ALL,
            0x10,
            "'MQTT' 05 06 0000 00 'a' 03 230001 't' 'm'",
            not_allowed(Id::TopicAlias, PacketType::Connect),
        ),
        (
            "3.1.3.2.2",
            ALL,
            0x10,
            "'MQTT' 05 06 0000 00 'a' 0A 1800000001 1800000001 't' 'm'",
            PropertyRepeated(Id::WillDelayInterval),
        ),
        ("3.1.3.2.6", ALL, 0x10, "'MQTT' 05 06 0000 00 'a' 06 08'a/#' 't' 'm'", ResponseTopicInvalid),
    ]);
}

#[test]
fn publishes_that_are_refused() {
    use PropertyId as Id;
    check(&[
        ("MQTT-3.3.1-2", ALL, 0x38, "'a' 62", DupWithQoS0),
        ("MQTT-3.3.1-4", ALL, 0x36, "'a' 0001 62", InvalidQoS),
        ("MQTT-3.3.1-4", ALL, 0x3E, "'a' 0001 62", InvalidQoS),
        ("MQTT-2.2.1-3", ALL, 0x32, "'a' 0000 00 62", PacketIdZero),
        ("MQTT-2.2.1-3", ALL, 0x34, "'a' 0000 00 62", PacketIdZero),
        ("MQTT-4.7.3-1", OLD, 0x30, "'' 62", TopicEmpty),
        ("3.3.2.1", NEW, 0x30, "'' 00 62", TopicAliasMissing),
        ("3.3.2.1", NEW, 0x30, "'' 02 0101 62", TopicAliasMissing),
        ("MQTT-3.3.2-8", NEW, 0x30, "'a' 03 230000", TopicAliasZero),
        ("3.3.2.3.4", NEW, 0x30, "'a' 06 230001 230001", PropertyRepeated(Id::TopicAlias)),
        ("3.3.2.3.2", NEW, 0x30, "'a' 04 0101 0101", PropertyRepeated(Id::PayloadFormatIndicator)),
        ("3.3.2.3.3", NEW, 0x30, "'a' 0A 0200000001 0200000001", PropertyRepeated(Id::MessageExpiryInterval)),
        ("MQTT-3.3.2-14", NEW, 0x30, "'a' 06 08'a/+'", ResponseTopicInvalid),
        ("MQTT-4.7.3-1", NEW, 0x30, "'a' 03 08''", ResponseTopicInvalid),
        ("MQTT-3.3.2-13", NEW, 0x30, "'a' 04 08 0001 FF", NotUtf8),
        ("MQTT-1.5.4-2", NEW, 0x30, "'a' 04 08 0001 00", NullCharacter),
        ("3.3.2.3.5", NEW, 0x30, "'a' 08 08'x' 08'x'", PropertyRepeated(Id::ResponseTopic)),
        ("3.3.2.3.6", NEW, 0x30, "'a' 08 09'x' 09'x'", PropertyRepeated(Id::CorrelationData)),
        ("3.3.2.3.8", NEW, 0x30, "'a' 02 0B00", out_of_range(Id::SubscriptionIdentifier, 0)),
        ("1.5.5", NEW, 0x30, "'a' 06 0BFFFFFFFF01", VariableByteIntegerTooLong),
        ("MQTT-3.3.2-19", NEW, 0x30, "'a' 04 03 0001 FF", NotUtf8),
        ("3.3.2.3.9", NEW, 0x30, "'a' 08 03'x' 03'x'", PropertyRepeated(Id::ContentType)),
        ("MQTT-1.5.7-1", NEW, 0x30, "'a' 07 26 0001 FF 'v'", NotUtf8),
        ("MQTT-1.5.7-1", NEW, 0x30, "'a' 07 26 'k' 0001 00", NullCharacter),
        (
            "2.2.2.2",
            NEW,
            0x30,
            "'a' 05 1100000001",
            not_allowed(Id::SessionExpiryInterval, PacketType::Publish),
        ),
        ("2.2.2.2", NEW, 0x30, "'a' 05 1800000001", not_allowed(Id::WillDelayInterval, PacketType::Publish)),
        ("2.2.2.2", NEW, 0x30, "'a' 01 2B", UnknownProperty(0x2B)),
        ("2.2.2.1", NEW, 0x30, "'a' 05 0101", PropertyLength),
        ("2.2.2.1", NEW, 0x30, "'a' 01 0101", PropertyLength),
        ("2.2.2.1", NEW, 0x30, "'a'", Truncated),
        ("3.3.2", ALL, 0x32, "'a' 00", Truncated),
        ("3.3.2", ALL, 0x30, "0002 61", Truncated),
        ("3.3.2", ALL, 0x30, "00", Truncated),
        ("3.3.2", ALL, 0x30, "", Truncated),
    ]);
}

#[test]
fn acknowledgements_that_are_refused() {
    use PropertyId as Id;
    check(&[
        ("MQTT-2.2.1-3", ALL, 0x40, "0000", PacketIdZero),
        ("MQTT-2.2.1-3", ALL, 0x50, "0000", PacketIdZero),
        ("MQTT-2.2.1-3", ALL, 0x62, "0000", PacketIdZero),
        ("MQTT-2.2.1-3", ALL, 0x70, "0000", PacketIdZero),
        ("3.4.2", ALL, 0x40, "00", Truncated),
        ("3.4.2", ALL, 0x40, "", Truncated),
        ("3.1.1 3.4", OLD, 0x40, "0001 00", TrailingBytes(1)),
        ("3.1.1 3.6", OLD, 0x62, "0001 0000", TrailingBytes(2)),
        ("MQTT-3.4.2-1", NEW, 0x40, "0001 01", bad_reason(PacketType::PubAck, 1)),
        ("MQTT-3.4.2-1", NEW, 0x40, "0001 92", bad_reason(PacketType::PubAck, 0x92)),
        ("MQTT-3.4.2-1", NEW, 0x40, "0001 FF", bad_reason(PacketType::PubAck, 0xFF)),
        ("MQTT-3.5.2-1", NEW, 0x50, "0001 92", bad_reason(PacketType::PubRec, 0x92)),
        ("MQTT-3.6.2-1", NEW, 0x62, "0001 10", bad_reason(PacketType::PubRel, 0x10)),
        ("MQTT-3.7.2-1", NEW, 0x70, "0001 97", bad_reason(PacketType::PubComp, 0x97)),
        ("3.4.2.2.2", NEW, 0x40, "0001 00 08 1F'x' 1F'x'", PropertyRepeated(Id::ReasonString)),
        ("2.2.2.2", NEW, 0x40, "0001 00 03 230001", not_allowed(Id::TopicAlias, PacketType::PubAck)),
        ("2.2.2.1", NEW, 0x40, "0001 00 00 00", TrailingBytes(1)),
        ("2.2.2.1", NEW, 0x40, "0001 00 05 1F'x'", PropertyLength),
        (
            "MQTT-2.1.3-1",
            &[V3_1_1, V5],
            0x6A,
            "0001",
            ReservedFlags { packet: PacketType::PubRel, flags: 0xA },
        ),
        ("MQTT-2.1.3-1", ALL, 0x60, "0001", ReservedFlags { packet: PacketType::PubRel, flags: 0 }),
        ("MQTT-2.1.3-1", ALL, 0x42, "0001", ReservedFlags { packet: PacketType::PubAck, flags: 2 }),
    ]);
}

#[test]
fn subscriptions_that_are_refused() {
    use PropertyId as Id;
    check(&[
        (
            "MQTT-3.8.1-1",
            &[V3_1_1, V5],
            0x8A,
            "0001 00 'a' 00",
            ReservedFlags { packet: PacketType::Subscribe, flags: 0xA },
        ),
        (
            "MQTT-3.8.1-1",
            ALL,
            0x80,
            "0001 00 'a' 00",
            ReservedFlags { packet: PacketType::Subscribe, flags: 0 },
        ),
        ("MQTT-2.2.1-3", OLD, 0x82, "0000 'a' 00", PacketIdZero),
        ("MQTT-2.2.1-3", NEW, 0x82, "0000 00 'a' 00", PacketIdZero),
        ("MQTT-3.8.3-2", OLD, 0x82, "0001", NoTopicFilters(PacketType::Subscribe)),
        ("MQTT-3.8.3-2", NEW, 0x82, "0001 00", NoTopicFilters(PacketType::Subscribe)),
        ("MQTT-3.8.3-1", OLD, 0x82, "0001 0001 FF 00", NotUtf8),
        ("MQTT-1.5.4-2", OLD, 0x82, "0001 0001 00 00", NullCharacter),
        ("MQTT-3.8.3-4", OLD, 0x82, "0001 'a' 03", InvalidMaximumQoS),
        ("3.8.3.1", NEW, 0x82, "0001 00 'a' 03", InvalidMaximumQoS),
        ("3.1.1 MQTT-3-8.3-4", &[V3_1_1], 0x82, "0001 'a' 04", SubscriptionOptionsReserved(4)),
        ("MQTT-3.8.3-5", NEW, 0x82, "0001 00 'a' 43", SubscriptionOptionsReserved(0x43)),
        ("MQTT-3.8.3-5", NEW, 0x82, "0001 00 'a' 40", SubscriptionOptionsReserved(0x40)),
        ("MQTT-3.8.3-5", NEW, 0x82, "0001 00 'a' 80", SubscriptionOptionsReserved(0x80)),
        ("3.8.3.1", NEW, 0x82, "0001 00 'a' 30", InvalidRetainHandling),
        ("3.8.3", OLD, 0x82, "0001 'a'", Truncated),
        ("3.8.2.1.2", NEW, 0x82, "0001 02 0B00 'a' 00", out_of_range(Id::SubscriptionIdentifier, 0)),
        ("3.8.2.1.2", NEW, 0x82, "0001 04 0B01 0B02 'a' 00", PropertyRepeated(Id::SubscriptionIdentifier)),
        ("2.2.2.2", NEW, 0x82, "0001 04 1F'x' 'a' 00", not_allowed(Id::ReasonString, PacketType::Subscribe)),
        (
            "MQTT-3.10.1-1",
            &[V3_1_1, V5],
            0xAA,
            "0001 00 'a'",
            ReservedFlags { packet: PacketType::Unsubscribe, flags: 0xA },
        ),
        ("MQTT-2.2.1-3", OLD, 0xA2, "0000 'a'", PacketIdZero),
        ("MQTT-3.10.3-2", OLD, 0xA2, "0001", NoTopicFilters(PacketType::Unsubscribe)),
        ("MQTT-3.10.3-2", NEW, 0xA2, "0001 00", NoTopicFilters(PacketType::Unsubscribe)),
        ("MQTT-3.10.3-1", OLD, 0xA2, "0001 0001 FF", NotUtf8),
        (
            "2.2.2.2",
            NEW,
            0xA2,
            "0001 02 0B01 'a'",
            not_allowed(Id::SubscriptionIdentifier, PacketType::Unsubscribe),
        ),
        ("3.1.1 MQTT-3.9.3-2", OLD, 0x90, "0001 03", bad_reason(PacketType::SubAck, 3)),
        ("3.1.1 3.9.3", OLD, 0x90, "0001", NoReasonCodes(PacketType::SubAck)),
        ("MQTT-3.9.3-1", NEW, 0x90, "0001 00", NoReasonCodes(PacketType::SubAck)),
        ("MQTT-3.9.3-2", NEW, 0x90, "0001 00 11", bad_reason(PacketType::SubAck, 0x11)),
        ("3.1.1 3.11", OLD, 0xB0, "0001 00", TrailingBytes(1)),
        ("MQTT-3.11.3-1", NEW, 0xB0, "0001 00", NoReasonCodes(PacketType::UnsubAck)),
        ("MQTT-3.11.3-2", NEW, 0xB0, "0001 00 01", bad_reason(PacketType::UnsubAck, 1)),
    ]);
}

#[test]
fn the_rest_that_is_refused() {
    use PropertyId as Id;
    check(&[
        ("MQTT-3.2.2-1", &[V3_1_1], 0x20, "02 00", ConnAckFlags(2)),
        ("MQTT-3.2.2-1", NEW, 0x20, "02 00 00", ConnAckFlags(2)),
        ("MQTT-3.2.2-6", &[V3_1_1], 0x20, "01 05", ConnAckFlags(1)),
        ("MQTT-3.2.2-6", NEW, 0x20, "01 80 00", ConnAckFlags(1)),
        ("3.1.1 3.2.2.3", OLD, 0x20, "00 06", bad_reason(PacketType::ConnAck, 6)),
        ("MQTT-3.2.2-8", NEW, 0x20, "00 01 00", bad_reason(PacketType::ConnAck, 1)),
        ("3.2.2.3", NEW, 0x20, "00 00", Truncated),
        ("3.1.1 3.2", OLD, 0x20, "00 00 00", TrailingBytes(1)),
        ("3.2.2.3.4", NEW, 0x20, "00 00 02 2402", out_of_range(Id::MaximumQoS, 2)),
        ("3.2.2.3.5", NEW, 0x20, "00 00 02 2502", out_of_range(Id::RetainAvailable, 2)),
        ("3.12", ALL, 0xC0, "00", TrailingBytes(1)),
        ("3.13", ALL, 0xD0, "00", TrailingBytes(1)),
        ("3.1.1 3.14", OLD, 0xE0, "00", TrailingBytes(1)),
        ("MQTT-3.14.1-1", ALL, 0xE1, "", ReservedFlags { packet: PacketType::Disconnect, flags: 1 }),
        ("MQTT-3.14.2-1", NEW, 0xE0, "01", bad_reason(PacketType::Disconnect, 1)),
        ("3.14.2.2.2", NEW, 0xE0, "00 0A 1100000001 1100000001", PropertyRepeated(Id::SessionExpiryInterval)),
        ("2.2.2.2", NEW, 0xE0, "00 03 210001", not_allowed(Id::ReceiveMaximum, PacketType::Disconnect)),
        ("3.15", OLD, 0xF0, "", AuthBeforeV5),
        ("MQTT-3.15.1-1", NEW, 0xF1, "", ReservedFlags { packet: PacketType::Auth, flags: 1 }),
        ("MQTT-3.15.2-1", NEW, 0xF0, "80 04 15'x'", bad_reason(PacketType::Auth, 0x80)),
        ("3.15.2.1", NEW, 0xF0, "18", Truncated),
        ("3.15.2.2.2", NEW, 0xF0, "18 00", AuthenticationMethodMissing),
        ("3.15.2.2.3", NEW, 0xF0, "18 04 16'x'", AuthenticationDataWithoutMethod),
        ("2.1.2", ALL, 0x00, "", ReservedPacketType),
    ]);
}

#[test]
fn a_frame_must_be_one_whole_packet() {
    assert_eq!(decode(V5, &[]), Err(Truncated));
    assert_eq!(decode(V5, &[0xC0]), Err(Truncated));
    assert_eq!(decode(V5, &[0xC0, 1]), Err(Truncated));
    assert_eq!(decode(V5, &[0xC0, 0, 0xC0, 0]), Err(TrailingBytes(2)));
    assert_eq!(decode_connect(&[0xC0, 0]), Err(NotConnect));
    // An HTTP request and a TLS hello show themselves by their first byte: "GET " and 0x16.
    assert_eq!(
        read_header(b"GET / HTTP/1.1\r\n"),
        Err(ReservedFlags { packet: PacketType::PubAck, flags: 7 })
    );
    assert_eq!(read_header(&[0x16, 3, 1, 2]), Err(ReservedFlags { packet: PacketType::Connect, flags: 6 }));
}

#[test]
fn oddities_that_are_accepted() {
    for (clause, versions, first_byte, body) in [
        ("3.1: announced but missing", ALL, 0x10, "'MQIsdp' 03 C2 0000 'a'"),
        ("3.1: announced but missing", ALL, 0x10, "'MQIsdp' 03 C2 0000 'a' 'user'"),
        ("3.1: the reserved bit is not used", ALL, 0x10, "'MQIsdp' 03 03 0000 'a'"),
        ("3.1: what is said of no will is disregarded", ALL, 0x10, "'MQIsdp' 03 3A 0000 'a'"),
        ("3.1: bits that are not used", &[V3_1], 0x82, "0001 'a' FE"),
        ("more than 23 characters", ALL, 0x10, "'MQIsdp' 03 02 0000 'a-client-identifier-of-many-letters'"),
        ("MQTT-3.1.3-6", ALL, 0x10, "'MQTT' 04 02 0000 ''"),
        ("MQTT-3.1.3-6, since 5.0 with any Clean Start", ALL, 0x10, "'MQTT' 05 00 0000 00 ''"),
        ("a password alone, since 5.0", ALL, 0x10, "'MQTT' 05 42 0000 00 'a' 'p'"),
        ("a password is any bytes", ALL, 0x10, "'MQTT' 04 C2 0000 'a' 'u' 0002 FF00"),
        ("an empty will", ALL, 0x10, "'MQTT' 04 06 0000 'a' 't' ''"),
        ("MQTT-3.1.3-5 is a lower limit", ALL, 0x10, "'MQTT' 04 02 0000 'ä/\u{1F980}'"),
        ("3.1 lets DUP stand", &[V3_1], 0x8A, "0001 'a' 00"),
        ("3.1 lets DUP stand", &[V3_1], 0xAA, "0001 'a'"),
        ("3.1 lets DUP stand", &[V3_1], 0x6A, "0001"),
        ("filters are judged one by one", OLD, 0x82, "0001 '' 00 '#/#' 01 'a' 02"),
        ("an empty topic with an alias", NEW, 0x30, "'' 03 230001 62"),
        ("an empty payload", OLD, 0x31, "'a'"),
        ("topics are not looked at", OLD, 0x30, "0001 FF"),
        ("a server may send several", NEW, 0x30, "'a' 05 0B01 0B8001"),
        ("MQTT-3.3.2-4, any value", NEW, 0x30, "'a' 02 01E9"),
        ("3.1.3.2.3, any value", ALL, 0x10, "'MQTT' 05 06 0000 00 'a' 02 0102 't' 'm'"),
        ("user properties may repeat", NEW, 0x30, "'a' 0E 26'k''v' 26'k''v'"),
        ("no reason is Success", NEW, 0x40, "0001"),
        ("no property length is 0", NEW, 0x40, "0001 10"),
        ("no property length is 0", NEW, 0xE0, "04"),
        ("no reason is Normal disconnection", ALL, 0xE0, ""),
        ("no reason is Success", NEW, 0xF0, ""),
        ("no local on a shared one is the broker's business", NEW, 0x82, "0001 00 '$share/g/a' 04"),
    ] {
        for version in versions {
            let frame = frame(first_byte, &bytes(body));
            let packet = decode(*version, &frame);
            assert!(packet.is_ok(), "{clause} {version:?} {body}: {packet:?}");
        }
    }
}

#[test]
fn what_3_1_does_not_use_means_nothing() {
    let connect = frame(0x10, &bytes("'MQIsdp' 03 3A 0000 'a'"));
    assert_eq!(decode_connect(&connect).unwrap().will, None);
    let subscribe = frame(0x82, &bytes("0001 'a' FE"));
    let Packet::Subscribe(subscribe) = decode(V3_1, &subscribe).unwrap() else { panic!("no SUBSCRIBE") };
    let options = subscribe.requests[0].options;
    assert_eq!(options, fulmar::codec::SubscriptionOptions { qos: QoS::ExactlyOnce, ..Default::default() });
}

#[test]
fn reason_codes_stand_where_their_tables_say() {
    // Table 2-6, and the tables of each packet; counted rather than copied.
    for (packet, count) in [
        (PacketType::Connect, 0),
        (PacketType::ConnAck, 22),
        (PacketType::Publish, 0),
        (PacketType::PubAck, 9),
        (PacketType::PubRec, 9),
        (PacketType::PubRel, 2),
        (PacketType::PubComp, 2),
        (PacketType::SubAck, 12),
        (PacketType::UnsubAck, 7),
        (PacketType::Disconnect, 30),
        (PacketType::Auth, 3),
    ] {
        let codes = (0..=u8::MAX).filter_map(ReasonCode::from_byte);
        assert_eq!(codes.filter(|code| code.is_allowed_in(packet)).count(), count, "{packet}");
    }
    for byte in 0..=u8::MAX {
        if let Some(code) = ReasonCode::from_byte(byte) {
            assert_eq!(code as u8, byte);
        }
    }
    assert_eq!((0..=u8::MAX).filter_map(ReasonCode::from_byte).count(), 43);
}

#[test]
fn fields_arrive_where_they_belong() {
    let body = bytes(
        "'MQTT' 05 EE 003C 18 1100000E10 210014 2700001000 22000A 1901 1700 'id' \
         16 1800000005 0101 0200000007 09'cd' 26'k''v' 'w/t' 'bye' 'user' 'pass'",
    );
    // The lists' lengths are checked by the decoder, so a miscounted row here fails loudly.
    let body = fix_property_lengths(body);
    let frame = frame(0x10, &body);
    let Packet::Connect(connect) = decode(V3_1, &frame).unwrap() else { panic!("no CONNECT") };
    assert_eq!(connect.version, V5);
    assert!(connect.clean_start);
    assert_eq!(connect.keep_alive, 60);
    assert_eq!(connect.client_id, "id");
    assert_eq!(connect.username, Some("user"));
    assert_eq!(connect.password, Some(&b"pass"[..]));
    assert_eq!(connect.properties.session_expiry_interval, Some(3600));
    assert_eq!(connect.properties.receive_maximum.map(u16::from), Some(20));
    assert_eq!(connect.properties.maximum_packet_size, Some(4096));
    assert_eq!(connect.properties.topic_alias_maximum, Some(10));
    assert_eq!(connect.properties.request_response_information, Some(true));
    assert_eq!(connect.properties.request_problem_information, Some(false));
    let will = connect.will.unwrap();
    assert_eq!((will.qos, will.retain), (QoS::AtLeastOnce, true));
    assert_eq!((will.topic, will.payload), ("w/t", &b"bye"[..]));
    assert_eq!(will.delay_interval, Some(5));
    assert_eq!(will.properties.message_expiry_interval, Some(7));
    assert!(will.properties.payload_is_utf8);
    assert!(will.properties.needs_filtering);
}

/// Sets the two property lengths of the CONNECT above, so that its row can be read without counting.
fn fix_property_lengths(mut body: Vec<u8>) -> Vec<u8> {
    let id = body.windows(4).position(|window| window == b"\x00\x02id").unwrap();
    body[10] = u8::try_from(id - 11).unwrap();
    let topic = body.windows(5).position(|window| window == b"\x00\x03w/t").unwrap();
    body[id + 4] = u8::try_from(topic - id - 5).unwrap();
    body
}
