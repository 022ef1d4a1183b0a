//! Who gets what, once and in which form.

use fulmar::codec::{PacketId, ReasonCode, SubscriptionOptions};

use crate::bench::{Bench, Got, Guest, Q0, Q1, Q2, Spec, texts};

#[test]
fn overlapping_subscriptions_bring_one_copy_with_all_identifiers() {
    let bench = Bench::new();
    let mut party = bench.connect(&Guest::new("c"));
    for (filter, identifier, qos) in [("a/b", 1, Q0), ("a/+", 200, Q2), ("#", 0, Q1), ("x", 9, Q2)] {
        party.subscribe_as(filter, identifier, SubscriptionOptions { qos, ..Default::default() });
    }
    bench.publish("a/b", "m", Q2);
    let got = party.poll(bench.now);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].qos, Q2, "the highest that was granted");
    let mut identifiers = [&[0x0B, 1][..], &[0x0B, 200, 1][..]];
    if got[0].properties.first_chunk() == Some(&[0x0B, 200]) {
        identifiers.reverse();
    }
    assert_eq!(got[0].properties, identifiers.concat());
}

#[test]
fn no_local_leaves_out_ones_own_and_nothing_else() {
    let bench = Bench::new();
    let mut party = bench.connect(&Guest::new("c"));
    let no_local = SubscriptionOptions { no_local: true, qos: Q2, ..Default::default() };
    party.subscribe_as("a/#", 7, no_local);
    let own = Spec { qos: Q1, publisher: party.handle.publisher, ..Spec::default() };
    bench.publish_all("a/b", &["own"], &own);
    bench.publish("a/b", "other", Q1);
    assert_eq!(texts(&party.poll(bench.now)), ["other"]);
    // Another subscription of its own brings it, on that one's terms.
    party.subscribe_as("+/b", 8, SubscriptionOptions { qos: Q0, ..Default::default() });
    bench.publish_all("a/b", &["own"], &own);
    let got = party.poll(bench.now);
    assert_eq!((texts(&got), got[0].qos), (vec!["own".to_owned()], Q0));
    assert_eq!(got[0].properties, [0x0B, 8]);
}

#[test]
fn subscribers_hold_one_buffer_and_get_what_was_published() {
    let bench = Bench::new();
    let mut parties: Vec<_> = (0..7).map(|number| bench.connect(&Guest::new(format!("c{number}")))).collect();
    for (number, party) in parties.iter_mut().enumerate() {
        party.subscribe("all", Q1);
        if number < 2 {
            party.subscribe("two", Q1);
        }
    }
    // Two whose frames differ.
    parties[2].subscribe_as("all", 7, SubscriptionOptions { qos: Q1, ..Default::default() });
    parties[0].subscribe_as("one", 7, SubscriptionOptions { qos: Q1, ..Default::default() });
    parties[1].subscribe("other", Q1);
    // All but this one have their next identifiers in common, until those that get more have others, too.
    parties[5].subscribe("alone", Q1);
    bench.publish("alone", "m", Q1);
    let mut last = [0; 7];
    last[5] = parties[5].drain(bench.now).iter().filter_map(|got| got.packet_id).map(PacketId::get).sum();
    for qos in [Q0, Q1] {
        for (length, count) in [(5, 3), (50, 30), (900, 20), (5_000, 5), (9_000, 1), (20_000, 3)] {
            let payloads: Vec<Vec<u8>> =
                (0..count).map(|number| [&[number][..], &vec![b'x'; length]].concat()).collect();
            for (topic, recipients) in [("one", 0..1), ("other", 1..2), ("two", 0..2), ("all", 0..7)] {
                bench.publish_all(topic, &payloads, &Spec { qos, ..Spec::default() });
                for (party, last) in parties[recipients.clone()].iter_mut().zip(&mut last[recipients]) {
                    let got = party.drain(bench.now);
                    let what = format!("{topic} {qos:?} {count} of {length}");
                    assert!(got.iter().map(|got| &got.payload).eq(&payloads), "{what}");
                    assert!(got.iter().all(|got| (got.qos, &*got.topic) == (qos, topic)), "{what}");
                    for id in got.iter().filter_map(|got| got.packet_id) {
                        *last += 1;
                        assert_eq!(id.get(), *last, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_run_of_several_topics_goes_to_those_who_get_each_of_them() {
    let bench = Bench::new();
    let filters = [&["a/#"][..], &["a/1", "b/1"], &["+/1", "+/2"], &["$share/g/b/#"]];
    let mut parties: Vec<_> = filters
        .iter()
        .enumerate()
        .map(|(index, filters)| {
            let mut party = bench.connect(&Guest::new(format!("c{index}")));
            filters.iter().for_each(|filter| party.subscribe(filter, Q2));
            party
        })
        .collect();
    let topics = ["a/1", "a/1", "nobody", "a/2", "a/3", "a/3", "b/1", "a/2", "b/2", "nobody", "b/3", "a/1"];
    let expected = [
        &["0", "1", "3", "4", "5", "7", "11"][..],
        &["0", "1", "6", "11"],
        &["0", "1", "3", "6", "7", "8", "11"],
        &["6", "8", "10"],
    ];
    for qos in [Q0, Q1, Q2] {
        let payloads: Vec<String> = (0..topics.len()).map(|number| number.to_string()).collect();
        let messages: Vec<_> =
            topics.iter().zip(&payloads).map(|(topic, payload)| (*topic, payload.as_bytes())).collect();
        // The second time who gets them is known.
        for _ in 0..2 {
            let published = bench.publish_each(&messages, &Spec { qos, ..Spec::default() });
            assert!(!published.routed.matched);
            assert_eq!(published.unmatched, topics.map(|topic| topic == "nobody"));
            for (party, expected) in parties.iter_mut().zip(expected) {
                let got = party.drain(bench.now);
                assert_eq!(texts(&got), expected);
                let are_right = |(got, text): (&Got, &&str)| {
                    text.parse().is_ok_and(|number: usize| got.topic == topics[number] && got.qos == qos)
                };
                assert!(got.iter().zip(expected).all(are_right), "{got:?}");
            }
        }
    }
    assert!(bench.publish_each(&[("a/1", b"x"), ("b/1", b"y")], &Spec::default()).routed.matched);
}

#[test]
fn what_is_too_large_for_one_goes_to_the_others_and_takes_no_slot() {
    let mut bench = Bench::new();
    let mut small = bench.connect(&Guest { maximum_packet_size: Some(50), ..Guest::new("s").window(1) });
    let mut large = bench.connect(&Guest::new("l").window(1));
    small.subscribe("t", Q2);
    large.subscribe("t", Q2);
    for _ in 0..3 {
        bench.publish("t", [b'x'; 60], Q2);
        bench.publish("t", "fits", Q2);
    }
    assert_eq!(texts(&small.drain(bench.now)), ["fits"; 3]);
    assert_eq!(large.drain(bench.now).len(), 6);
    let state = small.handle.lock();
    assert_eq!((state.session.in_flight(), state.session.queued()), (0, 0));
    drop(state);
    assert_eq!(bench.sys("publish/messages/dropped/size"), 3);
}

#[test]
fn what_became_too_large_while_it_was_in_flight_gives_its_slot_back() {
    let bench = Bench::new();
    let mut party = bench.connect(&Guest::staying("c").window(2));
    party.subscribe("t", Q1);
    bench.publish("t", [b'x'; 60], Q1);
    bench.publish("t", "fits", Q1);
    bench.publish("t", "later", Q1);
    assert_eq!(party.poll(bench.now).len(), 2);
    party.cut(bench.now);
    let mut party = bench.connect(&Guest { maximum_packet_size: Some(50), ..Guest::staying("c").window(1) });
    assert_eq!(texts(&party.drain(bench.now)), ["fits", "later"]);
    assert_eq!(party.handle.lock().session.in_flight(), 0);
}

#[test]
fn a_subscription_can_be_renewed_when_there_may_be_no_more() {
    let bench = Bench::with(|settings| settings.max_subscriptions = 2);
    let mut party = bench.connect(&Guest::new("c"));
    party.subscribe("a", Q0);
    party.subscribe("$share/g/b", Q0);
    let more = SubscriptionOptions { qos: Q1, ..Default::default() };
    for filter in ["c", "$share/g/c"] {
        assert_eq!(party.subscribe_as(filter, 0, more), ReasonCode::QuotaExceeded);
    }
    party.subscribe("a", Q2);
    party.subscribe("$share/g/b", Q2);
    assert_eq!((bench.broker.subscriptions(), bench.broker.shared_subscriptions()), (2, 1));
    assert_eq!(party.unsubscribe("a"), ReasonCode::Success);
    party.subscribe("c", Q0);
}

#[test]
fn a_session_that_ended_gets_nothing_through_what_was_cached() {
    let bench = Bench::new();
    let mut party = bench.connect(&Guest::staying("c"));
    party.subscribe("a/b", Q1);
    assert!(bench.publish("a/b", "1", Q1).routed.matched);
    let mut next = bench.connect(&Guest { clean_start: true, ..Guest::staying("c") });
    assert!(!bench.publish("a/b", "2", Q1).routed.matched);
    assert!(next.poll(bench.now).is_empty());
    assert_eq!(bench.broker.subscriptions(), 0);
}

#[test]
fn a_subscriber_that_is_behind_presses_and_one_that_gets_much_at_once_does_not() {
    let bench = Bench::new();
    let mut party = bench.connect(&Guest::new("c"));
    party.subscribe("t", Q0);
    let large = vec![b'x'; 1024 * 1024];
    for _ in 0..3 {
        assert!(!bench.publish("t", &large, Q0).pressed, "it has read all that there was");
        assert!(bench.publish("t", "small", Q0).pressed, "it is behind by four times what outbox_soft says");
        assert_eq!(party.drain(bench.now).len(), 2);
    }
}
