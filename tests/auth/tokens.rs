//! Tokens in the password: who signed them decides who may enter, until when, and what may be done.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::support::{Broker, Connect, DISCONNECT, PUBACK, V5, Version, connect, publish, unique};
use crate::{Folder, mosquitto, user};

const SECRET: &str = "a secret that both sides know, and nobody else";

/// A token with these claims beside `exp`, which is so many seconds away.
pub fn token(secret: &str, seconds: i64, claims: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expires = now.checked_add_signed(seconds).unwrap();
    let claims = format!("{{\"exp\":{expires},{claims}}}");
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    format!("{text}.{signature}")
}

pub fn bearer(version: Version, token: &str) -> Connect {
    connect(version).client_id(unique("bearer")).username("whoever").password(token)
}

fn guarded(folder: &Folder, more: &str) -> Broker {
    let (users, keys) = (folder.users(&["alice"]), folder.write("secret", &format!("{SECRET}\n")));
    Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"jwt\", \"password-file\"]\njwt_keys = {keys:?}\npassword_file = {users:?}\n{more}"
    ))
}

#[test]
fn who_has_a_good_token_enters_and_who_has_none_may_have_a_password() {
    let folder = Folder::new();
    let broker = guarded(&folder, "jwt_require = [\"exp\", \"aud=fulmar\"]\n");
    let claims = r#""sub":"carol","aud":"fulmar""#;
    let good = token(SECRET, 60, claims);
    for version in Version::ALL {
        let refused = if version.is_v5() { 0x86 } else { 4 };
        bearer(version, &good).open(&broker);
        user(version, "alice").open(&broker);
        for bad in [
            token("another secret that is long enough for it", 60, claims),
            token(SECRET, -1, claims),
            token(SECRET, 60, r#""sub":"carol""#),
            good.replace('e', "f"),
            "no token".to_owned(),
        ] {
            assert_eq!(bearer(version, &bad).refused(&broker), refused, "{version:?} {bad}");
        }
    }
    broker.wait_for_log("user=\"carol\"");
    broker.wait_for_log("the token is refused: its signature is not right (authenticator: jwt)");
    broker.wait_for_log("the token is refused: it has expired");
    assert!(!broker.log().contains(&good), "no token comes into the log");
    for (version, password, code) in
        [("mqttv311", &good, 0), ("mqttv5", &good, 0), ("mqttv311", &String::from("x"), 4)]
    {
        let arguments = ["-V", version, "-u", "x", "-P", password, "-t", "t", "-m", "m", "-q", "1"];
        let output = mosquitto("mosquitto_pub", broker.port(), &arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

#[test]
fn a_connection_ends_with_its_token() {
    let folder = Folder::new();
    let broker = guarded(&folder, "");
    for version in Version::ALL {
        let mut short = bearer(version, &token(SECRET, 2, r#""sub":"carol""#)).open(&broker);
        let mut long = bearer(version, &token(SECRET, 600, r#""sub":"carol""#)).open(&broker);
        let (time, last) = short.time_until_closed(Duration::from_secs(5));
        assert!(time < Duration::from_secs(3), "{time:?}");
        assert_eq!(last.map(|packet| packet.reason(DISCONNECT).0), version.is_v5().then_some(0xA0));
        long.ping();
    }
    broker.wait_for_log("its token has expired");
}

#[test]
fn what_a_token_allows_is_all_that_it_allows() {
    let folder = Folder::new();
    let rules = "[[acl]]\ngroup = \"readers\"\ntopics = [\"news/#\"]\n";
    for rules in ["", rules] {
        let broker = guarded(&folder, rules);
        let own = r#""sub":"carol","groups":["readers"],"acl":{"pub":["own/%u/+"],"sub":["own/#"]}"#;
        let mut carol = bearer(V5, &token(SECRET, 60, own)).open(&broker);
        carol.subscribe("own/carol/#", 0);
        for (topic, code) in [("own/carol/a", 0), ("own/dave/a", 0x87), ("news/a", 0x87)] {
            carol.send(&publish(topic, "m").qos(1, 1).bytes(V5));
            assert_eq!(carol.read_kind(PUBACK).ack(PUBACK).1, code, "{topic}");
        }
        let groups = r#""sub":"dave","groups":["readers"]"#;
        let mut dave = bearer(V5, &token(SECRET, 60, groups)).open(&broker);
        dave.send(&publish("news/a", "m").qos(1, 1).bytes(V5));
        assert_eq!(dave.read().ack(PUBACK).1, 0x10);
        let mut alice = user(V5, "alice").open(&broker);
        alice.send(&publish("news/a", "m").qos(1, 1).bytes(V5));
        assert_eq!(alice.read().ack(PUBACK).1, if rules.is_empty() { 0x10 } else { 0x87 });
    }
}

/// Signed by openssl with keys of which the broker knows the public half, and shown by mosquitto's client.
#[test]
fn tokens_of_another_issuer_are_verified_by_a_public_key() {
    let folder = Folder::new();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder.path("")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (algorithm, kind) in [
        ("RS256", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..]),
        ("EdDSA", &["-algorithm", "ED25519"]),
    ] {
        openssl(&[&["genpkey", "-out", "private.pem"], kind].concat());
        openssl(&["pkey", "-in", "private.pem", "-pubout", "-out", "public.pem"]);
        let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":{algorithm:?},\"typ\":\"JWT\"}}"));
        let claims = URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"carol\",\"exp\":{}}}", now + 60));
        let text = format!("{header}.{claims}");
        folder.write("text", &text);
        let digest: &[&str] = if algorithm == "RS256" { &["-digest", "sha256"] } else { &[] };
        let sign =
            ["pkeyutl", "-sign", "-inkey", "private.pem", "-rawin", "-in", "text", "-out", "signature"];
        openssl(&[&sign, digest].concat());
        let signature = fs::read(folder.path("signature")).unwrap();
        let good = format!("{text}.{}", URL_SAFE_NO_PAD.encode(&signature));
        let broker = Broker::with_config(&format!(
            "[auth]\nauthenticators = [\"jwt\"]\njwt_keys = \"{}\"\n[[acl]]\nuser = \"carol\"\ntopics = [\"%u/#\"]\n",
            folder.path("public.pem").display()
        ));
        let other =
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.iter().rev().copied().collect::<Vec<_>>()));
        for (version, password, code) in
            [("mqttv311", &good, 0), ("mqttv5", &good, 0), ("mqttv311", &other, 4), ("mqttv5", &other, 134)]
        {
            let arguments = ["-V", version, "-u", "x", "-P", password, "-t", "carol/a", "-m", "m", "-q", "1"];
            let output = mosquitto("mosquitto_pub", broker.port(), &arguments);
            assert_eq!(output.status.code(), Some(code), "{algorithm} {version}: {output:?}");
        }
    }
}
