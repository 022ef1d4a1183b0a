//! Enhanced authentication: AUTH packets that prove the password without sending it, at the beginning and again later.

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use crate::support::{
    AUTH, Broker, CONNACK, Connect, DISCONNECT, Property, RawClient, V3_1_1, V5, Value, auth, connect,
    disconnect, find, pingreq, publish, unique,
};
use crate::{Folder, fulmar, passwd, said, user};

const METHOD: &str = "SCRAM-SHA-256";

/// The client's half, by the letter of RFC 5802.
struct Exchange {
    password: &'static str,
    bare: String,
    /// What the server must say at the end.
    server_proof: String,
}

impl Exchange {
    fn new(user: &str, password: &'static str) -> Self {
        let bare = format!("n={user},r={}", STANDARD.encode(unique("nonce")));
        Self { password, bare, server_proof: String::new() }
    }

    fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.bare).into_bytes()
    }

    fn second(&mut self, server: &[u8]) -> Vec<u8> {
        let server = String::from_utf8(server.to_vec()).unwrap();
        let [nonce, salt, rounds] = server.split(',').collect::<Vec<_>>().try_into().unwrap();
        let own = self.bare.split_once(",r=").unwrap().1;
        assert!(
            nonce[2..].starts_with(own) && nonce.len() > own.len() + 20,
            "the server adds to the nonce: {nonce}"
        );
        let salt = STANDARD.decode(&salt[2..]).unwrap();
        let rounds: NonZeroU32 = rounds[2..].parse().unwrap();
        assert!(rounds.get() >= 4096);
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, self.password.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let without_proof = format!("c=biws,{nonce}");
        let text = format!("{},{server},{without_proof}", self.bare);
        let signature = sign(stored_key.as_ref(), text.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(one, other)| one ^ other).collect();
        let server_key = sign(&salted, b"Server Key");
        self.server_proof = format!("v={}", STANDARD.encode(sign(&server_key, text.as_bytes())));
        format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes()
    }
}

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn guarded(folder: &Folder) -> Broker {
    let users = folder.users(&["plain"]);
    for name in ["alice", "bob"] {
        let output = fulmar(&["passwd", "add", "--scram", &users, name], &format!("{name}-password\n"));
        assert!(output.status.success(), "{output:?}");
    }
    Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"scram-sha-256\", \"password-file\"]\npassword_file = {users:?}\n"
    ))
}

fn knock(data: &[u8]) -> Connect {
    connect(V5)
        .client_id(unique("scram"))
        .property(Property::authentication_method(METHOD))
        .property(Property::authentication_data(data))
}

fn auth_with(reason: u8, data: &[u8]) -> Vec<u8> {
    auth(reason, &[Property::authentication_method(METHOD), Property::authentication_data(data)])
}

/// The data of an AUTH with this reason.
fn read_auth(client: &mut RawClient, reason: u8) -> Vec<u8> {
    let (found, properties) = client.read().reason(AUTH);
    assert_eq!(found, reason);
    assert_eq!(find(&properties, 0x15), Some(&Property::authentication_method(METHOD)));
    assert_eq!(properties.len(), 2, "neither a Reason String nor a User Property: {properties:?}");
    data_of(&properties)
}

fn data_of(properties: &[Property]) -> Vec<u8> {
    match find(properties, 0x16).map(|property| &property.value) {
        Some(Value::Text(data)) => data.clone(),
        other => panic!("expected authentication data, got {other:?}"),
    }
}

/// Connects; the reason code of the CONNACK. The server has proved itself if it is 0.
fn enter(broker: &Broker, user: &str, password: &'static str) -> (RawClient, u8) {
    let mut exchange = Exchange::new(user, password);
    let mut client = knock(&exchange.first()).send_to(broker);
    let server = read_auth(&mut client, 0x18);
    client.send(&auth_with(0x18, &exchange.second(&server)));
    let connack = client.read().connack();
    if connack.reason == 0 {
        assert_eq!(find(&connack.properties, 0x15), Some(&Property::authentication_method(METHOD)));
        assert_eq!(data_of(&connack.properties), exchange.server_proof.as_bytes());
    }
    (client, connack.reason)
}

#[test]
fn who_knows_the_password_enters_and_so_does_the_server() {
    let folder = Folder::new();
    let broker = guarded(&folder);
    let (mut alice, code) = enter(&broker, "alice", "alice-password");
    assert_eq!(code, 0);
    alice.subscribe("t", 1);
    alice.publish(&publish("t", "m").qos(1, 1));
    assert_eq!(alice.receive().text(), "m");
    // A user without such a password is treated as one that there is not.
    for (user, password) in [("alice", "wrong"), ("nobody", "alice-password"), ("plain", "plain-password")] {
        assert_eq!(enter(&broker, user, password).1, 0x87, "{user}");
    }
    broker.wait_for_log(
        "it did not prove that it knows the password of \"alice\" (authenticator: scram-sha-256)",
    );
    // What is kept for it serves for an ordinary login, too.
    user(V3_1_1, "alice").open(&broker);
    user(V3_1_1, "alice").password("wrong").refused(&broker);
    let right = passwd("check", &folder.path("passwords"), "alice", "alice-password");
    assert!(right.status.success(), "{}", said(&right));
}

#[test]
fn whoever_gives_up_on_the_way_is_let_go_and_nothing_else_is_heard() {
    let folder = Folder::new();
    let broker = guarded(&folder);
    let begin = || {
        let mut client = knock(&Exchange::new("alice", "alice-password").first()).send_to(&broker);
        read_auth(&mut client, 0x18);
        client
    };
    let mut client = begin();
    client.send(&disconnect());
    client.expect_closed();
    for packet in [connect(V3_1_1).bytes(), connect(V3_1_1).protocol_level(9).bytes(), pingreq()] {
        let mut client = begin();
        client.send(&packet);
        let connack = client.read().connack();
        assert_eq!(connack.reason, 0x82, "{packet:02x?}");
        client.expect_closed();
    }
}

/// MQTT.js, with a SCRAM that is neither ours nor its own; the password is another one before SASLprep.
#[test]
fn a_real_client_proves_itself_and_its_server_does_too() {
    let folder = Folder::new();
    let broker = guarded(&folder);
    let users = folder.path("passwords").display().to_string();
    let output = fulmar(&["passwd", "add", "--scram", &users, "carol"], "pa\u{AD}ss-\u{2168}\n");
    assert!(output.status.success(), "{output:?}");
    broker.signal("HUP");
    broker.wait_for_log("reloaded: 1 user added");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (password, ended, told) in [
        (
            "pass-\u{2168}",
            0,
            "connected, and the server has proved\nreceived hello\nonce more the server has proved\n",
        ),
        ("pass-9", 1, "failed: Connection refused: Not authorized\n"),
    ] {
        let output = Command::new("node")
            .arg(root.join("tests/auth/scram_client.cjs"))
            .arg(root.join("target/mqttjs/node_modules/mqtt"))
            .arg(root.join("target/paho/bin/python"))
            .arg(root.join("tests/auth/scram_half.py"))
            .args([&broker.port().to_string(), "carol", password])
            .output()
            .expect("node, which `bash tests/run --install` brings");
        assert_eq!(
            (output.status.code(), &*String::from_utf8_lossy(&output.stdout)),
            (Some(ended), told),
            "`bash tests/run --install` brings what it needs: {output:?}"
        );
    }
    broker.wait_for_log("it did not prove that it knows the password of \"carol\"");
}

#[test]
fn messages_that_are_none_end_it() {
    let folder = Folder::new();
    let broker = guarded(&folder);
    for first in [&b""[..], b"alice", b"p=tls-exporter,,n=alice,r=x", b"n,,n=,r=x"] {
        assert_eq!(knock(first).refused(&broker), 0x87, "{first:?}");
    }
    let no_data = connect(V5).client_id("c").property(Property::authentication_method(METHOD));
    assert_eq!(no_data.refused(&broker), 0x87);
    let unknown = connect(V5).client_id("c").property(Property::authentication_method("SCRAM-SHA-1"));
    assert_eq!(unknown.refused(&broker), 0x8C);
    let begin = || {
        let exchange = Exchange::new("alice", "alice-password");
        let mut client = knock(&exchange.first()).send_to(&broker);
        let server = read_auth(&mut client, 0x18);
        (client, exchange, server)
    };
    // Another packet, another reason, another method, a packet too long to be one.
    for packet in [
        publish("t", "sneaked in").bytes(V5),
        auth_with(0x19, b"x"),
        auth(0x18, &[Property::authentication_method("OTHER"), Property::authentication_data(b"x")]),
        auth_with(0x18, &[b'x'; 9_000]),
    ] {
        let (mut client, _, _) = begin();
        client.send(&packet);
        let last = client.read();
        last.must_be(CONNACK);
        assert!(last.connack().reason >= 0x80);
        client.expect_closed();
    }
    // The proof of another exchange.
    let (_, mut other, server) = begin();
    let proof = other.second(&server);
    let (mut client, _, _) = begin();
    client.send(&auth_with(0x18, &proof));
    assert_eq!(client.read().connack().reason, 0x87);
}

#[test]
fn what_comes_with_the_proof_is_handled_after_it() {
    let folder = Folder::new();
    let broker = guarded(&folder);
    let (mut watcher, _) = enter(&broker, "bob", "bob-password");
    watcher.subscribe("early", 0);
    let mut exchange = Exchange::new("alice", "alice-password");
    let mut client = knock(&exchange.first()).send_to(&broker);
    let server = read_auth(&mut client, 0x18);
    client.send(&[auth_with(0x18, &exchange.second(&server)), publish("early", "m").bytes(V5)].concat());
    assert_eq!(client.read().connack().reason, 0);
    assert_eq!(watcher.receive().text(), "m");
}

#[test]
fn a_client_proves_itself_again_while_it_is_connected() {
    let folder = Folder::new();
    let broker = guarded(&folder);
    let (mut alice, _) = enter(&broker, "alice", "alice-password");
    alice.subscribe("t", 0);
    for _ in 0..2 {
        let mut exchange = Exchange::new("alice", "alice-password");
        alice.send(&auth_with(0x19, &exchange.first()));
        let server = read_auth(&mut alice, 0x18);
        // Everything else goes on meanwhile.
        alice.publish(&publish("t", "m"));
        assert_eq!(alice.receive().text(), "m");
        alice.send(&auth_with(0x18, &exchange.second(&server)));
        assert_eq!(read_auth(&mut alice, 0x00), exchange.server_proof.as_bytes());
        alice.ping();
    }
    for (user, password) in [("alice", "wrong"), ("bob", "bob-password")] {
        let (mut alice, _) = enter(&broker, "alice", "alice-password");
        let mut exchange = Exchange::new(user, password);
        alice.send(&auth_with(0x19, &exchange.first()));
        let server = read_auth(&mut alice, 0x18);
        alice.send(&auth_with(0x18, &exchange.second(&server)));
        assert_eq!(alice.read().reason(DISCONNECT).0, 0x87, "{user}");
        alice.expect_closed();
    }
    broker.wait_for_log("it is another user than before");
    // Out of order, or of another method.
    let other = [Property::authentication_method("OTHER"), Property::authentication_data(b"x")];
    for packet in [auth_with(0x18, b"x"), auth_with(0x00, b"x"), auth(0x19, &other)] {
        let (mut alice, _) = enter(&broker, "alice", "alice-password");
        alice.send(&packet);
        alice.expect_error(&[0x82, 0x81]);
    }
}
