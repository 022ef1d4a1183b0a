//! Listening sockets: bound here or inherited, TCP or Unix.
//!
//! Called by `listener`. What always holds: a socket file that another process listens on is never taken away from
//! it; one that nobody listens on any more is replaced, and our own is removed when we stop.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::{Listener, ListenerKind};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// What the system gives a connection to receive into, or more: with less it is told how much.
const USUAL_BUFFER: u32 = 128 * 1024;

/// The least that TCP gets along with.
const LEAST_BUFFER: u32 = 4 * 1024;

/// For so long a connection may be kept from us at most.
const DEFER_SECONDS: i32 = 1;

/// This machine has no such family of addresses, as Linux says it.
const NO_SUCH_FAMILY: i32 = 97;

/// A socket that listens.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(TcpListener),
    /// Unix, and the file to remove at the end, if it is ours.
    Unix(UnixListener, Option<PathBuf>),
}

/// A connection as it was accepted.
#[derive(Debug)]
pub enum Accepted {
    /// TCP.
    Tcp(TcpStream, SocketAddr),
    /// Unix, which has no addresses.
    Unix(UnixStream),
}

impl Accepted {
    /// Who it is; nobody knows of a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

/// Sockets that whoever started this process has bound already: systemd's socket activation (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<std::os::unix::net::UnixListener>,
}

impl Inherited {
    /// Those that the environment announces, which is emptied of it. For a process of one broker alone.
    pub fn from_environment() -> Self {
        let mut announced = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..announced.len() {
            if let Ok(Some(socket)) = announced.take_tcp_listener(index) {
                inherited.tcp.push(socket);
            } else if let Ok(Some(socket)) = announced.take_unix_listener(index) {
                inherited.unix.push(socket);
            } else {
                tracing::warn!(index, "an inherited socket is neither TCP nor Unix; it is not used");
            }
        }
        inherited
    }

    /// The addresses of those that no listener has taken.
    pub fn left(&self) -> Vec<String> {
        let tcp = self.tcp.iter().filter_map(|socket| socket.local_addr().ok());
        let unix = self.unix.iter().filter_map(|socket| socket.local_addr().ok());
        let unix = unix.filter_map(|address| Some(address.as_pathname()?.display().to_string()));
        tcp.map(|address| address.to_string()).chain(unix).collect()
    }

    fn take_tcp(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let is_it = |socket: &std::net::TcpListener| socket.local_addr().is_ok_and(|own| own == address);
        let index = self.tcp.iter().position(is_it)?;
        Some(self.tcp.swap_remove(index))
    }

    fn take_unix(&mut self, path: &Path) -> Option<std::os::unix::net::UnixListener> {
        let is_it = |socket: &std::os::unix::net::UnixListener| {
            socket.local_addr().is_ok_and(|own| own.as_pathname() == Some(path))
        };
        let index = self.unix.iter().position(is_it)?;
        Some(self.unix.swap_remove(index))
    }
}

impl Bound {
    /// Binds a listener's address, unless it is among those inherited.
    ///
    /// Of clients that are held to so many bytes a second, where it is not 0, the system receives no more ahead than they
    /// get through in two: what waits there waits before anything that comes later, such as a PINGREQ.
    pub fn new(listener: &Listener, bytes_per_second: u32, inherited: &mut Inherited) -> io::Result<Self> {
        if listener.kind == ListenerKind::Unix {
            let path = &listener.socket_path;
            return match inherited.take_unix(path) {
                Some(socket) => {
                    socket.set_nonblocking(true)?;
                    Ok(Self::Unix(UnixListener::from_std(socket)?, None))
                }
                None => Ok(Self::Unix(bind_unix(path, listener.socket_mode)?, Some(path.clone()))),
            };
        }
        let socket = match inherited.take_tcp(listener.address) {
            Some(socket) => socket,
            None => bind_tcp(listener.address)?.into(),
        };
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit all: no call for each of them.
        let options = SockRef::from(&socket);
        options.set_tcp_nodelay(true)?;
        if let Some(idle) = Some(listener.tcp_keepalive).filter(|idle| !idle.is_zero()) {
            options.set_tcp_keepalive(&keepalive(idle))?;
        }
        let ahead = bytes_per_second.saturating_mul(2);
        if (1..USUAL_BUFFER).contains(&ahead) {
            options.set_recv_buffer_size(ahead.max(LEAST_BUFFER) as usize)?;
        }
        Ok(Self::Tcp(TcpListener::from_std(socket)?))
    }

    /// Waits for a connection.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(socket) => {
                socket.accept().await.map(|(stream, address)| Accepted::Tcp(stream, address))
            }
            Self::Unix(socket, _) => socket.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }

    /// Whether the system keeps a connection to itself until its client has sent something, for [`DEFER_SECONDS`] at most.
    ///
    /// Then there is no look at a socket that is empty yet, and no waiting for it; but until then nobody sees the
    /// connection, counts it, or can tell it that we stop.
    pub fn defer_accept(&self, defers: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => set_defer_accept(socket, if defers { DEFER_SECONDS } else { 0 }),
            Self::Unix(..) => Ok(()),
        }
    }

    /// Where clients connect; a Unix socket has no such address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Self::Unix(_, Some(path)) = self {
            // If it is gone already, so much the better.
            let _ = fs::remove_file(path);
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let every = address.ip().is_unspecified() && address.is_ipv6();
    match bind_to(address) {
        // Every address, on a machine that has IPv4 alone.
        Err(error) if every && error.raw_os_error() == Some(NO_SUCH_FAMILY) => {
            bind_to(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    }
}

fn bind_to(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        match BlockingUnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            // Left behind by a process that was killed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
        }
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Has the system receive this many bytes ahead of us on a connection, if its own bounds allow it. A buffer whose size is
/// fixed stays as it is.
///
/// Nothing sets the buffer of a connection without fixing it, but the system makes room for as much as a reader waits for
/// (tcp(7), `SO_RCVLOWAT`), and lets it be when the reader waits for one byte again.
#[cfg(target_os = "linux")]
pub fn receive_ahead(socket: &TcpStream, bytes: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, i32::try_from(bytes).unwrap_or(i32::MAX))?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1)
}

/// On other systems that makes no room.
#[cfg(not(target_os = "linux"))]
pub fn receive_ahead(_socket: &TcpStream, _bytes: u32) -> io::Result<()> {
    Ok(())
}

/// Has the system show us a connection when its client has sent something, or these seconds have passed; with 0 at once. See
/// tcp(7), `TCP_DEFER_ACCEPT`.
#[cfg(target_os = "linux")]
fn set_defer_accept(socket: &impl AsFd, seconds: i32) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Other systems have no such option.
#[cfg(not(target_os = "linux"))]
fn set_defer_accept(_socket: &impl AsFd, _seconds: i32) -> io::Result<()> {
    Ok(())
}

/// Sets an option that is an integer.
#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "no crate has these options behind a safe function; in a rush connecting takes a sixth less CPU time with the \
              one, payloads of 16 KiB from the same machine a third less with the other"
)]
fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so it is open. The kernel reads the bytes of one integer, which lives until the
    // call is over, and keeps no pointer to it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The first probe after `idle`, then, unanswered, a tenth of it apart.
fn keepalive(idle: Duration) -> TcpKeepalive {
    let interval = (idle / 10).max(Duration::from_secs(1));
    TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(5)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn accepted_sockets_have_the_options_of_the_one_that_listens() {
        for idle in [Duration::from_secs(60), Duration::ZERO] {
            let mut listener = Listener::tcp("options", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            listener.tcp_keepalive = idle;
            let bound = Bound::new(&listener, 0, &mut Inherited::default()).unwrap();
            let _client = TcpStream::connect(bound.address().unwrap()).await.unwrap();
            let Accepted::Tcp(stream, _) = bound.accept().await.unwrap() else { panic!("it is TCP") };
            let options = SockRef::from(&stream);
            assert!(options.tcp_nodelay().unwrap());
            assert_eq!(options.keepalive().unwrap(), !idle.is_zero());
            if !idle.is_zero() {
                assert_eq!(options.tcp_keepalive_time().unwrap(), idle);
            }
        }
    }

    #[tokio::test]
    async fn the_system_receives_further_ahead_and_still_tells_of_one_byte() {
        let listener = Listener::tcp("bulk", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        for (rate, is_fixed) in [(0, false), (10_000, true)] {
            let bound = Bound::new(&listener, rate, &mut Inherited::default()).unwrap();
            let mut client = TcpStream::connect(bound.address().unwrap()).await.unwrap();
            let Accepted::Tcp(mut stream, _) = bound.accept().await.unwrap() else { panic!("it is TCP") };
            let before = SockRef::from(&stream).recv_buffer_size().unwrap();
            receive_ahead(&stream, 1024 * 1024).unwrap();
            let size = SockRef::from(&stream).recv_buffer_size().unwrap();
            if is_fixed {
                assert_eq!(size, before);
            } else {
                assert!(before < 1024 * 1024 && size >= 1024 * 1024, "{before} and then {size}");
            }
            client.write_all(b"1").await.unwrap();
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
            assert_eq!(read.unwrap().unwrap(), b'1');
        }
    }

    #[tokio::test]
    async fn of_slow_clients_little_is_received_ahead() {
        let listener = Listener::tcp("slow", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        for (rate, most) in [(64, 8 * 1024), (10_000, 40_000)] {
            let bound = Bound::new(&listener, rate, &mut Inherited::default()).unwrap();
            let _client = TcpStream::connect(bound.address().unwrap()).await.unwrap();
            let Accepted::Tcp(stream, _) = bound.accept().await.unwrap() else { panic!("it is TCP") };
            // The system doubles what it is told, for its own book-keeping.
            let size = SockRef::from(&stream).recv_buffer_size().unwrap();
            assert!(size <= most, "{rate}: {size}");
        }
    }
}
