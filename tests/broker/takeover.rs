//! One client identifier, many connections.

use std::sync::{Barrier, Mutex};

use crate::bench::{Bench, Guest, Q1, texts};

#[test]
fn of_many_that_fight_for_one_identifier_exactly_one_owns_the_session() {
    for clean_start in [false, true] {
        let bench = Bench::new();
        let barrier = Barrier::new(8);
        let parties = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for number in 0..25 {
                        let guest = Guest { clean_start, ..Guest::staying("fought-over") };
                        let party = bench.connect(&guest);
                        if number % 5 == 0 {
                            party.cut(bench.now);
                        }
                        parties.lock().unwrap().push(party);
                    }
                });
            }
        });
        let last = bench.connect(&Guest::staying("fought-over"));
        let mut parties = parties.into_inner().unwrap();
        assert_eq!(parties.len(), 200);
        parties.iter_mut().for_each(|party| assert!(party.poll_once(bench.now).is_none()));
        assert!(last.is_owner());
        assert_eq!((bench.broker.connected(), bench.broker.sessions()), (1, 1));
        last.cut(bench.now);
        assert_eq!((bench.broker.connected(), bench.broker.sessions()), (0, 1));
    }
}

#[test]
fn connects_and_departures_at_once_leave_the_counts_right() {
    let bench = Bench::new();
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (bench, barrier) = (&bench, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for number in 0..300_u32 {
                    let expiry = if number % 3 == 0 { 0 } else { 60 };
                    let guest = Guest {
                        clean_start: number % 4 == 0,
                        expiry,
                        ..Guest::new(format!("one-of-three-{}", (thread + number) % 3))
                    };
                    let mut party = bench.connect(&guest);
                    party.subscribe_if_owner("a/#");
                    bench.publish("a/b", "m", Q1);
                    match number % 3 {
                        0 => party.cut(bench.now),
                        1 if expiry > 0 => party.leave_with(0, bench.now),
                        _ => {}
                    }
                }
            });
        }
    });
    for number in 0..3 {
        bench.connect(&Guest::new(format!("one-of-three-{number}"))).leave(bench.now);
    }
    let broker = &bench.broker;
    assert_eq!((broker.connected(), broker.sessions(), broker.subscriptions()), (0, 0, 0));
    assert_eq!(broker.next_deadline(), None, "no deadline is left behind");
    assert!(broker.most_connected() <= 11, "three at most, and one more in each thread while it changes");
}

#[test]
fn a_take_over_does_not_count_as_two() {
    for clean_start in [false, true] {
        let bench = Bench::new();
        for _ in 0..5 {
            bench.connect(&Guest { clean_start, ..Guest::staying("one") });
        }
        assert_eq!((bench.broker.connected(), bench.broker.most_connected()), (1, 1));
    }
}

#[test]
fn the_one_that_takes_over_gets_what_the_other_had_not_acknowledged() {
    let bench = Bench::new();
    let mut first = bench.connect(&Guest::staying("c"));
    first.subscribe("t", Q1);
    bench.publish("t", "1", Q1);
    bench.publish("t", "2", Q1);
    assert_eq!(texts(&first.poll(bench.now)), ["1", "2"]);
    bench.publish("t", "3", Q1);
    first.was_woken();
    let mut second = bench.connect(&Guest::staying("c"));
    assert!(second.session_present && first.was_woken());
    assert!(first.poll_once(bench.now).is_none());
    let got = second.poll(bench.now);
    assert_eq!(texts(&got), ["1", "2", "3"]);
    let again: Vec<_> = got.iter().map(|got| got.dup).collect();
    assert_eq!(again, [true, true, false], "the last was never sent, so it is not sent again");
}

#[test]
fn a_stopping_broker_accepts_nobody() {
    let bench = Bench::new();
    let party = bench.connect(&Guest::new("c"));
    bench.broker.stop(fulmar::session::Close::ServerShuttingDown);
    assert_eq!(party.close(), Some(fulmar::session::Close::ServerShuttingDown));
    assert!(matches!(bench.try_connect(&Guest::new("d")), Err(fulmar::broker::Refusal::Stopping)));
}
