//! What the verbs tell the store.

use std::sync::Arc;

use fulmar::store::{CommitSeq, Record, RecordIter};

use crate::bench::{Bench, Guest, Q0, Q1};
use crate::twin::Twin;

/// What was appended since this was last asked, as text.
fn take(twin: &Twin) -> Vec<String> {
    let mut texts = Vec::new();
    for batch in twin.take_batches() {
        for record in RecordIter::new(&batch) {
            texts.push(match record.unwrap() {
                Record::Message(_) => continue,
                Record::Row(row) => format!("row of {}", row.owner.0),
                Record::Session(image) => format!("session {}", image.client_id),
                Record::Group(image) => format!("group {}", image.name),
                Record::Ended { .. } => "ended".to_owned(),
                Record::Subscribed { filter, .. } => format!("subscribed {filter}"),
                Record::WillEnded { .. } => continue,
                other => format!("{other:?}"),
            });
        }
    }
    texts
}

fn bench() -> (Arc<Twin>, Bench) {
    let twin = Twin::prompt();
    (twin.clone(), Bench::with_store(twin, |_| {}))
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
        let (twin, bench) = bench();
        bench.connect(&Guest::staying("c")).cut(bench.now);
        assert_eq!(take(&twin), ["session c", "session c"], "as it came, and as it left");
        end(&bench);
        assert_eq!(take(&twin).last().map(String::as_str), Some("ended"), "{name}");
    }
}

#[test]
fn a_message_is_kept_for_sessions_that_stay_and_for_no_others() {
    let (twin, bench) = bench();
    let mut staying = bench.connect(&Guest::staying("s"));
    let mut passing = bench.connect(&Guest::new("p"));
    staying.subscribe("both", Q1);
    passing.subscribe("both", Q1);
    passing.subscribe("one", Q1);
    let mut member = bench.connect(&Guest::staying("m"));
    member.subscribe("$share/g/shared", Q1);
    take(&twin);
    let sequence = bench.publish("both", "m", Q1).routed.sequence;
    assert_eq!(take(&twin), [format!("row of {}", staying.handle.number.0)]);
    assert_ne!(sequence, CommitSeq::default(), "the acknowledgement waits for it");
    bench.publish("shared", "m", Q1);
    take(&twin);
    // What went through a group must not stain what comes after.
    assert_eq!(bench.publish("one", "m", Q1).routed.sequence, CommitSeq::default());
    bench.publish("both", "m", Q0);
    assert!(take(&twin).is_empty(), "QoS 0 and sessions that end with their connection touch no disk");
}
