//! TLS: who gets in and who does not, which versions are spoken, what is refused at start.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::support::certificates::{Authority, Folder, Pair, Wanted};
use crate::support::{Broker, RawClient, V5, connect, unique};
use crate::tools::{Outcome, mosquitto_round_trip, run};

/// A broker with one TLS listener.
fn broker(keys: &str) -> Broker {
    Broker::with_config(&format!(
        "[[listeners]]\nname = \"secure\"\nkind = \"tls\"\naddress = \"127.0.0.1:{{PORT}}\"\n{keys}"
    ))
}

#[test]
fn mosquitto_comes_in_through_tls_if_it_trusts_the_server() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let stranger = Authority::new(&folder, "stranger");
    let broker = broker(&authority.server("server").toml());
    let port = broker.port().to_string();
    let trusting = |host: &'static str, authority: &Authority| {
        let file = authority.certificate().display().to_string();
        mosquitto_round_trip(&["-h", host, "-p", &port, "--cafile", &file], &unique("tls"))
    };
    assert_eq!(trusting("localhost", &authority), Ok(()));
    let refusal = trusting("127.0.0.1", &authority).unwrap_err();
    assert!(!refusal.is_empty(), "the certificate is for localhost");
    trusting("localhost", &stranger).unwrap_err();
    broker.wait_for_log("the TLS handshake failed: received fatal alert");
}

#[test]
fn mosquitto_needs_a_good_certificate_where_one_is_required() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let stranger = Authority::new(&folder, "stranger");
    let (good, revoked) = (authority.client("good"), authority.client("revoked"));
    let expired = authority.issue(&Wanted { name: "expired", hosts: &[], days: (-10, -1) });
    let wrong = stranger.client("wrong");
    let list = authority.revoke("revoked", &[&revoked]);
    let broker = broker(&format!(
        "{}client_certificates = \"required\"\nclient_ca = \"{}\"\nrevocation_lists = \"{}\"\n",
        authority.server("server").toml(),
        authority.certificate().display(),
        list.display()
    ));
    let (port, ca) = (broker.port().to_string(), authority.certificate().display().to_string());
    let with = |version: &str, pair: Option<&Pair>| {
        let files =
            pair.map(|pair| [pair.certificate.display(), pair.key.display()].map(|path| path.to_string()));
        let mut arguments = vec!["-h", "localhost", "-p", &port, "--cafile", &ca, "--tls-version", version];
        if let Some([certificate, key]) = &files {
            arguments.extend(["--cert", certificate, "--key", key]);
        }
        mosquitto_round_trip(&arguments, &unique("mutual"))
    };
    for (count, version) in [(1, "tlsv1.2"), (2, "tlsv1.3")] {
        assert_eq!(with(version, Some(&good)), Ok(()), "{version}");
        for (pair, reason) in [
            (Some(&revoked), "invalid peer certificate: Revoked"),
            (Some(&expired), "invalid peer certificate: certificate expired"),
            (Some(&wrong), "invalid peer certificate: UnknownIssuer"),
            (None, "peer sent no certificates"),
        ] {
            with(version, pair).unwrap_err();
            wait_for_count(&broker, reason, count);
        }
        assert_eq!(with(version, Some(&good)), Ok(()), "those who were refused have not hurt the others");
    }
    // The server's side of it counts as well: its name, and whom the client trusts.
    let stranger = stranger.certificate().display().to_string();
    for (host, ca) in [("127.0.0.1", &ca), ("localhost", &stranger)] {
        let pair = [good.certificate.display(), good.key.display()].map(|path| path.to_string());
        let arguments = ["-h", host, "-p", &port, "--cafile", ca, "--cert", &pair[0], "--key", &pair[1]];
        let refusal = mosquitto_round_trip(&arguments, &unique("mutual")).unwrap_err();
        assert!(!refusal.is_empty(), "{host} {ca}");
    }
}

/// Waits until the log holds `words` so often.
#[track_caller]
fn wait_for_count(broker: &Broker, words: &str, count: usize) {
    let start = Instant::now();
    while broker.log().matches(words).count() < count {
        assert!(start.elapsed() < Duration::from_secs(5), "not {count} times {words:?}:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_optional_certificate_may_be_left_out_but_not_be_wrong() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let (good, wrong) = (authority.client("good"), Authority::new(&folder, "stranger").client("wrong"));
    let broker = broker(&format!(
        "{}client_certificates = \"optional\"\nclient_ca = \"{}\"\n",
        authority.server("server").toml(),
        authority.certificate().display()
    ));
    let (port, ca) = (broker.port().to_string(), authority.certificate().display().to_string());
    let base = ["-h", "localhost", "-p", &port, "--cafile", &ca];
    assert_eq!(mosquitto_round_trip(&base, &unique("optional")), Ok(()));
    for (pair, comes_in) in [(good, true), (wrong, false)] {
        let (certificate, key) = (pair.certificate.display().to_string(), pair.key.display().to_string());
        let arguments = [&base[..], &["--cert", &certificate, "--key", &key]].concat();
        assert_eq!(mosquitto_round_trip(&arguments, &unique("optional")).is_ok(), comes_in);
    }
}

#[test]
fn openssl_sees_1_3_and_1_2_and_no_older() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let broker = broker(&authority.server("server").toml());
    for (version, spoken) in
        [("-tls1_3", Some("TLSv1.3")), ("-tls1_2", Some("TLSv1.2")), ("-tls1_1", None), ("-tls1", None)]
    {
        let outcome = s_client(&broker, &[version, "-alpn", "mqtt", "-cipher", "DEFAULT@SECLEVEL=0"]);
        match spoken {
            Some(version) => {
                assert!(outcome.succeeded, "{outcome:?}");
                assert!(outcome.output.contains(&format!("New, {version}, Cipher")), "{outcome:?}");
                assert!(outcome.output.contains("ALPN protocol: mqtt"), "{outcome:?}");
            }
            None => {
                assert!(!outcome.succeeded, "{version}: {outcome:?}");
                // It is the broker that does not want it.
                assert!(outcome.output.contains("SSL alert number"), "{version}: {outcome:?}");
            }
        }
    }
}

#[test]
fn only_1_3_is_spoken_if_that_is_the_oldest() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let broker = broker(&format!("{}min_tls_version = \"1.3\"\n", authority.server("server").toml()));
    assert!(s_client(&broker, &["-tls1_3"]).succeeded);
    assert!(!s_client(&broker, &["-tls1_2"]).succeeded);
}

/// Connects, shakes hands, and leaves.
fn s_client(broker: &Broker, arguments: &[&str]) -> Outcome {
    let address = format!("127.0.0.1:{}", broker.port());
    run("openssl", &[&["s_client", "-connect", &address], arguments].concat())
}

#[test]
fn a_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let first = authority.server("first");
    let second = authority.issue(&Wanted { name: "second", hosts: &["*.example.org"], days: (-1, 99) });
    let list = |path: fn(&Pair) -> String| format!("[\"{}\", \"{}\"]", path(&first), path(&second));
    let broker = broker(&format!(
        "certificate = {}\nkey = {}\nserver_names = [\"localhost\", \"a.example.org\"]\n",
        list(|pair| pair.certificate.display().to_string()),
        list(|pair| pair.key.display().to_string())
    ));
    for (name, shown) in [("a.example.org", "second"), ("localhost", "first"), ("elsewhere.net", "first")] {
        let outcome = s_client(&broker, &["-servername", name]);
        let subject = format!("CN = {shown}");
        let output = outcome.output.replace("CN=", "CN = ");
        assert!(output.contains(&subject), "{name}: {output}");
    }
}

#[test]
fn sessions_are_resumed_in_both_versions() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let broker = broker(&authority.server("server").toml());
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = config_of(&authority, version);
        for expected in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let mut stream = open(&broker, config.clone());
            stream.write_all(&connect(V5).client_id(unique("resumed")).bytes()).unwrap();
            // The CONNACK comes behind the ticket.
            stream.read_exact(&mut [0; 2]).unwrap();
            assert_eq!(stream.conn.handshake_kind(), Some(expected), "{version:?}");
        }
    }
}

fn config_of(authority: &Authority, version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn open(broker: &Broker, config: Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    StreamOwned::new(connection, socket)
}

#[test]
fn certificates_that_are_not_right_are_told_at_start_with_name_and_date() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let good = authority.server("good");
    let other = authority.server("other");
    let expired = authority.issue(&Wanted { name: "expired", hosts: &["old.example.org"], days: (-20, -10) });
    let early = authority.issue(&Wanted { name: "early", hosts: &["localhost"], days: (5, 10) });
    let garbage = folder.path().join("garbage");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let mismatched = Pair { key: other.key.clone(), ..good.clone() };
    let no_certificate = Pair { certificate: good.key.clone(), ..good.clone() };
    let unreadable = Pair { certificate: garbage, ..good.clone() };
    let missing = Pair { key: folder.path().join("missing.key"), ..good.clone() };
    for (keys, told) in [
        (expired.toml(), &["expired.crt", "CN=expired, for old.example.org", "expired on 20", "UTC"][..]),
        (early.toml(), &["early.crt", "CN=early", "is not valid before 20"]),
        (
            mismatched.toml(),
            &["other.key does not belong to the certificate", "good.crt (CN=good, for localhost)"],
        ),
        (no_certificate.toml(), &["good.key holds no certificate in PEM"]),
        (unreadable.toml(), &["garbage holds a certificate that is not valid"]),
        (missing.toml(), &["missing.key cannot be read: No such file"]),
        (
            format!("{}server_names = \"mqtt.example.org\"\n", good.toml()),
            &["no certificate is for mqtt.example.org (server_names): they are CN=good, for localhost"],
        ),
    ] {
        let file = folder.path().join("fulmar.toml");
        let text =
            format!("[[listeners]]\nname = \"door\"\nkind = \"tls\"\naddress = \"127.0.0.1:0\"\n{keys}");
        fs::write(&file, text).unwrap();
        for command in ["run", "check"] {
            let output = Command::new(env!("CARGO_BIN_EXE_fulmar"))
                .arg(command)
                .arg("-c")
                .arg(&file)
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
            for words in told.iter().chain(&["listener door: "]) {
                assert!(stderr.contains(words), "{command}: no {words:?} in {stderr}");
            }
        }
    }
}

#[test]
fn a_certificate_that_ends_soon_is_warned_about() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let soon = authority.issue(&Wanted { name: "soon", hosts: &["localhost"], days: (-1, 12) });
    broker(&soon.toml()).wait_for_log("the certificate ends soon; renew it");
}

/// It would not start with it; but nobody who is in is thrown out, and newcomers see for themselves.
#[test]
fn a_certificate_that_ends_while_the_broker_runs_is_refused_by_newcomers() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let broker = broker(&authority.server_for("short", Duration::from_secs(5)).toml());
    let mut stays = RawClient::over(open(&broker, authority.client_config()), V5);
    stays.send(&connect(V5).client_id(unique("stays")).bytes());
    assert_eq!(stays.read().connack().reason, 0);
    let (port, ca) = (broker.port().to_string(), authority.certificate().display().to_string());
    let publish = ["-h", "localhost", "-p", &port, "--cafile", &ca, "-t", "short", "-m", "m"];
    let start = Instant::now();
    while run("mosquitto_pub", &publish).succeeded {
        assert!(start.elapsed() < Duration::from_secs(10), "it is taken although it has ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    broker.wait_for_log("received fatal alert: CertificateExpired");
    stays.all_before_pingresp();
}

#[test]
fn who_is_silent_or_slow_in_the_handshake_is_closed_in_time() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let broker = Broker::with_config(&format!(
        "[limits]\nconnect_timeout = \"1s\"\n[[listeners]]\nkind = \"tls\"\naddress = \"127.0.0.1:{{PORT}}\"\n{}",
        authority.server("server").toml()
    ));
    let mut silent: Vec<_> =
        (0..50).map(|_| TcpStream::connect(("127.0.0.1", broker.port())).unwrap()).collect();
    let start = Instant::now();
    // A byte now and then does not buy time.
    while start.elapsed() < Duration::from_millis(900) {
        for socket in &mut silent {
            let _ = socket.write_all(&[0x16]);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for socket in &mut silent {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut rest = Vec::new();
        // Closed or reset; what it must not be is open.
        if let Err(error) = socket.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}
