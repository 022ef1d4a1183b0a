//! Chapter 6: MQTT over WebSocket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::each;
use crate::support::websocket::{BINARY, CONTINUATION, FIN, MQTT, TEXT, WebSocket, frame, head, request};
use crate::support::{Broker, RawClient, Version, connect, pingreq, unique};

fn broker() -> (Broker, SocketAddr) {
    let broker = Broker::with_config(
        "[[listeners]]\nname = \"websocket\"\nkind = \"ws\"\naddress = \"127.0.0.1:{PORT}\"\n",
    );
    let address = SocketAddr::from(([127, 0, 0, 1], broker.port()));
    (broker, address)
}

#[test]
fn mqtt_6_0_0_1_a_frame_that_is_not_binary_ends_the_connection() {
    let (_broker, address) = broker();
    each(&Version::NUMBERED, |version| {
        let mut socket = WebSocket::open(address);
        let connect = connect(version).client_id(unique("text")).bytes();
        socket.inner.write_all(&frame(FIN | TEXT, &connect)).unwrap();
        assert_eq!(socket.expect_close(), 1003);
    });
}

#[test]
fn mqtt_6_0_0_2_packets_do_not_follow_the_borders_of_frames() {
    let (_broker, address) = broker();
    each(&Version::NUMBERED, |version| {
        let packets = [connect(version).client_id(unique("borders")).bytes(), pingreq(), pingreq()].concat();
        let straddling: Vec<u8> = packets.chunks(3).flat_map(|piece| frame(FIN | BINARY, piece)).collect();
        let fragmented = [frame(BINARY, &packets[..1]), frame(FIN | CONTINUATION, &packets[1..])].concat();
        for bytes in [frame(FIN | BINARY, &packets), straddling, fragmented] {
            let mut socket = WebSocket::open(address);
            socket.inner.write_all(&bytes).unwrap();
            let mut client = RawClient::over(socket, version);
            assert_eq!(client.read().connack().reason, 0);
            for _ in 0..2 {
                assert_eq!(client.read().first_byte, 0xD0);
            }
        }
    });
}

#[test]
fn mqtt_6_0_0_3_a_client_that_does_not_ask_for_mqtt_is_refused() {
    let (_broker, address) = broker();
    for fields in ["", "Sec-WebSocket-Protocol: chat\r\n", "Sec-WebSocket-Protocol: mqttish, amqp\r\n"] {
        assert!(answer(address, fields).starts_with("HTTP/1.1 400 "), "{fields}");
    }
}

#[test]
fn mqtt_6_0_0_4_the_server_chooses_mqtt() {
    let (_broker, address) = broker();
    for fields in [MQTT, "Sec-WebSocket-Protocol: chat, mqttv3.1, mqtt\r\n"] {
        let answer = answer(address, fields);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
    }
}

/// The head of the answer to an upgrade with these fields.
fn answer(address: SocketAddr, fields: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(request("/mqtt", fields).as_bytes()).unwrap();
    let head = head(&mut stream);
    if !head.starts_with("HTTP/1.1 101 ") {
        // A refusal ends the connection, behind a sentence that says why.
        let mut reason = String::new();
        stream.read_to_string(&mut reason).unwrap();
        assert!(!reason.is_empty());
    }
    head
}
