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
use super::peer::{Arrival, Peer};
use super::socket::{Accepted, Bound, Inherited};
use super::tls::TlsError;
use super::{Shared, handshake, transport};
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
    let socket = Bound::new(listener, inherited)?;
    let address = socket.address();
    let mut tasks = vec![tokio::spawn(accept(socket, entrance.clone()))];
    tasks.extend(entrance.tls().map(|tls| tokio::spawn(tls.clone().watch())));
    Ok(Listening { address, entrance, tasks })
}

async fn accept(socket: Bound, entrance: Arc<Entrance>) {
    let shared = &entrance.shared;
    loop {
        match socket.accept().await {
            Ok(accepted) => {
                shared.broker.counters.add(Counter::SocketsAccepted, 1);
                if entrance.is_full() {
                    turn_away(accepted, &entrance);
                } else {
                    welcome(accepted, &entrance);
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

/// Gives a client its task: one for each transport, so that each is as small as can be.
fn welcome(accepted: Accepted, entrance: &Arc<Entrance>) {
    let open = OpenConnection::new(entrance.clone());
    let now = Instant::now();
    let connect_by = now + entrance.connect_timeout;
    let handshake_by = connect_by.min(now + entrance.handshake_timeout);
    let peer = Peer { address: accepted.address(), ..Peer::default() };
    let arrival = Box::new(Arrival { peer, handshake_by, connect_by });
    let stream = match accepted {
        Accepted::Tcp(stream, _) => stream,
        Accepted::Unix(stream) => {
            tokio::spawn(handshake::serve(stream, arrival, open));
            return;
        }
    };
    match entrance.transport {
        Transport::Plain if entrance.proxy_protocol => {
            tokio::spawn(transport::serve_proxied(stream, arrival, open))
        }
        Transport::Plain => tokio::spawn(handshake::serve(stream, arrival, open)),
        Transport::Tls(_) => tokio::spawn(transport::serve_tls(stream, arrival, open)),
        Transport::Ws(_) => tokio::spawn(transport::serve_ws(stream, arrival, open)),
        Transport::Wss(..) => tokio::spawn(transport::serve_wss(stream, arrival, open)),
    };
}

/// Tells a client that there is no room, unless that costs more than it is worth: a handshake of TLS does.
fn turn_away(accepted: Accepted, entrance: &Arc<Entrance>) {
    let shared = &entrance.shared;
    if entrance.tls().is_some() || !shared.begin_refusal() {
        shared.broker.counters.add(Counter::ConnectionsRefused, 1);
        return;
    }
    let entrance = entrance.clone();
    tokio::spawn(async move {
        let shared = &entrance.shared;
        let address = accepted.address();
        match accepted {
            Accepted::Unix(stream) => handshake::refuse(stream, address, shared.clone()).await,
            Accepted::Tcp(stream, _) if entrance.websocket().is_some() => {
                transport::refuse_ws(stream, address, &entrance).await;
            }
            Accepted::Tcp(stream, _) => handshake::refuse(stream, address, shared.clone()).await,
        }
        shared.end_refusal();
    });
}
