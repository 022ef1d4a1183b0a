//! The loop that accepts, and what becomes of whom it accepts.
//!
//! Called by `server`. What always holds: an error of accept never ends the loop; when there are too many connections
//! the next ones are told so, and when even that is too much they are closed without a word.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::task::JoinHandle;

use super::entrance::{Entrance, OpenConnection, Transport};
use super::failure::Failure;
use super::peer::{Arrival, Peer};
use super::rush::Rush;
use super::serve::Serve;
use super::socket::{Accepted, Bound, Inherited};
use super::throttle::Bucket;
use super::tls::TlsError;
use super::{Shared, handshake, round, transport};
use crate::broker::Counter;
use crate::config::Listener;

/// Pause after an error of accept, such as running out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a listener does not begin.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Its address cannot be bound.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// Its certificates are not right.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A listener that accepts.
#[derive(Debug)]
pub struct Listening {
    /// Where, with the port that was taken if 0 was asked for; a Unix socket has no address.
    pub address: Option<SocketAddr>,
    entrance: Arc<Entrance>,
    tasks: Vec<JoinHandle<()>>,
}

impl Listening {
    /// Accepts no more.
    pub fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }

    /// Reads certificates again.
    pub fn reload(&self) {
        if let Some(tls) = self.entrance.tls() {
            tls.reload();
        }
    }
}

/// Binds a listener's address, unless it is inherited, and begins to accept clients there.
///
/// # Errors
/// When the address cannot be bound, or its files are not right.
pub fn listen(
    listener: &Listener,
    shared: Arc<Shared>,
    inherited: &mut Inherited,
) -> Result<Listening, ListenError> {
    let entrance = Entrance::new(listener, shared)?;
    let socket = Bound::new(listener, entrance.limits.bytes_per_second, inherited)?;
    let address = socket.address();
    let mut tasks = vec![tokio::spawn(accept(socket, entrance.clone()))];
    tasks.extend(entrance.tls().map(|tls| tokio::spawn(tls.clone().watch())));
    Ok(Listening { address, entrance, tasks })
}

async fn accept(socket: Bound, entrance: Arc<Entrance>) {
    let shared = &entrance.shared;
    let mut rate = Bucket::new(entrance.limits.connections_per_second, Instant::now());
    let mut rush = Rush::new(Instant::now());
    // An inherited socket is as the process before left it.
    note_rush(Some(false), &socket);
    loop {
        let accepted = match rush.look_at() {
            None => socket.accept().await,
            Some(at) => match tokio::time::timeout_at(at.into(), socket.accept()).await {
                Ok(accepted) => accepted,
                Err(_) => {
                    note_rush(rush.look(Instant::now()), &socket);
                    continue;
                }
            },
        };
        // If it goes first, nobody else of this round does.
        let _ = round::is_first();
        match accepted {
            Ok(accepted) => {
                shared.broker.counters.add(Counter::SocketsAccepted, 1);
                let now = Instant::now();
                note_rush(rush.count(now), &socket);
                match objection(&accepted, &entrance, rate.as_mut(), now) {
                    Some(failure) => turn_away(accepted, failure, &entrance, now),
                    None => welcome(accepted, &entrance, now),
                }
            }
            Err(error) => {
                // Of one connection that was already gone there is nothing to say.
                let of_one =
                    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
                if !of_one {
                    if shared.lines.take(Instant::now()) {
                        tracing::error!(%error, "cannot accept connections; raise the limit of open files (ulimit -n)");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// In a rush the system keeps a connection to itself until its client has said something.
fn note_rush(changed: Option<bool>, socket: &Bound) {
    if let Some(is_on) = changed
        && let Err(error) = socket.defer_accept(is_on)
    {
        // Nothing is lost by it but time.
        tracing::debug!(%error, is_on, "cannot change whether clients are accepted before they say something");
    }
}

/// Why a connection cannot come in, if so. Behind a proxy, who is banned turns out later.
fn objection(
    accepted: &Accepted,
    entrance: &Entrance,
    rate: Option<&mut Bucket>,
    now: Instant,
) -> Option<Failure> {
    let address = accepted.address().filter(|_| !entrance.proxy_protocol);
    if let Some(banned) = address.and_then(|address| entrance.ban_on(Some(address), "", now)) {
        return Some(banned);
    }
    if entrance.is_full() {
        return Some(Failure::TooManyConnections);
    }
    if rate.is_some_and(|rate| !rate.take(now)) {
        entrance.shared.broker.counters.add(Counter::RefusedTooFast, 1);
        return Some(Failure::TooManyAtOnce);
    }
    None
}

/// Gives a client its task: one for each transport, so that each is as small as can be.
fn welcome(accepted: Accepted, entrance: &Arc<Entrance>, now: Instant) {
    let open = OpenConnection::new(entrance.clone());
    let arrival = Box::new(Arrival {
        peer: Peer { address: accepted.address(), ..Peer::default() },
        began: now,
        handshake_by: now + entrance.handshake_timeout(),
        connect_by: now + entrance.limits.connect_timeout,
    });
    let stream = match accepted {
        Accepted::Tcp(stream, _) => stream,
        Accepted::Unix(stream) => {
            tokio::spawn(Serve::new(stream, arrival, open));
            return;
        }
    };
    match entrance.transport {
        Transport::Plain if entrance.proxy_protocol => {
            tokio::spawn(transport::serve_proxied(stream, arrival, open))
        }
        Transport::Plain => tokio::spawn(Serve::new(stream, arrival, open)),
        Transport::Tls(_) => tokio::spawn(transport::serve_tls(stream, arrival, open)),
        Transport::Ws(_) => tokio::spawn(transport::serve_ws(stream, arrival, open)),
        Transport::Wss(..) => tokio::spawn(transport::serve_wss(stream, arrival, open)),
    };
}

/// Tells a client why it cannot come in, unless that costs more than it is worth: a handshake of TLS does.
fn turn_away(accepted: Accepted, failure: Failure, entrance: &Arc<Entrance>, now: Instant) {
    let address = accepted.address();
    if entrance.tls().is_some() || !entrance.shared.begin_refusal() {
        entrance.refused(address, &failure, now);
        return;
    }
    let entrance = entrance.clone();
    tokio::spawn(async move {
        match accepted {
            Accepted::Unix(stream) => {
                entrance.refused(address, &failure, now);
                handshake::refuse(stream, &failure, &entrance).await;
            }
            Accepted::Tcp(stream, _) => transport::turn_away(stream, address, &failure, &entrance, now).await,
        }
        entrance.shared.end_refusal();
    });
}
