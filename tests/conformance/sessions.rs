//! Sessions: Clean Start, Clean Session, Session Expiry Interval, and what a session keeps.

use std::time::Duration;

use crate::support::{
    Filter, Property, RawClient, V3_1_1, V5, Version, Will, broker_under_test, connect, disconnect_with,
    publish, subscribe, unique,
};
use crate::{each, join, somebody};

/// A client with a persistent session and one subscription at QoS 1, back after it has been away while a
/// message was published.
#[track_caller]
fn away_and_back(version: Version, id: &str, topic: &str, clean: bool) -> RawClient {
    let mut client = connect(version).client_id(id).persistent().open(broker_under_test());
    client.subscribe(topic, 1);
    client.disconnect();
    join(version).publish(&publish(topic, "while away").qos(1, 1));
    let back = connect(version).client_id(id);
    if clean { back.open(broker_under_test()) } else { back.persistent().open(broker_under_test()) }
}

#[test]
fn v5_mqtt_3_1_2_4_v311_mqtt_3_1_2_6_a_clean_start_discards_the_session() {
    each(&Version::NUMBERED, |version| {
        let (id, topic) = (unique("c"), unique("t"));
        let mut client = away_and_back(version, &id, &topic, true);
        assert!(!client.accepted().session_present);
        join(version).publish(&publish(&topic, "not subscribed any more").qos(1, 1));
        client.expect_nothing();
        client.disconnect();
        let mut client = connect(version).client_id(&id).persistent().open(broker_under_test());
        assert!(!client.accepted().session_present, "the discarded session came back");
        client.expect_nothing();
    });
}

#[test]
fn mqtt_3_1_2_5_v311_mqtt_3_1_2_4_v5_mqtt_3_1_2_23_v5_mqtt_3_1_4_4_v311_mqtt_3_1_4_3_a_session_is_resumed() {
    each(&Version::NUMBERED, |version| {
        let (id, topic) = (unique("c"), unique("t"));
        let mut client = away_and_back(version, &id, &topic, false);
        assert!(client.accepted().session_present);
        assert_eq!(client.receive().text(), "while away");
        join(version).publish(&publish(&topic, "still subscribed").qos(1, 1));
        assert_eq!(client.receive().text(), "still subscribed");
        client.expect_nothing();
    });
}

#[test]
fn v5_mqtt_3_1_2_6_v311_mqtt_3_1_2_4_without_a_session_a_new_one_is_made() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let persistent = connect(version).client_id(unique("c")).persistent();
        let mut client = persistent.open(broker_under_test());
        assert!(!client.accepted().session_present);
        client.expect_nothing();
        client.subscribe(&topic, 0);
        client.publish(&publish(&topic, "m"));
        assert_eq!(client.read_publish().text(), "m");
    });
}

#[test]
fn v311_mqtt_3_1_2_5_v5_mqtt_4_5_0_1_v311_mqtt_4_5_0_1_messages_of_qos_1_and_2_wait_for_a_session() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let persistent = connect(version).client_id(unique("c")).persistent();
        let mut client = persistent.open(broker_under_test());
        client.subscribe(&topic, 2);
        client.cut();
        let mut publisher = join(version);
        publisher.publish(&publish(&topic, "one").qos(1, 1));
        publisher.publish(&publish(&topic, "two").qos(2, 2));
        let mut client = persistent.open(broker_under_test());
        for (text, qos) in [("one", 1), ("two", 2)] {
            let message = client.receive();
            assert_eq!((message.text().as_str(), message.qos, message.dup), (text, qos, false));
        }
        client.expect_nothing();
    });
}

#[test]
fn v311_mqtt_3_1_2_6_v5_mqtt_3_1_2_23_a_session_of_no_duration_ends_with_its_connection() {
    each(&Version::NUMBERED, |version| {
        for leave in [RawClient::disconnect, RawClient::cut] {
            let (id, topic) = (unique("c"), unique("t"));
            let mut client = connect(version).client_id(&id).open(broker_under_test());
            client.subscribe(&topic, 1);
            leave(client);
            join(version).publish(&publish(&topic, "m").qos(1, 1));
            let mut client = connect(version).client_id(&id).clean(false).open(broker_under_test());
            assert!(!client.accepted().session_present);
            client.expect_nothing();
        }
    });
}

#[test]
fn v5_mqtt_3_1_2_23_a_clean_start_with_an_expiry_interval_makes_a_session_that_stays() {
    let (id, topic) = (unique("c"), unique("t"));
    let connect = connect(V5).client_id(&id).property(Property::session_expiry(u32::MAX));
    let mut client = connect.open(broker_under_test());
    client.subscribe(&topic, 1);
    client.cut();
    let client = connect.clone().clean(false).open(broker_under_test());
    assert!(client.accepted().session_present);
    client.leave_with(&disconnect_with(0, &[Property::session_expiry(0_u32)]));
    let client = connect.clean(false).open(broker_under_test());
    assert!(!client.accepted().session_present, "DISCONNECT has set its duration to zero");
    client.leave_with(&disconnect_with(0, &[Property::session_expiry(0_u32)]));
}

#[test]
fn v5_mqtt_3_14_2_2_a_disconnect_may_not_make_a_session_outlive_that_was_not_meant_to() {
    let mut client = somebody(V5).open(broker_under_test());
    client.send(&disconnect_with(0, &[Property::session_expiry(10_u32)]));
    client.expect_error(&[0x82]);
}

#[test]
fn v5_mqtt_4_1_0_2_v5_mqtt_3_1_2_8_an_expired_session_is_discarded_and_its_will_published() {
    let (id, topic) = (unique("c"), unique("t"));
    let mut watcher = join(V5);
    watcher.subscribe(&topic, 0);
    let expiring = connect(V5).client_id(&id).clean(false).property(Property::session_expiry(1_u32));
    let will = Will::new(&topic, "the session has ended").property(Property::will_delay(1000_u32));
    let client = expiring.clone().will(will).open(broker_under_test());
    client.cut();
    assert_eq!(watcher.read_publish().text(), "the session has ended");
    assert!(!expiring.open(broker_under_test()).accepted().session_present);
}

#[test]
fn v5_mqtt_4_1_0_1_v311_mqtt_4_1_0_1_v311_mqtt_4_1_0_2_a_session_lasts_while_its_connection_does() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut client =
            somebody(version).property(Property::session_expiry(1_u32)).open(broker_under_test());
        client.subscribe(&topic, 1);
        // The interval starts when the connection ends, so being connected for longer changes nothing.
        std::thread::sleep(Duration::from_millis(1500));
        join(version).publish(&publish(&topic, "m").qos(1, 1));
        assert_eq!(client.receive().text(), "m");
    });
}

#[test]
fn v311_mqtt_3_1_2_7_retained_messages_outlive_the_session_that_published_them() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut publisher = join(version);
        publisher.publish(&publish(&topic, "retained").qos(1, 1).retain());
        publisher.disconnect();
        let mut client = join(version);
        client.subscribe(&topic, 0);
        assert_eq!(client.read_publish().text(), "retained");
    });
}

#[test]
fn mqtt_3_1_2_5_a_session_may_be_resumed_in_another_version() {
    let (id, topic) = (unique("c"), unique("t"));
    let mut client = connect(V5).client_id(&id).persistent().open(broker_under_test());
    let filter = [Filter::new(&topic, 1)];
    client.send(&subscribe(V5, 1, &[Property::subscription_identifier(7_usize)], &filter));
    client.read_kind(crate::support::SUBACK);
    client.disconnect();
    let properties = [Property::user("a", "b"), Property::content_type("c")];
    let message =
        properties.into_iter().fold(publish(&topic, "m").qos(1, 1), |m, property| m.property(property));
    join(V5).publish(&message);
    let mut client = connect(V3_1_1).client_id(&id).persistent().open(broker_under_test());
    assert!(client.accepted().session_present);
    assert_eq!(client.receive().text(), "m");
}

#[test]
fn v5_mqtt_4_1_0_2_a_disconnect_may_prolong_or_shorten_the_session() {
    let connect_for = |seconds: u32| {
        connect(V5).client_id(unique("c")).clean(false).property(Property::session_expiry(seconds))
    };
    let (prolonged, shortened) = (connect_for(1), connect_for(600));
    let expiry = |seconds: u32| disconnect_with(0, &[Property::session_expiry(seconds)]);
    prolonged.open(broker_under_test()).leave_with(&expiry(600));
    shortened.open(broker_under_test()).leave_with(&expiry(1));
    // The passing of time is what is tested.
    std::thread::sleep(Duration::from_millis(2200));
    assert!(prolonged.open(broker_under_test()).accepted().session_present);
    assert!(!shortened.open(broker_under_test()).accepted().session_present);
}

#[test]
fn v5_mqtt_4_1_0_2_the_interval_counts_anew_from_each_connection() {
    let connect = connect(V5).client_id(unique("c")).clean(false).property(Property::session_expiry(2_u32));
    connect.open(broker_under_test()).cut();
    for _ in 0..3 {
        // The passing of time is what is tested.
        std::thread::sleep(Duration::from_millis(1000));
        let client = connect.open(broker_under_test());
        assert!(client.accepted().session_present);
        client.cut();
    }
}
