//! Enhanced authentication without a method configured, 5.0 §4.12 and §3.15.

use crate::support::{Property, RawClient, V5, auth, broker_under_test, frame, publish, unique};
use crate::{join, somebody};

#[test]
fn v5_mqtt_4_12_0_1_v5_mqtt_4_12_0_4_v5_mqtt_3_1_4_2_an_unknown_method_is_refused() {
    let connect = somebody(V5).property(Property::authentication_method("SCRAM-UNKNOWN"));
    for connect in [connect.clone(), connect.property(Property::authentication_data(b"data"))] {
        assert!(matches!(connect.refused(broker_under_test()), 0x8C | 0x87));
    }
}

#[test]
fn v5_mqtt_3_1_2_30_v5_mqtt_3_1_4_6_what_a_client_sends_before_its_authentication_is_over_is_not_processed() {
    let topic = unique("t");
    let mut watcher = join(V5);
    watcher.subscribe(&topic, 0);
    let connect = somebody(V5).property(Property::authentication_method("SCRAM-UNKNOWN"));
    let mut client = RawClient::open(broker_under_test(), V5);
    client.send(&[connect.bytes(), publish(&topic, "sneaked in").bytes(V5)].concat());
    assert!(client.read().connack().reason >= 0x80);
    while client.read_or_closed().is_some() {}
    watcher.expect_nothing();
}

#[test]
fn v5_mqtt_4_12_0_7_v5_mqtt_4_12_1_2_an_auth_without_a_method_in_connect_is_a_protocol_error() {
    for packet in [
        auth(0x18, &[Property::authentication_method("m")]),
        auth(0x19, &[Property::authentication_method("m")]),
        frame(0xF0, b""),
    ] {
        let mut client = join(V5);
        client.send(&packet);
        client.expect_error(&[0x82]);
    }
}

#[test]
fn v5_mqtt_3_15_2_1_an_auth_with_another_reason_code_is_an_error() {
    for reason in [0x00, 0x01, 0x17, 0x80, 0x8C, 0xFF] {
        let mut client = join(V5);
        client.send(&auth(reason, &[Property::authentication_method("m")]));
        client.expect_error(&[0x81, 0x82]);
    }
}

#[test]
fn v5_mqtt_3_15_1_1_an_auth_with_flags_is_malformed() {
    for flags in 1..16 {
        let mut client = join(V5);
        client.send(&frame(0xF0 | flags, b"\x18\0"));
        client.expect_error(&[0x81, 0x82]);
    }
}
