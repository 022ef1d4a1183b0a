//! Client Identifiers, §3.1.3.1 of both standards.

use crate::support::{
    Property, V3_1, V3_1_1, V5, Version, broker_under_test, connect, find, publish, unique,
};
use crate::{each, join};

#[test]
fn mqtt_3_1_3_2_the_session_belongs_to_the_client_identifier() {
    each(&Version::NUMBERED, |version| {
        let (one, other) = (unique("one"), unique("other"));
        let topic = unique("t");
        let mut client = connect(version).client_id(&one).persistent().open(broker_under_test());
        client.subscribe(&topic, 1);
        client.disconnect();
        let stranger = connect(version).client_id(&other).persistent().open(broker_under_test());
        assert!(!stranger.accepted().session_present);
        let shouted = connect(version).client_id(one.to_uppercase()).persistent().open(broker_under_test());
        assert!(!shouted.accepted().session_present, "Client Identifiers are case sensitive");
        join(version).publish(&publish(&topic, "m").qos(1, 1));
        let mut client = connect(version).client_id(&one).persistent().open(broker_under_test());
        assert!(client.accepted().session_present);
        assert_eq!(client.receive().text(), "m");
    });
}

#[test]
fn mqtt_3_1_3_5_every_letter_and_digit_is_allowed_up_to_23_bytes() {
    each(&Version::ALL, |version| {
        let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        for start in (0..62).step_by(13) {
            let id: String = letters.chars().cycle().skip(start).take(23).collect();
            let tagged = format!("{}{}", version as u8, &id[1..]);
            connect(version).client_id(tagged).open(broker_under_test());
        }
        connect(version).client_id(format!("{}", version as u8)).open(broker_under_test());
    });
}

#[test]
fn mqtt_3_1_3_4_characters_beyond_ascii_are_allowed() {
    each(&Version::NUMBERED, |version| {
        connect(version).client_id(format!("{}-ä-漢-🦅 /+#", unique("c"))).open(broker_under_test());
    });
}

#[test]
fn v5_mqtt_3_1_3_6_v5_mqtt_3_1_3_7_v5_mqtt_3_2_2_16_an_empty_client_identifier_gets_a_unique_one() {
    let mut assigned = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let client = connect(V5).open(broker_under_test());
        let id = find(&client.accepted().properties, 0x12).and_then(Property::text).expect("an assigned one");
        assert!(!id.is_empty() && !assigned.contains(&id), "{id}");
        assert!(!client.accepted().session_present);
        assigned.push(id);
        clients.push(client);
    }
    clients.iter_mut().for_each(crate::support::RawClient::ping);
}

#[test]
fn v5_mqtt_3_1_3_7_an_assigned_client_identifier_can_be_used_to_come_back() {
    let topic = unique("t");
    let mut client = connect(V5).persistent().open(broker_under_test());
    let id = find(&client.accepted().properties, 0x12).and_then(Property::text).unwrap();
    client.subscribe(&topic, 1);
    client.disconnect();
    join(V5).publish(&publish(&topic, "kept").qos(1, 1));
    let mut client = connect(V5).client_id(&id).persistent().open(broker_under_test());
    assert!(client.accepted().session_present);
    assert_eq!(find(&client.accepted().properties, 0x12), None, "only who sent none is assigned one");
    assert_eq!(client.receive().text(), "kept");
}

#[test]
fn v311_mqtt_3_1_3_6_empty_client_identifiers_with_clean_session_do_not_disturb_each_other() {
    let mut clients: Vec<_> = (0..3).map(|_| connect(V3_1_1).open(broker_under_test())).collect();
    clients.iter_mut().for_each(crate::support::RawClient::expect_nothing);
}

#[test]
fn v311_mqtt_3_1_3_7_v311_mqtt_3_1_3_8_v311_mqtt_3_1_3_9_an_empty_client_identifier_needs_clean_session() {
    assert_eq!(connect(V3_1_1).clean(false).refused(broker_under_test()), 0x02);
}

#[test]
fn v311_mqtt_3_1_3_9_an_empty_client_identifier_of_3_1_is_refused() {
    assert_eq!(connect(V3_1).clean(true).refused(broker_under_test()), 0x02);
}
