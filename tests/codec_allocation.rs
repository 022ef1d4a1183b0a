//! Decoding allocates no more than its input justifies, and on the hot path nothing at all.
//!
//! The allocator counts per thread, because the test harness has threads of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unsafe_code, reason = "an allocator that counts has to be an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use fulmar::codec::{
    AckKind, PacketId, ProtocolVersion, PublishHeader, PublishProperties, QoS, ReasonCode, decode,
    decode_acknowledgement, decode_publish, encode_acknowledgement, encode_publish, read_header,
};
use proptest::prelude::*;

/// The system's allocator, which tells this thread's counters.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends allocates after its counters are gone.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
    if bytes > 0 {
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
    }
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates, and how many bytes it holds at most.
fn measure<T>(work: impl FnOnce() -> T) -> (usize, usize, T) {
    let (calls, live) = (CALLS.get(), LIVE.get());
    PEAK.set(live);
    let result = work();
    (CALLS.get() - calls, (PEAK.get() - live).cast_unsigned(), result)
}

/// The most a decoder may hold: 32 bytes for the five of an empty User Property, twice that when a list has
/// just grown, and as much again while it is moved.
fn bound(input: usize) -> usize {
    20 * input + 512
}

#[test]
fn the_counter_counts() {
    let (calls, peak, _) = measure(|| vec![0_u8; 1000]);
    assert_eq!((calls, peak), (1, 1000));
}

#[test]
fn a_publish_is_decoded_without_allocating() {
    let frames: [(ProtocolVersion, &[u8]); 4] = [
        (ProtocolVersion::V3_1_1, b"\x30\x06\x00\x03a/bxy"),
        (ProtocolVersion::V3_1_1, b"\x32\x08\x00\x03a/b\x00\x01xy"),
        (ProtocolVersion::V5, b"\x30\x07\x00\x03a/b\x00xy"),
        (ProtocolVersion::V5, b"\x30\x15\x00\x03a/b\x0e\x01\x01\x23\x00\x05\x0b\x01\x26\x00\x01k\x00\x01vxy"),
    ];
    for (version, frame) in frames {
        let (calls, _, publish) = measure(|| {
            let header = read_header(frame).unwrap().unwrap();
            decode_publish(version, header.first_byte, &frame[header.header_length..])
        });
        assert_eq!(publish.unwrap().payload, b"xy");
        assert_eq!(calls, 0, "{version:?}");
    }
}

#[test]
fn acknowledgements_and_publishes_are_written_into_the_room_there_is() {
    let mut out = Vec::with_capacity(256);
    let packet_id = PacketId::new(1).unwrap();
    for version in [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let header =
            PublishHeader { dup: false, qos: QoS::AtLeastOnce, retain: false, packet_id: Some(packet_id) };
        let properties = PublishProperties {
            message_expiry_interval: Some(5),
            topic_alias: Some(1),
            subscription_identifiers: &[1, 2],
            ..PublishProperties::default()
        };
        let (calls, _, ()) = measure(|| {
            encode_acknowledgement(&mut out, version, AckKind::PubAck, packet_id, ReasonCode::QuotaExceeded);
            encode_publish(&mut out, version, &header, b"a/b", properties, b"payload").unwrap();
        });
        assert_eq!(calls, 0, "{version:?}");
        let (calls, _, acknowledgement) =
            measure(|| decode_acknowledgement(version, AckKind::PubAck, 0x40, &[0, 7]).unwrap());
        assert_eq!((calls, acknowledgement.packet_id.get()), (0, 7));
    }
}

#[test]
fn an_announced_length_is_not_believed() {
    // 256 MiB announced, nothing there.
    for first_byte in [0x10, 0x20, 0x30, 0x40, 0x62, 0x82, 0x90, 0xA2, 0xB0, 0xE0, 0xF0] {
        let frame = [first_byte, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1];
        let (calls, _, packet) = measure(|| decode(ProtocolVersion::V5, &frame));
        assert!(packet.is_err());
        assert_eq!(calls, 0);
    }
}

#[test]
fn the_densest_packets_stay_in_bounds() {
    for (version, first_byte, start, unit) in [
        (ProtocolVersion::V3_1_1, 0x82, &b"\x00\x01"[..], &b"\x00\x00\x00"[..]),
        (ProtocolVersion::V3_1_1, 0xA2, b"\x00\x01", b"\x00\x00"),
        (ProtocolVersion::V3_1_1, 0x90, b"\x00\x01", b"\x01"),
        (ProtocolVersion::V5, 0xB0, b"\x00\x01\x00", b"\x11"),
        (ProtocolVersion::V5, 0xE0, b"\x00\xA0\x9C\x01", b"\x26\x00\x00\x00\x00"),
    ] {
        let body = [start, &unit.repeat(4000)].concat();
        let length = body.len();
        let mut frame = vec![first_byte];
        if length < 16_384 {
            frame.extend([(length & 0x7F) as u8 | 0x80, (length >> 7) as u8]);
        } else {
            frame.extend([
                (length & 0x7F) as u8 | 0x80,
                (length >> 7 & 0x7F) as u8 | 0x80,
                (length >> 14) as u8,
            ]);
        }
        frame.extend_from_slice(&body);
        let (_, peak, packet) = measure(|| decode(version, &frame).is_ok());
        assert!(packet, "{first_byte:#04x}");
        assert!(peak <= bound(frame.len()), "{first_byte:#04x}: {peak} bytes for {}", frame.len());
    }
}

proptest! {
    #[test]
    fn any_body_stays_in_bounds(first_byte in any::<u8>(), body in prop::collection::vec(0..64_u8, 0..127)) {
        let mut frame = vec![first_byte, body.len() as u8];
        frame.extend_from_slice(&body);
        for version in [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
            let (_, peak, _) = measure(|| decode(version, &frame).is_ok());
            prop_assert!(peak <= bound(frame.len()), "{} bytes for {}", peak, frame.len());
        }
    }
}
