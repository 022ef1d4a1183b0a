//! All connections of a tool, polled on one thread: large reads, one write a connection and round.
//!
//! Owner: the tool. A round is [`Connections::flush`], which writes what handlers queued, then [`Connections::poll`],
//! which waits, reads and hands every whole packet to the [`Handler`]. Readiness is reported at its edges: a socket that
//! filled the buffer is read again in the next round, unasked.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use super::timer::Timer;
use super::transport::Transport;
use super::{ClientError, Server, socket};
use crate::codec::{FrameHeader, PacketType, read_header};

/// Bytes of one read, at least.
const READ: usize = 128 * 1024;

/// Events of one wait.
const EVENTS: usize = 1024;

const TIMER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// One whole packet that arrived.
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'a> {
    /// Its fixed header.
    pub header: FrameHeader,
    /// What follows it.
    pub body: &'a [u8],
}

impl Incoming<'_> {
    /// What kind of packet it is.
    pub fn kind(&self) -> Option<PacketType> {
        self.header.packet_type()
    }
}

/// What a tool does with what happens.
pub(crate) trait Handler {
    /// A packet has come. What it answers, it puts into [`Connections::queue`].
    fn packet(
        &mut self,
        connections: &mut Connections,
        id: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError>;

    /// All that was queued has been written, after it had to wait.
    fn writable(&mut self, _connections: &mut Connections, _id: usize) {}

    /// The broker ended a connection of this owner's, which is gone.
    fn closed(
        &mut self,
        _connections: &mut Connections,
        _owner: u32,
        error: ClientError,
    ) -> Result<(), ClientError> {
        Err(error)
    }
}

/// Takes notice of nothing but a DISCONNECT.
pub(crate) struct Quiet;

impl Handler for Quiet {
    fn packet(&mut self, _: &mut Connections, _: usize, packet: Incoming<'_>) -> Result<(), ClientError> {
        super::refuse_disconnect(packet)
    }
}

/// See the module.
pub(crate) struct Connections {
    poll: Poll,
    events: Events,
    timer: Timer,
    all: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Those with something to write.
    dirty: Vec<usize>,
    /// Those that filled the buffer: there is more to read.
    unread: Vec<usize>,
    buffer: Vec<u8>,
    /// Where that goes which is queued on a connection that is gone.
    nobody: Vec<u8>,
    epoch: Instant,
    opened: usize,
    spreads: bool,
    read_at: u64,
    packets: u64,
    reads: u64,
    /// Between two PINGREQs of a connection, in nanoseconds.
    ping_interval: u64,
    next_ping: u64,
}

struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// `None` for plain TCP.
    transport: Option<Box<Transport>>,
    /// The owner's number.
    owner: u32,
    /// Since when it exists, in nanoseconds.
    since: u64,
    /// Which of all connections in this place it is.
    generation: u64,
    out: Vec<u8>,
    written: usize,
    /// The beginning of a packet that has not come in full; only with plain TCP.
    partial: Vec<u8>,
    is_blocked: bool,
    is_dirty: bool,
    /// It was asked for a word, and none has come since.
    is_silent: bool,
    /// Why writing failed; the reading side tells.
    failed: Option<io::Error>,
}

impl Connections {
    /// None yet.
    pub fn new() -> Result<Self, ClientError> {
        let poll =
            Poll::new().map_err(|error| ClientError::System { what: "polling is impossible", error })?;
        Ok(Self {
            timer: Timer::new(poll.registry(), TIMER)?,
            poll,
            events: Events::with_capacity(EVENTS),
            all: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            unread: Vec::new(),
            buffer: vec![0; READ],
            nobody: Vec::new(),
            epoch: Instant::now(),
            opened: 0,
            spreads: false,
            read_at: 0,
            packets: 0,
            reads: 0,
            ping_interval: u64::MAX,
            next_ping: u64::MAX,
        })
    }

    /// Many connections will be opened and closed: on the loopback network they are spread over source addresses, or the
    /// system would search ever longer for a port that is not waiting for its time.
    pub fn spread(&mut self) {
        self.spreads = true;
    }

    /// Ends a wait from another thread.
    pub fn waker(&self) -> Result<Waker, ClientError> {
        Waker::new(self.poll.registry(), WAKER)
            .map_err(|error| ClientError::System { what: "a waker cannot be made", error })
    }

    /// A client has said that it will be heard of every so many seconds, or a broker that it has to be (Server Keep
    /// Alive); 0 says nothing. From now on all connections send a PINGREQ twice in that time, whatever else they send,
    /// and one is over that has nothing come until the next.
    pub fn keep_alive(&mut self, seconds: u16) {
        let interval = u64::from(seconds) * 500_000_000;
        if interval > 0 && interval < self.ping_interval {
            self.ping_interval = interval;
            self.next_ping = self.next_ping.min(self.now() + interval);
        }
    }

    /// Nanoseconds since these connections began to be.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// When the data that is being handled was read.
    pub fn read_at(&self) -> u64 {
        self.read_at
    }

    /// Begins a connection; its number.
    pub fn open(&mut self, server: &Server, owner: u32) -> Result<usize, ClientError> {
        let since = self.now();
        let mut stream = socket::dial(server.address, self.opened, self.spreads)?;
        let transport = server.transport()?;
        let id = self.free.pop().unwrap_or(self.all.len());
        self.poll
            .registry()
            .register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)
            .map_err(|error| ClientError::System { what: "a connection cannot be polled", error })?;
        let is_plain = transport.is_plain();
        let connection = Connection {
            stream,
            address: server.address,
            transport: (!is_plain).then(|| Box::new(transport)),
            owner,
            since,
            generation: self.opened as u64,
            out: Vec::new(),
            written: 0,
            partial: Vec::new(),
            is_blocked: false,
            is_dirty: false,
            is_silent: false,
            failed: None,
        };
        self.opened += 1;
        match self.all.get_mut(id) {
            Some(place) => *place = Some(connection),
            None => self.all.push(Some(connection)),
        }
        if !is_plain {
            self.touch(id);
        }
        Ok(id)
    }

    /// Whose connection it is, as said to [`open`](Self::open).
    #[inline]
    pub fn owner(&self, id: usize) -> u32 {
        self.get(id).map_or(u32::MAX, |connection| connection.owner)
    }

    /// Since when it exists, in nanoseconds.
    pub fn since(&self, id: usize) -> u64 {
        self.get(id).map_or(0, |connection| connection.since)
    }

    /// Whether its TLS session is an old one that was resumed.
    pub fn is_resumed(&self, id: usize) -> bool {
        self.get(id).and_then(|connection| connection.transport.as_ref()?.is_resumed()) == Some(true)
    }

    /// Where to put packets that are to leave with the next flush.
    #[inline]
    pub fn queue(&mut self, id: usize) -> &mut Vec<u8> {
        self.touch(id);
        match self.all.get_mut(id) {
            Some(Some(connection)) => &mut connection.out,
            _ => {
                self.nobody.clear();
                &mut self.nobody
            }
        }
    }

    /// Bytes queued that the system has not taken.
    #[inline]
    pub fn backlog(&self, id: usize) -> usize {
        self.get(id).map_or(0, |connection| {
            let unsent = connection.transport.as_ref().map_or(0, |transport| transport.unwritten().len());
            connection.out.len() - connection.written + unsent
        })
    }

    /// Writes what is queued.
    pub fn flush(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            if let Some(Some(connection)) = self.all.get_mut(id) {
                connection.is_dirty = false;
                connection.write();
            }
        }
        self.dirty = dirty;
    }

    /// Sends a DISCONNECT and closes.
    pub fn leave(&mut self, id: usize) {
        let version_free = [PacketType::Disconnect.first_byte(), 0];
        self.queue(id).extend_from_slice(&version_free);
        if let Some(Some(connection)) = self.all.get_mut(id) {
            connection.write();
        }
        self.close(id);
    }

    /// Closes without a word.
    pub fn close(&mut self, id: usize) {
        if let Some(mut connection) = self.all.get_mut(id).and_then(Option::take) {
            // Closing ends the polling as well; this is only to be tidy.
            let _ = self.poll.registry().deregister(&mut connection.stream);
            self.free.push(id);
        }
    }

    /// Sleeps so long if the last reads brought few packets each: a broker that writes every packet on its own would
    /// wake this thread, and take a core from itself, for each of them.
    pub fn rest(&mut self, pause: Duration) {
        if !pause.is_zero() && self.packets < 4 * self.reads && self.packets < 512 {
            std::thread::sleep(pause);
        }
        (self.packets, self.reads) = (0, 0);
    }

    /// Sends a DISCONNECT on all connections and closes them.
    pub fn leave_all(&mut self) {
        (0..self.all.len())
            .filter(|id| self.get(*id).is_some())
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|id| self.leave(id));
    }

    /// Asks all who have been there for that long whether they still are.
    fn ping<H: Handler>(&mut self, now: u64, handler: &mut H) -> Result<(), ClientError> {
        self.next_ping = now.saturating_add(self.ping_interval);
        for id in 0..self.all.len() {
            let Some(Some(connection)) = self.all.get_mut(id) else { continue };
            let (owner, was_silent) = (connection.owner, connection.is_silent);
            if now - connection.since < self.ping_interval / 2 {
                continue;
            }
            connection.is_silent = true;
            if was_silent {
                self.close(id);
                handler.closed(self, owner, ClientError::Silent(self.ping_interval))?;
            } else {
                self.queue(id).extend_from_slice(&[PacketType::PingReq.first_byte(), 0]);
            }
        }
        self.flush();
        Ok(())
    }

    /// Waits for at most so long and hands on what has come.
    pub fn poll<H: Handler>(&mut self, handler: &mut H, wait: Duration) -> Result<(), ClientError> {
        let now = self.now();
        if now >= self.next_ping {
            self.ping(now, handler)?;
        }
        let mut unread = mem::take(&mut self.unread);
        let wait = if unread.is_empty() { self.timer.limit(wait) } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => done.map_err(|error| ClientError::System { what: "polling failed", error })?,
        }
        for id in unread.drain(..) {
            self.read(id, false, handler)?;
        }
        if self.unread.is_empty() {
            self.unread = unread;
        }
        let events = mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            self.event(event, handler)?;
        }
        self.events = events;
        Ok(())
    }

    fn event<H: Handler>(&mut self, event: &Event, handler: &mut H) -> Result<(), ClientError> {
        let Token(id) = event.token();
        let Some(Some(connection)) = self.all.get_mut(id) else { return Ok(()) };
        if event.is_writable() && connection.is_blocked {
            connection.is_blocked = false;
            connection.write();
            if !connection.is_blocked {
                handler.writable(self, id);
            }
        }
        let is_over = event.is_read_closed() || event.is_error();
        if event.is_readable() || is_over { self.read(id, is_over, handler) } else { Ok(()) }
    }

    /// Reads once, or to the end if that has been announced, and hands on what has become whole.
    fn read<H: Handler>(&mut self, id: usize, to_the_end: bool, handler: &mut H) -> Result<(), ClientError> {
        let mut buffer = mem::take(&mut self.buffer);
        let done = loop {
            match self.read_once(id, &mut buffer, handler) {
                Ok(Reading::More) if to_the_end => {}
                Ok(Reading::More) => {
                    self.unread.push(id);
                    break Ok(());
                }
                Ok(Reading::Short) if to_the_end => {}
                Ok(Reading::Short | Reading::Nothing) => break Ok(()),
                Ok(Reading::Over(error)) => {
                    let owner = self.owner(id);
                    self.close(id);
                    break handler.closed(self, owner, error);
                }
                Err(error) => break Err(error),
            }
        };
        self.buffer = buffer;
        done
    }

    fn read_once<H: Handler>(
        &mut self,
        id: usize,
        buffer: &mut Vec<u8>,
        handler: &mut H,
    ) -> Result<Reading, ClientError> {
        let Some(Some(connection)) = self.all.get_mut(id) else { return Ok(Reading::Nothing) };
        let generation = connection.generation;
        let kept = connection.partial.len();
        if buffer.len() < kept + READ / 2 {
            buffer.resize(2 * kept + READ, 0);
        }
        let (head, room) = buffer.split_at_mut(kept);
        let length = match connection.stream.read(room) {
            Ok(0) => {
                let end = || io::Error::other("end of stream");
                let error = connection.failed.take().unwrap_or_else(end);
                return Ok(Reading::Over(connection.over(error)));
            }
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Reading::Nothing),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Reading::More),
            Err(error) => return Ok(Reading::Over(connection.over(error))),
        };
        connection.is_silent = false;
        let reading = if length == room.len() { Reading::More } else { Reading::Short };
        head.copy_from_slice(&connection.partial);
        connection.partial.clear();
        self.read_at = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.reads += 1;
        let Some(transport) = &mut connection.transport else {
            let input = buffer.get(..kept + length).unwrap_or_default();
            let done = self.hand_on(id, generation, input, handler)?;
            if let Some(connection) = self.still(id, generation) {
                connection.partial.extend_from_slice(input.get(done..).unwrap_or_default());
            }
            return Ok(reading);
        };
        transport.receive(buffer.get(..length).unwrap_or_default())?;
        let packets = transport.packets();
        // An upgrade that was answered lets go of what was queued; a handshake has more to say.
        self.touch(id);
        let done = self.hand_on(id, generation, &packets, handler)?;
        if let Some(transport) =
            self.still(id, generation).and_then(|connection| connection.transport.as_mut())
        {
            transport.consume(packets, done);
        }
        Ok(reading)
    }

    /// Hands on every whole packet at the front; how many bytes that were.
    #[inline]
    fn hand_on<H: Handler>(
        &mut self,
        id: usize,
        generation: u64,
        input: &[u8],
        handler: &mut H,
    ) -> Result<usize, ClientError> {
        let mut done = 0;
        while let Some(header) = read_header(input.get(done..).unwrap_or_default())? {
            let end = done + header.frame_length();
            let Some(body) = input.get(done + header.header_length..end) else { break };
            done = end;
            self.packets += 1;
            handler.packet(self, id, Incoming { header, body })?;
            if self.still(id, generation).is_none() {
                return Ok(input.len());
            }
        }
        Ok(done)
    }

    fn get(&self, id: usize) -> Option<&Connection> {
        self.all.get(id)?.as_ref()
    }

    /// The connection, unless it was closed meanwhile and another has its place.
    fn still(&mut self, id: usize, generation: u64) -> Option<&mut Connection> {
        self.all.get_mut(id)?.as_mut().filter(|connection| connection.generation == generation)
    }

    #[inline]
    fn touch(&mut self, id: usize) {
        if let Some(Some(connection)) = self.all.get_mut(id)
            && !connection.is_dirty
        {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
    }
}

enum Reading {
    /// It filled the buffer.
    More,
    Short,
    Nothing,
    Over(ClientError),
}

impl Connection {
    /// Why there is no connection any more, or never was one.
    fn over(&self, error: io::Error) -> ClientError {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::TimedOut | ErrorKind::HostUnreachable => {
                ClientError::Unreachable { address: self.address.to_string(), error }
            }
            _ => ClientError::Closed(error.to_string()),
        }
    }

    fn write(&mut self) {
        if self.is_blocked {
            return;
        }
        let Some(transport) = &mut self.transport else {
            while self.written < self.out.len() {
                match self.stream.write(self.out.get(self.written..).unwrap_or_default()) {
                    Ok(length) => self.written += length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock || is_connecting(&error) => {
                        self.is_blocked = true;
                        if self.written > READ {
                            self.out.drain(..self.written);
                            self.written = 0;
                        }
                        return;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        self.failed = Some(error);
                        break;
                    }
                }
            }
            self.out.clear();
            self.written = 0;
            return;
        };
        if transport.unwritten().is_empty() && transport.is_open() && !self.out.is_empty() {
            transport.send(&self.out);
            self.out.clear();
        }
        while !transport.unwritten().is_empty() {
            match self.stream.write(transport.unwritten()) {
                Ok(length) => transport.wrote(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock || is_connecting(&error) => {
                    self.is_blocked = true;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error);
                    let all = transport.unwritten().len();
                    transport.wrote(all);
                }
            }
            if transport.unwritten().is_empty() && transport.is_open() && !self.out.is_empty() {
                transport.send(&self.out);
                self.out.clear();
            }
        }
    }
}

fn is_connecting(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotConnected
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use clap::Parser;

    use super::super::{Client, Quiet, ServerArguments};
    use super::*;

    #[derive(Parser)]
    struct Tool {
        #[command(flatten)]
        server: ServerArguments,
    }

    #[test]
    fn a_broker_is_asked_for_a_word_in_time_and_left_if_it_has_none() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        let server = Server::find(&Tool::parse_from(["tool", "--url", &url]).server, false).unwrap();
        let mut connections = Connections::new().unwrap();
        let id = connections.open(&server, 7).unwrap();
        Client::new("client".to_owned(), 7).connect(&server, connections.queue(id)).unwrap();
        connections.keep_alive(300);
        connections.keep_alive(1);
        connections.keep_alive(0);
        let start = Instant::now();
        let error = loop {
            connections.flush();
            assert!(start.elapsed() < Duration::from_secs(10), "it was neither asked nor left");
            if let Err(error) = connections.poll(&mut Quiet, Duration::from_millis(50)) {
                break error;
            }
        };
        assert!(start.elapsed() >= Duration::from_millis(999), "{:?}", start.elapsed());
        assert!(matches!(error, ClientError::Silent(_)), "{error}");
        let mut heard = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
        let ping = [PacketType::PingReq.first_byte(), 0];
        assert_eq!(
            heard.iter().rev().take(2).rev().copied().collect::<Vec<_>>(),
            ping,
            "one PINGREQ, at the end"
        );
        assert_eq!(heard.len(), usize::from(heard[1]) + 2 + ping.len());
    }
}
