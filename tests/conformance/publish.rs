//! PUBLISH: flags, topic, and how it is answered, §3.3 of both standards.

use crate::support::{
    PUBACK, PUBREC, Property, V3_1_1, V5, Version, broker_under_test, frame, publish, pubrel, unique,
};
use crate::{each, join, somebody};

#[test]
fn mqtt_3_3_1_4_both_qos_bits_set_close_the_connection() {
    each(&Version::ALL, |version| {
        for flags in [0x06, 0x07, 0x0E] {
            let mut client = join(version);
            let mut bytes = publish(unique("t"), "p").qos(1, 1).bytes(version);
            bytes[0] = 0x30 | flags;
            client.send(&bytes);
            client.expect_error(&[0x81]);
        }
    });
}

#[test]
fn mqtt_3_3_1_2_dup_with_qos_0_is_refused_and_never_sent() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        let mut client = join(version);
        client.send(&publish(&topic, "bad").dup().bytes(version));
        client.expect_error(&[0x81, 0x82]);
        join(version).publish(&publish(&topic, "good"));
        let message = watcher.read_publish();
        assert_eq!((message.text().as_str(), message.dup), ("good", false));
    });
}

#[test]
fn mqtt_3_3_1_3_v5_mqtt_4_3_2_2_v5_mqtt_4_3_3_2_v5_mqtt_4_3_1_1_v311_mqtt_4_3_1_1_dup_of_the_publisher_is_not_passed_on()
 {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 2);
        let mut client = join(version);
        client.publish(&publish(&topic, "0"));
        client.publish(&publish(&topic, "1").qos(1, 1).dup());
        client.publish(&publish(&topic, "2").qos(2, 2).dup());
        for qos in 0..=2 {
            let message = watcher.receive();
            assert_eq!((message.qos, message.dup, message.text()), (qos, false, qos.to_string()));
        }
    });
}

#[test]
fn mqtt_3_3_4_1_v5_mqtt_4_5_0_2_v311_mqtt_4_3_2_2_v311_mqtt_4_3_3_2_each_qos_has_its_answer() {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        let topic = unique("t");
        client.send(&publish(&topic, "p").bytes(version));
        client.expect_nothing();
        client.send(&publish(&topic, "p").qos(1, 5).bytes(version));
        client.expect_ack(PUBACK, 5);
        client.send(&publish(&topic, "p").qos(2, 6).bytes(version));
        client.expect_ack(PUBREC, 6);
        client.send(&pubrel(6).bytes());
        client.expect_ack(crate::support::PUBCOMP, 6);
        client.expect_nothing();
    });
}

#[test]
fn mqtt_3_3_2_1_the_topic_comes_first_and_is_text() {
    each(&Version::ALL, |version| {
        let topic = format!("{}/ä/漢/🦅", unique("t"));
        let mut client = join(version);
        client.subscribe(&topic, 0);
        client.send(&publish(&topic, "p").bytes(version));
        let packet = client.read();
        assert_eq!(packet.body[2..2 + topic.len()], *topic.as_bytes());
        assert_eq!(packet.publish().topic, topic);
    });
}

#[test]
fn mqtt_3_3_2_2_v5_mqtt_4_7_0_1_v311_mqtt_4_7_1_1_a_topic_name_with_a_wildcard_closes_the_connection() {
    each(&Version::ALL, |version| {
        for topic in ["#", "+", "a/#", "a/+/b", "a+", "a#b"] {
            for qos in 0..=2 {
                let mut client = join(version);
                client.send(&publish(topic, "p").qos(qos, 1).bytes(version));
                // 0x90 is for names that are correctly formed.
                client.expect_error(&[0x81, 0x82]);
            }
        }
    });
}

#[test]
fn mqtt_4_7_3_1_an_empty_topic_name_closes_the_connection() {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        client.send(&publish("", "p").bytes(version));
        client.expect_error(&[0x81, 0x82, 0x90]);
    });
}

#[test]
fn mqtt_3_3_2_3_the_topic_sent_is_the_one_published_and_matches_the_filter() {
    each(&Version::ALL, |version| {
        let prefix = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&format!("{prefix}/+/x"), 0);
        let mut client = join(version);
        for level in ["a", "", "b c", "$d"] {
            client.publish(&publish(format!("{prefix}/{level}/y"), "no"));
            client.publish(&publish(format!("{prefix}/{level}/x"), "yes"));
            let message = watcher.read_publish();
            assert_eq!((message.topic, message.payload), (format!("{prefix}/{level}/x"), b"yes".to_vec()));
        }
        watcher.expect_nothing();
    });
}

#[test]
fn v5_mqtt_2_2_1_2_v311_mqtt_2_3_1_5_qos_0_bears_no_packet_identifier() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 0);
        client.send(&publish(&topic, [0, 9, 0, 0]).bytes(version));
        let packet = client.read();
        let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
        assert_eq!(packet.body[2 + topic.len()..], [properties, &[0, 9, 0, 0]].concat());
    });
}

#[test]
fn v5_mqtt_3_3_4_6_a_subscription_identifier_from_a_client_is_a_protocol_error() {
    let mut client = join(V5);
    client.send(&publish(unique("t"), "p").property(Property::subscription_identifier(1_usize)).bytes(V5));
    client.expect_error(&[0x82]);
}

#[test]
fn v5_mqtt_3_3_2_14_v5_mqtt_3_3_2_13_a_response_topic_must_be_a_topic_name() {
    for topic in ["", "a/#", "+", "a/+/b"] {
        let mut client = join(V5);
        client.send(&publish(unique("t"), "p").property(Property::response_topic(topic)).bytes(V5));
        client.expect_error(&[0x81, 0x82, 0x90]);
    }
}

#[test]
fn mqtt_3_3_4_1_payloads_of_every_length_pass_unaltered() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 1);
        for length in [0, 1, 100, 127, 128, 16_383, 16_384, 65_535, 65_536, 300_000] {
            let payload: Vec<u8> = (0..length).map(|index: usize| (index % 251) as u8).collect();
            client.publish(&publish(&topic, &payload).qos(1, 1));
            let message = client.receive();
            assert!(message.payload == payload, "a payload of {length} bytes was changed");
        }
    });
}

#[test]
fn mqtt_3_3_4_1_a_message_passes_between_versions_in_every_pairing() {
    each(&Version::ALL, |from| {
        each(&Version::ALL, |to| {
            let topic = unique("t");
            let mut watcher = join(to);
            watcher.subscribe(&topic, 2);
            let mut client = join(from);
            for qos in 0..=2 {
                let property = Property::user("n", "v");
                client.publish(&publish(&topic, "m").qos(qos, 3).property(property));
                let message = watcher.receive();
                assert_eq!((message.text().as_str(), message.qos), ("m", qos));
                assert_eq!(message.properties.len(), usize::from(from == V5 && to == V5));
            }
        });
    });
}

#[test]
fn v5_mqtt_3_14_4_1_v311_mqtt_3_14_4_2_nothing_behind_a_disconnect_is_processed() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        let mut client = somebody(version).open(broker_under_test());
        let behind = publish(&topic, "too late").bytes(version);
        client.send(&[crate::support::disconnect(), behind].concat());
        client.expect_closed();
        watcher.expect_nothing();
    });
}

#[test]
fn v311_mqtt_4_8_0_1_a_publish_without_a_topic_field_closes_the_connection() {
    each(&[V3_1_1, V5], |version| {
        for body in [&b""[..], b"\0", b"\0\x05abc"] {
            let mut client = join(version);
            client.send(&frame(0x30, body));
            client.expect_error(&[0x81]);
        }
    });
}

#[test]
fn v5_mqtt_4_2_1_v311_mqtt_7_1_1_2_what_was_sent_before_the_end_of_a_connection_is_processed() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        let bytes = |text: &str| publish(&topic, text).bytes(version);
        join(version).leave_with(&[bytes("disconnected"), crate::support::disconnect()].concat());
        assert_eq!(watcher.read_publish().text(), "disconnected");
        join(version).leave_with(&bytes("cut"));
        assert_eq!(watcher.read_publish().text(), "cut");
        join(version).leave_with(&[bytes("before an error"), vec![0x36, 0], bytes("after it")].concat());
        assert_eq!(watcher.read_publish().text(), "before an error");
        watcher.expect_nothing();
    });
}

#[test]
fn v5_mqtt_4_2_1_v311_mqtt_7_1_1_2_packets_may_arrive_in_any_pieces() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 1);
        let packets: Vec<u8> =
            (1..=20).flat_map(|id| publish(&topic, id.to_string()).qos(1, id).bytes(version)).collect();
        for size in [1, 3, 7, 64] {
            packets.chunks(size).for_each(|piece| client.send(piece));
            let (mut acks, mut texts) = (0, Vec::new());
            while acks < 20 || texts.len() < 20 {
                let packet = client.read();
                if packet.kind() == PUBACK {
                    acks += 1;
                } else {
                    let message = packet.publish();
                    client.complete(&message);
                    texts.push(message.text());
                }
            }
            assert_eq!(texts, (1..=20).map(|id| id.to_string()).collect::<Vec<_>>());
        }
    });
}

#[test]
fn v311_mqtt_3_3_5_2_a_publish_that_is_not_authorised_is_acknowledged_or_ends_the_connection() {
    each(&Version::NUMBERED, |version| {
        let topic = format!("$SYS/{}", unique("forged"));
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        for qos in 0..=2 {
            let mut client = join(version);
            client.send(&publish(&topic, "forged").qos(qos, 1).bytes(version));
            client.send(&crate::support::pingreq());
            match client.read_or_closed() {
                Some(packet) if qos == 1 && packet.kind() == PUBACK => assert_eq!(packet.ack(PUBACK).0, 1),
                Some(packet) if qos == 2 && packet.kind() == PUBREC => assert_eq!(packet.ack(PUBREC).0, 1),
                Some(packet) if qos == 0 && packet.kind() == crate::support::PINGRESP => {}
                Some(packet) => {
                    assert_eq!(packet.reason(crate::support::DISCONNECT).0, 0x87);
                    client.expect_closed();
                }
                None => {}
            }
        }
        watcher.expect_nothing();
    });
}
