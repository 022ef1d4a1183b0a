//! What clients may do: rules in the configuration and in files, asked when publishing, subscribing and receiving.

use crate::support::{
    Broker, Connect, Filter, PUBACK, PUBREC, Property, RawClient, SUBACK, V3_1_1, V5, Version, Will, connect,
    publish, subscribe, unique,
};
use crate::{Folder, fulmar, mosquitto, said, user};

const RULES: &str = r##"
[[acl]]
action = "deny"
topics = ["house/+/secret"]

[[acl]]
user = "alice"
topics = ["house/#"]

[[acl]]
who = "identified"
topics = ["home/%u/#"]

[[acl]]
access = "subscribe"
topics = ["news/#"]
max_qos = 1

[[acl]]
access = "publish"
group = "writers"
topics = ["news/%g/+"]
retain = false
max_qos = 1

[[groups]]
name = "writers"
users = ["bob", "carol"]
"##;

fn guarded(folder: &Folder, more: &str) -> Broker {
    let users = folder.users(&["alice", "bob"]);
    Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"password-file\"]\npassword_file = {users:?}\n{more}\n{RULES}"
    ))
}

/// The codes of a SUBACK for these filters with QoS 2.
fn subscribe_all(client: &mut RawClient, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<_> = filters.iter().map(|filter| Filter::new(filter, 2)).collect();
    client.send(&subscribe(client.version, 7, &[], &filters));
    client.read_kind(SUBACK).many_acks(SUBACK).2
}

#[test]
fn publishing_is_asked_message_by_message() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    let mut watcher = user(V5, "alice").open(&broker);
    assert_eq!(subscribe_all(&mut watcher, &["house/#", "home/#", "news/#"]), [2, 2, 1]);
    let mut bob = user(V5, "bob").open(&broker);
    let mut code = |topic: &str, qos: u8, retain: bool| {
        let message = publish(topic, "bob's").qos(qos, 9);
        let message = if retain { message.retain() } else { message };
        bob.send(&message.bytes(V5));
        let (_, code, _) = bob.read().ack(if qos == 1 { PUBACK } else { PUBREC });
        code
    };
    // The refused QoS 2 exchange is over, so its identifier serves the next.
    for (topic, qos, retain, expected) in [
        ("house/a", 1, false, 0x87),
        ("house/a", 2, false, 0x87),
        ("home/alice/a", 1, false, 0x87),
        ("news/writers/today", 2, false, 0x87),
        ("news/writers/today", 1, true, 0x87),
        ("news/others/today", 1, false, 0x87),
        ("home/bob", 1, false, 0x10),
        ("news/writers/today", 1, false, 0x00),
    ] {
        assert_eq!(code(topic, qos, retain), expected, "{topic} {qos} {retain}");
    }
    assert_eq!(watcher.receive().topic, "news/writers/today");
    watcher.expect_nothing();
    broker.wait_for_log("denied: publish");
    let log = broker.log();
    let line = log.lines().find(|line| line.contains("topic=\"house/a\"")).unwrap();
    for part in ["user=\"bob\"", "client=\"bob-", "peer=127.0.0.1:", "rule=\"no rule allows it\""] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let limited = log.lines().find(|line| line.contains("topic=\"news/writers/today\"")).unwrap();
    assert!(limited.contains("fulmar.toml:") && limited.contains("(allow publish news/%g/+)"), "{limited}");
}

#[test]
fn nobody_publishes_to_sys_whatever_the_rules_say() {
    for rules in ["", "[auth]\ndenied_publish = \"close\"\n", "[[acl]]\ntopics = [\"#\", \"$SYS/#\"]\n"] {
        let broker = Broker::with_config(rules);
        let mut watcher = connect(V5).client_id("watcher").open(&broker);
        watcher.subscribe("$SYS/forged", 0);
        let mut client = connect(V5).client_id("forger").open(&broker);
        for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
            let alias = Property::topic_alias(1);
            client.send(&publish("$SYS/forged", "m").qos(qos, 9).property(alias.clone()).bytes(V5));
            assert_eq!(client.read().ack(kind).1, 0x87);
            client.send(&publish("", "m").qos(qos, 9).property(alias).bytes(V5));
            assert_eq!(client.read().ack(kind).1, 0x87);
        }
        client.publish(&publish("$SYS/forged", "m"));
        client.ping();
        let mut client = connect(V3_1_1).client_id("forger").open(&broker);
        client.send(&publish("$SYS/forged", "m").qos(1, 9).bytes(V3_1_1));
        if rules.contains("close") {
            client.expect_closed();
        } else {
            client.expect_ack(PUBACK, 9);
        }
        watcher.expect_nothing();
        broker.wait_for_log("$SYS belongs to the broker");
    }
}

/// A client that is denied something all the time is counted to the last time, and does not fill the disk with it.
#[test]
fn denials_are_counted_and_their_lines_are_bounded() {
    const MANY: usize = 3_000;
    let folder = Folder::new();
    let broker = guarded(&folder, "[sys]\ninterval = \"1s\"\n[[acl]]\ntopics = [\"$SYS/#\"]\n");
    let mut bob = user(V5, "bob").open(&broker);
    let message = publish("house/a", "m").qos(1, 1).bytes(V5);
    bob.send(&message.repeat(MANY));
    for _ in 0..MANY {
        assert_eq!(bob.read_kind(PUBACK).ack(PUBACK).1, 0x87);
    }
    assert_eq!(
        subscribe_all(
            &mut bob,
            &["house/a", "house/b", "$SYS/broker/+/denied", "$SYS/broker/publish/messages/denied"]
        ),
        [0x87, 0x87, 2, 2]
    );
    let mut counted = std::collections::BTreeMap::new();
    let expected = [("publish/messages/denied", MANY), ("subscriptions/denied", 2)];
    while !expected.iter().all(|(name, count)| counted.get(*name) == Some(&count.to_string())) {
        let value = bob.receive();
        counted.insert(value.topic.trim_start_matches("$SYS/broker/").to_owned(), value.text().to_owned());
    }
    let lines = broker.log().matches("denied: publish").count();
    assert!((100..1_000).contains(&lines), "{lines} lines");
}

#[test]
fn a_denied_message_in_the_midst_of_others_leaves_them_as_they_are() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    for version in Version::ALL {
        let topic = unique("house/run");
        let mut watcher = user(version, "alice").open(&broker);
        watcher.subscribe(&format!("{topic}/#"), 0);
        let mut alice = user(version, "alice").open(&broker);
        let messages = [("a", "1"), ("secret", "2"), ("a", "3"), ("b", "4")];
        let bytes: Vec<u8> = messages
            .iter()
            .flat_map(|(level, text)| {
                let name =
                    if *level == "secret" { "house/x/secret".to_owned() } else { format!("{topic}/{level}") };
                publish(name, *text).bytes(version)
            })
            .collect();
        alice.send(&bytes);
        for text in ["1", "3", "4"] {
            assert_eq!(watcher.receive().text(), text, "{version:?}");
        }
        watcher.expect_nothing();
    }
}

#[test]
fn a_3x_client_is_ignored_or_closed_as_configured() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    let mut bob = user(V3_1_1, "bob").open(&broker);
    for qos in 0..=2 {
        bob.publish(&publish("house/a", "m").qos(qos, 3));
    }
    let folder = Folder::new();
    let broker = guarded(&folder, "denied_publish = \"close\"");
    for qos in 0..=2 {
        let mut bob = user(V3_1_1, "bob").open(&broker);
        bob.send(&publish("house/a", "m").qos(qos, 3).bytes(V3_1_1));
        bob.expect_closed();
    }
    // Of 5.0 this does not speak.
    let mut bob = user(V5, "bob").open(&broker);
    bob.send(&publish("house/a", "m").qos(1, 3).bytes(V5));
    assert_eq!(bob.read().ack(PUBACK).1, 0x87);
    bob.ping();
}

#[test]
fn an_alias_hides_no_topic() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    let mut bob = user(V5, "bob").open(&broker);
    let alias = || Property::topic_alias(1);
    bob.send(&publish("house/a", "m").qos(1, 1).property(alias()).bytes(V5));
    assert_eq!(bob.read().ack(PUBACK).1, 0x87);
    bob.send(&publish("", "m").qos(1, 2).property(alias()).bytes(V5));
    assert_eq!(bob.read().ack(PUBACK).1, 0x87);
    bob.send(&publish("home/bob/x", "m").qos(1, 3).property(alias()).bytes(V5));
    assert_eq!(bob.read().ack(PUBACK).1, 0x10);
    bob.send(&publish("", "m").qos(1, 4).property(alias()).bytes(V5));
    assert_eq!(bob.read().ack(PUBACK).1, 0x10);
}

#[test]
fn each_filter_of_a_subscribe_gets_its_own_answer() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    for version in Version::ALL {
        let denied = if version.is_v5() { 0x87 } else { 0x80 };
        let mut bob = user(version, "bob").open(&broker);
        let codes = subscribe_all(
            &mut bob,
            &[
                "home/bob/#",
                "home/alice/#",
                "home/+/x",
                "#",
                "house/x/secret",
                "news/a",
                "$share/g/home/bob/x",
                "$share/g/house/x",
            ],
        );
        assert_eq!(codes, [2, denied, 2, 2, denied, 1, 2, denied], "{version:?}");
    }
    broker.wait_for_log("denied: subscribe");
    broker.wait_for_log("topic=\"home/alice/#\"");
}

#[test]
fn nobody_receives_through_a_wildcard_what_he_may_not_read() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    let mut alice = user(V5, "alice").open(&broker);
    alice.publish(&publish("house/kept", "retained").qos(1, 1).retain());
    alice.publish(&publish("home/alice/kept", "retained").qos(1, 1).retain());
    for version in Version::ALL {
        let mut bob = user(version, "bob").open(&broker);
        bob.subscribe("#", 2);
        bob.subscribe("+/+/+", 2);
        let mut shared = user(version, "bob").open(&broker);
        shared.subscribe("$share/g/#", 2);
        for topic in ["house/a", "home/alice/a"] {
            for qos in 0..=2 {
                alice.publish(&publish(topic, "m").qos(qos, 1));
            }
        }
        bob.expect_nothing();
        shared.expect_nothing();
        let mut carol = user(V5, "bob").open(&broker);
        carol.publish(&publish("home/bob/a", "mine").qos(2, 1));
        carol.publish(&publish("news/writers/a", "all").qos(1, 1));
        for (text, qos) in [("mine", 2), ("all", 1)] {
            let message = bob.receive();
            assert_eq!((message.text().as_str(), message.qos), (text, qos), "{version:?}");
            assert_eq!(shared.receive().text(), text, "{version:?}");
        }
    }
}

#[test]
fn a_will_is_asked_about_before_its_client_is_let_in() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    for version in Version::ALL {
        let code = if version.is_v5() { 0x87 } else { 5 };
        let with = |will: Will| -> Connect { user(version, "bob").will(will) };
        assert_eq!(with(Will::new("house/a", "gone")).refused(&broker), code, "{version:?}");
        assert_eq!(with(Will::new("news/writers/a", "gone").qos(2)).refused(&broker), code, "{version:?}");
        with(Will::new("home/bob/a", "gone")).open(&broker);
    }
    broker.wait_for_log("it may not have its will: will \"house/a\": no rule allows it");
}

#[test]
fn a_session_is_not_handed_to_another_user() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    let id = unique("shared-id");
    let as_user = |name: &str| user(V5, name).client_id(&id).persistent();
    let mut alice = as_user("alice").open(&broker);
    alice.subscribe("house/#", 1);
    alice.disconnect();
    let mut other = user(V5, "alice").open(&broker);
    other.publish(&publish("house/a", "for alice alone").qos(1, 1));
    let mut bob = as_user("bob").open(&broker);
    assert!(!bob.accepted().session_present);
    bob.expect_nothing();
    let bob_again = as_user("bob").open(&broker);
    assert!(bob_again.accepted().session_present);
}

#[test]
fn the_nameless_and_addresses_have_rules_too() {
    let config = r#"
        [[listeners]]
        address = "127.0.0.1:{PORT}"
        allow_anonymous = true
        [[acl]]
        who = "anonymous"
        address = "127.0.0.0/8"
        topics = ["lobby/%c", "lobby/%u/x"]
        [[acl]]
        address = "10.0.0.0/8"
        topics = ["far/#"]
    "#;
    let broker = Broker::with_config(config);
    let mut client = connect(V5).client_id("somebody").open(&broker);
    assert_eq!(
        subscribe_all(&mut client, &["lobby/somebody", "lobby/other", "lobby/+/x", "far/a"]),
        [2, 0x87, 0x87, 0x87]
    );
    for id in ["a/b", "+", "#", "somebody/#"] {
        let mut client = connect(V5).client_id(id).open(&broker);
        assert_eq!(subscribe_all(&mut client, &["lobby/#", "lobby/+", "lobby/a/b"]), [0x87; 3], "{id}");
        client.send(&publish("lobby/somebody", "m").qos(1, 1).bytes(V5));
        assert_eq!(client.read().ack(PUBACK).1, 0x87, "{id}");
    }
}

#[test]
fn mosquittos_rules_and_clients_work_together() {
    let folder = Folder::new();
    let rules = folder.write(
        "acl",
        "topic read public/#\nuser alice\ntopic write public/#\ntopic deny public/alice-not\npattern readwrite own/%u/#\n",
    );
    let users = folder.users(&["alice", "bob"]);
    let broker = Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"password-file\"]\npassword_file = {users:?}\nacl_file = {rules:?}\n"
    ));
    for (name, topic, code) in [
        ("alice", "public/a", 0),
        ("alice", "public/alice-not", 0x87),
        ("bob", "public/a", 0x87),
        ("bob", "own/bob/x", 0),
        ("bob", "own/alice/x", 0x87),
    ] {
        let password = format!("{name}-password");
        let arguments =
            ["-V", "mqttv5", "-u", name, "-P", &password, "-t", topic, "-m", "m", "-q", "1", "-d"];
        let output = said(&mosquitto("mosquitto_pub", broker.port(), &arguments));
        let denied = output.contains("Not authorized") || output.contains("RC:135");
        assert_eq!(denied, code == 0x87, "{name} {topic}: {output}");
    }
}

#[test]
fn the_example_with_passwords_and_rules_works_as_it_stands() {
    let root = env!("CARGO_MANIFEST_DIR");
    let example = std::fs::read_to_string(format!("{root}/examples/password-acl.toml")).unwrap();
    let folder = Folder::new();
    let users = folder.users(&["alice", "sensor-1"]);
    let example =
        example.replace(":1883", ":{PORT}").replace("\"examples/passwords\"", &format!("{users:?}"));
    assert!(example.contains("{PORT}") && example.contains(&users), "the example has other words now");
    let broker = Broker::with_config(&example);
    assert_eq!(connect(V5).client_id("nameless").refused(&broker), 0x87);
    let mut alice = user(V5, "alice").open(&broker);
    assert_eq!(subscribe_all(&mut alice, &["sensors/#", "$SYS/#"]), [2, 2]);
    let mut sensor = user(V5, "sensor-1").open(&broker);
    sensor.publish(&publish("sensors/sensor-1/temperature", "21").qos(1, 1));
    assert_eq!(
        subscribe_all(&mut sensor, &["sensors/#", "$SYS/#", "sensors/sensor-1/commands"]),
        [2, 0x87, 2]
    );
    sensor.send(&publish("sensors/sensor-2/temperature", "21").qos(1, 1).bytes(V5));
    assert_eq!(sensor.read_kind(PUBACK).ack(PUBACK).1, 0x87);
}

#[test]
fn explain_names_the_rule_that_decides() {
    let folder = Folder::new();
    let config = folder.write("fulmar.toml", RULES);
    for (arguments, told) in [
        (&["--user", "alice", "publish", "house/a"][..], "allowed: {}:6 (allow house/#)\n"),
        (&["--user", "alice", "publish", "house/a/secret"], "denied: {}:2 (deny house/+/secret)\n"),
        (
            &["--user", "bob", "--client", "c", "publish", "news/writers/a"],
            "allowed, up to QoS 1, not retained: {}:19 (allow publish news/%g/+)\n",
        ),
        (
            &["--user", "bob", "publish", "house/a"],
            "{}:6 (allow house/#) does not decide: it is about user alice\n",
        ),
        (&["publish", "home/a"], "denied: no rule allows it\n"),
        (&["subscribe", "#"], "allowed, up to QoS 1: {}:14 (allow subscribe news/#)\n"),
    ] {
        let output = fulmar(&[&["acl", "explain", "-c", &config], arguments].concat(), "");
        let expected = told.replace("{}", &config);
        assert!(
            output.status.success() && said(&output).contains(&expected),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    let output = fulmar(&["acl", "explain", "-c", &config, "publish", "a/#"], "");
    assert!(!output.status.success() && said(&output).contains("is no topic that can be published to"));
}

#[test]
fn rules_that_are_wrong_are_told_before_anything_starts() {
    let folder = Folder::new();
    let toml = folder.write("rules.toml", "[[acl]]\ntopics = [\"a/#/b\"]\n[limits]\nmax_sessions = 1\n");
    let old = folder.write("acl", "topic read a\nuser\n");
    for (file, told) in [
        (
            &toml,
            vec![
                format!("{toml}:2: acl[0].topics = [\"a/#/b\"]"),
                format!("{toml}:3: limits: only [[acl]] and [[groups]] may stand here"),
            ],
        ),
        (&old, vec![format!("{old}:2: expected something behind \"user\"")]),
    ] {
        let config = folder.write("fulmar.toml", &format!("[auth]\nacl_file = {file:?}\n"));
        for verb in ["check", "run"] {
            let output = fulmar(&[verb, "-c", &config], "");
            assert_eq!(output.status.code(), Some(1));
            for told in &told {
                assert!(said(&output).contains(told), "{told}\n{}", said(&output));
            }
        }
    }
}
