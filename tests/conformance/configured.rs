//! Statements that bind a server only under certain settings, each with a broker of its own.

use std::time::Duration;

use crate::support::{
    Broker, CONNACK, DISCONNECT, Filter, PUBREC, Property, RawClient, SUBACK, V3_1_1, V5, Version, Will,
    connect, publish, pubrel, subscribe, unique,
};
use crate::{each, somebody};

#[test]
fn v5_mqtt_3_2_2_9_v5_mqtt_3_2_2_10_v5_mqtt_3_2_2_11_v5_mqtt_3_2_2_12_a_maximum_qos_is_told_and_kept() {
    for maximum in [0, 1] {
        let broker = Broker::with_config(&format!("[session]\nmax_qos = {maximum}\n"));
        let mut client = somebody(V5).open(&broker);
        assert_eq!(client.accepted().number(0x24), Some(maximum.into()));
        let topic = unique("t");
        for qos in 0..=2_u8 {
            client.send(&subscribe(V5, 1, &[], &[Filter::new(&topic, qos)]));
            let (_, _, reasons) = client.read().many_acks(SUBACK);
            assert_eq!(reasons, [qos.min(maximum)], "a SUBSCRIBE is accepted, its QoS is lowered");
        }
        client.publish(&publish(&topic, "m").qos(maximum, 1));
        assert_eq!(client.receive().qos, maximum);
        client.send(&publish(&topic, "m").qos(maximum + 1, 2).bytes(V5));
        client.expect_error(&[0x9B]);
        let refused = somebody(V5).will(Will::new(&topic, "w").qos(maximum + 1));
        assert_eq!(refused.refused(&broker), 0x9B);
        somebody(V5).will(Will::new(&topic, "w").qos(maximum)).open(&broker);
    }
}

#[test]
fn v5_mqtt_3_2_2_13_v5_mqtt_3_2_2_14_without_retained_messages_who_retains_is_refused() {
    let broker = Broker::with_config("[retained]\nenabled = false\n");
    let mut client = somebody(V5).open(&broker);
    assert_eq!(client.accepted().number(0x25), Some(0));
    client.send(&publish("t", "m").retain().bytes(V5));
    client.expect_error(&[0x9A]);
    assert_eq!(somebody(V5).will(Will::new("t", "w").retain()).refused(&broker), 0x9A);
    let mut client = somebody(V5).will(Will::new("t", "w")).open(&broker);
    client.subscribe("t", 0);
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_1_2_21_v5_mqtt_3_2_2_21_a_server_keep_alive_is_told_and_kept() {
    let broker = Broker::with_config("[limits]\nmax_keep_alive = 1\n");
    for asked in [60, 0] {
        let mut client = somebody(V5).keep_alive(asked).open(&broker);
        assert_eq!(client.accepted().number(0x13), Some(1));
        let (time, last) = client.time_until_closed(Duration::from_secs(10));
        assert!(time > Duration::from_millis(1400) && time < Duration::from_secs(3), "after {time:?}");
        assert_eq!(last.expect("a DISCONNECT").reason(DISCONNECT).0, 0x8D);
    }
}

#[test]
fn v5_mqtt_3_1_3_8_v311_mqtt_3_1_3_9_a_client_identifier_may_be_refused() {
    let settings = "[limits]\nmax_client_id_length = 30\n[session]\nallow_empty_client_id = false\n";
    let broker = Broker::with_config(settings);
    each(&Version::NUMBERED, |version| {
        let reason = if version.is_v5() { 0x85 } else { 0x02 };
        assert_eq!(connect(version).client_id("x".repeat(31)).refused(&broker), reason);
        assert_eq!(connect(version).refused(&broker), reason);
        connect(version).client_id("x".repeat(30)).open(&broker);
    });
}

#[test]
fn v5_mqtt_3_2_2_18_without_a_topic_alias_maximum_every_alias_is_an_error() {
    let broker = Broker::with_config("[session]\ntopic_alias_maximum = 0\n");
    let mut client = somebody(V5).open(&broker);
    assert!(matches!(client.accepted().number(0x22), None | Some(0)));
    client.send(&publish("t", "m").property(Property::topic_alias(1)).bytes(V5));
    client.expect_error(&[0x94]);
}

#[test]
fn v5_mqtt_3_3_4_7_a_small_receive_maximum_is_told_and_kept() {
    let broker = Broker::with_config("[session]\nreceive_maximum = 2\n");
    let mut client = somebody(V5).open(&broker);
    assert_eq!(client.accepted().number(0x21), Some(2));
    for packet_id in 1..=2 {
        client.send(&publish("t", "m").qos(2, packet_id).bytes(V5));
        client.expect_ack(PUBREC, packet_id);
    }
    client.send(&pubrel(1).bytes());
    client.expect_ack(crate::support::PUBCOMP, 1);
    client.send(&publish("t", "m").qos(2, 3).bytes(V5));
    client.expect_ack(PUBREC, 3);
    client.send(&publish("t", "m").qos(2, 2).dup().bytes(V5));
    client.expect_ack(PUBREC, 2);
    client.send(&publish("t", "m").bytes(V5));
    client.send(&publish("t", "m").qos(1, 4).bytes(V5));
    client.expect_error(&[0x93]);
}

#[test]
fn v5_mqtt_4_3_3_9_v5_mqtt_4_3_3_8_after_a_pubrec_with_an_error_the_same_identifier_is_a_new_message() {
    let broker = Broker::with_config("[queue]\nmessages = 1\noverflow = \"reject\"\n");
    let persistent = connect(V5).client_id("away").persistent();
    let mut client = persistent.open(&broker);
    client.subscribe("t", 2);
    client.disconnect();
    let mut publisher = somebody(V5).open(&broker);
    publisher.publish(&publish("t", "first").qos(2, 7));
    publisher.send(&publish("t", "refused").qos(2, 8).bytes(V5));
    assert!(matches!(publisher.read().ack(PUBREC), (8, 0x97, _)));
    publisher.expect_nothing();
    let mut client = persistent.open(&broker);
    assert_eq!(client.receive().text(), "first");
    client.ping();
    publisher.publish(&publish("t", "new").qos(2, 8));
    assert_eq!(client.receive().text(), "new");
    client.expect_nothing();
}

#[test]
fn v311_mqtt_4_3_3_2_who_has_no_room_brings_nobody_a_message_twice() {
    let broker = Broker::with_config("[queue]\nmessages = 1\noverflow = \"reject\"\n");
    let mut away = connect(V5).client_id("away").persistent().open(&broker);
    away.subscribe("t", 2);
    away.disconnect();
    for clean in [true, false] {
        let mut watcher = somebody(V3_1_1).open(&broker);
        watcher.subscribe("t", 2);
        let mut publisher = somebody(V3_1_1).clean(clean).open(&broker);
        for text in ["first", "second"] {
            let message = publish("t", text).qos(2, 7);
            publisher.send(&message.bytes(V3_1_1));
            publisher.expect_ack(PUBREC, 7);
            publisher.send(&message.dup().bytes(V3_1_1));
            publisher.expect_ack(PUBREC, 7);
            assert_eq!(watcher.receive().text(), text);
            watcher.expect_nothing();
            publisher.send(&pubrel(7).bytes());
            publisher.expect_ack(crate::support::PUBCOMP, 7);
        }
    }
}

#[test]
fn v5_mqtt_3_2_2_15_the_maximum_packet_size_is_told_and_exact() {
    let broker = Broker::with_config("[limits]\nmax_packet_size = 1000\n");
    each(&Version::ALL, |version| {
        let mut client = somebody(version).open(&broker);
        if version.is_v5() {
            assert_eq!(client.accepted().number(0x27), Some(1000));
        }
        let overhead = publish("t", "").bytes(version).len() + 1;
        let fits = publish("t", vec![b'x'; 1000 - overhead]).bytes(version);
        assert_eq!(fits.len(), 1000);
        client.send(&fits);
        client.ping();
        client.send(&publish("t", vec![b'x'; 1001 - overhead]).bytes(version));
        client.expect_error(&[0x95]);
        let mut client = somebody(version).username("u".repeat(1000)).send_to(&broker);
        if let Some(packet) = client.read_or_closed() {
            packet.must_be(CONNACK);
            assert_ne!(packet.body[1], 0);
            client.expect_closed();
        }
    });
}

#[test]
fn v5_mqtt_4_1_0_2_a_session_expiry_interval_lowered_by_the_server_is_told() {
    let broker = Broker::with_config("[session]\nmax_expiry = \"100s\"\n");
    for (asked, told) in [(600_u32, Some(100)), (u32::MAX, Some(100)), (50, None)] {
        let client = somebody(V5).property(Property::session_expiry(asked)).open(&broker);
        let interval = client.accepted().number(0x11);
        assert!(interval == told || interval == Some(asked.min(100)), "{asked}: {interval:?}");
    }
}

#[test]
fn mqtt_4_7_2_1_what_the_server_tells_about_itself_is_hidden_from_leading_wildcards() {
    let broker = Broker::with_config("[sys]\ninterval = \"1s\"\n");
    each(&[V3_1_1, V5], |version| {
        let mut everything = somebody(version).open(&broker);
        everything.subscribe("#", 0);
        let mut levels = somebody(version).open(&broker);
        levels.subscribe("+/#", 0);
        let mut watcher: RawClient = somebody(version).open(&broker);
        watcher.subscribe("$SYS/#", 0);
        watcher.set_patience(Duration::from_secs(5));
        // The retained ones first; then a publication that all three live through.
        for packet in watcher.all_before_pingresp() {
            assert!(packet.publish().topic.starts_with("$SYS/"));
        }
        assert!(watcher.read_publish().topic.starts_with("$SYS/"));
        watcher.all_before_pingresp();
        everything.expect_nothing();
        levels.expect_nothing();
    });
}
