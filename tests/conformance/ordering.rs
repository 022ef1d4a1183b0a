//! Message ordering, §4.6 of both standards.

use std::collections::HashSet;
use std::thread;

use crate::support::{
    PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, RawClient, Version, broker_under_test, connect, puback,
    pubcomp, publish, pubrec, pubrel, unique,
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
