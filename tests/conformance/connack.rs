//! CONNACK, §3.2 of both standards: Session Present, what the server offers, what it may not say.

use crate::support::{
    Filter, PUBACK, PUBCOMP, Property, SUBACK, UNSUBACK, V3_1_1, V5, Version, broker_under_test, connect,
    find, pingreq, publish, pubrel, subscribe, unique, unsubscribe,
};
use crate::{each, join, somebody};

#[test]
fn v5_mqtt_3_2_2_1_the_connack_of_3x_has_two_bytes_and_no_reserved_flag() {
    each(&[Version::V3_1, V3_1_1], |version| {
        let mut client = somebody(version).send_to(broker_under_test());
        let connack = client.read();
        assert_eq!((connack.first_byte, &connack.body[..]), (0x20, &b"\0\0"[..]));
    });
    let mut client = somebody(V5).send_to(broker_under_test());
    assert_eq!(client.read().body[0], 0);
}

#[test]
fn v5_mqtt_3_2_2_2_v311_mqtt_3_2_2_1_no_session_is_present_after_a_clean_start() {
    each(&Version::NUMBERED, |version| {
        let id = unique("clean");
        connect(version).client_id(&id).persistent().open(broker_under_test()).disconnect();
        let client = connect(version).client_id(&id).open(broker_under_test());
        assert!(!client.accepted().session_present);
    });
}

#[test]
fn v5_mqtt_3_2_2_3_v311_mqtt_3_2_2_2_v311_mqtt_3_2_2_3_session_present_tells_whether_there_is_one() {
    each(&Version::NUMBERED, |version| {
        let persistent = connect(version).client_id(unique("kept")).persistent();
        let client = persistent.open(broker_under_test());
        assert!(!client.accepted().session_present);
        client.disconnect();
        let client = persistent.open(broker_under_test());
        assert!(client.accepted().session_present);
        client.cut();
        let client = persistent.open(broker_under_test());
        assert!(client.accepted().session_present);
        client.disconnect();
    });
}

#[test]
fn v5_mqtt_3_2_2_6_v311_mqtt_3_2_2_4_v5_mqtt_3_2_2_7_v311_mqtt_3_2_2_5_a_refusal_says_no_session_and_closes()
{
    let id = unique("kept");
    connect(V5).client_id(&id).persistent().open(broker_under_test()).disconnect();
    let refused = connect(V5).client_id(&id).persistent();
    let reason = refused.property(Property::authentication_method("none such")).refused(broker_under_test());
    assert!(reason >= 0x80);

    let id = unique("kept");
    connect(V3_1_1).client_id(&id).persistent().open(broker_under_test()).disconnect();
    let refused = connect(V3_1_1).client_id("").clean(false);
    assert_eq!(refused.refused(broker_under_test()), 0x02);
}

#[test]
fn v5_mqtt_3_2_2_9_v5_mqtt_3_2_2_10_v5_mqtt_3_2_2_13_qos_two_and_retain_are_available() {
    let client = join(V5);
    let accepted = client.accepted();
    assert_eq!(find(&accepted.properties, 0x24), None, "Maximum QoS is said only if it is 0 or 1");
    assert_ne!(accepted.number(0x25), Some(0), "retain is available");
    for id in [0x28, 0x29, 0x2A] {
        assert_ne!(
            accepted.number(id),
            Some(0),
            "{id:#04x}: wildcards, identifiers and shares are available"
        );
    }
}

#[test]
fn v5_mqtt_3_2_2_8_properties_of_the_connack_stand_once_and_have_allowed_values() {
    let client = connect(V5).open(broker_under_test());
    let properties = &client.accepted().properties;
    for property in properties.iter().filter(|property| property.id != 0x26) {
        assert_eq!(properties.iter().filter(|other| other.id == property.id).count(), 1, "{property:?}");
        assert!(
            [0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x27, 0x28, 0x29, 0x2A]
                .contains(&property.id),
            "{property:?}"
        );
    }
    assert_ne!(client.accepted().number(0x21), Some(0), "Receive Maximum is never 0");
    assert_ne!(client.accepted().number(0x27), Some(0), "Maximum Packet Size is never 0");
    assert!(matches!(client.accepted().number(0x24), None | Some(0 | 1)));
}

#[test]
fn v5_mqtt_3_1_2_28_no_response_information_unless_it_was_asked_for() {
    for connect in [somebody(V5), somebody(V5).property(Property::request_response_information(0))] {
        let client = connect.open(broker_under_test());
        assert_eq!(find(&client.accepted().properties, 0x1A), None);
    }
}

#[test]
fn v5_mqtt_3_1_2_29_without_request_problem_information_acknowledgements_bear_no_reason_strings() {
    let mut client =
        somebody(V5).property(Property::request_problem_information(0)).open(broker_under_test());
    let silent = |properties: &[Property]| {
        assert!(properties.iter().all(|property| !matches!(property.id, 0x1F | 0x26)), "{properties:?}");
    };
    client.send(&unsubscribe(V5, 1, &[unique("never subscribed")]));
    silent(&client.read().many_acks(UNSUBACK).1);
    client.send(&subscribe(V5, 2, &[], &[Filter::new("$share/no/local", 0), Filter::new("fine", 1)]));
    silent(&client.read().many_acks(SUBACK).1);
    client.send(&publish(unique("nobody"), "p").qos(1, 3).bytes(V5));
    silent(&client.read().ack(PUBACK).2);
    client.send(&pubrel(4).bytes());
    silent(&client.read().ack(PUBCOMP).2);
    client.ping();
}

#[test]
fn v5_mqtt_4_12_0_6_without_an_authentication_method_the_connack_names_none() {
    let client = join(V5);
    assert_eq!(find(&client.accepted().properties, 0x15), None);
    assert_eq!(find(&client.accepted().properties, 0x16), None);
}

#[test]
fn v5_mqtt_3_2_2_19_v5_mqtt_3_2_2_20_a_connack_fits_the_maximum_packet_size() {
    for maximum in [40_usize, 60, 100] {
        let limit = Property::maximum_packet_size(u32::try_from(maximum).unwrap());
        let mut client = connect(V5).client_id(unique("c")).property(limit).send_to(broker_under_test());
        let connack = client.read();
        assert!(connack.body.len() + 2 <= maximum, "{connack:02x?}");
        assert_eq!(connack.connack().reason, 0);
    }
    let small = somebody(V5).property(Property::maximum_packet_size(30_u32));
    let mut client =
        small.property(Property::authentication_method("none such")).send_to(broker_under_test());
    if let Some(connack) = client.read_or_closed() {
        assert!(connack.body.len() + 2 <= 30);
        client.expect_closed();
    }
}

#[test]
fn mqtt_3_12_4_1_a_pingreq_is_answered_with_a_pingresp() {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        client.send(&[pingreq(), pingreq(), pingreq()].concat());
        for _ in 0..3 {
            let pingresp = client.read();
            assert_eq!((pingresp.first_byte, pingresp.body.len()), (0xD0, 0));
        }
    });
}
