//! Retained messages: §3.3.1.3 of both standards, Retain Handling and Retain As Published of 5.0 §3.8.3.1.

use crate::support::{
    Filter, Received, SUBACK, V5, Version, broker_under_test, connect, publish, subscribe, unique,
};
use crate::{each, join};

/// Texts and RETAIN flags of what a new subscriber of the filter gets.
#[track_caller]
fn retained(version: Version, filter: &str) -> Vec<(String, bool)> {
    let mut client = join(version);
    client.subscribe(filter, 0);
    let packets = client.all_before_pingresp();
    packets.iter().map(|packet| packet.publish()).map(|message| (message.text(), message.retain)).collect()
}

fn one(text: &str) -> Vec<(String, bool)> {
    vec![(text.to_string(), true)]
}

#[test]
fn mqtt_3_3_1_5_v311_mqtt_3_3_1_6_v311_mqtt_3_3_1_8_the_last_retained_message_is_kept_for_subscribers_to_come()
 {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        for qos in 0..=2 {
            client.publish(&publish(&topic, format!("retained {qos}")).qos(qos, 1).retain());
            assert_eq!(retained(version, &topic), one(&format!("retained {qos}")));
            assert_eq!(retained(version, &format!("{topic}/#")), one(&format!("retained {qos}")));
        }
    });
}

#[test]
fn v311_mqtt_3_3_1_7_a_retained_message_of_qos_0_replaces_the_one_before() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.publish(&publish(&topic, "old").qos(2, 1).retain());
        client.publish(&publish(&topic, "new").retain());
        let got = retained(version, &topic);
        assert!(got.is_empty() || got == one("new"), "{got:?}");
    });
}

#[test]
fn mqtt_3_3_1_5_retained_messages_keep_their_qos() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        join(version).publish(&publish(&topic, "m").qos(2, 1).retain());
        for qos in 0..=2 {
            let mut client = join(version);
            client.subscribe(&topic, qos);
            let message = client.receive();
            assert_eq!((message.qos, message.retain, message.dup), (qos, true, false));
        }
    });
}

#[test]
fn mqtt_3_3_1_5_every_matching_topic_has_its_own_retained_message() {
    each(&Version::ALL, |version| {
        let prefix = unique("t");
        let mut client = join(version);
        for level in ["a", "b", "c/d", ""] {
            client.publish(&publish(format!("{prefix}/{level}"), format!("at {level}")).retain());
        }
        let mut all = retained(version, &format!("{prefix}/#"));
        all.sort();
        let texts: Vec<_> = all.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["at ", "at a", "at b", "at c/d"]);
        let mut level = retained(version, &format!("{prefix}/+"));
        level.sort();
        assert_eq!(level.len(), 3);
        assert_eq!(retained(version, &format!("{prefix}/+/+")), one("at c/d"));
    });
}

#[test]
fn v5_mqtt_3_3_1_6_v5_mqtt_3_3_1_7_v311_mqtt_3_3_1_10_v311_mqtt_3_3_1_11_an_empty_payload_removes_what_is_retained()
 {
    each(&Version::ALL, |version| {
        for qos in 0..=2 {
            let topic = unique("t");
            let mut client = join(version);
            client.publish(&publish(&topic, "old").qos(1, 1).retain());
            let mut watcher = join(version);
            watcher.subscribe(&topic, 2);
            assert_eq!(watcher.receive().text(), "old");
            client.publish(&publish(&topic, "").qos(qos, 1).retain());
            let message = watcher.receive();
            assert_eq!((message.payload.len(), message.retain), (0, false), "it is sent on as any other");
            assert_eq!(retained(version, &topic), []);
        }
    });
}

#[test]
fn v5_mqtt_3_3_1_8_v311_mqtt_3_3_1_12_without_retain_nothing_is_stored_or_removed() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.publish(&publish(&topic, "passing").qos(1, 1));
        assert_eq!(retained(version, &topic), []);
        client.publish(&publish(&topic, "kept").qos(1, 1).retain());
        client.publish(&publish(&topic, "passing").qos(1, 1));
        client.publish(&publish(&topic, ""));
        assert_eq!(retained(version, &topic), one("kept"));
    });
}

#[test]
fn v5_mqtt_3_3_1_12_v311_mqtt_3_3_1_9_who_was_subscribed_gets_it_without_the_flag() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 2);
        for qos in 0..=2 {
            client.publish(&publish(&topic, "m").qos(qos, 1).retain());
            assert!(!client.receive().retain);
        }
    });
}

#[test]
fn v5_mqtt_3_3_1_13_retain_as_published_keeps_the_flag() {
    let topic = unique("t");
    let mut client = join(V5);
    client.subscribe_with(&[], &[Filter::new(&topic, 1).retain_as_published()]);
    client.publish(&publish(&topic, "retained").qos(1, 1).retain());
    assert!(client.receive().retain);
    client.publish(&publish(&topic, "not").qos(1, 1));
    assert!(!client.receive().retain);
    let plain = retained(V5, &topic);
    assert_eq!(plain, one("retained"));
}

#[test]
fn v5_mqtt_3_3_1_13_retain_as_published_holds_through_the_queue() {
    let topic = unique("t");
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    client.subscribe_with(&[], &[Filter::new(&topic, 1).retain_as_published()]);
    client.disconnect();
    join(V5).publish(&publish(&topic, "retained").qos(1, 1).retain());
    assert!(persistent.open(broker_under_test()).receive().retain);
}

#[test]
fn v5_mqtt_3_3_1_9_v5_mqtt_3_8_4_4_v5_mqtt_3_8_4_3_v311_mqtt_3_8_4_3_each_subscribe_sends_the_retained_message()
 {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        join(version).publish(&publish(&topic, "retained").qos(1, 1).retain());
        let mut client = join(version);
        for _ in 0..3 {
            client.subscribe(&topic, 1);
            let message = client.receive();
            assert_eq!((message.text().as_str(), message.retain), ("retained", true));
        }
        client.expect_nothing();
    });
}

/// What is retained when the SUBSCRIBE comes is sent, once, whatever comes in one breath with it.
#[test]
fn v5_mqtt_3_3_1_9_v5_mqtt_3_8_4_4_v311_mqtt_3_3_1_6_a_subscribe_is_for_what_is_retained_then() {
    each(&Version::ALL, |version| {
        let topic = unique("retained");
        let mut publisher = join(version);
        for level in ["replaced", "removed", "stays"] {
            publisher.publish(&publish(format!("{topic}/{level}"), "old").retain());
        }
        publisher.ping();
        let mut client = join(version);
        let new = |level: &str, text: &str| publish(format!("{topic}/{level}"), text).retain().bytes(version);
        client.send(
            &[
                subscribe(version, 1, &[], &[Filter::new(format!("{topic}/#"), 0)]),
                new("replaced", "new"),
                new("removed", ""),
                new("added", "new"),
            ]
            .concat(),
        );
        client.read().must_be(SUBACK);
        let received = client.all_before_pingresp();
        let mut received: Vec<_> = received.iter().map(Received::publish).collect();
        // Among different topics the order is the server's.
        received.sort_by(|one, other| one.topic.cmp(&other.topic));
        let received: Vec<_> = received
            .iter()
            .map(|message| (&message.topic[topic.len() + 1..], message.text(), message.retain))
            .collect();
        let expected = [
            ("added", "new", false),
            ("removed", "old", true),
            ("removed", "", false),
            ("replaced", "old", true),
            ("replaced", "new", false),
            ("stays", "old", true),
        ];
        assert_eq!(received, expected.map(|(level, text, retain)| (level, text.to_owned(), retain)));
    });
}

#[test]
fn v5_mqtt_3_3_1_10_retain_handling_1_sends_it_to_a_new_subscription_only() {
    let topic = unique("t");
    join(V5).publish(&publish(&topic, "retained").qos(1, 1).retain());
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    let filter = || [Filter::new(&topic, 1).retain_handling(1)];
    client.subscribe_with(&[], &filter());
    assert_eq!(client.receive().text(), "retained");
    client.subscribe_with(&[], &filter());
    client.subscribe_with(&[], &[Filter::new(&topic, 0).retain_handling(1)]);
    client.expect_nothing();
    client.disconnect();
    let mut client = persistent.open(broker_under_test());
    client.subscribe_with(&[], &filter());
    client.expect_nothing();
    client.unsubscribe(&topic);
    client.subscribe_with(&[], &filter());
    assert_eq!(client.receive().text(), "retained");
}

#[test]
fn v5_mqtt_3_3_1_11_retain_handling_2_sends_none() {
    let topic = unique("t");
    join(V5).publish(&publish(&topic, "retained").qos(1, 1).retain());
    let mut client = join(V5);
    client.subscribe_with(&[], &[Filter::new(&topic, 1).retain_handling(2)]);
    client.expect_nothing();
    client.publish(&publish(&topic, "live").qos(1, 1));
    assert_eq!(client.receive().text(), "live");
}

#[test]
fn v5_mqtt_3_3_1_9_a_shared_subscription_is_sent_no_retained_messages() {
    let topic = unique("t");
    join(V5).publish(&publish(&topic, "retained").qos(1, 1).retain());
    let mut client = join(V5);
    client.subscribe(&format!("$share/group/{topic}"), 1);
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_3_4_3_retained_messages_bear_the_subscription_identifier() {
    let topic = unique("t");
    join(V5).publish(&publish(&topic, "retained").qos(1, 1).retain());
    let mut client = join(V5);
    let identifier = [crate::support::Property::subscription_identifier(268_435_455_usize)];
    client.send(&subscribe(V5, 1, &identifier, &[Filter::new(&topic, 1)]));
    client.read_kind(SUBACK);
    assert_eq!(client.receive().subscription_identifiers(), [268_435_455]);
}
