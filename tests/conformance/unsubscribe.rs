//! UNSUBSCRIBE and UNSUBACK, §3.10 and §3.11 of both standards.

use crate::support::{
    Filter, PUBREL, UNSUBACK, V5, Version, broker_under_test, connect, puback, pubcomp, publish, pubrec,
    unique, unsubscribe,
};
use crate::{each, join};

#[test]
fn mqtt_3_10_4_1_mqtt_3_10_4_2_only_the_very_same_filter_is_removed() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        let (wild, plain) = (format!("{topic}/#"), format!("{topic}/a"));
        client.subscribe(&wild, 0);
        for similar in [&plain, &topic, &format!("{topic}/+"), &wild.to_uppercase(), "#"] {
            client.unsubscribe(similar);
        }
        client.publish(&publish(&plain, "still there"));
        assert_eq!(client.read_publish().text(), "still there");
        client.unsubscribe(&wild);
        client.publish(&publish(&plain, "gone"));
        client.expect_nothing();
    });
}

#[test]
fn mqtt_3_10_4_4_mqtt_3_10_4_5_v5_mqtt_2_2_1_6_v311_mqtt_2_3_1_7_unsubscribe_is_answered_even_if_nothing_was_subscribed()
 {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        for packet_id in [1, 0x0203, 65_535] {
            client.send(&unsubscribe(version, packet_id, &[unique("never")]));
            let unsuback = client.read();
            assert_eq!(unsuback.many_acks(UNSUBACK).0, packet_id);
            assert!(version.is_v5() || unsuback.body.len() == 2);
        }
    });
}

#[test]
fn v5_mqtt_3_11_3_1_v5_mqtt_3_11_3_2_mqtt_3_10_4_6_one_unsuback_tells_of_each_filter_in_order() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        let name = |n: u32| format!("{topic}/{n}");
        client.subscribe_with(
            &[],
            &[Filter::new(name(1), 0), Filter::new(name(2), 0), Filter::new(name(4), 0)],
        );
        client.send(&unsubscribe(version, 5, &[name(1), name(3), name(4), name(1)]));
        let (packet_id, _, reasons) = client.read().many_acks(UNSUBACK);
        assert_eq!(packet_id, 5);
        if version.is_v5() {
            assert_eq!(reasons, [0, 0x11, 0, 0x11]);
        }
        for n in 1..=4 {
            client.publish(&publish(name(n), n.to_string()));
        }
        assert_eq!(client.read_publish().text(), "2");
        client.expect_nothing();
    });
}

#[test]
fn mqtt_3_10_3_2_an_unsubscribe_without_filters_closes_the_connection() {
    each(&Version::NUMBERED, |version| {
        let mut client = join(version);
        client.send(&unsubscribe::<&str>(version, 1, &[]));
        client.expect_error(&[0x81, 0x82]);
    });
}

#[test]
fn mqtt_3_10_3_1_a_filter_of_any_valid_text_can_be_removed() {
    each(&Version::ALL, |version| {
        let topic = format!("{}/ü/漢字/🦅", unique("t"));
        let mut client = join(version);
        client.subscribe(&topic, 0);
        client.unsubscribe(&topic);
        client.publish(&publish(&topic, "m"));
        client.expect_nothing();
    });
}

#[test]
fn mqtt_3_10_4_3_what_was_in_flight_is_completed_after_unsubscribing() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let persistent = connect(version).client_id(unique("c")).persistent();
        let mut client = persistent.open(broker_under_test());
        client.subscribe(&topic, 2);
        let mut publisher = join(version);
        publisher.publish(&publish(&topic, "one").qos(1, 1));
        publisher.publish(&publish(&topic, "two").qos(2, 2));
        let (one, two) = (client.read_publish(), client.read_publish());
        client.unsubscribe(&topic);
        client.cut();
        let mut client = persistent.open(broker_under_test());
        let again = client.read_publish();
        assert_eq!((again.text(), again.packet_id, again.dup), ("one".into(), one.packet_id, true));
        client.send(&puback(one.packet_id).bytes());
        let again = client.read_publish();
        assert_eq!((again.text(), again.packet_id, again.dup), ("two".into(), two.packet_id, true));
        client.send(&pubrec(two.packet_id).bytes());
        client.expect_ack(PUBREL, two.packet_id);
        client.send(&pubcomp(two.packet_id).bytes());
        publisher.publish(&publish(&topic, "three").qos(1, 3));
        client.expect_nothing();
    });
}

#[test]
fn v5_mqtt_3_11_3_2_a_shared_subscription_is_removed_by_its_whole_filter() {
    let topic = unique("t");
    let shared = format!("$share/group/{topic}");
    let mut client = join(V5);
    client.subscribe(&shared, 0);
    client.send(&unsubscribe(V5, 6, &[topic.clone(), format!("$share/other/{topic}"), shared]));
    assert_eq!(client.read().many_acks(UNSUBACK).2, [0x11, 0x11, 0]);
    client.publish(&publish(&topic, "m"));
    client.expect_nothing();
}
