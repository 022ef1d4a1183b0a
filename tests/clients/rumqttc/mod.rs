//! rumqttc in MQTT 3.1.1 and 5.0 (it does not speak 3.1), both of its APIs through one seam.

mod adapter;

use std::thread;
use std::time::Duration;

use ::rumqttc::v5::mqttbytes::v5::{PublishProperties, SubscribeProperties};

use crate::support::unique;
use adapter::{Client, Message, Options, V3_1_1, V5};

#[test]
fn every_quality_of_service_arrives() {
    fn check<C: Client>() {
        for qos in 0..=2 {
            let topic = unique("qos");
            let mut subscriber = C::connect(&Options::new("subscriber"));
            subscriber.subscribe(&topic, qos);
            let mut publisher = C::connect(&Options::new("publisher"));
            publisher.publish(&topic, qos, false, "hello");
            assert_eq!(subscriber.message(), Message::new(&topic, qos, false, "hello"));
        }
    }
    check::<V3_1_1>();
    check::<V5>();
}

#[test]
fn the_versions_understand_each_other() {
    fn check<P: Client, S: Client>() {
        for qos in 0..=2 {
            let topic = unique("mixed");
            let mut subscriber = S::connect(&Options::new("subscriber"));
            subscriber.subscribe(&topic, qos);
            P::connect(&Options::new("publisher")).publish(&topic, qos, false, "hello");
            assert_eq!(subscriber.message(), Message::new(&topic, qos, false, "hello"));
        }
    }
    check::<V3_1_1, V5>();
    check::<V5, V3_1_1>();
}

#[test]
fn a_retained_message_waits_for_subscribers_until_it_is_cleared() {
    fn check<C: Client>() {
        let (topic, marker) = (unique("retained"), unique("marker"));
        let mut publisher = C::connect(&Options::new("publisher"));
        publisher.publish(&topic, 1, true, "kept");
        let mut subscriber = C::connect(&Options::new("subscriber"));
        subscriber.subscribe(&topic, 1);
        assert_eq!(subscriber.message(), Message::new(&topic, 1, true, "kept"));

        publisher.publish(&topic, 1, true, "");
        assert_eq!(subscriber.message(), Message::new(&topic, 1, false, ""));
        let mut late = C::connect(&Options::new("late"));
        late.subscribe(&topic, 1);
        late.subscribe(&marker, 1);
        publisher.publish(&marker, 1, false, "now");
        assert_eq!(late.message(), Message::new(&marker, 1, false, "now"), "nothing is retained any more");
    }
    check::<V3_1_1>();
    check::<V5>();
}

#[test]
fn the_will_of_a_killed_client_is_published_and_that_of_one_that_leaves_is_not() {
    fn check<C: Client>() {
        let topic = unique("will");
        let mut watcher = C::connect(&Options::new("watcher"));
        watcher.subscribe(&topic, 1);
        C::connect(&Options { will: Some((topic.clone(), "left".into())), ..Options::new("leaving") })
            .leave();
        drop(C::connect(&Options { will: Some((topic.clone(), "killed".into())), ..Options::new("killed") }));
        assert_eq!(watcher.message(), Message::new(&topic, 1, false, "killed"));
    }
    check::<V3_1_1>();
    check::<V5>();
}

#[test]
fn a_persistent_session_gets_what_came_while_it_was_away() {
    fn check<C: Client>() {
        for killed in [false, true] {
            let topic = unique("offline");
            let options = Options { persistent: true, ..Options::new("sleeper") };
            let mut first = C::connect(&options);
            assert!(!first.session_present(), "the client identifier is new");
            first.subscribe(&topic, 2);
            if killed {
                drop(first)
            } else {
                first.leave()
            }

            let mut publisher = C::connect(&Options::new("publisher"));
            for (qos, payload) in [(1, "one"), (2, "two"), (1, "three"), (2, "four")] {
                publisher.publish(&topic, qos, false, payload);
            }
            let mut second = C::connect(&options);
            assert!(second.session_present());
            for (qos, payload) in [(1, "one"), (2, "two"), (1, "three"), (2, "four")] {
                assert_eq!(second.message(), Message::new(&topic, qos, false, payload), "killed: {killed}");
            }
            second.leave();

            let clean = C::connect(&Options { persistent: false, ..options.clone() });
            assert!(!clean.session_present(), "a clean start");
            clean.leave();
            assert!(!C::connect(&options).session_present(), "the clean start ended the session");
        }
    }
    check::<V3_1_1>();
    check::<V5>();
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_member() {
    fn check<C: Client>() {
        let (topic, marker) = (unique("shared"), unique("marker"));
        let mut members = [C::connect(&Options::new("one")), C::connect(&Options::new("two"))];
        for member in &mut members {
            member.subscribe(&format!("$share/group/{topic}"), 1);
            member.subscribe(&marker, 1);
        }
        let mut publisher = C::connect(&Options::new("publisher"));
        for number in 0..40 {
            publisher.publish(&topic, 1, false, &number.to_string());
        }
        publisher.publish(&marker, 1, false, "end");
        let mut seen = Vec::new();
        for member in &mut members {
            loop {
                let message = member.message();
                if message.topic == marker {
                    break;
                }
                seen.push(message.payload.parse::<u32>().unwrap());
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..40).collect::<Vec<_>>(), "each exactly once");
    }
    check::<V3_1_1>();
    check::<V5>();
}

#[test]
fn a_large_message_arrives_whole() {
    fn check<C: Client>() {
        let topic = unique("large");
        let payload = "0123456789abcdef".repeat(20_000);
        let mut subscriber = C::connect(&Options::new("subscriber"));
        subscriber.subscribe(&topic, 2);
        C::connect(&Options::new("publisher")).publish(&topic, 2, false, &payload);
        assert!(subscriber.message() == Message::new(&topic, 2, false, &payload));
    }
    check::<V3_1_1>();
    check::<V5>();
}

#[test]
fn properties_travel_unchanged() {
    let topic = unique("properties");
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        response_topic: Some("the/answer".to_owned()),
        correlation_data: Some("42".into()),
        user_properties: vec![("colour".into(), "red".into()), ("colour".into(), "green".into())],
        content_type: Some("text/plain".to_owned()),
        ..PublishProperties::default()
    };
    let mut subscriber = V5::connect(&Options::new("subscriber"));
    subscriber.subscribe(&topic, 1);
    V5::connect(&Options::new("publisher")).publish_with(&topic, 1, "hello", sent.clone());
    let (message, received) = subscriber.message_with_properties();
    assert_eq!(message, Message::new(&topic, 1, false, "hello"));
    assert_eq!(received, Some(sent));
}

#[test]
fn every_matching_subscription_identifier_comes_with_the_message() {
    let topic = unique("identifier");
    let mut subscriber = V5::connect(&Options::new("subscriber"));
    let identified = |id| SubscribeProperties { id: Some(id), user_properties: Vec::new() };
    subscriber.subscribe_with(&topic, 1, identified(7));
    V5::connect(&Options::new("publisher")).publish(&topic, 1, false, "hello");
    let (_, properties) = subscriber.message_with_properties();
    assert_eq!(properties.unwrap_or_default().subscription_identifiers, [7]);

    // The same filter again replaces the identifier with the subscription.
    subscriber.subscribe_with(&topic, 1, identified(268_435_455));
    V5::connect(&Options::new("publisher")).publish(&topic, 1, false, "hello");
    let (_, properties) = subscriber.message_with_properties();
    assert_eq!(properties.unwrap_or_default().subscription_identifiers, [268_435_455]);
}

#[test]
fn a_topic_alias_stands_for_its_topic() {
    for qos in 0..=2 {
        let topic = unique("alias");
        // Only from client to broker: rumqttc hands an aliased message of the broker's on without its topic.
        let mut subscriber = V5::connect(&Options::new("subscriber"));
        subscriber.subscribe(&topic, qos);
        let mut publisher = V5::connect(&Options::new("publisher"));
        let aliased = PublishProperties { topic_alias: Some(1), ..PublishProperties::default() };
        for (name, payload) in [(topic.as_str(), "one"), ("", "two"), ("", "three")] {
            publisher.publish_with(name, qos, payload, aliased.clone());
        }
        for payload in ["one", "two", "three"] {
            assert_eq!(subscriber.message(), Message::new(&topic, qos, false, payload));
        }
    }
}

#[test]
fn the_message_expiry_interval_counts_down_while_the_subscriber_is_away() {
    let topic = unique("expiry");
    let options = Options { persistent: true, ..Options::new("sleeper") };
    let mut sleeper = V5::connect(&options);
    sleeper.subscribe(&topic, 1);
    sleeper.leave();
    let mut publisher = V5::connect(&Options::new("publisher"));
    for (payload, seconds) in [("short", 1), ("long", 100)] {
        let expiring =
            PublishProperties { message_expiry_interval: Some(seconds), ..PublishProperties::default() };
        publisher.publish_with(&topic, 1, payload, expiring);
    }
    // The interval itself must pass; nothing announces its end.
    thread::sleep(Duration::from_millis(2_200));
    let (message, properties) = V5::connect(&options).message_with_properties();
    assert_eq!(message.payload, "long", "the short one has expired");
    let left = properties.unwrap_or_default().message_expiry_interval.unwrap();
    assert!((80..=98).contains(&left), "{left} s left of 100 after more than two");
}
