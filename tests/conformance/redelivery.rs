//! What is sent again, and when: §4.4 of both standards.

use crate::support::{
    PUBREL, RawClient, V5, Version, broker_under_test, connect, pubcomp, publish, pubrec, unique,
};
use crate::{each, join};

/// A connected persistent client with messages of QoS 1 and 2 in flight, and how to come back.
#[track_caller]
fn in_flight(version: Version, count: u16) -> (crate::support::Connect, RawClient, Vec<u16>) {
    let topic = unique("t");
    let persistent = connect(version).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    client.subscribe(&topic, 2);
    let mut publisher = join(version);
    let mut packet_ids = Vec::new();
    for number in 0..count {
        publisher.publish(&publish(&topic, number.to_string()).qos(1 + (number % 2) as u8, 1));
        let message = client.read_publish();
        assert!(!message.dup);
        packet_ids.push(message.packet_id);
    }
    (persistent, client, packet_ids)
}

#[test]
fn mqtt_3_3_1_1_mqtt_4_4_0_1_mqtt_4_6_0_1_v5_mqtt_4_3_2_3_v5_mqtt_4_3_3_3_v311_mqtt_4_3_2_1_v311_mqtt_2_3_1_4_unacknowledged_messages_are_sent_again_on_reconnect()
 {
    each(&Version::ALL, |version| {
        let (persistent, client, packet_ids) = in_flight(version, 6);
        client.cut();
        for _ in 0..2 {
            let mut client = persistent.open(broker_under_test());
            for (number, packet_id) in packet_ids.iter().enumerate() {
                let message = client.read_publish();
                assert_eq!(message.text(), number.to_string(), "in the order they were first sent in");
                assert_eq!(message.packet_id, *packet_id, "with the original packet identifier");
                assert!(message.dup);
            }
            client.expect_nothing();
            client.cut();
        }
        let mut client = persistent.open(broker_under_test());
        for _ in &packet_ids {
            client.receive();
        }
        client.ping();
        client.disconnect();
        persistent.open(broker_under_test()).expect_nothing();
    });
}

#[test]
fn mqtt_4_4_0_1_nothing_is_sent_again_on_a_living_connection_or_after_a_clean_start() {
    each(&Version::NUMBERED, |version| {
        let (persistent, mut client, _) = in_flight(version, 4);
        let topic = unique("t");
        client.subscribe(&topic, 1);
        join(version).publish(&publish(&topic, "new").qos(1, 1));
        assert_eq!(client.receive().text(), "new");
        client.expect_nothing();
        client.cut();
        persistent.clean(true).open(broker_under_test()).expect_nothing();
    });
}

#[test]
fn v5_mqtt_4_3_3_5_v5_mqtt_4_3_3_6_v311_mqtt_4_3_3_1_mqtt_4_4_0_1_a_pubrel_without_pubcomp_is_sent_again_and_the_publish_is_not()
 {
    each(&Version::ALL, |version| {
        let (persistent, mut client, packet_ids) = in_flight(version, 2);
        let [unacknowledged, received] = packet_ids[..] else { panic!("two messages") };
        client.send(&pubrec(received).bytes());
        client.expect_ack(PUBREL, received);
        client.cut();
        for _ in 0..2 {
            let mut client = persistent.open(broker_under_test());
            let packets = [client.read(), client.read()];
            client.expect_nothing();
            let pubrel = packets.iter().find(|packet| packet.kind() == PUBREL).expect("PUBREL");
            assert_eq!(pubrel.ack(PUBREL).0, received);
            let publish = packets.iter().find(|packet| packet.kind() != PUBREL).expect("PUBLISH").publish();
            assert_eq!((publish.packet_id, publish.dup), (unacknowledged, true));
            client.cut();
        }
        let mut client = persistent.open(broker_under_test());
        client.send(&pubcomp(received).bytes());
        client.send(&crate::support::puback(unacknowledged).bytes());
        client.all_before_pingresp();
        client.expect_nothing();
        client.cut();
        persistent.open(broker_under_test()).expect_nothing();
    });
}

#[test]
fn mqtt_4_6_0_1_what_was_in_flight_comes_before_what_was_queued() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let persistent = connect(version).client_id(unique("c")).persistent();
        let mut client = persistent.open(broker_under_test());
        client.subscribe(&topic, 1);
        let mut publisher = join(version);
        publisher.publish(&publish(&topic, "0").qos(1, 1));
        publisher.publish(&publish(&topic, "1").qos(1, 1));
        client.read_publish();
        client.read_publish();
        client.cut();
        publisher.publish(&publish(&topic, "2").qos(1, 1));
        publisher.publish(&publish(&topic, "3").qos(1, 1));
        let mut client = persistent.open(broker_under_test());
        for number in 0..4 {
            let message = client.receive();
            assert_eq!((message.text(), message.dup), (number.to_string(), number < 2));
        }
    });
}

#[test]
fn v5_mqtt_4_4_0_1_a_takeover_sends_again_what_the_old_connection_did_not_acknowledge() {
    let (persistent, mut old, packet_ids) = in_flight(V5, 3);
    let mut new = persistent.open(broker_under_test());
    old.expect_error(&[0x8E]);
    for packet_id in packet_ids {
        let message = new.receive();
        assert_eq!((message.packet_id, message.dup), (packet_id, true));
    }
    new.expect_nothing();
}
