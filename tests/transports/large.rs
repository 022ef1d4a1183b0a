//! Large packets between small ones, in whatever pieces they arrive.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use crate::support::certificates::{Authority, Folder};
use crate::support::websocket::WebSocket;
use crate::support::{Broker, PUBACK, RawClient, V3_1_1, V5, Version, connect, publish, unique};

const MIB: usize = 1024 * 1024;

/// Payloads: alone and in a row, of one size and of many, around the sizes at which they are treated otherwise.
const LENGTHS: [usize; 22] = [
    0,
    3 * MIB,
    5,
    65_536,
    65_536,
    65_536,
    16,
    40_000,
    32_768,
    32_767,
    1,
    1,
    16_384,
    16_384,
    16_384,
    131_072,
    131_050,
    90_000,
    MIB,
    2,
    4_096,
    100,
];

/// What tells payloads and the places in them apart.
fn payload(number: usize) -> Vec<u8> {
    (0..LENGTHS[number]).map(|at| (at * 31 + at / 251 + number * 7) as u8).collect()
}

fn at(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn enter(mut client: RawClient) -> RawClient {
    client.set_patience(Duration::from_secs(20));
    client.send(&connect(client.version).client_id(unique("large")).bytes());
    assert_eq!(client.read().connack().reason, 0);
    client
}

/// Publishes all, with two subscribers or one, and cut in pieces or not.
fn passes_on_all(mut publisher: RawClient, mut subscribers: Vec<RawClient>, qos: u8, in_pieces: bool) {
    let topic = unique("large");
    for subscriber in &mut subscribers {
        subscriber.subscribe(&topic, qos);
    }
    let mut bytes = Vec::new();
    let mut cuts = BTreeSet::new();
    for (number, length) in LENGTHS.iter().enumerate() {
        if in_pieces && *length > 5_000 {
            // Byte by byte until its topic has come.
            cuts.extend(bytes.len()..bytes.len() + 12);
        }
        let packet = publish(&topic, payload(number));
        let packet = if qos > 0 { packet.qos(qos, 1 + number as u16) } else { packet };
        bytes.extend(packet.bytes(publisher.version));
    }
    if in_pieces {
        let steps = [4_099, 1, 70_001, 8_191, 333, 300_007, 17, 131_072, 20_011];
        let mut at = 0;
        for step in steps.iter().cycle() {
            at += step;
            if at >= bytes.len() {
                break;
            }
            cuts.insert(at);
        }
    }
    cuts.insert(bytes.len());
    let mut sent = 0;
    for cut in cuts {
        publisher.send(&bytes[sent..cut]);
        if in_pieces {
            // So that it is read by itself.
            thread::sleep(Duration::from_micros(500));
        }
        sent = cut;
    }
    if qos > 0 {
        for number in 0..LENGTHS.len() {
            publisher.expect_ack(PUBACK, 1 + number as u16);
        }
    }
    for subscriber in &mut subscribers {
        for number in 0..LENGTHS.len() {
            let received = subscriber.receive();
            assert_eq!(received.qos, qos);
            // Not by assert_eq: nobody wants to read three million bytes.
            let expected = payload(number);
            let wrong = received.payload.iter().zip(&expected).position(|(one, other)| one != other);
            assert_eq!((received.payload.len(), wrong), (expected.len(), None), "message {number}");
        }
        subscriber.expect_nothing();
    }
    publisher.ping();
}

#[test]
fn large_packets_arrive_whole_in_whatever_pieces_they_come() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let tls = authority.server("server").toml();
    let broker = Broker::with_config(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n\
         [[listeners]]\nname = \"tls\"\nkind = \"tls\"\naddress = \"127.0.0.1:0\"\n{tls}\
         [[listeners]]\nname = \"ws\"\nkind = \"ws\"\naddress = \"127.0.0.1:0\"\n"
    ));
    let come = |door: &str, version: Version| match door {
        "ws" => enter(RawClient::over(WebSocket::over(at(broker.address_of(door))), version)),
        "tls" => {
            let name = "localhost".try_into().unwrap();
            let connection = ClientConnection::new(authority.client_config(), name).unwrap();
            enter(RawClient::over(StreamOwned::new(connection, at(broker.address_of(door))), version))
        }
        _ => enter(RawClient::over(at(SocketAddr::from(([127, 0, 0, 1], broker.port()))), version)),
    };
    for door in ["plain", "ws", "tls"] {
        for in_pieces in [false, true] {
            for qos in [0, 1] {
                // For one of the same version, packets go as they came; for more, and for others, they do not.
                passes_on_all(come(door, V5), vec![come(door, V5)], qos, in_pieces);
                passes_on_all(come(door, V5), vec![come("plain", V3_1_1), come(door, V5)], qos, in_pieces);
            }
        }
    }
    assert!(!broker.log().contains("WARN"), "{}", broker.log());
}
