//! The Will: when it is published and how, §3.1.2.5 of both standards, and the Will Delay Interval.

use std::time::{Duration, Instant};

use crate::support::{
    Connect, Property, PublishView, RawClient, V3_1_1, V5, Version, Will, broker_under_test, connect,
    disconnect, disconnect_with, frame, publish, unique,
};
use crate::{each, join, somebody};

/// A client that watches a topic with QoS 2.
#[track_caller]
fn watch(version: Version, topic: &str) -> RawClient {
    let mut watcher = join(version);
    watcher.subscribe(topic, 2);
    watcher
}

/// Lets a client with this CONNECT die, and gives the will its watcher receives.
#[track_caller]
fn die(connect: &Connect, topic: &str) -> PublishView {
    let mut watcher = watch(connect.version, topic);
    connect.open(broker_under_test()).cut();
    let message = watcher.receive();
    watcher.expect_nothing();
    message
}

#[test]
fn v5_mqtt_3_1_2_7_v5_mqtt_3_1_2_8_v311_mqtt_3_1_2_8_mqtt_3_1_2_9_a_will_is_published_as_it_was_given() {
    each(&Version::ALL, |version| {
        for qos in 0..=2 {
            let topic = unique("will");
            let message = die(&somebody(version).will(Will::new(&topic, "gone").qos(qos)), &topic);
            assert_eq!(
                (message.text().as_str(), message.qos, message.retain, message.dup),
                ("gone", qos, false, false)
            );
        }
        let topic = unique("will");
        let message = die(&somebody(version).will(Will::new(&topic, "")), &topic);
        assert_eq!(message.payload, b"", "a will may be empty");
    });
}

#[test]
fn v5_mqtt_3_1_2_8_v311_mqtt_3_1_2_8_every_end_but_a_proper_disconnect_publishes_the_will() {
    each(&Version::NUMBERED, |version| {
        let protocol_error: fn(RawClient) = |mut client| {
            client.send(&frame(0x36, b"\0\x01t\0\x01\0"));
            client.expect_error(&[0x81]);
        };
        let half_a_packet: fn(RawClient) = |mut client| {
            client.send(&[0x30, 100, 0, 4]);
            client.cut();
        };
        let silence: fn(RawClient) = |mut client| {
            client.expect_error(&[0x8D]);
        };
        for end in [RawClient::cut, protocol_error, half_a_packet, silence] {
            let topic = unique("will");
            let mut watcher = watch(version, &topic);
            end(somebody(version).keep_alive(1).will(Will::new(&topic, "gone")).open(broker_under_test()));
            assert_eq!(watcher.receive().text(), "gone");
        }
        let (topic, id) = (unique("will"), unique("c"));
        let mut watcher = watch(version, &topic);
        let mut client =
            connect(version).client_id(&id).will(Will::new(&topic, "gone")).open(broker_under_test());
        let successor = connect(version).client_id(&id).open(broker_under_test());
        client.expect_error(&[0x8E]);
        assert_eq!(watcher.receive().text(), "gone", "taken over");
        drop(successor);
    });
}

#[test]
fn v5_mqtt_3_14_4_3_v311_mqtt_3_14_4_3_v5_mqtt_3_1_2_10_v311_mqtt_3_1_2_10_a_proper_disconnect_discards_the_will()
 {
    each(&Version::ALL, |version| {
        let topic = unique("will");
        let mut watcher = watch(version, &topic);
        let connect = somebody(version).will(Will::new(&topic, "gone"));
        connect.open(broker_under_test()).disconnect();
        if version.is_v5() {
            connect.open(broker_under_test()).leave_with(&disconnect_with(0, &[]));
        }
        join(version).publish(&publish(&topic, "the only one"));
        assert_eq!(watcher.receive().text(), "the only one");
        watcher.expect_nothing();
    });
}

#[test]
fn v5_mqtt_3_14_4_3_v311_mqtt_3_14_4_3_a_client_that_disconnects_and_is_back_at_once_has_no_will() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("will");
        let mut watcher = watch(version, &topic);
        for _ in 0..4 {
            let somebody: Vec<_> =
                (0..50).map(|_| somebody(version).will(Will::new(&topic, "gone"))).collect();
            let mut leaving: Vec<_> =
                somebody.iter().map(|connect| connect.open(broker_under_test())).collect();
            let mut coming: Vec<_> =
                somebody.iter().map(|_| RawClient::open(broker_under_test(), version)).collect();
            // Whoever is back is heard as early as can be, with all others between its two connections or none.
            for ((connect, leaving), coming) in somebody.iter().zip(&mut leaving).zip(&mut coming) {
                leaving.send(&disconnect());
                coming.send(&connect.bytes());
            }
            for client in &mut coming {
                client.read_kind(0x20);
                client.send(&disconnect());
                client.expect_closed();
            }
        }
        join(version).publish(&publish(&topic, "nothing of them"));
        assert_eq!(watcher.receive().text(), "nothing of them");
    });
}

#[test]
fn v5_mqtt_3_1_2_8_a_disconnect_with_another_reason_publishes_the_will() {
    for reason in [0x04, 0x80, 0x93, 0x99] {
        let topic = unique("will");
        let mut watcher = watch(V5, &topic);
        let client = somebody(V5).will(Will::new(&topic, "gone")).open(broker_under_test());
        client.leave_with(&disconnect_with(reason, &[]));
        assert_eq!(watcher.receive().text(), "gone", "after DISCONNECT {reason:#04x}");
    }
}

#[test]
fn v5_mqtt_3_1_2_10_v311_mqtt_3_1_2_10_a_will_is_published_once() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("will");
        let mut watcher = watch(version, &topic);
        let persistent = somebody(version).persistent();
        persistent.clone().will(Will::new(&topic, "gone")).open(broker_under_test()).cut();
        assert_eq!(watcher.receive().text(), "gone");
        persistent.open(broker_under_test()).cut();
        join(version).publish(&publish(&topic, "nothing more"));
        assert_eq!(watcher.receive().text(), "nothing more");
    });
}

#[test]
fn v311_mqtt_3_1_2_12_no_will_no_message() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("will");
        let mut watcher = watch(version, &topic);
        let id = unique("c");
        let with_will = connect(version).client_id(&id).will(Will::new(&topic, "discarded"));
        with_will.open(broker_under_test()).disconnect();
        connect(version).client_id(&id).open(broker_under_test()).cut();
        watcher.expect_nothing();
    });
}

#[test]
fn v5_mqtt_3_1_2_14_v311_mqtt_3_1_2_16_a_will_without_retain_is_not_retained() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("will");
        join(version).publish(&publish(&topic, "before").qos(1, 1).retain());
        let mut watcher = watch(version, &topic);
        assert_eq!(watcher.receive().text(), "before");
        somebody(version).will(Will::new(&topic, "gone")).open(broker_under_test()).cut();
        assert_eq!(watcher.receive().text(), "gone");
        assert_eq!(watch(version, &topic).receive().text(), "before");
    });
}

#[test]
fn v5_mqtt_3_1_2_15_v311_mqtt_3_1_2_17_a_will_with_retain_is_retained() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("will");
        let message = die(&somebody(version).will(Will::new(&topic, "gone").qos(1).retain()), &topic);
        assert!(!message.retain, "the subscription was there before");
        let message = watch(version, &topic).receive();
        assert_eq!((message.text().as_str(), message.retain), ("gone", true));
        let mut watcher = watch(version, &topic);
        assert_eq!(watcher.receive().text(), "gone");
        somebody(version).will(Will::new(&topic, "").retain()).open(broker_under_test()).cut();
        assert_eq!(watcher.receive().text(), "");
        watch(version, &topic).expect_nothing();
    });
}

#[test]
fn v5_mqtt_3_1_3_10_the_properties_of_a_will_are_published_with_it() {
    let topic = unique("will");
    let properties = [
        Property::payload_format(1),
        Property::user("b", "1"),
        Property::content_type("text/plain"),
        Property::user("a", "2"),
        Property::response_topic("answer/here"),
        Property::user("b", "3"),
        Property::correlation_data(&[0, 1, 2]),
        Property::user("a", "2"),
    ];
    let will = properties.iter().cloned().fold(Will::new(&topic, "gone"), Will::property);
    let will = will.property(Property::will_delay(0_u32)).property(Property::message_expiry(100_u32));
    let message = die(&somebody(V5).will(will), &topic);
    let users =
        |all: &[Property]| all.iter().filter(|property| property.id == 0x26).cloned().collect::<Vec<_>>();
    assert_eq!(users(&message.properties), users(&properties));
    for property in &properties {
        assert!(message.properties.contains(property), "{property:?} is missing");
    }
    assert!(matches!(message.number(0x02), Some(95..=100)));
    assert_eq!(message.properties.len(), properties.len() + 1, "{:?}", message.properties);
}

#[test]
fn v5_mqtt_3_1_2_8_a_will_delay_passes_before_the_will() {
    let topic = unique("will");
    let mut watcher = watch(V5, &topic);
    let will = Will::new(&topic, "gone").property(Property::will_delay(1_u32));
    let client = somebody(V5).persistent().will(will).open(broker_under_test());
    let start = Instant::now();
    client.cut();
    watcher.expect_nothing();
    assert_eq!(watcher.receive().text(), "gone");
    assert!(start.elapsed() >= Duration::from_millis(950), "after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(3000), "after {:?}", start.elapsed());
}

#[test]
fn v5_mqtt_3_1_3_9_who_comes_back_before_the_delay_has_no_will_published() {
    let topic = unique("will");
    let mut watcher = watch(V5, &topic);
    let delayed = |text: &str, delay: u32| {
        let will = Will::new(&topic, text).property(Property::will_delay(delay));
        somebody(V5).persistent().will(will)
    };
    let returning = delayed("came back", 1);
    let clock = delayed("stayed away", 2);
    returning.open(broker_under_test()).cut();
    clock.open(broker_under_test()).cut();
    let mut back = Connect { will: None, ..returning }.open(broker_under_test());
    assert!(back.accepted().session_present);
    assert_eq!(watcher.receive().text(), "stayed away", "a will was published although its client came back");
    watcher.expect_nothing();
    back.ping();
}

#[test]
fn v5_mqtt_3_1_2_8_a_session_that_ends_with_its_connection_does_not_wait_for_the_delay() {
    let topic = unique("will");
    let will = Will::new(&topic, "gone").property(Property::will_delay(1000_u32));
    assert_eq!(die(&somebody(V5).will(will), &topic).text(), "gone");
}

#[test]
fn v5_mqtt_3_1_4_1_a_will_topic_that_is_no_topic_name_is_refused() {
    for topic in ["", "a/#", "+"] {
        let mut client = somebody(V5).will(Will::new(topic, "w")).send_to(broker_under_test());
        // 0x90 is for names that are not malformed.
        client.expect_connect_error(&[0x81, 0x82]);
    }
}

/// §4.7.2: the broker's own topics are not for clients, alive or dead.
#[test]
fn v5_mqtt_3_1_4_1_v311_mqtt_3_1_4_2_a_will_for_the_brokers_own_topics_is_refused_or_goes_nowhere() {
    each(&Version::NUMBERED, |version| {
        let topic = format!("$SYS/{}", unique("forged"));
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        let mut client =
            somebody(version).will(Will::new(&topic, "forged").retain()).send_to(broker_under_test());
        let connack = client.read().connack();
        match connack.reason {
            0 => client.cut(),
            reason => {
                assert_eq!(reason, if version.is_v5() { 0x87 } else { 5 });
                client.expect_closed();
            }
        }
        watcher.expect_nothing();
    });
}

#[test]
fn v311_mqtt_3_2_2_6_v311_mqtt_4_8_0_1_no_return_code_fits_a_will_topic_with_wildcards() {
    for topic in ["", "a/#", "+"] {
        let mut client = somebody(V3_1_1).will(Will::new(topic, "w")).send_to(broker_under_test());
        client.expect_closed();
    }
}

#[test]
fn v5_mqtt_3_1_2_10_a_proper_disconnect_discards_a_delayed_will() {
    let topic = unique("will");
    let mut watcher = watch(V5, &topic);
    let delayed = |text: &str| {
        let will = Will::new(&topic, text).property(Property::will_delay(1_u32));
        somebody(V5).persistent().will(will)
    };
    delayed("disconnected").open(broker_under_test()).disconnect();
    delayed("died").open(broker_under_test()).cut();
    assert_eq!(watcher.receive().text(), "died");
    watcher.expect_nothing();
}

#[test]
fn v5_mqtt_3_1_2_8_a_disconnect_that_ends_the_session_does_not_wait_for_the_delay() {
    let topic = unique("will");
    let mut watcher = watch(V5, &topic);
    let will = Will::new(&topic, "ended").property(Property::will_delay(1000_u32));
    let client = somebody(V5).persistent().will(will).open(broker_under_test());
    client.leave_with(&disconnect_with(0x04, &[Property::session_expiry(0_u32)]));
    assert_eq!(watcher.receive().text(), "ended");
}

#[test]
fn v5_mqtt_3_1_2_8_a_disconnect_with_will_respects_the_delay() {
    let topic = unique("will");
    let mut watcher = watch(V5, &topic);
    let will = Will::new(&topic, "gone").property(Property::will_delay(1_u32));
    let client = somebody(V5).persistent().will(will).open(broker_under_test());
    let start = Instant::now();
    client.leave_with(&disconnect_with(0x04, &[]));
    assert_eq!(watcher.receive().text(), "gone");
    assert!(start.elapsed() >= Duration::from_millis(950), "after {:?}", start.elapsed());
}

#[test]
fn v5_mqtt_3_1_3_9_a_takeover_of_the_session_discards_a_delayed_will() {
    let topic = unique("will");
    let mut watcher = watch(V5, &topic);
    let delayed = |text: &str| {
        let will = Will::new(&topic, text).property(Property::will_delay(1_u32));
        somebody(V5).persistent().will(will)
    };
    let taken = delayed("taken over");
    let mut old = taken.open(broker_under_test());
    let mut new = Connect { will: None, ..taken }.open(broker_under_test());
    old.expect_error(&[0x8E]);
    delayed("died").open(broker_under_test()).cut();
    assert_eq!(watcher.receive().text(), "died");
    watcher.expect_nothing();
    new.ping();
}

#[test]
fn v5_mqtt_3_3_2_14_the_response_topic_of_a_will_must_be_a_topic_name() {
    for topic in ["", "a/#", "+"] {
        let will = Will::new(unique("will"), "w").property(Property::response_topic(topic));
        let mut client = somebody(V5).will(will).send_to(broker_under_test());
        client.expect_connect_error(&[0x81, 0x82, 0x90]);
    }
}
