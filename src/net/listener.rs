//! Listening on TCP: bound sockets, and the loop that accepts.
//!
//! Called by `server`. What always holds: an error of accept never ends the loop; when there are too many connections
//! the next ones are told so, and when even that is too much they are closed without a word.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::entrance::{Entrance, OpenConnection, Transport};
use super::peer::{Arrival, Peer};
use super::tls::TlsError;
use super::{Shared, handshake, transport};
use crate::broker::Counter;
use crate::config::Listener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// Clients at a time that are told there is no room.
const REFUSALS: usize = 64;

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
    /// Where; with the port that was taken if 0 was asked for.
    pub address: SocketAddr,
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

/// Binds a listener's address and begins to accept clients there.
///
/// # Errors
/// When the address cannot be bound, or its files are not right.
pub fn listen(listener: &Listener, shared: Arc<Shared>) -> Result<Listening, ListenError> {
    let entrance = Entrance::new(listener, shared)?;
    let socket = bind(listener.address)?;
    let address = socket.local_addr()?;
    let mut tasks = vec![tokio::spawn(accept(socket, entrance.clone()))];
    tasks.extend(entrance.tls().map(|tls| tokio::spawn(tls.clone().watch())));
    Ok(Listening { address, entrance, tasks })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it: no call for each of them.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, entrance: Arc<Entrance>) {
    let shared = &entrance.shared;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                shared.broker.counters.add(Counter::SocketsAccepted, 1);
                if entrance.is_full() {
                    turn_away(stream, address, &entrance)
                } else {
                    welcome(stream, address, &entrance)
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
fn welcome(stream: TcpStream, address: SocketAddr, entrance: &Arc<Entrance>) {
    let open = OpenConnection::new(entrance.clone());
    let peer = Peer { address: Some(address), ..Peer::default() };
    let now = Instant::now();
    let connect_by = now + entrance.connect_timeout;
    let handshake_by = connect_by.min(now + entrance.handshake_timeout);
    let arrival = Box::new(Arrival { peer, handshake_by, connect_by });
    match entrance.transport {
        Transport::Tcp => tokio::spawn(handshake::serve(stream, arrival, open)),
        Transport::Tls(_) => tokio::spawn(transport::serve_tls(stream, arrival, open)),
        Transport::Ws(_) => tokio::spawn(transport::serve_ws(stream, arrival, open)),
        Transport::Wss(..) => tokio::spawn(transport::serve_wss(stream, arrival, open)),
    };
}

/// Tells a client that there is no room, unless that costs more than it is worth: a handshake of TLS does.
fn turn_away(stream: TcpStream, address: SocketAddr, entrance: &Arc<Entrance>) {
    let shared = &entrance.shared;
    let is_told = entrance.tls().is_none() && shared.refusing.fetch_add(1, Ordering::AcqRel) < REFUSALS;
    if !is_told {
        if entrance.tls().is_none() {
            shared.refusing.fetch_sub(1, Ordering::AcqRel);
        }
        shared.broker.counters.add(Counter::ConnectionsRefused, 1);
        return;
    }
    let entrance = entrance.clone();
    tokio::spawn(async move {
        let shared = &entrance.shared;
        match entrance.websocket() {
            Some(_) => transport::refuse_ws(stream, address, &entrance).await,
            None => handshake::refuse(stream, Some(address), shared.clone()).await,
        }
        shared.refusing.fetch_sub(1, Ordering::AcqRel);
    });
}
