//! From an accepted socket to a stream that speaks MQTT: what each kind of listener does in between.
//!
//! Called by the listener, in the client's own task. What always holds: what comes before MQTT is done within
//! `handshake_timeout`, it counts against `connect_timeout`, and its memory is given back when it is done: streams
//! with a state of their own are boxed, so that a task is no larger than a plain connection's.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::entrance::{Entrance, OpenConnection};
use super::failure::Failure;
use super::handshake::{self, REFUSAL_TIMEOUT, part};
use super::peer::{Arrival, Peer};
use super::proxy::{self, Parsed, ProxyError};
use super::serve::Serve;
use super::tls::client_certificate;
use super::websocket::{self, LARGEST_REQUEST, Refusal, Upgrade, WebSocket};

/// Serves a client that comes through a proxy until it is gone.
pub async fn serve_proxied(stream: TcpStream, arrival: Box<Arrival>, open: OpenConnection) {
    let introduced =
        Box::pin(in_time(&open.entrance, arrival, |arrival| introduce(stream, arrival, &open.entrance)));
    if let Some((stream, arrival)) = introduced.await {
        Serve::new(stream, arrival, open).await;
    }
}

/// Serves a client on a TLS listener until it is gone.
pub async fn serve_tls(stream: TcpStream, arrival: Box<Arrival>, open: OpenConnection) {
    let secured =
        Box::pin(in_time(&open.entrance, arrival, |arrival| secure(stream, arrival, &open.entrance)));
    if let Some((stream, arrival)) = secured.await {
        Serve::new(stream, arrival, open).await;
    }
}

/// The same, over WebSocket.
pub async fn serve_ws(stream: TcpStream, arrival: Box<Arrival>, open: OpenConnection) {
    let upgraded = Box::pin(in_time(&open.entrance, arrival, async |arrival| {
        let (stream, arrival) = introduce(stream, arrival, &open.entrance).await?;
        upgrade(stream, arrival, &open.entrance).await
    }));
    if let Some((stream, arrival)) = upgraded.await {
        Serve::new(stream, arrival, open).await;
    }
}

/// The same, over WebSocket in TLS.
pub async fn serve_wss(stream: TcpStream, arrival: Box<Arrival>, open: OpenConnection) {
    let upgraded = Box::pin(in_time(&open.entrance, arrival, async |arrival| {
        let (stream, arrival) = secure(stream, arrival, &open.entrance).await?;
        upgrade(stream, arrival, &open.entrance).await
    }));
    if let Some((stream, arrival)) = upgraded.await {
        Serve::new(stream, arrival, open).await;
    }
}

/// Tells a client of a listener without TLS why it cannot come in.
pub async fn turn_away(
    stream: TcpStream,
    address: Option<SocketAddr>,
    failure: &Failure,
    entrance: &Entrance,
    now: Instant,
) {
    let by = now + REFUSAL_TIMEOUT;
    let peer = Peer { address, ..Peer::default() };
    let arrival = Box::new(Arrival { peer, began: now, handshake_by: by, connect_by: by });
    // Behind a proxy it is worth knowing who that was, and the answer would be lost with the header unread.
    let introduced = tokio::time::timeout(REFUSAL_TIMEOUT, introduce(stream, arrival, entrance)).await;
    let Ok(Some((mut stream, arrival))) = introduced else { return };
    entrance.refused(arrival.peer.address, failure, now);
    if entrance.websocket().is_some() {
        let refusal = if matches!(failure, Failure::Banned(_)) { Refusal::Banned } else { Refusal::Busy };
        part(&mut stream, refusal.response().as_bytes(), failure).await;
    } else {
        handshake::refuse(stream, failure, entrance).await;
    }
}

/// Does the handshake of TLS, or says why it fails.
async fn secure(
    stream: TcpStream,
    arrival: Box<Arrival>,
    entrance: &Entrance,
) -> Option<(Box<TlsStream<TcpStream>>, Box<Arrival>)> {
    let (mut stream, mut arrival) = introduce(stream, arrival, entrance).await?;
    if entrance.proxy_protocol
        && let Some(banned) = entrance.ban_on(arrival.peer.address, "", Instant::now())
    {
        refuse(&mut stream, &[], &arrival, &banned, entrance).await;
        return None;
    }
    match entrance.tls()?.accept(stream).await {
        Ok(stream) => {
            arrival.peer.certificate = client_certificate(&stream);
            Some((Box::new(stream), arrival))
        }
        Err((error, mut stream)) => {
            refuse(&mut stream, &[], &arrival, &Failure::from_tls(error), entrance).await;
            None
        }
    }
}

/// Reads who the client is from the header of the PROXY protocol, where the listener expects one.
async fn introduce(
    mut stream: TcpStream,
    mut arrival: Box<Arrival>,
    entrance: &Entrance,
) -> Option<(TcpStream, Box<Arrival>)> {
    if !entrance.proxy_protocol {
        return Some((stream, arrival));
    }
    let header = if entrance.trusts(arrival.peer.address) {
        // Apart, so that those who come without a proxy have no room for its header.
        Box::pin(read_header(&mut stream)).await
    } else {
        Err(Failure::UntrustedProxy)
    };
    match header {
        Ok(header) => {
            // The proxy's own connections, its health checks, keep its address.
            arrival.peer.address = header.source.or(arrival.peer.address);
            arrival.peer.proxied_name = header.tls_name;
            Some((stream, arrival))
        }
        Err(failure) => {
            refuse(&mut stream, &[], &arrival, &failure, entrance).await;
            None
        }
    }
}

/// Takes exactly the header from the socket: looks at what is there before it takes any of it.
async fn read_header(stream: &mut TcpStream) -> Result<proxy::Header, Failure> {
    let mut header = Vec::new();
    let mut seen = [0; proxy::LONGEST];
    loop {
        let room = seen.get_mut(header.len()..).unwrap_or_default();
        if room.is_empty() {
            return Err(ProxyError::TooLong.into());
        }
        let before = header.len();
        let length = stream.peek(room).await.map_err(Failure::from_io)?;
        if length == 0 {
            return Err(Failure::Closed);
        }
        header.extend_from_slice(room.get(..length).unwrap_or_default());
        let (whole, taken) = match proxy::parse(&header)? {
            Parsed::Incomplete => (None, length),
            Parsed::Complete(header, end) => (Some(header), end.saturating_sub(before)),
        };
        stream.read_exact(room.get_mut(..taken).unwrap_or_default()).await.map_err(Failure::from_io)?;
        if let Some(header) = whole {
            return Ok(header);
        }
    }
}

/// Turns HTTP into WebSocket, or says why not.
async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut arrival: Box<Arrival>,
    entrance: &Entrance,
) -> Option<(Box<WebSocket<S>>, Box<Arrival>)> {
    let settings = entrance.websocket()?;
    let mut request = Vec::new();
    match read_upgrade(&mut stream, &mut request, &arrival.peer, entrance).await {
        Ok(upgrade) => {
            if let Some(address) = upgrade.forwarded_for {
                // Its port is not known.
                arrival.peer.address = Some(SocketAddr::new(address, 0));
            }
            let early = request.split_off(upgrade.length.min(request.len()));
            let stream = WebSocket::new(stream, early, settings.ping_interval);
            Some((Box::new(stream), arrival))
        }
        Err(failure) => {
            let response = match &failure {
                Failure::Upgrade(refusal) => refusal.response(),
                _ => String::new(),
            };
            refuse(&mut stream, response.as_bytes(), &arrival, &failure, entrance).await;
            None
        }
    }
}

/// Reads a request and, if it is granted, answers it.
async fn read_upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &mut Vec<u8>,
    peer: &Peer,
    entrance: &Entrance,
) -> Result<Upgrade, Failure> {
    let settings = entrance.websocket().ok_or(Failure::Closed)?;
    let rules = websocket::Rules {
        settings,
        trusted_proxies: &entrance.trusted_proxies,
        forgives_subprotocol: entrance.leniencies.websocket_subprotocol,
    };
    let address = peer.address.map(|address| address.ip());
    loop {
        let most = LARGEST_REQUEST - request.len().min(LARGEST_REQUEST);
        let read = (&mut *stream).take(most as u64).read_buf(request).await.map_err(Failure::from_io)?;
        if read == 0 {
            return Err(Failure::Closed);
        }
        let parsed = websocket::parse(request, address, rules);
        let Some(upgrade) = parsed.map_err(|refusal| Failure::Upgrade(Box::new(refusal)))? else { continue };
        stream.write_all(upgrade.response.as_bytes()).await.map_err(Failure::from_io)?;
        stream.flush().await.map_err(Failure::from_io)?;
        return Ok(upgrade);
    }
}

/// Does what comes before MQTT; `None` if it takes too long or the broker stops.
async fn in_time<T>(
    entrance: &Entrance,
    arrival: Box<Arrival>,
    steps: impl AsyncFnOnce(Box<Arrival>) -> Option<T>,
) -> Option<T> {
    let shared = &entrance.shared;
    let (began, until, address) = (arrival.began, arrival.handshake_by, arrival.peer.address);
    // Made before the question, as in `handshake`.
    let stopping = shared.stopping.notified();
    if shared.broker.is_stopping() {
        return None;
    }
    let done = tokio::select! {
        biased;
        done = tokio::time::timeout_at(until.into(), steps(arrival)) => done,
        () = stopping => return None,
    };
    if done.is_err() {
        entrance.refused(address, &Failure::HandshakeTimeout, began);
    }
    done.ok().flatten()
}

/// Notes a failure, and closes so that the client can read what it is told.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    arrival: &Arrival,
    failure: &Failure,
    entrance: &Entrance,
) {
    entrance.refused(arrival.peer.address, failure, arrival.began);
    part(stream, bytes, failure).await;
}
