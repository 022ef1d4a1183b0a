//! What travels from a publisher to a subscriber, and what of a packet is left out to make it fit.

use fulmar::codec::ProtocolVersion::{V3_1_1, V5};
use fulmar::codec::{
    Acknowledgement, ConnAck, ConnAckProperties, EncodeError, MessageProperties, Packet, PacketId, Property,
    PublishHeader, PublishProperties, QoS, ReasonCode, decode, encode_publish, encode_publish_head,
    publish_length,
};

use crate::{VERSIONS, bytes};

#[test]
fn properties_for_one_hop_stay_behind() {
    // [MQTT-3.3.2-17], [MQTT-3.3.2-18]: the rest keeps its order.
    for (raw, forwarded) in [
        ("", ""),
        ("26'b''1' 0101 26'a''2'", "26'b''1' 0101 26'a''2'"),
        ("230005", ""),
        (
            "26'b''1' 230005 26'a''2' 0200000009 0B01 03'text' 0B8001 09'x'",
            "26'b''1' 26'a''2' 03'text' 09'x'",
        ),
    ] {
        let (raw, forwarded) = (bytes(raw), bytes(forwarded));
        let mut out = vec![7];
        let properties = MessageProperties::parse(&raw).unwrap();
        properties.append_forwarded(&mut out);
        assert_eq!(out[1..], forwarded);
        assert_eq!(properties.needs_filtering, raw != forwarded);
    }
}

#[test]
fn properties_are_seen_one_by_one() {
    let raw = bytes("0101 0200000009 230005 0B01 26'k''v' 08'r/t'");
    let properties = MessageProperties::parse(&raw).unwrap();
    assert!(properties.has_subscription_identifier);
    assert!(properties.payload_is_utf8);
    assert_eq!(properties.message_expiry_interval, Some(9));
    assert_eq!(properties.topic_alias.map(u16::from), Some(5));
    let seen = properties.iter().collect::<Vec<_>>();
    let alias = properties.topic_alias.unwrap();
    assert_eq!(
        seen,
        [
            Property::PayloadFormatIndicator(1),
            Property::MessageExpiryInterval(9),
            Property::TopicAlias(alias),
            Property::SubscriptionIdentifier(1),
            Property::UserProperty("k", "v"),
            Property::ResponseTopic("r/t"),
        ]
    );
    let mut written = Vec::new();
    for property in &properties {
        property.encode(&mut written).unwrap();
    }
    assert_eq!(written, raw);
}

#[test]
fn a_publish_is_written_with_what_is_its_own() {
    let header =
        PublishHeader { dup: true, qos: QoS::ExactlyOnce, retain: true, packet_id: PacketId::new(9) };
    let forwarded = bytes("26'k''v'");
    let properties = PublishProperties {
        forwarded: &forwarded,
        message_expiry_interval: Some(3),
        topic_alias: Some(2),
        subscription_identifiers: &[1, 268_435_455],
    };
    let mut out = Vec::new();
    encode_publish(&mut out, V5, &header, b"t", properties, b"payload").unwrap();
    assert_eq!(out, bytes("3D 23 't' 0009 16 0200000003 230002 0B01 0BFFFFFF7F 26'k''v' 7061796C6F6164"));
    assert_eq!(publish_length(V5, header.qos, 1, &properties, 7), out.len());

    let mut out = Vec::new();
    encode_publish(&mut out, V3_1_1, &header, b"t", properties, b"payload").unwrap();
    assert_eq!(out, bytes("3D 0C 't' 0009 7061796C6F6164"));
    assert_eq!(publish_length(V3_1_1, header.qos, 1, &properties, 7), out.len());
}

#[test]
fn head_and_payload_are_the_packet() {
    let header = PublishHeader { qos: QoS::AtLeastOnce, packet_id: PacketId::new(1), ..Default::default() };
    for version in VERSIONS {
        for length in [0, 1, 100, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let payload = vec![b'x'; length];
            let (mut whole, mut head) = (Vec::new(), Vec::new());
            let properties = PublishProperties::default();
            encode_publish(&mut whole, version, &header, b"a/b", properties, &payload).unwrap();
            encode_publish_head(&mut head, version, &header, b"a/b", properties, length).unwrap();
            assert_eq!(publish_length(version, header.qos, 3, &properties, length), whole.len());
            head.extend_from_slice(&payload);
            assert!(head == whole, "{version:?} {length}");
        }
    }
}

#[test]
fn what_cannot_be_published_leaves_the_buffer_alone() {
    let mut out = vec![1];
    let header = PublishHeader { qos: QoS::AtLeastOnce, ..Default::default() };
    let properties = PublishProperties::default();
    assert_eq!(
        encode_publish(&mut out, V5, &header, b"t", properties, b""),
        Err(EncodeError::PacketIdMissing)
    );
    let header = PublishHeader::default();
    let long = vec![b'a'; 65_536];
    assert_eq!(
        encode_publish(&mut out, V5, &header, &long, properties, b""),
        Err(EncodeError::FieldTooLong(65_536))
    );
    assert_eq!(
        encode_publish_head(&mut out, V3_1_1, &header, b"t", properties, 268_435_453),
        Err(EncodeError::LengthTooLarge(268_435_456))
    );
    let properties = PublishProperties { subscription_identifiers: &[268_435_456], ..properties };
    assert_eq!(
        encode_publish(&mut out, V5, &header, b"t", properties, b""),
        Err(EncodeError::LengthTooLarge(268_435_456))
    );
    assert_eq!(out, [1]);
}

#[test]
fn explanations_go_when_the_packet_is_too_large() {
    // [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.2.2-19], [MQTT-3.2.2-20]
    let packet = Packet::PubAck(Acknowledgement {
        packet_id: PacketId::new(1).unwrap(),
        reason: ReasonCode::NotAuthorized,
        reason_string: Some("no"),
        user_properties: vec![("k", "v")],
    });
    let size = |maximum| {
        let mut out = Vec::new();
        packet.encode_within(V5, maximum, &mut out).map(|()| out.len())
    };
    let (full, without_user_properties, bare) = (18, 11, 5);
    assert_eq!(size(None), Ok(full));
    assert_eq!(size(Some(18)), Ok(full));
    assert_eq!(size(Some(17)), Ok(without_user_properties));
    assert_eq!(size(Some(11)), Ok(without_user_properties));
    assert_eq!(size(Some(10)), Ok(bare));
    assert_eq!(size(Some(5)), Ok(bare));
    assert_eq!(size(Some(4)), Err(EncodeError::ExceedsMaximumPacketSize { size: 5, limit: 4 }));

    let mut out = vec![9];
    assert!(packet.encode_within(V5, Some(4), &mut out).is_err());
    assert_eq!(out, [9], "nothing may be left of it");

    let connack = Packet::ConnAck(ConnAck {
        session_present: false,
        reason: ReasonCode::Success,
        properties: ConnAckProperties {
            assigned_client_identifier: Some("assigned"),
            reason_string: Some("a long explanation"),
            ..Default::default()
        },
    });
    let mut out = Vec::new();
    connack.encode_within(V5, Some(20), &mut out).unwrap();
    let Packet::ConnAck(read) = decode(V5, &out).unwrap() else { panic!("no CONNACK") };
    assert_eq!(read.properties.assigned_client_identifier, Some("assigned"));
    assert_eq!(read.properties.reason_string, None);
}

#[test]
fn return_codes_of_3_x_are_the_nearest() {
    // 3.1.1 §3.2.2.3
    for (reason, code) in [
        (ReasonCode::Success, 0),
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::ServerBusy, 3),
        (ReasonCode::QuotaExceeded, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
        (ReasonCode::Banned, 5),
    ] {
        let connack = Packet::ConnAck(ConnAck {
            session_present: reason == ReasonCode::Success,
            reason,
            properties: ConnAckProperties { reason_string: Some("not in 3.x"), ..Default::default() },
        });
        let mut out = Vec::new();
        connack.encode(V3_1_1, &mut out).unwrap();
        assert_eq!(out, [0x20, 2, u8::from(code == 0), code], "{reason:?}");
        out.clear();
        connack.encode(fulmar::codec::ProtocolVersion::V3_1, &mut out).unwrap();
        assert_eq!(out, [0x20, 2, 0, code], "{reason:?}: 3.1 has no Session Present");
    }
}
