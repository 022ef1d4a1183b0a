//! A client that sends bytes and reads packets; it answers nothing by itself.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::packets::{
    Connect, Filter, Publish, disconnect, pingreq, puback, pubcomp, pubrec, pubrel, subscribe, unsubscribe,
};
use super::received::{
    CONNACK, ConnAckView, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, PublishView,
    Received, SUBACK, UNSUBACK,
};
use super::wire::{Property, Version};

/// How long a client waits for what must come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What carries the bytes: TCP, or something inside it.
pub trait Stream: Read + Write + Send {
    /// The socket at the bottom.
    fn socket(&self) -> &TcpStream;
    /// Says that nothing more will be sent.
    fn end(&mut self);
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn end(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for Box<dyn Stream> {
    fn socket(&self) -> &TcpStream {
        (**self).socket()
    }

    fn end(&mut self) {
        (**self).end();
    }
}

impl Stream for rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }

    fn end(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
        self.sock.end();
    }
}

/// One connection.
pub struct RawClient {
    stream: Box<dyn Stream>,
    pub version: Version,
    /// Its CONNACK, once it has come.
    pub connack: Option<ConnAckView>,
    /// PUBLISH packets that came while a helper waited for something else; read first.
    early: VecDeque<Received>,
}

impl Connect {
    /// Opens a connection and sends this CONNECT; reads nothing yet.
    #[track_caller]
    pub fn send_to(&self, broker: &Broker) -> RawClient {
        let mut client = RawClient::open(broker, self.version);
        client.send(&self.bytes());
        client
    }

    /// Connects; panics unless the server accepts.
    #[track_caller]
    pub fn open(&self, broker: &Broker) -> RawClient {
        let mut client = self.send_to(broker);
        let connack = client.read().connack();
        assert_eq!(connack.reason, 0, "the server refused the connection: {connack:?}");
        client.connack = Some(connack);
        client
    }

    /// Connects in vain: gives the reason code of the CONNACK, after which the server must have closed.
    #[track_caller]
    pub fn refused(&self, broker: &Broker) -> u8 {
        let mut client = self.send_to(broker);
        let connack = client.read().connack();
        assert_ne!(connack.reason, 0, "the server accepted the connection");
        assert!(!connack.session_present, "Session Present with a refusal");
        client.expect_closed();
        connack.reason
    }
}

impl RawClient {
    /// A TCP connection on which nothing has been said.
    pub fn open(broker: &Broker, version: Version) -> Self {
        Self::open_at(SocketAddr::from(([127, 0, 0, 1], broker.port())), version)
    }

    /// The same, to any address.
    pub fn open_at(address: SocketAddr, version: Version) -> Self {
        Self::over(TcpStream::connect(address).unwrap(), version)
    }

    /// The same, over any stream.
    pub fn over(stream: impl Stream + 'static, version: Version) -> Self {
        let socket = stream.socket();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: Box::new(stream), version, connack: None, early: VecDeque::new() }
    }

    /// How long reads wait from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.socket().set_read_timeout(Some(patience)).unwrap();
    }

    /// How long writes wait from now on.
    pub fn set_write_patience(&mut self, patience: Duration) {
        self.stream.socket().set_write_timeout(Some(patience)).unwrap();
    }

    /// Sends as much as the connection takes; 0 when it takes no more within the patience for writes.
    pub fn send_some(&mut self, bytes: &[u8]) -> usize {
        self.stream.write(bytes).unwrap_or(0)
    }

    /// Reads and forgets some bytes; whether there may be more.
    pub fn is_more(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 4096]), Ok(count) if count > 0)
    }

    /// Whether something is there to be read, within the patience; over plain TCP.
    pub fn has_input(&mut self) -> bool {
        matches!(self.stream.socket().peek(&mut [0]), Ok(1))
    }

    /// The CONNACK this client was accepted with.
    pub fn accepted(&self) -> &ConnAckView {
        self.connack.as_ref().expect("made by Connect::open")
    }

    /// Sends bytes. That the server has closed meanwhile is found out by the next read.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes).and_then(|()| self.stream.flush()) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("cannot send: {error}")
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// The next packet; panics if the server closes or is silent for 5 s.
    #[track_caller]
    pub fn read(&mut self) -> Received {
        match self.read_or_closed() {
            Some(packet) => packet,
            None => panic!("the server closed the connection instead of sending a packet"),
        }
    }

    /// The next packet, or `None` if the server has closed; panics if it is silent.
    #[track_caller]
    pub fn read_or_closed(&mut self) -> Option<Received> {
        if let Some(packet) = self.early.pop_front() {
            return Some(packet);
        }
        self.read_from_stream()
    }

    /// The next packet of this kind; a PUBLISH that comes before it is kept for later reads.
    #[track_caller]
    pub fn read_kind(&mut self, kind: u8) -> Received {
        loop {
            match self.read_from_stream() {
                Some(packet) if packet.kind() == PUBLISH && kind != PUBLISH => self.early.push_back(packet),
                Some(packet) => {
                    packet.must_be(kind);
                    return packet;
                }
                None => panic!("the server closed the connection instead of sending {kind:#04x}"),
            }
        }
    }

    #[track_caller]
    fn read_from_stream(&mut self) -> Option<Received> {
        let first_byte = self.byte()?;
        let mut length = 0;
        for place in 0..4 {
            let byte = self.byte().expect("the server closed in the midst of a packet");
            length |= usize::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                assert!(place == 0 || byte != 0, "a Remaining Length is longer than needed");
                break;
            }
            assert!(place < 3, "a Remaining Length of more than four bytes");
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the server closed in the midst of a packet");
        Some(Received { version: self.version, first_byte, body })
    }

    #[track_caller]
    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => None,
            Ok(_) => Some(byte[0]),
            Err(error) if is_end(&error) => None,
            // A read with a time-out is not begun again by itself when the system has stopped the process for a moment.
            Err(error) if error.kind() == ErrorKind::Interrupted => self.byte(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server neither sent a packet nor closed in time")
            }
            Err(error) => panic!("cannot read: {error}"),
        }
    }

    /// The server must have closed, or close, without another packet.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        if let Some(packet) = self.read_or_closed() {
            panic!("expected the connection to be closed, got {packet:02x?}");
        }
    }

    /// The server must close; in 5.0 it says DISCONNECT with one of these reason codes before.
    #[track_caller]
    pub fn expect_error(&mut self, reasons: &[u8]) {
        if self.version.is_v5() {
            let (reason, _) = self.read().reason(DISCONNECT);
            assert!(
                reasons.contains(&reason),
                "DISCONNECT with {reason:#04x}, expected one of {reasons:02x?}"
            );
        }
        self.expect_closed();
    }

    /// The server must refuse what it took for a CONNECT: close, in 5.0 perhaps after a CONNACK with one of
    /// these reason codes.
    #[track_caller]
    pub fn expect_connect_error(&mut self, reasons: &[u8]) {
        if let Some(packet) = self.read_or_closed() {
            let connack = packet.connack();
            assert!(reasons.contains(&connack.reason), "{connack:02x?}, expected one of {reasons:02x?}");
            self.expect_closed();
        }
    }

    /// Closes the connection without a DISCONNECT, and waits until the server has closed its side, so that
    /// it knows.
    pub fn cut(mut self) {
        self.stream.end();
        self.drain();
    }

    /// Says DISCONNECT and waits until the server has closed.
    pub fn disconnect(mut self) {
        self.send(&disconnect());
        self.stream.end();
        self.drain();
    }

    /// Sends a last packet and waits until the server has closed.
    pub fn leave_with(mut self, bytes: &[u8]) {
        self.send(bytes);
        self.stream.end();
        self.drain();
    }

    fn drain(mut self) {
        let mut rest = [0; 4096];
        while matches!(self.stream.read(&mut rest), Ok(count) if count > 0) {}
    }

    /// Everything the server has to say at this moment. It may answer a PINGREQ before messages that it has
    /// taken for this client already, but not two of them, one after the other.
    #[track_caller]
    pub fn all_before_pingresp(&mut self) -> Vec<Received> {
        let mut packets = Vec::new();
        for _ in 0..2 {
            self.send(&pingreq());
            loop {
                let packet = self.read();
                if packet.first_byte == PINGRESP {
                    assert!(packet.body.is_empty());
                    break;
                }
                packets.push(packet);
            }
        }
        packets
    }

    /// Nothing may have come: the answers to two PINGREQs are the next packets.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        let packets = self.all_before_pingresp();
        assert!(packets.is_empty(), "expected nothing, got {packets:02x?}");
    }

    /// Sends PINGREQ and reads PINGRESP: what was sent before has then been handled.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(&pingreq());
        self.read_kind(PINGRESP);
    }

    /// Subscribes to one filter with these options; panics unless just that QoS is granted.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) {
        self.subscribe_with(&[], &[Filter::new(filter, options)]);
    }

    /// Subscribes; panics unless every QoS asked for is granted. Retained messages may follow.
    #[track_caller]
    pub fn subscribe_with(&mut self, properties: &[Property], filters: &[Filter]) {
        self.send(&subscribe(self.version, 0x7F01, properties, filters));
        let (packet_id, _, reasons) = self.read_kind(SUBACK).many_acks(SUBACK);
        assert_eq!(packet_id, 0x7F01);
        let asked: Vec<u8> = filters.iter().map(|filter| filter.options & 3).collect();
        assert_eq!(reasons, asked, "not every subscription was granted");
    }

    /// Unsubscribes from one filter and reads the UNSUBACK.
    #[track_caller]
    pub fn unsubscribe(&mut self, filter: &str) {
        self.send(&unsubscribe(self.version, 0x7F02, &[filter]));
        let (packet_id, _, _) = self.read_kind(UNSUBACK).many_acks(UNSUBACK);
        assert_eq!(packet_id, 0x7F02);
    }

    /// Publishes and completes the handshake of its QoS; with QoS 0, waits until the server has handled it.
    #[track_caller]
    pub fn publish(&mut self, publish: &Publish) {
        self.send(&publish.bytes(self.version));
        match publish.qos {
            0 => self.ping(),
            1 => self.expect_ack(PUBACK, publish.packet_id),
            _ => {
                self.expect_ack(PUBREC, publish.packet_id);
                self.send(&pubrel(publish.packet_id).bytes());
                self.expect_ack(PUBCOMP, publish.packet_id);
            }
        }
    }

    /// The next packet but PUBLISH is this acknowledgement, and no error.
    #[track_caller]
    pub fn expect_ack(&mut self, kind: u8, packet_id: u16) {
        let (id, reason, _) = self.read_kind(kind).ack(kind);
        assert_eq!(id, packet_id, "acknowledgement of another packet");
        assert!(reason < 0x80, "refused with {reason:#04x}");
    }

    /// The next packet is a PUBLISH; it is not acknowledged.
    #[track_caller]
    pub fn read_publish(&mut self) -> PublishView {
        self.read().publish()
    }

    /// The next packet is a PUBLISH; the handshake of its QoS is completed.
    #[track_caller]
    pub fn receive(&mut self) -> PublishView {
        let publish = self.read_publish();
        self.complete(&publish);
        publish
    }

    /// Completes the handshake of a PUBLISH that was read.
    #[track_caller]
    pub fn complete(&mut self, publish: &PublishView) {
        match publish.qos {
            0 => {}
            1 => self.send(&puback(publish.packet_id).bytes()),
            _ => {
                self.send(&pubrec(publish.packet_id).bytes());
                self.expect_ack(PUBREL, publish.packet_id);
                self.send(&pubcomp(publish.packet_id).bytes());
            }
        }
    }

    /// How long it takes until the server closes; at most `limit`. Gives the last packet too.
    #[track_caller]
    pub fn time_until_closed(&mut self, limit: Duration) -> (Duration, Option<Received>) {
        self.set_patience(limit);
        let start = Instant::now();
        let mut last = None;
        while let Some(packet) = self.read_or_closed() {
            last = Some(packet);
        }
        (start.elapsed(), last)
    }
}

fn is_end(error: &std::io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof)
}
