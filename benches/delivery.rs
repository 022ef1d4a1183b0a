//! The way of a PUBLISH without its sockets: decoded, matched, delivered, taken for writing, acknowledged.
//!
//! `cargo bench --bench delivery`. One thread; times are per delivery. What the kernel adds, `fulmar bench` shows.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark, and criterion's macros write no docs"
)]

#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
#[path = "../tests/broker/bench.rs"]
mod harness;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fulmar::broker::Progress;
use fulmar::codec::{
    AckKind, PacketId, ProtocolVersion, PublishHeader, PublishProperties, QoS, ReasonCode, decode_publish,
    encode_publish, read_header,
};
use fulmar::message::{Incoming, Publisher, Run};
use fulmar::session::{BufferPool, Report};
use fulmar::topic::TopicName;
use harness::{Bench, Guest, Party};
use std::task::Waker;

/// Messages of one read: what a busy publisher's socket holds.
const MESSAGES: usize = 100;

const VERSION: ProtocolVersion = ProtocolVersion::V5;

criterion_group!(benches, deliveries);
criterion_main!(benches);

fn deliveries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("delivery");
    for (name, qos, subscribers, filters) in [
        ("1 to 1, QoS 0", QoS::AtMostOnce, 1, 0),
        ("1 to 1, QoS 1", QoS::AtLeastOnce, 1, 0),
        ("1 to 1, QoS 2", QoS::ExactlyOnce, 1, 0),
        ("1 to 100, QoS 0", QoS::AtMostOnce, 100, 0),
        ("1 to 100, QoS 1", QoS::AtLeastOnce, 100, 0),
        ("1 to 1, QoS 0, among 100,000 filters", QoS::AtMostOnce, 1, 100_000),
    ] {
        let mut scene = Scene::new(qos, subscribers, filters);
        group.throughput(Throughput::Elements((MESSAGES * subscribers) as u64));
        group.bench_function(name, |bench| bench.iter(|| scene.turn()));
    }
    group.finish();
}

struct Scene {
    bench: Bench,
    subscribers: Vec<Party>,
    /// As it came from the publisher's socket.
    input: Vec<u8>,
    qos: QoS,
    pool: BufferPool,
    /// The Packet Identifier that each subscriber's next message has.
    next: u16,
}

impl Scene {
    fn new(qos: QoS, subscribers: usize, filters: usize) -> Self {
        let bench = Bench::new();
        let mut subscribers: Vec<_> =
            (0..subscribers).map(|number| bench.connect(&Guest::new(format!("s{number}")))).collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe("site/17/device/1234/temperature", qos);
            subscriber.poll(bench.now);
        }
        for number in 0..filters {
            subscribers[0].subscribe(&format!("site/{}/device/{number}/+", number % 100), qos);
        }
        let packet_id = PacketId::new(1).filter(|_| qos > QoS::AtMostOnce);
        let header = PublishHeader { dup: false, qos, retain: false, packet_id };
        let mut input = Vec::new();
        for _ in 0..MESSAGES {
            let (topic, properties) = (b"site/17/device/1234/temperature", PublishProperties::default());
            encode_publish(&mut input, VERSION, &header, topic, properties, &[b'x'; 64]).unwrap();
        }
        Self { bench, subscribers, input, qos, pool: BufferPool::default(), next: 1 }
    }

    /// One read of the publisher's, and all that follows from it.
    fn turn(&mut self) {
        let mut messages = Vec::with_capacity(MESSAGES);
        let mut rest = &self.input[..];
        while let Some(header) = read_header(rest).unwrap() {
            let (frame, behind) = rest.split_at(header.frame_length());
            let body = &frame[header.header_length..];
            messages.push(Incoming::new(decode_publish(VERSION, header.first_byte, body).unwrap(), frame));
            rest = behind;
        }
        let run = Run {
            version: VERSION,
            topics: &[TopicName::parse(messages[0].publish.topic).unwrap().as_str().into()],
            messages: &messages,
            now: self.bench.now,
            publisher: Publisher(u64::MAX),
            publisher_session: None,
            plain: (self.qos == QoS::AtMostOnce).then_some(&self.input[..]),
            buffer: None,
            copy: None,
            longest_frame: messages[0].frame.len(),
            payload_bytes: 64 * MESSAGES,
        };
        let mut report = Report::default();
        self.bench.broker.publish(&run, None, &mut report);
        self.bench.broker.settle(&mut report);
        let mut next = self.next;
        for subscriber in &self.subscribers {
            next = self.next;
            let progress = Progress { wrote: true, take: true, may_replay: true, ..Progress::default() };
            let (broker, waker, now) = (&self.bench.broker, Waker::noop(), self.bench.now);
            let polled =
                broker.poll(&subscriber.handle, subscriber.link, progress, &mut report, waker, now).unwrap();
            assert!(polled.output.batch.remaining() > 64 * MESSAGES, "everything was delivered");
            polled.output.batch.recycle(&mut self.pool);
            if self.qos == QoS::AtMostOnce {
                continue;
            }
            for _ in 0..MESSAGES {
                let id = PacketId::new(next).unwrap();
                if self.qos == QoS::ExactlyOnce {
                    subscriber.acknowledge_as(AckKind::PubRec, id, ReasonCode::Success);
                    subscriber.acknowledge_as(AckKind::PubComp, id, ReasonCode::Success);
                } else {
                    subscriber.acknowledge_as(AckKind::PubAck, id, ReasonCode::Success);
                }
                next = next.checked_add(1).unwrap_or(1);
            }
        }
        self.next = next;
    }
}
