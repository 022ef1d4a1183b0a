//! Who fails to log in again and again, or comes and goes, is kept out for a while; nobody else is.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::certificates::Authority;
use crate::support::websocket::{FIN, MQTT, WebSocket, frame, head, request};
use crate::support::{Broker, Connect, RawClient, V3_1_1, V5, Version, certificates, connect, unique};
use crate::{Folder, user};

const BANNED: u8 = 0x8A;
/// The return code of 3.1.1: not authorized.
const BANNED_3X: u8 = 5;

/// Where a test's clients come from: 127.0.0.0/8 has addresses enough.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Bans for clients on this machine, too.
const ON_LOOPBACK: &str = "[bans]\nloopback = true\nwindow = \"30s\"\n";

fn guarded(folder: &Folder, more: &str) -> Broker {
    let users = folder.users(&["alice"]);
    Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"password-file\"]\npassword_file = {users:?}\n[sys]\ninterval = \"1s\"\n{more}"
    ))
}

fn from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn main_door(broker: &Broker) -> SocketAddr {
    SocketAddr::from((HERE, broker.port()))
}

/// What a CONNECT from there is answered with.
fn reason(stream: TcpStream, connect: &Connect) -> u8 {
    let mut client = RawClient::over(stream, connect.version);
    client.send(&connect.bytes());
    let reason = client.read().connack().reason;
    if reason == 0 {
        client.disconnect();
    } else {
        client.expect_closed();
    }
    reason
}

/// Comes and goes at once.
fn flap(stream: TcpStream, connect: &Connect) {
    assert_eq!(reason(stream, connect), 0);
}

fn guess(version: Version) -> Connect {
    user(version, "alice").password("guess")
}

#[test]
fn who_fails_to_log_in_again_and_again_is_kept_out_for_a_while() {
    let folder = Folder::new();
    let more = format!("{ON_LOOPBACK}address_failed_logins = 3\nduration = \"2s\"\n");
    let broker = guarded(&folder, &more);
    let door = main_door(&broker);
    let mut inside = user(V5, "alice").open(&broker);
    for version in [V5, V3_1_1, V5] {
        let wrong = if version == V5 { 0x86 } else { 4 };
        assert_eq!(reason(from(HERE, door), &guess(version)), wrong);
    }
    let start = Instant::now();
    for (version, answer) in [(V5, BANNED), (V3_1_1, BANNED_3X)] {
        assert_eq!(reason(from(HERE, door), &user(version, "alice")), answer, "the right password, too late");
        assert_eq!(reason(from(THERE, door), &user(version, "alice")), 0, "somebody else");
    }
    inside.ping();
    broker.wait_for_log("banned for 2s: address 127.0.0.1, for 3 failed logins within 30s");
    let mut watcher = RawClient::over(from(THERE, door), V5);
    watcher.send(&user(V5, "alice").bytes());
    watcher.read();
    watcher.subscribe("$SYS/broker/clients/#", 0);
    let (mut bans, mut refused) = (false, false);
    while !(bans && refused) {
        let value = watcher.read_publish();
        bans |= value.topic == "$SYS/broker/clients/banned" && value.text() == "1";
        refused |= value.topic == "$SYS/broker/clients/refused/banned" && value.text() != "0";
    }
    while reason(from(HERE, door), &user(V5, "alice")) != 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "the ban does not end");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(start.elapsed() > Duration::from_millis(1_900), "{:?}", start.elapsed());
}

#[test]
fn on_this_machine_nobody_is_banned_unless_that_is_asked_for() {
    let folder = Folder::new();
    let broker = guarded(&folder, "[bans]\naddress_failed_logins = 2\naddress_flaps = 2\nclient_flaps = 2\n");
    let door = main_door(&broker);
    let alice = user(V5, "alice");
    for _ in 0..4 {
        assert_eq!(reason(from(HERE, door), &guess(V5)), 0x86);
        flap(from(HERE, door), &alice);
    }
    assert!(!broker.log().contains("banned"), "{}", broker.log());
}

#[test]
fn a_client_identifier_that_comes_and_goes_is_kept_out_wherever_it_comes_from() {
    let broker = Broker::with_config(&format!("{ON_LOOPBACK}client_flaps = 5\nflap_time = \"10s\"\n"));
    let door = main_door(&broker);
    let flapping = connect(V5).client_id(unique("flapping"));
    for number in 0..5 {
        flap(from(if number % 2 == 0 { HERE } else { THERE }, door), &flapping);
    }
    assert_eq!(reason(from(HERE, door), &flapping), BANNED);
    assert_eq!(reason(from(Ipv4Addr::new(127, 0, 0, 3), door), &flapping), BANNED);
    flap(from(HERE, door), &connect(V5).client_id(unique("other")));
    // Whoever gets an identifier from us has none of its own to be known by.
    for _ in 0..10 {
        flap(from(HERE, door), &connect(V5).client_id(""));
    }
    broker.wait_for_log("banned for 300s: client identifier \"flapping-");
}

/// Two clients with one identifier that take the session from each other.
#[test]
fn a_fight_for_an_identifier_is_flapping() {
    let broker = Broker::with_config(&format!("{ON_LOOPBACK}client_flaps = 10\nflap_time = \"10s\"\n"));
    let contested = connect(V3_1_1).client_id(unique("contested"));
    let mut owners: Vec<RawClient> = (0..11).map(|_| contested.open(&broker)).collect();
    for owner in &mut owners[..10] {
        owner.expect_closed();
    }
    broker.wait_for_log("for 10 short connections within 30s");
    assert_eq!(contested.refused(&broker), BANNED_3X);
    owners[10].ping();
}

#[test]
fn an_address_that_comes_and_goes_is_kept_out_at_every_door() {
    let folder = certificates::Folder::new();
    let tls = Authority::new(&folder, "ca").server("server").toml();
    let broker = Broker::with_config(&format!(
        "{ON_LOOPBACK}address_flaps = 12\nflap_time = \"10s\"\n\
         [[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n\
         [[listeners]]\nname = \"web\"\nkind = \"ws\"\naddress = \"127.0.0.1:0\"\n\
         [[listeners]]\nname = \"secure\"\nkind = \"tls\"\naddress = \"127.0.0.1:0\"\n{tls}",
    ));
    let (door, web, secure) = (main_door(&broker), broker.address_of("web"), broker.address_of("secure"));
    // Whatever it does there, and whether it says anything or not.
    let start = Instant::now();
    while !broker.log().contains("for 12 short connections within 30s") {
        flap(from(THERE, door), &connect(V5).client_id(unique("gone")));
        for (address, bytes) in
            [(door, &b"GET / HTTP/1.1\r\n\r\n"[..]), (web, b"\x10"), (secure, b"\x10"), (door, b"")]
        {
            let mut stream = from(THERE, address);
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            rest(&mut stream);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{}", broker.log());
    }
    assert_eq!(reason(from(THERE, door), &connect(V5).client_id(unique("late"))), BANNED);
    let mut stream = from(THERE, web);
    stream.write_all(request("/mqtt", MQTT).as_bytes()).unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 403 "));
    assert!(rest(&mut from(THERE, secure)).is_empty(), "without a word, as that would cost a handshake");
    // Nobody else is kept out.
    flap(from(HERE, door), &connect(V5).client_id(unique("other")));
    WebSocket::over(from(HERE, web));
}

/// Reads to the end, which may come as a reset.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    rest
}

/// A connection that a proxy on this machine passes on.
fn through_proxy(client: IpAddr, proxy: SocketAddr) -> TcpStream {
    let mut stream = from(HERE, proxy);
    let header = match client {
        IpAddr::V4(client) => format!("PROXY TCP4 {client} 198.51.100.1 4000 1883\r\n"),
        IpAddr::V6(client) => format!("PROXY TCP6 {client} 2001:db8::1 4000 1883\r\n"),
    };
    stream.write_all(header.as_bytes()).unwrap();
    stream
}

#[test]
fn behind_a_proxy_the_clients_own_address_is_banned_and_not_the_proxys() {
    let folder = Folder::new();
    let certificates = certificates::Folder::new();
    let tls = Authority::new(&certificates, "ca").server("server").toml();
    let proxied = "proxy_protocol = true\ntrusted_proxies = \"127.0.0.1\"\n";
    let broker = guarded(
        &folder,
        &format!(
            "[bans]\naddress_failed_logins = 3\n\
             [[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n{proxied}\
             [[listeners]]\nname = \"secure\"\nkind = \"tls\"\naddress = \"127.0.0.1:0\"\n{proxied}{tls}\
             [[listeners]]\nname = \"web\"\nkind = \"ws\"\naddress = \"127.0.0.1:0\"\ntrusted_proxies = \"127.0.0.1\"\n"
        ),
    );
    let (door, secure, web) = (main_door(&broker), broker.address_of("secure"), broker.address_of("web"));
    let at =
        |address: &str, connect: &Connect| reason(through_proxy(address.parse().unwrap(), door), connect);
    let alice = user(V5, "alice");
    for address in ["192.0.2.7", "2001:db8:7::1", "192.0.2.7", "2001:db8:7::2", "192.0.2.7", "2001:db8:7::3"]
    {
        assert_eq!(at(address, &guess(V5)), 0x86);
    }
    assert_eq!(at("192.0.2.7", &alice), BANNED);
    assert_eq!(at("192.0.2.8", &alice), 0);
    assert_eq!(at("2001:db8:7::4", &alice), BANNED, "the same 64 bits");
    assert_eq!(at("2001:db8:7:1::4", &alice), 0);
    broker.wait_for_log("banned for 300s: address 2001:db8:7::/64, for 3 failed logins within 60s");
    assert!(rest(&mut through_proxy("192.0.2.7".parse().unwrap(), secure)).is_empty(), "no handshake for it");

    // A proxy for HTTP tells it in a field; one that does not tell stands for nobody.
    let over_http = |field: &str, connect: &Connect| {
        let mut stream = from(HERE, web);
        stream.write_all(request("/mqtt", &format!("{MQTT}{field}")).as_bytes()).unwrap();
        head(&mut stream);
        stream.write_all(&frame(FIN | 2, &connect.bytes())).unwrap();
        // The header of a frame, that of a CONNACK, its flags and what is asked for.
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[2], 0x20, "{answer:02x?}");
        answer[5]
    };
    assert_eq!(over_http("X-Forwarded-For: 192.0.2.7\r\n", &alice), BANNED);
    for _ in 0..4 {
        assert_eq!(over_http("", &guess(V3_1_1)), 4);
    }
    assert_eq!(over_http("", &user(V3_1_1, "alice")), 0);
}

/// An attacker that makes up an address and an identifier for each attempt.
#[test]
fn made_up_addresses_and_identifiers_take_no_memory_and_hide_nobody() {
    const MADE_UP: u32 = 4_000;
    let folder = Folder::new();
    let keys = folder.write("secret", "a secret of more than thirty-two bytes, known to nobody\n");
    let broker = Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"jwt\"]\njwt_keys = {keys:?}\n\
         [bans]\naddress_failed_logins = 10\nclient_failed_logins = 10\nmax_tracked = 1000\n\
         [[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\nproxy_protocol = true\ntrusted_proxies = \"127.0.0.1\"\n"
    ));
    let door = main_door(&broker);
    let attempt = |client: &str, id: &str| {
        let connect = connect(V5).client_id(id).username("u").password("no.token.atall");
        reason(through_proxy(client.parse().unwrap(), door), &connect)
    };
    let mut before = 0;
    assert_ne!(attempt("192.0.2.66", "persistent"), BANNED);
    for number in 0..MADE_UP {
        let client = format!("2001:db8:{:x}:{:x}::1", number >> 16, number & 0xFFFF);
        assert_ne!(attempt(&client, &format!("made-up-{number}")), BANNED);
        if number % 300 == 0 {
            let is_late = number / 300 >= 9;
            assert_eq!(attempt("192.0.2.66", "persistent") == BANNED, is_late, "after {number}");
        }
        if number == 1_000 {
            // By now the tables are there, and what the allocator needs for this traffic.
            before = resident(&broker);
        }
    }
    let grown = resident(&broker).saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes for what is made up");
    for words in
        ["address 192.0.2.66, for 10 failed logins", "client identifier \"persistent\", for 10 failed"]
    {
        broker.wait_for_log(words);
    }
    assert_eq!(broker.log().matches("banned for").count(), 2, "{}", broker.log());
}

/// Bytes of memory that the broker holds.
fn resident(broker: &Broker) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", broker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

#[test]
fn bans_are_lifted_when_their_section_changes() {
    let folder = Folder::new();
    let more = format!("{ON_LOOPBACK}address_failed_logins = 2\n");
    let broker = guarded(&folder, &more);
    let door = main_door(&broker);
    let alice = user(V5, "alice");
    for _ in 0..2 {
        assert_eq!(reason(from(HERE, door), &guess(V5)), 0x86);
    }
    assert_eq!(reason(from(HERE, door), &alice), BANNED);
    let file = broker.directory().join("fulmar.toml");
    // As it is, a reload changes nothing.
    broker.signal("HUP");
    broker.wait_for_log("reloaded: ");
    assert_eq!(reason(from(HERE, door), &alice), BANNED);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("address_failed_logins = 2", "address_failed_logins = 0")).unwrap();
    broker.signal("HUP");
    broker.wait_for_log("[bans] changed: all bans are lifted");
    for _ in 0..4 {
        assert_eq!(reason(from(HERE, door), &guess(V5)), 0x86);
    }
    assert_eq!(reason(from(HERE, door), &alice), 0);
}
