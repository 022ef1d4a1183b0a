//! A server half and a client half over a simulated link, on virtual time.
//!
//! The link is like TCP: bytes stay in order and none is lost while it lives, but it splits them anywhere, stalls,
//! holds only so much, and is cut at any byte. The server half is polled only when it has a reason to be, as a task
//! is that waits for its waker: a wake that is lost shows as a message that never comes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fulmar::codec::{ProtocolVersion, QoS};

use crate::client::Client;
use crate::random::Random;
use crate::server::{NewLink, Server};

/// What the two halves agree on, for a pair's whole life.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What both speak.
    pub version: ProtocolVersion,
    /// The client's Receive Maximum on its first connection.
    pub receive_maximum: u16,
    /// The client's Topic Alias Maximum.
    pub aliases: u16,
}

/// The largest packet the client takes in 5.0.
pub const MAXIMUM_PACKET_SIZE: usize = 16 * 1024;

/// Bytes that the link holds in each direction.
const CAPACITY: usize = 3_000;

/// What happens to a pair.
#[derive(Debug, Clone)]
pub enum Op {
    /// A message for the client.
    Deliver { qos: QoS, size: Size, expiry: Option<u32>, live: bool },
    /// Several at once, as a publisher's batch has them.
    DeliverRun { qos: QoS, count: u8, size: Size },
    /// The client publishes.
    Publish { qos: QoS },
    /// Time passes, bytes move.
    Run { steps: u16 },
    /// Nothing moves in one direction for so many milliseconds.
    Stall { to_client: bool, millis: u16 },
    /// The client answers nothing for so many milliseconds.
    Ponder { millis: u16 },
    /// The connection breaks.
    Cut,
    /// The client connects; if it is connected still, it takes itself over.
    Connect { receive_maximum: u16 },
}

/// How long a payload is.
#[derive(Debug, Clone, Copy)]
pub enum Size {
    /// A few bytes.
    Small,
    /// Enough to be referenced instead of copied.
    Large,
    /// More than the client's Maximum Packet Size.
    TooLarge,
}

/// See the module.
pub struct Pair {
    terms: Terms,
    random: Random,
    now: Instant,
    pub server: Server,
    pub client: Client,
    to_client: Pipe,
    to_server: Pipe,
    healed: bool,
}

/// One direction of the link.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    stalled_until: Option<Instant>,
}

impl Pipe {
    /// What comes out at the other end now: any number of the bytes.
    fn take(&mut self, now: Instant, random: &mut Random, healed: bool) -> Vec<u8> {
        if self.bytes.is_empty() || self.stalled_until.is_some_and(|until| until > now) {
            return Vec::new();
        }
        let most = if healed || random.percent(50) { self.bytes.len() } else { self.bytes.len().min(9) };
        let count = if healed { most } else { 1 + random.below(most as u64) as usize };
        self.bytes.drain(..count).collect()
    }

    fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.bytes.len())
    }
}

impl Pair {
    /// Two halves, connected.
    pub fn new(seed: u64, terms: Terms) -> Self {
        let now = Instant::now();
        let mut pair = Self {
            terms,
            random: Random::new(seed, 1),
            now,
            server: Server::new(terms.version, now),
            client: Client::new(terms.version),
            to_client: Pipe::default(),
            to_server: Pipe::default(),
            healed: false,
        };
        pair.connect(terms.receive_maximum);
        pair
    }

    /// Does what is said.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Deliver { qos, size, expiry, live } => {
                // 3.x knows neither an expiry nor a largest packet.
                let is_v5 = self.terms.version == ProtocolVersion::V5;
                let size = if matches!(size, Size::TooLarge) && !is_v5 { Size::Large } else { *size };
                self.server.deliver(*qos, size, expiry.filter(|_| is_v5), *live, self.now);
            }
            Op::DeliverRun { qos, count, size } => self.server.deliver_run(*qos, *count, *size, self.now),
            Op::Publish { qos } => self.client.publish(*qos),
            Op::Run { steps } => (0..*steps).for_each(|_| self.step()),
            Op::Stall { to_client, millis } => {
                let until = Some(self.now + Duration::from_millis((*millis).into()));
                let pipe = if *to_client { &mut self.to_client } else { &mut self.to_server };
                pipe.stalled_until = until;
            }
            Op::Ponder { millis } => {
                self.client.silent_until = Some(self.now + Duration::from_millis((*millis).into()));
            }
            Op::Cut => self.cut(),
            Op::Connect { receive_maximum } => self.connect(*receive_maximum),
        }
    }

    /// Ends all faults, and lets everything come to rest.
    pub fn heal(&mut self) {
        self.healed = true;
        (self.to_client.stalled_until, self.to_server.stalled_until) = (None, None);
        self.client.silent_until = None;
        if !self.client.is_connected() {
            self.connect(self.terms.receive_maximum);
        }
        for _ in 0..20_000 {
            self.step();
            if self.is_idle() {
                break;
            }
        }
    }

    /// Whether nothing is under way or waits anywhere.
    pub fn is_idle(&self) -> bool {
        self.server.is_idle()
            && self.client.is_idle()
            && self.to_client.bytes.is_empty()
            && self.to_server.bytes.is_empty()
    }

    /// What both have to agree on in the end.
    pub fn check(&self) {
        assert!(
            self.is_idle(),
            "not at rest: {}; {}",
            self.server.what_is_left(),
            self.client.what_is_left()
        );
        self.client.check_against(self.server.sent(), "the client");
        self.server.check_against(self.client.sent());
    }

    /// A millisecond passes.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        let (now, random, healed) = (self.now, &mut self.random, self.healed);
        if !self.client.is_connected() {
            return;
        }
        let bytes = self.to_client.take(now, random, healed);
        self.client.handle_bytes(&bytes);
        let patience = if healed { 100 } else { 40 };
        self.client.write(now, random.percent(patience), self.to_server.room(), &mut self.to_server.bytes);
        let bytes = self.to_server.take(now, random, healed);
        self.server.handle_bytes(&bytes);
        self.server.run(now, self.to_client.room(), &mut self.to_client.bytes);
    }

    fn cut(&mut self) {
        self.server.disconnect();
        self.lose_link();
    }

    fn lose_link(&mut self) {
        self.client.disconnect();
        (self.to_client, self.to_server) = (Pipe::default(), Pipe::default());
    }

    fn connect(&mut self, receive_maximum: u16) {
        // If it is connected, the server does not know yet that the old connection is gone.
        self.lose_link();
        let Terms { version, aliases, .. } = self.terms;
        let is_v5 = version == ProtocolVersion::V5;
        self.server.connect(NewLink {
            receive_maximum: if is_v5 { receive_maximum } else { u16::MAX },
            aliases: if is_v5 { aliases } else { 0 },
        });
        self.client.connect();
    }
}
