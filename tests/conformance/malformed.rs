//! Strings, integers and flags that break the wire format, 5.0 §1.5 and §2.1, 3.1.1 §1.5 and §2.2.

use crate::support::{
    Connect, DISCONNECT, Filter, PUBLISH, Property, Received, Value, Version, Will, auth, broker_under_test,
    connect, disconnect_with, frame, puback, pubcomp, publish, pubrec, pubrel, subscribe, unique,
    unsubscribe, variable_byte_integer,
};
use crate::{each, join, somebody};

use Version::{V3_1_1, V5};

/// Bytes that are no UTF-8 text in the sense of the standards.
const ILL_FORMED: [&[u8]; 8] = [
    b"a\xFFb",
    b"\xC0\x80",
    b"\xC1\xBF",
    b"a\xED\xA0\x80",
    b"\xED\xBF\xBF",
    b"\xE2\x82",
    b"\xF4\x90\x80\x80",
    b"\x80",
];

/// A text with a null character.
const WITH_NULL: &[u8] = b"a\0b";

fn text_property(id: u8, bytes: &[u8]) -> Property {
    Property { id, value: Value::Text(bytes.to_vec()) }
}

fn user_property(name: &[u8], value: &[u8]) -> Property {
    Property { id: 0x26, value: Value::Pair(name.to_vec(), value.to_vec()) }
}

/// A CONNECT per string field it has, with the text in it.
fn connects_with(version: Version, text: &[u8]) -> Vec<Connect> {
    let mut connects = vec![
        connect(version).client_id(text),
        somebody(version).will(Will::new(text, "w")),
        somebody(version).username(text),
    ];
    if version.is_v5() {
        let will = || Will::new(unique("t"), "w");
        connects.extend([
            somebody(version).property(user_property(text, b"v")),
            somebody(version).property(user_property(b"n", text)),
            somebody(version).property(text_property(0x15, text)),
            somebody(version).will(will().property(text_property(0x03, text))),
            somebody(version).will(will().property(text_property(0x08, text))),
            somebody(version).will(will().property(user_property(text, b"v"))),
            somebody(version).will(will().property(user_property(b"n", text))),
        ]);
    }
    connects
}

/// Every other packet of a client per string field it has, with the text in it.
fn packets_with(version: Version, text: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = vec![
        publish(text, "p").bytes(version),
        publish(text, "p").qos(1, 1).bytes(version),
        publish(text, "p").qos(2, 1).bytes(version),
        subscribe(version, 1, &[], &[Filter::new(text, 0)]),
        subscribe(version, 1, &[], &[Filter::new("fine", 0), Filter::new(text, 0)]),
        unsubscribe(version, 1, &[text]),
    ];
    if version.is_v5() {
        let topic = || publish(unique("t"), "p");
        packets.extend([
            topic().property(text_property(0x08, text)).bytes(version),
            topic().property(text_property(0x03, text)).bytes(version),
            topic().property(user_property(text, b"v")).bytes(version),
            topic().property(user_property(b"n", text)).bytes(version),
            subscribe(version, 1, &[user_property(text, b"v")], &[Filter::new("f", 0)]),
            subscribe(version, 1, &[user_property(b"n", text)], &[Filter::new("f", 0)]),
            puback(1).reason(0, &[text_property(0x1F, text)]).bytes(),
            pubrec(1).reason(0, &[text_property(0x1F, text)]).bytes(),
            pubrel(1).reason(0, &[text_property(0x1F, text)]).bytes(),
            pubcomp(1).reason(0, &[text_property(0x1F, text)]).bytes(),
            puback(1).reason(0, &[user_property(text, b"v")]).bytes(),
            disconnect_with(0, &[text_property(0x1F, text)]),
            disconnect_with(0, &[user_property(b"n", text)]),
        ]);
    }
    packets
}

#[track_caller]
fn refused_everywhere(version: Version, text: &[u8]) {
    for connect in connects_with(version, text) {
        println!("{connect:02x?}");
        let mut client = connect.send_to(broker_under_test());
        if version.is_v5() {
            client.expect_connect_error(&[0x81, 0x82, 0x85, 0x86, 0x90]);
        } else {
            client.expect_closed();
        }
    }
    for packet in packets_with(version, text) {
        println!("{packet:02x?}");
        let mut client = join(version);
        client.send(&packet);
        client.expect_error(&[0x81, 0x82, 0x8F, 0x90]);
    }
}

#[test]
fn v5_mqtt_1_5_4_1_v311_mqtt_1_5_3_1_ill_formed_utf8_closes_the_connection() {
    each(&Version::NUMBERED, |version| {
        for text in ILL_FORMED {
            refused_everywhere(version, text);
        }
    });
}

#[test]
fn v5_mqtt_1_5_4_2_v311_mqtt_1_5_3_2_the_null_character_closes_the_connection() {
    each(&Version::NUMBERED, |version| refused_everywhere(version, WITH_NULL));
}

#[test]
fn v5_mqtt_1_5_4_3_v311_mqtt_1_5_3_3_a_zero_width_no_break_space_is_a_character_like_others() {
    each(&Version::ALL, |version| {
        let plain = unique("bom");
        let marked = format!("\u{FEFF}{plain}");
        let mut client = join(version);
        client.subscribe(&marked, 0);
        client.publish(&publish(&plain, "without"));
        client.publish(&publish(&marked, "with"));
        let message = client.read_publish();
        assert_eq!((message.topic, message.payload), (marked, b"with".to_vec()));
        client.expect_nothing();

        let id = unique("c");
        let mut unmarked = connect(version).client_id(&id).open(broker_under_test());
        connect(version).client_id(format!("\u{FEFF}{id}")).open(broker_under_test());
        unmarked.expect_nothing();
    });
}

#[test]
fn v5_mqtt_1_5_5_1_a_variable_byte_integer_longer_than_needed_is_malformed() {
    let subscription_with_long_property_length =
        frame(0x82, &[&[0, 1, 0x80, 0x00, 0, 1][..], b"a", &[0]].concat());
    let identifier = Property::raw(0x0B, &[0x81, 0x00]);
    let filters = [Filter::new("a", 0)];
    for packet in [
        vec![0xC0, 0x80, 0x00],
        vec![0xC0, 0x80, 0x80, 0x00],
        vec![0x40, 0x82, 0x00, 0, 1],
        subscription_with_long_property_length,
        subscribe(V5, 1, &[identifier], &filters),
        frame(0x30, b"\0\x01t\x80\0"),
    ] {
        println!("{packet:02x?}");
        let mut client = join(V5);
        client.send(&packet);
        client.expect_error(&[0x81]);
    }
}

#[test]
fn v311_mqtt_4_8_0_1_a_remaining_length_of_five_bytes_is_malformed() {
    each(&Version::ALL, |version| {
        for packet in [[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], [0xC0, 0x80, 0x80, 0x80, 0x80, 0x00]] {
            let mut client = join(version);
            client.send(&packet);
            client.expect_error(&[0x81, 0x95]);
        }
    });
}

#[test]
fn v5_mqtt_1_5_7_1_both_halves_of_a_user_property_must_be_valid_text() {
    for text in ILL_FORMED.into_iter().chain([WITH_NULL]) {
        for property in [user_property(text, b"value"), user_property(b"name", text)] {
            let mut client = join(V5);
            client.send(&publish(unique("t"), "p").property(property).bytes(V5));
            client.expect_error(&[0x81]);
        }
    }
}

/// The packets of a client whose flags are fixed: first byte and a body that would be right.
fn packets_with_fixed_flags(version: Version) -> Vec<(u8, Vec<u8>)> {
    let body = |packet: Vec<u8>| (packet[0], packet[2..].to_vec());
    let mut packets = vec![
        body(puback(1).bytes()),
        body(pubrec(1).bytes()),
        body(pubrel(1).bytes()),
        body(pubcomp(1).bytes()),
        body(subscribe(version, 1, &[], &[Filter::new("reserved/bits", 0)])),
        body(unsubscribe(version, 1, &["reserved/bits"])),
        (0xC0, Vec::new()),
        (0xE0, Vec::new()),
    ];
    if version.is_v5() {
        packets.push(body(auth(0x19, &[Property::authentication_method("m")])));
    }
    packets
}

#[test]
fn v5_mqtt_2_1_3_1_v311_mqtt_2_2_2_1_v311_mqtt_2_2_2_2_wrong_fixed_header_flags_close_the_connection() {
    each(&Version::NUMBERED, |version| {
        for (first_byte, body) in packets_with_fixed_flags(version) {
            for flags in (0..16).filter(|flags| *flags != first_byte & 0x0F) {
                let mut client = join(version);
                client.send(&frame(first_byte & 0xF0 | flags, &body));
                let reasons: &[u8] = if first_byte == 0xF0 { &[0x81, 0x82] } else { &[0x81] };
                println!("{first_byte:#04x} with flags {flags:#x}");
                client.expect_error(reasons);
            }
        }
        for flags in 1..16 {
            let mut bytes = somebody(version).bytes();
            bytes[0] |= flags;
            let mut client = crate::support::RawClient::open(broker_under_test(), version);
            client.send(&bytes);
            if version.is_v5() {
                client.expect_connect_error(&[0x81, 0x82]);
            } else {
                client.expect_closed();
            }
        }
    });
}

#[test]
fn mqtt_3_6_1_1_a_pubrel_with_other_flags_is_malformed_even_in_its_place() {
    each(&Version::NUMBERED, |version| {
        let mut client = join(version);
        client.send(&publish(unique("t"), "p").qos(2, 9).bytes(version));
        client.expect_ack(crate::support::PUBREC, 9);
        client.send(&[0x60, 2, 0, 9]);
        client.expect_error(&[0x81]);
    });
}

#[test]
fn mqtt_3_8_1_1_mqtt_3_10_1_1_subscribe_and_unsubscribe_with_other_flags_do_nothing() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let id = unique("c");
        let persistent = || connect(version).client_id(&id).persistent();
        let mut client = persistent().open(broker_under_test());
        client.subscribe(&topic, 1);
        let mut bytes = unsubscribe(version, 1, &[&topic]);
        bytes[0] = 0xA0;
        client.send(&bytes);
        client.expect_error(&[0x81]);

        let mut client = persistent().open(broker_under_test());
        assert!(client.accepted().session_present);
        let other = unique("t");
        let mut bytes = subscribe(version, 1, &[], &[Filter::new(&other, 1)]);
        bytes[0] = 0x80;
        client.send(&bytes);
        client.expect_error(&[0x81]);

        let mut client = persistent().open(broker_under_test());
        join(version).publish(&publish(&other, "not subscribed").qos(1, 1));
        join(version).publish(&publish(&topic, "still subscribed").qos(1, 1));
        assert_eq!(client.receive().topic, topic);
        client.expect_nothing();
    });
}

#[test]
fn v5_mqtt_4_13_1_1_v311_mqtt_4_8_0_1_packets_no_client_may_send_close_the_connection() {
    each(&Version::NUMBERED, |version| {
        let mut packets: Vec<Vec<u8>> = vec![
            frame(0x00, b""),
            frame(0x20, if version.is_v5() { b"\0\0\0" } else { b"\0\0" }),
            frame(0x90, if version.is_v5() { b"\0\x01\0\0" } else { b"\0\x01\0" }),
            frame(0xB0, if version.is_v5() { b"\0\x01\0\0" } else { b"\0\x01" }),
            frame(0xD0, b""),
        ];
        if !version.is_v5() {
            packets.push(frame(0xF0, b""));
        }
        for packet in packets {
            println!("{packet:02x?}");
            let mut client = join(version);
            client.send(&packet);
            client.expect_error(&[0x81, 0x82]);
        }
    });
}

#[test]
fn v5_mqtt_4_13_1_1_v311_mqtt_4_8_0_1_a_packet_cut_short_closes_the_connection() {
    each(&Version::NUMBERED, |version| {
        let mut whole = vec![
            publish("cut/short", "").qos(1, 1).bytes(version),
            subscribe(version, 1, &[], &[Filter::new("cut/short", 0)]),
            unsubscribe(version, 1, &["cut/short"]),
            puback(1).bytes(),
            pubrec(1).bytes(),
            pubrel(1).bytes(),
            pubcomp(1).bytes(),
        ];
        if version.is_v5() {
            let properties = [Property::user("n", "v")];
            whole.push(subscribe(version, 1, &properties, &[Filter::new("cut/short", 0)]));
        }
        for packet in whole {
            let (first_byte, body) = (packet[0], &packet[2..]);
            for length in 0..body.len() {
                let mut client = join(version);
                client.send(&frame(first_byte, &body[..length]));
                println!("{first_byte:#04x} cut at {length}");
                client.expect_error(&[0x81, 0x82]);
            }
        }
    });
}

#[test]
fn v5_mqtt_4_13_1_1_v311_mqtt_4_8_0_1_bytes_after_the_end_of_a_packet_close_the_connection() {
    each(&Version::NUMBERED, |version| {
        let mut packets = vec![frame(0xC0, b"x")];
        let acks: [u8; 4] = [0x40, 0x50, 0x62, 0x70];
        if version.is_v5() {
            packets.extend(acks.map(|first_byte| frame(first_byte, b"\0\x01\0\0x")));
        } else {
            packets.extend(acks.map(|first_byte| frame(first_byte, b"\0\x01x")));
            packets.push(frame(0xE0, b"x"));
        }
        for packet in packets {
            println!("{packet:02x?}");
            let mut client = join(version);
            client.send(&packet);
            client.expect_error(&[0x81]);
        }
    });
}

#[test]
fn v5_mqtt_4_13_1_1_a_property_in_a_packet_that_does_not_have_it_is_an_error() {
    let filters = [Filter::new("p", 0)];
    for packet in [
        publish("p", "").property(Property::session_expiry(1)).bytes(V5),
        publish("p", "").property(Property::reason_string("r")).bytes(V5),
        publish("p", "").property(Property::raw(0x7E, b"")).bytes(V5),
        publish("p", "").property(Property::raw(0x00, b"")).bytes(V5),
        subscribe(V5, 1, &[Property::topic_alias(1)], &filters),
        subscribe(V5, 1, &[Property::reason_string("r")], &filters),
        puback(1).reason(0, &[Property::server_reference("s")]).bytes(),
        pubrel(1).reason(0, &[Property::content_type("s")]).bytes(),
        disconnect_with(0, &[Property::receive_maximum(1)]),
    ] {
        println!("{packet:02x?}");
        let mut client = join(V5);
        client.send(&packet);
        client.expect_error(&[0x81, 0x82]);
    }
}

#[test]
fn v5_mqtt_4_13_1_1_a_property_given_twice_is_a_protocol_error() {
    let filters = [Filter::new("p", 0)];
    let twice = |property: Property| [property.clone(), property];
    for packet in [
        subscribe(V5, 1, &twice(Property::subscription_identifier(3_usize)), &filters),
        puback(1).reason(0, &twice(Property::reason_string("r"))).bytes(),
        pubrec(1).reason(0, &twice(Property::reason_string("r"))).bytes(),
        pubrel(1).reason(0, &twice(Property::reason_string("r"))).bytes(),
        pubcomp(1).reason(0, &twice(Property::reason_string("r"))).bytes(),
        disconnect_with(0, &twice(Property::session_expiry(0))),
        disconnect_with(0, &twice(Property::reason_string("r"))),
    ] {
        println!("{packet:02x?}");
        let mut client = join(V5);
        client.send(&packet);
        client.expect_error(&[0x82]);
    }
    for property in [
        Property::payload_format(1),
        Property::message_expiry(9_u32),
        Property::topic_alias(1),
        Property::response_topic("r"),
        Property::correlation_data(b"c"),
        Property::content_type("c"),
    ] {
        println!("{property:?}");
        let mut client = join(V5);
        client.send(&publish("p", "").property(property.clone()).property(property).bytes(V5));
        client.expect_error(&[0x82]);
    }
}

#[test]
fn v5_mqtt_4_13_2_1_after_a_disconnect_with_an_error_the_server_closes() {
    let mut client = join(V5);
    client.send(&frame(0x36, b"\0\x01t\0\x01\0"));
    let packet: Received = client.read();
    let (reason, _) = packet.reason(DISCONNECT);
    assert!(reason >= 0x80);
    client.expect_closed();
}

#[test]
fn v5_mqtt_2_2_2_1_packets_without_properties_bear_a_property_length_of_zero() {
    let mut client = join(V5);
    let topic = unique("t");
    client.send(&subscribe(V5, 1, &[], &[Filter::new(&topic, 0)]));
    let suback = client.read();
    assert_eq!(suback.body, [0, 1, 0, 0]);
    client.send(&publish(&topic, "p").bytes(V5));
    let received = client.read();
    assert_eq!(received.kind(), PUBLISH);
    assert_eq!(received.body[topic.len() + 2..], *b"\0p");
    client.send(&unsubscribe(V5, 2, &[&topic]));
    assert_eq!(client.read().body, [0, 2, 0, 0]);
}

#[test]
fn mqtt_3_14_1_1_a_disconnect_with_flags_is_malformed_and_the_will_is_published() {
    each(&[V3_1_1, V5], |version| {
        let topic = unique("will");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        let mut client = somebody(version).will(Will::new(&topic, "died")).open(broker_under_test());
        client.send(&[0xE1, 0]);
        client.expect_error(&[0x81]);
        assert_eq!(watcher.read_publish().text(), "died");
    });
}

#[test]
fn v5_mqtt_3_2_2_15_a_packet_larger_than_the_server_accepts_is_refused_by_its_header() {
    let accepted = join(V5);
    let maximum =
        accepted.accepted().number(0x27).expect("the server tells its Maximum Packet Size") as usize;
    for version in Version::ALL {
        let mut client = join(version);
        client.send(&[vec![0x30], variable_byte_integer(maximum)].concat());
        client.expect_error(&[0x95]);
    }
}
