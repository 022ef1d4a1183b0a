//! Clients that take more than their share, against the real binary: whatever they do, memory stays bounded, what is
//! lost is counted, and a bystander is served.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use support::{
    Broker, CONNACK, DISCONNECT, PUBACK, PUBREC, Property, RawClient, V3_1_1, V5, connect, puback, publish,
    unique, variable_byte_integer,
};

const MIB: u64 = 1024 * 1024;

/// The memory a process has in RAM, in bytes.
fn memory(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// How long the broker takes to answer somebody who has nothing to do with it all.
fn answered_within(bystander: &mut RawClient) -> Duration {
    let begun = Instant::now();
    bystander.publish(&publish("bystander", "m").qos(1, 1));
    begun.elapsed()
}

/// Waits until a counter of `$SYS` has reached a value.
fn wait_for_sys(broker: &Broker, name: &str, least: u64) {
    let mut watcher = connect(V5).client_id(unique("watcher")).open(broker);
    watcher.subscribe(&format!("$SYS/broker/{name}"), 0);
    let begun = Instant::now();
    while watcher.read_publish().text().parse::<u64>().unwrap() < least {
        assert!(begun.elapsed() < Duration::from_secs(5), "{name} does not reach {least}");
    }
}

#[test]
fn a_client_that_never_reads_costs_a_bounded_memory_and_is_sent_away() {
    let config = "[limits]\nwrite_timeout = \"2s\"\noutbox_soft = \"256KiB\"\noutbox_hard = \"2MiB\"\n\
                  [sys]\ninterval = \"1s\"\n";
    let broker = Broker::with_config(config);
    let mut bystander = connect(V5).client_id("bystander").open(&broker);
    let mut deaf = connect(V5).client_id("deaf").open(&broker);
    deaf.subscribe("flood", 0);
    let mut flooding = connect(V5).client_id("flooding").open(&broker);
    let batch = publish("flood", [b'x'; 1_000]).bytes(V5).repeat(500);
    let before = memory(&broker);
    let mut slowest = Duration::ZERO;
    for _ in 0..120 {
        flooding.send(&batch);
        slowest = slowest.max(answered_within(&mut bystander));
    }
    flooding.ping();
    let grown = memory(&broker).saturating_sub(before);
    assert!(grown < 24 * MIB, "60 MB went by, and the broker grew by {} MiB", grown / MIB);
    assert!(slowest < Duration::from_secs(1), "the bystander waited for {slowest:?}");
    wait_for_sys(&broker, "publish/messages/dropped/slow", 1);
    broker.wait_for_log("it has read nothing for limits.write_timeout");
    // What it had not read is still in its socket, and behind it the end.
    deaf.set_patience(Duration::from_secs(5));
    while deaf.is_more() {}
    assert!(answered_within(&mut bystander) < Duration::from_secs(1));
}

/// Whoever is taken over in the midst of a packet gets the rest of it before it is told so.
#[test]
fn the_end_of_a_slow_client_does_not_alter_what_it_is_sent() {
    let config = "[limits]\noutbox_soft = \"256KiB\"\noutbox_hard = \"2MiB\"\n[sys]\ninterval = \"1s\"\n";
    let broker = Broker::with_config(config);
    let mut deaf = connect(V5).client_id("deaf").open(&broker);
    deaf.subscribe("flood", 0);
    let mut flooding = connect(V5).client_id("flooding").open(&broker);
    let batch = publish("flood", [b'x'; 1_000]).bytes(V5).repeat(500);
    for _ in 0..40 {
        flooding.send(&batch);
    }
    wait_for_sys(&broker, "publish/messages/dropped/slow", 1);
    let _successor = connect(V5).client_id("deaf").open(&broker);
    let mut messages = 0;
    let last = loop {
        let packet = deaf.read();
        if packet.first_byte == DISCONNECT {
            break packet;
        }
        assert_eq!(packet.publish().payload, [b'x'; 1_000], "message {messages}");
        messages += 1;
    };
    assert_eq!(last.reason(DISCONNECT).0, 0x8E);
    deaf.expect_closed();
    assert!(messages > 256, "{messages} are no flood");
}

#[test]
fn a_connect_that_trickles_in_is_cut_off() {
    let broker = Broker::with_config("[limits]\nconnect_timeout = \"1s\"\n");
    for bytes in [connect(V5).client_id("slow").bytes(), vec![0x10], vec![]] {
        let mut slow = RawClient::open(&broker, V5);
        let begun = Instant::now();
        for byte in bytes.iter().take(8) {
            slow.send(&[*byte]);
            connect(V5).client_id(unique("other")).open(&broker).ping();
        }
        slow.expect_closed();
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(900) && took < Duration::from_secs(3), "{took:?}");
    }
}

#[test]
fn what_is_announced_and_never_comes_costs_nothing() {
    let broker = Broker::start();
    connect(V5).client_id("warm").open(&broker).ping();
    let before = memory(&broker);
    let body = [&[0, 1, b't', 0][..], &[0; 1_000]].concat();
    let length = variable_byte_integer(16 * 1024 * 1024 - 10);
    let mut clients: Vec<RawClient> = (0..100)
        .map(|number| {
            let mut client = connect(V5).client_id(format!("boaster-{number}")).open(&broker);
            client.send(&[&[0x30][..], &length, &body].concat());
            client
        })
        .collect();
    for _ in 0..100 {
        let mut client = RawClient::open(&broker, V5);
        client.send(&[&[0x10][..], &length, b"\x00\x04MQTT\x05"].concat());
        clients.push(client);
    }
    connect(V5).client_id("bystander").open(&broker).ping();
    let grown = memory(&broker).saturating_sub(before);
    assert!(grown < 16 * MIB, "3 GiB were announced, and the broker grew by {} MiB", grown / MIB);
}

#[test]
fn what_is_too_large_is_refused_from_its_header_alone() {
    let broker = Broker::with_config("[limits]\nmax_packet_size = \"1MiB\"\n");
    let header = [&[0x30][..], &variable_byte_integer(1024 * 1024)].concat();
    let mut modern = connect(V5).client_id("modern").open(&broker);
    modern.send(&header);
    assert_eq!(modern.read().reason(DISCONNECT).0, 0x95);
    modern.expect_closed();
    let mut older = connect(V3_1_1).client_id("older").open(&broker);
    older.send(&header);
    older.expect_closed();
    // One that just fits is taken.
    let mut fitting = connect(V5).client_id("fitting").open(&broker);
    let size = 1024 * 1024 - publish("t", "").bytes(V5).len() - 2;
    fitting.publish(&publish("t", vec![0; size]));
    let mut first = RawClient::open(&broker, V5);
    first.send(&[&[0x10][..], &variable_byte_integer(2 * 1024 * 1024)].concat());
    first.expect_connect_error(&[0x95]);
}

#[test]
fn thousands_above_the_bound_of_connections_are_told_so() {
    let broker = Broker::with_config("[limits]\nmax_connections = 10\n");
    let mut inside: Vec<RawClient> = Vec::new();
    while inside.len() < 10 {
        inside.push(connect(V5).client_id(format!("inside-{}", inside.len())).open(&broker));
    }
    let before = memory(&broker);
    // So many at a time as the broker tells, beside those it is still taking leave of.
    for round in 0..80 {
        let connects: Vec<_> = (0..25)
            .map(|number| {
                connect(if number % 2 == 0 { V5 } else { V3_1_1 }).client_id(format!("{round}-{number}"))
            })
            .collect();
        let mut outside: Vec<RawClient> = connects.iter().map(|connect| connect.send_to(&broker)).collect();
        for client in &mut outside {
            let connack = client.read_kind(CONNACK).connack();
            let expected = if client.version == V5 { [0x97, 0x9F].as_slice() } else { &[3] };
            assert!(expected.contains(&connack.reason), "{connack:?}");
            client.expect_closed();
        }
    }
    assert!(memory(&broker).saturating_sub(before) < 8 * MIB);
    inside.iter_mut().for_each(RawClient::ping);
    inside.remove(0).disconnect();
    // The place is free when the broker has closed its side, which `disconnect` waits for, or a moment later.
    let begun = Instant::now();
    loop {
        let mut client = connect(V5).client_id("late").send_to(&broker);
        match client.read().connack().reason {
            0 => break,
            reason => assert!(begun.elapsed() < Duration::from_secs(5), "still refused with {reason:#04x}"),
        }
    }
}

#[test]
fn a_full_queue_does_what_the_configuration_says() {
    for (overflow, kept) in [("drop-oldest", 40..50), ("drop-newest", 1..11), ("reject", 1..11)] {
        let broker = Broker::with_config(&format!(
            "[queue]\nmessages = 10\noverflow = \"{overflow}\"\n[sys]\ninterval = \"1s\"\n"
        ));
        let mut slow = connect(V5).client_id("slow").property(Property::receive_maximum(1)).open(&broker);
        slow.subscribe("t", 1);
        let mut publisher = connect(V5).client_id("publisher").open(&broker);
        let mut rejected = Vec::new();
        for number in 0..50_u16 {
            let qos = 1 + (number % 2) as u8;
            publisher.send(&publish("t", number.to_string()).qos(qos, number + 1).bytes(V5));
            let kind = if qos == 1 { PUBACK } else { PUBREC };
            let (_, reason, _) = publisher.read().ack(kind);
            assert!(reason == 0 || (overflow == "reject" && reason == 0x97), "{overflow}: {reason:#04x}");
            if reason == 0x97 {
                rejected.push(number);
            }
        }
        let expected = if overflow == "reject" { (11..50).collect() } else { Vec::new() };
        assert_eq!(rejected, expected, "{overflow}");
        for number in std::iter::once(0).chain(kept) {
            let got = slow.read_publish();
            assert_eq!(got.text(), number.to_string(), "{overflow}");
            slow.send(&puback(got.packet_id).bytes());
        }
        slow.expect_nothing();
        wait_for_sys(&broker, "publish/messages/dropped/queue", 39);
    }
}

#[test]
fn a_client_that_reads_its_answers_late_is_served_on() {
    let broker = Broker::start();
    let mut client = connect(V5).client_id("late").open(&broker);
    // PUBRELs for nothing: each is answered with five bytes or more, read by nobody for now.
    let batch = support::pubrel(7).bytes().repeat(1_000);
    let mut sent = 0;
    client.set_write_patience(Duration::from_millis(300));
    while sent < 24 * 1024 * 1024 {
        let count = client.send_some(&batch[sent % 4..]);
        if count == 0 {
            break;
        }
        sent += count;
    }
    assert!(sent < 24 * 1024 * 1024, "the broker reads on while its answers pile up");
    for _ in 0..sent / 4 {
        assert_eq!(client.read().ack(support::PUBCOMP).1, 0x92);
    }
    if sent % 4 > 0 {
        client.send(&batch[sent % 4..4]);
        client.read().must_be(support::PUBCOMP);
    }
    client.ping();
}
