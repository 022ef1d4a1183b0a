//! What a message carries besides its payload, and its expiry: 5.0 §3.3.2.3.

use std::thread;
use std::time::Duration;

use crate::join;
use crate::support::{
    Filter, Property, Publish, PublishView, V3_1_1, V5, broker_under_test, connect, publish, unique,
};

/// A property of every kind that is forwarded, mixed with User Properties.
fn all_forwarded() -> Vec<Property> {
    vec![
        Property::user("z", "1"),
        Property::content_type("application/x-eagle; ä"),
        Property::user("a", ""),
        Property::correlation_data(&[0, 1, 0xFF]),
        Property::user("", "empty name"),
        Property::payload_format(1),
        Property::user("z", "1"),
        Property::response_topic("answer/to/me"),
        Property::user("z", "0"),
    ]
}

fn with(publish: Publish, properties: &[Property]) -> Publish {
    properties.iter().cloned().fold(publish, Publish::property)
}

#[track_caller]
fn assert_forwarded(received: &[Property], sent: &[Property]) {
    let users =
        |all: &[Property]| all.iter().filter(|property| property.id == 0x26).cloned().collect::<Vec<_>>();
    assert_eq!(users(received), users(sent), "User Properties changed or out of order");
    for property in sent {
        assert!(received.contains(property), "{property:?} is missing in {received:?}");
    }
    assert_eq!(received.len(), sent.len(), "{received:?}");
}

#[test]
fn v5_mqtt_3_3_2_4_v5_mqtt_3_3_2_15_v5_mqtt_3_3_2_16_v5_mqtt_3_3_2_17_v5_mqtt_3_3_2_18_v5_mqtt_3_3_2_20_properties_pass_unaltered()
 {
    let topic = unique("t");
    let mut one = join(V5);
    one.subscribe(&topic, 2);
    let mut other = join(V5);
    other.subscribe(&topic, 0);
    let mut publisher = join(V5);
    for qos in 0..=2 {
        publisher.publish(&with(publish(&topic, "payload").qos(qos, 1), &all_forwarded()));
        for client in [&mut one, &mut other] {
            let message = client.receive();
            assert_eq!(message.text(), "payload");
            assert_forwarded(&message.properties, &all_forwarded());
        }
    }
}

#[test]
fn v5_mqtt_3_3_2_17_properties_survive_being_retained_and_queued() {
    let topic = unique("t");
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    client.subscribe(&topic, 1);
    client.disconnect();
    join(V5).publish(&with(publish(&topic, "m").qos(1, 1).retain(), &all_forwarded()));
    assert_forwarded(&persistent.open(broker_under_test()).receive().properties, &all_forwarded());
    let mut late = join(V5);
    late.subscribe(&topic, 1);
    assert_forwarded(&late.receive().properties, &all_forwarded());
}

#[test]
fn v5_mqtt_3_3_2_4_a_payload_format_is_forwarded_unaltered_whatever_it_says() {
    let topic = unique("t");
    let mut client = join(V5);
    client.subscribe(&topic, 0);
    for format in [0, 2, 233] {
        client.publish(&publish(&topic, [0xFF]).property(Property::payload_format(format)));
        let message = client.read_publish();
        assert_eq!((message.number(0x01), message.payload), (Some(format.into()), vec![0xFF]));
    }
}

#[test]
fn v5_mqtt_3_3_2_17_an_alias_and_an_expiry_amid_other_properties_leave_them_whole() {
    let topic = unique("t");
    let mut client = join(V5);
    client.subscribe(&topic, 0);
    let mut mixed = all_forwarded();
    mixed.insert(2, Property::topic_alias(1));
    mixed.insert(5, Property::message_expiry(1000_u32));
    client.publish(&with(publish(&topic, "m"), &mixed));
    let message = client.read_publish();
    assert!(matches!(message.number(0x02), Some(995..=1000)));
    let rest: Vec<_> = message.properties.into_iter().filter(|property| property.id != 0x02).collect();
    assert_forwarded(&rest, &all_forwarded());
}

#[test]
fn v5_mqtt_3_3_2_5_v5_mqtt_3_3_2_6_an_expired_message_is_not_delivered_and_the_interval_counts_down() {
    let topic = unique("t");
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    client.subscribe(&topic, 2);
    client.disconnect();
    let old_persistent = connect(V3_1_1).client_id(unique("c")).persistent();
    let mut old = old_persistent.open(broker_under_test());
    old.subscribe(&topic, 2);
    old.disconnect();
    let mut publisher = join(V5);
    let expiring = |text: &str, qos, seconds: u32| {
        publish(&topic, text).qos(qos, 1).property(Property::message_expiry(seconds))
    };
    publisher.publish(&expiring("short one", 1, 1));
    publisher.publish(&expiring("long", 1, 100));
    publisher.publish(&expiring("short two", 2, 1));
    publisher.publish(&publish(&topic, "forever").qos(2, 2));
    // The passing of time is what is tested.
    thread::sleep(Duration::from_millis(2200));
    for mut client in [persistent.open(broker_under_test()), old_persistent.open(broker_under_test())] {
        let long = client.receive();
        assert_eq!(long.text(), "long");
        if client.version.is_v5() {
            assert!(matches!(long.number(0x02), Some(90..=98)), "{:?}", long.properties);
        }
        let forever = client.receive();
        assert_eq!((forever.text().as_str(), forever.number(0x02)), ("forever", None));
        client.expect_nothing();
    }
}

#[test]
fn v5_mqtt_3_3_2_5_v5_mqtt_3_3_2_6_retained_messages_expire_too() {
    let topic = unique("t");
    let mut publisher = join(V5);
    let retained = |level: &str, seconds: u32| {
        publish(format!("{topic}/{level}"), "m")
            .qos(1, 1)
            .retain()
            .property(Property::message_expiry(seconds))
    };
    publisher.publish(&retained("short", 1));
    publisher.publish(&retained("long", 100));
    // The passing of time is what is tested.
    thread::sleep(Duration::from_millis(2200));
    let mut client = join(V5);
    client.subscribe(&format!("{topic}/#"), 1);
    let message = client.receive();
    assert_eq!(message.topic, format!("{topic}/long"));
    assert!(matches!(message.number(0x02), Some(90..=98)), "{:?}", message.properties);
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_3_2_6_an_expiry_of_a_message_sent_at_once_is_the_one_received() {
    let topic = unique("t");
    let mut client = join(V5);
    client.subscribe(&topic, 0);
    for seconds in [10, 100_000, u32::MAX] {
        client.publish(&publish(&topic, "m").property(Property::message_expiry(seconds)));
        let left = client.read_publish().number(0x02).expect("the interval is sent on");
        assert!(left <= seconds && left >= seconds - 3, "{left} of {seconds}");
    }
}

#[test]
fn v5_mqtt_3_3_2_17_v5_mqtt_3_1_2_29_without_request_problem_information_messages_keep_their_user_properties()
{
    let topic = unique("t");
    let silent = connect(V5).client_id(unique("c")).property(Property::request_problem_information(0));
    let mut client = silent.open(broker_under_test());
    client.subscribe(&topic, 0);
    join(V5).publish(&with(publish(&topic, "m"), &all_forwarded()));
    assert_forwarded(&client.read_publish().properties, &all_forwarded());
}

#[test]
fn v5_mqtt_3_3_2_5_a_message_that_expires_behind_a_full_window_is_not_delivered() {
    let topic = unique("t");
    let narrow = connect(V5).client_id(unique("c")).property(Property::receive_maximum(1));
    let mut client = narrow.open(broker_under_test());
    client.subscribe(&topic, 1);
    let mut publisher = join(V5);
    publisher.publish(&publish(&topic, "first").qos(1, 1));
    publisher.publish(&publish(&topic, "expires").qos(1, 2).property(Property::message_expiry(1_u32)));
    publisher.publish(&publish(&topic, "last").qos(1, 3).property(Property::message_expiry(100_u32)));
    let first = client.read_publish();
    // The passing of time is what is tested.
    thread::sleep(Duration::from_millis(2200));
    client.complete(&first);
    let last = client.receive();
    assert_eq!(last.text(), "last");
    assert!(matches!(last.number(0x02), Some(90..=98)), "{:?}", last.properties);
    client.expect_nothing();
}

#[test]
fn v5_mqtt_3_3_2_17_v5_mqtt_3_3_1_13_v5_mqtt_3_3_4_3_a_message_sent_again_is_the_same_message() {
    let topic = unique("t");
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.open(broker_under_test());
    let filters = [Filter::new(&topic, 2).retain_as_published()];
    client.subscribe_with(&[Property::subscription_identifier(77_usize)], &filters);
    let mut publisher = join(V5);
    publisher.publish(&with(publish(&topic, "one").qos(1, 1).retain(), &all_forwarded()));
    publisher.publish(&with(publish(&topic, "two").qos(2, 2), &all_forwarded()));
    let sent = [client.read_publish(), client.read_publish()];
    client.cut();
    let mut client = persistent.open(broker_under_test());
    for before in sent {
        assert_eq!(client.receive(), PublishView { dup: true, ..before });
    }
}
