//! Real files and threads, in a directory of the test's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use fulmar::codec::{PacketId, QoS};
use fulmar::config::Durability;
use fulmar::message::Publisher;
use fulmar::store::disk::{DiskStore, Options};
use fulmar::store::{
    CommitSeq, Condition, Fetch, Identifiers, MessageImage, OpenError, Owner, Record, Records, Recovered,
    RetainedSlot, Row, RowSeq, RowState, SessionImage, Store, Timebase, Transaction,
};

/// A directory that goes with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fulmar-store-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub fn open(&self, durability: Durability, options: Options) -> (Arc<DiskStore>, Recovered) {
        DiskStore::open(&self.0, durability, options, Timebase::now()).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn small() -> Options {
    Options { segment_bytes: 256 << 10, slack: 512 << 10, ..Options::default() }
}

/// Wakes by a channel.
struct Bell(std::sync::mpsc::Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

fn bell() -> (Waker, Receiver<()>) {
    let (sender, receiver) = channel();
    (Waker::from(Arc::new(Bell(sender))), receiver)
}

pub fn wait(store: &dyn Store, sequence: CommitSeq) {
    let (waker, rings) = bell();
    while store.committed() < sequence {
        store.wake_when_committed(sequence, &waker);
        rings.recv_timeout(Duration::from_secs(30)).expect("a commit within 30 seconds");
    }
}

pub fn session(owner: Owner, client_id: &str) -> Records {
    let mut records = Records::default();
    let image =
        SessionImage { owner, client_id, user: None, user_groups: vec![], expiry: None, expires_at: None };
    records.push(&Record::Session(image));
    records
}

pub fn message(payload: &[u8]) -> MessageImage<'_> {
    MessageImage {
        topic: "a/b",
        properties: &[],
        payload,
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        publisher: Publisher(7),
    }
}

fn row(owner: Owner, seq: u64) -> Record<'static> {
    Record::Row(Row {
        owner,
        seq: RowSeq(seq),
        state: RowState::Waiting,
        qos: QoS::AtLeastOnce,
        retain: false,
        identifiers: Identifiers::Numbers(&[3, 300]),
    })
}

pub fn push_rows(records: &mut Records, owners: &[Owner], seq: u64, payload: &[u8]) {
    records.push(&Record::Message(message(payload)));
    owners.iter().for_each(|owner| records.push(&row(*owner, seq)));
}

/// Payloads of rows, `None` for those that cannot be had.
pub fn fetch(store: &DiskStore, owner: Owner, rows: impl IntoIterator<Item = u64>) -> Vec<Option<Vec<u8>>> {
    let (waker, rings) = bell();
    let fetch = Fetch::new(owner, rows.into_iter().map(RowSeq).collect(), waker.clone());
    store.fetch(fetch.clone());
    loop {
        if let Some(answer) = fetch.take(&waker) {
            return answer
                .into_iter()
                .map(|fetched| fetched.content.map(|content| content.message.payload().to_vec()))
                .collect();
        }
        rings.recv_timeout(Duration::from_secs(30)).expect("an answer within 30 seconds");
    }
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    for durability in [Durability::Sync, Durability::Os] {
        let directory = Directory::new(&format!("restart-{durability:?}"));
        let (store, recovered) = directory.open(durability, Options::default());
        assert!(recovered.sessions.is_empty() && recovered.next_owner == 1);
        let secret = store.secret();
        let (one, two) = (Owner(1), Owner(2));
        store.append(&session(one, "one"));
        store.append(&session(two, "two"));
        let mut records = Records::default();
        for seq in 1..=100 {
            push_rows(&mut records, &[one, two], seq, &[seq as u8; 100]);
        }
        records.push(&Record::Kept { slot: RetainedSlot(5), message: message(b"kept") });
        wait(&*store, store.append(&records));
        let mut records = Records::default();
        (1..=50).for_each(|seq| records.push_done(one, RowSeq(seq)));
        records.push_sent(one, RowSeq(51), PacketId::new(9).unwrap());
        wait(&*store, store.append(&records));
        assert_eq!(fetch(&store, one, [50, 51])[0], None);
        drop(store);

        let (store, recovered) = directory.open(durability, Options::default());
        assert_eq!(store.secret(), secret);
        assert_eq!(recovered.next_owner, 3);
        let [first, second] = &recovered.sessions[..] else { panic!("{recovered:?}") };
        assert_eq!((&*first.client_id, first.rows.len(), first.next_row), ("one", 50, RowSeq(101)));
        assert_eq!(first.rows[0].state, RowState::Sent(PacketId::new(9).unwrap()));
        assert_eq!((&*second.client_id, second.rows.len()), ("two", 100));
        assert_eq!(recovered.retained[0].0, RetainedSlot(5));
        assert_eq!(recovered.retained[0].1.payload(), b"kept");
        let read = fetch(&store, two, 1..=101);
        for (seq, payload) in (1..=100).zip(&read) {
            assert_eq!(payload.as_deref(), Some(&[seq as u8; 100][..]));
        }
        assert_eq!(read[100], None);
    }
}

#[test]
fn threads_that_append_at_once_lose_nothing() {
    const THREADS: u64 = 4;
    const EACH: u64 = 3_000;
    for durability in [Durability::Sync, Durability::Os] {
        let directory = Directory::new(&format!("threads-{durability:?}"));
        let (store, _) = directory.open(durability, small());
        let threads: Vec<_> = (1..=THREADS)
            .map(|number| {
                let store = store.clone();
                std::thread::spawn(move || {
                    let owner = Owner(number);
                    let store: Arc<dyn Store> = store;
                    store.append(&session(owner, &format!("client {number}")));
                    let mut last = CommitSeq::default();
                    for seq in 1..=EACH {
                        let transaction = Transaction::begin(&store);
                        let mut records = Records::default();
                        // Three of four are finished, some of them before they are written.
                        if seq % 4 != 0 {
                            let mut done = Records::default();
                            done.push_done(owner, RowSeq(seq));
                            store.append(&done);
                        }
                        push_rows(&mut records, &[owner], seq, &seq.to_le_bytes());
                        last = transaction.sequence();
                        transaction.finish(&records);
                        if seq % 100 == 0 {
                            wait(&*store, last);
                        }
                    }
                    wait(&*store, last);
                    store.append(&Records::default())
                })
            })
            .collect();
        for thread in threads {
            wait(&*store, thread.join().unwrap());
        }
        assert_eq!(store.condition(), Condition::Well);
        let statistics = store.statistics();
        assert!(statistics.failures == 0 && statistics.waiting_bytes == 0, "{statistics:?}");
        store.close();
        drop(store);
        let (store, recovered) = directory.open(durability, small());
        assert_eq!(recovered.sessions.len() as u64, THREADS);
        for session in &recovered.sessions {
            let rows: Vec<_> = session.rows.iter().map(|row| row.seq.0).collect();
            let expected: Vec<_> = (1..=EACH).filter(|seq| seq % 4 == 0).collect();
            assert_eq!(rows, expected);
            let read = fetch(&store, session.owner, rows.iter().copied());
            assert!(rows.iter().zip(read).all(|(seq, payload)| payload == Some(seq.to_le_bytes().to_vec())));
        }
    }
}

#[test]
fn space_comes_back_while_it_runs() {
    for durability in [Durability::Sync, Durability::Os] {
        let directory = Directory::new(&format!("space-{durability:?}"));
        let options = Options { sync_interval: Duration::from_millis(20), ..small() };
        let (store, _) = directory.open(durability, options);
        let (old, busy) = (Owner(1), Owner(2));
        store.append(&session(old, "old"));
        store.append(&session(busy, "busy"));
        let mut records = Records::default();
        push_rows(&mut records, &[old], 1, b"from the beginning");
        store.append(&records);
        let mut last = CommitSeq::default();
        for seq in 1..=20_000 {
            let mut records = Records::default();
            push_rows(&mut records, &[busy], seq, &[0; 1000]);
            last = store.append(&records);
            if seq % 50 == 0 {
                wait(&*store, last);
            }
            if seq > 200 {
                let mut done = Records::default();
                done.push_done(busy, RowSeq(seq - 200));
                last = store.append(&done);
            }
        }
        wait(&*store, last);
        let until = Instant::now() + Duration::from_secs(20);
        while store.statistics().total_bytes > 2 << 20 {
            assert!(Instant::now() < until, "{:?}", store.statistics());
            wait(&*store, store.append(&session(old, "old")));
        }
        assert_eq!(fetch(&store, old, [1]), [Some(b"from the beginning".to_vec())]);
        drop(store);
        let (_store, recovered) = directory.open(durability, small());
        assert_eq!(recovered.sessions[0].rows.len(), 1);
        let rows: Vec<_> = recovered.sessions[1].rows.iter().map(|row| row.seq.0).collect();
        assert_eq!(rows, (19_801..=20_000).collect::<Vec<_>>(), "{durability:?}");
    }
}

#[test]
fn a_fetch_waits_for_what_is_not_written_yet() {
    let directory = Directory::new("fetch");
    let (store, _) = directory.open(Durability::Os, Options::default());
    let owner = Owner(1);
    wait(&*store, store.append(&session(owner, "one")));
    let shared: Arc<dyn Store> = store.clone();
    let open = Transaction::begin(&shared);
    let mut records = Records::default();
    let (waker, rings) = bell();
    let fetch = Fetch::new(owner, vec![RowSeq(1)], waker.clone());
    store.fetch(fetch.clone());
    push_rows(&mut records, &[owner], 1, b"late");
    assert!(fetch.take(&waker).is_none(), "it answered before the row was written");
    open.finish(&records);
    rings.recv_timeout(Duration::from_secs(30)).unwrap();
    let answer = fetch.take(&waker).unwrap();
    let content = answer[0].content.as_ref().unwrap();
    assert_eq!(content.message.payload(), b"late");
    assert_eq!(content.identifiers.as_deref(), Some(&[3, 300][..]));
}

#[test]
fn a_message_larger_than_a_segment_is_kept() {
    let directory = Directory::new("large");
    let (store, _) = directory.open(Durability::Sync, small());
    let owner = Owner(1);
    store.append(&session(owner, "one"));
    let payload: Vec<u8> = (0..3 << 20).map(|byte: u32| byte as u8).collect();
    let mut records = Records::default();
    push_rows(&mut records, &[owner], 1, &payload);
    wait(&*store, store.append(&records));
    drop(store);
    let (store, recovered) = directory.open(Durability::Sync, small());
    assert_eq!(recovered.sessions[0].rows.len(), 1);
    assert!(fetch(&store, owner, [1])[0].as_ref() == Some(&payload));
}

#[test]
fn a_directory_has_one_broker() {
    let directory = Directory::new("lock");
    let (_store, _) = directory.open(Durability::Os, small());
    let second = DiskStore::open(&directory.0, Durability::Os, small(), Timebase::now());
    let Err(OpenError::InUse { process, .. }) = second else { panic!("{second:?}") };
    assert_eq!(process, Some(std::process::id()));
}

#[test]
fn what_is_no_directory_is_refused_with_what_to_do() {
    let directory = Directory::new("file");
    std::fs::write(&directory.0, b"").unwrap();
    let open = |path: &std::path::Path| {
        DiskStore::open(path, Durability::Os, small(), Timebase::now()).unwrap_err().to_string()
    };
    assert!(open(&directory.0).contains("is no directory; move it away"));
    let below = open(&directory.0.join("below"));
    assert!(below.contains("is no directory") || below.contains("mkdir -p"), "{below}");
    std::fs::remove_file(&directory.0).unwrap();
}
