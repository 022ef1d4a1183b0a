//! Where bytes come in and go out: listeners, and one task per client.
//!
//! Called by `server`, which gives it bound sockets and the broker. The task of a connection reads a batch, hands the
//! packets to the broker, and writes what the session has for its client: it is the only one that touches the
//! socket. What always holds: the read buffer of small packets belongs to the worker thread and is never pinned; an
//! idle connection holds no buffer at all; nothing that a client sends can make it grow without bound.

mod acks;
mod bans;
mod bulk;
mod connection;
mod entrance;
mod failure;
mod gathering;
mod handshake;
mod inbound;
mod listener;
mod log;
mod login;
mod peer;
mod permit;
mod proxy;
mod reader;
pub(crate) mod round;
mod rush;
mod scratch;
mod serve;
mod socket;
mod stream;
mod throttle;
mod tls;
mod transport;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

pub use entrance::Transport;
pub use listener::{ListenError, Listening, listen};
pub use peer::Peer;
pub use socket::Inherited;
pub use tls::{AlternativeNames, Certificate, ClientCertificate, Moment, TlsError};

use self::bans::Bans;
use self::log::LineBudget;
use crate::auth::Auth;
use crate::broker::Broker;
use crate::config::{self, Limits};

/// Clients at a time that are told there is no room.
const REFUSALS: usize = 64;

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// The broker.
    pub broker: Arc<Broker>,
    /// Who finds out who the clients are.
    pub auth: Arc<Auth>,
    /// Bounds on what clients may take, where their listener has none of its own.
    pub limits: Limits,
    /// When it began; connections remember how long after it they did.
    started: Instant,
    bans: Bans,
    lines: LineBudget,
    /// Of their own, so that a client that is denied much hides nobody who comes and goes.
    denials: LineBudget,
    /// So that the flood which leads to a ban does not hide it.
    ban_lines: LineBudget,
    open: AtomicUsize,
    refusing: AtomicUsize,
    all_closed: Notify,
    stopping: Notify,
}

impl Shared {
    /// For connections to this broker.
    pub fn new(
        broker: Arc<Broker>,
        auth: Arc<Auth>,
        limits: &Limits,
        bans: &config::Bans,
        now: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            broker,
            auth,
            limits: limits.clone(),
            started: now,
            bans: Bans::new(bans, now),
            lines: LineBudget::new(),
            denials: LineBudget::new(),
            ban_lines: LineBudget::new(),
            open: AtomicUsize::new(0),
            refusing: AtomicUsize::new(0),
            all_closed: Notify::new(),
            stopping: Notify::new(),
        })
    }

    /// Connections open now, with or without a session.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Puts other settings of bans in force, and lifts all there are.
    pub fn replace_bans(&self, settings: &config::Bans) {
        self.bans.replace(settings);
    }

    /// A time as connections remember it, which is all that they have room for: in milliseconds, begun anew after seven
    /// weeks.
    fn stamp(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.started).as_millis() as u32
    }

    /// Whether one more client may be told that it is refused; if so, that has to end.
    fn begin_refusal(&self) -> bool {
        let is_one_more = self.refusing.fetch_add(1, Ordering::AcqRel) < REFUSALS;
        if !is_one_more {
            self.end_refusal();
        }
        is_one_more
    }

    fn end_refusal(&self) {
        self.refusing.fetch_sub(1, Ordering::AcqRel);
    }

    /// Ends connections that have no session yet.
    pub fn stop_handshakes(&self) {
        self.stopping.notify_waiters();
    }

    /// Waits until no connection is open.
    pub async fn closed(&self) {
        loop {
            let closed = self.all_closed.notified();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }
}
