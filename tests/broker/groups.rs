//! Shared groups: the queue is the group's, and whoever has room gets what waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fulmar::codec::{AckKind, ReasonCode};
use fulmar::config::SharedStrategy;
use fulmar::message::Publisher;

use crate::bench::{Bench, Guest, Party, Q0, Q1, Q2, Spec, texts};

fn member(bench: &Bench, name: &str, window: u16) -> Party {
    let mut party = bench.connect(&Guest::staying(name).window(window));
    if !party.session_present {
        party.subscribe("$share/g/#", Q2);
    }
    party
}

fn publish(bench: &Bench, count: u32) {
    for number in 0..count {
        bench.publish("t", number.to_string(), Q1);
    }
}

#[test]
fn what_nobody_has_room_for_waits_for_the_group_and_not_for_a_member() {
    let mut bench = Bench::new();
    let mut one = member(&bench, "one", 2);
    let mut two = member(&bench, "two", 2);
    publish(&bench, 10);
    let (first, second) = (one.poll(bench.now), two.poll(bench.now));
    assert_eq!((first.len(), second.len()), (2, 2));
    // One goes; what it had in flight goes to the other at once, which has no room, so it waits.
    one.cut(bench.now);
    two.was_woken();
    second.iter().for_each(|got| two.acknowledge(got));
    let rest = two.drain(bench.now);
    let mut all: Vec<u32> = [second, rest].concat().iter().map(|got| got.text().parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    assert_eq!(bench.sys("queue/bytes"), 0);
    assert!(member(&bench, "one", 2).drain(bench.now).is_empty(), "it was given to another");
}

#[test]
fn a_group_with_nobody_connected_loses_nothing_while_a_session_of_it_lives() {
    let mut bench = Bench::new();
    member(&bench, "one", 10).cut(bench.now);
    member(&bench, "two", 10).leave_with(10, bench.now);
    publish(&bench, 5);
    bench.publish("t", "dropped", Q0);
    bench.pass(Duration::from_secs(100));
    publish(&bench, 5);
    let got = member(&bench, "one", 3).drain(bench.now);
    assert_eq!(texts(&got), ["0", "1", "2", "3", "4", "0", "1", "2", "3", "4"]);
}

#[test]
fn in_flight_goes_to_another_at_once_with_qos_1_and_stays_with_qos_2() {
    let bench = Bench::new();
    for (qos, goes) in [(Q1, true), (Q2, false)] {
        let mut one = member(&bench, "one", 10);
        bench.publish("t", "m", qos);
        assert_eq!(texts(&one.poll(bench.now)), ["m"]);
        let mut two = member(&bench, "two", 10);
        assert!(two.poll(bench.now).is_empty());
        two.was_woken();
        one.cut(bench.now);
        assert_eq!(two.was_woken(), goes);
        assert_eq!(two.drain(bench.now).len(), usize::from(goes));
        let back = member(&bench, "one", 10).drain(bench.now);
        assert_eq!(back.len(), usize::from(!goes), "{qos:?}");
        assert!(back.iter().all(|got| got.dup));
        for name in ["one", "two"] {
            bench.connect(&Guest::new(name)).leave(bench.now);
        }
        assert_eq!((bench.broker.sessions(), bench.broker.shared_subscriptions()), (0, 0));
    }
}

#[test]
fn an_error_in_the_acknowledgement_discards_the_message() {
    let bench = Bench::new();
    let mut one = member(&bench, "one", 1);
    let mut two = member(&bench, "two", 1);
    for (qos, kind) in [(Q1, AckKind::PubAck), (Q2, AckKind::PubRec)] {
        bench.publish("t", "m", qos);
        let (taker, got) = match one.poll(bench.now) {
            got if got.is_empty() => (&one, two.poll(bench.now)),
            got => (&one, got),
        };
        let taker = if taker.handle.lock().session.in_flight() > 0 { &one } else { &two };
        taker.acknowledge_as(kind, got[0].packet_id.unwrap(), ReasonCode::UnspecifiedError);
        assert_eq!(taker.handle.lock().session.in_flight(), 0);
        assert!(one.drain(bench.now).is_empty() && two.drain(bench.now).is_empty());
    }
}

#[test]
fn what_is_in_flight_when_its_member_leaves_the_group_stays_with_it() {
    let bench = Bench::new();
    let mut party = member(&bench, "one", 10);
    party.subscribe("$share/other/x", Q1);
    bench.publish("t", "m", Q1);
    assert_eq!(texts(&party.poll(bench.now)), ["m"]);
    assert_eq!(party.unsubscribe("$share/g/#"), ReasonCode::Success);
    party.cut(bench.now);
    // There is no such group any more; its delivery was begun, and must be completed.
    let got = member(&bench, "one", 10).drain(bench.now);
    assert_eq!((texts(&got), got[0].dup), (vec!["m".to_owned()], true));
}

#[test]
fn when_a_member_leaves_another_is_woken_for_what_waits() {
    let bench = Bench::new();
    let mut one = member(&bench, "one", 1);
    publish(&bench, 3);
    assert_eq!(one.poll(bench.now).len(), 1);
    // It has joined, and not been polled yet.
    let mut two = member(&bench, "two", 10);
    two.was_woken();
    one.leave_with(0, bench.now);
    assert!(two.was_woken());
    assert_eq!(two.drain(bench.now).len(), 3);
}

#[test]
fn a_member_whose_own_queue_was_all_expired_is_not_forgotten() {
    let mut bench = Bench::new();
    let mut party = bench.connect(&Guest::staying("one").window(1));
    party.subscribe("own", Q1);
    party.subscribe("$share/g/t", Q1);
    party.cut(bench.now);
    bench.publish_all("own", &["short"], &Spec { qos: Q1, expiry: Some(1), ..Spec::default() });
    publish(&bench, 1);
    bench.pass(Duration::from_secs(2));
    let mut party = bench.connect(&Guest::staying("one").window(1));
    assert_eq!(texts(&party.poll(bench.now)), ["0"], "nothing else would make it look again");
}

#[test]
fn no_wake_is_lost_between_a_member_that_gets_room_and_a_message_that_waits() {
    const ROUNDS: u32 = 30_000;
    let bench = Bench::new();
    let mut party = member(&bench, "one", 1);
    let (count, failed) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // The second message of each round finds the window full, or just open again: the first wakes the member.
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                publish(&bench, 2);
                while count.load(Ordering::Acquire) < 2 * round && !failed.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            }
        });
        let mut quiet_since = Instant::now();
        // It looks when it was woken, and again after it has acknowledged: no oftener than a connection's task does.
        while count.load(Ordering::Relaxed) < 2 * ROUNDS && !failed.load(Ordering::Relaxed) {
            if party.was_woken() {
                count.fetch_add(party.drain(bench.now).len() as u32, Ordering::Release);
                quiet_since = Instant::now();
            } else {
                failed.store(quiet_since.elapsed() > Duration::from_secs(5), Ordering::Relaxed);
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(count.into_inner(), 2 * ROUNDS, "the rest waits, and nobody looks");
}

#[test]
fn every_strategy_spreads_as_it_says() {
    use SharedStrategy::{HashClient, HashTopic, LeastInFlight, Random, RoundRobin, Sticky};
    for strategy in [LeastInFlight, RoundRobin, Random, Sticky, HashClient, HashTopic] {
        let bench = Bench::with(|settings| settings.shared_strategy = strategy);
        let mut parties: Vec<Party> =
            (0..4).map(|number| member(&bench, &number.to_string(), 1_000)).collect();
        for number in 0..400_u64 {
            let publisher = Publisher(1_000 + number % 8);
            let spec = Spec { qos: Q1, publisher, ..Spec::default() };
            bench.publish_all(&format!("t/{}", number % 16), &[number.to_be_bytes()], &spec);
        }
        let mut by_topic: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut by_publisher: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let mut counts = Vec::new();
        for (index, party) in parties.iter_mut().enumerate() {
            let got = party.poll(bench.now);
            counts.push(got.len());
            for got in got {
                let number = u64::from_be_bytes(got.payload.try_into().unwrap());
                by_topic.entry(got.topic).or_default().push(index);
                by_publisher.entry(number % 8).or_default().push(index);
            }
        }
        assert_eq!(counts.iter().sum::<usize>(), 400, "{strategy:?}");
        let is_one = |members: &Vec<usize>| members.iter().all(|member| *member == members[0]);
        match strategy {
            LeastInFlight | RoundRobin => assert_eq!(counts, [100; 4], "{strategy:?}"),
            Random => assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}"),
            Sticky => assert_eq!(counts.iter().filter(|count| **count > 0).count(), 1, "{counts:?}"),
            HashClient => assert!(by_publisher.values().all(is_one)),
            HashTopic => assert!(by_topic.values().all(is_one)),
        }
    }
}

#[test]
fn under_threads_that_come_go_and_publish_every_message_arrives() {
    let bench = Bench::new();
    // One session keeps the group alive.
    let keeper = member(&bench, "keeper", 1);
    keeper.cut(bench.now);
    let total = 4_000_u32;
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let publishing = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (bench, seen, publishing) = (&bench, &seen, &publishing);
            scope.spawn(move || {
                let mut round = 0;
                while publishing.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut party = member(bench, &format!("member-{thread}"), 3);
                    for _ in 0..20 {
                        let got = party.poll(bench.now);
                        for got in got {
                            round += 1;
                            if round % 7 != 0 {
                                seen.lock().unwrap().insert(got.text());
                                party.acknowledge(&got);
                            }
                        }
                    }
                    if round % 2 == 0 { party.cut(bench.now) } else { party.leave_with(0, bench.now) }
                }
            });
        }
        for number in 0..total {
            bench.publish("t", number.to_string(), Q1);
        }
        publishing.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    let mut last = member(&bench, "keeper", 100);
    seen.lock().unwrap().extend(texts(&last.drain(bench.now)));
    assert_eq!(seen.lock().unwrap().len(), total as usize);
}
