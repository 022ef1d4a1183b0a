//! Message ordering, §4.6 of both standards.

use std::collections::HashSet;
use std::thread;

use crate::support::random::Random;
use crate::support::{
    PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Property, Publish, PublishView, RawClient, V5, Version,
    broker_under_test, connect, puback, pubcomp, publish, pubrec, pubrel, unique,
};
use crate::{each, join};

#[test]
fn mqtt_4_6_0_2_mqtt_4_6_0_3_acknowledgements_come_in_the_order_of_the_messages() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&topic, 0);
        let mut client = join(version);
        let packet_ids: Vec<u16> = (1..=200).map(|n| (n * 37) % 1009 + 1).collect();
        for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
            let burst = packet_ids.iter().flat_map(|id| publish(&topic, "m").qos(qos, *id).bytes(version));
            client.send(&burst.collect::<Vec<u8>>());
            packet_ids.iter().for_each(|id| client.expect_ack(kind, *id));
        }
        let burst: Vec<u8> = packet_ids.iter().rev().flat_map(|id| pubrel(*id).bytes()).collect();
        client.send(&burst);
        packet_ids.iter().rev().for_each(|id| client.expect_ack(PUBCOMP, *id));
    });
}

#[test]
fn mqtt_4_6_0_4_pubrels_come_in_the_order_of_the_pubrecs() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut client = join(version);
        client.subscribe(&topic, 2);
        let mut publisher = join(version);
        let mut packet_ids = Vec::new();
        for _ in 0..15 {
            publisher.publish(&publish(&topic, "m").qos(2, 1));
            packet_ids.push(client.read_publish().packet_id);
        }
        packet_ids.rotate_left(7);
        packet_ids.swap(2, 11);
        client.send(&packet_ids.iter().flat_map(|id| pubrec(*id).bytes()).collect::<Vec<u8>>());
        packet_ids.iter().for_each(|id| client.expect_ack(PUBREL, *id));
        client.send(&packet_ids.iter().flat_map(|id| pubcomp(*id).bytes()).collect::<Vec<u8>>());
        client.expect_nothing();
    });
}

#[test]
fn mqtt_4_6_0_5_mqtt_4_6_0_6_messages_of_one_publisher_topic_and_qos_keep_their_order() {
    each(&Version::ALL, |version| {
        let topic = unique("t");
        let mut watcher = join(version);
        watcher.subscribe(&format!("{topic}/#"), 2);
        let mut client = join(version);
        for qos in 0..=2_u8 {
            let burst = (1..=100).flat_map(|id| {
                publish(format!("{topic}/{}", id % 3), id.to_string()).qos(qos, id).bytes(version)
            });
            client.send(&burst.collect::<Vec<u8>>());
            if qos == 2 {
                client.send(&(1..=100).flat_map(|id| pubrel(id).bytes()).collect::<Vec<u8>>());
            }
            let mut last = [0; 3];
            let mut received = 0;
            while received < 100 {
                let packet = watcher.read();
                if packet.kind() == PUBLISH {
                    let message = packet.publish();
                    assert_eq!(message.qos, qos);
                    let number: usize = message.text().parse().unwrap();
                    assert_eq!(message.topic, format!("{topic}/{}", number % 3));
                    assert!(number > last[number % 3], "{number} after {}", last[number % 3]);
                    last[number % 3] = number;
                    received += 1;
                    match qos {
                        0 => {}
                        1 => watcher.send(&puback(message.packet_id).bytes()),
                        _ => watcher.send(&pubrec(message.packet_id).bytes()),
                    }
                } else {
                    let (packet_id, _, _) = packet.ack(PUBREL);
                    watcher.send(&pubcomp(packet_id).bytes());
                }
            }
            for packet in watcher.all_before_pingresp() {
                watcher.send(&pubcomp(packet.ack(PUBREL).0).bytes());
            }
            watcher.ping();
        }
    });
}

/// So many messages, in the order they come, whose handshakes are completed together.
fn receive_all(watcher: &mut RawClient, count: usize) -> Vec<PublishView> {
    let mut received = Vec::new();
    while received.len() < count {
        let packet = watcher.read();
        if packet.kind() == PUBREL {
            watcher.send(&pubcomp(packet.ack(PUBREL).0).bytes());
            continue;
        }
        let message = packet.publish();
        match message.qos {
            0 => {}
            1 => watcher.send(&puback(message.packet_id).bytes()),
            _ => watcher.send(&pubrec(message.packet_id).bytes()),
        }
        received.push(message);
    }
    for packet in watcher.all_before_pingresp() {
        watcher.send(&pubcomp(packet.ack(PUBREL).0).bytes());
    }
    received
}

/// Topics of which each client below gets some: more of them than a burst has messages of one kind.
const LEAVES: [&str; 4] = ["a", "b", "c", "nobody"];

/// What it subscribes to, at which QoS, and whether it gets what is published to a leaf of a branch.
type Watching = (&'static str, u8, fn(u64, &str) -> bool);

const WATCHING: [Watching; 6] = [
    ("+/a", 2, |_, leaf| leaf == "a"),
    ("+/a", 1, |_, leaf| leaf == "a"),
    ("+/b", 1, |_, leaf| leaf == "b"),
    ("3/#", 0, |branch, _| branch == 3),
    ("7/c", 2, |branch, leaf| branch == 7 && leaf == "c"),
    ("2/+", 2, |branch, _| branch == 2),
];

#[test]
fn mqtt_4_6_0_5_mqtt_4_6_0_6_mqtt_4_6_0_2_whoever_gets_some_of_many_topics_gets_them_in_order() {
    each(&Version::ALL, |version| {
        let root = unique("t");
        let mut watchers = Vec::new();
        for (index, (filter, qos, gets)) in WATCHING.into_iter().enumerate() {
            let mut watcher = join(Version::ALL[index % Version::ALL.len()]);
            watcher.subscribe(&format!("{root}/{filter}"), qos);
            watchers.push((watcher, qos, gets));
        }
        let mut client = join(version);
        let mut random = Random::new(11, 0);
        for turn in 0..40_u64 {
            // Few topics in turn and many in any order; all of one kind, or of all kinds.
            let branches = [1, 3, 8, 24][(turn % 4) as usize];
            let leaf_of = |random: &mut Random| LEAVES[random.below(4) as usize];
            let in_turn: Vec<_> = (0..branches).map(|branch| (branch, leaf_of(&mut random))).collect();
            let is_mixed = turn % 3 == 2;
            let mut sent = Vec::new();
            let mut burst = Vec::new();
            for packet_id in 1..=150_u16 {
                let (branch, leaf) = match turn % 8 {
                    0..4 => in_turn[usize::from(packet_id) % in_turn.len()],
                    _ => (random.below(branches), leaf_of(&mut random)),
                };
                let qos = if is_mixed { random.below(3) as u8 } else { (turn / 4 % 3) as u8 };
                let mut message = publish(format!("{root}/{branch}/{leaf}"), format!("{turn}: {packet_id}"));
                message = message.qos(qos, if qos > 0 { packet_id } else { 0 });
                if qos > 0 && is_mixed && random.percent(20) {
                    message = message.dup();
                }
                if version == V5 && is_mixed && random.percent(20) {
                    message = message.property(Property::topic_alias(1));
                }
                burst.extend(message.bytes(version));
                sent.push((message, branch, leaf));
            }
            client.send(&burst);
            for (message, branch, leaf) in sent.iter().filter(|(message, _, _)| message.qos > 0) {
                let kind = if message.qos == 2 { PUBREC } else { PUBACK };
                let (packet_id, reason, _) = client.read().ack(kind);
                assert_eq!(packet_id, message.packet_id);
                let has_subscriber = WATCHING.iter().any(|(_, _, gets)| gets(*branch, leaf));
                assert!(reason == 0 || reason == 0x10 && !has_subscriber, "{reason:#x} for {branch}/{leaf}");
            }
            for (message, _, _) in sent.iter().filter(|(message, _, _)| message.qos == 2) {
                client.send(&pubrel(message.packet_id).bytes());
                client.expect_ack(PUBCOMP, message.packet_id);
            }
            for (watcher, granted, gets) in &mut watchers {
                let of = |(message, _, _): &&(Publish, u64, &str)| {
                    let topic = String::from_utf8_lossy(&message.topic).into_owned();
                    (topic, String::from_utf8_lossy(&message.payload).into_owned(), message.qos.min(*granted))
                };
                let expected: Vec<_> = sent
                    .iter()
                    .filter(|(_, branch, leaf)| gets(*branch, leaf))
                    .map(|sent| of(&sent))
                    .collect();
                let received: Vec<_> = receive_all(watcher, expected.len())
                    .into_iter()
                    .map(|got| {
                        assert!(!got.dup && !got.retain, "{got:?}");
                        (got.topic.clone(), got.text(), got.qos)
                    })
                    .collect();
                assert_eq!(received, expected, "turn {turn}");
                watcher.ping();
            }
        }
    });
}

#[test]
fn mqtt_4_6_0_5_mqtt_4_6_0_6_the_order_holds_through_queue_and_reconnect() {
    each(&Version::NUMBERED, |version| {
        let topic = unique("t");
        let persistent = connect(version).client_id(unique("c")).persistent();
        let mut client = persistent.open(broker_under_test());
        client.subscribe(&topic, 2);
        let mut publisher = join(version);
        let (mut next_sent, mut next_seen) = (0_u32, 0_u32);
        let mut send = |count: u32| {
            for _ in 0..count {
                publisher.publish(&publish(&topic, next_sent.to_string()).qos(1, 1));
                next_sent += 1;
            }
        };
        for _ in 0..3 {
            send(5);
            for _ in 0..3 {
                assert_eq!(client.receive().text(), next_seen.to_string());
                next_seen += 1;
            }
            client.ping();
            client.cut();
            send(5);
            client = persistent.open(broker_under_test());
            while next_seen % 10 != 0 {
                assert_eq!(client.receive().text(), next_seen.to_string());
                next_seen += 1;
            }
            client.ping();
        }
        client.expect_nothing();
    });
}

/// What a subscriber that keeps losing its connection has taken so far.
#[derive(Default)]
struct Taken {
    /// The messages by their number, each at its first coming.
    numbers: Vec<u32>,
    /// The packet identifiers of QoS 2 that were received and are not released.
    unreleased: HashSet<u16>,
}

impl Taken {
    /// Takes `count` packets, and acknowledges all but the messages whose turn `silent` picks.
    #[track_caller]
    fn take(&mut self, client: &mut RawClient, count: u32, silent: impl Fn(u32) -> bool) {
        for turn in 0..count {
            let packet = client.read();
            if packet.kind() == PUBREL {
                let (packet_id, _, _) = packet.ack(PUBREL);
                self.unreleased.remove(&packet_id);
                client.send(&pubcomp(packet_id).bytes());
                continue;
            }
            let message = packet.publish();
            let number: u32 = message.text().parse().unwrap();
            if message.qos == 2 {
                if self.unreleased.insert(message.packet_id) {
                    self.numbers.push(number);
                }
                if !silent(turn) {
                    client.send(&pubrec(message.packet_id).bytes());
                }
            } else {
                let next = u32::try_from(self.numbers.len()).unwrap();
                assert!(number == next || message.dup && number < next, "{number} came before {next}");
                if number == next {
                    self.numbers.push(number);
                }
                if !silent(turn) {
                    client.send(&puback(message.packet_id).bytes());
                }
            }
        }
    }
}

#[test]
fn mqtt_4_6_0_5_v5_mqtt_4_3_3_10_v311_mqtt_4_3_3_1_the_order_holds_while_connections_break_under_load() {
    each(&Version::NUMBERED, |version| {
        for qos in [1, 2] {
            const COUNT: u32 = 600;
            let topic = unique("t");
            let persistent = connect(version).client_id(unique("c")).persistent();
            let mut client = persistent.open(broker_under_test());
            client.subscribe(&topic, qos);
            let flow = topic.clone();
            let publisher = thread::spawn(move || {
                let mut publisher = join(version);
                for number in 0..COUNT {
                    publisher.publish(&publish(&flow, number.to_string()).qos(qos, 1));
                }
            });
            let mut taken = Taken::default();
            for round in 0..12 {
                // What is left without an answer is at the end, as with a client that answers in order.
                taken.take(&mut client, 20 + round, |turn| turn > 15);
                if round % 3 != 0 {
                    client.cut();
                }
                client = persistent.open(broker_under_test());
            }
            while taken.numbers.len() < COUNT as usize {
                taken.take(&mut client, 1, |_| false);
            }
            publisher.join().unwrap();
            assert_eq!(taken.numbers, (0..COUNT).collect::<Vec<_>>());
        }
    });
}
