//! What a listener speaks below MQTT, and what that needs: the types, and the checks that take several keys.

use std::path::PathBuf;
use std::time::Duration;

use super::{Listener, ListenerKind};

/// TLS of a listener of kind `tls` or `wss`. Files are named as seen from the working directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Certificate chains in PEM, the server's own certificate first; the first file is for clients that name no
    /// server, or one that no certificate is for.
    pub certificates: Vec<PathBuf>,
    /// The private key of each chain, in the same order.
    pub keys: Vec<PathBuf>,
    /// Names by which clients reach the listener, each of which some certificate must bear.
    pub server_names: Vec<String>,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// The authorities that sign those, in PEM.
    pub client_ca: Vec<PathBuf>,
    /// Lists of certificates that are revoked, in PEM or DER.
    pub revocation_lists: Vec<PathBuf>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// 1.2, RFC 5246.
    #[default]
    V1_2,
    /// 1.3, RFC 8446.
    V1_3,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They are asked, and whoever has none may come in without; one that is not valid is refused.
    Optional,
    /// Nobody comes in without.
    Required,
}

/// WebSocket of a listener of kind `ws` or `wss`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    /// The path of the URL; begins with a slash.
    pub path: String,
    /// Origins whose pages may connect; empty: any. Clients that are no browsers have none and may always.
    pub origins: Vec<String>,
    /// A ping is sent when nothing else was for so long; zero: never.
    pub ping_interval: Duration,
}

impl WebSocket {
    /// Whether pages of that origin (RFC 6454 §7) may connect.
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.origins.is_empty() || self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { path: "/mqtt".to_owned(), origins: Vec::new(), ping_interval: Duration::from_secs(30) }
    }
}

/// The keys that mean something to Unix sockets alone.
const UNIX_KEYS: [&str; 2] = ["socket_path", "socket_mode"];

/// The keys that mean nothing to them.
const NETWORK_KEYS: [&str; 4] = ["address", "trusted_proxies", "proxy_protocol", "tcp_keepalive"];

/// The keys that mean something to WebSocket alone.
const WEBSOCKET_KEYS: [&str; 3] = ["websocket_path", "origins", "websocket_ping"];

/// The keys that mean something to TLS alone.
const TLS_KEYS: [&str; 7] = [
    "certificate",
    "key",
    "server_names",
    "min_tls_version",
    "client_certificates",
    "client_ca",
    "revocation_lists",
];

impl ListenerKind {
    /// Whether it is spoken inside TLS.
    pub fn is_encrypted(self) -> bool {
        match self {
            Self::Tls | Self::Wss => true,
            Self::Tcp | Self::Ws | Self::Unix => false,
        }
    }

    /// Whether it is spoken inside WebSocket.
    pub fn is_websocket(self) -> bool {
        match self {
            Self::Ws | Self::Wss => true,
            Self::Tcp | Self::Tls | Self::Unix => false,
        }
    }
}

/// What is wrong with a listener's transport as a whole: key and what to do about it. `is_set` tells whether a key
/// was given a value other than its default.
pub(super) fn faults(
    listener: &Listener,
    is_set: impl Fn(&str) -> bool,
) -> Vec<(&'static str, &'static str)> {
    let mut faults = Vec::new();
    if listener.kind == ListenerKind::Unix {
        if listener.socket_path.as_os_str().is_empty() {
            faults.push(("socket_path", "name the file of the socket, such as \"/run/fulmar/mqtt.sock\""));
        }
        let stray = NETWORK_KEYS.into_iter().filter(|key| is_set(key));
        faults.extend(stray.map(|key| (key, "a listener of kind \"unix\" has no use for it")));
    } else {
        let stray = UNIX_KEYS.into_iter().filter(|key| is_set(key));
        faults.extend(stray.map(|key| (key, "only a listener of kind \"unix\" uses it")));
    }
    if listener.proxy_protocol && listener.trusted_proxies.is_empty() {
        faults.push((
            "trusted_proxies",
            "name the proxies: with proxy_protocol = true nobody else may connect",
        ));
    }
    if !listener.kind.is_websocket() {
        let stray = WEBSOCKET_KEYS.into_iter().filter(|key| is_set(key));
        faults.extend(stray.map(|key| (key, "only a listener of kind \"ws\" or \"wss\" uses it")));
    }
    if !listener.kind.is_encrypted() {
        let stray = TLS_KEYS.into_iter().filter(|key| is_set(key));
        faults.extend(stray.map(|key| (key, "only a listener of kind \"tls\" or \"wss\" uses it")));
        return faults;
    }
    let tls = &listener.tls;
    if tls.certificates.is_empty() {
        faults.push(("certificate", "name the file with the server's certificate chain (PEM)"));
    }
    if tls.keys.is_empty() {
        faults.push(("key", "name the file with the private key of the certificate (PEM)"));
    } else if !tls.certificates.is_empty() && tls.keys.len() != tls.certificates.len() {
        faults.push(("key", "write one key for each certificate, in the same order"));
    }
    match (tls.client_certificates, tls.client_ca.is_empty()) {
        (ClientCertificates::None, false) => faults.push((
            "client_ca",
            "it has no effect while client_certificates = \"none\"; write \"optional\" or \"required\"",
        )),
        (ClientCertificates::Optional | ClientCertificates::Required, true) => faults.push((
            "client_ca",
            "name the file with the authorities that sign the clients' certificates (PEM)",
        )),
        (ClientCertificates::None, true)
        | (ClientCertificates::Optional | ClientCertificates::Required, false) => {}
    }
    if tls.client_certificates == ClientCertificates::None && !tls.revocation_lists.is_empty() {
        faults.push(("revocation_lists", "it has no effect while client_certificates = \"none\""));
    }
    faults
}
