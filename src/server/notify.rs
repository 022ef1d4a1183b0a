//! Tells the service manager how far we are (sd_notify(3)): one datagram to the socket it names, if it does.
//!
//! Called by `run` alone: it speaks for the process.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const SOCKET: &str = "NOTIFY_SOCKET";

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Every listener accepts.
    Ready,
    /// The end has begun.
    Stopping,
}

/// Tells it. Nobody listening is no fault; a service manager that cannot be reached is worth a line.
pub fn notify(state: State) {
    let Some(name) = std::env::var_os(SOCKET).filter(|name| !name.is_empty()) else { return };
    let word = match state {
        State::Ready => "READY=1\n",
        State::Stopping => "STOPPING=1\n",
    };
    let sent = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        _ => SocketAddr::from_pathname(&name),
    }
    .and_then(|address| UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, socket = %name.display(), "the service manager cannot be told about us");
    }
}
