//! Any bytes as one packet. The body is shared with `tests/fuzz_bodies.rs`.
#![no_main]

#[path = "../bodies/codec_decode.rs"]
mod codec_decode;

libfuzzer_sys::fuzz_target!(|data: &[u8]| codec_decode::run(data));
