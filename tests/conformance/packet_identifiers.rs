//! Packet Identifiers: 5.0 §2.2.1 and 3.1.1 §2.3.1.

use std::collections::HashSet;

use crate::support::{
    Filter, PUBACK, PUBREL, PublishView, V5, Version, broker_under_test, connect, pubcomp, publish, pubrec,
    subscribe, unique, unsubscribe,
};
use crate::{each, join};

#[test]
fn v5_mqtt_2_2_1_3_v311_mqtt_2_3_1_1_a_packet_identifier_of_zero_closes_the_connection() {
    each(&Version::NUMBERED, |version| {
        for packet in [
            publish("t", "p").qos(1, 0).bytes(version),
            publish("t", "p").qos(2, 0).bytes(version),
            subscribe(version, 0, &[], &[Filter::new("t", 0)]),
            unsubscribe(version, 0, &["t"]),
        ] {
            println!("{packet:02x?}");
            let mut client = join(version);
            client.send(&packet);
            client.expect_error(&[0x81, 0x82]);
        }
    });
}

#[test]
fn v5_mqtt_2_2_1_4_v311_mqtt_2_3_1_4_v5_mqtt_4_3_2_1_v5_mqtt_4_3_3_1_identifiers_in_flight_are_unique_and_not_zero()
 {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut client = connect(version).client_id(unique("c")).persistent().open(broker_under_test());
        client.subscribe(&topic, 2);
        let mut publisher = join(version);
        let mut send = |count: u16| {
            for number in 0..count {
                publisher.publish(&publish(&topic, "m").qos(1 + (number % 2) as u8, 1));
            }
        };
        send(30);
        let first: Vec<PublishView> = (0..30).map(|_| client.read_publish()).collect();
        let mut in_flight: HashSet<u16> = first.iter().map(|message| message.packet_id).collect();
        assert_eq!(in_flight.len(), 30, "an identifier was used twice");
        assert!(!in_flight.contains(&0));

        for message in &first[..20] {
            if message.qos == 1 {
                client.complete(message);
                in_flight.remove(&message.packet_id);
            } else {
                client.send(&pubrec(message.packet_id).bytes());
                client.expect_ack(PUBREL, message.packet_id);
            }
        }
        send(20);
        for _ in 0..20 {
            let message = client.read_publish();
            assert!(in_flight.insert(message.packet_id), "{} was still in use", message.packet_id);
            client.complete(&message);
            in_flight.remove(&message.packet_id);
        }
    });
}

#[test]
fn v5_mqtt_2_2_1_4_v311_mqtt_2_3_1_4_identifiers_come_around_past_65535_without_a_clash() {
    let topic = unique("t");
    let mut client = join(V5);
    client.subscribe(&topic, 1);
    let mut publisher = join(V5);
    publisher.publish(&publish(&topic, "stays in flight").qos(1, 1));
    let stays = client.read_publish().packet_id;
    for _ in 0..700 {
        let batch: Vec<u8> = (1..=100).flat_map(|id| publish(&topic, "m").qos(1, id).bytes(V5)).collect();
        publisher.send(&batch);
        let mut acks = Vec::new();
        for _ in 0..100 {
            let message = client.read_publish();
            assert!(message.packet_id != 0 && message.packet_id != stays);
            acks.extend(crate::support::puback(message.packet_id).bytes());
        }
        client.send(&acks);
        (1..=100).for_each(|id| publisher.expect_ack(PUBACK, id));
    }
}

#[test]
fn v5_mqtt_2_2_1_5_client_and_server_number_their_packets_apart() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 2);
        join(version).publish(&publish(&topic, "from the server").qos(2, 1));
        let message = client.read_publish();
        client.send(&publish(unique("t"), "from the client").qos(2, message.packet_id).bytes(version));
        client.expect_ack(crate::support::PUBREC, message.packet_id);
        client.send(&pubrec(message.packet_id).bytes());
        client.expect_ack(PUBREL, message.packet_id);
        client.send(&crate::support::pubrel(message.packet_id).bytes());
        client.expect_ack(crate::support::PUBCOMP, message.packet_id);
        client.send(&pubcomp(message.packet_id).bytes());
        client.expect_nothing();
    });
}
