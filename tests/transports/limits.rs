//! What each listener allows its clients: sizes, times, how many may come at once, how fast they may send.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use crate::support::certificates::{Authority, Folder};
use crate::support::websocket::{MQTT, WebSocket, head, request};
use crate::support::{
    Broker, CONNACK, DISCONNECT, Filter, PINGRESP, PUBACK, PUBLISH, RawClient, SUBACK, V3_1_1, V5, connect,
    pingreq, publish, subscribe, unique,
};

const MAXIMUM_PACKET_SIZE: u8 = 0x27;
const RECEIVE_MAXIMUM: u8 = 0x21;

fn at(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// A client that was let in; what it sends beside the CONNECT goes with it in one write.
fn enter(mut client: RawClient, keep_alive: u16, beside: &[u8]) -> RawClient {
    client.set_patience(Duration::from_secs(10));
    let connect = connect(client.version).client_id(unique("limited")).keep_alive(keep_alive);
    client.send(&[&connect.bytes(), beside].concat());
    let connack = client.read_kind(CONNACK).connack();
    assert_eq!(connack.reason, 0, "{connack:?}");
    client.connack = Some(connack);
    client
}

#[test]
fn each_listener_has_sizes_and_times_of_its_own() {
    let folder = Folder::new();
    let tls = Authority::new(&folder, "ca").server("server").toml();
    let broker = Broker::with_config(&format!(
        "[limits]\nmax_packet_size = \"32KiB\"\nconnect_timeout = \"30s\"\n\
         [[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n\
         [[listeners]]\nname = \"narrow\"\naddress = \"127.0.0.1:0\"\nmax_packet_size = \"1KiB\"\n\
         connect_timeout = \"500ms\"\n\
         [[listeners]]\nname = \"hasty\"\nkind = \"tls\"\naddress = \"127.0.0.1:0\"\n\
         handshake_timeout = \"500ms\"\n{tls}"
    ));
    let narrow = broker.address_of("narrow");
    let wide = SocketAddr::from(([127, 0, 0, 1], broker.port()));
    for (address, size) in [(wide, 32 * 1024), (narrow, 1024)] {
        let mut client = enter(RawClient::open_at(address, V5), 60, &[]);
        assert_eq!(client.accepted().number(MAXIMUM_PACKET_SIZE), Some(size));
        let size = size as usize;
        let around = publish("t", vec![0; size]).bytes(V5).len() - size;
        client.publish(&publish("t", vec![0; size - around]));
        client.send(&publish("t", vec![0; size - around + 1]).bytes(V5));
        assert_eq!(client.read().reason(DISCONNECT).0, 0x95);
        client.expect_closed();
        // A CONNECT is a packet, too.
        let mut first = RawClient::open_at(address, V5);
        first.send(&connect(V5).client_id(unique("long")).username(vec![b'u'; size]).bytes());
        first.expect_connect_error(&[0x95]);
    }
    for (name, byte) in [("narrow", 0x10), ("hasty", 0x16)] {
        // The one that does not hurry is open still.
        let mut patient = RawClient::open_at(wide, V5);
        let mut silent = at(broker.address_of(name));
        let start = Instant::now();
        // A byte does not buy time.
        silent.write_all(&[byte]).unwrap();
        assert!(closed(&mut silent).is_empty());
        let took = start.elapsed();
        assert!(took > Duration::from_millis(450) && took < Duration::from_secs(5), "{name}: {took:?}");
        patient.send(&connect(V5).client_id(unique("patient")).bytes());
        assert_eq!(patient.read().connack().reason, 0);
    }
}

/// Reads to the end, which may come as a reset.
fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    rest
}

#[test]
fn more_newcomers_than_a_listener_takes_in_a_second_are_told_so() {
    let broker = Broker::with_config(
        "[limits]\nconnections_per_second = 3\n[sys]\ninterval = \"1s\"\n\
         [[listeners]]\naddress = \"127.0.0.1:{PORT}\"\nconnections_per_second = 100000\n\
         [[listeners]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\n\
         [[listeners]]\nname = \"web\"\nkind = \"ws\"\naddress = \"127.0.0.1:0\"\n\
         [[listeners]]\nname = \"proxied\"\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n\
         trusted_proxies = \"127.0.0.1\"\n",
    );
    let plain = broker.address_of("plain");
    let start = Instant::now();
    let mut inside = Vec::new();
    let mut refused = 0;
    while inside.len() < 5 {
        let version = if inside.len() % 2 == 0 { V5 } else { V3_1_1 };
        let mut client = RawClient::open_at(plain, version);
        client.send(&connect(version).client_id(unique("many")).bytes());
        let connack = client.read().connack();
        if connack.reason == 0 {
            inside.push(client);
        } else {
            // In 3.1.1: server unavailable.
            assert_eq!(connack.reason, if version == V5 { 0x9F } else { 3 });
            client.expect_closed();
            refused += 1;
            // So that the log has lines left for the others.
            thread::sleep(Duration::from_millis(20));
        }
        assert!(start.elapsed() < Duration::from_secs(10), "nobody comes in any more");
    }
    // Three at once, and the others as time goes by.
    assert!(start.elapsed() > Duration::from_millis(600), "{:?}", start.elapsed());
    assert!(refused > 0);
    inside.iter_mut().for_each(RawClient::ping);

    let web = broker.address_of("web");
    let answers: Vec<String> = (0..20)
        .map(|_| {
            let mut stream = at(web);
            stream.write_all(request("/mqtt", MQTT).as_bytes()).unwrap();
            head(&mut stream)
        })
        .collect();
    assert!(answers.iter().any(|answer| answer.starts_with("HTTP/1.1 101 ")), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.starts_with("HTTP/1.1 503 ")), "{answers:?}");

    // Behind a proxy the answer comes all the same, and the log names the client.
    let proxied = broker.address_of("proxied");
    let mut reasons = Vec::new();
    for _ in 0..20 {
        let mut client = RawClient::over(at(proxied), V5);
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 1883\r\n");
        client.send(&connect(V5).client_id(unique("proxied")).bytes());
        reasons.push(client.read().connack().reason);
    }
    assert!(reasons.contains(&0) && reasons.contains(&0x9F), "{reasons:02x?}");
    broker.wait_for_log(
        "a connection was refused peer=192.0.2.7:56324 reason=refused: more than connections_per_second",
    );

    // The listener with a bound of its own is not concerned.
    for _ in 0..50 {
        connect(V5).client_id(unique("own")).open(&broker);
    }
}

#[test]
fn a_full_listener_says_so_and_the_others_take_more() {
    let folder = Folder::new();
    let tls = Authority::new(&folder, "ca").server("server").toml();
    let broker = Broker::with_config(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n\
         [[listeners]]\nname = \"small\"\naddress = \"127.0.0.1:0\"\nmax_connections = 2\n\
         [[listeners]]\nname = \"secure\"\nkind = \"tls\"\naddress = \"127.0.0.1:0\"\nmax_connections = 2\n{tls}",
    ));
    let (small, secure) = (broker.address_of("small"), broker.address_of("secure"));
    let mut inside: Vec<_> = (0..2).map(|_| enter(RawClient::open_at(small, V5), 60, &[])).collect();
    for (version, answer) in [(V5, 0x97), (V3_1_1, 3)] {
        let mut client = RawClient::open_at(small, version);
        client.send(&connect(version).client_id(unique("outside")).bytes());
        assert_eq!(client.read().connack().reason, answer);
        client.expect_closed();
    }
    // In TLS an answer would cost a handshake.
    let _half_open = [at(secure), at(secure)];
    assert!(closed(&mut at(secure)).is_empty());
    for _ in 0..5 {
        connect(V5).client_id(unique("elsewhere")).open(&broker);
    }
    inside.iter_mut().for_each(RawClient::ping);
    broker.wait_for_log("refused: there are max_connections connections already");
}

/// How long a client is let be that connects and says nothing.
fn patience_with_silence(address: SocketAddr) -> Duration {
    let start = Instant::now();
    assert!(closed(&mut at(address)).is_empty());
    start.elapsed()
}

#[test]
fn in_a_rush_who_says_nothing_is_seen_a_second_later_and_no_later() {
    let second = Duration::from_secs(1);
    let broker = Broker::with_config(
        "[limits]\nconnect_timeout = \"100ms\"\n[[listeners]]\naddress = \"127.0.0.1:{PORT}\"\n",
    );
    let address = SocketAddr::from(([127, 0, 0, 1], broker.port()));
    let is_seen_later = |_| {
        // Whoever speaks is let in, and at once.
        let start = Instant::now();
        for _ in 0..200 {
            enter(RawClient::open_at(address, V5), 60, &[]).disconnect();
        }
        assert!(start.elapsed() < 30 * second, "{:?}", start.elapsed());
        let patience = patience_with_silence(address);
        assert!(patience < 5 * second, "{patience:?}");
        patience >= second
    };
    // A machine that is busy may take too long for it to be a rush.
    assert!((0..10).any(is_seen_later) || !cfg!(target_os = "linux"));
    assert!((0..10).any(|_| patience_with_silence(address) < second), "the rush is over");
}

#[test]
fn who_publishes_too_much_is_read_more_slowly_and_loses_nothing() {
    const RATE: usize = 20;
    const MESSAGES: usize = 70;
    let broker = Broker::with_config(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n\
         [[listeners]]\nname = \"slow\"\naddress = \"127.0.0.1:0\"\nmessages_per_second = {RATE}\n",
    ));
    let mut reader = connect(V5).client_id(unique("reader")).open(&broker);
    reader.subscribe("flood", 1);
    let mut other = connect(V5).client_id(unique("other")).open(&broker);

    // All at once, behind the CONNECT; and then it is silent for longer than its keep alive allows, as far as it knows.
    let flood =
        (1..=MESSAGES).map(|number| publish("flood", number.to_string()).qos(1, number as u16).bytes(V5));
    let beside = [subscribe(V5, 900, &[], &[Filter::new("aside", 0)]), flood.flatten().collect()].concat();
    let start = Instant::now();
    let mut eager = enter(RawClient::open_at(broker.address_of("slow"), V5), 1, &beside);
    assert_eq!(
        eager.accepted().number(RECEIVE_MAXIMUM),
        Some(RATE as u32),
        "what it gets through in a second; to send more all the same is forgiven"
    );
    eager.read_kind(SUBACK);
    other.publish(&publish("aside", "for the one that waits").qos(1, 1));
    let (mut acknowledged, mut aside) = (0, None);
    while acknowledged < MESSAGES {
        let packet = eager.read();
        if packet.kind() == PUBLISH {
            aside = Some(acknowledged);
            continue;
        }
        acknowledged += 1;
        assert_eq!(packet.ack(PUBACK).0 as usize, acknowledged, "in order");
    }
    let took = start.elapsed();
    let least = Duration::from_secs_f64((MESSAGES - RATE) as f64 / RATE as f64) - Duration::from_millis(100);
    assert!(took > least, "{MESSAGES} messages in {took:?}");
    assert!(took < least + Duration::from_secs(5), "{MESSAGES} messages in {took:?}");
    assert!(aside.is_some_and(|so_far| so_far < MESSAGES - RATE / 2), "what it reads was held up: {aside:?}");
    eager.ping();
    for number in 1..=MESSAGES {
        assert_eq!(reader.receive().text(), number.to_string());
    }
    broker.wait_for_log("it is read more slowly");
    assert!(!broker.log().contains("keep alive"), "{}", broker.log());

    // The others are not held to it.
    let start = Instant::now();
    for number in 0..10 * RATE {
        other.publish(&publish("other", number.to_string()).qos(1, 1));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// One that keeps to the Receive Maximum sends as much as it may, and pings: it is answered before it doubts.
#[test]
fn who_keeps_to_the_receive_maximum_is_always_answered() {
    let broker =
        Broker::with_config("[[listeners]]\naddress = \"127.0.0.1:{PORT}\"\nmessages_per_second = 20\n");
    let mut client = enter(RawClient::open(&broker, V5), 1, &[]);
    let most = client.accepted().number(RECEIVE_MAXIMUM).unwrap() as usize;
    let (mut sent, mut acknowledged) = (0, 0);
    let (mut pinged, mut slowest, mut pongs) = (None, Duration::ZERO, 0);
    while acknowledged < 70 {
        while sent - acknowledged < most {
            sent += 1;
            client.send(&publish("t", "m").qos(1, sent as u16).bytes(V5));
        }
        if pinged.is_none() {
            client.send(&pingreq());
            pinged = Some(Instant::now());
        }
        match client.read() {
            pong if pong.first_byte == PINGRESP => {
                slowest = slowest.max(pinged.take().unwrap().elapsed());
                pongs += 1;
            }
            other => acknowledged += usize::from(other.ack(PUBACK).0 > 0),
        }
    }
    assert!(pongs > 1 && slowest < Duration::from_millis(1_900), "{pongs} times, after {slowest:?} at most");
}

/// Over every transport: many small messages in one read, then one that is larger than what may be sent in a second.
#[test]
fn rates_hold_on_every_transport() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let tls = authority.server("server").toml();
    let rates = "messages_per_second = 20\nbytes_per_second = \"64KiB\"\n";
    let broker = Broker::with_config(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n{rates}\
         [[listeners]]\nname = \"tls\"\nkind = \"tls\"\naddress = \"127.0.0.1:0\"\n{rates}{tls}\
         [[listeners]]\nname = \"ws\"\nkind = \"ws\"\naddress = \"127.0.0.1:0\"\n{rates}\
         [[listeners]]\nname = \"wss\"\nkind = \"wss\"\naddress = \"127.0.0.1:0\"\n{rates}{tls}",
    ));
    let secure = |name| {
        let connection =
            ClientConnection::new(authority.client_config(), "localhost".try_into().unwrap()).unwrap();
        StreamOwned::new(connection, at(broker.address_of(name)))
    };
    let clients = [
        RawClient::open(&broker, V5),
        RawClient::over(secure("tls"), V5),
        RawClient::over(WebSocket::over(at(broker.address_of("ws"))), V5),
        RawClient::over(WebSocket::over(secure("wss")), V5),
    ];
    let threads: Vec<_> = clients.into_iter().map(|client| thread::spawn(|| hold_to_rates(client))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(!broker.log().contains("WARN"), "{}", broker.log());
}

fn hold_to_rates(client: RawClient) {
    let mut client = enter(client, 1, &[]);
    let start = Instant::now();
    let small = publish("t", "small").bytes(V5).repeat(45);
    client.send(&[small, pingreq()].concat());
    client.read().must_be(PINGRESP);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1_150) && took < Duration::from_secs(6), "45 messages in {took:?}");

    let start = Instant::now();
    client.send(&publish("t", vec![7; 192 * 1024]).qos(1, 1).bytes(V5));
    client.expect_ack(PUBACK, 1);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1_850) && took < Duration::from_secs(8), "192 KiB in {took:?}");
    client.ping();
}
