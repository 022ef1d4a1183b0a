//! Runs the bodies of the fuzz targets on stable for a bounded time: over random bytes and over bytes that
//! look like packets.

#[path = "../fuzz/bodies/codec_decode.rs"]
mod codec_decode;
#[path = "../fuzz/bodies/frame_stream.rs"]
mod frame_stream;

use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes that get past the fixed header: a likely first byte, the right length, small numbers inside.
fn likely_frame() -> impl Strategy<Value = Vec<u8>> {
    let first_byte = prop_oneof![
        3 => prop::sample::select(vec![
            0x10_u8, 0x20, 0x30, 0x32, 0x35, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0, 0xC0, 0xD0, 0xE0,
            0xF0,
        ]),
        1 => any::<u8>(),
    ];
    let piece = prop_oneof![
        6 => (0..48_u8).prop_map(|byte| vec![byte]),
        3 => vec(b'a'..b'f', 0..4).prop_map(|text| [&[0, text.len() as u8], &text[..]].concat()),
        1 => Just(b"\x00\x04MQTT\x05\x02\x00\x00".to_vec()),
        1 => Just(b"\x00\x04MQTT\x04\xC6\x00\x00".to_vec()),
        1 => Just(b"\x00\x06MQIsdp\x03\x02\x00\x00".to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    (first_byte, vec(piece, 0..12)).prop_map(|(first_byte, pieces)| {
        let body = pieces.concat();
        let body = &body[..body.len().min(127)];
        [&[first_byte, body.len() as u8], body].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn decode_random(data in vec(any::<u8>(), 0..64)) {
        codec_decode::run(&data);
    }

    #[test]
    fn decode_likely(data in likely_frame()) {
        codec_decode::run(&data);
    }

    #[test]
    fn stream_random(data in vec(any::<u8>(), 0..64)) {
        frame_stream::run(&data);
    }

    #[test]
    fn stream_likely(choice in any::<[u8; 2]>(), frames in vec(likely_frame(), 1..5)) {
        frame_stream::run(&[&choice[..], &frames.concat()].concat());
    }
}
