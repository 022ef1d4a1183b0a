//! DISCONNECT, §3.14 of both standards.

use crate::support::{Property, V5, Version, disconnect, disconnect_with, frame};
use crate::{each, join};

#[test]
fn v5_mqtt_3_14_4_2_v311_mqtt_3_14_4_1_the_server_closes_after_a_disconnect() {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        client.send(&disconnect());
        client.expect_closed();
    });
}

#[test]
fn v5_mqtt_3_14_2_1_every_reason_code_of_a_client_is_accepted() {
    for reason in [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99] {
        for packet in [
            frame(0xE0, &[reason]),
            disconnect_with(reason, &[]),
            disconnect_with(reason, &[Property::reason_string("r"), Property::user("n", "v")]),
        ] {
            let mut client = join(V5);
            client.send(&packet);
            client.expect_closed();
        }
    }
}

#[test]
fn v5_mqtt_3_14_2_1_a_reason_code_that_is_none_of_a_disconnect_is_an_error() {
    for reason in [0x01, 0x02, 0x10, 0x11, 0x18, 0x19, 0x84, 0x91, 0x92, 0xFF] {
        println!("{reason:#04x}");
        let mut client = join(V5);
        client.send(&disconnect_with(reason, &[]));
        client.expect_error(&[0x81, 0x82]);
    }
}

#[test]
fn v5_mqtt_3_14_4_1_nothing_follows_the_disconnect_of_the_server() {
    let mut client = join(V5);
    let two_offences = [frame(0x36, b"\0\x01t\0\x01\0"), frame(0xC1, b""), vec![0xC0, 0]];
    client.send(&two_offences.concat());
    client.expect_error(&[0x81]);
}
