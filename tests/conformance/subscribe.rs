//! SUBSCRIBE and SUBACK, §3.8 and §3.9 of both standards.

use crate::support::{
    Filter, Property, PublishView, RawClient, SUBACK, V3_1_1, V5, Version, broker_under_test, connect, frame,
    publish, subscribe, text, unique,
};
use crate::{each, join};

#[test]
fn mqtt_3_8_4_1_mqtt_3_8_4_2_v5_mqtt_2_2_1_6_v311_mqtt_2_3_1_7_subscribe_is_answered_with_its_packet_identifier()
 {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        for packet_id in [1, 255, 256, 0x1234, 65_535] {
            client.send(&subscribe(version, packet_id, &[], &[Filter::new(unique("t"), 0)]));
            assert_eq!(client.read().many_acks(SUBACK).0, packet_id);
        }
    });
}

#[test]
fn mqtt_3_8_4_5_v5_mqtt_3_8_4_6_v311_mqtt_3_8_4_4_v5_mqtt_3_9_3_1_v311_mqtt_3_9_3_1_one_suback_with_a_code_per_filter_in_order()
 {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        let topic = unique("t");
        let filters: Vec<_> = [2, 0, 1, 1, 2, 0]
            .iter()
            .enumerate()
            .map(|(n, qos)| Filter::new(format!("{topic}/{n}"), *qos))
            .collect();
        client.send(&subscribe(version, 3, &[], &filters));
        assert_eq!(client.read().many_acks(SUBACK).2, [2, 0, 1, 1, 2, 0]);
        for n in 0..6 {
            client.publish(&publish(format!("{topic}/{n}"), n.to_string()));
            assert_eq!(client.read_publish().text(), n.to_string());
        }
        client.expect_nothing();
    });
}

#[test]
fn v5_mqtt_3_8_4_5_v311_mqtt_3_8_4_4_filters_of_one_packet_work_as_if_they_came_one_by_one() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.send(&subscribe(version, 1, &[], &[Filter::new(&topic, 2), Filter::new(&topic, 0)]));
        assert_eq!(client.read().many_acks(SUBACK).2, [2, 0]);
        client.publish(&publish(&topic, "m").qos(2, 1));
        assert_eq!(client.receive().qos, 0, "the later of two equal filters holds");
        client.expect_nothing();
    });
}

#[test]
fn v5_mqtt_3_8_3_2_v311_mqtt_3_8_3_3_a_subscribe_without_filters_closes_the_connection() {
    each(&Version::NUMBERED, |version| {
        let mut client = join(version);
        client.send(&subscribe(version, 1, &[], &[]));
        client.expect_error(&[0x81, 0x82]);
    });
}

#[test]
fn v5_mqtt_3_8_3_5_v311_mqtt_3_8_3_4_reserved_bits_of_the_options_close_the_connection() {
    each(&Version::NUMBERED, |version| {
        // §3.8.3.1 makes QoS 3 and Retain Handling 3 Protocol Errors, reserved bits are malformed.
        let forbidden: &[(u8, u8)] = if version.is_v5() {
            &[(0x03, 0x82), (0x30, 0x82), (0x40, 0x81), (0x80, 0x81), (0xC0, 0x81), (0x43, 0x81)]
        } else {
            &[(0x03, 0), (0x04, 0), (0x08, 0), (0x10, 0), (0x20, 0), (0x40, 0), (0x80, 0)]
        };
        for (options, reason) in forbidden {
            println!("{options:#04x}");
            let mut client = join(version);
            client.send(&subscribe(version, 1, &[], &[Filter::new("t", *options)]));
            client.expect_error(&[*reason]);
            let mut client = join(version);
            client.send(&subscribe(version, 1, &[], &[Filter::new("fine", 0), Filter::new("t", *options)]));
            client.expect_error(&[*reason]);
        }
    });
}

#[test]
fn mqtt_3_8_3_1_a_filter_of_any_valid_text_is_accepted() {
    each(&Version::NUMBERED, |version| {
        let mut client = join(version);
        let topic = format!("{}/ü/漢字/🦅/ ", unique("t"));
        client.subscribe(&topic, 0);
        client.publish(&publish(&topic, "m"));
        assert_eq!(client.read_publish().topic, topic);
    });
}

#[test]
fn v5_mqtt_3_8_4_7_v311_mqtt_3_8_4_5_v5_mqtt_3_9_3_2_v311_mqtt_3_9_3_2_every_qos_is_granted_as_asked() {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        for qos in 0..=2 {
            client.send(&subscribe(version, 1, &[], &[Filter::new(unique("t"), qos)]));
            assert_eq!(client.read().many_acks(SUBACK).2, [qos]);
        }
    });
}

#[test]
fn v5_mqtt_3_8_4_8_v311_mqtt_3_8_4_6_a_message_has_the_lower_of_both_qos() {
    each(&Version::ALL, |version| {
        for granted in 0..=2 {
            let topic = unique("t");
            let mut client = join(version);
            client.subscribe(&topic, granted);
            let mut publisher = join(version);
            for published in 0..=2 {
                publisher.publish(&publish(&topic, "m").qos(published, 1));
                assert_eq!(client.receive().qos, published.min(granted));
            }
            client.expect_nothing();
        }
    });
}

#[test]
fn mqtt_3_8_4_3_the_same_filter_again_replaces_the_subscription() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        let mut publisher = join(version);
        for qos in [2, 0, 1, 2] {
            client.subscribe(&topic, qos);
            publisher.publish(&publish(&topic, "m").qos(2, 1));
            assert_eq!(client.receive().qos, qos);
            client.expect_nothing();
        }
        client.unsubscribe(&topic);
        publisher.publish(&publish(&topic, "m").qos(2, 1));
        client.expect_nothing();
    });
}

#[test]
fn mqtt_3_8_4_3_no_message_is_lost_while_a_subscription_is_replaced() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 1);
        let mut bytes = Vec::new();
        for turn in 1..=100_u16 {
            bytes.extend(subscribe(version, turn, &[], &[Filter::new(&topic, 1)]));
        }
        let flow = topic.clone();
        let publisher = std::thread::spawn(move || {
            let mut publisher = join(version);
            for number in 1..=100_u16 {
                publisher.publish(&publish(&flow, number.to_string()).qos(1, number));
            }
        });
        client.send(&bytes);
        let (mut subacks, mut texts) = (0, Vec::new());
        while subacks < 100 || texts.len() < 100 {
            let packet = client.read();
            if packet.first_byte == SUBACK {
                subacks += 1;
            } else {
                let message = packet.publish();
                client.complete(&message);
                texts.push(message.text());
            }
        }
        publisher.join().unwrap();
        let expected: Vec<_> = (1..=100).map(|number| number.to_string()).collect();
        assert_eq!(texts, expected);
    });
}

#[test]
fn v5_mqtt_3_3_4_2_v311_mqtt_3_3_5_1_overlapping_subscriptions_deliver_with_the_highest_qos() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        let filters = [(format!("{topic}/#"), 0), (format!("{topic}/a"), 2), (format!("{topic}/+"), 1)];
        for (filter, qos) in &filters {
            client.subscribe(filter, *qos);
        }
        client.publish(&publish(format!("{topic}/a"), "m").qos(2, 1));
        assert_eq!(client.receive().qos, 2);
        client.expect_nothing();
    });
}

/// Subscribes with an identifier.
#[track_caller]
fn subscribe_as(client: &mut RawClient, identifier: usize, filter: Filter) {
    client.subscribe_with(&[Property::subscription_identifier(identifier)], &[filter]);
}

#[test]
fn v5_mqtt_3_3_4_3_v5_mqtt_3_3_4_4_a_copy_bears_the_identifiers_of_all_its_subscriptions() {
    let topic = unique("t");
    let mut client = join(V5);
    subscribe_as(&mut client, 1, Filter::new(format!("{topic}/#"), 0));
    subscribe_as(&mut client, 268_435_455, Filter::new(format!("{topic}/a"), 1));
    subscribe_as(&mut client, 200, Filter::new(format!("{topic}/+"), 2));
    client.subscribe(&format!("+/{topic}/a"), 0);
    subscribe_as(&mut client, 3, Filter::new(format!("{topic}/b"), 2));
    client.publish(&publish(format!("{topic}/a"), "m").qos(1, 1));
    let copies: Vec<PublishView> =
        client.all_before_pingresp().iter().map(|packet| packet.publish()).collect();
    let mut identifiers: Vec<u32> = copies.iter().flat_map(PublishView::subscription_identifiers).collect();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 200, 268_435_455]);
    assert_eq!(copies.len(), 1, "a single copy");
}

#[test]
fn v5_mqtt_3_3_4_3_the_identifier_is_replaced_with_the_subscription() {
    let topic = unique("t");
    let mut client = join(V5);
    let received = |client: &mut RawClient| {
        client.publish(&publish(&topic, "m"));
        client.read_publish().subscription_identifiers()
    };
    subscribe_as(&mut client, 5, Filter::new(&topic, 0));
    assert_eq!(received(&mut client), [5]);
    subscribe_as(&mut client, 6, Filter::new(&topic, 0));
    assert_eq!(received(&mut client), [6]);
    client.subscribe(&topic, 0);
    assert_eq!(received(&mut client), [0_u32; 0]);
}

#[test]
fn v5_mqtt_3_3_4_3_identifiers_belong_to_the_session_and_one_serves_many_filters() {
    let topic = unique("t");
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    let filters = [Filter::new(format!("{topic}/a"), 1), Filter::new(format!("{topic}/b"), 1)];
    client.subscribe_with(&[Property::subscription_identifier(128_usize)], &filters);
    client.disconnect();
    let mut publisher = join(V5);
    publisher.publish(&publish(format!("{topic}/a"), "a").qos(1, 1));
    let mut client = persistent.open(broker_under_test());
    assert_eq!(client.receive().subscription_identifiers(), [128]);
    publisher.publish(&publish(format!("{topic}/b"), "b").qos(1, 1));
    assert_eq!(client.receive().subscription_identifiers(), [128]);
}

#[test]
fn v5_mqtt_4_13_1_1_a_subscription_identifier_of_zero_or_two_of_them_are_protocol_errors() {
    let one = || Property::subscription_identifier(1_usize);
    for properties in [vec![Property::subscription_identifier(0_usize)], vec![one(), one()]] {
        let mut client = join(V5);
        client.send(&subscribe(V5, 1, &properties, &[Filter::new("t", 0)]));
        client.expect_error(&[0x82]);
    }
}

#[test]
fn v5_mqtt_3_8_3_3_no_local_keeps_a_message_from_its_publisher() {
    let topic = unique("t");
    let id = unique("c");
    let mut client = connect(V5).client_id(&id).persistent().open(broker_under_test());
    client.subscribe_with(&[], &[Filter::new(&topic, 1).no_local()]);
    client.publish(&publish(&topic, "own 0"));
    client.publish(&publish(&topic, "own 1").qos(1, 1));
    client.publish(&publish(&topic, "own 2").qos(2, 2));
    client.expect_nothing();
    join(V5).publish(&publish(&topic, "foreign").qos(1, 1));
    assert_eq!(client.receive().text(), "foreign");
    client.disconnect();
    let mut client = connect(V5).client_id(&id).persistent().open(broker_under_test());
    client.publish(&publish(&topic, "own again").qos(1, 1));
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_8_3_3_without_no_local_a_publisher_gets_its_own_messages() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 1);
        client.publish(&publish(&topic, "own").qos(1, 1));
        assert_eq!(client.receive().text(), "own");
    });
}

#[test]
fn v5_mqtt_3_8_3_4_no_local_with_a_shared_subscription_is_a_protocol_error() {
    let mut client = join(V5);
    client.send(&subscribe(V5, 1, &[], &[Filter::new("$share/g/t", 0).no_local()]));
    client.expect_error(&[0x82]);
}

#[test]
fn v311_mqtt_3_8_3_2_wildcards_are_supported() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&format!("{topic}/+/c/#"), 0);
        client.publish(&publish(format!("{topic}/b/c/d/e"), "m"));
        assert_eq!(client.read_publish().text(), "m");
    });
}

#[test]
fn v5_mqtt_4_13_1_1_v311_mqtt_4_8_0_1_a_filter_without_options_closes_the_connection() {
    each(&[V3_1_1, V5], |version| {
        let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
        let body = [&[0, 1], properties, &text("t")].concat();
        let mut client = join(version);
        client.send(&frame(0x82, &body));
        client.expect_error(&[0x81]);
    });
}

#[test]
fn v5_mqtt_3_8_3_3_another_subscription_without_no_local_delivers() {
    let topic = unique("t");
    let mut client = join(V5);
    subscribe_as(&mut client, 1, Filter::new(&topic, 1).no_local());
    subscribe_as(&mut client, 2, Filter::new(format!("{topic}/#"), 1));
    client.publish(&publish(&topic, "own").qos(1, 1));
    assert_eq!(client.receive().subscription_identifiers(), [2]);
    client.expect_nothing();
    join(V5).publish(&publish(&topic, "foreign").qos(1, 1));
    assert_eq!(client.receive().subscription_identifiers(), [1, 2]);
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_8_3_3_no_local_keeps_an_own_retained_message_back_too() {
    let topic = unique("t");
    let mut client = join(V5);
    client.publish(&publish(format!("{topic}/own"), "own").qos(1, 1).retain());
    join(V5).publish(&publish(format!("{topic}/foreign"), "foreign").qos(1, 1).retain());
    client.subscribe_with(&[], &[Filter::new(format!("{topic}/#"), 1).no_local()]);
    assert_eq!(client.receive().text(), "foreign");
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_8_4_3_the_options_are_replaced_with_the_subscription() {
    let topic = unique("t");
    let mut client = join(V5);
    client.subscribe_with(&[], &[Filter::new(&topic, 1).no_local().retain_as_published()]);
    client.publish(&publish(&topic, "own").qos(1, 1).retain());
    client.expect_nothing();
    client.subscribe_with(&[], &[Filter::new(&topic, 1).retain_handling(2)]);
    client.publish(&publish(&topic, "own").qos(1, 1).retain());
    assert!(!client.receive().retain, "neither No Local nor Retain As Published is left");
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_8_4_5_v5_mqtt_3_8_4_7_v311_mqtt_3_8_4_4_v311_mqtt_3_8_4_5_a_refused_filter_does_not_touch_the_others()
 {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let mut client = join(version);
        let filters = [Filter::new("a/#/b", 1), Filter::new(&topic, 2), Filter::new("x+", 0)];
        client.send(&subscribe(version, 1, &[], &filters));
        let (_, _, reasons) = client.read().many_acks(SUBACK);
        assert_eq!(reasons, if version.is_v5() { [0x8F, 2, 0x8F] } else { [0x80, 2, 0x80] });
        client.publish(&publish(&topic, "m").qos(2, 1));
        assert_eq!(client.receive().text(), "m");
    });
}

#[test]
fn v5_mqtt_4_13_1_1_v311_mqtt_4_8_0_1_a_malformed_subscribe_subscribes_nothing() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let persistent = connect(version).client_id(unique("c")).persistent();
        let mut client = persistent.open(broker_under_test());
        client.send(&subscribe(version, 1, &[], &[Filter::new(&topic, 1), Filter::new("t", 3)]));
        client.expect_error(&[0x81, 0x82]);
        join(version).publish(&publish(&topic, "m").qos(1, 1));
        persistent.open(broker_under_test()).expect_nothing();
    });
}

#[test]
fn v5_mqtt_3_8_3_3_no_local_goes_by_the_client_identifier_not_by_the_connection() {
    each(&[V3_1_1, V5], |publishing| {
        let (topic, id) = (unique("t"), unique("c"));
        let mut client = connect(publishing).client_id(&id).persistent().open(broker_under_test());
        client.publish(&publish(&topic, "own").qos(1, 1).retain());
        client.disconnect();
        let filter = || [Filter::new(&topic, 1).no_local()];
        let mut client = connect(V5).client_id(&id).persistent().open(broker_under_test());
        client.subscribe_with(&[], &filter());
        client.expect_nothing();
        client.disconnect();
        let mut client = connect(V5).client_id(&id).open(broker_under_test());
        client.subscribe_with(&[], &filter());
        client.expect_nothing();
        let mut stranger = join(V5);
        stranger.subscribe_with(&[], &filter());
        assert_eq!(stranger.receive().text(), "own");
    });
}
