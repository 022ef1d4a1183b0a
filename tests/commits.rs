//! Acknowledgements and the store: a store that commits only when it is told to, behind a real socket.
//!
//! An acknowledgement is a promise, so what must last is acknowledged after it is committed, in the order in which it
//! was owed; and whoever has nothing in the store does not wait for it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/twin.rs"]
mod twin;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use fulmar::config::{Config, Listener};
use fulmar::server::{Running, start_with_store};
use fulmar::store::Condition;
use support::{
    Connect, DISCONNECT, Filter, PINGRESP, PUBACK, PUBCOMP, PUBREC, Received, SUBACK, UNSUBACK, V3_1_1, V5,
    Version, Will, connect, disconnect, pingreq, publish, pubrel, subscribe, unsubscribe,
};
use twin::Twin;

/// A broker over a gate, on a runtime of its own.
struct Bench {
    gate: Arc<Twin>,
    running: Option<Running>,
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut config = Config {
            listeners: vec![Listener::tcp("test", SocketAddr::from(([127, 0, 0, 1], 0)))],
            ..Config::default()
        };
        config.sys.interval = Duration::ZERO;
        change(&mut config);
        let gate = Twin::new();
        let running = runtime.block_on(start_with_store(config, gate.clone())).unwrap();
        let address = running.addresses()[0];
        Self { gate, running: Some(running), address, runtime }
    }

    /// Sends a CONNECT; reads nothing.
    fn send(&self, connect: &Connect) -> Wire {
        let mut wire = Wire { stream: TcpStream::connect(self.address).unwrap(), version: connect.version };
        wire.stream.set_nodelay(true).unwrap();
        wire.send(&connect.bytes());
        wire
    }

    /// Connects, with everything committed on the way.
    fn open(&self, connect: &Connect) -> Wire {
        let mut wire = self.send(connect);
        while !wire.has_input() {
            self.gate.commit();
        }
        assert_eq!(wire.read().connack().reason, 0);
        wire
    }

    /// Does something, and waits until the broker has appended what it leads to.
    fn appended_by<R>(&self, act: impl FnOnce() -> R) -> R {
        let before = self.gate.appended_batches();
        let result = act();
        while self.gate.appended_batches() == before {
            std::thread::yield_now();
        }
        result
    }

    /// Commits what there is until the client hears something.
    fn commit_for(&self, wire: &mut Wire) {
        self.gate.commit();
        while !wire.has_input() {
            self.gate.commit();
        }
    }

    /// Somebody whose acknowledgements wait for nothing gets through: what was sent before was handled, and waits.
    fn others_go_on(&self) {
        let mut other = self.open_clean("bystander");
        other.send(&publish("nobody/listens", "m").qos(1, 1).bytes(V5));
        assert_eq!(other.read().ack(PUBACK).0, 1);
    }

    fn open_clean(&self, client_id: &str) -> Wire {
        let mut wire = self.send(&connect(V5).client_id(client_id));
        assert_eq!(wire.read().connack().reason, 0, "a clean session waits for nothing");
        wire
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.gate.commit();
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop());
        }
    }
}

/// One connection.
struct Wire {
    stream: TcpStream,
    version: Version,
}

impl Wire {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Whether something is there to be read, within a moment.
    fn has_input(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        match self.stream.peek(&mut [0]) {
            Ok(_) => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self) -> Received {
        self.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).expect("a packet comes in time");
        assert!(head[1] < 0x80, "a short packet");
        let mut body = vec![0; head[1].into()];
        self.stream.read_exact(&mut body).unwrap();
        Received { version: self.version, first_byte: head[0], body }
    }
}

/// The broker, and a persistent session that subscribes to `kept`.
fn with_a_keeper(change: impl FnOnce(&mut Config)) -> (Bench, Wire) {
    let bench = Bench::new(change);
    let mut keeper = bench.open(&connect(V5).client_id("keeper").persistent());
    keeper.send(&subscribe(V5, 1, &[], &[Filter::new("kept", 2)]));
    while !keeper.has_input() {
        bench.gate.commit();
    }
    keeper.read().must_be(SUBACK);
    (bench, keeper)
}

#[test]
fn the_connack_of_a_session_that_is_kept_waits_and_no_other_does() {
    let bench = Bench::new(|_| {});
    for version in [V3_1_1, V5] {
        let mut kept = bench.send(&connect(version).client_id("kept").persistent());
        bench.others_go_on();
        assert!(!kept.has_input());
        bench.gate.commit();
        assert_eq!(kept.read().connack().reason, 0);
    }
    let mut again = bench.send(&connect(V5).client_id("kept"));
    bench.others_go_on();
    assert!(!again.has_input(), "Clean Start ends a session that the store knows");
    bench.gate.commit();
    assert!(!again.read().connack().session_present);
}

#[test]
fn what_is_owed_waits_in_order_and_others_go_on() {
    let (bench, _keeper) = with_a_keeper(|_| {});
    let mut publisher = bench.open_clean("publisher");
    publisher.send(&publish("nobody/listens", "m").qos(1, 1).bytes(V5));
    assert_eq!(publisher.read().ack(PUBACK).0, 1, "what nobody keeps waits for nothing");
    publisher.send(&publish("kept", "m").qos(1, 2).bytes(V5));
    publisher.send(&pingreq());
    publisher.send(&subscribe(V5, 3, &[], &[Filter::new("x", 0)]));
    publisher.send(&publish("nobody/listens", "m").qos(2, 4).bytes(V5));
    publisher.send(&unsubscribe(V5, 5, &["x"]));
    publisher.send(&publish("nobody/listens", "m").qos(1, 6).bytes(V5));
    bench.others_go_on();
    assert!(!publisher.has_input(), "nothing overtakes the PUBACK that waits");
    bench.gate.commit();
    assert_eq!(publisher.read().ack(PUBACK).0, 2);
    publisher.read().must_be(PINGRESP);
    publisher.read().must_be(SUBACK);
    assert_eq!(publisher.read().ack(PUBREC).0, 4);
    publisher.read().must_be(UNSUBACK);
    assert_eq!(publisher.read().ack(PUBACK).0, 6);
    publisher.send(&pubrel(4).bytes());
    assert_eq!(publisher.read().ack(PUBCOMP).0, 4, "nothing of this session is kept");
}

/// The CONNACK is the first packet, whatever has happened since the CONNECT was accepted [MQTT-3.2.0-1], 3.1.1 [MQTT-3.1.4-4].
#[test]
fn what_ends_a_connection_comes_behind_what_waits_for_the_store() {
    for (bytes, told) in [
        (vec![0xC1, 0], Some(0x81)),
        (connect(V5).client_id("kept").bytes(), Some(0x82)),
        (disconnect(), None),
    ] {
        for version in [V3_1_1, V5] {
            let bench = Bench::new(|_| {});
            let connect = connect(version).client_id("kept").persistent();
            let subscribe = subscribe(version, 1, &[], &[Filter::new("kept", 1)]);
            let mut client = Wire { stream: TcpStream::connect(bench.address).unwrap(), version };
            client.send(&[connect.bytes(), subscribe, bytes.clone()].concat());
            bench.others_go_on();
            assert!(!client.has_input(), "the CONNACK waits, and nothing overtakes it");
            bench.commit_for(&mut client);
            assert_eq!(client.read().connack().reason, 0);
            bench.commit_for(&mut client);
            client.read().must_be(SUBACK);
            if let (Some(reason), V5) = (told, version) {
                assert_eq!(client.read().reason(DISCONNECT).0, reason);
            }
            assert_eq!(client.stream.read(&mut [0]).unwrap(), 0, "then it is closed");
        }
    }
}

#[test]
fn a_session_that_is_taken_over_before_its_connack_has_left_is_told_in_order() {
    let bench = Bench::new(|_| {});
    let kept = connect(V5).client_id("kept").persistent();
    let mut first = bench.appended_by(|| bench.send(&kept));
    let mut second = bench.appended_by(|| bench.send(&kept));
    bench.gate.commit();
    assert_eq!(first.read().connack().reason, 0);
    assert_eq!(first.read().reason(DISCONNECT).0, 0x8E);
    assert!(second.read().connack().session_present);
}

#[test]
fn a_disconnect_takes_effect_at_once_whatever_waits_for_the_store() {
    let (bench, mut keeper) = with_a_keeper(|_| {});
    let doomed = connect(V5).client_id("doomed").will(Will::new("kept", "died"));
    let mut client = bench.open(&doomed);
    bench.appended_by(|| client.send(&publish("kept", "alive").qos(1, 1).bytes(V5)));
    client.send(&disconnect());
    let mut again = bench.send(&doomed);
    assert_eq!(again.read().connack().reason, 0, "it is a new session, which waits for nothing");
    bench.gate.commit();
    assert_eq!(client.read().ack(PUBACK).0, 1, "what it was owed comes all the same");
    let message = keeper.read();
    assert_eq!(message.publish().text(), "alive");
    again.send(&publish("kept", "again").bytes(V5));
    assert_eq!(keeper.read().publish().text(), "again", "its will was discarded");
}

#[test]
fn retained_messages_wait_for_the_suback() {
    let (bench, mut keeper) = with_a_keeper(|_| {});
    let mut publisher = bench.open_clean("publisher");
    bench.appended_by(|| publisher.send(&publish("retained", "m").retain().bytes(V5)));
    bench.gate.commit();
    bench.appended_by(|| keeper.send(&subscribe(V5, 7, &[], &[Filter::new("retained", 0)])));
    assert!(!keeper.has_input(), "the message does not overtake the SUBACK");
    bench.gate.commit();
    keeper.read().must_be(SUBACK);
    assert_eq!(keeper.read().publish().text(), "m");
    // What comes with the SUBSCRIBE is sent as it is published, and not as retained once more.
    keeper.send(
        &[
            subscribe(V5, 8, &[], &[Filter::new("retained/#", 0)]),
            publish("retained/now", "now").retain().bytes(V5),
        ]
        .concat(),
    );
    assert_eq!(keeper.read().publish().text(), "now");
    assert!(!keeper.has_input());
    bench.commit_for(&mut keeper);
    keeper.read().must_be(SUBACK);
    assert_eq!(keeper.read().publish().text(), "m");
    keeper.send(&pingreq());
    keeper.read().must_be(PINGRESP);
}

#[test]
fn a_disk_that_fails_keeps_no_ping_waiting() {
    let (bench, _keeper) = with_a_keeper(|_| {});
    let mut publisher = bench.open_clean("publisher");
    bench.appended_by(|| publisher.send(&publish("kept", "m").qos(1, 1).bytes(V5)));
    bench.gate.set_condition(Condition::Failing);
    publisher.send(&pingreq());
    publisher.read().must_be(PINGRESP);
    bench.gate.set_condition(Condition::Well);
    bench.gate.commit();
    assert_eq!(publisher.read().ack(PUBACK).0, 1);
}

#[test]
fn each_answer_of_a_kept_session_waits_for_its_commit() {
    let (bench, mut keeper) = with_a_keeper(|_| {});
    for (bytes, kind) in [
        (publish("kept/not", "m").qos(2, 9).bytes(V5), PUBREC),
        (pubrel(9).bytes(), PUBCOMP),
        (subscribe(V5, 10, &[], &[Filter::new("more", 1)]), SUBACK),
        (unsubscribe(V5, 11, &["more"]), UNSUBACK),
    ] {
        keeper.send(&bytes);
        bench.others_go_on();
        assert!(!keeper.has_input(), "{kind:#04x} waits");
        bench.gate.commit();
        keeper.read().must_be(kind);
    }
    // Retained messages are kept, whoever publishes them.
    let mut publisher = bench.open_clean("publisher");
    publisher.send(&publish("retained", "m").qos(1, 1).retain().bytes(V5));
    bench.others_go_on();
    assert!(!publisher.has_input());
    bench.gate.commit();
    assert_eq!(publisher.read().ack(PUBACK).0, 1);
}

#[test]
fn what_waits_for_the_store_counts_once_against_the_receive_maximum() {
    for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
        let (bench, _keeper) = with_a_keeper(|config| config.session.receive_maximum = 10);
        let mut publisher = bench.open_clean("publisher");
        publisher.send(&publish("kept", "m").qos(qos, 1).bytes(V5));
        // Other answers that wait are no messages.
        (0..20).for_each(|_| publisher.send(&pingreq()));
        for id in 2..=10 {
            publisher.send(&publish("kept", "m").qos(qos, id).bytes(V5));
        }
        bench.others_go_on();
        assert!(!publisher.has_input(), "ten may be in flight");
        bench.gate.commit();
        assert_eq!(publisher.read().ack(kind).0, 1);
        (0..20).for_each(|_| publisher.read().must_be(PINGRESP));
        (2..=10).for_each(|id| assert_eq!(publisher.read().ack(kind).0, id));

        let mut greedy = bench.open_clean("greedy");
        // What comes in one read with it would be acknowledged with it.
        bench.appended_by(|| greedy.send(&publish("kept", "m").qos(qos, 1).bytes(V5)));
        for id in 2..=11 {
            greedy.send(&publish("kept", "m").qos(qos, id).bytes(V5));
        }
        assert_eq!(greedy.read().reason(DISCONNECT).0, 0x93, "eleven are one too many");
    }
}

#[test]
fn a_client_that_goes_on_while_the_store_stands_still_is_read_no_more() {
    let (bench, _keeper) = with_a_keeper(|_| {});
    let mut flooding = bench.open_clean("flooding");
    flooding.send(&publish("kept", "m").qos(1, 1).bytes(V5));
    flooding.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let pings = pingreq().repeat(4_096);
    let mut sent = 0;
    while sent < 24 * 1024 * 1024 {
        match flooding.stream.write(&pings[sent % 2..]) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    assert!(sent < 24 * 1024 * 1024, "its answers pile up without bound");
    bench.others_go_on();
    bench.gate.commit();
    assert_eq!(flooding.read().ack(PUBACK).0, 1);
    for _ in 0..sent / 2 {
        flooding.read().must_be(PINGRESP);
    }
    flooding.send(if sent % 2 == 1 { &[0, 0xC0, 0] } else { &[0xC0, 0] });
    flooding.read().must_be(PINGRESP);
}
