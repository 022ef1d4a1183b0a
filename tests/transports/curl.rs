//! WebSocket as curl sees it: the upgrade inside TLS, and the refusals that take more than a wrong field.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::Broker;
use crate::support::certificates::{Authority, Folder};
use crate::support::websocket::{MQTT, head, request};
use crate::tools::{Outcome, run};

/// What a browser asks for.
const GOOD: [&str; 5] = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: mqtt",
];

/// Asks, and gives up after a second if the connection stays open.
fn curl(url: &str, fields: &[&str], more: &[&str]) -> Outcome {
    let mut arguments = vec!["-sS", "-i", "--max-time", "1"];
    for field in fields {
        arguments.extend(["-H", field]);
    }
    arguments.extend(more);
    arguments.push(url);
    run("curl", &arguments)
}

fn broker(keys: &str) -> Broker {
    Broker::with_config(&format!("[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n{keys}"))
}

#[test]
fn the_upgrade_works_inside_tls_for_those_who_trust_the_server() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let stranger = Authority::new(&folder, "stranger");
    let broker = broker(&format!("kind = \"wss\"\n{}", authority.server("server").toml()));
    let at = |scheme: &str, host: &str| format!("{scheme}://{host}:{}/mqtt", broker.port());
    let trusted = authority.certificate().display().to_string();
    let other = stranger.certificate().display().to_string();
    // curl would rather speak HTTP/2; the broker says in the handshake that it does not.
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let more = [version, &["--cacert", &trusted]].concat();
        let Outcome { output, .. } = curl(&at("https", "localhost"), &GOOD, &more);
        assert!(output.starts_with("HTTP/1.1 101 "), "{version:?}: {output}");
        assert!(output.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{output}");
    }
    let refused = curl(&at("https", "localhost"), &[], &["--cacert", &trusted]).output;
    assert!(refused.starts_with("HTTP/1.1 426 ") && refused.contains("Upgrade: websocket"), "{refused}");

    for (host, authority, words) in [
        ("localhost", &other, "unable to get local issuer certificate"),
        ("127.0.0.1", &trusted, "no alternative certificate subject name matches"),
    ] {
        let outcome = curl(&at("https", host), &GOOD, &["--cacert", authority]);
        assert!(!outcome.succeeded && outcome.output.contains(words), "{outcome:?}");
    }
    // Without TLS there is no answer in HTTP, only an alert.
    let outcome = curl(&at("http", "localhost"), &GOOD, &[]);
    assert!(!outcome.succeeded && !outcome.output.contains("HTTP/1.1"), "{outcome:?}");
    broker.wait_for_log("the TLS handshake failed: received fatal alert");
}

#[test]
fn a_request_that_is_old_large_or_incomplete_is_refused() {
    let broker = broker("kind = \"ws\"\n");
    let url = format!("http://127.0.0.1:{}/mqtt", broker.port());
    let large = format!("X-Large: {}", "x".repeat(9_000));
    let many: Vec<String> = (0..80).map(|number| format!("X-Many-{number}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(GOOD).collect();
    let with = |field: &'static str| [&GOOD[..], &[field]].concat();
    for (fields, more, status, words) in [
        (GOOD.to_vec(), &["--http1.0"][..], 400, "WebSocket needs HTTP/1.1"),
        (with("Host:"), &[], 400, "the request has no Host"),
        (GOOD[1..].to_vec(), &[], 426, "ask for Upgrade: websocket"),
        (GOOD[..4].to_vec(), &[], 400, "ask for the subprotocol mqtt"),
        ([&GOOD[..], &[&large]].concat(), &[], 431, "too large"),
        (many, &[], 431, "too large"),
        (GOOD.to_vec(), &["-X", "POST", "-d", "body"], 405, "only GET"),
    ] {
        let answer = curl(&url, &fields, more).output;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert!(answer.contains(words) && answer.contains("Connection: "), "{words}: {answer}");
    }
}

#[test]
fn a_full_listener_says_that_it_is_full_and_when_to_come_again() {
    let broker = broker("kind = \"ws\"\nmax_connections = 1\n");
    let address = SocketAddr::from(([127, 0, 0, 1], broker.port()));
    // The probe that saw the broker listen may still be on its way out.
    let start = Instant::now();
    let first = loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        std::io::Write::write_all(&mut stream, request("/mqtt", MQTT).as_bytes()).unwrap();
        if head(&mut stream).starts_with("HTTP/1.1 101 ") {
            break stream;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "there is never room");
    };
    let url = format!("http://{address}/mqtt");
    let answer = curl(&url, &GOOD, &[]).output;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Retry-After: ") && answer.contains("too many connections"), "{answer}");
    drop(first);
    while !curl(&url, &GOOD, &[]).output.starts_with("HTTP/1.1 101 ") {
        assert!(start.elapsed() < Duration::from_secs(10), "there is no room again");
    }
}
