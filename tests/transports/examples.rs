//! The examples, each as a user runs it: after `fulmar certs certs localhost`, with nothing changed but the ports.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::program::Program;
use crate::support::site::Site;
use crate::support::websocket::{WebSocket, head, request};
use crate::support::{Broker, RawClient, V5, connect, free_port, publish, unique};
use crate::tools::{Outcome, mosquitto_round_trip, run};

/// How long HAProxy may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn tls() {
    let site = Site::new();
    let broker = site.broker("tls.toml", &[8883, 1883]);
    let port = broker.port().to_string();
    let ca = site.file("certs/ca.crt");
    let secure = ["-h", "localhost", "-p", &port, "--cafile", &ca];
    assert_eq!(mosquitto_round_trip(&secure, &unique("greetings")), Ok(()));
    let plain = broker.address_of("mqtt").port().to_string();
    assert_eq!(mosquitto_round_trip(&["-p", &plain], &unique("greetings")), Ok(()));
    // The certificate is for localhost, and the system's authorities know nothing of it.
    mosquitto_round_trip(&["-h", "127.0.0.1", "-p", &port, "--cafile", &ca], "never").unwrap_err();
    mosquitto_round_trip(&["-h", "localhost", "-p", &port, "--tls-use-os-certs"], "never").unwrap_err();
    // Strict rules, and both versions of TLS.
    for version in ["-tls1_2", "-tls1_3"] {
        let address = format!("localhost:{port}");
        let outcome = run(
            "openssl",
            &[
                "s_client",
                "-connect",
                &address,
                version,
                "-CAfile",
                &ca,
                "-x509_strict",
                "-verify_hostname",
                "localhost",
                "-verify_return_error",
            ],
        );
        assert!(outcome.succeeded && outcome.output.contains("Verify return code: 0 (ok)"), "{outcome:?}");
    }
}

#[test]
fn mutual_tls() {
    let site = Site::new();
    let broker = site.broker("mutual-tls.toml", &[8883]);
    let port = broker.port().to_string();
    let [ca, certificate, key] =
        ["ca.crt", "client.crt", "client.key"].map(|name| site.file(&format!("certs/{name}")));
    let without = ["-h", "localhost", "-p", &port, "--cafile", &ca];
    let with = [&without[..], &["--cert", &certificate, "--key", &key]].concat();
    assert_eq!(mosquitto_round_trip(&with, "devices/client/status"), Ok(()));
    broker.wait_for_log("user=\"client\"");
    assert!(is_denied(&with, "devices/other/status"));
    mosquitto_round_trip(&without, "devices/client/status").unwrap_err();
    broker.wait_for_log("peer sent no certificates");
    // The server's certificate is none for a client, although the same authority has signed it.
    let (certificate, key) = (site.file("certs/server.crt"), site.file("certs/server.key"));
    let as_server = [&without[..], &["--cert", &certificate, "--key", &key]].concat();
    mosquitto_round_trip(&as_server, "devices/localhost/status").unwrap_err();
}

#[test]
fn password_acl() {
    let site = Site::new();
    let broker = site.broker("password-acl.toml", &[1883]);
    let port = broker.port().to_string();
    let user = |name: &'static str, password: &'static str| ["-p", &port, "-u", name, "-P", password];
    let alice = user("alice", "looking-glass");
    let sensor = user("sensor-1", "thermometer");
    assert_eq!(mosquitto_round_trip(&alice, "anything/at/all"), Ok(()));
    assert_eq!(mosquitto_round_trip(&sensor, "sensors/sensor-1/temperature"), Ok(()));
    assert!(is_denied(&sensor, "sensors/sensor-2/temperature"));
    for stranger in [user("alice", "wonderland"), user("bob", "thermometer")] {
        mosquitto_round_trip(&stranger, "news/today").unwrap_err();
    }
    mosquitto_round_trip(&["-p", &port], "news/today").unwrap_err();
}

/// In `tests/clients` a browser comes in at the same two doors.
#[test]
fn browser() {
    let site = Site::new();
    let broker = site.broker("browser.toml", &[8083, 8084, 1883]);
    let ws = broker.address_of("ws");
    let wss = TcpStream::connect(broker.address_of("wss")).unwrap();
    let mut clients = [
        RawClient::over(WebSocket::open(ws), V5),
        RawClient::over(WebSocket::over(tls_over(&site, wss)), V5),
        RawClient::open_at(broker.address_of("mqtt"), V5),
    ];
    let topic = unique("greetings");
    for client in &mut clients {
        client.send(&connect(V5).client_id(unique("page")).bytes());
        assert_eq!(client.read().connack().reason, 0);
        client.subscribe(&topic, 1);
    }
    clients[2].publish(&publish(&topic, "hello, pages").qos(1, 1));
    for client in &mut clients {
        assert_eq!(client.receive().payload, b"hello, pages");
    }
    // A page from a file has no origin; this listener asks for none.
    let mut page = TcpStream::connect(ws).unwrap();
    let fields = "Sec-WebSocket-Protocol: mqtt\r\nOrigin: null\r\n";
    std::io::Write::write_all(&mut page, request("/mqtt", fields).as_bytes()).unwrap();
    assert!(head(&mut page).starts_with("HTTP/1.1 101 "));
}

#[test]
fn haproxy() {
    let site = Site::new();
    let broker = site.broker("haproxy.toml", &[1883, 8083]);
    let (proxy, mqtts, wss) = start_haproxy(&site, &broker);
    let port = mqtts.to_string();
    let [ca, certificate, key] =
        ["ca.crt", "client.crt", "client.key"].map(|name| site.file(&format!("certs/{name}")));
    // From an address that is not HAProxy's.
    let without = ["-h", "localhost", "-p", &port, "-A", "127.0.0.2", "--cafile", &ca];
    let with = [&without[..], &["--cert", &certificate, "--key", &key]].concat();
    assert_eq!(mosquitto_round_trip(&with, "devices/client/status"), Ok(()));
    let known = broker.log().lines().any(|line| {
        line.contains(" connected ") && line.contains("user=\"client\"") && line.contains("peer=127.0.0.2:")
    });
    assert!(known, "{}", broker.log());
    assert!(is_denied(&with, "devices/other/status"));
    mosquitto_round_trip(&without, "devices/client/status").unwrap_err();
    // Past HAProxy, whoever tells no address does not come in.
    let behind = broker.port().to_string();
    mosquitto_round_trip(&["-p", &behind], "devices/client/status").unwrap_err();
    broker.wait_for_log("no PROXY protocol header");

    // A page: it claims to come from elsewhere, which is not believed.
    let mut tls = tls_over(&site, from_127_0_0_3(wss));
    let fields = "Sec-WebSocket-Protocol: mqtt\r\nX-Forwarded-For: 192.0.2.66\r\n";
    std::io::Write::write_all(&mut tls, request("/mqtt", fields).as_bytes()).unwrap();
    let answer = head(&mut tls);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}\n{}", proxy.log());
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    let mut page = RawClient::over(WebSocket::upgraded(tls), V5);
    let id = unique("page");
    page.send(&connect(V5).client_id(&id).bytes());
    assert_eq!(page.read().connack().reason, 0);
    broker.wait_for_log(&format!("connected client=\"{id}\" peer=127.0.0.3"));
    page.subscribe("devices/#", 1);
    assert_eq!(page.receive().payload, b"carried", "what the device has retained");
}

/// HAProxy with the example's configuration, in which ports that are free and the broker's stand for the
/// conventional ones; with its ports for MQTT in TLS and for WebSocket in TLS.
fn start_haproxy(site: &Site, broker: &Broker) -> (Program, u16, u16) {
    // On Debian it is where ordinary users do not look.
    let sbin = "/usr/sbin/haproxy";
    let haproxy = if Path::new(sbin).exists() { sbin } else { "haproxy" };
    let folder = site.path().display().to_string();
    let checked = run(haproxy, &["-C", &folder, "-c", "-f", "examples/haproxy.cfg"]);
    assert!(checked.succeeded, "as it stands: {checked:?}");
    let text = fs::read_to_string(site.path().join("examples/haproxy.cfg")).unwrap();
    let mut failures = String::new();
    // Somebody may take a free port before HAProxy does.
    for _ in 0..5 {
        let (mqtts, wss) = (free_port(), free_port());
        let mut config = text.clone();
        for (from, to) in [
            (":8883 ", mqtts),
            (":8084 ", wss),
            (":1883 ", broker.port()),
            (":8083\n", broker.address_of("ws").port()),
        ] {
            assert_eq!(text.matches(from).count(), 1, "{from:?} is in the example once");
            config = config.replace(from, &format!(":{to}{}", &from[from.len() - 1..]));
        }
        fs::write(site.path().join("haproxy.cfg"), config).unwrap();
        let mut program = Program::start(haproxy, &["-f", "haproxy.cfg"], site.path(), &[]);
        let start = Instant::now();
        while !program.is_over() {
            if [mqtts, wss].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()) {
                return (program, mqtts, wss);
            }
            assert!(start.elapsed() < PATIENCE, "HAProxy does not listen:\n{}", program.log());
            thread::sleep(Duration::from_millis(20));
        }
        failures.push_str(&program.log());
    }
    panic!("HAProxy does not start:\n{failures}");
}

/// A connection from an address of this machine that nobody else here uses.
fn from_127_0_0_3(port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 3], 0)).into()).unwrap();
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.into()
}

fn tls_over(site: &Site, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.file("certs/ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    StreamOwned::new(ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap(), stream)
}

/// Whether the client comes in, and is told that it may not publish there.
fn is_denied(connection: &[&str], topic: &str) -> bool {
    let arguments = [connection, &["-V", "mqttv5", "-t", topic, "-q", "1", "-m", "denied", "-d"]].concat();
    let Outcome { output, .. } = run("mosquitto_pub", &arguments);
    assert!(output.contains("received CONNACK (0)"), "{output}");
    output.contains("RC:135")
}
