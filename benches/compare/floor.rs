//! What the kernel alone costs: a relay that understands next to nothing, as the floor under every broker.
//!
//! It listens on 127.0.0.1:PORT and speaks as much of MQTT 3.1.1 as `fulmar bench` needs to begin: CONNACK and SUBACK.
//! The first topic of a connection says where its bytes go, and from then on they go there unread, but for where a packet ends
//! if several publish to one topic: no topic is matched, nothing is kept, no client is answered. What it takes to move them
//! is one read and one write for each batch, as for any broker that moves them with the same calls; one that waits for more
//! before it writes may take less. Runs of QoS 0 whose publishers have one topic each
//! mean something; `compare.py --floor` starts it for those.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);

/// Bytes of one read.
const READ: usize = 256 * 1024;

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;

struct Connection {
    stream: TcpStream,
    /// The topic of its first PUBLISH, and where its bytes go since.
    topic: Vec<u8>,
    targets: Option<Rc<[usize]>>,
    /// Others publish to the same topic: packets stay whole, and what all have goes out in one write.
    gathers: bool,
    /// The beginning of a packet.
    partial: Vec<u8>,
    /// What could not be written yet, or waits for what others have for the same subscriber.
    out: Vec<u8>,
    is_blocked: bool,
    is_dirty: bool,
}

#[derive(Default)]
struct Relay {
    connections: HashMap<usize, Connection>,
    subscribers: HashMap<Vec<u8>, Vec<usize>>,
    dirty: Vec<usize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(port) = env::args().nth(1).and_then(|port| port.parse::<u16>().ok()) else {
        println!("floor: run by `compare.py --floor`, or with a PORT");
        return Ok(());
    };
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut relay = Relay::default();
    let (mut next, mut buffer) = (0, vec![0; READ]);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() != LISTENER {
                let Token(id) = event.token();
                if event.is_writable() {
                    relay.writable(id);
                }
                if event.is_readable() {
                    relay.read(id, &mut buffer);
                }
                continue;
            }
            while let Ok((mut stream, _)) = listener.accept() {
                stream.set_nodelay(true)?;
                poll.registry().register(
                    &mut stream,
                    Token(next),
                    Interest::READABLE | Interest::WRITABLE,
                )?;
                relay.connections.insert(next, Connection::new(stream));
                next += 1;
            }
        }
        relay.flush();
    }
}

impl Relay {
    fn read(&mut self, id: usize, buffer: &mut [u8]) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let room = buffer.len();
            match connection.stream.read(buffer) {
                Ok(0) => return self.close(id),
                Ok(length) => {
                    self.arrived(id, buffer.get(..length).unwrap_or_default());
                    if length < room {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(id),
            }
        }
    }

    fn arrived(&mut self, id: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(targets) = connection.targets.clone()
            && !connection.gathers
            && connection.partial.is_empty()
        {
            return targets.iter().for_each(|target| self.put(*target, bytes));
        }
        let mut all = std::mem::take(&mut connection.partial);
        all.extend_from_slice(bytes);
        let whole = self.whole(id, &all);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.partial.extend_from_slice(all.get(whole..).unwrap_or_default());
        }
    }

    /// Handles the whole packets at the front; how many bytes those are.
    fn whole(&mut self, id: usize, all: &[u8]) -> usize {
        let (mut done, mut messages) = (0, 0..0);
        while let Some((header, length)) = frame(all.get(done..).unwrap_or_default()) {
            let Some(body) = all.get(done + header..done + header + length) else { break };
            match all.get(done).copied().unwrap_or(0) {
                CONNECT => self.put(id, &[0x20, 2, 0, 0]),
                SUBSCRIBE => self.subscribe(id, body),
                PUBLISH => {
                    self.find_targets(id, body);
                    if messages.is_empty() {
                        messages.start = done;
                    }
                    messages.end = done + header + length;
                }
                _ => {}
            }
            done += header + length;
        }
        let Some(connection) = self.connections.get(&id) else { return done };
        let gathers = connection.gathers;
        if let (Some(targets), Some(messages)) = (connection.targets.clone(), all.get(messages)) {
            for target in &*targets {
                if gathers { self.gather(*target, messages) } else { self.put(*target, messages) }
            }
        }
        done
    }

    fn subscribe(&mut self, id: usize, body: &[u8]) {
        let (packet_id, mut filters) = body.split_at_checked(2).unwrap_or_default();
        let mut answer = vec![0x90, 2];
        answer.extend_from_slice(packet_id);
        while let Some((filter, rest)) = text(filters) {
            self.subscribers.entry(filter.to_vec()).or_default().push(id);
            answer.push(0);
            filters = rest.get(1..).unwrap_or_default();
        }
        if let Ok(length) = u8::try_from(answer.len() - 2)
            && let Some(place) = answer.get_mut(1)
        {
            *place = length;
        }
        self.put(id, &answer);
    }

    fn find_targets(&mut self, id: usize, body: &[u8]) {
        if self.connections.get(&id).is_none_or(|connection| connection.targets.is_some()) {
            return;
        }
        let Some((topic, _)) = text(body) else { return };
        let gathers = self.connections.values().any(|connection| connection.topic == topic);
        let targets: Rc<[usize]> = self.subscribers.get(topic).map_or(&[][..], Vec::as_slice).into();
        if let Some(connection) = self.connections.get_mut(&id) {
            (connection.topic, connection.targets) = (topic.to_vec(), Some(targets));
        }
        for connection in self.connections.values_mut().filter(|connection| connection.topic == topic) {
            connection.gathers |= gathers;
        }
    }

    /// Writes at once, what does not go is kept.
    fn put(&mut self, id: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut written = 0;
        if connection.out.is_empty() && !connection.is_blocked {
            written = connection.write(bytes);
        }
        connection.out.extend_from_slice(bytes.get(written..).unwrap_or_default());
    }

    /// Keeps it until all that is readable has been read.
    fn gather(&mut self, id: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.out.extend_from_slice(bytes);
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
    }

    fn flush(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.is_dirty = false;
                connection.write_out();
            }
        }
    }

    fn writable(&mut self, id: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.is_blocked = false;
            connection.write_out();
        }
    }

    fn close(&mut self, id: usize) {
        self.connections.remove(&id);
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            topic: Vec::new(),
            targets: None,
            gathers: false,
            partial: Vec::new(),
            out: Vec::new(),
            is_blocked: false,
            is_dirty: false,
        }
    }

    fn write_out(&mut self) {
        let out = std::mem::take(&mut self.out);
        let written = if self.is_blocked { 0 } else { self.write(&out) };
        self.out = out;
        self.out.drain(..written);
    }

    /// How many bytes the system took.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.stream.write(bytes.get(written..).unwrap_or_default()) {
                Ok(length) => written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // Of an error the reading side hears.
                    self.is_blocked = is_full(&error);
                    break;
                }
            }
        }
        written
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

/// The length of a packet's fixed header and of what follows it, if the header is whole.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((index + 2, length));
        }
    }
    None
}

/// A string with its length in front, and what follows it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}
