//! What a commit costs, how fast a store starts, and what its index takes in memory.
//!
//! `cargo bench --bench store` prints three tables; `cargo bench --bench store -- commits` only the first, `reclaim` and
//! `start` the others. Files go to the directory for temporary files, or to `FULMAR_BENCH_DIRECTORY`; what a sync costs is
//! that disk's. CPU time is that of the whole process, waiting included.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use fulmar::codec::QoS;
use fulmar::config::Durability;
use fulmar::message::Publisher;
use fulmar::store::disk::{DiskStore, Options};
use fulmar::store::{
    CommitSeq, Identifiers, MessageImage, Owner, Record, Records, RetainedSlot, Row, RowSeq, RowState,
    SessionImage, Store, Timebase,
};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if is_wanted("commits") {
        commits();
    }
    if is_wanted("reclaim") {
        reclaim();
    }
    if is_wanted("start") {
        start();
    }
}

/// Messages of 100 to 300 bytes with one row each, done two groups later; every group is waited for.
fn commits() {
    println!("mode  group  messages/s  CPU us/message  bytes/message  syncs/s");
    for durability in [Durability::Os, Durability::Sync] {
        for group in [1, 16, 256] {
            let directory = Directory::new("commits");
            let (store, _) = open(&directory, durability);
            let owner = Owner(1);
            wait(&store, store.append(&session(owner)));
            let (begin, cpu) = (Instant::now(), cpu_time());
            let mut seq = 0;
            let mut records = Records::default();
            while begin.elapsed() < Duration::from_secs(3) {
                let mut last = CommitSeq::default();
                for _ in 0..group {
                    seq += 1;
                    records.clear();
                    push_row(&mut records, owner, seq, 100 + (seq * 37 % 200) as usize);
                    if let Some(done) = seq.checked_sub(2 * group).filter(|done| *done > 0) {
                        records.push_done(owner, RowSeq(done));
                    }
                    last = store.append(&records);
                }
                wait(&store, last);
            }
            let seconds = begin.elapsed().as_secs_f64();
            let statistics = store.statistics();
            println!(
                "{:<5} {group:>5}  {:>10.0}  {:>14.2}  {:>13}  {:>7.0}",
                format!("{durability:?}").to_lowercase(),
                seq as f64 / seconds,
                (cpu_time() - cpu).as_secs_f64() * 1e6 / seq as f64,
                statistics.written_bytes / seq,
                statistics.syncs as f64 / seconds,
            );
        }
    }
}

/// A steady stream through rows that live for a while, on top of many that stay: how long the slowest commit takes.
fn reclaim() {
    const STAY: u64 = 1_000_000;
    println!(
        "\nmode  messages/s  p50 ms  p99 ms  max ms  CPU us/message  bytes/message  live MiB  total MiB"
    );
    for durability in [Durability::Os, Durability::Sync] {
        let directory = Directory::new("reclaim");
        let (store, _) = open(&directory, durability);
        let (busy, mut random) = (Owner(1), 1_u64);
        store.append(&session(busy));
        for number in 0..1_000 {
            store.append(&session(Owner(2 + number)));
        }
        let mut records = Records::default();
        for row in 0..STAY {
            records.clear();
            push_row(&mut records, Owner(2 + row % 1_000), 1 + row / 1_000, 200);
            pace(&store, store.append(&records), row);
        }
        let (begin, cpu, before) = (Instant::now(), cpu_time(), store.statistics());
        let (mut times, mut seq) = (Vec::new(), 0);
        while begin.elapsed() < Duration::from_secs(10) {
            let mut last = CommitSeq::default();
            let from = Instant::now();
            for _ in 0..64 {
                seq += 1;
                records.clear();
                push_row(&mut records, busy, seq, 200);
                // Most are done soon, some late.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let ago = if random >> 60 == 0 { 50_000 } else { 500 };
                if let Some(done) = seq.checked_sub(ago).filter(|done| *done > 0) {
                    records.push_done(busy, RowSeq(done));
                }
                last = store.append(&records);
            }
            wait(&store, last);
            times.push(from.elapsed());
        }
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let after = store.statistics();
        println!(
            "{:<5} {:>10.0}  {:>6.2}  {:>6.2}  {:>6.2}  {:>14.2}  {:>13}  {:>8}  {:>9}",
            format!("{durability:?}").to_lowercase(),
            seq as f64 / begin.elapsed().as_secs_f64(),
            at(50),
            at(99),
            at(100),
            (cpu_time() - cpu).as_secs_f64() * 1e6 / seq as f64,
            (after.written_bytes - before.written_bytes) / seq,
            after.live_bytes >> 20,
            after.total_bytes >> 20,
        );
    }
}

/// Many sessions, retained messages and queued rows: how long a start takes, and how much memory.
fn start() {
    println!(
        "\nsessions  retained  rows      start s  CPU s  MiB after  MiB at most  index bytes/row  disk MiB"
    );
    for (sessions, retained, rows) in
        [(100_000, 1_000_000, 2_000_000), (1, 0, 10_000_000), (1_000, 0, 10_000_000)]
    {
        let directory = Directory::new("start");
        let growth = {
            let (store, _) = open(&directory, Durability::Os);
            let mut records = Records::default();
            for number in 1..=sessions {
                pace(&store, store.append(&session(Owner(number))), number);
            }
            for slot in 0..retained {
                records.clear();
                let topic = format!("site/{}/device/{slot}", slot / 100);
                let message = MessageImage { topic: &topic, ..message(&[7; 20]) };
                records.push(&Record::Kept { slot: RetainedSlot(slot as u32), message });
                pace(&store, store.append(&records), slot);
            }
            let before = memory("VmRSS");
            for row in 0..rows {
                records.clear();
                push_row(&mut records, Owner(1 + row % sessions), 1 + row / sessions, 200);
                pace(&store, store.append(&records), row);
            }
            wait(&store, store.appended());
            memory("VmRSS").saturating_sub(before)
        };
        let (begin, cpu) = (Instant::now(), cpu_time());
        let (store, recovered) = open(&directory, Durability::Os);
        let (seconds, cpu) = (begin.elapsed().as_secs_f64(), (cpu_time() - cpu).as_secs_f64());
        let found: usize = recovered.sessions.iter().map(|session| session.rows.len()).sum();
        assert_eq!(found as u64, rows);
        let at_most = memory("VmHWM");
        drop(recovered);
        println!(
            "{sessions:>8}  {retained:>8}  {rows:>8}  {seconds:>7.2}  {cpu:>5.2}  {:>9}  {at_most:>11}  {:>15}  {:>8}",
            memory("VmRSS"),
            (growth << 20) / rows,
            store.statistics().total_bytes >> 20,
        );
    }
}

/// In MiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) >> 10
}

/// User and system time of the process, in ticks of ten milliseconds.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Keeps what waits within bounds.
fn pace(store: &DiskStore, sequence: CommitSeq, number: u64) {
    if number.is_multiple_of(4_096) {
        wait(store, sequence);
    }
}

fn open(directory: &Directory, durability: Durability) -> (Arc<DiskStore>, fulmar::store::Recovered) {
    DiskStore::open(&directory.0, durability, Options::default(), Timebase::now()).unwrap()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait(store: &DiskStore, sequence: CommitSeq) {
    if store.committed() >= sequence {
        return;
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    store.wake_when_committed(sequence, &waker);
    while store.committed() < sequence {
        std::thread::park();
    }
}

fn session(owner: Owner) -> Records {
    let client_id = format!("client-{}", owner.0);
    let mut records = Records::default();
    records.push(&Record::Session(SessionImage {
        owner,
        client_id: &client_id,
        user: None,
        user_groups: vec![],
        expiry: None,
        expires_at: None,
    }));
    records
}

fn message(payload: &[u8]) -> MessageImage<'_> {
    MessageImage {
        topic: "site/1/device/1/state",
        properties: &[],
        payload,
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        publisher: Publisher(1),
    }
}

fn push_row(records: &mut Records, owner: Owner, seq: u64, length: usize) {
    records.push(&Record::Message(message(&[5; 300][..length])));
    records.push(&Record::Row(Row {
        owner,
        seq: RowSeq(seq),
        state: RowState::Waiting,
        qos: QoS::AtLeastOnce,
        retain: false,
        identifiers: Identifiers::Numbers(&[]),
    }));
}

/// A directory that goes again.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let root = std::env::var_os("FULMAR_BENCH_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = root.join(format!("fulmar-bench-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
