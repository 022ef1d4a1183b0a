//! What lies between packets and a socket: nothing, TLS, WebSocket, or both.
//!
//! Sans-IO: bytes of the socket come in and go out as slices. With neither, the connection spares itself this and
//! writes its packets as they are.

use std::io::{Read, Write};

use rustls::{ClientConnection, HandshakeKind};

use super::ClientError;
use super::websocket::WebSocket;

pub(crate) struct Transport {
    tls: Option<ClientConnection>,
    websocket: Option<WebSocket>,
    /// Bytes for the socket.
    wire: Vec<u8>,
    written: usize,
    /// What TLS gave, until WebSocket can take it apart.
    frames: Vec<u8>,
    /// Packets that arrived, the last perhaps in part.
    packets: Vec<u8>,
    /// A frame on its way into TLS; kept for its room.
    framed: Vec<u8>,
}

impl Transport {
    /// Begins with the request for an upgrade and with TLS's first message, if there are such.
    pub fn new(mut tls: Option<ClientConnection>, websocket: Option<(WebSocket, String)>) -> Self {
        let mut wire = Vec::new();
        let websocket = websocket.map(|(socket, request)| {
            match &mut tls {
                // Kept there until the handshake is done.
                Some(tls) => drop(tls.writer().write_all(request.as_bytes())),
                None => wire.extend_from_slice(request.as_bytes()),
            }
            socket
        });
        if let Some(tls) = &mut tls {
            // A load's batches are larger than the limit, and bounded by the load itself.
            tls.set_buffer_limit(None);
        }
        let mut new = Self {
            tls,
            websocket,
            wire,
            written: 0,
            frames: Vec::new(),
            packets: Vec::new(),
            framed: Vec::new(),
        };
        new.encrypt();
        new
    }

    /// Neither TLS nor WebSocket.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none() && self.websocket.is_none()
    }

    /// Whether packets may be sent already.
    pub fn is_open(&self) -> bool {
        self.websocket.as_ref().is_none_or(WebSocket::is_open)
    }

    /// Bytes that wait for the socket.
    pub fn unwritten(&self) -> &[u8] {
        self.wire.get(self.written..).unwrap_or_default()
    }

    /// The socket took so many.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= self.wire.len() {
            self.wire.clear();
            self.written = 0;
        }
    }

    /// Turns packets into bytes for the socket.
    pub fn send(&mut self, packets: &[u8]) {
        match (&mut self.websocket, &mut self.tls) {
            (Some(websocket), None) => websocket.encode(packets, &mut self.wire),
            (Some(websocket), Some(tls)) => {
                self.framed.clear();
                websocket.encode(packets, &mut self.framed);
                // Writing into memory does not fail.
                let _ = tls.writer().write_all(&self.framed);
            }
            (None, Some(tls)) => {
                let _ = tls.writer().write_all(packets);
            }
            (None, None) => self.wire.extend_from_slice(packets),
        }
        self.encrypt();
    }

    /// Takes what came from the socket; what is complete of it can be had by [`packets`](Self::packets).
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<(), ClientError> {
        match &mut self.tls {
            Some(tls) => {
                let out = if self.websocket.is_some() { &mut self.frames } else { &mut self.packets };
                let system = |error| ClientError::System { what: "TLS", error };
                while !bytes.is_empty() {
                    // Nothing is taken after the other side's last word.
                    if tls.read_tls(&mut bytes).map_err(system)? == 0 {
                        break;
                    }
                    let state = tls.process_new_packets()?;
                    let at = out.len();
                    out.resize(at + state.plaintext_bytes_to_read(), 0);
                    tls.reader().read_exact(out.get_mut(at..).unwrap_or_default()).map_err(system)?;
                }
            }
            None if self.websocket.is_some() => self.frames.extend_from_slice(bytes),
            None => self.packets.extend_from_slice(bytes),
        }
        if let Some(websocket) = &mut self.websocket {
            let done = websocket.decode(&self.frames, &mut self.packets)?;
            self.frames.drain(..done);
            if websocket.owes() {
                self.send(&[]);
            }
        }
        self.encrypt();
        Ok(())
    }

    /// What has arrived; [`consume`](Self::consume) gives back what is not needed any more.
    pub fn packets(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.packets)
    }

    /// Gives the packets back, without the first `done` bytes.
    pub fn consume(&mut self, mut packets: Vec<u8>, done: usize) {
        packets.drain(..done);
        self.packets = packets;
    }

    /// Whether the TLS session was an old one resumed; `None` without TLS.
    pub fn is_resumed(&self) -> Option<bool> {
        Some(self.tls.as_ref()?.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Fetches what TLS has for the socket.
    fn encrypt(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        while tls.wants_write() {
            if tls.write_tls(&mut self.wire).is_err() {
                return;
            }
        }
    }
}
