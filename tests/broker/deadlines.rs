//! What happens at a certain time, to the millisecond.

use std::time::Duration;

use fulmar::broker::Progress;
use fulmar::session::Close;

use crate::bench::{Bench, Guest, Q1, Q2, Spec, texts};

const MILLISECOND: Duration = Duration::from_millis(1);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_client_may_be_silent_for_one_and_a_half_times_its_keep_alive() {
    let mut bench = Bench::new();
    let mut party = bench.connect(&Guest { keep_alive: 10, ..Guest::new("c") });
    bench.pass(seconds(15) - MILLISECOND);
    assert_eq!(party.close(), None);
    let heard = Progress { heard: true, ..Progress::default() };
    party.progress(heard, bench.now);
    bench.pass(seconds(15) - MILLISECOND);
    assert_eq!(party.close(), None, "counted from the last packet");
    party.was_woken();
    bench.pass(MILLISECOND);
    assert_eq!(party.close(), Some(Close::KeepAliveTimeout));
    assert!(party.was_woken());
    party.cut(bench.now);
    assert_eq!(bench.broker.next_deadline(), None);
}

#[test]
fn a_packet_that_comes_while_deadlines_are_handled_counts() {
    let bench = Bench::new();
    let mut party = bench.connect(&Guest { keep_alive: 10, ..Guest::new("c") });
    let due = bench.now + seconds(15);
    let heard = Progress { heard: true, ..Progress::default() };
    // Another worker handles a packet after the timer has looked at its clock.
    party.progress(heard, due + 5 * MILLISECOND);
    bench.broker.handle_deadlines(due);
    assert_eq!(party.close(), None);
    assert!(bench.broker.next_deadline().is_some_and(|next| next > due), "it is looked at again");
}

#[test]
fn a_client_that_reads_nothing_is_given_up_after_the_write_timeout() {
    let mut bench = Bench::new();
    let mut party = bench.connect(&Guest::new("c"));
    let blocked = Progress { unwritten: 10, ..Progress::default() };
    party.progress(blocked, bench.now);
    bench.pass(seconds(20));
    party.progress(Progress { wrote: true, ..blocked }, bench.now);
    bench.pass(seconds(30) - MILLISECOND);
    assert_eq!(party.close(), None, "it has read something");
    bench.pass(MILLISECOND);
    assert_eq!(party.close(), Some(Close::WriteTimeout));
}

#[test]
fn one_that_reads_in_the_end_is_not_given_up() {
    let mut bench = Bench::new();
    let mut party = bench.connect(&Guest::new("c"));
    for _ in 0..3 {
        party.progress(Progress { unwritten: 10, ..Progress::default() }, bench.now);
        bench.pass(seconds(29));
        party.progress(Progress { wrote: true, ..Progress::default() }, bench.now);
        bench.pass(seconds(29));
    }
    assert_eq!(party.close(), None);
    bench.pass(seconds(100));
    assert_eq!(bench.broker.next_deadline(), None, "nothing is watched any more");
}

#[test]
fn a_session_ends_when_its_interval_has_passed() {
    let mut bench = Bench::new();
    let guest = Guest { expiry: 10, ..Guest::staying("c") };
    let mut party = bench.connect(&guest);
    party.subscribe("t", Q1);
    party.cut(bench.now);
    bench.pass(seconds(10) - MILLISECOND);
    bench.publish("t", "m", Q1);
    let mut party = bench.connect(&guest);
    assert!(party.session_present);
    assert_eq!(texts(&party.drain(bench.now)), ["m"]);
    bench.pass(seconds(100));
    assert_eq!(bench.broker.sessions(), 1, "a connected session does not expire");
    party.cut(bench.now);
    bench.pass(seconds(10));
    assert_eq!((bench.broker.sessions(), bench.broker.subscriptions()), (0, 0));
    assert_eq!(bench.broker.next_deadline(), None);
    assert!(!bench.connect(&guest).session_present);
    assert_eq!(bench.sys("clients/expired"), 1);
}

#[test]
fn disconnect_can_change_how_long_the_session_lives() {
    let mut bench = Bench::new();
    bench.connect(&Guest::staying("c")).leave_with(5, bench.now);
    bench.pass(seconds(4));
    assert_eq!(bench.broker.sessions(), 1);
    bench.pass(seconds(1));
    assert_eq!(bench.broker.sessions(), 0);
    bench.connect(&Guest::staying("c")).leave_with(0, bench.now);
    assert_eq!(bench.broker.sessions(), 0);
}

fn will(delay: u32, expiry: u32) -> Guest {
    Guest { expiry, will: Some(("will", Q1, delay)), ..Guest::staying("dying") }
}

#[test]
fn a_will_comes_after_its_delay_or_when_the_session_ends() {
    for (delay, expiry, at) in [(0, 100, 0), (10, 100, 10), (100, 10, 10), (10, 0, 0)] {
        let mut bench = Bench::new();
        let mut heir = bench.connect(&Guest::new("heir"));
        heir.subscribe("will", Q1);
        bench.connect(&will(delay, expiry)).cut(bench.now);
        if at > 0 {
            bench.pass(seconds(at) - MILLISECOND);
            assert!(heir.poll(bench.now).is_empty(), "delay {delay}, expiry {expiry}");
            bench.pass(MILLISECOND);
        }
        assert_eq!(texts(&heir.poll_if_woken(bench.now)), ["gone"], "delay {delay}, expiry {expiry}");
        bench.pass(seconds(1_000));
        assert!(heir.poll(bench.now).is_empty(), "and only once");
    }
}

#[test]
fn a_client_that_comes_back_in_time_takes_its_will_back() {
    let mut bench = Bench::new();
    let mut heir = bench.connect(&Guest::new("heir"));
    heir.subscribe("will", Q1);
    bench.connect(&will(10, 100)).cut(bench.now);
    bench.pass(seconds(9));
    let back = bench.connect(&Guest { will: None, ..will(10, 100) });
    bench.pass(seconds(100));
    back.cut(bench.now);
    bench.pass(seconds(1_000));
    assert!(heir.poll(bench.now).is_empty());
    // A take-over within the delay is the session going on; one without a delay is the end of the connection.
    bench.connect(&will(10, 100));
    bench.connect(&will(0, 100));
    assert!(heir.poll(bench.now).is_empty());
    bench.connect(&will(0, 100)).leave(bench.now);
    assert_eq!(texts(&heir.poll(bench.now)), ["gone"]);
    // A new session ends the old one, and so its Will comes at once, whatever its delay.
    bench.connect(&will(10, 100)).cut(bench.now);
    bench.connect(&Guest { clean_start: true, ..will(10, 100) }).leave(bench.now);
    assert_eq!(texts(&heir.poll(bench.now)), ["gone"]);
}

#[test]
fn a_message_expires_in_the_queue_and_bears_what_is_left() {
    let mut bench = Bench::new();
    let mut party = bench.connect(&Guest::staying("c").window(1));
    party.subscribe("t", Q1);
    bench.publish("t", "first", Q1);
    for (payload, expiry) in [("short", 5), ("long", 100)] {
        bench.publish_all("t", &[payload], &Spec { qos: Q1, expiry: Some(expiry), ..Spec::default() });
    }
    bench.pass(Duration::from_millis(9_001));
    let first = party.poll(bench.now);
    party.acknowledge(&first[0]);
    let got = party.poll(bench.now);
    assert_eq!(texts(&got), ["long"]);
    assert_eq!(got[0].expiry, Some(91), "of 100, 9 s and a little have passed");
    assert_eq!(bench.sys("publish/messages/dropped/expired"), 1);
}

/// [MQTT-3.3.2-5]: what was not written to a client before its connection ended has not begun its way.
#[test]
fn a_message_expires_in_the_outbox_of_a_connection_that_has_ended() {
    let mut bench = Bench::new();
    let mut party = bench.connect(&Guest::staying("c"));
    party.subscribe("t", Q2);
    let spec = |qos, expiry| Spec { qos, expiry, ..Spec::default() };
    bench.publish_all("t", &["sent 1"], &spec(Q1, Some(5)));
    bench.publish_all("t", &["sent 2"], &spec(Q2, Some(5)));
    assert_eq!(texts(&party.poll(bench.now)), ["sent 1", "sent 2"]);
    bench.publish_all("t", &["short 1"], &spec(Q1, Some(5)));
    bench.publish_all("t", &["short 2"], &spec(Q2, Some(5)));
    bench.publish_all("t", &["long"], &spec(Q1, Some(100)));
    party.leave(bench.now);
    bench.pass(Duration::from_millis(9_001));
    let mut party = bench.connect(&Guest::staying("c"));
    let got = party.poll(bench.now);
    // What was sent does not expire any more [MQTT-4.3.3-7].
    assert_eq!(texts(&got), ["sent 1", "sent 2", "long"]);
    assert_eq!(got.iter().map(|got| got.dup).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(got[2].expiry, Some(91));
    assert_eq!(bench.sys("publish/messages/dropped/expired"), 2);
}

#[test]
fn a_retained_message_is_gone_when_it_expires_and_leaves_no_deadline() {
    let mut bench = Bench::new();
    for number in 0..1_000_u32 {
        let spec = Spec { retain: true, expiry: Some(1_000_000 - number), ..Spec::default() };
        bench.publish_all("t", &["m"], &spec);
    }
    let spec = Spec { retain: true, expiry: Some(10), ..Spec::default() };
    bench.publish_all("t", &["last"], &spec);
    bench.pass(seconds(4));
    let mut party = bench.connect(&Guest::new("c"));
    party.subscribe("t", Q1);
    let got = party.poll(bench.now);
    assert_eq!((texts(&got), got[0].expiry), (vec!["last".to_owned()], Some(6)));
    bench.pass(seconds(6));
    assert_eq!(bench.broker.retained(), (0, 0));
    assert_eq!(bench.broker.next_deadline(), None, "those of the replaced ones went with them");
}
