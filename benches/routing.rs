//! Matching, subscribing, retaining and replaying, at sizes where nothing fits the processor's caches.
//!
//! `cargo bench --bench routing`. Topics and filters are made and parsed beforehand and come in an order that
//! no prefetcher foresees; times are per topic or filter unless the name says otherwise.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark, and criterion's macros write no docs")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fulmar::routing::{Entry, Generations, RetainedTree, Trie};
use fulmar::topic::{TopicFilter, TopicName};
use std::hint::black_box;

const FILTERS: usize = 200_000;
const TOPICS: usize = 1_000_000;

criterion_group!(benches, subscriptions, one_filter, generations, retained);
criterion_main!(benches);

struct Subscription {
    session: u64,
    options: u64,
}

impl Entry for Subscription {
    type Key = u64;

    fn key(&self) -> u64 {
        self.session
    }
}

fn subscriptions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("200,000 filters");
    let filters: Vec<_> =
        shuffled(FILTERS).map(|n| filter(&format!("site/{}/device/{n}", n / 100))).collect();
    let topics: Vec<_> = shuffled(FILTERS).map(|n| format!("site/{}/device/{n}", n / 100)).collect();
    let unknown: Vec<_> = shuffled(FILTERS).map(|n| format!("site/{}/device/x{n}", n / 100)).collect();
    let mut trie = Trie::new();
    for filter in &filters {
        trie.insert(filter, Subscription { session: 1, options: 0 });
    }
    group.bench_function("match, exact filters", |bench| {
        let mut topics = topics.iter().cycle();
        bench.iter(|| count_matches(&trie, topics.next().unwrap()));
    });
    group.bench_function("match, nothing", |bench| {
        let mut topics = unknown.iter().cycle();
        bench.iter(|| count_matches(&trie, topics.next().unwrap()));
    });
    group.bench_function("subscribe and unsubscribe, a new filter", |bench| {
        let mut churn = unknown.iter().map(|text| filter(text)).collect::<Vec<_>>().into_iter().cycle();
        bench.iter_batched_ref(
            || churn.next().unwrap(),
            |filter| {
                let (id, _) = trie.insert(filter, Subscription { session: 2, options: 0 });
                trie.remove(id, 2)
            },
            BatchSize::SmallInput,
        );
    });
    for text in ["#", "site/#", "site/+/device/+", "+/+/+/+", "site/+/alarm/#"] {
        trie.insert(&filter(text), Subscription { session: 3, options: 0 });
    }
    for n in 0..FILTERS / 100 {
        trie.insert(&filter(&format!("site/{n}/+/#")), Subscription { session: 4, options: 0 });
    }
    group.bench_function("match, exact and 5 with wildcards", |bench| {
        let mut topics = topics.iter().cycle();
        bench.iter(|| count_matches(&trie, topics.next().unwrap()));
    });
    drop(trie);
    group.sample_size(10);
    group.bench_function("subscribe to all, in all", |bench| {
        bench.iter(|| {
            let mut trie = Trie::new();
            for filter in &filters {
                trie.insert(filter, Subscription { session: 1, options: 0 });
            }
            trie
        });
    });
    group.finish();
}

fn one_filter(criterion: &mut Criterion) {
    let mut trie = Trie::new();
    let filter = filter("news/+");
    for session in 0..100_000 {
        trie.insert(&filter, Subscription { session, options: 0 });
    }
    let mut sessions = shuffled(100_000).cycle();
    criterion.bench_function("100,000 sessions on a filter, unsubscribe and subscribe", |bench| {
        bench.iter(|| {
            let session = sessions.next().unwrap() as u64;
            let id = trie.find(&filter).unwrap();
            let entry = trie.remove(id, session).unwrap();
            trie.insert(&filter, entry)
        });
    });
}

fn generations(criterion: &mut Criterion) {
    let generations = Generations::new();
    let topic = name("site/17/device/4711");
    let stamp = generations.stamp(topic);
    criterion.bench_function("a stamp holds", |bench| bench.iter(|| generations.holds(black_box(stamp))));
    criterion.bench_function("stamp of a topic", |bench| bench.iter(|| generations.stamp(black_box(topic))));
}

fn retained(criterion: &mut Criterion) {
    for (shape, text) in [
        ("topic/{n}", (|n| format!("topic/{n}")) as fn(usize) -> String),
        ("topic/{n}/leaf", |n| format!("topic/{n}/leaf")),
    ] {
        let mut group = criterion.benchmark_group(format!("1,000,000 retained, {shape}"));
        let topics: Vec<_> = shuffled(TOPICS).map(text).collect();
        let mut tree = RetainedTree::new();
        for topic in &topics {
            tree.insert(name(topic), Box::new(0_u64));
        }
        group.bench_function("get", |bench| {
            let mut topics = topics.iter().cycle();
            bench.iter(|| tree.get(name(topics.next().unwrap())).is_some());
        });
        group.bench_function("replace", |bench| {
            let mut topics = topics.iter().cycle();
            bench.iter(|| tree.insert(name(topics.next().unwrap()), Box::new(1)));
        });
        group.bench_function("remove and insert", |bench| {
            let mut topics = topics.iter().cycle();
            bench.iter(|| {
                let topic = name(topics.next().unwrap());
                let message = tree.remove(topic).unwrap();
                tree.insert(topic, message)
            });
        });
        group.bench_function("a slice of 128 of #", |bench| {
            let all = filter("#");
            let mut cursor = None;
            bench.iter(|| {
                cursor = tree.scan(&all, cursor.as_ref(), 128, 4096, &mut |message| {
                    black_box(**message);
                });
            });
        });
        group.sample_size(10);
        group.bench_function("insert all, in all", |bench| {
            bench.iter(|| {
                let mut tree = RetainedTree::new();
                for topic in &topics {
                    tree.insert(name(topic), ());
                }
                tree
            });
        });
        group.finish();
    }
}

fn count_matches(trie: &Trie<Subscription>, topic: &str) -> u64 {
    let mut sum = 0;
    trie.for_each_match(name(topic), |entry| sum += entry.session + entry.options);
    sum
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).unwrap()
}

fn name(text: &str) -> &TopicName {
    TopicName::parse(text.as_bytes()).unwrap()
}

/// The numbers below `count`, each once, far from each other; `count` is no multiple of the prime.
fn shuffled(count: usize) -> impl Iterator<Item = usize> + Clone {
    (0..count).map(move |n| n * 7_368_787 % count)
}
