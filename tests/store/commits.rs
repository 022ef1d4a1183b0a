//! Group commit, step by step: what is written, when it counts as committed, and who hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use fulmar::store::disk::{Options, Step, SteppedStore};
use fulmar::store::{Condition, Fetch, Owner, Records, RowSeq, Store, Timebase};

use crate::real::{push_rows, session};
use crate::sim::{Fault, Plan, Sim};

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn open() -> (Sim, SteppedStore) {
    let sim = Sim::new(1);
    let files = Arc::new(sim.clone());
    let (store, _) = SteppedStore::open(files, true, Options::default(), Timebase::now()).unwrap();
    store.help(false);
    store.append(&session(Owner(1), "one"));
    settle(&store);
    (sim, store)
}

fn settle(store: &SteppedStore) {
    while store.step() != Step::Idle {}
}

fn rows(from: u64, to: u64, length: usize) -> Records {
    let mut records = Records::default();
    (from..=to).for_each(|seq| push_rows(&mut records, &[Owner(1)], seq, &vec![1; length]));
    records
}

fn done(from: u64, to: u64) -> Records {
    let mut records = Records::default();
    (from..=to).for_each(|seq| records.push_done(Owner(1), RowSeq(seq)));
    records
}

#[test]
fn nothing_appended_is_committed_at_once_and_touches_no_disk() {
    let (sim, store) = open();
    let operations = sim.operations();
    let sequence = store.append(&Records::default());
    assert_eq!(store.committed(), sequence);
    assert_eq!(sim.operations(), operations);
}

#[test]
fn an_open_sequence_holds_back_what_is_written_after_it() {
    let (sim, store) = open();
    let open = store.begin();
    let later = store.append(&rows(1, 1, 10));
    let count = Arc::new(Count(AtomicUsize::new(0)));
    store.wake_when_committed(later, &Waker::from(count.clone()));
    settle(&store);
    assert!(store.committed() < open);
    let operations = sim.operations();
    store.finish(open, &Records::default());
    settle(&store);
    assert_eq!(store.committed(), later);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(sim.operations(), operations, "there was nothing to be written");
}

#[test]
fn what_is_finished_before_it_is_written_is_never_written() {
    let (_, store) = open();
    let before = store.statistics().written_bytes;
    store.append(&rows(1, 100, 1_000));
    let mut records = done(1, 60);
    records.push_sent(Owner(1), RowSeq(61), fulmar::codec::PacketId::new(1).unwrap());
    store.append(&records);
    let last = store.append(&done(61, 100));
    settle(&store);
    assert_eq!(store.committed(), last);
    assert_eq!(store.statistics().written_bytes, before);
}

#[test]
fn groups_are_bounded_and_too_much_at_once_is_told() {
    let (_, store) = open();
    let before = store.statistics().groups;
    for seq in 1..=20 {
        store.append(&rows(seq, seq, 1 << 20));
    }
    assert_eq!(store.condition(), Condition::Pressed);
    for _ in 0..200 {
        store.step();
        store.help(false);
    }
    assert_eq!(store.committed(), store.appended());
    assert_eq!(store.condition(), Condition::Well);
    assert!(store.statistics().groups >= before + 20, "{:?}", store.statistics());
}

#[test]
fn a_message_that_the_disk_does_not_give_is_passed_over() {
    let (sim, store) = open();
    store.append(&rows(1, 2, 10));
    settle(&store);
    let read = || {
        let fetch = Fetch::new(Owner(1), vec![RowSeq(1), RowSeq(2)], Waker::noop().clone());
        store.fetch(fetch.clone());
        store.serve();
        let answer = fetch.take(Waker::noop()).unwrap();
        answer.iter().filter(|fetched| fetched.content.is_some()).count()
    };
    sim.plan(Some(Plan { fault: Fault::Error, at: sim.operations() + 1, lasts: 1_000 }));
    assert_eq!(read(), 0);
    assert_eq!(store.statistics().unreadable, 2);
    sim.plan(None);
    assert_eq!(read(), 2);
}
