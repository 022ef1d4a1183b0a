//! The configuration that the broker uses: plain values, one struct a section, `Default` without any file.
//!
//! What was *written* (a TOML file, the environment, flags) and what is *used* are two types: [`Config`] is
//! the second, and [`load`] makes it from the first by the table in `table.rs`, where each key is defined
//! once. Whoever holds a `Config` from [`load`] holds valid values; `server` reads it once at start and gives
//! each module the section it needs. Durations and sizes are already in std types: nothing below parses text.

mod acl;
mod auth;
mod auth_keys;
mod bans;
mod example;
mod key;
mod lines;
mod listener_limits;
mod listeners;
mod load;
mod network;
mod problem;
mod table;
mod transport;
mod transport_keys;
mod units;

pub use acl::{Acl, AclAccess, AclAction, AclGroup, AclRule, AclWho, is_acl_topic, load_acl};
pub use auth::{Auth, AuthenticatorKind, DeniedPublish, HttpService, Jwt};
pub use bans::Bans;
pub use example::example;
pub use listener_limits::ListenerLimits;
pub use load::{Flag, Sources, check_text, load};
pub use network::{Network, NotANetwork};
pub use problem::{Fault, Place, Problem, Problems};
pub use transport::{ClientCertificates, Tls, TlsVersion, WebSocket};
pub use units::{parse_duration, parse_size};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The name of the listener for WebSocket that is there by default, and its address.
pub const WEBSOCKET: &str = "websocket";
const DEFAULT_WEBSOCKET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8083);

/// Everything that can be set. The default is what runs without any file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect. Never empty, no address twice.
    pub listeners: Vec<Listener>,
    /// Who may connect.
    pub auth: Auth,
    /// What they may do there.
    pub acl: Acl,
    /// Bounds on what clients may take.
    pub limits: Limits,
    /// Who is kept out for a while.
    pub bans: Bans,
    /// What a session offers and keeps.
    pub session: SessionSettings,
    /// Messages that wait for a session.
    pub queue: Queue,
    /// Retained messages.
    pub retained: Retained,
    /// The `$SYS` topics.
    pub sys: Sys,
    /// Where acknowledged state is kept.
    pub store: Store,
    /// What is logged and how.
    pub log: Log,
    /// The process itself.
    pub server: Server,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: vec![Listener::default(), Listener::websocket(WEBSOCKET, DEFAULT_WEBSOCKET)],
            auth: Auth::default(),
            acl: Acl::default(),
            limits: Limits::default(),
            bans: Bans::default(),
            session: SessionSettings::default(),
            queue: Queue::default(),
            retained: Retained::default(),
            sys: Sys::default(),
            store: Store::default(),
            log: Log::default(),
            server: Server::default(),
        }
    }
}

/// One address on which clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name in logs, unique among the listeners.
    pub name: String,
    /// What is spoken below MQTT.
    pub kind: ListenerKind,
    /// Where it listens, unless it is of kind `unix`; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether clients without credentials may connect. Off loopback this must have been said explicitly.
    pub allow_anonymous: bool,
    /// Who is asked about clients with credentials, in this order; empty: those of `auth.authenticators`.
    pub authenticators: Vec<AuthenticatorKind>,
    /// Connections at a time on this listener, beside `limits.max_connections`; `None` = no own bound.
    pub max_connections: Option<u32>,
    /// Its own bounds in place of those of [`Limits`].
    pub limits: ListenerLimits,
    /// What is forgiven to clients known to err; strict is the default.
    pub leniencies: Leniencies,
    /// Of kinds `tls` and `wss`: its certificates and what it asks of clients.
    pub tls: Tls,
    /// Of kinds `ws` and `wss`: where and for whom.
    pub websocket: WebSocket,
    /// Of kind `unix`: the file of the socket; empty elsewhere.
    pub socket_path: PathBuf,
    /// Of kind `unix`: who may connect, as the permissions of that file.
    pub socket_mode: u32,
    /// How long a TCP connection is silent before the kernel asks whether the other side is still there; zero: never.
    pub tcp_keepalive: Duration,
    /// Every connection begins with a header of the PROXY protocol, and only `trusted_proxies` may connect.
    pub proxy_protocol: bool,
    /// Proxies that are believed when they say whose connection they pass on.
    pub trusted_proxies: Vec<Network>,
}

impl Listener {
    /// A TCP listener that lets anonymous clients in, as for `--port` or a test.
    pub fn tcp(name: &str, address: SocketAddr) -> Self {
        Self { name: name.to_owned(), address, ..Self::default() }
    }

    /// The same over WebSocket, at `/mqtt`, as for `--ws-port`.
    pub fn websocket(name: &str, address: SocketAddr) -> Self {
        Self { kind: ListenerKind::Ws, ..Self::tcp(name, address) }
    }

    /// Where it listens, for people: an address or a path.
    pub fn place(&self) -> String {
        match self.kind {
            ListenerKind::Unix => self.socket_path.display().to_string(),
            ListenerKind::Tcp | ListenerKind::Tls | ListenerKind::Ws | ListenerKind::Wss => {
                self.address.to_string()
            }
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: "mqtt".to_owned(),
            kind: ListenerKind::Tcp,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)),
            allow_anonymous: true,
            authenticators: Vec::new(),
            max_connections: None,
            limits: ListenerLimits::default(),
            leniencies: Leniencies::default(),
            tls: Tls::default(),
            websocket: WebSocket::default(),
            socket_path: PathBuf::new(),
            socket_mode: 0o660,
            tcp_keepalive: Duration::from_secs(5 * 60),
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
        }
    }
}

/// What a listener speaks below MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// MQTT straight over TCP.
    Tcp,
    /// MQTT in TLS.
    Tls,
    /// MQTT in WebSocket.
    Ws,
    /// MQTT in WebSocket in TLS.
    Wss,
    /// MQTT straight over a Unix socket.
    Unix,
}

/// Faults of clients that a listener forgives; each offender is logged once per connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leniencies {
    /// `receive-maximum`: more QoS 1 and 2 messages in flight towards us than we offered [MQTT-3.3.4-7].
    pub receive_maximum: bool,
    /// `websocket-subprotocol`: an upgrade to WebSocket that does not ask for `mqtt` [MQTT-6.0.0-3].
    pub websocket_subprotocol: bool,
}

/// Bounds on what clients may take. Where it is said, 0 means no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest MQTT packet accepted, header included, in bytes; offered as Maximum Packet Size.
    pub max_packet_size: u32,
    /// Network connections at a time, over all listeners; 0 = no bound.
    pub max_connections: u32,
    /// Sessions at a time, connected or not; 0 = no bound.
    pub max_sessions: u32,
    /// Subscriptions one session may hold; 0 = no bound.
    pub max_subscriptions_per_session: u32,
    /// Longest Client Identifier accepted, in bytes.
    pub max_client_id_length: u16,
    /// Longest Keep Alive granted, in seconds: a client that asks for more, or for none, is given this one
    /// as Server Keep Alive. 0 = the client's own counts.
    pub max_keep_alive: u16,
    /// New connections a second, on each listener; 0 = no bound.
    pub connections_per_second: u32,
    /// How long a new connection may take for what comes before MQTT; zero = until `connect_timeout`.
    pub handshake_timeout: Duration,
    /// How long a new connection may take until its CONNECT is complete.
    pub connect_timeout: Duration,
    /// Messages a second that one client may publish: beyond, it is read more slowly; 0 = no bound.
    pub messages_per_second: u32,
    /// Bytes a second that one client may send: beyond, it is read more slowly; 0 = no bound.
    pub bytes_per_second: u32,
    /// How long a client may read nothing while bytes wait for it, before it is disconnected.
    pub write_timeout: Duration,
    /// Bytes waiting for one client from which on the publishers that fill it are briefly stalled.
    pub outbox_soft: usize,
    /// Bytes waiting for one client from which on QoS 0 is dropped and QoS 1 and 2 go to the queue.
    /// Greater than `outbox_soft`.
    pub outbox_hard: usize,
    /// Longest stall of a publisher for the sake of slow subscribers, per read batch; zero = never stalled.
    pub publisher_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet_size: 16 * 1024 * 1024,
            max_connections: 100_000,
            max_sessions: 1_000_000,
            max_subscriptions_per_session: 100_000,
            max_client_id_length: u16::MAX,
            max_keep_alive: 0,
            connections_per_second: 0,
            handshake_timeout: Duration::ZERO,
            connect_timeout: Duration::from_secs(10),
            messages_per_second: 0,
            bytes_per_second: 0,
            write_timeout: Duration::from_secs(30),
            outbox_soft: 256 * 1024,
            outbox_hard: 8 * 1024 * 1024,
            publisher_stall: Duration::from_millis(5),
        }
    }
}

/// What a session offers its client and how long it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// Most QoS 1 and 2 messages in flight towards one client, whatever its Receive Maximum; never 0.
    pub max_inflight: u16,
    /// Receive Maximum offered to clients; never 0.
    pub receive_maximum: u16,
    /// Topic Alias Maximum offered to clients; 0 = no aliases from them.
    pub topic_alias_maximum: u16,
    /// Most aliases assigned towards one client, whatever its Topic Alias Maximum; 0 = none.
    pub topic_alias_maximum_outgoing: u16,
    /// How long a session of a 3.x client with `clean session = 0` outlives its connection.
    pub expiry_3x: Duration,
    /// Cap on the Session Expiry Interval of 5.0 clients; `None` = no cap.
    pub max_expiry: Option<Duration>,
    /// Highest QoS granted: 0, 1 or 2; offered as Maximum QoS.
    pub max_qos: u8,
    /// Whether a client may connect with an empty Client Identifier and be given one.
    pub allow_empty_client_id: bool,
    /// Who in a shared subscription's group gets a message.
    pub shared_strategy: SharedStrategy,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            max_inflight: 1024,
            receive_maximum: 1024,
            topic_alias_maximum: 64,
            topic_alias_maximum_outgoing: 64,
            expiry_3x: Duration::from_secs(7 * 24 * 60 * 60),
            max_expiry: Some(Duration::from_secs(90 * 24 * 60 * 60)),
            max_qos: 2,
            allow_empty_client_id: true,
            shared_strategy: SharedStrategy::LeastInFlight,
        }
    }
}

/// How a shared subscription's group chooses among its members with room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedStrategy {
    /// The one with the fewest messages in flight.
    LeastInFlight,
    /// Each in turn.
    RoundRobin,
    /// Any of them.
    Random,
    /// The same one as long as it has room.
    Sticky,
    /// One chosen by the publisher's Client Identifier.
    HashClient,
    /// One chosen by the Topic Name.
    HashTopic,
}

/// Messages that wait for a session: its client is away or its window is full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Most messages waiting for one session; never 0.
    pub messages: u32,
    /// Most bytes waiting for one session.
    pub bytes: u64,
    /// Most bytes of memory waiting for all sessions.
    pub total_bytes: u64,
    /// What happens when one of these bounds is reached.
    pub overflow: Overflow,
    /// How many of a session's waiting messages are held in memory when the store has the rest.
    pub memory_messages: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            messages: 100_000,
            bytes: 64 * 1024 * 1024,
            total_bytes: 1024 * 1024 * 1024,
            overflow: Overflow::DropOldest,
            memory_messages: 1000,
        }
    }
}

/// What a full queue does with one message more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The message that waits longest makes room.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The publisher is told: reason 0x97 in PUBACK or PUBREC (5.0); dropped as `DropNewest` for 3.x.
    Reject,
}

/// Retained messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Whether they are kept at all; offered as Retain Available.
    pub enabled: bool,
    /// Most of them; 0 = no bound.
    pub max_messages: u64,
    /// Most bytes of topics and payloads; 0 = no bound.
    pub max_bytes: u64,
}

impl Default for Retained {
    fn default() -> Self {
        Self { enabled: true, max_messages: 10_000_000, max_bytes: 1024 * 1024 * 1024 }
    }
}

/// The `$SYS` topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sys {
    /// Time between two publications; zero = they are off.
    pub interval: Duration,
}

impl Default for Sys {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10) }
    }
}

/// Where acknowledged state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// On disk or in memory.
    pub engine: Engine,
    /// What an acknowledgement survives.
    pub durability: Durability,
    /// The folder of the disk engine.
    pub directory: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self { engine: Engine::Disk, durability: Durability::Sync, directory: PathBuf::from("./fulmar-data") }
    }
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Files in the store's directory.
    Disk,
    /// Memory alone: state ends with the process.
    Memory,
}

/// What an acknowledged message survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power loss: the disk has confirmed it.
    Sync,
    /// The end of the process, however sudden: the operating system has it.
    Os,
    /// Nothing: state ends with the process.
    None,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or levels by module: `info,fulmar::net=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The process itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Worker threads; `None` = one fewer than there are cores, at least one.
    pub workers: Option<usize>,
    /// How long a shutdown waits for connections to end by themselves.
    pub shutdown_timeout: Duration,
    /// Whether everything is read again when a file of the configuration has changed.
    pub watch_files: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self { workers: None, shutdown_timeout: Duration::from_secs(10), watch_files: true }
    }
}
