//! Topic Names and Topic Filters, §4.7 of both standards.

use crate::support::{
    Filter, PUBACK, RawClient, SUBACK, V5, Version, broker_under_test, publish, subscribe, unique,
    unsubscribe,
};
use crate::{each, join, somebody};

/// The server must not accept this filter: it says so in the SUBACK, or closes.
#[track_caller]
fn refused(version: Version, filter: &[u8]) {
    let mut client = join(version);
    client.send(&subscribe(version, 1, &[], &[Filter::new(filter, 1)]));
    match client.read_or_closed() {
        Some(packet) if packet.kind() == SUBACK => {
            let (_, _, reasons) = packet.many_acks(SUBACK);
            assert!(matches!(reasons[..], [0x80 | 0x8F]), "{filter:02x?} was granted: {reasons:02x?}");
        }
        Some(packet) => {
            let (reason, _) = packet.reason(crate::support::DISCONNECT);
            assert!(matches!(reason, 0x81 | 0x82 | 0x8F), "{reason:#04x}");
        }
        None => {}
    }
}

#[test]
fn v5_mqtt_4_7_1_1_v311_mqtt_4_7_1_2_a_misplaced_number_sign_is_refused() {
    each(&Version::NUMBERED, |version| {
        for filter in ["a#", "a/b#", "#a", "a/#/b", "#/", "a/#/", "##", "+#", "/#a"] {
            refused(version, filter.as_bytes());
        }
    });
}

#[test]
fn v5_mqtt_4_7_1_2_v311_mqtt_4_7_1_3_a_plus_sign_that_is_not_a_level_of_its_own_is_refused() {
    each(&Version::NUMBERED, |version| {
        for filter in ["a+", "+a", "a/b+", "a/+b/c", "++", "+/a+"] {
            refused(version, filter.as_bytes());
        }
    });
}

#[test]
fn mqtt_4_7_3_1_an_empty_filter_is_refused() {
    each(&Version::NUMBERED, |version| refused(version, b""));
}

#[test]
fn mqtt_4_7_3_2_a_null_character_in_a_topic_or_filter_closes_the_connection() {
    each(&Version::NUMBERED, |version| {
        for packet in [
            publish("a\0", "p").bytes(version),
            subscribe(version, 1, &[], &[Filter::new("a\0", 0)]),
            unsubscribe(version, 1, &["a\0"]),
        ] {
            let mut client = join(version);
            client.send(&packet);
            client.expect_error(&[0x81, 0x8F, 0x90]);
        }
    });
}

/// A Topic Filter, a Topic Name and whether they match; `{}` stands for a level of the test's own.
const MATCHES: [(&str, &str, bool); 22] = [
    ("{}/sport/tennis/player1/#", "{}/sport/tennis/player1", true),
    ("{}/sport/tennis/player1/#", "{}/sport/tennis/player1/ranking", true),
    ("{}/sport/tennis/player1/#", "{}/sport/tennis/player1/score/wimbledon", true),
    ("{}/sport/#", "{}/sport", true),
    ("{}/sport/#", "{}/sports", false),
    ("{}/+", "{}/sport", true),
    ("{}/+", "{}", false),
    ("{}/+", "{}/", true),
    ("{}/+", "{}/a/b", false),
    ("{}/+/tennis/#", "{}/a/tennis", true),
    ("{}/+/tennis/#", "{}/a/b/tennis", false),
    ("+/{}", "a/{}", true),
    ("+/{}", "/{}", true),
    ("+/{}", "{}", false),
    ("{}/a/+/c", "{}/a//c", true),
    ("{}/a", "{}/a/b", false),
    ("{}/a/b", "{}/a", false),
    ("{}/a", "{}/a/", false),
    ("{}//b", "{}//b", true),
    ("{}//b", "{}/b", false),
    ("{}/#", "{}/", true),
    ("{}/+/+/+", "{}///", true),
];

#[test]
fn v5_mqtt_4_7_1_1_v311_mqtt_4_7_1_2_v5_mqtt_4_7_1_2_v311_mqtt_4_7_1_3_filters_match_as_the_standard_says() {
    each(&Version::ALL, |version| {
        for (filter, topic, matches) in MATCHES {
            let root = unique("t");
            let (filter, topic) = (filter.replace("{}", &root), topic.replace("{}", &root));
            let mut client = join(version);
            client.subscribe(&filter, 0);
            client.publish(&publish(&topic, "m"));
            let received = client.all_before_pingresp().len();
            assert_eq!(received, usize::from(matches), "{filter} and {topic}");

            client.publish(&publish(&topic, "m").retain());
            let mut late = join(version);
            late.subscribe(&filter, 0);
            let received = late.all_before_pingresp().len();
            assert_eq!(received, usize::from(matches), "{filter} and {topic}, retained");
            client.publish(&publish(&topic, "").retain());
        }
    });
}

#[test]
fn mqtt_4_7_3_4_names_are_compared_character_by_character() {
    each(&Version::ALL, |version| {
        let root = unique("t");
        let names = [
            format!("{root}/accounts"),
            format!("{root}/ACCOUNTS"),
            format!("{root}/Accounts"),
            format!("{root}/accounts "),
            format!("{root}/ accounts"),
            format!("{root}/accounts/"),
            format!("/{root}/accounts"),
            format!("{root}//accounts"),
            format!("{root}/caf\u{E9}"),
            format!("{root}/cafe\u{301}"),
            format!("{root}/\u{212B}"),
            format!("{root}/\u{C5}"),
            format!("{root}/\u{FB01}"),
            format!("{root}/fi"),
        ];
        let mut client = join(version);
        for name in &names {
            client.subscribe(name, 0);
            for other in &names {
                client.publish(&publish(other, other));
            }
            let message = client.read_publish();
            assert_eq!(&message.topic, name);
            client.expect_nothing();
            client.unsubscribe(name);
        }
    });
}

#[test]
fn mqtt_4_7_3_3_a_topic_may_be_as_long_as_65535_bytes() {
    each(&Version::ALL, |version| {
        let topic = format!("{}/{}", unique("t"), "x".repeat(65_535));
        let topic = &topic[..65_535];
        let mut client = join(version);
        client.subscribe(topic, 1);
        client.publish(&publish(topic, "m").qos(1, 1));
        assert_eq!(client.receive().topic, topic);
        client.unsubscribe(topic);
    });
}

#[test]
fn mqtt_4_7_3_3_a_topic_may_have_very_many_levels() {
    each(&Version::ALL, |version| {
        let root = unique("t");
        let topic = format!("{root}{}", "/".repeat(10_000));
        let mut client = join(version);
        client.subscribe(&format!("{root}/#"), 0);
        client.publish(&publish(&topic, "m"));
        assert_eq!(client.read_publish().topic, topic);
        client.unsubscribe(&format!("{root}/#"));
        client.subscribe(&topic, 0);
        client.publish(&publish(&topic, "n"));
        assert_eq!(client.read_publish().text(), "n");
    });
}

/// Drops what other tests publish meanwhile.
fn those_of<'a>(messages: &'a [String], mark: &str) -> Vec<&'a String> {
    messages.iter().filter(|topic| topic.contains(mark)).collect()
}

/// The topics of all that came before the answer to a ping.
#[track_caller]
fn topics(client: &mut RawClient) -> Vec<String> {
    client.all_before_pingresp().iter().map(|packet| packet.publish().topic).collect()
}

#[test]
fn mqtt_4_7_2_1_a_filter_that_begins_with_a_wildcard_does_not_match_a_topic_that_begins_with_a_dollar_sign() {
    each(&Version::ALL, |version| {
        let mark = unique("dollar");
        let mut everything = join(version);
        everything.subscribe("#", 0);
        let mut two_levels = join(version);
        two_levels.subscribe(&format!("+/{mark}"), 0);
        let mut publisher = join(version);
        for topic in [format!("$fulmar/{mark}"), format!("${mark}"), format!("plain/{mark}"), mark.clone()] {
            publisher.send(&publish(&topic, "m").qos(1, 1).bytes(version));
            publisher.read().ack(PUBACK);
        }
        let seen = topics(&mut everything);
        assert_eq!(those_of(&seen, &mark), [&format!("plain/{mark}"), &mark]);
        assert!(seen.iter().all(|topic| !topic.starts_with('$')), "{seen:?}");
        assert_eq!(topics(&mut two_levels), [format!("plain/{mark}")]);
    });
}

#[test]
fn mqtt_4_7_2_1_a_dollar_topic_is_not_sent_as_retained_to_a_leading_wildcard() {
    let mark = unique("dollar");
    let mut publisher = join(V5);
    publisher.send(&publish(format!("$fulmar/{mark}"), "m").qos(1, 1).retain().bytes(V5));
    publisher.read().ack(PUBACK);
    for filter in ["#".to_string(), format!("+/{mark}"), "+/#".to_string()] {
        let mut client = join(V5);
        client.subscribe(&filter, 0);
        let seen = topics(&mut client);
        assert!(seen.iter().all(|topic| !topic.starts_with('$')), "{filter}: {seen:?}");
    }
    publisher.send(&publish(format!("$fulmar/{mark}"), "").qos(1, 1).retain().bytes(V5));
    publisher.read().ack(PUBACK);
}

#[test]
fn mqtt_4_7_2_1_a_dollar_sign_further_inside_is_a_character_like_others() {
    each(&Version::ALL, |version| {
        let root = unique("t");
        let mut client = somebody(version).open(broker_under_test());
        client.subscribe(&format!("{root}/+/x"), 0);
        client.publish(&publish(format!("{root}/$SYS/x"), "m"));
        assert_eq!(client.read_publish().text(), "m");
    });
}
