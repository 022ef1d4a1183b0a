//! CONNECT: what is accepted, what is refused and how, §3.1 of both standards.

use crate::support::{
    CONNACK, Connect, Filter, Property, RawClient, SUBACK, V3_1_1, V5, Version, Will, broker_under_test,
    connect, frame, pingreq, publish, pubrel, subscribe, text, unique, unsubscribe,
};
use crate::{each, join, somebody};

/// The server refuses this CONNECT as malformed or forbidden: 3.x closes in silence [MQTT-3.1.4-1], 5.0 may
/// say CONNACK before.
#[track_caller]
fn refused(connect: &Connect, reasons: &[u8]) {
    refused_bytes(connect.version, &connect.bytes(), reasons);
}

#[track_caller]
fn refused_bytes(version: Version, bytes: &[u8], reasons: &[u8]) {
    let mut client = RawClient::open(broker_under_test(), version);
    client.send(bytes);
    if version.is_v5() {
        client.expect_connect_error(reasons);
    } else {
        client.expect_closed();
    }
}

#[test]
fn mqtt_3_1_0_1_v5_mqtt_3_14_0_1_what_comes_before_connect_is_answered_by_closing_alone() {
    each(&Version::ALL, |version| {
        for packet in [
            pingreq(),
            publish("t", "p").bytes(version),
            publish("t", "p").qos(1, 1).bytes(version),
            subscribe(version, 1, &[], &[Filter::new("t", 0)]),
            unsubscribe(version, 1, &["t"]),
            pubrel(1).bytes(),
            vec![0xE0, 0],
            vec![0xF0, 0],
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ] {
            println!("{packet:02x?}");
            let mut client = RawClient::open(broker_under_test(), version);
            client.send(&packet);
            client.expect_closed();
        }
    });
}

#[test]
fn mqtt_3_1_0_2_v5_mqtt_3_2_0_2_a_second_connect_closes_the_connection() {
    each(&Version::ALL, |version| {
        let connect = somebody(version);
        let mut client = connect.open(broker_under_test());
        client.send(&connect.bytes());
        client.expect_error(&[0x82]);
    });
}

/// What is wrong with a first CONNECT does not matter in a second: it is answered by its type.
#[test]
fn mqtt_3_1_0_2_v5_mqtt_3_14_2_1_a_second_connect_is_a_protocol_error_whatever_it_says() {
    each(&Version::ALL, |version| {
        for second in [
            connect(V3_1_1).protocol_level(6),
            connect(V3_1_1).protocol_name("AMQP"),
            connect(V3_1_1).client_id("").clean(false),
            connect(V5).flip_flags(1),
            connect(V5).property(Property::receive_maximum(0)),
        ] {
            let mut client = join(version);
            client.send(&second.bytes());
            client.expect_error(&[0x82]);
        }
    });
}

#[test]
fn v5_mqtt_3_1_2_24_who_takes_less_than_a_refusal_is_told_nothing() {
    for (limit, told) in [(1_u32, false), (2, false), (4, false), (5, true), (10, true)] {
        for connect in [
            somebody(V5),
            somebody(V5).property(Property::authentication_method("none such")),
            somebody(V5).will(Will::new("#", "p")),
        ] {
            let mut client =
                connect.property(Property::maximum_packet_size(limit)).send_to(broker_under_test());
            match client.read_or_closed() {
                Some(packet) => {
                    assert!(told, "{packet:02x?} has more than {limit} bytes");
                    assert_eq!(packet.body.len(), 3);
                    assert!(packet.connack().reason >= 0x80);
                    client.expect_closed();
                }
                None => assert!(!told),
            }
        }
    }
}

/// A client that cannot be told that it is accepted is refused before anything is done for it.
#[test]
fn v5_mqtt_3_1_4_2_who_is_refused_for_its_maximum_packet_size_has_changed_nothing() {
    let (id, topic) = (unique("c"), unique("will"));
    let mut watcher = join(V5);
    watcher.subscribe(&topic, 0);
    let mut owner = connect(V5).client_id(&id).persistent().open(broker_under_test());
    owner.subscribe("owned", 0);
    let mut late = connect(V5)
        .client_id(&id)
        .will(Will::new(&topic, "refused"))
        .property(Property::maximum_packet_size(6_u32))
        .send_to(broker_under_test());
    if let Some(packet) = late.read_or_closed() {
        assert_eq!(packet.connack().reason, 0x95);
        late.expect_closed();
    }
    owner.publish(&publish("owned", "still here"));
    assert_eq!(owner.read_publish().text(), "still here");
    watcher.expect_nothing();
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_takes_no_effect_and_the_will_is_published() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("will");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        let connect = somebody(version).will(Will::new(&topic, "first"));
        let mut client = connect.open(broker_under_test());
        client.send(&connect.will(Will::new(&topic, "second")).bytes());
        client.expect_error(&[0x82]);
        assert_eq!(watcher.read_publish().text(), "first");
        watcher.expect_nothing();
    });
}

#[test]
fn mqtt_3_1_2_1_another_protocol_name_is_refused() {
    each(&Version::NUMBERED, |version| {
        for name in ["", "mqtt", "MQT", "MQTTT", "MQIsdp", "HTTP"] {
            println!("{name}");
            let mut client = somebody(version).protocol_name(name).send_to(broker_under_test());
            if let Some(packet) = client.read_or_closed() {
                packet.must_be(CONNACK);
                assert_ne!(packet.body[1], 0);
                client.expect_closed();
            }
        }
    });
}

#[test]
fn mqtt_3_1_2_2_an_unsupported_protocol_level_is_refused_with_a_connack() {
    for level in [0, 1, 2, 3, 6, 7, 0x7F, 0x84, 0xFF] {
        println!("level {level}");
        let mut client = somebody(V3_1_1).protocol_level(level).send_to(broker_under_test());
        let connack = client.read();
        connack.must_be(CONNACK);
        assert!(matches!(connack.body[..], [0, 0x01] | [0, 0x84, 0, ..]), "{connack:02x?}");
        client.expect_closed();
    }
    for level in [6, 0xFF] {
        somebody(V5).protocol_level(level).refused(broker_under_test());
    }
}

#[test]
fn mqtt_3_1_2_3_the_reserved_connect_flag_must_be_zero() {
    each(&Version::NUMBERED, |version| refused(&somebody(version).flip_flags(0x01), &[0x81]));
}

#[test]
fn v5_mqtt_3_1_2_11_v311_mqtt_3_1_2_11_v311_mqtt_3_1_2_13_will_qos_without_a_will_is_refused() {
    each(&Version::NUMBERED, |version| {
        for flags in [0x08, 0x10, 0x18] {
            refused(&somebody(version).flip_flags(flags), &[0x81, 0x82]);
        }
    });
}

#[test]
fn v5_mqtt_3_1_2_13_v311_mqtt_3_1_2_11_v311_mqtt_3_1_2_15_will_retain_without_a_will_is_refused() {
    each(&Version::NUMBERED, |version| refused(&somebody(version).flip_flags(0x20), &[0x81, 0x82]));
}

#[test]
fn v5_mqtt_3_1_2_12_v311_mqtt_3_1_2_14_a_will_qos_of_three_is_refused() {
    each(&Version::NUMBERED, |version| {
        refused(&somebody(version).will(Will::new("t", "w").qos(3)), &[0x81, 0x82]);
    });
}

#[test]
fn mqtt_3_1_2_9_a_will_flag_without_will_fields_is_refused() {
    each(&Version::NUMBERED, |version| refused(&somebody(version).flip_flags(0x04), &[0x81, 0x82]));
}

#[test]
fn v311_mqtt_3_1_2_11_will_fields_without_a_will_flag_are_refused() {
    each(&Version::NUMBERED, |version| {
        refused(&somebody(version).will(Will::new("t", "w")).flip_flags(0x04), &[0x81, 0x82]);
    });
}

#[test]
fn v5_mqtt_3_1_2_16_v311_mqtt_3_1_2_18_a_user_name_without_its_flag_is_refused() {
    each(&Version::NUMBERED, |version| {
        refused(&somebody(version).username("user").flip_flags(0x80), &[0x81, 0x82]);
    });
}

#[test]
fn v5_mqtt_3_1_2_17_v311_mqtt_3_1_2_19_a_user_name_flag_without_a_user_name_is_refused() {
    each(&Version::NUMBERED, |version| refused(&somebody(version).flip_flags(0x80), &[0x81, 0x82]));
}

#[test]
fn v5_mqtt_3_1_2_18_v311_mqtt_3_1_2_20_a_password_without_its_flag_is_refused() {
    each(&Version::NUMBERED, |version| {
        refused(&somebody(version).username("user").password("pass").flip_flags(0x40), &[0x81, 0x82]);
    });
}

#[test]
fn v5_mqtt_3_1_2_19_v311_mqtt_3_1_2_21_a_password_flag_without_a_password_is_refused() {
    each(&Version::NUMBERED, |version| {
        refused(&somebody(version).username("user").flip_flags(0x40), &[0x81, 0x82]);
    });
}

#[test]
fn v311_mqtt_3_1_2_22_a_password_without_a_user_name_is_refused_before_5_0() {
    refused(&somebody(V3_1_1).password("pass"), &[]);
}

#[test]
fn v5_mqtt_3_1_2_19_a_password_without_a_user_name_is_well_formed_in_5_0() {
    let mut client = somebody(V5).password("pass").send_to(broker_under_test());
    let connack = client.read().connack();
    assert!(!matches!(connack.reason, 0x81 | 0x82), "{connack:?}");
}

#[test]
fn mqtt_3_1_3_1_the_payload_fields_are_read_in_their_order() {
    each(&Version::ALL, |version| {
        let topic = unique("will");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        let mut will = Will::new(&topic, [0, 1, 0xFF]);
        if version.is_v5() {
            will = will.property(Property::content_type("bytes")).property(Property::user("n", "v"));
        }
        let connect = somebody(version).will(will).username("user").password([0, 0xFF]);
        let mut client = connect.property(Property::user("a", "b")).open(broker_under_test());
        client.ping();
        client.cut();
        let message = watcher.read_publish();
        assert_eq!(message.payload, [0, 1, 0xFF]);
        assert_eq!(message.properties.len(), if version.is_v5() { 2 } else { 0 });
    });
}

#[test]
fn mqtt_3_1_3_3_a_connect_without_a_client_identifier_is_refused() {
    refused_bytes(V3_1_1, &frame(0x10, b"\0\x04MQTT\x04\x02\0\x3C"), &[]);
    refused_bytes(V5, &frame(0x10, b"\0\x04MQTT\x05\x02\0\x3C\0"), &[0x81, 0x82]);
}

#[test]
fn mqtt_3_1_4_1_a_connect_cut_short_anywhere_is_refused() {
    each(&Version::NUMBERED, |version| {
        let will = Will::new("w", "p").property(Property::will_delay(1_u32));
        let connect = somebody(version).client_id("cut").will(will).username("u").password("p");
        let whole = connect.property(Property::session_expiry(1_u32)).bytes();
        let body = &whole[2..];
        for length in 0..body.len() {
            let mut client = RawClient::open(broker_under_test(), version);
            client.send(&frame(0x10, &body[..length]));
            println!("cut at {length}");
            if version.is_v5() {
                client.expect_connect_error(&[0x81, 0x82, 0x84]);
            } else {
                client.expect_closed();
            }
        }
        refused_bytes(version, &frame(0x10, &[body, b"x"].concat()), &[0x81]);
    });
}

#[test]
fn v5_mqtt_3_1_4_1_properties_that_may_stand_once_are_refused_twice() {
    for property in [
        Property::session_expiry(1_u32),
        Property::receive_maximum(10),
        Property::maximum_packet_size(1000_u32),
        Property::topic_alias_maximum(1),
        Property::request_response_information(1),
        Property::request_problem_information(1),
        Property::authentication_method("m"),
    ] {
        println!("{property:?}");
        refused(&somebody(V5).property(property.clone()).property(property), &[0x82]);
    }
    for property in [
        Property::will_delay(1_u32),
        Property::payload_format(1),
        Property::message_expiry(1_u32),
        Property::content_type("c"),
        Property::response_topic("r"),
        Property::correlation_data(b"c"),
    ] {
        println!("{property:?}");
        let will = Will::new("w", "p").property(property.clone()).property(property);
        refused(&somebody(V5).will(will), &[0x82]);
    }
}

#[test]
fn v5_mqtt_3_1_4_1_properties_with_forbidden_values_are_refused() {
    for property in [
        Property::receive_maximum(0),
        Property::maximum_packet_size(0_u32),
        Property::request_response_information(2),
        Property::request_problem_information(2),
        Property::authentication_data(b"without a method"),
        Property::topic_alias(1),
        Property::reason_string("not in a CONNECT"),
        Property::will_delay(1_u32),
        Property::raw(0x7F, b""),
    ] {
        println!("{property:?}");
        refused(&somebody(V5).property(property), &[0x81, 0x82]);
    }
    for property in [Property::session_expiry(1_u32), Property::topic_alias(1)] {
        println!("{property:?}");
        refused(&somebody(V5).will(Will::new("w", "p").property(property)), &[0x81, 0x82]);
    }
}

#[test]
fn v5_mqtt_3_1_4_1_a_property_length_beyond_the_packet_is_refused() {
    let body = [text("MQTT"), b"\x05\x02\0\x3C\x20".to_vec(), text("c")].concat();
    refused_bytes(V5, &frame(0x10, &body), &[0x81, 0x82]);
}

#[test]
fn v5_mqtt_3_1_4_3_v311_mqtt_3_1_4_2_a_new_connection_takes_the_client_identifier_over() {
    each(&Version::ALL, |old| {
        for new in Version::ALL {
            let id = unique("taken");
            let mut first = connect(old).client_id(&id).open(broker_under_test());
            let mut second = connect(new).client_id(&id).open(broker_under_test());
            first.expect_error(&[0x8E]);
            second.expect_nothing();
        }
    });
}

#[test]
fn v5_mqtt_3_1_4_6_v311_mqtt_3_1_4_5_nothing_behind_a_refused_connect_is_processed() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("refused");
        let refused = [
            somebody(version).flip_flags(0x01),
            somebody(version).protocol_level(9),
            somebody(V5).property(Property::authentication_method("no such method")),
        ];
        for connect in refused {
            let mut client = RawClient::open(broker_under_test(), connect.version);
            let behind = publish(&topic, "sneaked in").retain().bytes(connect.version);
            client.send(&[connect.bytes(), behind].concat());
            while client.read_or_closed().is_some() {}
        }
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        watcher.expect_nothing();
    });
}

#[test]
fn mqtt_3_2_0_1_v5_mqtt_3_1_4_5_v311_mqtt_3_1_4_4_what_follows_connect_at_once_is_processed_after_the_connack()
 {
    each(&Version::ALL, |version| {
        let topic = unique("eager");
        let bytes = [
            somebody(version).bytes(),
            subscribe(version, 1, &[], &[Filter::new(&topic, 0)]),
            publish(&topic, "eager").bytes(version),
            pingreq(),
        ];
        let mut client = RawClient::open(broker_under_test(), version);
        client.send(&bytes.concat());
        let connack = client.read().connack();
        assert_eq!((connack.session_present, connack.reason), (false, 0));
        client.read().must_be(SUBACK);
        let mut rest = [client.read(), client.read()];
        rest.sort_by_key(|packet| packet.kind());
        assert_eq!(rest[0].publish().text(), "eager");
        rest[1].must_be(crate::support::PINGRESP);
    });
}

#[test]
fn mqtt_3_1_4_1_a_connect_that_trickles_in_byte_by_byte_is_accepted() {
    each(&Version::ALL, |version| {
        let mut client = RawClient::open(broker_under_test(), version);
        for byte in somebody(version).will(Will::new("w", "p")).bytes() {
            client.send(&[byte]);
        }
        assert_eq!(client.read().connack().reason, 0);
    });
}
