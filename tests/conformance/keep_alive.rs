//! Keep Alive, §3.1.2.10 of both standards. What is tested here is the passing of time itself.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{DISCONNECT, V5, Version, broker_under_test, puback, publish};
use crate::{each, join, somebody};

#[test]
fn v5_mqtt_3_1_2_22_v5_mqtt_3_2_2_22_v311_mqtt_3_1_2_24_silence_of_one_and_a_half_keep_alives_closes() {
    thread::scope(|scope| {
        for version in Version::ALL {
            for keep_alive in [1, 2] {
                scope.spawn(move || {
                    let mut client = somebody(version).keep_alive(keep_alive).open(broker_under_test());
                    let announced = client.accepted().number(0x13).unwrap_or(keep_alive.into());
                    let (time, last) = client.time_until_closed(Duration::from_secs(10));
                    let span = Duration::from_millis(u64::from(announced) * 1500);
                    assert!(
                        time + Duration::from_millis(100) >= span,
                        "{version:?}: after {time:?} of {span:?}"
                    );
                    assert!(
                        time <= span + Duration::from_millis(1500),
                        "{version:?}: after {time:?} of {span:?}"
                    );
                    if version.is_v5() {
                        assert_eq!(last.expect("a DISCONNECT").reason(DISCONNECT).0, 0x8D);
                    } else {
                        assert_eq!(last, None);
                    }
                });
            }
        }
    });
}

#[test]
fn v5_mqtt_3_1_2_22_v311_mqtt_3_1_2_24_any_packet_keeps_the_connection_alive() {
    thread::scope(|scope| {
        for version in Version::ALL {
            scope.spawn(move || {
                let mut client = somebody(version).keep_alive(1).open(broker_under_test());
                let start = Instant::now();
                for turn in 0..4 {
                    // Longer than the Keep Alive, shorter than one and a half of it.
                    thread::sleep(Duration::from_millis(1050));
                    match turn {
                        0 | 3 => client.ping(),
                        1 => client.send(&publish("keep/alive", "p").bytes(version)),
                        _ => client.send(&puback(1).bytes()),
                    }
                }
                client.ping();
                assert!(start.elapsed() > Duration::from_secs(4));
            });
        }
    });
}

#[test]
fn v5_mqtt_3_1_2_22_v311_mqtt_3_1_2_24_what_the_server_sends_does_not_keep_a_connection_alive() {
    each(&[V5], |version| {
        let topic = crate::support::unique("t");
        let mut client = somebody(version).keep_alive(1).open(broker_under_test());
        client.subscribe(&topic, 0);
        let start = Instant::now();
        let mut publisher = join(version);
        client.set_patience(Duration::from_millis(10_000));
        while start.elapsed() < Duration::from_millis(1200) {
            publisher.publish(&publish(&topic, "m"));
            thread::sleep(Duration::from_millis(200));
        }
        let (time, last) = client.time_until_closed(Duration::from_secs(5));
        assert!(time < Duration::from_secs(3), "after {time:?}");
        assert_eq!(last.expect("a DISCONNECT").first_byte, DISCONNECT);
    });
}

#[test]
fn v5_mqtt_3_1_2_22_v311_mqtt_3_1_2_24_a_keep_alive_of_zero_never_closes() {
    each(&[Version::V3_1_1, V5], |version| {
        let mut silent = somebody(version).keep_alive(0).open(broker_under_test());
        let mut clock = somebody(version).keep_alive(2).open(broker_under_test());
        clock.time_until_closed(Duration::from_secs(10));
        silent.ping();
    });
}
