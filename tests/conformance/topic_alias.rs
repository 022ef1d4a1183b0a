//! Topic Aliases, both ways: 5.0 §3.3.2.3.4.

use std::collections::HashMap;

use crate::support::{
    Property, PublishView, RawClient, V3_1_1, V5, broker_under_test, connect, publish, unique,
};
use crate::{join, somebody};

/// The highest alias the server accepts.
fn maximum(client: &RawClient) -> u16 {
    u16::try_from(client.accepted().number(0x22).unwrap_or(0)).unwrap()
}

#[test]
fn v5_mqtt_3_3_2_12_every_alias_the_server_offers_can_be_used() {
    let prefix = unique("alias");
    let mut client = join(V5);
    let maximum = maximum(&client);
    assert!(maximum > 0, "the server offers no aliases");
    let mut watcher = join(V3_1_1);
    watcher.subscribe(&format!("{prefix}/#"), 0);
    for alias in 1..=maximum {
        let topic = format!("{prefix}/{alias}");
        client.publish(&publish(topic, "named").property(Property::topic_alias(alias)));
    }
    for alias in 1..=maximum {
        client.publish(&publish("", "by alias").property(Property::topic_alias(alias)));
    }
    for text in ["named", "by alias"] {
        for alias in 1..=maximum {
            let message = watcher.read_publish();
            assert_eq!((message.text(), message.topic), (text.to_string(), format!("{prefix}/{alias}")));
        }
    }
}

#[test]
fn v5_mqtt_3_3_2_12_an_alias_may_be_given_to_another_topic_and_serves_every_qos() {
    let (one, two) = (unique("alias"), unique("alias"));
    let mut watcher = join(V5);
    watcher.subscribe(&one, 2);
    watcher.subscribe(&two, 2);
    let mut client = join(V5);
    let alias = || Property::topic_alias(1);
    client.publish(&publish(&one, "1").qos(1, 1).property(alias()));
    client.publish(&publish("", "2").qos(2, 2).property(alias()));
    client.publish(&publish(&two, "3").property(alias()));
    client.publish(&publish("", "4").qos(1, 3).property(alias()));
    let received: Vec<_> = (0..4).map(|_| watcher.receive()).collect();
    let topics: Vec<_> = received.iter().map(|message| message.topic.as_str()).collect();
    assert_eq!(topics, [&one, &one, &two, &two]);
    assert!(received.iter().all(|message| message.number(0x23).is_none()), "aliases are not forwarded");
}

#[test]
fn v5_mqtt_3_3_2_8_an_alias_of_zero_is_an_error() {
    let mut client = join(V5);
    client.send(&publish("t", "p").property(Property::topic_alias(0)).bytes(V5));
    client.expect_error(&[0x82, 0x94]);
}

#[test]
fn v5_mqtt_3_3_2_9_v5_mqtt_3_2_2_17_an_alias_above_the_maximum_is_an_error() {
    let mut client = join(V5);
    let above = maximum(&client).checked_add(1).expect("a server that takes every alias cannot be exceeded");
    client.send(&publish("t", "p").property(Property::topic_alias(above)).bytes(V5));
    client.expect_error(&[0x94]);
}

#[test]
fn v5_mqtt_4_13_1_1_an_alias_that_was_never_set_is_a_protocol_error() {
    let mut client = join(V5);
    client.send(&publish("", "p").property(Property::topic_alias(1)).bytes(V5));
    client.expect_error(&[0x82]);
}

#[test]
fn v5_mqtt_4_13_1_1_no_topic_and_no_alias_is_a_protocol_error() {
    let mut client = join(V5);
    client.send(&publish("", "p").bytes(V5));
    client.expect_error(&[0x82]);
}

#[test]
fn v5_mqtt_3_3_2_7_aliases_end_with_their_connection() {
    let connect = connect(V5).client_id(unique("c")).persistent();
    let mut client = connect.open(broker_under_test());
    client.publish(&publish(unique("t"), "p").qos(1, 1).property(Property::topic_alias(1)));
    client.cut();
    let mut client = connect.open(broker_under_test());
    assert!(client.accepted().session_present);
    client.send(&publish("", "p").property(Property::topic_alias(1)).bytes(V5));
    client.expect_error(&[0x82]);
}

#[test]
fn v5_mqtt_3_1_2_27_v5_mqtt_3_1_2_26_who_offers_no_aliases_is_sent_none() {
    for connect in [somebody(V5), somebody(V5).property(Property::topic_alias_maximum(0))] {
        let topic = unique("alias");
        let mut client = connect.open(broker_under_test());
        client.subscribe(&topic, 0);
        let mut publisher = join(V5);
        publisher.publish(&publish(&topic, "1").property(Property::topic_alias(1)));
        publisher.publish(&publish("", "2").property(Property::topic_alias(1)));
        for _ in 0..2 {
            let message = client.read_publish();
            assert_eq!((message.topic.as_str(), message.number(0x23)), (topic.as_str(), None));
        }
    }
}

/// The topic of a message, resolved with the aliases seen so far.
#[track_caller]
fn resolve(aliases: &mut HashMap<u32, String>, message: &PublishView, maximum: u32) -> String {
    let Some(alias) = message.number(0x23) else {
        assert!(!message.topic.is_empty(), "neither topic nor alias");
        return message.topic.clone();
    };
    assert!((1..=maximum).contains(&alias), "alias {alias}, though only {maximum} are allowed");
    if !message.topic.is_empty() {
        aliases.insert(alias, message.topic.clone());
    }
    aliases.get(&alias).expect("an alias that was set before on this connection").clone()
}

#[test]
fn v5_mqtt_3_3_2_11_v5_mqtt_3_1_2_26_v5_mqtt_3_3_2_7_aliases_of_the_server_stay_within_the_clients_maximum() {
    let prefix = unique("alias");
    let offering = connect(V5).client_id(unique("c")).persistent().property(Property::topic_alias_maximum(2));
    let mut client = offering.open(broker_under_test());
    client.subscribe(&format!("{prefix}/#"), 1);
    let mut publisher = join(V5);
    for connection in 0..2 {
        let mut aliases = HashMap::new();
        for turn in 0..12 {
            let topic = format!("{prefix}/{}", turn % 4);
            publisher.publish(&publish(&topic, format!("{connection} {turn}")).qos(1, 1));
            let message = client.receive();
            assert_eq!(resolve(&mut aliases, &message, 2), topic);
            assert_eq!(message.text(), format!("{connection} {turn}"));
        }
        client.cut();
        client = offering.open(broker_under_test());
    }
}

#[test]
fn v5_mqtt_3_1_2_27_v5_mqtt_3_3_2_7_a_maximum_of_an_earlier_connection_does_not_count() {
    let topic = unique("alias");
    let persistent = connect(V5).client_id(unique("c")).persistent();
    let mut client = persistent.clone().property(Property::topic_alias_maximum(5)).open(broker_under_test());
    client.subscribe(&topic, 1);
    let mut publisher = join(V5);
    for _ in 0..3 {
        publisher.publish(&publish(&topic, "m").qos(1, 1));
        client.receive();
    }
    publisher.publish(&publish(&topic, "in flight").qos(1, 1));
    client.read_publish();
    client.cut();
    publisher.publish(&publish(&topic, "queued").qos(1, 1));
    let mut client = persistent.open(broker_under_test());
    for text in ["in flight", "queued"] {
        let message = client.receive();
        assert_eq!(
            (message.text().as_str(), message.topic.as_str(), message.number(0x23)),
            (text, &*topic, None)
        );
    }
}

#[test]
fn v5_mqtt_3_1_2_26_aliases_go_with_redelivery_and_the_queue_too() {
    let topic = unique("alias");
    let persistent =
        connect(V5).client_id(unique("c")).persistent().property(Property::topic_alias_maximum(1));
    let mut client = persistent.open(broker_under_test());
    client.subscribe(&format!("{topic}/#"), 1);
    let mut publisher = join(V5);
    let mut send = |level: &str| publisher.publish(&publish(format!("{topic}/{level}"), level).qos(1, 1));
    ["a", "b", "a"].into_iter().for_each(&mut send);
    let mut aliases = HashMap::new();
    for level in ["a", "b", "a"] {
        assert_eq!(resolve(&mut aliases, &client.read_publish(), 1), format!("{topic}/{level}"));
    }
    client.cut();
    ["b", "a"].into_iter().for_each(&mut send);
    let mut client = persistent.open(broker_under_test());
    let mut aliases = HashMap::new();
    for level in ["a", "b", "a", "b", "a"] {
        assert_eq!(resolve(&mut aliases, &client.receive(), 1), format!("{topic}/{level}"));
    }
}
