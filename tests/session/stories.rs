//! Short histories of one pair, told one by one.

use fulmar::codec::{ProtocolVersion, QoS};

use crate::pair::{Op, Pair, Size, Terms};

fn pair(receive_maximum: u16) -> Pair {
    Pair::new(1, Terms { version: ProtocolVersion::V5, receive_maximum, aliases: 0 })
}

fn deliver(pair: &mut Pair, qos: QoS, count: usize) {
    for _ in 0..count {
        pair.apply(&Op::Deliver { qos, size: Size::Small, expiry: None, live: true });
    }
}

fn numbers(pair: &Pair, qos: QoS) -> Vec<u64> {
    pair.client.delivered().iter().filter(|(of, _)| *of == qos).map(|(_, number)| *number).collect()
}

#[test]
fn a_window_of_one_delivers_everything_in_order() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut pair = pair(1);
        // The eighth of every eleven is refused with QoS 2.
        deliver(&mut pair, qos, 7);
        pair.heal();
        pair.check();
        assert_eq!(numbers(&pair, qos), (0..7).collect::<Vec<_>>());
    }
}

#[test]
fn a_client_that_comes_back_with_a_smaller_window_gets_all_again_within_it() {
    for (qos, smaller) in [(QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 1), (QoS::ExactlyOnce, 3)] {
        let mut pair = pair(20);
        pair.apply(&Op::Ponder { millis: 1_000 });
        deliver(&mut pair, qos, 40);
        pair.apply(&Op::Run { steps: 200 });
        let before = numbers(&pair, qos).len();
        assert_eq!(before + refused(qos, 20), 20, "the first window has come");
        pair.apply(&Op::Cut);
        pair.apply(&Op::Connect { receive_maximum: smaller });
        pair.heal();
        pair.check();
    }
}

fn refused(qos: QoS, of: u64) -> usize {
    if qos == QoS::ExactlyOnce {
        (0..of).filter(|number| crate::client::is_refused(*number)).count()
    } else {
        0
    }
}

#[test]
fn a_connection_that_breaks_at_every_byte_in_turn_loses_nothing() {
    for steps in 0..120 {
        let mut pair = pair(4);
        for _ in 0..3 {
            deliver(&mut pair, QoS::ExactlyOnce, 3);
            deliver(&mut pair, QoS::AtLeastOnce, 3);
            pair.apply(&Op::Publish { qos: QoS::ExactlyOnce });
            pair.apply(&Op::Publish { qos: QoS::AtLeastOnce });
            pair.apply(&Op::Run { steps });
            pair.apply(&Op::Cut);
            pair.apply(&Op::Connect { receive_maximum: 2 });
        }
        pair.heal();
        pair.check();
    }
}

#[test]
fn a_message_too_large_gives_its_place_in_the_window_back() {
    let mut pair = pair(1);
    for _ in 0..5 {
        pair.apply(&Op::Deliver { qos: QoS::AtLeastOnce, size: Size::TooLarge, expiry: None, live: true });
        deliver(&mut pair, QoS::AtLeastOnce, 1);
    }
    pair.heal();
    pair.check();
    assert_eq!(numbers(&pair, QoS::AtLeastOnce), [1, 3, 5, 7, 9]);
}

#[test]
fn a_queue_of_expired_messages_does_not_hold_up_what_comes_after() {
    let mut pair = pair(1);
    pair.apply(&Op::Cut);
    for _ in 0..10 {
        pair.apply(&Op::Deliver { qos: QoS::AtLeastOnce, size: Size::Small, expiry: Some(1), live: true });
    }
    pair.apply(&Op::Connect { receive_maximum: 1 });
    pair.apply(&Op::Ponder { millis: 2_000 });
    pair.apply(&Op::Run { steps: 1_500 });
    deliver(&mut pair, QoS::AtLeastOnce, 1);
    pair.heal();
    pair.check();
    assert_eq!(numbers(&pair, QoS::AtLeastOnce), [0, 10], "one was sent in time, the others have expired");
}
