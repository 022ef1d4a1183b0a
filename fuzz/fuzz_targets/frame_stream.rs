//! Any bytes as a stream that arrives in pieces. The body is shared with `tests/fuzz_bodies.rs`.
#![no_main]

#[path = "../bodies/frame_stream.rs"]
mod frame_stream;

libfuzzer_sys::fuzz_target!(|data: &[u8]| frame_stream::run(data));
