//! Certificates replaced while clients work: nobody is disconnected, nothing is lost, newcomers see the new one.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::support::certificates::{Authority, Folder, Pair};
use crate::support::{Broker, Filter, RawClient, V5, connect, puback, publish, subscribe, unique};

const CLIENTS: usize = 100;

/// How long a change of the files may take to be in force.
const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn certificates_are_replaced_under_load() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let installed = authority.server("installed");
    let broker = Broker::with_config(&format!(
        "[[listeners]]\nkind = \"tls\"\naddress = \"127.0.0.1:{{PORT}}\"\n{}",
        installed.toml()
    ));
    let over = AtomicBool::new(false);
    let exchanged = AtomicU64::new(0);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| exchange(join(broker.port(), authority.client_config()), &over, &exchanged))
            })
            .collect();
        for round in 0..10 {
            // Between two changes messages flow.
            let before = exchanged.load(Ordering::Relaxed);
            wait_until(|| exchanged.load(Ordering::Relaxed) >= before + CLIENTS as u64);
            if round == 4 {
                let shown = shown(&broker, &authority);
                fs::write(&installed.certificate, "garbage").unwrap();
                broker.wait_for_log("certificates were not renewed; the old ones stay in force");
                assert_eq!(self::shown(&broker, &authority), shown, "the old one stays in force");
                continue;
            }
            let new = authority.server(&format!("round-{round}"));
            install(&new, &installed);
            // Some changes are found, some are told.
            if round >= 2 {
                broker.signal("HUP");
            }
            let expected = CertificateDer::from_pem_file(&new.certificate).unwrap();
            wait_until(|| shown(&broker, &authority) == expected);
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no connection ends and no message is lost");
        }
    });
    let log = broker.log();
    assert_eq!(log.matches("certificates were not renewed").count(), 1, "{log}");
}

/// The way of Kubernetes: the folder behind a symbolic link is exchanged as a whole.
#[test]
fn a_symbolic_link_that_is_turned_is_a_change() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let mounted = folder.path().join("mounted");
    let place = |name: &str| {
        let pair = authority.server(name);
        let target = folder.path().join(format!("data-{name}"));
        fs::create_dir(&target).unwrap();
        fs::copy(&pair.certificate, target.join("tls.crt")).unwrap();
        fs::copy(&pair.key, target.join("tls.key")).unwrap();
        let link = folder.path().join("new-link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        fs::rename(&link, &mounted).unwrap();
        CertificateDer::from_pem_file(&pair.certificate).unwrap()
    };
    let first = place("first");
    let broker = Broker::with_config(&format!(
        "[[listeners]]\nkind = \"tls\"\naddress = \"127.0.0.1:{{PORT}}\"\ncertificate = \"{0}/tls.crt\"\nkey = \"{0}/tls.key\"\n",
        mounted.display()
    ));
    assert_eq!(shown(&broker, &authority), first);
    let second = place("second");
    wait_until(|| shown(&broker, &authority) == second);
}

/// Whoever is revoked while the broker runs does not come in any more, not even by resuming.
#[test]
fn a_revocation_list_takes_effect_when_it_changes() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let client = authority.client("client");
    let list = authority.revoke("list", &[]);
    let broker = Broker::with_config(&format!(
        "[[listeners]]\nkind = \"tls\"\naddress = \"127.0.0.1:{{PORT}}\"\n{}client_certificates = \"required\"\n\
         client_ca = \"{}\"\nrevocation_lists = \"{}\"\n",
        authority.server("server").toml(),
        authority.certificate().display(),
        list.display()
    ));
    // One configuration for all: it remembers tickets.
    let config = authority.client_config_with(&client);
    join(broker.port(), config.clone()).disconnect();
    let mut stays = join(broker.port(), config.clone());
    authority.revoke("list", &[&client]);
    broker.wait_for_log("certificates were read again");
    let mut stream = tls(broker.port(), config);
    let error = std::io::Write::write_all(&mut stream, &connect(V5).bytes())
        .and_then(|()| std::io::Read::read_exact(&mut stream, &mut [0; 1]))
        .unwrap_err();
    assert!(error.to_string().contains("CertificateRevoked"), "{error}");
    stays.all_before_pingresp();
}

/// Publishes to itself with QoS 1, one message after the other.
fn exchange(mut client: RawClient, over: &AtomicBool, exchanged: &AtomicU64) {
    let topic = unique("renewal");
    client.send(&subscribe(V5, 1, &[], &[Filter::new(&topic, 1)]));
    client.read();
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        client.send(&publish(&topic, number.to_string()).qos(1, 7).bytes(V5));
        let (mut acknowledged, mut received) = (false, false);
        while !(acknowledged && received) {
            let packet = client.read();
            if packet.kind() == crate::support::PUBACK {
                acknowledged = true;
                continue;
            }
            let message = packet.publish();
            assert_eq!(message.payload, number.to_string().into_bytes());
            client.send(&puback(message.packet_id).bytes());
            received = true;
        }
        exchanged.fetch_add(1, Ordering::Relaxed);
    }
    client.disconnect();
}

fn join(port: u16, config: Arc<ClientConfig>) -> RawClient {
    let mut client = RawClient::over(tls(port, config), V5);
    client.set_patience(Duration::from_secs(20));
    client.send(&connect(V5).client_id(unique("renewal")).bytes());
    assert_eq!(client.read().connack().reason, 0);
    client
}

fn tls(port: u16, config: Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, TcpStream::connect(("127.0.0.1", port)).unwrap())
}

/// The certificate that a newcomer is shown.
fn shown(broker: &Broker, authority: &Authority) -> CertificateDer<'static> {
    let mut stream = tls(broker.port(), authority.client_config());
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

/// As administrators do it: the key first, the certificate after it.
fn install(new: &Pair, place: &Pair) {
    let replace = |from: &Path, to: &Path| {
        let fresh = to.with_extension("fresh");
        fs::copy(from, &fresh).unwrap();
        fs::rename(&fresh, to).unwrap();
    };
    replace(&new.key, &place.key);
    replace(&new.certificate, &place.certificate);
}

#[track_caller]
fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "it did not come about in {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
