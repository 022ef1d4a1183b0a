//! From an accepted socket to a stream that speaks MQTT: what each kind of listener does in between.
//!
//! Called by the listener, in the client's own task. What always holds: what comes before MQTT is done within
//! `handshake_timeout`, it counts against `connect_timeout`, and its memory is given back when it is done: streams
//! with a state of their own are boxed, so that a task is no larger than a plain connection's.

use std::future::Future;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::entrance::{Entrance, OpenConnection};
use super::failure::Failure;
use super::handshake::{self, part};
use super::peer::{Arrival, Peer};
use super::tls::{Tls, client_certificate};
use crate::broker::Counter;

/// Serves a client on a TLS listener until it is gone.
pub async fn serve_tls(stream: TcpStream, arrival: Box<Arrival>, open: OpenConnection) {
    if let Some((stream, arrival)) = Box::pin(secure(stream, arrival, &open.entrance)).await {
        handshake::serve(stream, arrival, open).await;
    }
}

/// Does the handshake of TLS, or says why it fails.
async fn secure(
    stream: TcpStream,
    mut arrival: Box<Arrival>,
    entrance: &Entrance,
) -> Option<(Box<TlsStream<TcpStream>>, Box<Arrival>)> {
    let tls: &Tls = entrance.tls()?;
    match in_time(tls.accept(stream), &arrival, entrance).await? {
        Ok(stream) => {
            arrival.peer.certificate = client_certificate(&stream);
            Some((Box::new(stream), arrival))
        }
        Err((error, mut stream)) => {
            let failure = Failure::from_tls(error);
            refuse(&mut stream, &arrival.peer, &failure, entrance).await;
            None
        }
    }
}

/// Waits for a step that comes before MQTT; `None` if it takes too long or the broker stops.
async fn in_time<T>(step: impl Future<Output = T>, arrival: &Arrival, entrance: &Entrance) -> Option<T> {
    let shared = &entrance.shared;
    let until = arrival.connect_by.min(Instant::now() + entrance.handshake_timeout);
    let done = tokio::select! {
        biased;
        done = tokio::time::timeout_at(until.into(), step) => done,
        () = shared.stopping.notified() => return None,
    };
    if done.is_err() {
        shared.broker.counters.add(Counter::ConnectionsRefused, 1);
        shared.lines.refused(arrival.peer.address, &Failure::HandshakeTimeout, Instant::now());
    }
    done.ok()
}

/// Notes a failure, and closes so that the client can read what it was told.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    peer: &Peer,
    failure: &Failure,
    entrance: &Entrance,
) {
    entrance.shared.broker.counters.add(Counter::ConnectionsRefused, 1);
    entrance.shared.lines.refused(peer.address, failure, Instant::now());
    part(stream, &[], failure).await;
}
