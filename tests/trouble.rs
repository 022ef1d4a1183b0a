//! A disk that is full: a real broker on a small file system of its own, a tmpfs in a mount namespace of the broker's, made by
//! `unshare` from util-linux.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Connect, PUBACK, RawClient, V3_1_1, V5, connect, puback, publish, unique};

/// Three files of the store, and not a fourth.
const SIZE: &str = "115m";

/// What makes the file system in its namespace, and is the broker then.
const SCRIPT: &str = r#"mount -t tmpfs -o size="$2" tmpfs "$1" && shift 2 && exec "$@""#;

struct Broker {
    process: Child,
    directory: PathBuf,
    address: SocketAddr,
}

impl Broker {
    fn start() -> Self {
        let directory = std::env::temp_dir().join(unique("fulmar-trouble"));
        fs::create_dir_all(&directory).unwrap();
        let log = fs::File::create(directory.with_extension("log")).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"])
            .arg(&directory)
            .args([SIZE, env!("CARGO_BIN_EXE_fulmar"), "run", "--durability", "os"])
            .args(["--port", &address.port().to_string()])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare, of util-linux");
        let broker = Self { process, directory, address };
        broker.wait_for_log("listening");
        broker
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.with_extension("log")).unwrap_or_default()
    }

    #[track_caller]
    fn wait_for_log(&self, words: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.log().contains(words) {
            assert!(Instant::now() < until, "{words:?} is not in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn open(&self, connect: &Connect) -> RawClient {
        let mut client = RawClient::open_at(self.address, connect.version);
        client.send(&connect.bytes());
        assert_eq!(client.read().connack().reason, 0);
        client
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
        let _ = fs::remove_file(self.directory.with_extension("log"));
    }
}

#[test]
fn a_full_disk_costs_nothing_that_was_acknowledged_and_is_no_end() {
    let broker = Broker::start();
    let keeper = connect(V5).client_id("keeper").persistent();
    let mut subscriber = broker.open(&keeper);
    subscriber.subscribe("kept", 1);
    subscriber.cut();
    let mut passing = broker.open(&connect(V5).client_id("passing"));
    passing.subscribe("passing", 1);

    // Until it is full: what waits for the keeper takes all there is.
    let mut publisher = broker.open(&connect(V5).client_id("publisher"));
    let payload = "x".repeat(256 * 1024);
    let mut sent = 0;
    let is_full = |broker: &Broker| broker.log().contains("the store cannot write");
    publisher.set_patience(Duration::from_millis(100));
    'full: while sent < 2_000 {
        sent += 1;
        publisher.send(&publish("kept", format!("{sent}:{payload}")).qos(1, sent).bytes(V5));
        while !publisher.has_input() {
            if is_full(&broker) {
                break 'full;
            }
        }
        assert_eq!(publisher.read().ack(PUBACK).1, 0);
    }
    assert!((100..2_000).contains(&sent), "{sent} messages of 256 KiB until {SIZE} are full");
    // The last one waits; who comes now is refused.
    let mut refused = broker.open(&connect(V5).client_id("refused"));
    refused.send(&publish("kept", "refused").qos(1, 1).bytes(V5));
    assert_eq!(refused.read().ack(PUBACK).1, 0x97);

    // A 3.1.1 client hears nothing; its message was not taken.
    let mut older = broker.open(&connect(V3_1_1).client_id("older"));
    older.send(&publish("kept", "older").qos(1, 7).bytes(V3_1_1));
    older.ping();
    // Nor has one that it sends again been taken, even if both are read at once.
    let message = publish("kept", "older").qos(2, 8);
    older.send(&[message.bytes(V3_1_1), message.dup().bytes(V3_1_1)].concat());
    older.ping();
    // What must not last goes on.
    refused.send(&publish("passing", "on").qos(1, 2).bytes(V5));
    assert_eq!(refused.read().ack(PUBACK).1, 0);
    let on = passing.read_publish();
    assert_eq!(on.text(), "on");
    passing.send(&puback(on.packet_id).bytes());

    // The keeper comes and takes what waits: there is room again, and the store goes on by itself.
    let mut subscriber = broker.open(&keeper.clean(false));
    for number in 1..=sent {
        let message = subscriber.read_publish();
        assert_eq!(message.text().split(':').next(), Some(&*number.to_string()), "in order, and all of them");
        subscriber.send(&puback(message.packet_id).bytes());
    }
    broker.wait_for_log("the store writes again");
    publisher.set_patience(Duration::from_secs(20));
    assert_eq!(publisher.read().ack(PUBACK).1, 0, "what waited was committed");
    refused.send(&publish("kept", "again").qos(1, 3).bytes(V5));
    assert_eq!(refused.read().ack(PUBACK).1, 0);
    assert_eq!(subscriber.read_publish().text(), "again");
}
