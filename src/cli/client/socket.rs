//! A TCP connection that is being made, without waiting for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

use super::ClientError;

/// Connections that one source address is used for: the system has some 28,000 ports to give.
const PER_SOURCE: usize = 20_000;

/// Source addresses on the loopback network.
const SOURCES: usize = 200;

/// Begins the `index`th connection to `address`. On the loopback network many connections take several source addresses.
pub(super) fn dial(address: SocketAddr, index: usize) -> Result<mio::net::TcpStream, ClientError> {
    let dialled = if index >= PER_SOURCE && address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let source = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(index / PER_SOURCE % SOURCES).unwrap_or(0));
        dial_from(source, address).map(mio::net::TcpStream::from_std)
    } else {
        mio::net::TcpStream::connect(address)
    };
    let unreachable = |error| ClientError::Unreachable { address: address.to_string(), error };
    let stream = dialled.map_err(unreachable)?;
    // Batches are written as a whole, so there is nothing to gather.
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

fn dial_from(source: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
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
    error.kind() == io::ErrorKind::WouldBlock
}

/// Sees to it that so many more files can be open.
pub(super) fn allow_files(more: usize) -> Result<(), ClientError> {
    let files = more as u64 + 64;
    let limit = rlimit::increase_nofile_limit(u64::MAX)
        .map_err(|error| ClientError::System { what: "the limit of open files is unknown", error })?;
    if limit < files { Err(ClientError::OpenFiles { files, limit }) } else { Ok(()) }
}
