//! The codec from outside: tables by clause, properties over generated packets, and `mqttbytes` as an oracle.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answers;
mod clauses;
mod differential;
mod forwarding;
mod packets;
mod properties;

use fulmar::codec::{ProtocolVersion, decode};

const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5];

/// Bytes written as hexadecimal pairs; `'text'` stands for a text with its two bytes of length.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            out.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            out.extend_from_slice(part.as_bytes());
            continue;
        }
        for word in part.split_whitespace() {
            assert_eq!(word.len() % 2, 0, "{word}");
            for at in (0..word.len()).step_by(2) {
                out.push(u8::from_str_radix(&word[at..at + 2], 16).unwrap());
            }
        }
    }
    out
}

/// A frame of a first byte and a body, with the Remaining Length that belongs to it.
fn frame(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    let mut rest = body.len();
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        out.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

#[test]
fn every_version_has_pings_of_two_bytes() {
    for version in VERSIONS {
        assert!(decode(version, &[0xC0, 0]).is_ok());
        assert!(decode(version, &[0xD0, 0]).is_ok());
    }
}
