//! Histories told to the ledger, each with one fault or with none: it must find the one and nothing else.

use crate::ledger::{Come, Ledger, MessageIndex, Topic};
use crate::report::{Faults, Kind, Stamp};

const PUBLISHER: usize = 0;
const SUBSCRIBER: usize = 1;
const OTHER: usize = 2;
const PLAIN: Topic = Topic::Plain(0);
const SHARED: Topic = Topic::Shared(0);
const KINDS: [Kind; 6] =
    [Kind::Lost, Kind::Twice, Kind::OutOfOrder, Kind::Unasked, Kind::Unfinished, Kind::Corrupt];

/// A ledger, and what is told to it.
struct History {
    ledger: Ledger,
    faults: Faults,
    payloads: Vec<Vec<u8>>,
    connection: u32,
}

impl History {
    fn new() -> Self {
        let names = ["publisher", "subscriber", "other"].map(str::to_owned).to_vec();
        let (faults, payloads) = (Faults::default(), Vec::new());
        Self { ledger: Ledger::new(names), faults, payloads, connection: 1 }
    }

    /// A subscriber that has its SUBACK.
    fn subscribed(topic: Topic, qos: u8) -> Self {
        let mut history = Self::new();
        history.subscribe(SUBSCRIBER, topic, qos);
        history
    }

    fn subscribe(&mut self, member: usize, topic: Topic, qos: u8) {
        self.ledger.subscribing(member, topic, qos);
        self.ledger.subscribed(member, topic);
    }

    fn unsubscribe(&mut self, topic: Topic) {
        self.ledger.unsubscribing(SUBSCRIBER, topic);
        self.ledger.unsubscribed(SUBSCRIBER, topic);
    }

    fn send(&mut self, topic: Topic, qos: u8) -> MessageIndex {
        self.send_from(PUBLISHER, topic, qos, true)
    }

    fn send_from(&mut self, publisher: usize, topic: Topic, qos: u8, resumable: bool) -> MessageIndex {
        let (message, payload) = self.ledger.send(Stamp::default(), publisher, topic, qos, resumable);
        self.payloads.push(payload);
        message
    }

    /// Sent, and acknowledged to the end.
    fn deliver(&mut self, topic: Topic, qos: u8) -> MessageIndex {
        let message = self.send(topic, qos);
        self.complete(message);
        message
    }

    fn complete(&mut self, message: MessageIndex) {
        self.ledger.completed(Stamp::default(), message);
    }

    fn arrive(&mut self, message: MessageIndex, topic: Topic, qos: u8) {
        self.arrive_at(SUBSCRIBER, message, topic, qos);
    }

    fn arrive_at(&mut self, member: usize, message: MessageIndex, topic: Topic, qos: u8) {
        let (topic, payload) = (topic.name(), self.payloads[message].clone());
        let come = Come { topic: &topic, payload: &payload, qos, retain: false, dup: false };
        self.ledger.arrived(Stamp::default(), member, self.connection, &come, &mut self.faults);
    }

    /// The subscriber's connection broke, and it has come back.
    fn reconnect(&mut self) {
        self.connection += 1;
    }

    /// Exactly one fault of this kind, or none at all.
    #[track_caller]
    fn shows(mut self, expected: Option<Kind>) {
        self.ledger.judge(Stamp::default(), &mut self.faults);
        for kind in KINDS {
            let count = u64::from(expected == Some(kind));
            assert_eq!(self.faults.count(kind), count, "{kind:?}:\n{}", self.faults);
        }
    }
}

#[test]
fn what_arrives_as_it_should_is_no_fault() {
    for qos in [1, 2] {
        let mut history = History::subscribed(PLAIN, 2);
        for _ in 0..3 {
            let message = history.deliver(PLAIN, qos);
            history.arrive(message, PLAIN, qos);
        }
        assert!(history.ledger.is_settled());
        history.shows(None);
    }
}

#[test]
fn a_lost_message_is_found() {
    for qos in [1, 2] {
        let mut history = History::subscribed(PLAIN, 2);
        let first = history.deliver(PLAIN, qos);
        history.deliver(PLAIN, qos);
        history.arrive(first, PLAIN, qos);
        assert!(!history.ledger.is_settled());
        history.shows(Some(Kind::Lost));
    }
}

#[test]
fn a_message_that_one_of_two_subscribers_gets_is_lost_for_the_other() {
    let mut history = History::subscribed(PLAIN, 2);
    history.subscribe(OTHER, PLAIN, 2);
    let message = history.deliver(PLAIN, 2);
    history.arrive_at(OTHER, message, PLAIN, 2);
    history.shows(Some(Kind::Lost));
}

#[test]
fn a_message_nobody_acknowledged_may_be_lost() {
    for qos in [1, 2] {
        let mut history = History::subscribed(PLAIN, 2);
        let message = history.send_from(PUBLISHER, PLAIN, qos, false);
        history.ledger.publisher_forgot(PUBLISHER);
        assert!(history.ledger.is_settled(), "{message}");
        history.shows(None);
    }
}

#[test]
fn pubrec_is_a_promise_to_a_publisher_that_comes_back() {
    for (resumable, expected) in [(true, Some(Kind::Lost)), (false, None)] {
        let mut history = History::subscribed(PLAIN, 2);
        let message = history.send_from(PUBLISHER, PLAIN, 2, resumable);
        history.ledger.acknowledged(Stamp::default(), message);
        history.ledger.publisher_forgot(PUBLISHER);
        history.shows(expected);
    }
}

#[test]
fn an_exchange_without_an_end_is_found() {
    let mut history = History::subscribed(PLAIN, 2);
    let message = history.send(PLAIN, 2);
    history.arrive(message, PLAIN, 2);
    assert!(!history.ledger.is_settled());
    history.shows(Some(Kind::Unfinished));
}

#[test]
fn a_qos_2_message_that_comes_twice_is_found_also_across_connections() {
    for reconnects in [false, true] {
        let mut history = History::subscribed(PLAIN, 2);
        let message = history.send(PLAIN, 2);
        history.arrive(message, PLAIN, 2);
        history.ledger.sent_again(Stamp::default(), message);
        history.complete(message);
        if reconnects {
            history.reconnect();
        }
        history.arrive(message, PLAIN, 2);
        history.shows(Some(Kind::Twice));
    }
}

#[test]
fn a_qos_1_message_may_come_twice_if_it_was_sent_twice_or_the_connection_broke() {
    for (again, reconnects, expected) in
        [(true, false, None), (false, true, None), (false, false, Some(Kind::Twice))]
    {
        let mut history = History::subscribed(PLAIN, 2);
        let message = history.send(PLAIN, 1);
        history.arrive(message, PLAIN, 1);
        if again {
            history.ledger.sent_again(Stamp::default(), message);
        }
        if reconnects {
            history.reconnect();
        }
        history.complete(message);
        history.arrive(message, PLAIN, 1);
        history.shows(expected);
    }
}

#[test]
fn messages_out_of_order_are_found() {
    for qos in [1, 2] {
        let mut history = History::subscribed(PLAIN, 2);
        let (first, second) = (history.deliver(PLAIN, qos), history.deliver(PLAIN, qos));
        history.arrive(second, PLAIN, qos);
        history.arrive(first, PLAIN, qos);
        history.shows(Some(Kind::OutOfOrder));
    }
}

#[test]
fn duplicates_may_follow_those_that_came_later() {
    let mut history = History::subscribed(PLAIN, 2);
    let (first, second) = (history.deliver(PLAIN, 1), history.deliver(PLAIN, 1));
    history.arrive(first, PLAIN, 1);
    history.arrive(second, PLAIN, 1);
    history.reconnect();
    history.arrive(first, PLAIN, 1);
    history.arrive(second, PLAIN, 1);
    history.shows(None);
}

#[test]
fn order_is_promised_by_qos_and_publisher() {
    let mut history = History::subscribed(PLAIN, 2);
    let (first, second) = (history.deliver(PLAIN, 1), history.deliver(PLAIN, 2));
    let other = history.send_from(OTHER, PLAIN, 1, true);
    history.complete(other);
    history.arrive(other, PLAIN, 1);
    history.arrive(second, PLAIN, 2);
    history.arrive(first, PLAIN, 1);
    history.shows(None);
}

#[test]
fn what_comes_after_unsuback_is_found() {
    let mut history = History::subscribed(PLAIN, 2);
    history.unsubscribe(PLAIN);
    let message = history.deliver(PLAIN, 1);
    history.arrive(message, PLAIN, 1);
    history.shows(Some(Kind::Unasked));
}

#[test]
fn what_was_on_its_way_at_unsubscribe_may_come_or_not() {
    for comes in [false, true] {
        let mut history = History::subscribed(PLAIN, 2);
        let message = history.deliver(PLAIN, 1);
        history.unsubscribe(PLAIN);
        if comes {
            history.arrive(message, PLAIN, 1);
        }
        history.shows(None);
    }
}

#[test]
fn what_was_acknowledged_before_subscribe_must_not_come() {
    let mut history = History::new();
    let message = history.deliver(PLAIN, 1);
    history.subscribe(SUBSCRIBER, PLAIN, 2);
    history.arrive(message, PLAIN, 1);
    history.shows(Some(Kind::Unasked));
}

#[test]
fn what_was_on_its_way_at_subscribe_may_come_or_not() {
    for comes in [false, true] {
        let mut history = History::new();
        let message = history.send(PLAIN, 1);
        history.subscribe(SUBSCRIBER, PLAIN, 2);
        history.complete(message);
        if comes {
            history.arrive(message, PLAIN, 1);
        }
        history.shows(None);
    }
}

#[test]
fn a_message_may_come_before_suback() {
    let mut history = History::new();
    history.ledger.subscribing(SUBSCRIBER, PLAIN, 2);
    let message = history.send(PLAIN, 2);
    history.arrive(message, PLAIN, 2);
    history.complete(message);
    history.shows(None);
}

#[test]
fn a_session_that_begins_afresh_is_owed_nothing_and_must_get_nothing_from_the_last() {
    for (comes, expected) in [(false, None), (true, Some(Kind::Unasked))] {
        let mut history = History::subscribed(PLAIN, 2);
        let message = history.deliver(PLAIN, 2);
        history.ledger.began_afresh(SUBSCRIBER);
        if comes {
            history.arrive(message, PLAIN, 2);
        }
        history.shows(expected);
    }
}

#[test]
fn what_a_lost_session_was_owed_is_lost() {
    let mut history = History::subscribed(PLAIN, 2);
    history.deliver(PLAIN, 2);
    history.ledger.session_lost(SUBSCRIBER);
    history.shows(Some(Kind::Lost));
}

#[test]
fn a_group_is_owed_a_message_once_in_all() {
    for (qos, expected) in [(1, None), (2, Some(Kind::Twice))] {
        let mut history = History::subscribed(SHARED, 2);
        history.subscribe(OTHER, SHARED, 2);
        let (first, second) = (history.deliver(SHARED, qos), history.deliver(SHARED, qos));
        history.arrive_at(OTHER, second, SHARED, qos);
        history.arrive(first, SHARED, qos);
        assert!(history.ledger.is_settled());
        history.arrive_at(OTHER, first, SHARED, qos);
        history.shows(expected);
    }
}

#[test]
fn a_message_no_member_of_a_group_gets_is_lost() {
    let mut history = History::subscribed(SHARED, 2);
    history.subscribe(OTHER, SHARED, 2);
    history.deliver(SHARED, 1);
    history.shows(Some(Kind::Lost));
}

#[test]
fn a_message_that_is_cut_or_changes_its_qos_is_found() {
    let mut history = History::subscribed(PLAIN, 2);
    let message = history.deliver(PLAIN, 2);
    history.arrive(message, PLAIN, 1);
    history.shows(Some(Kind::Corrupt));

    let mut history = History::subscribed(PLAIN, 1);
    let message = history.deliver(PLAIN, 2);
    history.payloads[message].pop();
    history.arrive(message, PLAIN, 1);
    history.shows(Some(Kind::Corrupt));
}
