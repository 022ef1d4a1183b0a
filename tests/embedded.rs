//! Brokers that are started and stopped at will: inside this process, and as the binary by SIGTERM.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/mod.rs"]
mod support;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fulmar::config::{Config, Engine, Listener};
use fulmar::server::{Running, start};
use support::{Broker, Connect, DISCONNECT, RawClient, V3_1_1, V5, connect, publish};

/// A broker on a free port of this process.
async fn embedded(shutdown_timeout: Duration) -> Running {
    let listener = Listener::tcp("embedded", SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut config = Config { listeners: vec![listener], ..Config::default() };
    config.store.engine = Engine::Memory;
    config.server.shutdown_timeout = shutdown_timeout;
    start(config).await.unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn open(connect: &Connect, address: SocketAddr) -> RawClient {
    let mut client = RawClient::open_at(address, connect.version);
    client.send(&connect.bytes());
    assert_eq!(client.read().connack().reason, 0);
    client
}

#[test]
fn two_brokers_in_one_process_know_nothing_of_each_other_and_stop_at_will() {
    let runtime = runtime();
    let first = runtime.block_on(embedded(Duration::from_secs(5)));
    let second = runtime.block_on(embedded(Duration::from_secs(5)));
    let (here, there) = (first.addresses()[0], second.addresses()[0]);
    assert_ne!(here, there);
    let mut one = open(&connect(V5).client_id("same"), here);
    let mut other = open(&connect(V5).client_id("same"), there);
    one.subscribe("t", 1);
    other.subscribe("t", 1);
    one.publish(&publish("t", "here").qos(1, 1));
    assert_eq!(one.receive().text(), "here");
    other.expect_nothing();

    let begun = Instant::now();
    runtime.block_on(first.stop());
    assert!(begun.elapsed() < Duration::from_secs(3), "a client that reads is no reason to wait");
    assert_eq!(one.read().reason(DISCONNECT).0, 0x8B);
    one.expect_closed();
    assert!(TcpStream::connect(here).is_err(), "nobody listens there any more");

    other.publish(&publish("t", "there").qos(1, 1));
    assert_eq!(other.receive().text(), "there", "the other one goes on");
    runtime.block_on(second.stop());
    assert_eq!(other.read().reason(DISCONNECT).0, 0x8B);
}

#[test]
fn a_broker_can_be_started_again_where_another_was_stopped() {
    let runtime = runtime();
    let first = runtime.block_on(embedded(Duration::from_secs(5)));
    let address = first.addresses()[0];
    let client = open(&connect(V5).client_id("c"), address);
    runtime.block_on(first.stop());
    drop(client);
    let mut config = Config { listeners: vec![Listener::tcp("again", address)], ..Config::default() };
    config.store.engine = Engine::Memory;
    let again = runtime.block_on(start(config)).unwrap();
    open(&connect(V5).client_id("c"), address).ping();
    assert_eq!(again.addresses(), [address]);
    runtime.block_on(again.stop());
}

#[test]
fn a_connection_without_connect_does_not_hold_up_the_stop() {
    let runtime = runtime();
    let broker = runtime.block_on(embedded(Duration::from_secs(30)));
    let address = broker.addresses()[0];
    let mut silent = RawClient::open_at(address, V5);
    // Known to the broker once another that came later is served.
    open(&connect(V5).client_id("later"), address).disconnect();
    let begun = Instant::now();
    runtime.block_on(broker.stop());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    silent.expect_closed();
}

#[test]
fn sigterm_says_goodbye_writes_what_is_left_and_ends_with_0() {
    let mut broker = Broker::start();
    let mut modern = connect(V5).client_id("modern").open(&broker);
    let mut older = connect(V3_1_1).client_id("older").open(&broker);
    // Two that read only after the signal: what was sent to them before is written, and comes first.
    modern.subscribe("t", 0);
    older.subscribe("t", 0);
    let mut publisher = connect(V5).client_id("publisher").open(&broker);
    for number in 0..200 {
        publisher.send(&publish("t", format!("{number:10000}")).bytes(V5));
    }
    publisher.ping();
    broker.signal("TERM");
    for client in [&mut modern, &mut older] {
        for number in 0..200 {
            assert_eq!(client.read_publish().text().trim(), number.to_string());
        }
    }
    assert_eq!(modern.read().reason(DISCONNECT).0, 0x8B);
    modern.expect_closed();
    older.expect_closed();
    assert_eq!(publisher.read().reason(DISCONNECT).0, 0x8B);
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn sigterm_does_not_wait_for_a_client_that_reads_nothing_longer_than_it_may() {
    let mut broker = Broker::with_config("[server]\nshutdown_timeout = \"1s\"\n");
    let mut stubborn = connect(V5).client_id("stubborn").open(&broker);
    stubborn.subscribe("t", 0);
    let mut publisher = connect(V5).client_id("publisher").open(&broker);
    // More than the sockets between them hold.
    for _ in 0..16 {
        publisher.send(&publish("t", vec![b'x'; 1024 * 1024]).bytes(V5));
    }
    publisher.ping();
    let begun = Instant::now();
    broker.signal("TERM");
    assert_eq!(publisher.read().reason(DISCONNECT).0, 0x8B, "the others go at once");
    let status = broker.wait();
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    drop(stubborn);
}
