//! PUBACK, PUBREC, PUBREL and PUBCOMP, §3.4 to §3.7 of both standards.

use crate::support::{
    Ack, PUBACK, PUBCOMP, PUBREC, PUBREL, Property, V5, Version, frame, puback, pubcomp, publish, pubrec,
    pubrel, unique,
};
use crate::{each, join};

#[test]
fn v5_mqtt_2_2_1_5_v311_mqtt_2_3_1_6_answers_bear_the_packet_identifier_of_the_publish() {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        let topic = unique("t");
        for packet_id in [1, 255, 256, 0x1234, 65_535] {
            client.publish(&publish(&topic, "p").qos(1, packet_id));
            client.publish(&publish(&topic, "p").qos(2, packet_id));
        }
    });
}

#[test]
fn v5_mqtt_3_4_2_1_v5_mqtt_3_5_2_1_nobody_subscribed_is_success_or_said() {
    let mut client = join(V5);
    client.send(&publish(unique("nobody"), "p").qos(1, 1).bytes(V5));
    assert!(matches!(client.read().ack(PUBACK), (1, 0x00 | 0x10, _)));
    client.send(&publish(unique("nobody"), "p").qos(2, 2).bytes(V5));
    assert!(matches!(client.read().ack(PUBREC), (2, 0x00 | 0x10, _)));
    client.send(&pubrel(2).bytes());
    assert!(matches!(client.read().ack(PUBCOMP), (2, 0x00, _)));
}

#[test]
fn v5_mqtt_3_7_2_1_a_pubrel_for_an_unknown_identifier_is_answered_with_not_found() {
    let mut client = join(V5);
    client.send(&pubrel(4711).bytes());
    let (packet_id, reason, _) = client.read().ack(PUBCOMP);
    assert_eq!((packet_id, reason), (4711, 0x92));
    client.ping();
}

#[test]
fn v311_mqtt_4_3_3_2_a_pubrel_for_an_unknown_identifier_is_completed() {
    each(&[Version::V3_1, Version::V3_1_1], |version| {
        let mut client = join(version);
        client.send(&pubrel(4711).bytes());
        client.expect_ack(PUBCOMP, 4711);
        client.ping();
    });
}

#[test]
fn v5_mqtt_3_6_2_1_a_pubrec_for_an_unknown_identifier_is_answered_with_not_found() {
    let mut client = join(V5);
    client.send(&pubrec(4711).bytes());
    let (packet_id, reason, _) = client.read().ack(PUBREL);
    assert_eq!((packet_id, reason), (4711, 0x92));
    client.ping();
}

#[test]
fn v5_mqtt_4_3_2_3_an_acknowledgement_for_nothing_harms_nobody() {
    each(&Version::ALL, |version| {
        let mut client = join(version);
        client.send(&puback(4711).bytes());
        client.send(&pubcomp(4712).bytes());
        client.ping();
        let topic = unique("t");
        client.subscribe(&topic, 2);
        client.publish(&publish(&topic, "m").qos(2, 1));
        assert_eq!(client.receive().text(), "m");
    });
}

/// An acknowledgement with nothing but its packet identifier.
type Plain = fn(u16) -> Ack;

#[test]
fn v5_mqtt_3_4_2_1_v5_mqtt_3_5_2_1_v5_mqtt_3_6_2_1_v5_mqtt_3_7_2_1_a_reason_code_that_is_not_its_own_closes()
{
    let cases: [(Plain, &[u8]); 4] = [
        (puback, &[0x01, 0x11, 0x18, 0x81, 0x92, 0xFF]),
        (pubrec, &[0x01, 0x11, 0x18, 0x81, 0x92, 0xFF]),
        (pubrel, &[0x01, 0x10, 0x80, 0x91, 0xFF]),
        (pubcomp, &[0x01, 0x10, 0x80, 0x91, 0xFF]),
    ];
    for (ack, reasons) in cases {
        for reason in reasons {
            let mut client = join(V5);
            client.send(&ack(1).reason(*reason, &[]).bytes());
            println!("{:02x?} {reason:#04x}", ack(1).bytes());
            client.expect_error(&[0x81, 0x82]);
        }
    }
}

/// One of the ways to write an acknowledgement.
type Form = fn(Ack, &[Property]) -> Vec<u8>;

#[test]
fn v5_mqtt_4_3_2_3_v5_mqtt_4_3_3_4_every_allowed_form_of_an_acknowledgement_is_understood() {
    let topic = unique("t");
    let mut client = join(V5);
    client.subscribe(&topic, 2);
    let mut publisher = join(V5);
    let properties = [Property::user("n", "v"), Property::reason_string("fine"), Property::user("n", "v")];
    let forms: [Form; 4] = [
        |ack, _| ack.bytes(),
        |ack, _| {
            let bytes = ack.bytes();
            frame(bytes[0], &[&bytes[2..], &[0]].concat())
        },
        |ack, _| ack.reason(0, &[]).bytes(),
        |ack, properties| ack.reason(0, properties).bytes(),
    ];
    for form in forms {
        publisher.publish(&publish(&topic, "1").qos(1, 1));
        let message = client.read_publish();
        client.send(&form(puback(message.packet_id), &properties));
        publisher.publish(&publish(&topic, "2").qos(2, 1));
        let message = client.read_publish();
        client.send(&form(pubrec(message.packet_id), &properties));
        client.expect_ack(PUBREL, message.packet_id);
        client.send(&form(pubcomp(message.packet_id), &properties));
        client.expect_nothing();
        client.send(&publish("elsewhere", "p").qos(2, 9).bytes(V5));
        client.expect_ack(PUBREC, 9);
        client.send(&form(pubrel(9), &properties));
        client.expect_ack(PUBCOMP, 9);
    }
}

#[test]
fn v5_mqtt_3_4_2_1_v5_mqtt_3_5_2_1_every_reason_code_of_a_receiver_is_understood() {
    let topic = unique("t");
    let mut client = join(V5);
    client.subscribe(&topic, 2);
    let mut publisher = join(V5);
    for reason in [0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
        publisher.publish(&publish(&topic, "1").qos(1, 1));
        let message = client.read_publish();
        client.send(&puback(message.packet_id).reason(reason, &[]).bytes());
        publisher.publish(&publish(&topic, "2").qos(2, 1));
        let message = client.read_publish();
        client.send(&pubrec(message.packet_id).reason(reason, &[]).bytes());
        if reason < 0x80 {
            client.expect_ack(PUBREL, message.packet_id);
            client.send(&pubcomp(message.packet_id).bytes());
        }
        client.expect_nothing();
    }
}
