//! Where a broker listens: Unix sockets, all addresses, sockets that systemd has bound; and what it tells systemd.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::certificates::Folder;
use crate::support::{Broker, RawClient, V3_1_1, V5, connect, unique};
use crate::tools::{mosquitto_round_trip, run};

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_unix_socket_is_for_those_who_may_open_it() {
    let folder = Folder::new();
    let path = folder.path().join("mqtt.sock");
    let keys = format!(
        "[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n\
         [[listeners]]\nname = \"local\"\nkind = \"unix\"\nsocket_path = \"{}\"\nsocket_mode = \"600\"\n",
        path.display()
    );
    let mut broker = Broker::with_config(&keys);
    broker.wait_for_log("name=local");
    let socket = path.display().to_string();
    assert_eq!(mosquitto_round_trip(&["--unix", &socket], &unique("unix")), Ok(()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // What a killed broker leaves behind is no obstacle.
    broker.kill();
    assert!(path.exists());
    broker.restart();
    assert_eq!(mosquitto_round_trip(&["--unix", &socket], &unique("unix")), Ok(()));

    // Another that runs is one.
    let file = folder.path().join("second.toml");
    fs::write(
        &file,
        format!("[store]\nengine = \"memory\"\n[[listeners]]\nkind = \"unix\"\nsocket_path = \"{socket}\"\n"),
    )
    .unwrap();
    let second = run(env!("CARGO_BIN_EXE_fulmar"), &["run", "-c", &file.display().to_string()]);
    assert!(!second.succeeded && second.output.contains(&format!("cannot listen on {socket}")), "{second:?}");
    assert_eq!(mosquitto_round_trip(&["--unix", &socket], &unique("unix")), Ok(()));
    broker.stop();
    assert!(!path.exists(), "it is removed in the end");

    // And a file that is something else stays what it is.
    fs::write(&path, "precious").unwrap();
    let third = run(env!("CARGO_BIN_EXE_fulmar"), &["run", "-c", &file.display().to_string()]);
    assert!(!third.succeeded && third.output.contains("no socket"), "{third:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_port_alone_is_one_of_all_addresses() {
    let broker = Broker::with_config("[[listeners]]\naddress = \":{PORT}\"\nallow_anonymous = true\n");
    let mut addresses = vec![SocketAddr::from(([127, 0, 0, 1], broker.port()))];
    // A machine may have no IPv6; then IPv4 alone is served.
    if TcpListener::bind(("::1", 0)).is_ok() {
        addresses.push(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], broker.port())));
    }
    for address in addresses {
        let mut client = RawClient::open_at(address, V5);
        client.send(&connect(V5).client_id(unique("everywhere")).bytes());
        assert_eq!(client.read().connack().reason, 0, "{address}");
    }
}

#[test]
fn a_socket_that_systemd_has_bound_is_taken_and_systemd_is_told() {
    let folder = Folder::new();
    let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    // Bound here: nobody else can bind it, so the broker can only have inherited it.
    let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let file = folder.path().join("fulmar.toml");
    fs::write(&file, format!("[store]\ndurability = \"none\"\n[[listeners]]\naddress = \"{address}\"\n"))
        .unwrap();
    // The first descriptor is told as well, so standard input can stand for systemd's third.
    let child = Command::new(env!("CARGO_BIN_EXE_fulmar"))
        .args(["run", "-c"])
        .arg(&file)
        .envs([("LISTEN_FDS", "1"), ("LISTEN_FDS_FIRST_FD", "0")])
        .env_remove("LISTEN_PID")
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .stdin(OwnedFd::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    assert_eq!(word(&told), "READY=1\n");
    let mut client = RawClient::open_at(address, V3_1_1);
    client.send(&connect(V3_1_1).client_id(unique("inherited")).bytes());
    assert_eq!(client.read().connack().reason, 0);

    let kill = format!("kill -TERM {}", process.0.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(word(&told), "STOPPING=1\n");
    client.expect_closed();
    let start = Instant::now();
    while process.0.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(15), "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the service manager is told next.
fn word(told: &UnixDatagram) -> String {
    let mut bytes = [0; 64];
    let length = told.recv(&mut bytes).expect("the service manager is told");
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}
