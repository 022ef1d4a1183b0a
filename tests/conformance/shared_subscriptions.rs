//! Shared Subscriptions, 5.0 §4.8.2.

use std::collections::BTreeMap;

use crate::support::{
    Connect, Filter, PUBREL, RawClient, SUBACK, V5, broker_under_test, connect, disconnect_with, puback,
    pubcomp, publish, pubrec, subscribe, unique,
};
use crate::{join, somebody};

#[track_caller]
fn refused(filter: &str) {
    let mut client = join(V5);
    client.send(&subscribe(V5, 1, &[], &[Filter::new(filter, 1)]));
    match client.read_or_closed() {
        Some(packet) if packet.kind() == SUBACK => {
            let (_, _, reasons) = packet.many_acks(SUBACK);
            assert!(matches!(reasons[..], [0x80 | 0x8F]), "{filter} was granted: {reasons:02x?}");
        }
        Some(packet) => assert!(matches!(packet.reason(crate::support::DISCONNECT).0, 0x81 | 0x82 | 0x8F)),
        None => {}
    }
}

#[test]
fn v5_mqtt_4_8_2_1_a_share_needs_a_name() {
    for filter in ["$share//a", "$share/", "$share///"] {
        refused(filter);
    }
}

#[test]
fn v5_mqtt_4_8_2_2_a_share_name_has_no_wildcards_and_is_followed_by_a_filter() {
    for filter in
        ["$share/group", "$share/group/", "$share/gr+up/a", "$share/#/a", "$share/+/a", "$share/g/a#"]
    {
        refused(filter);
    }
}

/// Two persistent members of a group, and how each comes back. Members and topic are new each time.
struct Pair {
    connects: [Connect; 2],
    clients: [Option<RawClient>; 2],
    topic: String,
}

impl Pair {
    #[track_caller]
    fn join(qos: u8) -> Self {
        let topic = unique("shared");
        let connects = [0, 1].map(|_| connect(V5).client_id(unique("member")).persistent());
        let clients = connects.each_ref().map(|connect| {
            let mut client = connect.open(broker_under_test());
            client.subscribe(&format!("$share/{topic}/{topic}"), qos);
            Some(client)
        });
        Self { connects, clients, topic }
    }

    /// Publishes one message and tells which member got it, and as what.
    #[track_caller]
    fn publish(&mut self, qos: u8) -> (usize, crate::support::PublishView) {
        join(V5).publish(&publish(&self.topic, "m").qos(qos, 1));
        let mut got = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            for packet in client.as_mut().unwrap().all_before_pingresp() {
                got.push((index, packet.publish()));
            }
        }
        assert_eq!(got.len(), 1, "exactly one member gets a message: {got:?}");
        got.remove(0)
    }

    fn client(&mut self, index: usize) -> &mut RawClient {
        self.clients[index].as_mut().unwrap()
    }
}

#[test]
fn v5_mqtt_4_8_2_3_a_share_respects_the_qos_granted_to_the_member() {
    for granted in 0..=2 {
        let mut pair = Pair::join(granted);
        for published in 0..=2 {
            let (index, message) = pair.publish(published);
            assert_eq!(message.qos, published.min(granted));
            pair.client(index).complete(&message);
            pair.client(index).expect_nothing();
        }
    }
}

#[test]
fn v5_mqtt_4_8_2_3_each_group_and_each_plain_subscription_gets_a_message_once() {
    let topic = unique("shared");
    let filters = [
        format!("$share/one/{topic}/#"),
        format!("$share/one/{topic}/#"),
        format!("$share/two/{topic}/#"),
        format!("$share/two/{topic}/#"),
        format!("$share/one/{topic}/+"),
        format!("{topic}/#"),
    ];
    let mut clients: Vec<_> = filters
        .iter()
        .map(|filter| {
            let mut client = somebody(V5).open(broker_under_test());
            client.subscribe(filter, 0);
            client
        })
        .collect();
    let mut publisher = join(V5);
    for number in 0..40 {
        publisher.publish(&publish(format!("{topic}/a"), number.to_string()));
    }
    let mut seen: BTreeMap<&String, Vec<u32>> = BTreeMap::new();
    for (client, filter) in clients.iter_mut().zip(&filters) {
        let numbers = client.all_before_pingresp();
        let numbers = numbers.iter().map(|packet| packet.publish().text().parse::<u32>().unwrap());
        seen.entry(filter).or_default().extend(numbers);
    }
    for (filter, mut numbers) in seen {
        numbers.sort_unstable();
        assert_eq!(numbers, (0..40).collect::<Vec<_>>(), "{filter}");
    }
}

#[test]
fn v5_mqtt_4_8_2_4_v5_mqtt_4_8_2_5_qos_2_in_flight_waits_for_its_member() {
    let mut pair = Pair::join(2);
    let (index, message) = pair.publish(2);
    pair.clients[index].take().unwrap().cut();
    let other = 1 - index;
    pair.client(other).expect_nothing();
    let mut back = pair.connects[index].open(broker_under_test());
    let again = back.read_publish();
    assert_eq!((again.packet_id, again.dup, again.qos), (message.packet_id, true, 2));
    back.complete(&again);
    back.expect_nothing();
    pair.client(other).expect_nothing();
}

#[test]
fn v5_mqtt_4_8_2_5_qos_2_in_flight_dies_with_the_session_of_its_member() {
    let mut pair = Pair::join(2);
    let (index, message) = pair.publish(2);
    let other = 1 - index;
    let leaving = pair.clients[index].take().unwrap();
    leaving.leave_with(&disconnect_with(0, &[crate::support::Property::session_expiry(0_u32)]));
    pair.client(other).expect_nothing();
    join(V5).publish(&publish(&pair.topic, "next").qos(2, 1));
    assert_eq!(pair.client(other).receive().text(), "next");
    pair.client(other).expect_nothing();
    assert_eq!(message.text(), "m");
}

#[test]
fn v5_mqtt_4_8_2_6_a_refused_message_goes_to_nobody_else() {
    for qos in [1, 2] {
        let mut pair = Pair::join(2);
        let (index, message) = pair.publish(qos);
        let refusal = if qos == 1 { puback(message.packet_id) } else { pubrec(message.packet_id) };
        pair.client(index).send(&refusal.reason(0x83, &[]).bytes());
        pair.client(index).expect_nothing();
        pair.client(1 - index).expect_nothing();
        pair.clients[index].take().unwrap().cut();
        pair.client(1 - index).expect_nothing();
        pair.connects[index].open(broker_under_test()).expect_nothing();
    }
}

#[test]
fn v5_mqtt_4_8_2_1_the_share_name_is_no_part_of_the_filter() {
    let topic = unique("shared");
    let mut client = join(V5);
    client.subscribe(&format!("$share/group//{topic}"), 0);
    client.publish(&publish(format!("/{topic}"), "with its own slash"));
    client.publish(&publish(&topic, "without"));
    assert_eq!(client.read_publish().text(), "with its own slash");
    client.expect_nothing();
}

#[test]
fn v5_mqtt_4_8_2_2_the_filter_of_a_share_follows_the_rules_of_other_filters() {
    let mark = unique("shared");
    let mut client = join(V5);
    client.subscribe(&format!("$share/{mark}/#"), 0);
    let mut publisher = join(V5);
    publisher.send(&publish(format!("$fulmar/{mark}"), "hidden").qos(1, 1).bytes(V5));
    publisher.read().ack(crate::support::PUBACK);
    publisher.publish(&publish(&mark, "seen").qos(1, 2));
    let topics: Vec<_> = client.all_before_pingresp().iter().map(|packet| packet.publish().topic).collect();
    assert!(topics.contains(&mark) && topics.iter().all(|topic| !topic.starts_with('$')), "{topics:?}");
}

#[test]
fn v5_mqtt_4_8_2_4_v5_mqtt_4_8_2_5_qos_2_received_but_not_released_stays_with_its_member() {
    let mut pair = Pair::join(2);
    let (index, message) = pair.publish(2);
    pair.client(index).send(&pubrec(message.packet_id).bytes());
    pair.client(index).expect_ack(PUBREL, message.packet_id);
    pair.clients[index].take().unwrap().cut();
    pair.client(1 - index).expect_nothing();
    let mut back = pair.connects[index].open(broker_under_test());
    back.expect_ack(PUBREL, message.packet_id);
    back.send(&pubcomp(message.packet_id).bytes());
    back.expect_nothing();
    pair.client(1 - index).expect_nothing();
}

#[test]
fn v5_mqtt_4_8_2_5_qos_2_in_flight_dies_with_a_session_that_a_clean_start_ends() {
    let mut pair = Pair::join(2);
    let (index, _) = pair.publish(2);
    pair.clients[index].take().unwrap().cut();
    let fresh = pair.connects[index].clone().clean(true);
    fresh.open(broker_under_test()).expect_nothing();
    pair.client(1 - index).expect_nothing();
}

#[test]
fn v5_mqtt_4_5_0_1_what_a_group_could_not_take_waits_for_it() {
    let mut pair = Pair::join(1);
    pair.clients.iter_mut().for_each(|client| client.take().unwrap().cut());
    let mut publisher = join(V5);
    for number in 0..10 {
        publisher.publish(&publish(&pair.topic, number.to_string()).qos(1, 1));
    }
    let mut back = pair.connects[0].open(broker_under_test());
    let texts: Vec<String> = (0..10).map(|_| back.receive().text()).collect();
    assert_eq!(texts, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
    back.expect_nothing();
    pair.connects[1].open(broker_under_test()).expect_nothing();
}
