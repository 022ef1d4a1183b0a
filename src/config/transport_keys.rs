//! The keys of a listener that are about its transport; a part of the table in `table.rs`.

use std::path::PathBuf;
use std::time::Duration;

use super::Listener;
use super::key::{Key, Shape, Worded};
use super::transport::{ClientCertificates, TlsVersion};

/// Paths of files, one or several.
macro_rules! files {
    ($name:literal, $group:ident . $field:ident, $doc:literal) => {
        Key {
            name: $name,
            doc: $doc,
            zero: None,
            shape: Shape::Texts {
                expects: "the path of a file, or a list of them",
                get: |listener| {
                    listener.$group.$field.iter().map(|path| path.display().to_string()).collect()
                },
                set: |listener, paths| {
                    listener.$group.$field = paths.iter().map(PathBuf::from).collect();
                    paths.iter().all(|path| !path.is_empty())
                },
            },
        }
    };
}

macro_rules! choice {
    ($name:literal, $group:ident . $field:ident: $type:ty, $doc:literal) => {
        Key {
            name: $name,
            doc: $doc,
            zero: None,
            shape: Shape::Choice {
                words: <$type>::words,
                later: &[],
                get: |listener| listener.$group.$field.word(),
                set: |listener, word| {
                    if let Some(variant) = <$type>::from_word(word) {
                        listener.$group.$field = variant;
                    }
                },
            },
        }
    };
}

/// See the module.
pub(super) static TRANSPORT_KEYS: &[Key<Listener>] = &[
    files!(
        "certificate",
        tls.certificates,
        "For kinds \"tls\" and \"wss\": the certificate chain in PEM, the server's own certificate first. Of several, \
         the one that bears the name the client asks for is shown, and the first where none does. The files named \
         here and below are read again when they change and at SIGHUP; connections stay."
    ),
    files!(
        "key",
        tls.keys,
        "The private key of the certificate in PEM (PKCS#8, PKCS#1 or SEC1); one for each certificate, in the same \
         order."
    ),
    Key {
        name: "server_names",
        doc: "Names by which clients reach this listener. A name that no certificate is for is told at start.",
        zero: None,
        shape: Shape::Texts {
            expects: "a host name, or a list of them",
            get: |listener| listener.tls.server_names.clone(),
            set: |listener, names| {
                listener.tls.server_names = names.iter().map(|name| (*name).to_owned()).collect();
                names.iter().all(|name| !name.is_empty())
            },
        },
    },
    choice!("min_tls_version", tls.min_version: TlsVersion, "The oldest version of TLS that is spoken."),
    choice!(
        "client_certificates",
        tls.client_certificates: ClientCertificates,
        "Whether clients show a certificate: they are not asked, or may, or must."
    ),
    files!(
        "client_ca",
        tls.client_ca,
        "The authorities (PEM) that sign the certificates of clients. Needed where those are optional or required."
    ),
    files!(
        "revocation_lists",
        tls.revocation_lists,
        "Lists of revoked client certificates (CRL, PEM or DER), one from each authority that signs them."
    ),
    Key {
        name: "websocket_path",
        doc: "For kinds \"ws\" and \"wss\": the path of the URL.",
        zero: None,
        shape: Shape::Text {
            expects: "a path such as \"/mqtt\"",
            get: |listener| listener.websocket.path.clone(),
            set: |listener, text| {
                listener.websocket.path = text.to_owned();
                text.starts_with('/')
                    && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
            },
        },
    },
    Key {
        name: "origins",
        doc: "Web sites whose pages may connect, as the browser tells them; without any, all may. Clients that are \
              no browsers always may.",
        zero: None,
        shape: Shape::Texts {
            expects: "an origin such as \"https://example.org\", or a list of them",
            get: |listener| listener.websocket.origins.clone(),
            set: |listener, origins| {
                listener.websocket.origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
                origins.iter().all(|origin| is_origin(origin))
            },
        },
    },
    Key {
        name: "websocket_ping",
        doc: "A WebSocket ping is sent when nothing else was for so long: proxies cut what looks idle, often after \
              60s.",
        zero: Some("never"),
        shape: Shape::Duration {
            bounds: Duration::from_secs(1)..=Duration::from_secs(3600),
            get: |listener| listener.websocket.ping_interval,
            set: |listener, duration| listener.websocket.ping_interval = duration,
        },
    },
    Key {
        name: "socket_path",
        doc: "For kind \"unix\": the file of the socket. One that a killed process has left behind is replaced.",
        zero: None,
        shape: Shape::Text {
            expects: "the path of a file, or \"\" for none",
            get: |listener| listener.socket_path.display().to_string(),
            set: |listener, text| {
                listener.socket_path = PathBuf::from(text);
                // What the system's address has room for.
                text.len() < 108
            },
        },
    },
    Key {
        name: "socket_mode",
        doc: "For kind \"unix\": who may connect, as the permissions of that file.",
        zero: None,
        shape: Shape::Text {
            expects: "permissions in octal, such as \"660\" for owner and group",
            get: |listener| format!("{:o}", listener.socket_mode),
            set: |listener, text| {
                let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
                mode.map(|mode| listener.socket_mode = mode).is_some()
            },
        },
    },
    Key {
        name: "tcp_keepalive",
        doc: "How long a TCP connection is silent before the kernel asks whether the other side is still there.",
        zero: Some("never"),
        shape: Shape::Duration {
            bounds: Duration::from_secs(10)..=Duration::from_secs(24 * 3600),
            get: |listener| listener.tcp_keepalive,
            set: |listener, duration| listener.tcp_keepalive = duration,
        },
    },
    Key {
        name: "proxy_protocol",
        doc: "Whether every connection begins with a header of the PROXY protocol, version 1 or 2, as HAProxy sends it \
              with send-proxy or send-proxy-v2. Then only trusted_proxies may connect.",
        zero: None,
        shape: Shape::Boolean {
            get: |listener| listener.proxy_protocol,
            set: |listener, boolean| listener.proxy_protocol = boolean,
        },
    },
    Key {
        name: "trusted_proxies",
        doc: "Addresses and networks of proxies that are believed when they say whose connection they pass on: \
              the PROXY protocol where proxy_protocol is on, X-Forwarded-For with WebSocket. From anybody else neither \
              counts.",
        zero: None,
        shape: Shape::Texts {
            expects: "an address or a network such as \"10.0.0.0/8\", or a list of them",
            get: |listener| listener.trusted_proxies.iter().map(ToString::to_string).collect(),
            set: |listener, networks| {
                let parsed: Result<Vec<_>, _> = networks.iter().map(|network| network.parse()).collect();
                parsed.map(|networks| listener.trusted_proxies = networks).is_ok()
            },
        },
    },
];

/// `null`, or a scheme, `://` and a host, perhaps with a port; nothing behind it (RFC 6454 §6.2).
fn is_origin(text: &str) -> bool {
    let is_host = |rest: &str| !rest.is_empty() && !rest.contains('/');
    text == "null" || text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && is_host(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_and_no_path() {
        for origin in ["https://example.org", "http://localhost:8080", "null"] {
            assert!(is_origin(origin), "{origin}");
        }
        for text in ["", "example.org", "https://", "https://example.org/", "*"] {
            assert!(!is_origin(text), "{text}");
        }
    }
}
