//! What decoding and encoding a packet costs.
//!
//! `cargo bench --bench codec`. Frames lie in one buffer, as they come from a socket; times are per packet.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark, and criterion's macros write no docs")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fulmar::codec::{
    AckKind, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, PublishHeader, PublishProperties,
    QoS, ReasonCode, Subscribe, SubscriptionOptions, SubscriptionRequest, decode, decode_acknowledgement,
    decode_connect, decode_publish, encode_acknowledgement, encode_publish, read_header,
};
use std::hint::black_box;

/// Packets in a buffer: as many as a read brings when it is busy.
const PACKETS: usize = 100;

const TOPIC: &[u8] = b"site/17/device/1234/temperature";

/// Message Expiry Interval 60; Content Type "text/plain"; a User Property "unit": "celsius".
const PROPERTIES: &[u8] = b"\x02\0\0\0\x3c\x03\0\x0atext/plain\x26\0\x04unit\0\x07celsius";

criterion_group!(benches, publish, acknowledgements, control);
criterion_main!(benches);

fn header(qos: QoS) -> PublishHeader {
    PublishHeader {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(7).filter(|_| qos > QoS::AtMostOnce),
    }
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("PUBLISH of 64 bytes");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for (name, version, qos, forwarded) in [
        ("3.1.1, QoS 0", ProtocolVersion::V3_1_1, QoS::AtMostOnce, &[][..]),
        ("3.1.1, QoS 1", ProtocolVersion::V3_1_1, QoS::AtLeastOnce, &[]),
        ("5.0, QoS 1", ProtocolVersion::V5, QoS::AtLeastOnce, &[]),
        ("5.0, QoS 1, three properties", ProtocolVersion::V5, QoS::AtLeastOnce, PROPERTIES),
    ] {
        let properties = PublishProperties { forwarded, ..PublishProperties::default() };
        let write = |out: &mut Vec<u8>| {
            for _ in 0..PACKETS {
                encode_publish(out, version, &header(qos), black_box(TOPIC), properties, &[b'x'; 64])
                    .unwrap();
            }
        };
        let mut input = Vec::new();
        write(&mut input);
        group.bench_function(format!("decode {name}"), |bench| {
            bench.iter(|| {
                let mut rest = black_box(&input[..]);
                while let Some(header) = read_header(rest).unwrap() {
                    let (frame, behind) = rest.split_at(header.frame_length());
                    let body = &frame[header.header_length..];
                    black_box(decode_publish(version, header.first_byte, body).unwrap());
                    rest = behind;
                }
            });
        });
        let mut out = Vec::with_capacity(input.len());
        group.bench_function(format!("encode {name}"), |bench| {
            bench.iter(|| {
                out.clear();
                write(&mut out);
                black_box(&out);
            });
        });
    }
}

fn acknowledgements(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("PUBACK");
    group.throughput(Throughput::Elements(PACKETS as u64));
    let version = ProtocolVersion::V5;
    let write = |out: &mut Vec<u8>| {
        for number in 1..=PACKETS as u16 {
            let packet_id = PacketId::new(number).unwrap();
            encode_acknowledgement(out, version, AckKind::PubAck, packet_id, ReasonCode::Success);
        }
    };
    let mut input = Vec::new();
    write(&mut input);
    group.bench_function("decode", |bench| {
        bench.iter(|| {
            for frame in black_box(&input).chunks(4) {
                let header = read_header(frame).unwrap().unwrap();
                let body = &frame[header.header_length..];
                let decoded = decode_acknowledgement(version, AckKind::PubAck, header.first_byte, body);
                black_box(decoded.unwrap());
            }
        });
    });
    let mut out = Vec::with_capacity(input.len());
    group.bench_function("encode", |bench| {
        bench.iter(|| {
            out.clear();
            write(&mut out);
            black_box(&out);
        });
    });
}

fn control(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control packets");
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let connect = Packet::Connect(Connect {
            version,
            clean_start: true,
            keep_alive: 60,
            client_id: "device-1234",
            will: None,
            username: Some("device"),
            password: Some(b"secret"),
            properties: ConnectProperties::default(),
        });
        let request = |filter| SubscriptionRequest { filter, options: SubscriptionOptions::default() };
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            subscription_identifier: None,
            user_properties: Vec::new(),
            requests: vec![request("site/17/device/1234/#"), request("site/+/alarm")],
        });
        let (mut first, mut second) = (Vec::new(), Vec::new());
        connect.encode(version, &mut first).unwrap();
        subscribe.encode(version, &mut second).unwrap();
        group.bench_function(format!("decode CONNECT, {version:?}"), |bench| {
            bench.iter(|| black_box(decode_connect(black_box(&first)).unwrap()));
        });
        group.bench_function(format!("decode SUBSCRIBE, {version:?}"), |bench| {
            bench.iter(|| black_box(decode(version, black_box(&second)).unwrap()));
        });
    }
}
