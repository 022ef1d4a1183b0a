//! The table: each key is defined here once, and the parser, `fulmar check`, `examples/fulmar.toml` and the
//! tests are all fed from it. A key's default is the one of the struct that it fills.
//!
//! To add a key: a field with its default in `mod.rs`, a row here, and the example written anew (see
//! `example.rs`). The macros tie a row's name to its field, so the two cannot drift apart.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::acl::{AclAccess, AclAction, AclWho};
use super::auth::{AuthenticatorKind, DeniedPublish};
use super::auth_keys::AUTH_KEYS;
use super::bans::BAN_KEYS;
use super::key::{Key, Shape, Worded};
use super::listener_limits::LISTENER_LIMIT_KEYS;
use super::transport::{ClientCertificates, TlsVersion};
use super::transport_keys::TRANSPORT_KEYS;
use super::{Config, Durability, Engine, Listener, ListenerKind, LogFormat, Overflow, SharedStrategy};

/// Four bytes short of the largest packet that MQTT can express, for the sake of a round number.
pub(super) const LARGEST_PACKET: u64 = 256 << 20;
const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;
/// Beyond what a machine holds.
const ANY_COUNT: u64 = 1_000_000_000_000;
const ANY_SIZE: u64 = 1 << 50;
/// What one client's outgoing buffer may come to: it is memory, and there is one for each.
const OUTBOX: std::ops::RangeInclusive<u64> = 1024..=1 << 30;
/// What may happen in a second, or in another while.
pub(super) const ANY_RATE: std::ops::RangeInclusive<u64> = 1..=U32;
/// Bytes of one client in a second.
pub(super) const BYTE_RATE: std::ops::RangeInclusive<u64> = 64..=1 << 30;
/// What somebody is waited for.
pub(super) const TIMEOUT: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most whole days that a Session Expiry Interval can express (§3.1.2.11.2): 136 years, as good as never.
const LONGEST_EXPIRY: Duration = Duration::from_secs(49_710 * 24 * 60 * 60);

/// The sections in the order of the documentation, with what they are about. `listeners` is apart.
pub(super) static SECTIONS: &[(&str, &str)] = &[
    (
        "auth",
        "Who may connect. Without authenticators everyone may, where allow_anonymous lets them; with some, clients \
         that are not anonymous must be known to one.",
    ),
    ("limits", "Bounds on what clients may take. A listener may have its own of some of them."),
    (
        "bans",
        "Who is kept out for a while: addresses and client identifiers that fail to log in again and again, or come and \
         go. Each ban is a line in the log. At SIGHUP a changed section takes effect and lifts all bans.",
    ),
    ("session", "What a session offers its client, and how long it lives."),
    ("queue", "Messages that wait for a session, because its client is away or slow."),
    ("retained", "Retained messages."),
    ("sys", "The $SYS topics, on which the broker tells about itself."),
    (
        "store",
        "Where acknowledged messages and sessions are kept, and what must happen before an acknowledgement.",
    ),
    ("log", "What is logged, to standard error."),
    ("server", "The process itself."),
];

macro_rules! name {
    ($section:ident . $field:ident) => {
        concat!(stringify!($section), ".", stringify!($field))
    };
}

macro_rules! number {
    ($section:ident . $field:ident, $bounds:expr, $unit:literal, $zero:expr, $doc:literal) => {
        Key {
            name: name!($section.$field),
            doc: $doc,
            zero: $zero,
            shape: Shape::Number {
                bounds: $bounds,
                unit: $unit,
                get: |config| config.$section.$field as u64,
                set: |config, number| narrow(&mut config.$section.$field, number),
            },
        }
    };
}

macro_rules! size {
    ($section:ident . $field:ident, $bounds:expr, $zero:expr, $doc:literal) => {
        Key {
            name: name!($section.$field),
            doc: $doc,
            zero: $zero,
            shape: Shape::Size {
                bounds: $bounds,
                get: |config| config.$section.$field as u64,
                set: |config, number| narrow(&mut config.$section.$field, number),
            },
        }
    };
}

macro_rules! duration {
    ($section:ident . $field:ident, $bounds:expr, $zero:expr, $doc:literal) => {
        Key {
            name: name!($section.$field),
            doc: $doc,
            zero: $zero,
            shape: Shape::Duration {
                bounds: $bounds,
                get: |config| config.$section.$field,
                set: |config, duration| config.$section.$field = duration,
            },
        }
    };
}

macro_rules! boolean {
    ($section:ident . $field:ident, $doc:literal) => {
        Key {
            name: name!($section.$field),
            doc: $doc,
            zero: None,
            shape: Shape::Boolean {
                get: |config| config.$section.$field,
                set: |config, boolean| config.$section.$field = boolean,
            },
        }
    };
}

macro_rules! choice {
    ($section:ident . $field:ident: $type:ty, $doc:literal) => {
        Key {
            name: name!($section.$field),
            doc: $doc,
            zero: None,
            shape: Shape::Choice {
                words: <$type>::words,
                later: &[],
                get: |config| config.$section.$field.word(),
                set: |config, word| choose(&mut config.$section.$field, word),
            },
        }
    };
}

/// Every key but those of a listener, in the order of the documentation within each section.
pub(super) fn keys() -> impl Iterator<Item = &'static Key<Config>> {
    KEYS.iter().chain(AUTH_KEYS).chain(BAN_KEYS)
}

static KEYS: &[Key<Config>] = &[
    size!(
        limits.max_packet_size,
        16..=LARGEST_PACKET,
        None,
        "Largest MQTT packet accepted, its header included. Larger ones are refused before they are read."
    ),
    number!(
        limits.max_connections,
        1..=U32,
        "",
        Some("no bound"),
        "Connections at a time, over all listeners."
    ),
    number!(
        limits.max_sessions,
        1..=U32,
        "",
        Some("no bound"),
        "Sessions at a time, whether their clients are connected or not."
    ),
    number!(
        limits.max_subscriptions_per_session,
        1..=U32,
        "",
        Some("no bound"),
        "Subscriptions one session may hold."
    ),
    number!(limits.max_client_id_length, 23..=U16, "bytes", None, "Longest client identifier accepted."),
    number!(
        limits.max_keep_alive,
        1..=U16,
        "seconds",
        Some("as the client asks"),
        "Longest keep alive granted. MQTT 5.0 clients are told; a client that asks for none gets this one."
    ),
    number!(
        limits.connections_per_second,
        ANY_RATE,
        "",
        Some("no bound"),
        "New connections a second on each listener, and as many at once after a quiet second. Those beyond are \
         refused."
    ),
    duration!(
        limits.handshake_timeout,
        TIMEOUT,
        Some("as long as connect_timeout"),
        "How long a new connection may take for what comes before MQTT: PROXY protocol, TLS, WebSocket."
    ),
    duration!(
        limits.connect_timeout,
        TIMEOUT,
        None,
        "How long a new connection may take until it has said who it is."
    ),
    number!(
        limits.messages_per_second,
        ANY_RATE,
        "",
        Some("no bound"),
        "Messages a second that one client may publish, and as many at once after a quiet second. One that sends more \
         is read more slowly: nothing is dropped, and what it is sent and acknowledged flows on."
    ),
    size!(
        limits.bytes_per_second,
        BYTE_RATE,
        Some("no bound"),
        "Bytes a second that one client may send, in the same way. A packet that is larger takes its time."
    ),
    duration!(
        limits.write_timeout,
        TIMEOUT,
        None,
        "How long a client may read nothing while data waits for it, before it is disconnected."
    ),
    size!(
        limits.outbox_soft,
        OUTBOX,
        None,
        "Data waiting for one connected client from which on its publishers are briefly slowed down."
    ),
    size!(
        limits.outbox_hard,
        OUTBOX,
        None,
        "Data waiting for one connected client from which on QoS 0 messages for it are dropped and others \
         queued. Must be greater than outbox_soft."
    ),
    duration!(
        limits.publisher_stall,
        Duration::from_millis(1)..=Duration::from_secs(1),
        Some("never"),
        "How long a publisher is slowed down at most, at a time, when it outruns its subscribers."
    ),
    number!(
        session.max_inflight,
        1..=U16,
        "",
        None,
        "QoS 1 and 2 messages sent to one client and not yet acknowledged, if the client does not ask for \
         fewer."
    ),
    number!(
        session.receive_maximum,
        1..=U16,
        "",
        None,
        "QoS 1 and 2 messages that a client may send before they are acknowledged (Receive Maximum)."
    ),
    number!(
        session.topic_alias_maximum,
        1..=U16,
        "",
        Some("none"),
        "Topic aliases that an MQTT 5.0 client may use on one connection."
    ),
    number!(
        session.topic_alias_maximum_outgoing,
        1..=U16,
        "",
        Some("none"),
        "Topic aliases used towards one MQTT 5.0 client, if it does not ask for fewer."
    ),
    duration!(
        session.expiry_3x,
        Duration::from_secs(1)..=LONGEST_EXPIRY,
        None,
        "How long the session of an MQTT 3.1 or 3.1.1 client with clean session 0 outlives its connection."
    ),
    Key {
        name: "session.max_expiry",
        doc: "Longest session expiry interval granted to an MQTT 5.0 client, which is told when it asked for more: a \
              session that nobody comes back to must not wait, and take room, for ever.",
        zero: Some("no cap"),
        shape: Shape::Duration {
            bounds: Duration::from_secs(1)..=LONGEST_EXPIRY,
            get: |config| config.session.max_expiry.unwrap_or(Duration::ZERO),
            set: |config, duration| config.session.max_expiry = (!duration.is_zero()).then_some(duration),
        },
    },
    number!(session.max_qos, 0..=2, "", None, "Highest quality of service granted."),
    boolean!(
        session.allow_empty_client_id,
        "Whether a client may connect without a client identifier and be given one."
    ),
    choice!(
        session.shared_strategy: SharedStrategy,
        "Which member of a shared subscription gets a message: the one with the fewest in flight, each in \
         turn, any, the same while it has room, or one by the publisher's client identifier or by the topic."
    ),
    number!(queue.messages, 1..=U32, "", None, "Messages waiting for one session at most."),
    size!(queue.bytes, 1024..=ANY_SIZE, None, "Bytes of messages waiting for one session at most."),
    size!(
        queue.total_bytes,
        1024..=ANY_SIZE,
        None,
        "Bytes of memory for the messages waiting for all sessions at most."
    ),
    choice!(
        queue.overflow: Overflow,
        "What a full queue does: make room by dropping its oldest message, drop the new one, or reject it, \
         which tells an MQTT 5.0 publisher."
    ),
    number!(
        queue.memory_messages,
        1..=U32,
        "",
        None,
        "Messages of one session's queue held in memory when the store on disk has all of them."
    ),
    boolean!(retained.enabled, "Whether retained messages are kept."),
    number!(retained.max_messages, 1..=ANY_COUNT, "", Some("no bound"), "Retained messages at most."),
    size!(
        retained.max_bytes,
        1024..=ANY_SIZE,
        Some("no bound"),
        "Bytes of retained messages at most, topics and payloads."
    ),
    duration!(
        sys.interval,
        Duration::from_secs(1)..=DAY,
        Some("off"),
        "Time between two publications of the $SYS topics."
    ),
    choice!(
        store.engine: Engine,
        "Where state is kept: on disk, or in memory until the process ends."
    ),
    choice!(
        store.durability: Durability,
        "What an acknowledged message survives: with \"sync\" a power loss, with \"os\" a crash of the \
         broker, with \"none\" neither."
    ),
    Key {
        name: "store.directory",
        doc: "The folder of the store on disk, made when it is missing. Relative to where fulmar is started.",
        zero: None,
        shape: Shape::Text {
            expects: "the path of a folder",
            get: |config| config.store.directory.to_string_lossy().into_owned(),
            set: |config, text| {
                let is_path = !text.is_empty() && !text.contains('\0');
                is_path.then(|| config.store.directory = PathBuf::from(text)).is_some()
            },
        },
    },
    Key {
        name: "log.level",
        doc: "How much is logged. Several modules may have levels of their own: \"info,fulmar::net=debug\". The \
              environment variable RUST_LOG, if set, replaces this.",
        zero: None,
        shape: Shape::Text {
            expects: "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\", or a list with levels by \
                      module such as \"info,fulmar::net=debug\"",
            get: |config| config.log.level.clone(),
            set: |config, text| is_level_list(text).then(|| config.log.level = text.to_owned()).is_some(),
        },
    },
    choice!(log.format: LogFormat, "Lines for people, or one JSON object a line."),
    Key {
        name: "server.workers",
        doc: "Worker threads.",
        zero: Some("one fewer than the machine has cores, at least one"),
        shape: Shape::Number {
            bounds: 1..=1024,
            unit: "",
            get: |config| config.server.workers.unwrap_or(0) as u64,
            set: |config, number| {
                config.server.workers = usize::try_from(number).ok().filter(|workers| *workers > 0);
            },
        },
    },
    duration!(
        server.shutdown_timeout,
        Duration::from_secs(1)..=Duration::from_secs(3600),
        Some("not at all"),
        "How long a shutdown waits for connections to end by themselves."
    ),
    boolean!(
        server.watch_files,
        "Whether everything is read again, as at SIGHUP, when this file or one that [auth] names has changed: passwords, \
         rules and groups, keys of tokens. It is used as a whole or, if anything in it is wrong, not at all. \
         Certificates, their keys and revocation lists are always watched."
    ),
];

/// The keys of one `[[listeners]]`, in the order of the documentation.
pub(super) fn listener_keys() -> impl Iterator<Item = &'static Key<Listener>> {
    LISTENER_KEYS.iter().chain(LISTENER_LIMIT_KEYS).chain(TRANSPORT_KEYS)
}

/// Those that every listener has.
static LISTENER_KEYS: &[Key<Listener>] = &[
    Key {
        name: "name",
        doc: "Its name in logs, its own; if left out, listener-1, listener-2 and so on.",
        zero: None,
        shape: Shape::Text {
            expects: "a text that is not empty",
            get: |listener| listener.name.clone(),
            set: |listener, text| (!text.is_empty()).then(|| listener.name = text.to_owned()).is_some(),
        },
    },
    Key {
        name: "kind",
        doc: "What is spoken below MQTT: nothing but TCP, TLS, WebSocket, WebSocket in TLS, or a Unix socket.",
        zero: None,
        shape: Shape::Choice {
            words: ListenerKind::words,
            later: &[],
            get: |listener| listener.kind.word(),
            set: |listener, word| choose(&mut listener.kind, word),
        },
    },
    Key {
        name: "address",
        doc: "Where it listens; a port alone means all addresses, of IPv4 and IPv6. Port 0 takes a free port. Required.",
        zero: None,
        shape: Shape::Text {
            expects: "an IP address and a port, such as \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \"[::1]:1883\", or \":1883\"",
            get: |listener| listener.address.to_string(),
            set: |listener, text| parse_address(text).map(|address| listener.address = address).is_some(),
        },
    },
    Key {
        name: "allow_anonymous",
        doc: "Whether clients may connect without credentials. If left out, they may on a loopback address that has \
              no authenticators, and nowhere else. Beyond the loopback addresses this or authenticators must be \
              written.",
        zero: None,
        shape: Shape::Boolean {
            get: |listener| listener.allow_anonymous,
            set: |listener, boolean| listener.allow_anonymous = boolean,
        },
    },
    Key {
        name: "authenticators",
        doc: "Who is asked about clients with credentials, in this order; if left out, those of [auth].",
        zero: None,
        shape: Shape::Words {
            words: AuthenticatorKind::ALL_WORDS,
            get: |listener| listener.authenticators.iter().map(|kind| kind.word()).collect(),
            set: |listener, words| listener.authenticators = AuthenticatorKind::list(words),
        },
    },
    Key {
        name: "max_connections",
        doc: "Connections at a time on this listener, beside limits.max_connections.",
        zero: Some("no bound of its own"),
        shape: Shape::Number {
            bounds: 1..=U32,
            unit: "",
            get: |listener| listener.max_connections.unwrap_or(0).into(),
            set: |listener, number| {
                listener.max_connections = u32::try_from(number).ok().filter(|connections| *connections > 0);
            },
        },
    },
    Key {
        name: "lenient",
        doc: "Faults forgiven to clients known to err, where the default is strict: \"receive-maximum\" lets a \
              client have more messages in flight than it was granted, \"websocket-subprotocol\" come in over WebSocket \
              without asking for the subprotocol mqtt.",
        zero: None,
        shape: Shape::Words {
            words: &["receive-maximum", "websocket-subprotocol"],
            get: |listener| {
                let mut words = Vec::new();
                if listener.leniencies.receive_maximum {
                    words.push("receive-maximum");
                }
                if listener.leniencies.websocket_subprotocol {
                    words.push("websocket-subprotocol");
                }
                words
            },
            set: |listener, words| {
                listener.leniencies.receive_maximum = words.contains(&"receive-maximum");
                listener.leniencies.websocket_subprotocol = words.contains(&"websocket-subprotocol");
            },
        },
    },
];

macro_rules! words {
    ($type:ty { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl Worded for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl std::fmt::Display for $type {
            /// As it is written in the configuration.
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                // A match, so that a variant without a word does not compile.
                formatter.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(AuthenticatorKind { PasswordFile = "password-file", Jwt = "jwt", Certificate = "certificate", Scram = "scram-sha-256", Http = "http" });
words!(DeniedPublish { Ignore = "ignore", Close = "close" });
words!(AclAction { Allow = "allow", Deny = "deny" });
words!(AclAccess { Publish = "publish", Subscribe = "subscribe", All = "all" });
words!(AclWho { Anyone = "anyone", Identified = "identified", Anonymous = "anonymous" });
words!(ListenerKind { Tcp = "tcp", Tls = "tls", Ws = "ws", Wss = "wss", Unix = "unix" });
words!(TlsVersion { V1_2 = "1.2", V1_3 = "1.3" });
words!(ClientCertificates { None = "none", Optional = "optional", Required = "required" });
words!(SharedStrategy {
    LeastInFlight = "least-in-flight",
    RoundRobin = "round-robin",
    Random = "random",
    Sticky = "sticky",
    HashClient = "hash-client",
    HashTopic = "hash-topic",
});
words!(Overflow { DropOldest = "drop-oldest", DropNewest = "drop-newest", Reject = "reject" });
words!(Engine { Disk = "disk", Memory = "memory" });
words!(Durability { Sync = "sync", Os = "os", None = "none" });
words!(LogFormat { Text = "text", Json = "json" });

/// The key has checked the bounds, which lie within the field's type: the tests walk both ends of each.
fn narrow<V: TryFrom<u64>>(field: &mut V, number: u64) {
    if let Ok(number) = V::try_from(number) {
        *field = number;
    }
}

/// A port alone is one of all addresses: bound as IPv6, it takes IPv4 as well.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let port = || text.strip_prefix(':').unwrap_or(text).parse().ok();
    text.parse().ok().or_else(|| Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port()?))))
}

/// The key has checked the word.
fn choose<V: Worded>(field: &mut V, word: &str) {
    if let Some(variant) = V::from_word(word) {
        *field = variant;
    }
}

/// `info`, or `info,fulmar::net=debug`. A lone word must be a level: a mistyped one would otherwise be taken
/// for the name of a module and silence everything else.
fn is_level_list(text: &str) -> bool {
    text.split(',').all(|directive| {
        let (module, level) = directive.rsplit_once('=').unwrap_or(("any", directive));
        let level = level.trim().to_ascii_lowercase();
        !module.trim().is_empty()
            && matches!(level.as_str(), "off" | "error" | "warn" | "info" | "debug" | "trace")
    })
}

#[cfg(test)]
mod tests;
