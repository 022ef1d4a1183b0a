//! What a subscription and a retained topic cost in memory, counted by the allocator.
//!
//! Naive trees of maps take about 300 bytes a filter; the goals here are 150 for a filter, its entry included,
//! and 100 for a retained topic, both beyond the text.

use fulmar::routing::{Entry, RetainedTree, Trie};
use fulmar::topic::{TopicFilter, TopicName};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread has allocated and not freed: a test counts only its own.
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

#[expect(unsafe_code, reason = "an allocator can be written in no other way")]
// SAFETY: every call is passed on unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as promised to us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(size: usize, sign: i64) {
    let bytes = i64::try_from(size).unwrap_or(i64::MAX) * sign;
    // At the very end of a thread its counter is gone, and so is the interest in it.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

fn live() -> i64 {
    LIVE.with(Cell::get)
}

/// As large as a session's subscription is in the broker.
struct Subscription {
    session: u64,
    _options: u64,
}

impl Entry for Subscription {
    type Key = u64;

    fn key(&self) -> u64 {
        self.session
    }
}

const FILTERS: i64 = 200_000;

#[test]
fn a_subscription_costs_at_most_150_bytes_beyond_its_text() {
    for shape in [
        "device/{n}",
        "device/{n}/state",
        "fleet/{n}/+/#",
        "site/{hundreds}/device/{n}",
        "tenant/0f8fad5b-d9cb-469f-a165-{n}/#",
    ] {
        let before = live();
        let mut trie = Trie::new();
        let mut text_bytes = 0;
        for n in 0..FILTERS {
            let filter = TopicFilter::parse(&text(shape, n)).unwrap();
            text_bytes += i64::try_from(filter.as_str().len()).unwrap();
            trie.insert(&filter, Subscription { session: 7, _options: 0 });
        }
        assert_eq!(trie.filters(), 200_000);
        let beyond_the_text = (live() - before - text_bytes) / FILTERS;
        println!("subscription, {shape}: {beyond_the_text} bytes beyond the text");
        assert!(beyond_the_text <= 150, "{shape}: {beyond_the_text} bytes");
    }
}

#[test]
fn what_was_unsubscribed_leaves_nothing_behind() {
    let before = live();
    let mut trie = Trie::new();
    let filters = (0..20_000).map(|n| TopicFilter::parse(&text("fleet/{n}/+/#", n)).unwrap());
    for filter in filters.clone() {
        trie.insert(&filter, Subscription { session: 7, _options: 0 });
    }
    for filter in filters {
        let id = trie.find(&filter).unwrap();
        assert!(trie.remove(id, 7).is_some());
    }
    let left = live() - before;
    assert!(left < 4_096, "{left} bytes are left in an empty trie");
}

/// Just more than the hash tables hold before they double, which is where they cost most: as a million would be.
const TOPICS: i64 = 250_000;

#[test]
fn a_retained_topic_costs_at_most_100_bytes_beyond_its_text_and_message() {
    for shape in ["topic/{n}", "topic/{n}/leaf", "site/{hundreds}/device/{n}"] {
        let before = live();
        let mut tree = RetainedTree::new();
        let mut text_and_messages = 0;
        for n in 0..TOPICS {
            let topic = text(shape, n);
            text_and_messages += i64::try_from(topic.len() + size_of::<Option<Box<u8>>>()).unwrap();
            // The message's own allocation is not the tree's: it takes none here.
            let message: Box<[u8; 0]> = Box::new([]);
            tree.insert(TopicName::parse(topic.as_bytes()).unwrap(), message);
        }
        assert_eq!(tree.len(), 250_000);
        let beyond = (live() - before - text_and_messages) / TOPICS;
        println!("retained, {shape}: {beyond} bytes beyond text and message");
        assert!(beyond <= 100, "{shape}: {beyond} bytes");
    }
}

fn text(shape: &str, n: i64) -> String {
    shape.replace("{n}", &n.to_string()).replace("{hundreds}", &(n / 100).to_string())
}
