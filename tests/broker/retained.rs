//! Retained messages: bounds, and the replay to new subscriptions.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use fulmar::codec::QoS;

use crate::bench::{Bench, Guest, Q0, Q1, Q2, Spec, texts};

fn retain(bench: &Bench, topic: &str, payload: impl AsRef<[u8]>) {
    bench.publish_all(topic, &[payload], &Spec { qos: Q2, retain: true, ..Spec::default() });
}

#[test]
fn a_hundred_thousand_come_under_the_window_and_none_is_dropped() {
    let mut bench = Bench::with(|settings| settings.session.queue.messages = 1);
    for number in 0..100_000_u32 {
        retain(&bench, &format!("r/{}/{}", number / 100, number % 100), number.to_be_bytes());
    }
    assert_eq!(bench.broker.retained().0, 100_000);
    for (qos, window) in [(Q0, 10), (Q1, 10), (Q2, 200)] {
        let mut party = bench.connect(&Guest::new("c").window(window));
        party.subscribe("r/#", qos);
        let mut seen = BTreeSet::new();
        loop {
            let got = party.poll(bench.now);
            if got.is_empty() {
                break;
            }
            assert!(qos == Q0 || got.len() <= window.into(), "{} at once", got.len());
            for got in got {
                assert!(got.retain && seen.insert(got.payload.clone()), "{got:?} came twice");
                party.acknowledge(&got);
            }
        }
        assert_eq!(seen.len(), 100_000);
        party.leave(bench.now);
    }
    assert_eq!(bench.sys("publish/messages/dropped"), 0);
}

#[test]
fn large_ones_come_as_the_client_reads_and_none_is_dropped() {
    let mut bench = Bench::with(|settings| {
        settings.session.outbox_soft = 100_000;
        settings.session.outbox_hard = 200_000;
        settings.session.queue.messages = 1;
    });
    for number in 0..100 {
        retain(&bench, &format!("r/{number}"), [b'x'; 50_000]);
    }
    for qos in [Q0, Q1] {
        let mut party = bench.connect(&Guest::new("c"));
        party.subscribe("r/#", qos);
        let mut topics = BTreeSet::new();
        while let Some((got, more)) = party.poll_once(bench.now) {
            let bytes: usize = got.iter().map(|got| got.payload.len()).sum();
            assert!(bytes <= 200_000, "{bytes} bytes at once");
            got.iter().for_each(|got| party.acknowledge(got));
            topics.extend(got.into_iter().map(|got| got.topic));
            if !more {
                break;
            }
        }
        assert_eq!(topics.len(), 100, "{qos:?}");
        party.leave(bench.now);
    }
    assert_eq!(bench.sys("publish/messages/dropped"), 0);
}

#[test]
fn a_replay_goes_on_with_the_next_connection_of_the_session() {
    let bench = Bench::new();
    for number in 0..50 {
        retain(&bench, &format!("r/{number}"), "m");
    }
    let mut party = bench.connect(&Guest::staying("c").window(10));
    party.subscribe("r/+", Q1);
    let first = party.poll(bench.now);
    assert_eq!(first.len(), 10);
    party.cut(bench.now);
    let mut party = bench.connect(&Guest::staying("c").window(10));
    let topics: BTreeSet<String> = party.drain(bench.now).into_iter().map(|got| got.topic).collect();
    assert_eq!(topics.len(), 50);
}

#[test]
fn the_same_subscription_made_again_and_again_does_not_pile_up() {
    let bench = Bench::new();
    for number in 0..3 {
        retain(&bench, &format!("r/{number}"), "m");
    }
    let mut party = bench.connect(&Guest::new("c").window(1));
    for _ in 0..10_000 {
        party.subscribe("r/+", Q1);
    }
    assert!(party.handle.lock().replays().count() <= 1);
    let mut topics: Vec<String> = party.drain(bench.now).into_iter().map(|got| got.topic).collect();
    topics.sort_unstable();
    assert_eq!(topics, ["r/0", "r/1", "r/2"]);
    party.subscribe("r/+", Q1);
    assert_eq!(party.drain(bench.now).len(), 3, "each subscription brings them again");
    party.subscribe("r/+", Q1);
    party.unsubscribe("r/+");
    assert!(party.drain(bench.now).is_empty(), "and its end takes them back");
}

#[test]
fn who_subscribes_while_the_first_value_is_retained_gets_it() {
    let bench = Bench::new();
    let start = Barrier::new(2);
    let rounds = 3_000;
    let mut missed = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                start.wait();
                retain(&bench, &format!("r/{round}"), "m");
                start.wait();
            }
        });
        for round in 0..rounds {
            let mut party = bench.connect(&Guest::new("c"));
            start.wait();
            party.subscribe(&format!("r/{round}"), Q0);
            start.wait();
            missed += usize::from(party.drain(bench.now).is_empty());
            party.leave(bench.now);
        }
    });
    assert_eq!(missed, 0, "they came neither from the tree nor from the trie");
}

#[test]
fn bounds_hold_and_an_older_message_does_not_outlive_a_newer_one() {
    let bench = Bench::with(|settings| settings.retained.messages = 3);
    for number in 0..5 {
        retain(&bench, &format!("r/{number}"), "m");
    }
    retain(&bench, "r/0", "renewed");
    retain(&bench, "r/1", "");
    retain(&bench, "r/4", "has room now");
    let mut party = bench.connect(&Guest::new("c"));
    party.subscribe("r/+", Q0);
    let mut got = texts(&party.poll(bench.now));
    got.sort_unstable();
    assert_eq!(got, ["has room now", "m", "renewed"]);

    let bench = Bench::with(|settings| settings.retained.bytes = 10_000);
    retain(&bench, "a", [b'x'; 4_000]);
    retain(&bench, "b", [b'x'; 4_000]);
    retain(&bench, "c", [b'x'; 4_000]);
    assert_eq!(bench.broker.retained().0, 2);
    retain(&bench, "a", [b'x'; 9_000]);
    let (count, bytes) = bench.broker.retained();
    assert_eq!(count, 1, "the older message of the topic went");
    assert!(bytes < 5_000);
    for topic in ["a", "b"] {
        retain(&bench, topic, "");
    }
    assert_eq!(bench.broker.retained(), (0, 0));
}

#[test]
fn who_subscribes_while_a_value_changes_ends_with_the_newest() {
    for qos in [Q0, Q1] {
        newest_comes_last(qos);
    }
}

fn newest_comes_last(qos: QoS) {
    let bench = Bench::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut number = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let spec = Spec { qos: Q1, retain: true, ..Spec::default() };
                bench.publish_all("value", &[number.to_be_bytes()], &spec);
            }
            number
        });
        // Whoever comes before there is anything to replay races nobody.
        while bench.broker.retained().0 == 0 {
            std::thread::yield_now();
        }
        for _ in 0..300 {
            let mut party = bench.connect(&Guest::new("c"));
            party.subscribe("value", qos);
            let mut got = Vec::new();
            for _ in 0..5 {
                got.extend(party.drain(bench.now));
            }
            let values: Vec<_> = got.iter().map(|got| got.payload.clone()).collect();
            assert!(values.is_sorted(), "an older value came behind a newer one: {values:?}");
            party.leave(bench.now);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(publisher.join().unwrap() > 0);
    });
}
