//! The PROXY protocol: whose connection it is, and that nobody tells who has no business to.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use crate::support::certificates::{Authority, Folder};
use crate::support::websocket::WebSocket;
use crate::support::{Broker, RawClient, V3_1_1, V5, connect, unique};

const TRUSTING: &str = "proxy_protocol = true\ntrusted_proxies = \"127.0.0.1\"\n";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 1883\r\n";

fn broker(keys: &str) -> Broker {
    Broker::with_config(&format!(
        "[limits]\nconnect_timeout = \"2s\"\n[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n{keys}"
    ))
}

fn tcp(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Version 2, TCP over IPv6, from 2001:db8::7.
fn binary() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    bytes.extend([0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    bytes.extend([0; 16]);
    bytes.extend([0xDC, 0x04, 0x07, 0x5B]);
    bytes
}

#[test]
fn the_log_names_the_client_and_not_the_proxy() {
    let broker = broker(TRUSTING);
    for (header, peer) in [(LINE.to_vec(), "192.0.2.7:56324"), (binary(), "[2001:db8::7]:56324")] {
        for piece in [1, header.len(), 1_000] {
            let id = unique("proxied");
            let mut stream = tcp(&broker);
            stream.set_nodelay(true).unwrap();
            let bytes = [&header[..], &connect(V5).client_id(&id).bytes()].concat();
            for piece in bytes.chunks(piece) {
                stream.write_all(piece).unwrap();
            }
            let mut client = RawClient::over(stream, V5);
            assert_eq!(client.read().connack().reason, 0);
            broker.wait_for_log(&format!("client=\"{id}\" peer={peer}"));
        }
    }
}

#[test]
fn whoever_is_not_trusted_or_sends_no_header_is_closed() {
    let connect = connect(V3_1_1).client_id(unique("untrusted")).bytes();
    let spoof = [LINE, &connect].concat();
    let bad = [b"PROXY TCP4 nobody nowhere 1 2\r\n".as_slice(), &connect].concat();
    for (keys, bytes, words) in [
        (
            "proxy_protocol = true\ntrusted_proxies = \"10.0.0.0/8\"\n",
            &spoof,
            "only an address in trusted_proxies",
        ),
        (TRUSTING, &connect, "no PROXY protocol header"),
        (TRUSTING, &bad, "(version 1) is not well-formed"),
        // Where nobody expects it, it is what it is: not MQTT.
        ("", &spoof, ""),
    ] {
        let broker = broker(keys);
        let mut stream = tcp(&broker);
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        assert!(answer.is_empty(), "{answer:02x?}");
        broker.wait_for_log(words);
        assert!(!broker.log().contains("192.0.2.7"), "{}", broker.log());
    }
}

#[test]
fn it_comes_before_tls_and_websocket() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let keys = authority.server("server").toml();
    for (kind, keys) in [("tls", keys.as_str()), ("ws", ""), ("wss", keys.as_str())] {
        let broker = broker(&format!("kind = \"{kind}\"\n{TRUSTING}{keys}"));
        let mut stream = tcp(&broker);
        stream.write_all(LINE).unwrap();
        let tls = |stream| {
            let name = "localhost".try_into().unwrap();
            StreamOwned::new(ClientConnection::new(authority.client_config(), name).unwrap(), stream)
        };
        let mut client = match kind {
            "tls" => RawClient::over(tls(stream), V5),
            "ws" => RawClient::over(WebSocket::over(stream), V5),
            _ => RawClient::over(WebSocket::over(tls(stream)), V5),
        };
        let id = unique("inside");
        client.send(&connect(V5).client_id(&id).bytes());
        assert_eq!(client.read().connack().reason, 0, "{kind}");
        broker.wait_for_log(&format!("client=\"{id}\" peer=192.0.2.7:56324"));
    }
}

#[test]
fn a_header_that_never_ends_is_cut_off() {
    let broker = broker(TRUSTING);
    // Announced are 60,000 bytes; and a header that stops half-way has its time, no more.
    let large = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xEA\x60".to_vec();
    for bytes in [large, LINE[..20].to_vec()] {
        let mut stream = tcp(&broker);
        stream.write_all(&bytes).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    broker.wait_for_log("longer than 4096 bytes");
}
