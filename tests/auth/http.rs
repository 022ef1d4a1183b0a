//! A service of the user's is asked who a client is, and whatever goes wrong there lets nobody in.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::service::{Reply, Service};
use crate::support::certificates::{self, Authority};
use crate::support::{
    Broker, Connect, DISCONNECT, PINGRESP, PUBACK, RawClient, V3_1_1, V5, Version, connect, pingreq, publish,
    unique,
};
use crate::{Folder, fulmar, said, user};

/// Asks the service first and a password file, which knows alice, after it. Who comes in elsewhere is asked nothing.
fn guarded(folder: &Folder, url: &str, more: &str) -> Broker {
    let users = folder.users(&["alice"]);
    Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"http\", \"password-file\"]\npassword_file = {users:?}\nhttp_url = {url:?}\n{more}\n\
         [[listeners]]\nname = \"door\"\naddress = \"127.0.0.1:{{PORT}}\"\n\
         [[listeners]]\nname = \"open\"\naddress = \"127.0.0.1:0\"\nallow_anonymous = true\n"
    ))
}

fn guest(version: Version, name: &str) -> Connect {
    connect(version).client_id(format!("of-{name}")).username(name).password("a password")
}

fn allow(_: &Value) -> Reply {
    Reply::Ok(r#"{"result":"allow"}"#.to_owned())
}

fn code(client: &mut RawClient, topic: &str) -> u8 {
    client.send(&publish(topic, "m").qos(1, 1).bytes(V5));
    client.read_kind(PUBACK).ack(PUBACK).1
}

#[test]
fn the_service_allows_denies_or_leaves_it_to_others() {
    let folder = Folder::new();
    let service = Service::start(|question| {
        Reply::Ok(match question["username"].as_str() {
            Some("carol") => {
                json!({"result": "allow", "acl": {"pub": ["own/%u/+"], "sub": "own/#"}}).to_string()
            }
            Some("dave") => r#"{"result":"allow","user":"david","groups":["readers"]}"#.to_owned(),
            Some("alice") => r#"{"result":"ignore"}"#.to_owned(),
            _ => r#"{"result":"deny"}"#.to_owned(),
        })
    });
    let rules = "http_cache = 0\n[[acl]]\ngroup = \"readers\"\ntopics = [\"news/%u\"]\n";
    let broker = guarded(&folder, &service.url(), rules);
    for version in Version::ALL {
        guest(version, "carol").open(&broker);
        assert_eq!(
            service.last(),
            json!({
                "client_id": "of-carol", "username": "carol", "password": "a password", "listener": "door",
                "address": "127.0.0.1", "certificate": null
            })
        );
        let (denied, wrong) = if version.is_v5() { (0x87, 0x86) } else { (5, 4) };
        assert_eq!(guest(version, "mallory").refused(&broker), denied);
        user(version, "alice").open(&broker);
        assert_eq!(guest(version, "alice").refused(&broker), wrong, "the next one is asked, and says no");
        // Who says nothing is nobody's.
        let count = service.count();
        assert_eq!(connect(version).client_id("x").refused(&broker), denied);
        assert_eq!(service.count(), count);
    }
    let mut carol = guest(V5, "carol").open(&broker);
    carol.subscribe("own/carol/#", 0);
    for (topic, expected) in [("own/carol/a", 0), ("own/dave/a", 0x87), ("news/carol", 0x87)] {
        assert_eq!(code(&mut carol, topic), expected, "{topic}");
    }
    let mut dave = guest(V5, "dave").open(&broker);
    assert_eq!((code(&mut dave, "news/david"), code(&mut dave, "news/dave")), (0x10, 0x87));
    broker.wait_for_log("user=\"david\"");
    broker.wait_for_log("user \"mallory\": the service of auth.http_url denies it (authenticator: http)");
    broker.wait_for_log("no rule allows it in the answer of auth.http_url about \\\"carol\\\"");
    assert!(!broker.log().contains("a password"), "no password comes into the log");
}

#[test]
fn whatever_is_no_answer_lets_nobody_in() {
    let folder = Folder::new();
    let service = Service::start(|question| match question["username"].as_str().unwrap_or_default() {
        "slow" => Reply::Never,
        "gone" => Reply::HangUp,
        "text" => Reply::Ok("allow".to_owned()),
        "half" => Reply::Ok(r#"{"result":"allow","acl":{"pub":"a/#/b"}}"#.to_owned()),
        "more" => Reply::Ok(r#"{"result":"allow","rules":[]}"#.to_owned()),
        "long" => Reply::Ok(format!(r#"{{"result":"allow","user":"{}"}}"#, "x".repeat(300_000))),
        "error" => Reply::Other("500 Oh dear", "", r#"{"result":"allow"}"#.to_owned()),
        "empty" => Reply::Other("204 No Content", "", String::new()),
        "moved" => Reply::Other("307 There", "Location: /elsewhere\r\n", String::new()),
        name => panic!("nobody asks about {name}"),
    });
    let broker = guarded(&folder, &service.url(), "http_timeout = \"500ms\"");
    for (name, told) in [
        ("slow", "no answer came within 0.5 s (auth.http_timeout)"),
        ("gone", "error sending request: "),
        ("text", "its answer is not understood: it is no JSON object"),
        ("half", "its answer is not understood: \"acl\" is not of the form"),
        ("more", "its answer is not understood: \"rules\" is not known"),
        ("long", "its answer is longer than 262144 bytes"),
        ("error", "it answered with status 500"),
        ("empty", "it answered with status 204"),
        ("moved", "it answered with status 307"),
    ] {
        for (version, unavailable) in [(V5, 0x88), (V3_1_1, 3)] {
            assert_eq!(guest(version, name).refused(&broker), unavailable, "{name}");
        }
        broker.wait_for_log(&format!("user {name:?}: the service of auth.http_url cannot tell: {told}"));
    }
    // Nothing listens there, and the next authenticator, which knows alice, is not asked.
    let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let broker = guarded(&folder, &format!("http://127.0.0.1:{nobody}/"), "");
    assert_eq!(user(V5, "alice").refused(&broker), 0x88);
    assert_eq!(user(V3_1_1, "alice").refused(&broker), 3);
    broker.wait_for_log("Connection refused");
}

#[test]
fn who_was_let_in_is_remembered_and_nobody_else() {
    let folder = Folder::new();
    let denies = Arc::new(AtomicBool::new(false));
    let service = Service::start({
        let denies = denies.clone();
        move |question| {
            let right = question["password"] == "a password" && !denies.load(Ordering::Acquire);
            Reply::Ok(format!("{{\"result\":{:?}}}", if right { "allow" } else { "deny" }))
        }
    });
    let broker = guarded(&folder, &service.url(), "http_cache = \"2s\"");
    let carol = guest(V5, "carol");
    carol.open(&broker);
    let known = Instant::now();
    carol.open(&broker);
    assert_eq!(service.count(), 1);
    for other in [
        guest(V5, "carol").password("another"),
        guest(V5, "carol").password("another"),
        guest(V5, "dave").client_id("of-carol").password("another"),
    ] {
        other.refused(&broker);
    }
    guest(V5, "carol").client_id("another").open(&broker);
    assert_eq!(service.count(), 5, "each of these was asked about");
    denies.store(true, Ordering::Release);
    while service.count() == 5 && known.elapsed() < Duration::from_secs(10) {
        let mut client = carol.send_to(&broker);
        let accepted = client.read().connack().reason == 0;
        let age = known.elapsed();
        assert!(accepted == (service.count() == 5), "it was asked and said no");
        assert!(!accepted || age < Duration::from_secs(4), "it is known for {age:?} already");
    }
    assert_eq!(service.count(), 6);
    // A reload forgets: whoever changes something wants it to hold.
    denies.store(false, Ordering::Release);
    carol.open(&broker);
    broker.signal("HUP");
    broker.wait_for_log("reloaded");
    carol.open(&broker);
    assert_eq!(service.count(), 8);
}

#[test]
fn a_connection_ends_with_its_lifetime() {
    let folder = Folder::new();
    let service = Service::start(|_| Reply::Ok(r#"{"result":"allow","lifetime":1.5}"#.to_owned()));
    let broker = guarded(&folder, &service.url(), "");
    for version in [V5, V3_1_1] {
        let mut client = guest(version, "carol").client_id(unique("short")).open(&broker);
        let (time, last) = client.time_until_closed(Duration::from_secs(5));
        assert!(time < Duration::from_secs(3), "{time:?}");
        assert_eq!(last.map(|packet| packet.reason(DISCONNECT).0), version.is_v5().then_some(0xA0));
    }
}

#[test]
fn what_cannot_be_asked_is_told_before_anything_starts() {
    let folder = Folder::new();
    for (keys, told) in [
        ("", "auth.http_url is missing: the authenticator \"http\" needs to know whom to ask"),
        (
            "http_url = \"ftp://example.org\"",
            "auth.http_url = \"ftp://example.org\": expected a URL that begins",
        ),
        ("http_url = \"http://[::1\"", "auth.http_url: "),
        (
            "http_url = \"https://a.example\"\nhttp_ca = \"no/ca\"",
            "no/ca: the authorities of auth.http_ca cannot be read",
        ),
    ] {
        let config = folder.write("fulmar.toml", &format!("[auth]\nauthenticators = [\"http\"]\n{keys}\n"));
        for verb in ["check", "run"] {
            let output = fulmar(&[verb, "-c", &config], "");
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(said(&output).contains(told), "{verb}: {}", said(&output));
        }
    }
}

/// So many are asked about at a time, so many wait, and whoever comes on top is told so at once; nobody who is in notices.
#[test]
fn a_crowd_waits_in_order_and_within_bounds() {
    const CROWD: usize = 40;
    let folder = Folder::new();
    let service = Service::start(allow);
    let broker =
        guarded(&folder, &service.url(), "http_concurrent = 4\nhttp_queue = 10\nhttp_timeout = \"30s\"");
    let mut inside = RawClient::open_at(broker.address_of("open"), V5);
    inside.send(&connect(V5).client_id("inside").bytes());
    assert_eq!(inside.read().connack().reason, 0);
    service.shut();
    let mut crowd: Vec<_> =
        (0..CROWD).map(|number| guest(V5, &format!("guest-{number}")).send_to(&broker)).collect();
    broker.wait_for_log("auth.http_queue logins wait already (authenticator: http)");
    let start = Instant::now();
    while service.most() < 4 {
        assert!(start.elapsed() < Duration::from_secs(5), "{} questions", service.most());
        inside.ping();
    }
    // The service answers nobody, and everything else goes on.
    for _ in 0..50 {
        inside.ping();
    }
    service.open();
    let codes: Vec<u8> = crowd.iter_mut().map(|client| client.read().connack().reason).collect();
    let (let_in, busy) =
        (codes.iter().filter(|code| **code == 0).count(), codes.iter().filter(|code| **code == 0x89).count());
    assert_eq!((let_in, busy), (14, CROWD - 14), "{codes:x?}");
    assert_eq!(service.most(), 4);
    service.shut();
    let late = |number| guest(V3_1_1, &format!("late-{number}")).send_to(&broker);
    let mut late: Vec<_> = (0..20).map(late).collect();
    let start = Instant::now();
    while broker.log().matches("auth.http_queue logins wait already").count() < CROWD - 14 + 6 {
        assert!(start.elapsed() < Duration::from_secs(5), "{}", broker.log());
        inside.ping();
    }
    service.open();
    let codes: Vec<u8> = late.iter_mut().map(|client| client.read().connack().reason).collect();
    assert_eq!(codes.iter().filter(|code| **code == 3).count(), 6, "{codes:x?}");
}

/// Those who have lost patience do not stand in the way of those who have not.
#[test]
fn who_is_gone_gives_up_the_place() {
    let folder = Folder::new();
    let service = Service::start(allow);
    let broker =
        guarded(&folder, &service.url(), "http_concurrent = 1\nhttp_queue = 2\nhttp_timeout = \"30s\"");
    service.shut();
    let mut first = guest(V5, "first").send_to(&broker);
    let start = Instant::now();
    while service.most() < 1 {
        assert!(start.elapsed() < Duration::from_secs(5), "nobody was asked about");
    }
    let impatient: Vec<_> =
        (0..6).map(|number| guest(V5, &format!("gone-{number}")).send_to(&broker)).collect();
    while broker.log().matches("auth.http_queue logins wait already").count() < 4 {
        assert!(start.elapsed() < Duration::from_secs(5), "{}", broker.log());
    }
    impatient.into_iter().for_each(RawClient::cut);
    // One that has sent more behind its CONNECT is there, and what it has sent is not lost.
    let mut eager = loop {
        let mut eager = guest(V5, "eager").send_to(&broker);
        eager.send(&pingreq());
        eager.set_patience(Duration::from_secs(1));
        // An answer so soon is a refusal.
        if !eager.is_more() {
            break eager;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "the places are still taken");
    };
    service.open();
    assert_eq!(first.read().connack().reason, 0);
    eager.set_patience(Duration::from_secs(5));
    assert_eq!(eager.read().connack().reason, 0);
    eager.read().must_be(PINGRESP);
    assert_eq!(service.count(), 2, "nobody asks about those who are gone");
}

/// Who shows a certificate needs neither user name nor password to be asked about.
#[test]
fn the_service_is_told_the_names_of_a_certificate() {
    let certificates = certificates::Folder::new();
    let authority = Authority::new(&certificates, "ca");
    let service = Service::start(|question| {
        Reply::Ok(match question["certificate"]["cn"].as_str() {
            Some("sensor-1") => r#"{"result":"allow","user":"one"}"#.to_owned(),
            Some("sensor-2") => r#"{"result":"allow"}"#.to_owned(),
            _ => r#"{"result":"deny"}"#.to_owned(),
        })
    });
    let broker = Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"http\"]\nhttp_url = {:?}\n\
         [[listeners]]\nname = \"secure\"\nkind = \"tls\"\naddress = \"127.0.0.1:{{PORT}}\"\n{}\
         client_certificates = \"required\"\nclient_ca = {:?}\n",
        service.url(),
        authority.server("server").toml(),
        authority.certificate()
    ));
    for (name, code) in [("sensor-1", 0), ("sensor-2", 0x88), ("sensor-3", 0x87)] {
        let config = authority.client_config_with(&authority.client(name));
        let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
        let mut client = RawClient::over(StreamOwned::new(tls, stream), V5);
        client.send(&connect(V5).client_id(name).bytes());
        assert_eq!(client.read().connack().reason, code, "{name}");
    }
    assert_eq!(service.count(), 3);
    broker.wait_for_log("user=\"one\"");
    broker.wait_for_log("it allows and names no user");
}

#[test]
fn the_service_is_asked_over_tls_if_its_certificate_is_right() {
    let (folder, certificates) = (Folder::new(), certificates::Folder::new());
    let (authority, other) = (Authority::new(&certificates, "ca"), Authority::new(&certificates, "other"));
    let pair = authority.server("server");
    let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let secure = move |stream| -> Box<dyn crate::service::Stream> {
        Box::new(StreamOwned::new(ServerConnection::new(tls.clone()).unwrap(), stream))
    };
    let service = Service::over(Box::new(secure), allow);
    let url = format!("https://localhost:{}/login?from=fulmar", service.port());
    for (ca, expected) in [(Some(&authority), None), (Some(&other), Some(0x88)), (None, Some(0x88))] {
        let ca = ca.map(|authority| format!("http_ca = \"{}\"", authority.certificate().display()));
        let broker = guarded(&folder, &url, &ca.unwrap_or_default());
        match expected {
            None => drop(guest(V5, "carol").open(&broker)),
            Some(code) => {
                assert_eq!(guest(V5, "carol").refused(&broker), code);
                broker.wait_for_log("invalid peer certificate");
            }
        }
    }
    assert_eq!(service.count(), 1, "no password was sent to who has another certificate");
}
