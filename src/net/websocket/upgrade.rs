//! The request that turns HTTP into WebSocket (RFC 6455 §4): read, judged by the listener's rules, answered.
//!
//! Sans-IO. Whoever is refused is told why, in a sentence that a person at `curl` or in a browser's console can act on.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use thiserror::Error;

use crate::config::{Network, WebSocket};

/// Bytes that a request may take, its headers included.
pub const LARGEST_REQUEST: usize = 8 * 1024;

/// Header fields that it may have.
const MOST_FIELDS: usize = 64;

/// What the key is hashed with, §1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What we speak inside, the preferred first: [MQTT-6.0.0-4] asks for the first, old libraries for the second.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// A request that was accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The answer.
    pub response: String,
    /// The bytes of the request; what comes behind them are frames.
    pub length: usize,
    /// The client's own address, where a trusted proxy tells it.
    pub forwarded_for: Option<IpAddr>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not HTTP, or not well-formed.
    #[error("this is not a well-formed HTTP request: {0}")]
    Malformed(String),
    /// More than [`LARGEST_REQUEST`], or more than `MOST_FIELDS`.
    #[error("the request's headers are too large")]
    TooLarge,
    /// A method other than GET.
    #[error("only GET can be upgraded to WebSocket")]
    Method,
    /// A path other than the listener's.
    #[error("there is nothing at {found}; MQTT over WebSocket is at {path}")]
    Path {
        /// What was asked for.
        found: String,
        /// What there is.
        path: String,
    },
    /// No upgrade is asked for.
    #[error("this address speaks MQTT over WebSocket; ask for Upgrade: websocket and Connection: Upgrade")]
    NoUpgrade,
    /// Another version of WebSocket.
    #[error("only version 13 of WebSocket is spoken")]
    Version,
    /// A field is missing or wrong.
    #[error("{0}")]
    Field(&'static str),
    /// Not on the listener's list.
    #[error("pages of {0} may not connect; their origin is not in the listener's `origins`")]
    Origin(String),
    /// [MQTT-6.0.0-3]
    #[error("ask for the subprotocol mqtt (Sec-WebSocket-Protocol: mqtt)")]
    Subprotocol,
    /// No room, or too fast.
    #[error("there are too many connections; try again later")]
    Busy,
    /// Its address is kept out for a while.
    #[error("this address is banned for a while; try again later")]
    Banned,
}

impl Refusal {
    /// The answer, which ends the connection.
    pub fn response(&self) -> String {
        let (status, fields) = match self {
            Self::Malformed(_) | Self::Field(_) | Self::Subprotocol => ("400 Bad Request", ""),
            Self::TooLarge => ("431 Request Header Fields Too Large", ""),
            Self::Method => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Self::Path { .. } => ("404 Not Found", ""),
            Self::NoUpgrade | Self::Version => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
            ),
            Self::Origin(_) | Self::Banned => ("403 Forbidden", ""),
            Self::Busy => ("503 Service Unavailable", "Retry-After: 5\r\n"),
        };
        let body = format!("{self}\n");
        let connection = if fields.contains("Connection:") { "" } else { "Connection: close\r\n" };
        format!(
            "HTTP/1.1 {status}\r\n{fields}{connection}Content-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Whether it may come from anything that speaks HTTP: scans, health checks, a person who is curious.
    pub fn is_of_a_stranger(&self) -> bool {
        match self {
            Self::Malformed(_) | Self::TooLarge | Self::Method | Self::Path { .. } | Self::NoUpgrade => true,
            Self::Version
            | Self::Field(_)
            | Self::Origin(_)
            | Self::Subprotocol
            | Self::Busy
            | Self::Banned => false,
        }
    }
}

/// What the listener demands of a request.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Path and origins.
    pub settings: &'a WebSocket,
    /// Proxies whose word counts.
    pub trusted_proxies: &'a [Network],
    /// Whether a client may leave the subprotocol out.
    pub forgives_subprotocol: bool,
}

/// Judges what has come so far; `None` if the request is not complete. `peer` is who sent it.
pub fn parse(bytes: &[u8], peer: Option<IpAddr>, rules: Rules<'_>) -> Result<Option<Upgrade>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= LARGEST_REQUEST => return Err(Refusal::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Err(error) => return Err(Refusal::Malformed(error.to_string())),
    };
    if request.method != Some("GET") {
        return Err(Refusal::Method);
    }
    let target = request.path.unwrap_or_default();
    let path = path_of(target);
    if path != rules.settings.path {
        // Only so much of it that the answer stays a line.
        let found = path.chars().take(80).collect();
        return Err(Refusal::Path { found, path: rules.settings.path.clone() });
    }
    if request.version != Some(1) {
        return Err(Refusal::Malformed("WebSocket needs HTTP/1.1".to_owned()));
    }
    let fields = Fields(request.headers);
    if !fields.has_token("Upgrade", "websocket") || !fields.has_token("Connection", "upgrade") {
        return Err(Refusal::NoUpgrade);
    }
    if fields.one("Host").is_none() {
        return Err(Refusal::Field("the request has no Host"));
    }
    if fields.one("Sec-WebSocket-Version") != Some("13") {
        return Err(Refusal::Version);
    }
    let key = fields
        .one("Sec-WebSocket-Key")
        .filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16));
    let key = key.ok_or(Refusal::Field("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    if fields.has("Origin") {
        // One that cannot be told for sure is none that is allowed.
        let origin = fields.one("Origin").unwrap_or_default();
        if !rules.settings.allows_origin(origin) {
            return Err(Refusal::Origin(origin.chars().take(80).collect()));
        }
    }
    let protocol = PROTOCOLS
        .into_iter()
        .find(|known| fields.tokens("Sec-WebSocket-Protocol").any(|asked| asked == *known));
    if protocol.is_none() && !rules.forgives_subprotocol {
        return Err(Refusal::Subprotocol);
    }
    let forwarded_for = peer
        .filter(|peer| is_in(rules.trusted_proxies, *peer))
        .and_then(|_| first_untrusted(&fields, rules.trusted_proxies));
    Ok(Some(Upgrade { response: accept(key, protocol), length, forwarded_for }))
}

/// What a request asks for, without scheme and host, which may stand there too (RFC 6455 §4.2.1, RFC 9112 §3.2.2).
fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            rest.find(['/', '?', '#']).and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => target,
    };
    path.split(['?', '#']).next().unwrap_or_default()
}

/// The answer that opens the WebSocket, §4.2.2.
fn accept(key: &str, protocol: Option<&str>) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), MAGIC].concat());
    let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n{protocol}\r\n",
        STANDARD.encode(hash)
    )
}

/// Each proxy appends whom it talked to, so what is on the left can be anybody's invention: counted from the right,
/// the first that is no proxy of ours.
fn first_untrusted(fields: &Fields<'_, '_>, trusted: &[Network]) -> Option<IpAddr> {
    let mut chain: Vec<&str> = fields.tokens("X-Forwarded-For").collect();
    chain.reverse();
    for hop in chain {
        let address = hop.trim_matches(['[', ']']).parse::<IpAddr>().ok()?;
        if !is_in(trusted, address) {
            return Some(address);
        }
    }
    None
}

fn is_in(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// Header fields, found by name in any case.
struct Fields<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'b str> {
        let fields = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.filter_map(|field| std::str::from_utf8(field.value).ok()).map(str::trim)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// The value of a field that must not be there twice.
    fn one(&self, name: &str) -> Option<&'b str> {
        let mut all = self.all(name);
        all.next().filter(|value| all.next().is_none() && !value.is_empty())
    }

    /// The elements of a list, which may be spread over several fields.
    fn tokens(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.all(name).flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|found| found.eq_ignore_ascii_case(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of RFC 6455 §1.2 with MQTT's subprotocol; `change` replaces one text by another.
    fn request(change: (&str, &str)) -> String {
        let request = "GET /mqtt HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: WebSocket\r\n\
            Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n";
        assert!(request.contains(change.0), "{change:?}");
        request.replacen(change.0, change.1, 1)
    }

    fn judge(request: &str, change: impl FnOnce(&mut WebSocket)) -> Result<Option<Upgrade>, Refusal> {
        let mut settings = WebSocket::default();
        change(&mut settings);
        let rules = Rules { settings: &settings, trusted_proxies: &[], forgives_subprotocol: false };
        parse(request.as_bytes(), None, rules)
    }

    #[test]
    fn a_good_request_is_accepted_when_it_is_complete() {
        let request = request(("", ""));
        for length in 0..request.len() {
            assert_eq!(judge(&request[..length], |_| ()), Ok(None), "cut at {length}");
        }
        let upgrade = judge(&format!("{request}frames"), |_| ()).unwrap().unwrap();
        assert_eq!(upgrade.length, request.len());
        // The hash is the one in RFC 6455 §1.3.
        for line in
            ["HTTP/1.1 101 ", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "Protocol: mqtt\r\n"]
        {
            assert!(upgrade.response.contains(line), "{}", upgrade.response);
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_status() {
        for (change, status) in [
            (("GET", "POST"), "405 "),
            (("/mqtt", "/other"), "404 "),
            (("/mqtt", "/mqtt/"), "404 "),
            (("HTTP/1.1", "HTTP/1.0"), "400 "),
            (("HTTP/1.1", "QTTP/1.1"), "400 "),
            (("Upgrade: WebSocket\r\n", ""), "426 "),
            (("keep-alive, Upgrade", "keep-alive"), "426 "),
            (("Version: 13", "Version: 8"), "426 "),
            (("Host: server.example.com\r\n", ""), "400 "),
            (("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ"), "400 "),
            (("Sec-WebSocket-Key", "Sec-WebSocket-Kay"), "400 "),
            (("chat, mqtt", "chat, mqtt5"), "400 "),
            (("Origin: http://example.com", "Origin: http://evil.example"), "403 "),
            (("Host", "Host: a\r\nHost"), "400 "),
            (("Origin", "Origin: http://example.com\r\nOrigin"), "403 "),
            (("Origin: http://example.com", "Origin: \u{e9}"), "403 "),
            (("Origin: http://example.com", "Origin:"), "403 "),
            (("/mqtt", "http://server.example.com/other"), "404 "),
            (("/mqtt", "http://server.example.com"), "404 "),
        ] {
            let request = request(change);
            let origins = vec!["http://example.com".to_owned()];
            let refusal = judge(&request, |settings| settings.origins = origins).unwrap_err();
            let response = refusal.response();
            assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{change:?}: {response}");
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{response}");
        }
    }

    #[test]
    fn a_query_behind_the_path_is_none_of_our_business() {
        assert!(judge(&request(("/mqtt", "/mqtt?token=1")), |_| ()).unwrap().is_some());
        assert!(
            judge(&request(("/mqtt", "/")), |settings| settings.path = "/".to_owned()).unwrap().is_some()
        );
    }

    #[test]
    fn the_old_subprotocol_is_taken_and_none_only_where_that_is_forgiven() {
        let old = judge(&request(("chat, mqtt", "mqttv3.1")), |_| ()).unwrap().unwrap();
        assert!(old.response.contains("Protocol: mqttv3.1\r\n"), "{}", old.response);
        let without = request(("Sec-WebSocket-Protocol: chat, mqtt\r\n", ""));
        assert_eq!(judge(&without, |_| ()), Err(Refusal::Subprotocol));
        let settings = WebSocket::default();
        let rules = Rules { settings: &settings, trusted_proxies: &[], forgives_subprotocol: true };
        let forgiven = parse(without.as_bytes(), None, rules).unwrap().unwrap();
        assert!(!forgiven.response.contains("Sec-WebSocket-Protocol"), "{}", forgiven.response);
    }

    #[test]
    fn headers_are_bounded() {
        let large = request(("Host", &format!("X-Large: {}\r\nHost", "x".repeat(LARGEST_REQUEST))));
        assert_eq!(judge(&large[..LARGEST_REQUEST], |_| ()), Err(Refusal::TooLarge));
        let many = request(("Host", &format!("{}Host", "X-Many: 1\r\n".repeat(MOST_FIELDS))));
        assert_eq!(judge(&many, |_| ()), Err(Refusal::TooLarge));
    }

    #[test]
    fn only_a_trusted_proxy_tells_who_the_client_is() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let settings = WebSocket::default();
        let rules = Rules { settings: &settings, trusted_proxies: &trusted, forgives_subprotocol: false };
        for (peer, chain, client) in [
            ("10.0.0.1", "192.0.2.1", Some("192.0.2.1")),
            ("10.0.0.1", "192.0.2.66, 192.0.2.1, 10.0.0.2", Some("192.0.2.1")),
            ("10.0.0.1", "[2001:db8::1]", Some("2001:db8::1")),
            ("10.0.0.1", "10.0.0.2", None),
            ("10.0.0.1", "192.0.2.1, nonsense", None),
            ("192.0.2.9", "192.0.2.1", None),
        ] {
            let request = request(("Host", &format!("X-Forwarded-For: {chain}\r\nHost")));
            let upgrade = parse(request.as_bytes(), peer.parse().ok(), rules).unwrap().unwrap();
            let client = client.map(|client| client.parse().unwrap());
            assert_eq!(upgrade.forwarded_for, client, "{peer}: {chain}");
        }
    }
}
