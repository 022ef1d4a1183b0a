//! Receive Maximum and Maximum Packet Size, both ways: 5.0 §3.1.2.11.3, §3.1.2.11.4, §3.3.4 and §4.9.

use crate::support::{
    DISCONNECT, Filter, PUBACK, PUBCOMP, PUBREC, PUBREL, Property, RawClient, SUBACK, UNSUBACK, V5, Version,
    broker_under_test, puback, pubcomp, publish, pubrec, pubrel, subscribe, unique, unsubscribe,
};
use crate::{each, join, somebody};

/// A subscriber with a Receive Maximum and as many messages published to it as told, QoS 1 and 2 in turn.
#[track_caller]
fn narrow_subscriber(maximum: u16, messages: u16) -> (RawClient, String) {
    let topic = unique("narrow");
    let mut client = somebody(V5).property(Property::receive_maximum(maximum)).open(broker_under_test());
    client.subscribe(&topic, 2);
    let mut publisher = join(V5);
    for number in 1..=messages {
        let qos = if number % 2 == 0 { 2 } else { 1 };
        publisher.publish(&publish(&topic, number.to_string()).qos(qos, number));
    }
    (client, topic)
}

#[test]
fn v5_mqtt_3_3_4_9_v5_mqtt_4_9_0_1_v5_mqtt_4_9_0_2_no_more_messages_in_flight_than_the_receive_maximum() {
    let (mut client, _) = narrow_subscriber(2, 5);
    let first = client.read_publish();
    let second = client.read_publish();
    assert_eq!((first.text(), first.qos, second.text(), second.qos), ("1".into(), 1, "2".into(), 2));
    client.expect_nothing();
    client.complete(&first);
    let third = client.read_publish();
    assert_eq!(third.text(), "3");
    client.expect_nothing();
    client.send(&pubrec(second.packet_id).bytes());
    client.expect_ack(crate::support::PUBREL, second.packet_id);
    client.expect_nothing();
    client.send(&pubcomp(second.packet_id).bytes());
    let fourth = client.read_publish();
    assert_eq!(fourth.text(), "4");
    client.expect_nothing();
    client.send(&pubrec(fourth.packet_id).reason(0x80, &[]).bytes());
    assert_eq!(client.read_publish().text(), "5", "a PUBREC with an error makes room at once");
    client.complete(&third);
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_3_4_10_v5_mqtt_4_9_0_3_a_full_window_holds_back_nothing_but_publish() {
    let (mut client, topic) = narrow_subscriber(1, 2);
    client.read_publish();
    client.send(&subscribe(V5, 11, &[], &[Filter::new(unique("t"), 1)]));
    assert_eq!(client.read().many_acks(SUBACK).0, 11);
    client.send(&unsubscribe(V5, 12, &["t"]));
    assert_eq!(client.read().many_acks(UNSUBACK).0, 12);
    let elsewhere = unique("elsewhere");
    client.send(&publish(&elsewhere, "p").qos(1, 13).bytes(V5));
    assert_eq!(client.read().ack(PUBACK).0, 13);
    client.send(&publish(&elsewhere, "p").qos(2, 14).bytes(V5));
    assert_eq!(client.read().ack(PUBREC).0, 14);
    client.send(&pubrel(14).bytes());
    assert_eq!(client.read().ack(PUBCOMP).0, 14);
    client.expect_nothing();
    join(V5).publish(&publish(&topic, "not counted"));
    let message = client.read_publish();
    assert_eq!((message.text().as_str(), message.qos), ("not counted", 0), "QoS 0 needs no room");
}

#[test]
fn v5_mqtt_4_9_0_1_the_window_is_full_again_after_a_reconnect() {
    let topic = unique("narrow");
    let connect = somebody(V5).persistent().property(Property::receive_maximum(1));
    let mut client = connect.open(broker_under_test());
    client.subscribe(&topic, 1);
    let mut publisher = join(V5);
    for number in 1..=3 {
        publisher.publish(&publish(&topic, number.to_string()).qos(1, number));
    }
    assert_eq!(client.read_publish().text(), "1");
    client.cut();
    let mut client = connect.open(broker_under_test());
    for text in ["1", "2", "3"] {
        let message = client.read_publish();
        client.expect_nothing();
        assert_eq!(message.text(), text);
        client.complete(&message);
    }
}

#[test]
fn v5_mqtt_3_3_4_9_a_smaller_receive_maximum_holds_for_what_was_in_flight_before() {
    let topic = unique("narrow");
    let connect = somebody(V5).persistent();
    let mut client = connect.open(broker_under_test());
    client.subscribe(&topic, 1);
    let mut publisher = join(V5);
    for number in 1..=4 {
        publisher.publish(&publish(&topic, number.to_string()).qos(1, number));
        client.read_publish();
    }
    client.cut();
    let mut client = connect.property(Property::receive_maximum(2)).open(broker_under_test());
    let first = client.read_publish();
    let second = client.read_publish();
    client.expect_nothing();
    client.complete(&first);
    client.complete(&second);
    let rest = [client.receive().text(), client.receive().text()];
    assert_eq!([first.text(), second.text(), rest[0].clone(), rest[1].clone()], ["1", "2", "3", "4"]);
}

#[test]
fn v5_mqtt_3_3_4_10_v5_mqtt_4_4_0_1_a_smaller_receive_maximum_holds_back_no_pubrel() {
    let topic = unique("narrow");
    let connect = somebody(V5).persistent();
    let mut client = connect.open(broker_under_test());
    client.subscribe(&topic, 2);
    let mut publisher = join(V5);
    // Of four in flight the second and the last are released; the others wait for their acknowledgement.
    let messages: Vec<_> = (1..=4)
        .map(|number| {
            publisher
                .publish(&publish(&topic, number.to_string()).qos(if number == 1 { 1 } else { 2 }, number));
            client.read_publish()
        })
        .collect();
    for released in [1, 3] {
        let packet_id = messages[released].packet_id;
        client.send(&pubrec(packet_id).bytes());
        client.expect_ack(PUBREL, packet_id);
    }
    client.cut();
    let mut client = connect.property(Property::receive_maximum(1)).open(broker_under_test());
    let first = client.read_publish();
    assert_eq!(first.text(), "1");
    let released = [messages[1].packet_id, messages[3].packet_id];
    released.into_iter().for_each(|packet_id| client.expect_ack(PUBREL, packet_id));
    client.expect_nothing();
    for packet_id in released {
        client.send(&pubcomp(packet_id).bytes());
    }
    client.expect_nothing();
    client.complete(&first);
    assert_eq!(client.receive().text(), "3");
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_3_4_7_exchanges_of_an_earlier_connection_do_not_count_against_the_receive_maximum() {
    let topic = unique("t");
    let connect = somebody(V5).persistent();
    let mut client = connect.open(broker_under_test());
    let maximum = u16::try_from(client.accepted().number(0x21).unwrap_or(65_535)).unwrap();
    assert!(maximum < 30_000, "twice as many have identifiers");
    let begin = |client: &mut RawClient, packet_ids: std::ops::RangeInclusive<u16>| {
        let messages = packet_ids.clone().map(|id| publish(&topic, "p").qos(2, id).bytes(V5));
        client.send(&messages.collect::<Vec<_>>().concat());
        packet_ids.for_each(|id| client.expect_ack(PUBREC, id));
    };
    begin(&mut client, 1..=maximum);
    client.cut();
    let mut client = connect.open(broker_under_test());
    assert!(client.accepted().session_present);
    begin(&mut client, maximum + 1..=2 * maximum);
    client.send(&publish(&topic, "p").qos(2, 2 * maximum + 1).bytes(V5));
    client.expect_error(&[0x93]);
}

#[test]
fn v5_mqtt_3_3_4_7_who_exceeds_the_receive_maximum_of_the_server_is_disconnected() {
    let mut client = join(V5);
    let maximum = client.accepted().number(0x21).unwrap_or(65_535);
    assert!(maximum < 65_535, "a server that offers every packet identifier cannot be exceeded");
    let topic = unique("t");
    for packet_id in 1..=u16::try_from(maximum + 1).unwrap() {
        client.send(&publish(&topic, "p").qos(2, packet_id).bytes(V5));
    }
    for packet_id in 1..=maximum {
        let packet = client.read();
        if packet.first_byte == DISCONNECT {
            panic!("disconnected after {packet_id} of {maximum}: {packet:?}");
        }
        packet.must_be(PUBREC);
    }
    client.expect_error(&[0x93]);
}

#[test]
fn v5_mqtt_3_3_4_7_completed_messages_do_not_count_against_the_receive_maximum() {
    let mut client = join(V5);
    let topic = unique("t");
    for _ in 0..3 {
        for packet_id in 1..=1000 {
            client.send(&publish(&topic, "p").qos(1, packet_id).bytes(V5));
        }
        for packet_id in 1..=1000 {
            client.expect_ack(PUBACK, packet_id);
        }
    }
}

#[test]
fn v5_mqtt_3_1_2_24_v5_mqtt_3_1_2_25_what_is_too_large_for_a_client_is_left_out_as_if_it_had_been_sent() {
    let topic = unique("size");
    let limits = [Property::maximum_packet_size(120_u32), Property::receive_maximum(1)];
    let connect =
        limits.into_iter().fold(somebody(V5).persistent(), |connect, limit| connect.property(limit));
    let mut client = connect.open(broker_under_test());
    client.subscribe(&topic, 2);
    let mut publisher = join(V5);
    for qos in 0..=2 {
        publisher.publish(&publish(&topic, [b'x'; 200]).qos(qos, 1));
        publisher.publish(&publish(&topic, format!("small {qos}")).qos(qos, 2));
    }
    for qos in 0..=2 {
        assert_eq!(client.receive().text(), format!("small {qos}"));
    }
    client.expect_nothing();
    client.disconnect();
    publisher.publish(&publish(&topic, [b'x'; 200]).qos(1, 1));
    publisher.publish(&publish(&topic, "last").qos(1, 2));
    let mut client = connect.open(broker_under_test());
    assert_eq!(client.receive().text(), "last");
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_1_2_24_the_limit_is_exact() {
    let topic = unique("size");
    let overhead = publish(&topic, "").bytes(V5).len();
    let mut client = somebody(V5).property(Property::maximum_packet_size(100_u32)).open(broker_under_test());
    client.subscribe(&topic, 0);
    let mut publisher = join(V5);
    publisher.publish(&publish(&topic, vec![b'a'; 101 - overhead]));
    publisher.publish(&publish(&topic, vec![b'b'; 100 - overhead]));
    assert_eq!(client.read_publish().payload[0], b'b');
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_1_2_24_retained_messages_respect_the_limit_too() {
    let topic = unique("size");
    let mut publisher = join(V5);
    publisher.publish(&publish(format!("{topic}/large"), vec![b'a'; 300]).retain());
    publisher.publish(&publish(format!("{topic}/small"), "small").retain());
    let mut client = somebody(V5).property(Property::maximum_packet_size(150_u32)).open(broker_under_test());
    client.subscribe(&format!("{topic}/#"), 0);
    assert_eq!(client.read_publish().text(), "small");
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_4_2_2_v5_mqtt_3_5_2_2_v5_mqtt_3_7_2_2_v5_mqtt_3_9_2_1_v5_mqtt_3_11_2_1_v5_mqtt_3_14_2_3_answers_fit_the_maximum_packet_size()
 {
    const MAXIMUM: usize = 20;
    let limit = Property::maximum_packet_size(20_u32);
    let mut client = somebody(V5).property(limit).open(broker_under_test());
    let mut unknown = pubrel(77).bytes();
    unknown.extend(pubrec(78).bytes());
    for packet in [
        publish("size/nobody", "p").qos(1, 1).bytes(V5),
        publish("size/nobody", "p").qos(2, 2).bytes(V5),
        pubrel(2).bytes(),
        unknown,
        subscribe(V5, 3, &[], &[Filter::new("$share//x", 0), Filter::new("a/#/b", 0)]),
        unsubscribe(V5, 4, &["never"]),
        vec![0xC0, 1],
        vec![0],
    ] {
        client.send(&packet);
    }
    let mut kinds = Vec::new();
    while let Some(packet) = client.read_or_closed() {
        assert!(packet.body.len() + 2 <= MAXIMUM, "{packet:02x?} is larger than {MAXIMUM} bytes");
        kinds.push(packet.kind());
    }
    assert_eq!(kinds.first(), Some(&PUBACK));
}

#[test]
fn mqtt_3_3_4_1_a_burst_of_every_qos_is_answered_packet_by_packet() {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        let topic = unique("t");
        let mut bytes = Vec::new();
        for packet_id in (1..=60).step_by(2) {
            bytes.extend(publish(&topic, "p").bytes(version));
            bytes.extend(publish(&topic, "p").qos(1, packet_id).bytes(version));
            bytes.extend(publish(&topic, "p").qos(2, packet_id + 1).bytes(version));
        }
        client.send(&bytes);
        for packet_id in (1..=60).step_by(2) {
            client.expect_ack(PUBACK, packet_id);
            client.expect_ack(PUBREC, packet_id + 1);
        }
        client.send(&puback(1).bytes());
        client.ping();
    });
}

#[test]
fn v5_mqtt_3_1_2_24_v5_mqtt_3_1_2_25_what_was_in_flight_may_have_become_too_large() {
    let topic = unique("size");
    let persistent = somebody(V5).persistent();
    let mut client = persistent.open(broker_under_test());
    client.subscribe(&topic, 2);
    let mut publisher = join(V5);
    publisher.publish(&publish(&topic, [b'x'; 200]).qos(1, 1));
    publisher.publish(&publish(&topic, [b'y'; 200]).qos(2, 2));
    publisher.publish(&publish(&topic, "small").qos(1, 3));
    (0..3).for_each(|_| drop(client.read_publish()));
    client.cut();
    publisher.publish(&publish(&topic, "queued").qos(1, 4));
    let narrow =
        persistent.property(Property::maximum_packet_size(100_u32)).property(Property::receive_maximum(1));
    let mut client = narrow.open(broker_under_test());
    assert_eq!(client.receive().text(), "small");
    assert_eq!(client.receive().text(), "queued");
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_1_2_24_no_packet_of_any_kind_exceeds_the_maximum_packet_size() {
    let limited = |connect: crate::support::Connect, maximum: u32| {
        connect.property(Property::maximum_packet_size(maximum))
    };
    for maximum in 5..30 {
        let mut client = limited(crate::support::connect(V5), maximum).send_to(broker_under_test());
        if let Some(connack) = client.read_or_closed() {
            assert!(connack.body.len() + 2 <= maximum as usize, "{maximum}: {connack:02x?}");
        }
    }
    let filters: Vec<Filter> = (0..200).map(|number| Filter::new(format!("size/{number}"), 0)).collect();
    let names: Vec<String> = (0..200).map(|number| format!("size/{number}")).collect();
    for packet in [subscribe(V5, 1, &[], &filters), unsubscribe(V5, 1, &names)] {
        let mut client = limited(somebody(V5), 100).open(broker_under_test());
        client.send(&packet);
        client.send(&[0xC0, 0]);
        while let Some(packet) = client.read_or_closed() {
            assert!(packet.body.len() + 2 <= 100, "{packet:02x?}");
            if packet.first_byte == crate::support::PINGRESP {
                break;
            }
        }
    }
}
