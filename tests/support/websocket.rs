//! A WebSocket of a second hand: the client's half, over any stream, with frames made as a test wants them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::client::Stream;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;
pub const FIN: u8 = 0x80;

/// A client's WebSocket. Reading gives the payloads of data frames, writing makes a binary frame of each call.
pub struct WebSocket<S> {
    pub inner: S,
    payload: Vec<u8>,
    /// The server has sent a close frame with this code.
    pub closed: Option<u16>,
}

/// One frame of the server's.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// FIN and the opcode.
    pub first_byte: u8,
    pub payload: Vec<u8>,
}

/// The request that a well-behaved client sends.
pub fn request(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// What asks for MQTT.
pub const MQTT: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

/// A frame with a mask, as clients must send.
pub fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = vec![first_byte];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

impl WebSocket<TcpStream> {
    /// Upgraded at `/mqtt`.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self::over(stream)
    }
}

impl<S: Stream> WebSocket<S> {
    /// Does the upgrade over a stream; panics if it is refused.
    #[track_caller]
    pub fn over(mut inner: S) -> Self {
        inner.write_all(request("/mqtt", MQTT).as_bytes()).unwrap();
        inner.flush().unwrap();
        let answer = head(&mut inner);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        for field in
            ["Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "Sec-WebSocket-Protocol: mqtt\r\n"]
        {
            assert!(answer.contains(field), "no {field:?} in {answer}");
        }
        Self::upgraded(inner)
    }

    /// Over a stream on which the upgrade has been done.
    pub fn upgraded(inner: S) -> Self {
        Self { inner, payload: Vec::new(), closed: None }
    }

    /// The next frame, of whatever kind.
    pub fn read_frame(&mut self) -> io::Result<Frame> {
        let mut header = [0; 2];
        self.inner.read_exact(&mut header)?;
        let [first_byte, length] = header;
        assert_eq!(length & 0x80, 0, "a server must not mask");
        let length = match length {
            126 => {
                let mut bytes = [0; 2];
                self.inner.read_exact(&mut bytes)?;
                u16::from_be_bytes(bytes).into()
            }
            127 => {
                let mut bytes = [0; 8];
                self.inner.read_exact(&mut bytes)?;
                u64::from_be_bytes(bytes) as usize
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.inner.read_exact(&mut payload)?;
        Ok(Frame { first_byte, payload })
    }

    /// The code of the close frame that must come next, behind which the connection must end.
    #[track_caller]
    pub fn expect_close(&mut self) -> u16 {
        let frame = self.read_frame().expect("a close frame");
        assert_eq!(frame.first_byte, FIN | CLOSE, "{frame:02x?}");
        let mut rest = Vec::new();
        if let Err(error) = self.inner.read_to_end(&mut rest) {
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
        }
        assert!(rest.is_empty(), "{rest:02x?} behind a close frame");
        u16::from_be_bytes(frame.payload[..2].try_into().unwrap())
    }
}

/// What comes before the empty line of an HTTP answer.
#[track_caller]
pub fn head(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

impl<S: Stream> Read for WebSocket<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.payload.is_empty() {
            let frame = self.read_frame()?;
            match frame.first_byte & 0x0F {
                BINARY | CONTINUATION => self.payload = frame.payload,
                CLOSE => {
                    self.closed = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    return Ok(0);
                }
                PING | PONG => {}
                other => panic!("a frame with opcode {other:#x}"),
            }
        }
        let length = buffer.len().min(self.payload.len());
        buffer[..length].copy_from_slice(&self.payload[..length]);
        self.payload.drain(..length);
        Ok(length)
    }
}

impl<S: Stream> Write for WebSocket<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(&frame(FIN | BINARY, bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<S: Stream> Stream for WebSocket<S> {
    fn socket(&self) -> &TcpStream {
        self.inner.socket()
    }

    fn end(&mut self) {
        let _ = self.inner.write_all(&frame(FIN | CLOSE, &1000_u16.to_be_bytes()));
        self.inner.end();
    }
}
