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
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{OpenConnection, Shared, handshake};
use crate::broker::Counter;
use crate::config::{Leniencies, Listener};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// Clients at a time that are told there is no room.
const REFUSALS: usize = 64;

/// Pause after an error of accept, such as running out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener that accepts.
#[derive(Debug)]
pub struct Listening {
    /// Where; with the port that was taken if 0 was asked for.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listening {
    /// Accepts no more.
    pub fn stop(&self) {
        self.task.abort();
    }
}

/// Binds a listener's address and begins to accept clients there.
///
/// # Errors
/// The socket's, when the address cannot be bound.
pub fn listen(listener: &Listener, shared: Arc<Shared>) -> io::Result<Listening> {
    let socket = bind(listener.address)?;
    let address = socket.local_addr()?;
    let max_connections = listener.max_connections.map(|most| most as usize);
    let name = listener.name.as_str().into();
    let task = tokio::spawn(accept(socket, name, max_connections, listener.leniencies, shared));
    Ok(Listening { address, task })
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

async fn accept(
    listener: TcpListener,
    name: Arc<str>,
    max_connections: Option<usize>,
    leniencies: Leniencies,
    shared: Arc<Shared>,
) {
    // Counts the listener's own connections by its clones.
    let own = Arc::new(());
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                shared.broker.counters.add(Counter::SocketsAccepted, 1);
                let full = shared.open() >= shared.max_connections
                    || max_connections.is_some_and(|most| Arc::strong_count(&own) > most);
                if full {
                    turn_away(stream, peer, &shared);
                } else {
                    let open = OpenConnection::new(shared.clone(), leniencies, name.clone());
                    let own = max_connections.map(|_| own.clone());
                    tokio::spawn(async move {
                        handshake::serve(stream, Some(peer), open).await;
                        drop(own);
                    });
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

fn turn_away(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
    if shared.refusing.fetch_add(1, Ordering::AcqRel) >= REFUSALS {
        shared.refusing.fetch_sub(1, Ordering::AcqRel);
        shared.broker.counters.add(Counter::ConnectionsRefused, 1);
        return;
    }
    let shared = shared.clone();
    tokio::spawn(async move {
        handshake::refuse(stream, Some(peer), shared.clone()).await;
        shared.refusing.fetch_sub(1, Ordering::AcqRel);
    });
}
