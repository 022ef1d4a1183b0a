//! The client's half of WebSocket (RFC 6455): asks for the upgrade, masks what it sends, takes frames apart.
//!
//! Sans-IO. A batch of packets is one frame. What always holds: nothing is framed before the upgrade has been answered.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::ClientError;

/// What the key is hashed with, §1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes that an answer to the upgrade may take.
const LARGEST_ANSWER: usize = 16 * 1024;

const BINARY: u8 = 0x82;
const PONG: u8 = 0x8A;
const MASKED: u8 = 0x80;

pub(crate) struct WebSocket {
    key: String,
    is_open: bool,
    /// Bytes left of the frame that is being received.
    left: u64,
    /// The frame's payload is for us: neither a pong nor something else to be skipped.
    is_data: bool,
    /// A ping's payload, gathered until it is complete, to be sent back.
    ping: Option<Vec<u8>>,
    pongs: Vec<u8>,
    random: u64,
}

impl WebSocket {
    /// A WebSocket and the request that asks for it.
    pub fn new(host: &str, path: &str) -> Result<(Self, String), ClientError> {
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce)
            .map_err(|error| ClientError::Stuck(format!("the system has no randomness: {error}")))?;
        let (key, seed) = nonce.split_at(16);
        let key = STANDARD.encode(key);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let random = seed.try_into().map_or(1, u64::from_ne_bytes) | 1;
        let new =
            Self { key, is_open: false, left: 0, is_data: false, ping: None, pongs: Vec::new(), random };
        Ok((new, request))
    }

    /// The upgrade has been answered.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Appends `payload` to `wire` as one masked frame, and before it what pings are owed.
    pub fn encode(&mut self, payload: &[u8], wire: &mut Vec<u8>) {
        wire.append(&mut self.pongs);
        if !payload.is_empty() {
            self.frame(BINARY, payload, wire);
        }
    }

    fn frame(&mut self, first: u8, payload: &[u8], wire: &mut Vec<u8>) {
        wire.reserve(payload.len() + 14);
        wire.push(first);
        match payload.len() {
            length @ 0..=125 => wire.push(MASKED | length as u8),
            length @ 126..=0xFFFF => {
                wire.push(MASKED | 126);
                wire.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                wire.push(MASKED | 127);
                wire.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        // xorshift: a mask must not be guessed by a page's script (§10.3), and here is none.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let mask = (self.random as u32).to_ne_bytes();
        wire.extend_from_slice(&mask);
        let at = wire.len();
        wire.extend_from_slice(payload);
        let twice = u64::from(u32::from_ne_bytes(mask));
        let twice = (twice << 32 | twice).to_ne_bytes();
        let mut chunks = wire.get_mut(at..).unwrap_or_default().chunks_exact_mut(8);
        for chunk in &mut chunks {
            let bytes = <[u8; 8]>::try_from(&*chunk).unwrap_or_default();
            chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ u64::from_ne_bytes(twice)).to_ne_bytes());
        }
        for (byte, key) in chunks.into_remainder().iter_mut().zip(twice) {
            *byte ^= key;
        }
    }

    /// Takes what it can from the front of `input`, puts the payload of data frames into `out`, and tells how many
    /// bytes of `input` are done with.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, ClientError> {
        let mut done = if self.is_open { 0 } else { self.answer(input)? };
        while self.is_open {
            let rest = input.get(done..).unwrap_or_default();
            if self.left == 0 {
                let Some(header) = self.header(rest)? else { break };
                done += header;
            } else {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                if here == 0 {
                    break;
                }
                let payload = rest.get(..here).unwrap_or_default();
                if self.is_data {
                    out.extend_from_slice(payload);
                } else if let Some(ping) = &mut self.ping {
                    ping.extend_from_slice(payload);
                }
                done += here;
                self.left -= here as u64;
            }
            if self.left == 0
                && let Some(ping) = self.ping.take()
            {
                let mut pongs = std::mem::take(&mut self.pongs);
                self.frame(PONG, &ping, &mut pongs);
                self.pongs = pongs;
            }
        }
        Ok(done)
    }

    /// A pong waits to be sent.
    pub fn owes(&self) -> bool {
        !self.pongs.is_empty()
    }

    /// Begins a frame; how long its header is, if it is complete.
    fn header(&mut self, input: &[u8]) -> Result<Option<usize>, ClientError> {
        let [first, second, rest @ ..] = input else { return Ok(None) };
        if second & MASKED != 0 {
            return Err(ClientError::Frame("it masked a frame"));
        }
        let (length, bytes) = match (second, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(*short), 2),
        };
        self.is_data = false;
        match first & 0x0F {
            0x0 | 0x2 => self.is_data = true,
            0x9 if length <= 125 => self.ping = Some(Vec::new()),
            0xA => {}
            0x8 => {
                let code = input.get(bytes..bytes + 2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                return Err(ClientError::Closed(match code {
                    Some(code) => format!("it sent a WebSocket close frame, code {code}"),
                    None => "it sent a WebSocket close frame".to_owned(),
                }));
            }
            _ => return Err(ClientError::Frame("it sent a frame that is neither binary nor control")),
        }
        self.left = length;
        Ok(Some(bytes))
    }

    /// Judges the answer to the upgrade; how long it is, if it is complete.
    fn answer(&mut self, input: &[u8]) -> Result<usize, ClientError> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut fields);
        let length = match answer.parse(input) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if input.len() < LARGEST_ANSWER => return Ok(0),
            Ok(httparse::Status::Partial) => {
                return Err(ClientError::Upgrade("its answer is too long".into()));
            }
            Err(error) => return Err(ClientError::Upgrade(format!("its answer is no HTTP ({error})"))),
        };
        if answer.code != Some(101) {
            let body = String::from_utf8_lossy(input.get(length..).unwrap_or_default());
            let status = format!("{} {}", answer.code.unwrap_or_default(), answer.reason.unwrap_or_default());
            return Err(ClientError::Upgrade(format!("{status} {}", body.trim()).trim().to_owned()));
        }
        let expected =
            STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[self.key.as_bytes(), MAGIC].concat()));
        let accepts = |field: &httparse::Header<'_>| {
            field.name.eq_ignore_ascii_case("Sec-WebSocket-Accept") && field.value == expected.as_bytes()
        };
        if !answer.headers.iter().any(accepts) {
            return Err(ClientError::Upgrade("its answer does not fit the request".into()));
        }
        self.is_open = true;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> WebSocket {
        let (mut socket, request) = WebSocket::new("localhost:8083", "/mqtt").unwrap();
        assert!(request.starts_with("GET /mqtt HTTP/1.1\r\nHost: localhost:8083\r\n"));
        let accept =
            STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[socket.key.as_bytes(), MAGIC].concat()));
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\nUpgrade: websocket\r\n\r\n"
        );
        assert_eq!(socket.decode(&answer.as_bytes()[..20], &mut Vec::new()).unwrap(), 0);
        assert_eq!(socket.decode(answer.as_bytes(), &mut Vec::new()).unwrap(), answer.len());
        assert!(socket.is_open());
        socket
    }

    /// First byte and payload of each frame, as a server reads them.
    fn unmasked(mut wire: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while let [first, second, rest @ ..] = wire {
            assert!(second & MASKED != 0);
            let (length, rest) = match second & !MASKED {
                126 => (u16::from_be_bytes(rest[..2].try_into().unwrap()).into(), &rest[2..]),
                127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
                short => (usize::from(short), rest),
            };
            assert!(length > 0xFFFF || second & !MASKED != 127);
            let (mask, rest) = rest.split_at(4);
            let payload = rest[..length].iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
            frames.push((*first, payload.collect()));
            wire = &rest[length..];
        }
        frames
    }

    #[test]
    fn what_is_framed_is_masked_and_in_its_shortest_form() {
        let mut socket = opened();
        for length in [0, 1, 7, 8, 125, 126, 127, 65_535, 65_536, 100_001] {
            let payload: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
            let mut wire = Vec::new();
            socket.encode(&payload, &mut wire);
            assert!(length < 8 || !wire.ends_with(&payload), "masked");
            let frames = unmasked(&wire);
            let expected = if length == 0 { vec![] } else { vec![(BINARY, payload)] };
            assert!(frames == expected, "{length} bytes");
        }
    }

    #[test]
    fn frames_come_out_however_they_are_cut_and_pings_are_answered() {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for length in [1_usize, 125, 126, 70_000] {
            let payload: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
            bytes.push(BINARY);
            match length {
                0..=125 => bytes.push(length as u8),
                126..=0xFFFF => bytes.extend([&[126][..], &(length as u16).to_be_bytes()].concat()),
                _ => bytes.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
            }
            bytes.extend_from_slice(&payload);
            expected.extend_from_slice(&payload);
            bytes.extend_from_slice(&[0x89, 5]);
            bytes.extend_from_slice(b"alive");
        }
        for piece in [1, 2, 3, 9, 1_000, bytes.len()] {
            let (mut socket, mut out, mut input) = (opened(), Vec::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                input.extend_from_slice(piece);
                let done = socket.decode(&input, &mut out).unwrap();
                input.drain(..done);
            }
            assert!(out == expected, "in pieces of {piece}");
            assert!(socket.owes());
            let mut wire = Vec::new();
            socket.encode(b"", &mut wire);
            assert_eq!(unmasked(&wire), vec![(PONG, b"alive".to_vec()); 4]);
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_brokers_words() {
        let (mut socket, _) = WebSocket::new("localhost", "/other").unwrap();
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\n\r\nMQTT is at /mqtt.\n";
        let error = socket.decode(answer, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "the broker refused the WebSocket: 404 Not Found MQTT is at /mqtt.");
    }
}
