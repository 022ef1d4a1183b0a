//! What a standing subscription costs a broker in memory, all told: the trie, the session, and what was needed only
//! while it was made, as an allocator keeps that for the process. The goal is 150 bytes beyond the filter's text.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "broker/bench.rs"]
#[allow(dead_code, reason = "this target only subscribes")]
mod bench;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bench::{Bench, Guest, Party, Q0};

thread_local! {
    /// Bytes that this thread has allocated and not freed, and the most there were.
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call is passed on unchanged; counting does not allocate.
#[expect(unsafe_code, reason = "an allocator can be written in no other way")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(taken(layout));
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-taken(layout));
        // SAFETY: as promised to us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What an allocation takes with the usual allocators: eight bytes of their own, and a multiple of sixteen in all.
fn taken(layout: Layout) -> i64 {
    i64::try_from((layout.size() + 8).next_multiple_of(16).max(32)).unwrap_or(i64::MAX)
}

fn count(bytes: i64) {
    // At the very end of a thread its counters are gone, and so is the interest in them.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

const FILTERS: usize = 200_000;

/// What a subscription costs beyond the text of its filter, if so many sessions share them evenly.
fn cost(sessions: usize, filter: impl Fn(usize, usize) -> String) -> i64 {
    let bench = Bench::new();
    let mut parties: Vec<Party> =
        (0..sessions).map(|session| bench.connect(&Guest::new(format!("s{session}")))).collect();
    let before = LIVE.get();
    PEAK.set(before);
    let mut text_bytes = 0;
    for (session, party) in parties.iter_mut().enumerate() {
        // Nobody is polled meanwhile, so what would be sent to each waits for all of them.
        for number in 0..FILTERS / sessions {
            let text = filter(session, number);
            text_bytes += text.len();
            party.subscribe(&text, Q0);
        }
    }
    assert_eq!(bench.broker.subscriptions(), FILTERS);
    let share = |bytes: i64| bytes / i64::try_from(FILTERS).unwrap();
    let text = share(i64::try_from(text_bytes).unwrap());
    let (standing, peak) = (share(LIVE.get() - before), share(PEAK.get() - before));
    println!("{sessions} sessions: {standing} bytes, {peak} at the most, of them {text} as long as the text");
    peak - text
}

/// Of a hundred, sixty are exact, thirty have a `+` and ten a `#`; sessions use the same last levels.
fn alike(session: usize, number: usize) -> String {
    let group = session % 100;
    match number * 7919 % 100 {
        0..60 => format!("load/{group}/{session}/e{number}"),
        60..90 => format!("load/+/{session}/p{number}"),
        _ => format!("load/{group}/{session}/h{number}/#"),
    }
}

/// The same shares; each filter has a level of its own, longer than a number, before its last.
fn unlike(session: usize, number: usize) -> String {
    let device = session * 10_000 + number;
    match number * 7919 % 100 {
        0..60 => format!("site/{}/device-{device}/state", session % 100),
        60..90 => format!("site/{}/device-{device}/+/set", session % 100),
        _ => format!("site/{}/device-{device}/#", session % 100),
    }
}

#[test]
fn a_subscription_costs_a_broker_at_most_150_bytes_beyond_its_text() {
    for sessions in [100, 200] {
        for cost in [cost(sessions, alike), cost(sessions, unlike)] {
            assert!(cost <= 150, "{cost} bytes beyond the text");
        }
    }
}
