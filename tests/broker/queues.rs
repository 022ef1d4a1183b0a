//! Full queues: what each policy keeps, who hears of it, and what is counted.

use std::time::Duration;

use fulmar::broker::Counter;
use fulmar::config::Overflow;

use crate::bench::{Bench, Guest, Q0, Q1, Spec, texts};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn each_policy_keeps_what_it_says_and_counts_the_rest() {
    for (overflow, kept, rejected) in
        [(Overflow::DropOldest, 5..10, 0), (Overflow::DropNewest, 0..5, 0), (Overflow::Reject, 0..5, 5)]
    {
        for filter in ["t", "$share/g/t"] {
            let mut bench = Bench::with(|settings| {
                settings.session.queue.messages = 5;
                settings.session.queue.overflow = overflow;
            });
            let mut party = bench.connect(&Guest::staying("c"));
            party.subscribe(filter, Q1);
            party.cut(bench.now);
            let spec = Spec { qos: Q1, ..Spec::default() };
            let published = bench.publish_all("t", &numbers(0..10), &spec);
            assert_eq!(published.rejected, rejected, "{overflow:?} {filter}");
            let mut party = bench.connect(&Guest::staying("c"));
            assert_eq!(texts(&party.drain(bench.now)), numbers(kept.clone()), "{overflow:?} {filter}");
            assert_eq!(bench.sys("publish/messages/dropped/queue"), 5, "{overflow:?} {filter}");
            let queued = if overflow == Overflow::DropOldest { 10 } else { 5 };
            assert_eq!(bench.sys("publish/messages/queued"), queued, "{overflow:?} {filter}");
            assert_eq!(bench.sys("queue/bytes"), 0);
        }
    }
}

#[test]
fn a_full_window_fills_the_queue_in_order() {
    let bench = Bench::with(|settings| settings.session.queue.messages = 5);
    let mut party = bench.connect(&Guest::new("c").window(2));
    party.subscribe("t", Q1);
    let spec = Spec { qos: Q1, ..Spec::default() };
    bench.publish_all("t", &numbers(0..10), &spec);
    let expected = [numbers(0..2), numbers(5..10)].concat();
    assert_eq!(texts(&party.drain(bench.now)), expected);
}

#[test]
fn a_slow_reader_loses_qos_0_and_it_is_counted() {
    let bench = Bench::with(|settings| settings.session.outbox_hard = 1_000);
    for filter in ["t", "$share/g/t"] {
        let before = bench.broker.counters.get(Counter::DroppedOutboxFull);
        let mut party = bench.connect(&Guest::new("c"));
        party.subscribe(filter, Q0);
        for _ in 0..100 {
            bench.publish("t", [b'x'; 95], Q0);
        }
        let came = party.poll(bench.now).len() as u64;
        assert!((9..=11).contains(&came), "{filter}: {came}");
        assert_eq!(bench.broker.counters.get(Counter::DroppedOutboxFull) - before, 100 - came, "{filter}");
        party.leave(bench.now);
    }
}

#[test]
fn what_an_ended_session_or_group_held_is_not_counted_any_more() {
    let mut bench = Bench::new();
    for filter in ["t", "$share/g/t"] {
        let mut party = bench.connect(&Guest { expiry: 10, ..Guest::staying("c") });
        party.subscribe(filter, Q1);
        party.cut(bench.now);
        for _ in 0..100 {
            bench.publish("t", "m", Q1);
        }
        assert!(bench.sys("queue/bytes") > 5_000, "{filter}");
        bench.pass(Duration::from_secs(10));
        // Nobody publishes to the topic any more, so match caches may still hold who was there.
        assert_eq!(bench.sys("queue/bytes"), 0, "{filter}");
    }
}

#[test]
fn when_others_have_used_up_the_common_bound_a_queue_keeps_what_it_has() {
    let mut bench = Bench::with(|settings| settings.total_queue_bytes = 10_000);
    for (name, filter) in [("one", "one"), ("two", "two")] {
        let mut party = bench.connect(&Guest::staying(name));
        party.subscribe(filter, Q1);
        party.cut(bench.now);
    }
    bench.publish("two", "kept", Q1);
    for _ in 0..100 {
        bench.publish("one", [0; 400], Q1);
    }
    let used = bench.sys("queue/bytes");
    assert!(used <= 10_000 && used > 9_000, "{used}");
    bench.publish("two", [0; 4_000], Q1);
    let mut two = bench.connect(&Guest::staying("two"));
    assert_eq!(texts(&two.drain(bench.now)), ["kept"]);
}
