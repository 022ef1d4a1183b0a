//! Takes any bytes for one packet of each version. What is accepted must survive being written and read again,
//! and must still be itself without its explanations; what is refused must have an answer.

use fulmar::codec::{
    MessageProperties, Packet, ProtocolVersion, connect_version, decode, decode_body, decode_connect,
    read_header,
};

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let _ = connect_version(data);
    let _ = decode_connect(data);
    for version in [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        check(version, data);
        if let Some((first_byte, body)) = data.split_first() {
            let _ = decode_body(version, *first_byte, body);
        }
    }
    if let Ok(properties) = MessageProperties::parse(data) {
        check_properties(&properties);
    }
}

fn check(version: ProtocolVersion, data: &[u8]) {
    let packet = match decode(version, data) {
        Ok(packet) => packet,
        Err(error) => {
            let answer = error.answer(version);
            assert!(answer.reason.is_error());
            let mut out = Vec::new();
            answer.encode(false, &mut out);
            answer.encode(true, &mut out);
            assert!(out.is_empty() || read_header(&out).is_ok_and(|header| header.is_some()));
            return;
        }
    };
    let mut written = Vec::new();
    assert_eq!(packet.encode(version, &mut written), Ok(()));
    assert_eq!(decode(version, &written).as_ref(), Ok(&packet));
    assert!(written.len() <= data.len(), "we write the shortest form");

    // One byte less than it takes: either something can be left out, or nothing is written.
    let mut shorter = Vec::new();
    let limit = written.len() as u32 - 1;
    match packet.encode_within(version, Some(limit), &mut shorter) {
        Ok(()) => {
            assert!(shorter.len() < written.len());
            assert!(decode(version, &shorter).is_ok_and(|less| less.packet_type() == packet.packet_type()));
        }
        Err(_) => assert!(shorter.is_empty()),
    }
    if let Packet::Publish(publish) = &packet {
        check_properties(&publish.properties);
    }
}

/// What is forwarded is a list in its own right, from which nothing more is to be taken.
fn check_properties(properties: &MessageProperties<'_>) {
    let mut forwarded = Vec::new();
    properties.append_forwarded(&mut forwarded);
    let again = MessageProperties::parse(&forwarded);
    assert!(again.is_ok_and(|again| !again.needs_filtering
        && again.topic_alias.is_none()
        && again.message_expiry_interval.is_none()
        && again.payload_is_utf8 == properties.payload_is_utf8));
}
