//! A client for the tools of the command line: thousands of connections on one thread, over TCP, TLS and WebSocket.
//!
//! Used by `fulmar bench`, `fulmar pub` and `fulmar sub`; works against any broker. The packets are the crate's own
//! codec's, the sockets are polled for readiness, and what is queued on a connection leaves with one system call:
//! a load generator must cost less than the broker it measures.
//!
//! What always holds: one thread owns everything; a [`Handler`] sees whole, well-framed packets, in order; what a broker
//! sends cannot panic.

mod connections;
mod opening;
mod place;
mod server;
mod session;
mod socket;
mod timer;
mod transport;
mod websocket;

pub(super) use connections::{Connections, Handler, Incoming, Quiet};
pub(super) use opening::{Opened, open, open_plain, subscribe, turn};
pub(super) use place::{PlaceArguments, qos};
pub(super) use server::{Server, ServerArguments};
pub(super) use session::{Client, Limits, connack, put_subscribe, refuse_disconnect, suback};
pub(super) use socket::allow_files;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::codec::{DecodeError, EncodeError, ReasonCode};

/// Why a tool cannot go on.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    #[error(
        "{url:?} is no address of a broker: {why}; write mqtt://, mqtts://, ws:// or wss://, HOST and :PORT"
    )]
    Url { url: String, why: String },
    #[error("the address of {host} cannot be found: {error}")]
    Unknown { host: String, error: io::Error },
    #[error("{} cannot be used: {why}", .path.display())]
    File { path: PathBuf, why: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{what}: {error}")]
    System { what: &'static str, error: io::Error },
    #[error("{address} cannot be reached: {error}")]
    Unreachable { address: String, error: io::Error },
    #[error("the broker closed a connection: {0}")]
    Closed(String),
    #[error("the broker refused a connection: {0:?}")]
    Refused(ReasonCode),
    #[error("the broker refused a message: {0:?}")]
    Rejected(ReasonCode),
    #[error("the broker refused a subscription: {0:?}")]
    SubscriptionRefused(ReasonCode),
    #[error("the broker disconnected a client: {0:?}")]
    Disconnected(ReasonCode),
    #[error("the broker sent what is no MQTT: {0}")]
    Malformed(#[from] DecodeError),
    #[error("this cannot be sent: {0}")]
    Unsendable(#[from] EncodeError),
    #[error("the broker refused the WebSocket: {0}")]
    Upgrade(String),
    #[error("the broker broke the rules of WebSocket: {0}")]
    Frame(&'static str),
    #[error("the broker takes QoS {0} at most; ask for that with -q {0}")]
    MaximumQoS(u8),
    #[error("the broker takes packets of {0} bytes at most; make the messages smaller")]
    MaximumPacketSize(u32),
    #[error("the broker did not answer a PINGREQ for {:.1} s", *.0 as f64 / 1e9)]
    Silent(u64),
    #[error(
        "this machine has no port left for another connection to {0}; those of ended ones are free again after a minute"
    )]
    NoPort(String),
    #[error("{files} open files are needed, and the system allows {limit}; raise the limit (ulimit -n)")]
    OpenFiles { files: u64, limit: u64 },
    #[error("{0}")]
    Stuck(String),
    #[error("{0}")]
    Misused(String),
}
