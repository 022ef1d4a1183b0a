//! The exchanges of QoS 1 and QoS 2, §4.3 of both standards.

use std::thread;
use std::time::Duration;

use crate::support::{
    Ack, PUBACK, PUBCOMP, PUBREC, PUBREL, Property, V5, Version, broker_under_test, connect, puback, pubcomp,
    publish, pubrec, pubrel, unique,
};
use crate::{each, join};

#[test]
fn v5_mqtt_4_3_2_4_v5_mqtt_4_3_2_5_v311_mqtt_4_3_2_2_after_puback_the_same_identifier_is_a_new_message() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 1);
        let mut client = join(version);
        client.publish(&publish(&topic, "one").qos(1, 7));
        client.publish(&publish(&topic, "two").qos(1, 7).dup());
        client.publish(&publish(&topic, "three").qos(1, 7));
        for text in ["one", "two", "three"] {
            assert_eq!(watcher.receive().text(), text);
        }
    });
}

#[test]
fn v5_mqtt_4_3_3_8_v5_mqtt_4_3_3_10_v311_mqtt_4_3_3_2_a_publish_sent_again_before_pubrel_is_delivered_once() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 2);
        let persistent = connect(version).client_id(unique("c")).persistent();
        let mut client = persistent.open(broker_under_test());
        let message = publish(&topic, "once").qos(2, 7);
        client.send(&message.bytes(version));
        client.expect_ack(PUBREC, 7);
        for _ in 0..2 {
            client.send(&message.clone().dup().bytes(version));
            client.expect_ack(PUBREC, 7);
        }
        client.cut();
        let mut client = persistent.open(broker_under_test());
        client.send(&message.dup().bytes(version));
        client.expect_ack(PUBREC, 7);
        for _ in 0..2 {
            client.send(&pubrel(7).bytes());
            let (packet_id, reason, _) = client.read().ack(PUBCOMP);
            assert!(packet_id == 7 && matches!(reason, 0 | 0x92));
        }
        assert_eq!(watcher.receive().text(), "once");
        watcher.expect_nothing();
    });
}

#[test]
fn v5_mqtt_4_3_3_11_v5_mqtt_4_3_3_12_after_pubcomp_the_same_identifier_is_a_new_message() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 2);
        let mut client = join(version);
        for text in ["one", "two", "three"] {
            client.publish(&publish(&topic, text).qos(2, 7));
            assert_eq!(watcher.receive().text(), text);
        }
    });
}

#[test]
fn v5_mqtt_4_3_3_4_v311_mqtt_4_3_3_1_pubrec_is_answered_with_pubrel_of_the_same_identifier() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 2);
        let mut publisher = join(version);
        for _ in 0..3 {
            publisher.publish(&publish(&topic, "m").qos(2, 1));
        }
        let messages: Vec<_> = (0..3).map(|_| client.read_publish()).collect();
        for message in messages.iter().rev() {
            client.send(&pubrec(message.packet_id).bytes());
            client.expect_ack(PUBREL, message.packet_id);
        }
        for message in &messages {
            client.send(&pubcomp(message.packet_id).bytes());
        }
        client.expect_nothing();
    });
}

#[test]
fn v5_mqtt_4_13_1_1_v311_mqtt_4_8_0_1_an_acknowledgement_of_the_wrong_kind_closes_the_connection() {
    each(&Version::ALL, |version| {
        for (qos, wrong) in [(1, pubrec as fn(u16) -> Ack), (1, pubcomp), (2, puback), (2, pubcomp)] {
            let topic = unique("t");
            let mut client = join(version);
            client.subscribe(&topic, qos);
            join(version).publish(&publish(&topic, "m").qos(qos, 1));
            let packet_id = client.read_publish().packet_id;
            client.send(&wrong(packet_id).bytes());
            client.expect_error(&[0x82]);
        }
    });
}

#[test]
fn v5_mqtt_4_4_0_2_v5_mqtt_4_3_3_4_a_refused_message_is_over() {
    let topic = unique("t");
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    client.subscribe(&topic, 2);
    let mut publisher = join(V5);
    publisher.publish(&publish(&topic, "one").qos(1, 1));
    publisher.publish(&publish(&topic, "two").qos(2, 2));
    let (one, two) = (client.read_publish(), client.read_publish());
    client.send(&puback(one.packet_id).reason(0x80, &[]).bytes());
    client.send(&pubrec(two.packet_id).reason(0x97, &[]).bytes());
    client.expect_nothing();
    client.cut();
    let mut client = persistent.open(broker_under_test());
    client.expect_nothing();
}

#[test]
fn v5_mqtt_4_3_3_13_v5_mqtt_4_3_3_7_expiry_does_not_touch_a_message_that_was_sent() {
    let topic = unique("t");
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    client.subscribe(&topic, 2);
    let mut publisher = join(V5);
    let expiring = |text: &str| publish(&topic, text).qos(2, 1).property(Property::message_expiry(1_u32));
    publisher.publish(&expiring("one"));
    publisher.publish(&expiring("two"));
    let (one, two) = (client.read_publish(), client.read_publish());
    // Until both have expired: the passing of time is what is tested.
    thread::sleep(Duration::from_millis(2100));
    client.send(&pubrec(one.packet_id).bytes());
    client.expect_ack(PUBREL, one.packet_id);
    client.cut();
    let mut client = persistent.open(broker_under_test());
    let packets = [client.read(), client.read()];
    let pubrel = packets.iter().find(|packet| packet.kind() == PUBREL).expect("PUBREL again");
    assert_eq!(pubrel.ack(PUBREL).0, one.packet_id);
    let again = packets.iter().find(|packet| packet.kind() != PUBREL).expect("PUBLISH again").publish();
    assert_eq!((again.text(), again.packet_id, again.dup), ("two".into(), two.packet_id, true));
    client.send(&pubcomp(one.packet_id).bytes());
    client.complete(&again);
    client.expect_nothing();
}

#[test]
fn v5_mqtt_4_3_3_10_a_received_identifier_is_forgotten_with_its_session() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 2);
        let clean = connect(version).client_id(unique("c"));
        let mut client = clean.open(broker_under_test());
        client.send(&publish(&topic, "one").qos(2, 7).bytes(version));
        client.expect_ack(PUBREC, 7);
        client.cut();
        clean.open(broker_under_test()).publish(&publish(&topic, "two").qos(2, 7));
        // Whether the first is delivered is the server's choice: its PUBREL never came.
        while watcher.receive().text() != "two" {}
        watcher.expect_nothing();
    });
}

#[test]
fn v5_mqtt_4_5_0_1_v311_mqtt_4_5_0_1_every_session_that_matches_gets_its_copy() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watchers: Vec<_> = (0..5_u8)
            .map(|number| {
                let mut watcher = join(version);
                watcher.subscribe(&topic, number % 3);
                watcher
            })
            .collect();
        let mut client = join(version);
        client.send(&publish(&topic, "m").qos(1, 1).bytes(version));
        client.expect_ack(PUBACK, 1);
        for (number, watcher) in watchers.iter_mut().enumerate() {
            let message = watcher.receive();
            assert_eq!((message.text().as_str(), message.qos), ("m", (number as u8 % 3).min(1)));
            watcher.expect_nothing();
        }
    });
}

#[test]
fn v5_mqtt_4_3_3_10_v311_mqtt_4_3_3_2_the_identifier_alone_tells_that_a_message_was_sent_before() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 2);
        let mut client = join(version);
        client.send(&publish(&topic, "first").qos(2, 7).bytes(version));
        client.expect_ack(PUBREC, 7);
        client.send(&publish(&topic, "another, but not after a PUBREL").qos(2, 7).bytes(version));
        client.expect_ack(PUBREC, 7);
        client.send(&pubrel(7).bytes());
        client.expect_ack(PUBCOMP, 7);
        assert_eq!(watcher.receive().text(), "first");
        watcher.expect_nothing();
    });
}

/// All in one write, so that the broker reads them together.
#[test]
fn v5_mqtt_4_3_3_10_v311_mqtt_4_3_3_2_mqtt_4_6_0_3_repeats_among_others_are_delivered_once() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 2);
        let mut client = join(version);
        let message = |text: &str, qos, packet_id| publish(&topic, text).qos(qos, packet_id);
        let sent = [
            message("a", 2, 1),
            message("b", 2, 2),
            message("a again", 2, 1).dup(),
            message("c", 2, 3),
            message("b again", 2, 2),
            message("d", 1, 1),
            message("e", 0, 0),
            message("f", 2, 4),
            message("f again", 2, 4).dup(),
            message("g", 1, 9).dup(),
        ];
        client.send(&sent.iter().flat_map(|message| message.bytes(version)).collect::<Vec<_>>());
        for message in sent.iter().filter(|message| message.qos > 0) {
            let kind = if message.qos == 2 { PUBREC } else { PUBACK };
            client.expect_ack(kind, message.packet_id);
        }
        for (text, qos) in [("a", 2), ("b", 2), ("c", 2), ("d", 1), ("e", 0), ("f", 2), ("g", 1)] {
            let got = watcher.receive();
            assert_eq!((got.text().as_str(), got.qos, got.dup), (text, qos, false));
        }
        watcher.expect_nothing();
        // PUBRELs together as well; of those that are not known, one in the middle.
        let released: Vec<u8> = [1, 2, 77, 3, 4].into_iter().flat_map(|id| pubrel(id).bytes()).collect();
        client.send(&released);
        for packet_id in [1, 2, 77, 3, 4] {
            let (completed, reason, _) = client.read().ack(PUBCOMP);
            let expected = if packet_id == 77 && version == V5 { 0x92 } else { 0 };
            assert_eq!((completed, reason), (packet_id, expected));
        }
        // All of them are free again.
        client.publish(&message("h", 2, 1));
        assert_eq!(watcher.receive().text(), "h");
    });
}

#[test]
fn v5_mqtt_4_3_2_3_v5_mqtt_4_3_3_3_v311_mqtt_4_3_2_1_v311_mqtt_4_3_3_1_the_wrong_acknowledgement_completes_nothing()
 {
    each(&Version::NUMBERED, |version| {
        for (qos, wrong) in [(1, pubrec as fn(u16) -> Ack), (1, pubcomp), (2, puback), (2, pubcomp)] {
            let topic = unique("t");
            let persistent = connect(version).client_id(unique("c")).persistent();
            let mut client = persistent.open(broker_under_test());
            client.subscribe(&topic, 2);
            join(version).publish(&publish(&topic, "m").qos(qos, 1));
            let message = client.read_publish();
            client.leave_with(&wrong(message.packet_id).bytes());
            let mut client = persistent.open(broker_under_test());
            let again = client.read_publish();
            assert_eq!((again.packet_id, again.dup, again.qos), (message.packet_id, true, qos));
            client.complete(&again);
            client.expect_nothing();
        }
    });
}

#[test]
fn v5_mqtt_4_3_3_4_v5_mqtt_4_3_3_5_v311_mqtt_4_3_3_1_a_second_pubrec_is_answered_with_a_second_pubrel() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let persistent = connect(version).client_id(unique("c")).persistent();
        let mut client = persistent.open(broker_under_test());
        client.subscribe(&topic, 2);
        join(version).publish(&publish(&topic, "m").qos(2, 1));
        let message = client.read_publish();
        for _ in 0..2 {
            client.send(&pubrec(message.packet_id).bytes());
            client.expect_ack(PUBREL, message.packet_id);
        }
        client.send(&pubcomp(message.packet_id).bytes());
        client.expect_nothing();
        client.disconnect();
        persistent.open(broker_under_test()).expect_nothing();
    });
}
