//! `mqttbytes` as an oracle: where it is right we agree, and each of its faults has a test that shows it, so
//! that we notice when one is mended.

use bytes::{Bytes, BytesMut};
use fulmar::codec::ProtocolVersion::{self, V3_1_1, V5};
use fulmar::codec::{Packet, QoS, ReasonCode, decode};
use mqttbytes::{v4, v5};
use proptest::prelude::*;

use crate::{bytes, frame, packets};

fn encode(version: ProtocolVersion, packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(version, &mut out).unwrap();
    out
}

fn read_v4(frame: &[u8]) -> Result<v4::Packet, mqttbytes::Error> {
    v4::read(&mut BytesMut::from(frame), usize::MAX)
}

fn read_v5(frame: &[u8]) -> Result<v5::Packet, mqttbytes::Error> {
    v5::read(&mut BytesMut::from(frame), usize::MAX)
}

fn write_v4(packet: &v4::Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    let out_ref = &mut out;
    match packet {
        v4::Packet::Connect(packet) => packet.write(out_ref),
        v4::Packet::ConnAck(packet) => packet.write(out_ref),
        v4::Packet::Publish(packet) => packet.write(out_ref),
        v4::Packet::PubAck(packet) => packet.write(out_ref),
        v4::Packet::PubRec(packet) => packet.write(out_ref),
        v4::Packet::PubRel(packet) => packet.write(out_ref),
        v4::Packet::PubComp(packet) => packet.write(out_ref),
        v4::Packet::Subscribe(packet) => packet.write(out_ref),
        v4::Packet::SubAck(packet) => packet.write(out_ref),
        v4::Packet::Unsubscribe(packet) => packet.write(out_ref),
        v4::Packet::UnsubAck(packet) => packet.write(out_ref),
        v4::Packet::PingReq => v4::PingReq.write(out_ref),
        v4::Packet::PingResp => v4::PingResp.write(out_ref),
        v4::Packet::Disconnect => v4::Disconnect.write(out_ref),
    }
    .unwrap();
    out.to_vec()
}

fn write_v5(packet: &v5::Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    let out_ref = &mut out;
    match packet {
        v5::Packet::Connect(packet) => packet.write(out_ref),
        v5::Packet::ConnAck(packet) => packet.write(out_ref),
        v5::Packet::Publish(packet) => packet.write(out_ref),
        v5::Packet::PubAck(packet) => packet.write(out_ref),
        v5::Packet::PubRec(packet) => packet.write(out_ref),
        v5::Packet::PubRel(packet) => packet.write(out_ref),
        v5::Packet::PubComp(packet) => packet.write(out_ref),
        v5::Packet::Subscribe(packet) => packet.write(out_ref),
        v5::Packet::SubAck(packet) => packet.write(out_ref),
        v5::Packet::Unsubscribe(packet) => packet.write(out_ref),
        v5::Packet::UnsubAck(packet) => packet.write(out_ref),
        v5::Packet::PingReq => v5::PingReq.write(out_ref),
        v5::Packet::PingResp => v5::PingResp.write(out_ref),
        v5::Packet::Disconnect(packet) => packet.write(out_ref),
    }
    .unwrap();
    out.to_vec()
}

/// Whether `mqttbytes` is known not to read the packet, or to write another than it read.
fn is_beyond_v4(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Connect(connect) => login_is_beyond(connect.username, connect.password),
        // Told as text of the topic; ours leaves it unread.
        Packet::Publish(publish) => std::str::from_utf8(publish.topic).is_err(),
        Packet::ConnAck(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::Subscribe(_)
        | Packet::SubAck(_)
        | Packet::Unsubscribe(_)
        | Packet::UnsubAck(_)
        | Packet::PingReq
        | Packet::PingResp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => false,
    }
}

fn is_beyond_v5(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Connect(connect) => login_is_beyond(connect.username, connect.password),
        Packet::Publish(publish) => {
            publish.properties.has_subscription_identifier || std::str::from_utf8(publish.topic).is_err()
        }
        Packet::Subscribe(subscribe) => subscribe.subscription_identifier.is_some(),
        // The short forms, and the one reason that only §2.4 allows here.
        Packet::Disconnect(disconnect) => {
            encode(V5, packet).len() < 4 || disconnect.reason == ReasonCode::BadAuthenticationMethod
        }
        // Writes no property length when there are no properties.
        Packet::ConnAck(connack) => connack.properties == Default::default(),
        Packet::Auth(_) => true,
        Packet::Unsubscribe(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::PingReq
        | Packet::PingResp => false,
    }
}

/// A password that is no text is refused, and what is empty is taken for missing.
fn login_is_beyond(username: Option<&str>, password: Option<&[u8]>) -> bool {
    username == Some("")
        || password.is_some_and(|bytes| bytes.is_empty() || std::str::from_utf8(bytes).is_err())
}

proptest! {
    #[test]
    fn in_3_1_1_both_write_the_same(packet in packets::packet_of(V3_1_1)) {
        if is_beyond_v4(&packet) {
            return Ok(());
        }
        let ours = encode(V3_1_1, &packet);
        let theirs = read_v4(&ours);
        prop_assert!(theirs.is_ok(), "{:?}: {:?}", packet, theirs);
        prop_assert_eq!(write_v4(&theirs.unwrap()), ours);
    }

    #[test]
    fn in_5_0_both_write_the_same(packet in packets::packet_of(V5)) {
        if is_beyond_v5(&packet) {
            return Ok(());
        }
        let ours = encode(V5, &packet);
        let theirs = read_v5(&ours);
        prop_assert!(theirs.is_ok(), "{:?}: {:?}", packet, theirs);
        prop_assert_eq!(write_v5(&theirs.unwrap()), ours);
    }

    /// We are the stricter ones: what `mqttbytes` refuses we refuse, but for its faults.
    #[test]
    fn in_3_1_1_nothing_passes_that_they_refuse(
        packet in packets::packet_of(V3_1_1),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode(V3_1_1, &packet);
        let index = at.index(bytes.len());
        bytes[index] = byte;
        if let Ok(packet) = decode(V3_1_1, &bytes) {
            let is_3_1_1 = !matches!(&packet, Packet::Connect(connect) if connect.version != V3_1_1);
            if is_3_1_1 && !is_beyond_v4(&packet) {
                let theirs = read_v4(&bytes);
                prop_assert!(theirs.is_ok(), "{:?}: {:?}", packet, theirs);
            }
        }
    }

    #[test]
    fn in_5_0_nothing_passes_that_they_refuse(
        packet in packets::packet_of(V5),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode(V5, &packet);
        let index = at.index(bytes.len());
        bytes[index] = byte;
        if let Ok(packet) = decode(V5, &bytes) {
            let is_5 = !matches!(&packet, Packet::Connect(connect) if connect.version != V5);
            if is_5 && !is_beyond_v5(&packet) {
                let theirs = read_v5(&bytes);
                prop_assert!(theirs.is_ok(), "{:?}: {:?}", packet, theirs);
            }
        }
    }
}

#[test]
fn both_see_the_same_fields_in_3_1_1() {
    let connect = frame(0x10, &bytes("'MQTT' 04 EE 003C 'id' 'w/t' 'bye' 'user' 'pass'"));
    let (Ok(Packet::Connect(ours)), Ok(v4::Packet::Connect(theirs))) =
        (decode(V3_1_1, &connect), read_v4(&connect))
    else {
        panic!("no CONNECT")
    };
    let (our_will, their_will) = (ours.will.unwrap(), theirs.last_will.unwrap());
    let login = theirs.login.unwrap();
    assert_eq!(ours.client_id, theirs.client_id);
    assert_eq!(ours.keep_alive, theirs.keep_alive);
    assert_eq!(ours.clean_start, theirs.clean_session);
    assert_eq!(our_will.topic, their_will.topic);
    assert_eq!(our_will.payload, their_will.message);
    assert_eq!(our_will.qos as u8, their_will.qos as u8);
    assert_eq!(our_will.retain, their_will.retain);
    assert_eq!((ours.username, ours.password), (Some(&*login.username), Some(login.password.as_bytes())));

    let publish = frame(0x3D, &bytes("'a/b' 0102 7061796C6F6164"));
    let (Ok(Packet::Publish(ours)), Ok(v4::Packet::Publish(theirs))) =
        (decode(V3_1_1, &publish), read_v4(&publish))
    else {
        panic!("no PUBLISH")
    };
    assert_eq!((ours.dup, ours.qos, ours.retain), (theirs.dup, QoS::ExactlyOnce, theirs.retain));
    assert_eq!(ours.topic, theirs.topic.as_bytes());
    assert_eq!(ours.packet_id.map(|id| id.get()), Some(theirs.pkid));
    assert_eq!(ours.payload, theirs.payload);
}

/// Faults of 3.1.1: it takes what the standard forbids.
#[test]
fn v4_accepts_what_must_be_refused() {
    for (clause, frame) in [
        ("MQTT-2.2.2-1: reserved flags", frame(0x8F, &bytes("0001 'a' 00"))),
        ("MQTT-2.2.2-1: reserved flags", frame(0x1F, &bytes("'MQTT' 04 02 0000 'a'"))),
        ("MQTT-3.1.2-3: the reserved connect flag", frame(0x10, &bytes("'MQTT' 04 03 0000 'a'"))),
        ("MQTT-1.5.3-2: U+0000", frame(0x82, &bytes("0001 0001 00 00"))),
        ("MQTT-3.8.3-3: no filter", frame(0x82, &bytes("0001"))),
        ("MQTT-3.10.3-2: no filter", frame(0xA2, &bytes("0001"))),
        ("MQTT-2.3.1-1: packet identifier 0", frame(0x82, &bytes("0000 'a' 00"))),
        ("MQTT-2.3.1-1: packet identifier 0", frame(0x40, &bytes("0000"))),
        ("MQTT-3-8.3-4: reserved options", frame(0x82, &bytes("0001 'a' 40"))),
        ("MQTT-3.3.1-2: DUP at QoS 0", frame(0x38, &bytes("'a'"))),
        ("MQTT-4.7.3-1: an empty topic", frame(0x30, &bytes("''"))),
        ("bytes left over", frame(0x40, &bytes("0001 0000"))),
        ("bytes left over", frame(0x10, &bytes("'MQTT' 04 02 0000 'a' 00"))),
        ("bytes left over", frame(0xC0, &[0])),
        ("MQTT-3.1.2-22: a password alone", frame(0x10, &bytes("'MQTT' 04 42 0000 'a' 'p'"))),
        ("MQTT-3.1.3-8: no client identifier", frame(0x10, &bytes("'MQTT' 04 00 0000 ''"))),
        ("level 5 in 3.1.1", frame(0x10, &bytes("'MQTT' 05 02 0000 'a'"))),
        ("a length in more bytes than it needs", bytes("40 8200 0001")),
    ] {
        assert!(read_v4(&frame).is_ok(), "{clause}: mended");
        assert!(decode(V3_1_1, &frame).is_err(), "{clause}");
    }
}

/// Faults of 3.1.1: it refuses or loses what the standard allows.
#[test]
fn v4_refuses_what_must_be_accepted() {
    let binary_password = frame(0x10, &bytes("'MQTT' 04 C2 0000 'a' 'u' 0002 FF00"));
    assert!(read_v4(&binary_password).is_err(), "mended");
    assert!(decode(V3_1_1, &binary_password).is_ok());

    let mqtt_3_1 = frame(0x10, &bytes("'MQIsdp' 03 02 0000 'a'"));
    assert!(read_v4(&mqtt_3_1).is_err(), "mended");
    assert!(decode(V3_1_1, &mqtt_3_1).is_ok());

    let empty_user_name = frame(0x10, &bytes("'MQTT' 04 82 0000 'a' ''"));
    let Ok(v4::Packet::Connect(theirs)) = read_v4(&empty_user_name) else { panic!("no CONNECT") };
    assert_eq!(theirs.login, None, "mended");
    let Ok(Packet::Connect(ours)) = decode(V3_1_1, &empty_user_name) else { panic!("no CONNECT") };
    assert_eq!(ours.username, Some(""));
}

/// Faults of 5.0: it takes what the standard forbids.
#[test]
fn v5_accepts_what_must_be_refused() {
    for (clause, frame) in [
        ("2.2.2.2: repeated", frame(0x40, &bytes("0001 00 08 1F'x' 1F'y'"))),
        ("3.1.2.11.3: Receive Maximum 0", frame(0x10, &bytes("'MQTT' 05 02 0000 03 210000 'a'"))),
        ("MQTT-3.3.2-8: alias 0", frame(0x30, &bytes("'a' 03 230000"))),
        ("3.3.2.1: neither topic nor alias", frame(0x30, &bytes("'' 00"))),
        ("2.2.2.1: a length that ends in a property", frame(0x30, &bytes("'a' 01 0101"))),
        ("3.1.2.11.10: data without method", frame(0x10, &bytes("'MQTT' 05 02 0000 04 16'x' 'a'"))),
        ("MQTT-3.3.2-14: a wildcard", frame(0x30, &bytes("'a' 04 08'+'"))),
        ("MQTT-3.8.3-5: reserved options", frame(0x82, &bytes("0001 00 'a' 40"))),
        ("MQTT-3.8.3-2: no filter", frame(0x82, &bytes("0001 00"))),
    ] {
        assert!(read_v5(&frame).is_ok(), "{clause}: mended");
        assert!(decode(V5, &frame).is_err(), "{clause}");
    }
}

/// Faults of 5.0: it refuses what the standard allows.
#[test]
fn v5_refuses_what_must_be_accepted() {
    for (clause, frame) in [
        ("3.15: AUTH", frame(0xF0, &[])),
        ("3.14.2.1: DISCONNECT of nothing", frame(0xE0, &[])),
        ("3.14.2.2.1: DISCONNECT of a reason", frame(0xE0, &[0x04])),
    ] {
        assert!(read_v5(&frame).is_err(), "{clause}: mended");
        assert!(decode(V5, &frame).is_ok(), "{clause}");
    }
}

/// It counts a Subscription Identifier one byte too long, so that it stops reading properties too early and
/// takes the last of them for the start of the payload.
#[test]
fn v5_miscounts_subscription_identifiers() {
    let publish = frame(0x30, &bytes("'a' 08 0B01 0B02 0B03 0B04 62"));
    let Ok(v5::Packet::Publish(theirs)) = read_v5(&publish) else { panic!("no PUBLISH") };
    assert_eq!(theirs.payload, Bytes::from_static(b"\x0B\x04b"), "mended");
    let Ok(Packet::Publish(ours)) = decode(V5, &publish) else { panic!("no PUBLISH") };
    assert_eq!(ours.payload, b"b");
}

/// It leaves the property length out of a CONNACK without properties.
#[test]
fn v5_writes_connacks_too_short() {
    let connack = v5::Packet::ConnAck(v5::ConnAck::new(v5::ConnectReturnCode::Success, false));
    assert_eq!(write_v5(&connack), [0x20, 2, 0, 0], "mended");
    assert!(decode(V5, &[0x20, 2, 0, 0]).is_err());
    assert!(decode(V5, &[0x20, 3, 0, 0, 0]).is_ok());
}
