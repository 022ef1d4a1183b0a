//! Where bytes come in and go out: listeners, and one task per client.
//!
//! Called by `server`, which gives it bound sockets and the broker. The task of a connection reads a batch, hands the
//! packets to the broker, and writes what the session has for its client: it is the only one that touches the
//! socket. What always holds: a read buffer belongs to the worker thread and is never pinned by a connection; an
//! idle connection holds no buffer at all; nothing that a client sends can make it grow without bound.

mod acks;
mod connection;
mod entrance;
mod failure;
mod handshake;
mod inbound;
mod listener;
mod log;
mod login;
mod peer;
mod permit;
mod proxy;
mod scratch;
mod socket;
mod tls;
mod transport;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

pub use entrance::Transport;
pub use listener::{ListenError, Listening, listen};
pub use peer::Peer;
pub use socket::Inherited;
pub use tls::{AlternativeNames, Certificate, ClientCertificate, Moment, TlsError};

use self::log::LineBudget;
use crate::auth::Auth;
use crate::broker::Broker;

/// Clients at a time that are told there is no room.
const REFUSALS: usize = 64;

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// The broker.
    pub broker: Arc<Broker>,
    /// Who finds out who the clients are.
    pub auth: Arc<Auth>,
    /// How long a connection may take until its CONNECT is complete.
    pub connect_timeout: Duration,
    /// Longest pause of a publisher for the sake of slow subscribers; zero: none.
    pub publisher_stall: Duration,
    /// Connections at a time.
    pub max_connections: usize,
    lines: LineBudget,
    /// Of their own, so that a client that is denied much hides nobody who comes and goes.
    denials: LineBudget,
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
        connect_timeout: Duration,
        publisher_stall: Duration,
        max_connections: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            broker,
            auth,
            connect_timeout,
            publisher_stall,
            max_connections,
            lines: LineBudget::new(),
            denials: LineBudget::new(),
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
