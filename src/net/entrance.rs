//! One listener as its connections see it: its settings, resolved, and how many they are.
//!
//! Made by `listener`, shared by its connections; what all listeners share is behind it. What always holds: a
//! connection is counted, here and there, for exactly as long as its [`OpenConnection`] lives.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Shared;
use super::bans::{Offence, Origin};
use super::failure::Failure;
use super::tls::{Tls, TlsError};
use crate::broker::Counter;
use crate::config::{self, Leniencies, Limits, Listener, ListenerKind, Network};

/// The protocols that may be asked for inside TLS (ALPN).
const MQTT_PROTOCOLS: &[&[u8]] = &[b"mqtt"];
const HTTP_PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// See the module.
#[derive(Debug)]
pub struct Entrance {
    /// The listener's name.
    pub name: String,
    /// What all listeners share.
    pub shared: Arc<Shared>,
    /// What is spoken below MQTT.
    pub transport: Transport,
    /// A header of the PROXY protocol comes first, and only proxies that are believed may connect.
    pub proxy_protocol: bool,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<Network>,
    /// What is forgiven.
    pub leniencies: Leniencies,
    /// Bounds on what its clients may take.
    pub limits: Limits,
    max_connections: usize,
    open: AtomicUsize,
}

/// What is spoken below MQTT.
#[derive(Debug, Clone)]
pub enum Transport {
    /// Nothing but the socket.
    Plain,
    /// TLS.
    Tls(Arc<Tls>),
    /// WebSocket.
    Ws(config::WebSocket),
    /// WebSocket in TLS.
    Wss(Arc<Tls>, config::WebSocket),
}

impl Entrance {
    /// Reads and checks what the listener needs beside its socket; blocks.
    pub fn new(listener: &Listener, shared: Arc<Shared>) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            name: listener.name.clone(),
            transport: Transport::load(listener)?,
            proxy_protocol: listener.proxy_protocol,
            trusted_proxies: listener.trusted_proxies.clone(),
            leniencies: listener.leniencies,
            limits: listener.limits.over(&shared.limits),
            max_connections: listener.max_connections.map_or(usize::MAX, |most| most as usize),
            open: AtomicUsize::new(0),
            shared,
        }))
    }

    /// Whether there is no room for one more.
    pub fn is_full(&self) -> bool {
        let most = self.shared.limits.max_connections;
        (most > 0 && self.shared.open() >= most as usize)
            || self.open.load(Ordering::Acquire) >= self.max_connections
    }

    /// Whether somebody is one of the proxies that are believed.
    pub fn trusts(&self, address: Option<SocketAddr>) -> bool {
        let address = address.map(|address| address.ip());
        address.is_some_and(|address| self.trusted_proxies.iter().any(|proxies| proxies.contains(address)))
    }

    /// How long a new connection may take for what comes before MQTT.
    pub fn handshake_timeout(&self) -> Duration {
        let Limits { handshake_timeout, connect_timeout, .. } = self.limits;
        if handshake_timeout.is_zero() { connect_timeout } else { handshake_timeout.min(connect_timeout) }
    }

    /// The Receive Maximum that is offered: no more than what a client that is held to a rate gets through in a second.
    /// What it sends behind that, such as a PINGREQ, waits no longer, and the client does not take us for dead.
    pub fn receive_maximum(&self) -> Option<NonZeroU16> {
        // Of a usual size, or smaller ones would be held up by the way there and back.
        const MESSAGE: u32 = 256;
        let Limits { messages_per_second, bytes_per_second, .. } = self.limits;
        let rates = [messages_per_second, bytes_per_second.div_ceil(MESSAGE)];
        let slowest = rates.into_iter().filter(|rate| *rate > 0).min();
        let through = slowest.map_or(u16::MAX, |rate| u16::try_from(rate).unwrap_or(u16::MAX));
        NonZeroU16::new(self.shared.broker.settings.receive_maximum.min(through))
    }

    /// Why somebody may not come in, if it is banned.
    pub fn ban_on(&self, address: Option<SocketAddr>, client_id: &str, now: Instant) -> Option<Failure> {
        let banned = self.shared.bans.on(self.origin(address), client_id, now)?;
        self.shared.broker.counters.add(Counter::RefusedBanned, 1);
        Some(Failure::Banned(Box::new(banned)))
    }

    /// Holds an offence against an address and a Client Identifier; a ban that follows is told.
    pub fn note(&self, offence: Offence, address: Option<SocketAddr>, client_id: &str, now: Instant) {
        for ban in self.shared.bans.note(offence, self.origin(address), client_id, now) {
            self.shared.broker.counters.add(Counter::Bans, 1);
            self.shared.ban_lines.banned(&self.name, &ban, now);
        }
    }

    fn origin(&self, address: Option<SocketAddr>) -> Origin {
        Origin { address, is_proxy: self.trusts(address) }
    }

    /// Notes that a connection which began then ended without a session.
    pub fn refused(&self, address: Option<SocketAddr>, failure: &Failure, began: Instant) {
        let now = Instant::now();
        self.shared.broker.counters.add(Counter::ConnectionsRefused, 1);
        self.shared.lines.refused(address, failure, now);
        if failure.is_flapping() {
            self.note(Offence::Gone(now.saturating_duration_since(began)), address, "", now);
        }
    }

    /// Certificates in use, if any.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        match &self.transport {
            Transport::Tls(tls) | Transport::Wss(tls, _) => Some(tls),
            Transport::Plain | Transport::Ws(_) => None,
        }
    }

    /// What is demanded of requests for WebSocket, if it is spoken.
    pub fn websocket(&self) -> Option<&config::WebSocket> {
        match &self.transport {
            Transport::Ws(settings) | Transport::Wss(_, settings) => Some(settings),
            Transport::Plain | Transport::Tls(_) => None,
        }
    }
}

impl Transport {
    /// Reads and checks what the listener's transport needs; blocks.
    pub fn load(listener: &Listener) -> Result<Self, TlsError> {
        let tls = |protocols| Tls::load(&listener.name, &listener.tls, protocols).map(Arc::new);
        Ok(match listener.kind {
            ListenerKind::Tcp | ListenerKind::Unix => Self::Plain,
            ListenerKind::Tls => Self::Tls(tls(MQTT_PROTOCOLS)?),
            ListenerKind::Ws => Self::Ws(listener.websocket.clone()),
            ListenerKind::Wss => Self::Wss(tls(HTTP_PROTOCOLS)?, listener.websocket.clone()),
        })
    }
}

/// Counts a connection as open for as long as it lives.
#[derive(Debug)]
pub struct OpenConnection {
    /// Through which it came in.
    pub entrance: Arc<Entrance>,
}

impl OpenConnection {
    /// One more.
    pub fn new(entrance: Arc<Entrance>) -> Self {
        entrance.shared.open.fetch_add(1, Ordering::AcqRel);
        entrance.open.fetch_add(1, Ordering::AcqRel);
        Self { entrance }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.entrance.open.fetch_sub(1, Ordering::AcqRel);
        let shared = &self.entrance.shared;
        if shared.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.all_closed.notify_waiters();
        }
    }
}
