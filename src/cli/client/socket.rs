//! A TCP connection that is being made, without waiting for it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

use super::ClientError;

/// Connections that one source address is used for: the system gives away some 28,000 ports by itself.
const PER_SOURCE: usize = 20_000;

/// Source addresses on the loopback network, and the first port used of each: below those that the system gives away.
const SOURCES: usize = 200;
const FIRST_PORT: usize = 10_000;

/// Begins the `index`th connection to `address`. On the loopback network many connections take several source addresses,
/// and all of them do if `spreads` says so.
pub(super) fn dial(
    address: SocketAddr,
    index: usize,
    spreads: bool,
) -> Result<mio::net::TcpStream, ClientError> {
    let is_loopback = address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
    let has_source = is_loopback && (spreads || index >= PER_SOURCE);
    let dialled = if has_source {
        dial_from(source(index), address).map(mio::net::TcpStream::from_std)
    } else {
        mio::net::TcpStream::connect(address)
    };
    let unreachable = |error: io::Error| match error.kind() {
        ErrorKind::AddrNotAvailable if !has_source => ClientError::NoPort(address.to_string()),
        _ => ClientError::Unreachable { address: address.to_string(), error },
    };
    let stream = dialled.map_err(unreachable)?;
    // Batches are written as a whole, so there is nothing to gather.
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// The port is named as well: to search for a free one among thousands costs the system more than the connection does.
fn source(index: usize) -> SocketAddr {
    // Another process begins elsewhere.
    let turn = std::process::id() as usize + index / PER_SOURCE;
    let host = u8::try_from(turn % SOURCES).unwrap_or(0);
    let port = u16::try_from(FIRST_PORT + index % PER_SOURCE).unwrap_or(0);
    SocketAddr::from((Ipv4Addr::new(127, 0, 1, 1 + host), port))
}

fn dial_from(source: SocketAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // An old connection may linger there.
    socket.set_reuse_address(true)?;
    match socket.bind(&source.into()) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            socket.bind(&SocketAddr::from((source.ip(), 0)).into())?;
        }
        bound => bound?,
    }
    match socket.connect(&address.into()) {
        Err(error) if !is_under_way(&error) => Err(error),
        _ => Ok(socket.into()),
    }
}

#[cfg(unix)]
fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

#[cfg(not(unix))]
fn is_under_way(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

/// Sees to it that so many connections can be open.
pub(crate) fn allow_files(connections: usize) -> Result<(), ClientError> {
    let files = connections as u64 + 64;
    let limit = rlimit::increase_nofile_limit(u64::MAX)
        .map_err(|error| ClientError::System { what: "the limit of open files is unknown", error })?;
    if limit < files { Err(ClientError::OpenFiles { files, limit }) } else { Ok(()) }
}
