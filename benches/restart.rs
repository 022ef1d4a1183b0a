//! How long a broker takes to start with a full store, and how much memory it has then.
//!
//! `cargo bench --bench restart` makes a store with 100,000 sessions, 1,000,000 retained messages and 2,000,000 that wait,
//! kills nothing and times the start until the first listener accepts; FULMAR_SESSIONS, FULMAR_RETAINED and FULMAR_QUEUED
//! choose other numbers. The store is in the folder for temporary files, and removed in the end.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on must end")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use fulmar::codec::{QoS, SubscriptionOptions};
use fulmar::config::{Config, Durability, Listener};
use fulmar::message::Publisher;
use fulmar::store::disk::{DiskStore, Options};
use fulmar::store::{
    Identifiers, MessageImage, Owner, Record, Records, RetainedSlot, Row, RowSeq, RowState, SessionImage,
    Store, Timebase,
};

fn main() {
    // `cargo bench` passes flags that mean nothing here.
    let number =
        |name: &str, default: u64| std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
    let sessions = number("FULMAR_SESSIONS", 100_000);
    let retained = number("FULMAR_RETAINED", 1_000_000);
    let queued = number("FULMAR_QUEUED", 2_000_000);
    let directory = std::env::temp_dir().join(format!("fulmar-restart-{}", std::process::id()));
    let begun = Instant::now();
    fill(&directory, sessions, retained, queued);
    println!("{sessions} sessions, {retained} retained, {queued} queued: written in {:.1?}", begun.elapsed());
    let size: u64 =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let before = resident();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    let listener = Listener::tcp("restart", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let mut config = Config { listeners: vec![listener], ..Config::default() };
    config.store.directory = directory.clone();
    config.store.durability = Durability::Os;
    let running = runtime.block_on(fulmar::server::start(config)).unwrap();
    let took = begun.elapsed();
    std::net::TcpStream::connect(running.addresses()[0]).unwrap();
    println!(
        "accepts after {took:.2?}; {} sessions; {} MiB on disk; {} MiB of memory more than before",
        running.broker().sessions(),
        size >> 20,
        (resident() - before) >> 20
    );
    runtime.block_on(running.stop());
    std::fs::remove_dir_all(&directory).unwrap();
}

fn fill(directory: &Path, sessions: u64, retained: u64, queued: u64) {
    let (store, _) = DiskStore::open(directory, Durability::Os, Options::default(), Timebase::now()).unwrap();
    let mut records = Records::default();
    let append = |records: &mut Records| {
        if records.as_bytes().len() > 256 * 1024 {
            flush(&*store, records);
        }
    };
    for number in 1..=sessions {
        let (owner, client_id) = (Owner(number), format!("client-{number}"));
        records.push(&Record::Session(SessionImage {
            owner,
            client_id: &client_id,
            user: None,
            user_groups: Vec::new(),
            expiry: None,
            expires_at: None,
        }));
        let filter = format!("client/{number}/+");
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
        records.push(&Record::Subscribed { owner, filter: &filter, options, identifier: 0 });
        append(&mut records);
    }
    for slot in 0..retained {
        let topic = format!("retained/{}/{}", slot % 1000, slot / 1000);
        records.push(&Record::Kept { slot: RetainedSlot(slot as u32), message: message(&topic) });
        append(&mut records);
    }
    for number in 0..queued {
        let topic = format!("client/{}/x", number % sessions + 1);
        records.push(&Record::Message(message(&topic)));
        records.push(&Record::Row(Row {
            owner: Owner(number % sessions + 1),
            seq: RowSeq(number / sessions + 1),
            state: RowState::Waiting,
            qos: QoS::AtLeastOnce,
            retain: false,
            identifiers: Identifiers::Numbers(&[]),
        }));
        append(&mut records);
    }
    flush(&*store, &mut records);
    store.close();
}

/// A message of 100 bytes.
fn message(topic: &str) -> MessageImage<'_> {
    MessageImage {
        topic,
        properties: &[],
        payload: &[b'.'; 100],
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        publisher: Publisher(1),
    }
}

fn flush(store: &dyn Store, records: &mut Records) {
    let sequence = store.append(records);
    records.clear();
    while store.committed() < sequence {
        std::thread::yield_now();
    }
}

/// Bytes of memory this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap() * 4096
}
