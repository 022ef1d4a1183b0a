//! WebSocket: the upgrade and each refusal of it, frames in every shape, attacks before MQTT begins.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use crate::support::certificates::{Authority, Folder};
use crate::support::websocket::{
    BINARY, CLOSE, CONTINUATION, FIN, MQTT, PING, PONG, TEXT, WebSocket, frame, head, request,
};
use crate::support::{Broker, Filter, RawClient, V3_1_1, V5, connect, pingreq, publish, subscribe, unique};
use crate::tools::run;

/// A broker with a WebSocket listener that has these keys, too.
fn broker(keys: &str) -> Broker {
    Broker::with_config(&format!(
        "[limits]\nconnect_timeout = \"2s\"\n[[listeners]]\nname = \"door\"\nkind = \"ws\"\n\
         address = \"127.0.0.1:{{PORT}}\"\n{keys}"
    ))
}

fn address(broker: &Broker) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], broker.port()))
}

fn tcp(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(address(broker)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

#[test]
fn the_same_messages_reach_clients_over_websocket_and_over_tls_beneath_it() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let broker = broker(&format!(
        "[[listeners]]\nname = \"secure\"\nkind = \"wss\"\naddress = \"127.0.0.1:0\"\n{}",
        authority.server("server").toml()
    ));
    let secure = broker.address_of("secure");
    let connection =
        ClientConnection::new(authority.client_config(), "localhost".try_into().unwrap()).unwrap();
    let tls = StreamOwned::new(connection, TcpStream::connect(secure).unwrap());
    let mut subscriber = RawClient::over(WebSocket::over(tls), V5);
    let mut publisher = RawClient::over(WebSocket::open(address(&broker)), V3_1_1);
    for client in [&mut subscriber, &mut publisher] {
        client.send(&connect(client.version).client_id(unique("ws")).bytes());
        assert_eq!(client.read().connack().reason, 0);
    }
    let topic = unique("ws");
    subscriber.send(&subscribe(V5, 1, &[], &[Filter::new(&topic, 2)]));
    subscriber.read();
    for length in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let payload: Vec<u8> = (0..length).map(|number| (number % 253) as u8).collect();
        publisher.send(&publish(&topic, &payload).bytes(V3_1_1));
        assert!(subscriber.read().publish().payload == payload, "{length} bytes");
    }
    for client in [subscriber, publisher] {
        client.disconnect();
    }
    // Both ended as agreed.
    broker.wait_for_log("the client disconnected");
    assert!(!broker.log().contains("WARN"), "{}", broker.log());
}

#[test]
fn curl_sees_the_upgrade_and_each_refusal() {
    let broker = broker("origins = \"https://good.example\"\n");
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", broker.port());
    let good = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: mqtt",
    ];
    let curl = |path: &str, fields: &[&str], more: &[&str]| {
        let url = url(path);
        let mut arguments = vec!["-s", "-i", "--http1.1", "--max-time", "1"];
        for field in fields {
            arguments.extend(["-H", field]);
        }
        arguments.extend(more);
        arguments.push(&url);
        run("curl", &arguments).output
    };
    let changed = |index: usize, field: &'static str| {
        let mut fields = good;
        fields[index] = field;
        fields
    };
    // It stays open; the time that curl is given ends it.
    let upgraded = curl("/mqtt", &good, &[]);
    assert!(upgraded.starts_with("HTTP/1.1 101 "), "{upgraded}");
    assert!(upgraded.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{upgraded}");

    for (answer, status, words) in [
        (curl("/", &good, &[]), 404, "MQTT over WebSocket is at /mqtt"),
        (curl("/mqtt", &[], &[]), 426, "speaks MQTT over WebSocket"),
        (curl("/mqtt", &changed(2, "Sec-WebSocket-Version: 8"), &[]), 426, "version 13"),
        (curl("/mqtt", &changed(3, "Sec-WebSocket-Key: short"), &[]), 400, "Sec-WebSocket-Key"),
        (curl("/mqtt", &changed(4, "Sec-WebSocket-Protocol: chat"), &[]), 400, "subprotocol mqtt"),
        (curl("/mqtt", &good, &["-X", "DELETE"]), 405, "only GET"),
        (curl("/mqtt", &good, &["-H", "Origin: https://bad.example"]), 403, "https://bad.example"),
    ] {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert!(answer.contains(words), "{words}: {answer}");
    }
    let allowed = curl("/mqtt", &good, &["-H", "Origin: https://good.example"]);
    assert!(allowed.starts_with("HTTP/1.1 101 "), "{allowed}");
    broker.wait_for_log("pages of https://bad.example may not connect");
}

#[test]
fn a_missing_subprotocol_is_forgiven_where_the_listener_is_lenient() {
    for (keys, status) in
        [("", "HTTP/1.1 400 "), ("lenient = [\"websocket-subprotocol\"]\n", "HTTP/1.1 101 ")]
    {
        let broker = broker(keys);
        let mut stream = tcp(&broker);
        stream.write_all(request("/mqtt", "").as_bytes()).unwrap();
        assert!(head(&mut stream).starts_with(status), "{keys}");
    }
}

/// Bytes of packets in frames of every shape: fragments, pings in between, one byte at a time.
#[test]
fn frames_have_no_bearing_on_packets() {
    let broker = broker("");
    let mut socket = WebSocket::open(address(&broker));
    let topic = unique("frames");
    let connect = connect(V3_1_1).client_id(unique("frames")).bytes();
    let subscribe = subscribe(V3_1_1, 1, &[], &[Filter::new(&topic, 0)]);
    let publish = publish(&topic, "straddling").bytes(V3_1_1);
    let packets = [connect, subscribe, publish].concat();
    let mut bytes = frame(BINARY, &packets[..5]);
    for (index, byte) in packets[5..20].iter().enumerate() {
        bytes.extend(frame(CONTINUATION, &[*byte]));
        bytes.extend(frame(FIN | PING, &[index as u8]));
    }
    bytes.extend(frame(FIN | CONTINUATION, &[]));
    bytes.extend(frame(FIN | BINARY, &packets[20..]));
    for byte in &bytes {
        socket.inner.write_all(&[*byte]).unwrap();
    }
    // Pongs between what MQTT answers, in any number; the last one is for the last ping.
    let (mut answers, mut pong) = (Vec::new(), None);
    while !String::from_utf8_lossy(&answers).contains("straddling") || pong != Some(14) {
        let frame = socket.read_frame().unwrap();
        match frame.first_byte {
            first if first == FIN | PONG => pong = frame.payload.first().copied(),
            first => {
                assert_eq!(first, FIN | BINARY, "{frame:02x?}");
                answers.extend(frame.payload);
            }
        }
    }
    assert_eq!(answers[..4], [0x20, 2, 0, 0], "the CONNACK came first");
    socket.inner.write_all(&frame(FIN | CLOSE, &1001_u16.to_be_bytes())).unwrap();
    assert_eq!(socket.expect_close(), 1001);
}

#[test]
fn whoever_breaks_the_rules_is_told_by_a_close_frame() {
    let broker = broker("");
    let unmasked = vec![FIN | BINARY, 2, 0xC0, 0];
    let compressed = frame(FIN | 0x40 | BINARY, &pingreq());
    for (bytes, code) in [
        (frame(FIN | TEXT, b"hello"), 1003),
        (unmasked, 1002),
        (compressed, 1002),
        (frame(FIN | CONTINUATION, &pingreq()), 1002),
        (frame(FIN | PING, &[0; 126]), 1002),
        (frame(PING, &[]), 1002),
        (frame(FIN | 0x7, &[]), 1002),
    ] {
        for connected in [false, true] {
            let mut socket = WebSocket::open(address(&broker));
            if connected {
                socket.write_all(&connect(V3_1_1).client_id(unique("rules")).bytes()).unwrap();
                socket.read_exact(&mut [0; 4]).unwrap();
            }
            socket.inner.write_all(&bytes).unwrap();
            assert_eq!(socket.expect_close(), code, "{bytes:02x?}, connected: {connected}");
        }
    }
    broker.wait_for_log("it does not speak WebSocket: it sent a text frame");
}

/// A client that announces a frame of exabytes costs nothing but the connection.
#[test]
fn a_monstrous_frame_takes_no_memory() {
    let broker = broker("");
    let mut socket = WebSocket::open(address(&broker));
    let mut header = vec![FIN | BINARY, 0x80 | 127];
    header.extend((i64::MAX as u64).to_be_bytes());
    header.extend([0; 4]);
    header.extend(connect(V3_1_1).client_id(unique("monster")).bytes());
    socket.inner.write_all(&header).unwrap();
    socket.read_exact(&mut [0; 4]).expect("its packets count all the same");
}

#[test]
fn slow_and_large_requests_are_cut_off() {
    let broker = broker("");
    let mut slow = tcp(&broker);
    let start = Instant::now();
    let request = request("/mqtt", MQTT);
    let mut sent = request.bytes();
    // A byte now and then does not buy time.
    while start.elapsed() < Duration::from_millis(2_500) {
        if slow.write_all(&[sent.next().unwrap()]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let mut rest = Vec::new();
    let closed = slow.read_to_end(&mut rest);
    assert!(closed.map_err(|error| error.kind()).is_ok_and(|_| rest.is_empty()) || rest.is_empty());
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());

    let mut large = tcp(&broker);
    let _ = large.write_all(format!("GET /mqtt HTTP/1.1\r\nX: {}", "x".repeat(9_000)).as_bytes());
    let answer = head(&mut large);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn the_flag_for_websocket_listens_beside_the_one_for_tcp() {
    let broker = Broker::launch(None, &["--ws-port", "0", "--durability", "none"]);
    let mut socket = WebSocket::open(broker.address_of("websocket"));
    socket.write_all(&connect(V5).client_id(unique("flag")).bytes()).unwrap();
    socket.read_exact(&mut [0; 4]).unwrap();
    connect(V5).client_id(unique("flag")).open(&broker);
}

#[test]
fn a_silent_connection_is_pinged() {
    let broker = broker("websocket_ping = \"1s\"\n");
    let mut socket = WebSocket::open(address(&broker));
    socket.write_all(&connect(V3_1_1).client_id(unique("quiet")).keep_alive(0).bytes()).unwrap();
    socket.read_exact(&mut [0; 4]).unwrap();
    for _ in 0..2 {
        assert_eq!(socket.read_frame().unwrap().first_byte, FIN | PING);
        socket.inner.write_all(&frame(FIN | PONG, &[])).unwrap();
    }
}

#[test]
fn only_a_trusted_proxy_tells_who_the_client_is() {
    for (keys, seen) in [("", false), ("trusted_proxies = \"127.0.0.0/8\"\n", true)] {
        let broker = broker(keys);
        let mut stream = tcp(&broker);
        stream
            .write_all(request("/mqtt", &format!("{MQTT}X-Forwarded-For: 192.0.2.77\r\n")).as_bytes())
            .unwrap();
        head(&mut stream);
        let id = unique("behind-a-proxy");
        stream.write_all(&frame(FIN | BINARY, &connect(V3_1_1).client_id(&id).bytes())).unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
        broker.wait_for_log(&id);
        assert_eq!(broker.log().contains("peer=192.0.2.77"), seen, "{}", broker.log());
    }
}

#[test]
fn when_there_is_no_room_the_answer_is_503() {
    let broker = broker("max_connections = 1\n");
    // The probe that saw the broker listen may still be on its way out.
    let start = Instant::now();
    let first = loop {
        let mut stream = tcp(&broker);
        stream.write_all(request("/mqtt", MQTT).as_bytes()).unwrap();
        if head(&mut stream).starts_with("HTTP/1.1 101 ") {
            break stream;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "there is never room");
    };
    let mut second = tcp(&broker);
    second.write_all(request("/mqtt", MQTT).as_bytes()).unwrap();
    let answer = head(&mut second);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(first);
}

#[test]
fn plain_mqtt_and_tls_on_a_websocket_port_are_closed() {
    let broker = broker("");
    for bytes in [connect(V5).bytes(), vec![0x16, 0x03, 0x01, 0, 5, 1, 0, 0, 1, 3]] {
        let mut stream = tcp(&broker);
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{answer:02x?}");
    }
}
