//! What the verbs tell the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use fulmar::store::{CommitSeq, Record, Store};
use parking_lot::Mutex;

use crate::bench::{Bench, Guest, Q0, Q1};

/// Remembers the records as text.
#[derive(Debug, Default)]
struct Recorder {
    records: Mutex<Vec<String>>,
    sequence: AtomicU64,
}

impl Recorder {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.records.lock())
    }
}

impl Store for Recorder {
    fn append(&self, record: Record<'_>) -> CommitSeq {
        let text = match record {
            Record::Queued { recipients, .. } => format!("queued for {}", recipients.len()),
            Record::Session { client_id, .. } => format!("session {client_id}"),
            Record::SessionEnded { .. } => "session ended".to_owned(),
            Record::Subscribed { filter, .. } => format!("subscribed {filter}"),
            other => format!("{other:?}"),
        };
        self.records.lock().push(text);
        CommitSeq(self.sequence.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn committed(&self) -> CommitSeq {
        CommitSeq(self.sequence.load(Ordering::Relaxed))
    }

    fn wake_when_committed(&self, _: CommitSeq, waker: &Waker) {
        waker.wake_by_ref();
    }
}

fn bench() -> (Arc<Recorder>, Bench) {
    let recorder = Arc::new(Recorder::default());
    (recorder.clone(), Bench::with_store(recorder, |_| {}))
}

#[test]
fn the_store_hears_of_the_end_of_every_session_it_knows() {
    type End = fn(&Bench);
    let ends: [(&str, End); 4] = [
        ("DISCONNECT with an interval of 0", |bench| {
            bench.connect(&Guest::staying("c")).leave_with(0, bench.now);
        }),
        ("resumed with an interval of 0", |bench| {
            bench.connect(&Guest { expiry: 0, ..Guest::staying("c") }).cut(bench.now);
        }),
        ("Clean Start", |bench| {
            bench.connect(&Guest::new("c"));
        }),
        ("taken over with Clean Start", |bench| {
            bench.connect(&Guest::staying("c"));
            bench.connect(&Guest::new("c"));
        }),
    ];
    for (name, end) in ends {
        let (recorder, bench) = bench();
        bench.connect(&Guest::staying("c")).cut(bench.now);
        assert_eq!(recorder.take(), ["session c"]);
        end(&bench);
        assert_eq!(recorder.take().last().map(String::as_str), Some("session ended"), "{name}");
    }
}

#[test]
fn a_message_is_kept_for_sessions_that_stay_and_for_no_others() {
    let (recorder, bench) = bench();
    let mut staying = bench.connect(&Guest::staying("s"));
    let mut passing = bench.connect(&Guest::new("p"));
    staying.subscribe("both", Q1);
    passing.subscribe("both", Q1);
    passing.subscribe("one", Q1);
    let mut member = bench.connect(&Guest::staying("m"));
    member.subscribe("$share/g/shared", Q1);
    recorder.take();
    let sequence = bench.publish("both", "m", Q1).routed.sequence;
    assert_eq!(recorder.take(), ["queued for 1"]);
    assert_ne!(sequence, CommitSeq::default(), "the acknowledgement waits for it");
    bench.publish("shared", "m", Q1);
    recorder.take();
    // What went through a group must not stain what comes after.
    assert_eq!(bench.publish("one", "m", Q1).routed.sequence, CommitSeq::default());
    bench.publish("both", "m", Q0);
    assert!(recorder.take().is_empty(), "QoS 0 and sessions that end with their connection touch no disk");
}
