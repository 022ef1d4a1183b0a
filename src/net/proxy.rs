//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): whose connection a proxy passes on.
//!
//! Sans-IO: given what has come so far, it says how many bytes the header has, or that more must come. Called by
//! `transport`, which takes exactly those bytes from the socket. What always holds: whoever is asked here is a trusted
//! proxy; a header is at most [`LONGEST`] bytes; nothing is believed of one that is not well-formed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// The longest header taken: addresses and what a proxy usually tells of TLS fit many times over.
pub const LONGEST: usize = 4_096;

/// §2.1: the longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;

/// §2.2: how version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";

/// Types of what may follow the addresses in version 2, §2.2.
const TYPE_SSL: u8 = 0x20;
const TYPE_SSL_COMMON_NAME: u8 = 0x22;

/// Bits of the client field of `TYPE_SSL`, §2.2.6.
const CLIENT_SSL: u8 = 0x01;

/// What a proxy tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The client's address; `None` where the proxy does not tell, as for its own health checks.
    pub source: Option<SocketAddr>,
    /// The Common Name of the client's certificate, which the proxy has verified (version 2).
    pub tls_name: Option<String>,
}

/// How far a header is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// What has come is only the beginning; all of it belongs to the header.
    Incomplete,
    /// A whole header, and its length.
    Complete(Header, usize),
}

/// What comes is no header, or not a good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// Another protocol.
    #[error("what came is no PROXY protocol header; switch it on in the proxy, or off here (proxy_protocol)")]
    NotProxy,
    /// Version 1.
    #[error("the PROXY protocol header (version 1) is not well-formed")]
    Line,
    /// Version 2.
    #[error("the PROXY protocol header (version 2) is not well-formed")]
    Binary,
    /// More than [`LONGEST`].
    #[error("the PROXY protocol header is longer than 4096 bytes")]
    TooLong,
}

/// Reads a header off the front of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if bytes.starts_with(&SIGNATURE) {
        parse_binary(bytes)
    } else if bytes.starts_with(WORD) {
        parse_line(bytes)
    } else if SIGNATURE.starts_with(bytes) || WORD.starts_with(bytes) {
        Ok(Parsed::Incomplete)
    } else {
        Err(ProxyError::NotProxy)
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`, §2.1
fn parse_line(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let most = bytes.get(..LONGEST_LINE).unwrap_or(bytes);
    let Some(end) = most.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LONGEST_LINE { Ok(Parsed::Incomplete) } else { Err(ProxyError::Line) };
    };
    let line = most.get(WORD.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let fields: Vec<&str> = line.ok_or(ProxyError::Line)?.split(' ').collect();
    let source = match fields[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", source, destination, port, other] => {
            let _: (Ipv4Addr, u16) = (number(destination)?, number(other)?);
            Some(SocketAddr::from((number::<Ipv4Addr>(source)?, number(port)?)))
        }
        ["TCP6", source, destination, port, other] => {
            let _: (Ipv6Addr, u16) = (number(destination)?, number(other)?);
            Some(SocketAddr::from((number::<Ipv6Addr>(source)?, number(port)?)))
        }
        _ => return Err(ProxyError::Line),
    };
    Ok(Parsed::Complete(Header { source, tls_name: None }, end + 2))
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, ProxyError> {
    text.parse().map_err(|_| ProxyError::Line)
}

/// §2.2
fn parse_binary(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some([version_command, family, high, low, rest @ ..]) = bytes.get(SIGNATURE.len()..) else {
        return Ok(Parsed::Incomplete);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let whole = SIGNATURE.len() + 4 + length;
    if whole > LONGEST {
        return Err(ProxyError::TooLong);
    }
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Binary),
    };
    let Some(body) = rest.get(..length) else { return Ok(Parsed::Incomplete) };
    if is_local {
        // The proxy speaks for itself; what it says of addresses is to be ignored, however wrong.
        return Ok(Parsed::Complete(Header::default(), whole));
    }
    let (source, extras) = match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let (addresses, extras) = body.split_first_chunk::<12>().ok_or(ProxyError::Binary)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            (Some((IpAddr::from([a, b, c, d]), u16::from_be_bytes([high, low]))), extras)
        }
        // TCP over IPv6.
        0x21 => {
            let (addresses, extras) = body.split_first_chunk::<36>().ok_or(ProxyError::Binary)?;
            let (source, others) = addresses.split_first_chunk::<16>().ok_or(ProxyError::Binary)?;
            let port = others.get(16..18).and_then(|port| <[u8; 2]>::try_from(port).ok());
            let port = u16::from_be_bytes(port.ok_or(ProxyError::Binary)?);
            (Some((IpAddr::from(*source), port)), extras)
        }
        // A Unix socket has no address that means anything here.
        0x31 => (None, body.get(216..).ok_or(ProxyError::Binary)?),
        0x00 => (None, body),
        _ => return Err(ProxyError::Binary),
    };
    let header = Header { source: source.map(SocketAddr::from), tls_name: tls_name(extras)? };
    Ok(Parsed::Complete(header, whole))
}

/// The client's name among what follows the addresses, if the proxy has verified a certificate of it.
fn tls_name(extras: &[u8]) -> Result<Option<String>, ProxyError> {
    for (kind, value) in values(extras)? {
        if kind != TYPE_SSL {
            continue;
        }
        // Which of TLS there was, and whether the certificate was verified: 0 if it was.
        let (head, inner) = value.split_first_chunk::<5>().ok_or(ProxyError::Binary)?;
        let [client, verified @ ..] = *head;
        if client & CLIENT_SSL == 0 || verified != [0; 4] {
            return Ok(None);
        }
        let name = values(inner)?.into_iter().find(|(kind, _)| *kind == TYPE_SSL_COMMON_NAME);
        return Ok(name.and_then(|(_, name)| String::from_utf8(name.to_vec()).ok()));
    }
    Ok(None)
}

/// Type, length, value; one after the other to the end.
fn values(mut bytes: &[u8]) -> Result<Vec<(u8, &[u8])>, ProxyError> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<3>().ok_or(ProxyError::Binary)?;
        let [kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(ProxyError::Binary)?;
        found.push((kind, value));
        bytes = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    /// A header of version 2.
    fn binary(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE, &[version_command, family][..], &length, body].concat()
    }

    fn value(kind: u8, bytes: &[u8]) -> Vec<u8> {
        [&[kind][..], &u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    fn ipv4() -> Vec<u8> {
        vec![192, 0, 2, 1, 198, 51, 100, 1, 0xDC, 0x04, 0x07, 0x5B]
    }

    fn ipv6() -> Vec<u8> {
        let mut body = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        body.extend([0; 16]);
        body.extend([0xDC, 0x04, 0x07, 0x5B]);
        body
    }

    #[test]
    fn good_headers_say_who_the_client_is() {
        let secured = |verified: u8| {
            let inner = [value(0x21, b"TLSv1.3"), value(0x22, b"device-7")].concat();
            let ssl = [&[0x07, 0, 0, 0, verified][..], &inner].concat();
            [ipv4(), value(0x01, b"mqtt"), value(0x20, &ssl)].concat()
        };
        let plain = |source| Header { source, tls_name: None };
        let client = address("192.0.2.1:56324");
        for (bytes, header) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 1883\r\n".to_vec(), plain(client)),
            (
                b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 1883\r\n".to_vec(),
                plain(address("[2001:db8::1]:56324")),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), plain(None)),
            (b"PROXY UNKNOWN what ever 1 2\r\n".to_vec(), plain(None)),
            (binary(0x21, 0x11, &ipv4()), plain(client)),
            (binary(0x21, 0x21, &ipv6()), plain(address("[2001:db8::1]:56324"))),
            (binary(0x20, 0x11, &ipv4()), plain(None)),
            (binary(0x20, 0x00, &[]), plain(None)),
            (binary(0x20, 0x12, b"ignored"), plain(None)),
            (binary(0x20, 0x11, &[]), plain(None)),
            (binary(0x21, 0x31, &[0; 216]), plain(None)),
            (
                binary(0x21, 0x11, &secured(0)),
                Header { source: client, tls_name: Some("device-7".to_owned()) },
            ),
            (binary(0x21, 0x11, &secured(1)), plain(client)),
        ] {
            let followed = [&bytes[..], b"\x10\x0Cwhat follows"].concat();
            assert_eq!(parse(&followed), Ok(Parsed::Complete(header, bytes.len())), "{bytes:02x?}");
            for length in 0..bytes.len() {
                assert_eq!(parse(&bytes[..length]), Ok(Parsed::Incomplete), "{bytes:02x?} cut at {length}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long_line = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat();
        for (bytes, error) in [
            (b"\x10\x0C\0\x04MQTT".to_vec(), ProxyError::NotProxy),
            (b"GET / HTTP/1.1\r\n".to_vec(), ProxyError::NotProxy),
            (b"PROXX".to_vec(), ProxyError::NotProxy),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n".to_vec(), ProxyError::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 99999\r\n".to_vec(), ProxyError::Line),
            (b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n".to_vec(), ProxyError::Line),
            (b"PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n".to_vec(), ProxyError::Line),
            (b"PROXY \xFF\r\n".to_vec(), ProxyError::Line),
            (long_line, ProxyError::Line),
            (binary(0x11, 0x11, &ipv4()), ProxyError::Binary),
            (binary(0x22, 0x11, &ipv4()), ProxyError::Binary),
            (binary(0x21, 0x12, &ipv4()), ProxyError::Binary),
            (binary(0x21, 0x11, &ipv4()[..11]), ProxyError::Binary),
            (binary(0x21, 0x11, &[ipv4(), vec![0x20, 0, 9]].concat()), ProxyError::Binary),
            (binary(0x21, 0x11, &[ipv4(), value(0x20, &[7])].concat()), ProxyError::Binary),
            (binary(0x21, 0x00, &[0; LONGEST]), ProxyError::TooLong),
        ] {
            assert_eq!(parse(&bytes), Err(error), "{bytes:02x?}");
        }
    }
}
