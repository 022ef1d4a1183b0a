//! From a socket to a session and back: the CONNECT, the connection, and a decent end.
//!
//! Called by [`Serve`](super::serve::Serve), the client's task. What always holds: a client has its listener's `connect_timeout` for its
//! CONNECT; whoever is refused is told so where the standard has words for it; and after a last packet the socket is
//! closed in a way that lets the client read it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::bans::Offence;
use super::connection::Connection;
use super::entrance::{Entrance, Transport};
use super::failure::Failure;
use super::inbound::{Batch, Inbound};
use super::login::{Known, login};
use super::peer::{Arrival, Peer};
use super::reader::poll_read_behind;
use super::scratch::{self, Scratch};
use super::stream::ClientStream;
use super::throttle::Throttle;
use crate::auth::SCRAM_SHA_256;
use crate::broker::{Admission, Broker, Counter, Ending, NewConnection, PeerAddress};
use crate::codec::{
    ConnAck, ConnAckProperties, Connect, DecodeError, Packet, PacketType, ProtocolVersion, ReasonCode,
    connect_version, decode_connect, read_header,
};
use crate::config::Limits;

/// How long a client that is sent away may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// How long what an ended connection owes its client may take: to be committed, and to be read.
const FINISH: Duration = Duration::from_secs(2);

/// How long a connection that is about to lose its session may take to hear what its client has said.
const OWNER_PATIENCE: Duration = Duration::from_millis(50);

/// Bytes that such a client may still send.
const LINGER_BYTES: usize = 256 * 1024;

/// How long a client may take for its CONNECT when it is to be refused anyway.
pub const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that runs, and what is needed when it ends.
pub struct Started<S> {
    /// The connection.
    pub connection: Connection<S>,
    /// Where it comes from.
    peer: PeerAddress,
}

/// Waits for the CONNECT and gives the connection its session, or tells the client why not.
pub async fn begin<S: ClientStream>(
    mut stream: S,
    arrival: Box<Arrival>,
    entrance: Arc<Entrance>,
) -> Option<Started<S>> {
    let entrance = &*entrance;
    let shared = &entrance.shared;
    let Arrival { peer, began, connect_by, .. } = *arrival;
    let mut buffer = Vec::new();
    let first = {
        // Made before the question: whoever stops the broker says so first and then notifies those that wait.
        let stopping = shared.stopping.notified();
        if shared.broker.is_stopping() {
            return None;
        }
        let connect = read_connect(&mut stream, &mut buffer, entrance);
        tokio::select! {
            biased;
            first = tokio::time::timeout_at(connect_by.into(), connect) => {
                first.unwrap_or(Err(Failure::ConnectTimeout))
            }
            () = stopping => return None,
        }
    };
    let started = match first {
        Ok(length) => {
            let (frame, behind) = buffer.split_at(length.min(buffer.len()));
            match identify(&mut stream, entrance, &peer, frame, behind).await {
                Ok((connect, known, waker)) => admit(stream, entrance, peer.address, &connect, known, waker),
                Err(failure) => Err((stream, failure)),
            }
        }
        Err(failure) => Err((stream, failure)),
    };
    match started {
        Ok(started) => Some(started),
        Err((mut stream, failure)) => {
            entrance.refused(peer.address, &failure, began);
            // Apart, so that those who come in have no room for it.
            Box::pin(turn_away(&mut stream, &failure, &buffer)).await;
            None
        }
    }
}

/// Tells a client why it cannot come in, once it has said in which version it wants to hear that.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    failure: &Failure,
    entrance: &Entrance,
) {
    let mut buffer = Vec::new();
    let connect = read_connect(&mut stream, &mut buffer, entrance);
    if let Ok(Ok(_)) = tokio::time::timeout(REFUSAL_TIMEOUT, connect).await {
        turn_away(&mut stream, failure, &buffer).await;
    }
}

/// Finds out who the client is, and lets a connection that it has already hear what it said there. Also what wakes us.
async fn identify<'a, S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    entrance: &Entrance,
    peer: &Peer,
    frame: &'a [u8],
    behind: &[u8],
) -> Result<(Connect<'a>, Known, Waker), Failure> {
    let connect = decode_connect(frame)?;
    if let Some(banned) = entrance.ban_on(peer.address, connect.client_id, Instant::now()) {
        return Err(banned);
    }
    let known = login(stream, entrance, peer, &connect, behind).await?;
    let broker = &entrance.shared.broker;
    if broker.is_owned(connect.client_id) {
        // Apart, as few are.
        Box::pin(let_owner_finish(broker, connect.client_id)).await;
    }
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    Ok((connect, known, waker))
}

/// Gives a client that is known its session, and makes the connection; hands the socket back if it is refused.
fn admit<S: ClientStream>(
    stream: S,
    entrance: &Entrance,
    peer: Option<SocketAddr>,
    connect: &Connect<'_>,
    known: Known,
    waker: Waker,
) -> Result<Started<S>, (S, Failure)> {
    let shared = &entrance.shared;
    let broker = &shared.broker;
    let Known { identity, last_word, behind } = known;
    let now = Instant::now();
    let admission = match broker.admission(connect) {
        Ok(admission) => admission,
        Err(refusal) => return Err((stream, Failure::Refused(refusal))),
    };
    let mut connack = connack(entrance, connect, &admission, last_word.as_deref());
    let maximum_packet_size = connect.properties.maximum_packet_size;
    // Before anything is done for the client: who cannot be told that it is accepted is not.
    if maximum_packet_size.is_some_and(|limit| !fits(&connack, connect.version, limit)) {
        return Err((stream, Failure::AnswerTooLarge(PacketType::ConnAck)));
    }
    let new = NewConnection { connect, admission: &admission, identity: identity.clone(), peer, waker, now };
    let accepted = match broker.connect(new) {
        Ok(accepted) => accepted,
        Err(refusal) => return Err((stream, Failure::Refused(refusal))),
    };
    broker.counters.add(Counter::ConnectionsAccepted, 1);
    let (handle, version) = (accepted.handle.clone(), connect.version);
    shared.lines.connected(
        &handle.client_id,
        identity.user.as_deref(),
        peer,
        version,
        accepted.session_present,
        now,
    );
    let mut inbound = Box::new(Inbound::new(
        shared.clone(),
        handle.clone(),
        accepted.link,
        version,
        maximum_packet_size,
        entrance.limits.max_packet_size,
        entrance.leniencies.receive_maximum,
    ));
    if last_word.is_some() {
        inbound.may_authenticate_again(&entrance.name);
    }
    let mut scratch = Scratch::take();
    let Scratch { report, run, .. } = &mut *scratch;
    let mut batch = Batch { report, now, messages: 0, run };
    connack.session_present = accepted.session_present;
    let sent = inbound.send(&Packet::ConnAck(connack), accepted.sequence, &mut batch);
    scratch.give_back();
    let link = accepted.link;
    if let Err(failure) = sent {
        broker.disconnect(&handle, link, Ending::Broken, now);
        return Err((stream, failure));
    }
    let Limits { messages_per_second, bytes_per_second, .. } = entrance.limits;
    let throttle = Throttle::new(messages_per_second, bytes_per_second, now);
    let began = shared.stamp(now);
    let connection = Connection::new(stream, inbound, behind, throttle, began);
    Ok(Started { connection, peer: peer.into() })
}

/// Lets the connection that is about to lose its session hear what its client has said until now. A client that says
/// DISCONNECT and comes back at once has its Will discarded [MQTT-3.14.4-3], whichever of the two tasks was woken first.
async fn let_owner_finish(broker: &Broker, client_id: &str) {
    // Behind a look at the sockets, which wakes the owner if there is something for it to read, and behind all who were
    // woken by that: the last one woken, which are we, would run before them. With one worker that is enough.
    tokio::task::yield_now().await;
    let mut asked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    if !broker.is_owned(client_id) {
        return;
    }
    // Timers are looked at behind the sockets, whichever worker does that. What the owner can read it knows of by then.
    tokio::time::sleep(Duration::from_millis(1)).await;
    asked = false;
    let answer = poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) || !broker.ask_owner(client_id, cx.waker()) {
            return Poll::Ready(());
        }
        Poll::Pending
    });
    // One that does not answer loses the session all the same.
    let _: Result<_, _> = tokio::time::timeout(OWNER_PATIENCE, answer).await;
}

/// Settles what an ended connection leaves behind. What is still to be said to the client, if anything is.
pub fn end<S: ClientStream + Send + 'static>(
    started: Started<S>,
    failure: Failure,
    entrance: &Entrance,
) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let Started { mut connection, peer } = started;
    let peer = peer.socket_address();
    let began = connection.began();
    let inbound = connection.inbound();
    let shared = &entrance.shared;
    let (handle, version) = (inbound.handle(), inbound.version());
    let now = Instant::now();
    shared.lines.disconnected(&handle.client_id, peer, version, &failure, now);
    if let Failure::NotProvedAgain(_) = failure {
        entrance.note(Offence::FailedLogin, peer, &handle.client_id, now);
    } else if failure.is_flapping() {
        let lasted = Duration::from_millis(shared.stamp(now).wrapping_sub(began).into());
        entrance.note(Offence::Gone(lasted), peer, &handle.client_id, now);
    }
    let ending = inbound.ending.take().filter(|_| failure.is_asked_for());
    let ending = ending.map_or(Ending::Broken, |ending| *ending);
    shared.broker.disconnect(inbound.handle(), inbound.link(), ending, now);
    // A client that has said goodbye sends nothing more [MQTT-3.14.4-1], so no input is left unread that would make the
    // socket's end an abrupt one. What the socket still has for it is sent all the same.
    let nothing_follows =
        matches!(failure, Failure::Disconnected) && matches!(entrance.transport, Transport::Plain);
    if failure.is_gone() || nothing_follows && connection.is_finished() {
        return None;
    }
    Some(Box::pin(take_leave(connection, failure, version)))
}

/// Gives the client what it is still owed, tells it why the connection ends, and parts.
async fn take_leave<S: ClientStream>(
    mut connection: Connection<S>,
    failure: Failure,
    version: ProtocolVersion,
) {
    let patience = if failure.is_final() { Duration::ZERO } else { FINISH };
    if let Ok(Err(_)) = tokio::time::timeout(patience, connection.finish()).await {
        return;
    }
    let mut bytes = Vec::new();
    if connection.may_add_a_packet()
        && let Some(answer) = failure.answer(version)
    {
        answer.encode(true, &mut bytes);
    }
    let is_torn = connection.is_writing();
    let mut stream = connection.into_stream();
    if !is_torn {
        part(&mut stream, &bytes, &failure).await;
    }
}

/// Reads until the CONNECT is there in full; its length in the buffer.
async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    entrance: &Entrance,
) -> Result<usize, Failure> {
    let limit = entrance.limits.max_packet_size as usize;
    loop {
        if let Some(what) = looks_like_something_else(buffer) {
            return Err(Failure::NotMqtt(what));
        }
        if let Some(header) = read_header(buffer)? {
            if header.packet_type() != Some(PacketType::Connect) {
                return Err(DecodeError::NotConnect.into());
            }
            let size = header.frame_length();
            if size > limit {
                return Err(DecodeError::PacketTooLarge { size, limit }.into());
            }
            if buffer.len() >= size {
                return Ok(size);
            }
        }
        read_more(stream, buffer, usize::MAX).await?;
    }
}

/// Waits for more bytes, and takes so many at most.
pub(super) async fn read_more<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    most: usize,
) -> Result<(), Failure> {
    let length = poll_fn(|cx| {
        let mut scratch = Scratch::take();
        let Scratch { read, report, .. } = &mut *scratch;
        let read = scratch::renewed(read, &mut report.buffers);
        read.clear();
        let polled = poll_read_behind(stream, cx, read, most);
        buffer.extend_from_slice(read);
        scratch.give_back();
        polled
    })
    .await
    .map_err(Failure::from_io)?;
    if length == 0 {
        return Err(Failure::Closed);
    }
    Ok(())
}

/// Names what a first packet is, if it is surely not MQTT.
fn looks_like_something_else(buffer: &[u8]) -> Option<&'static str> {
    match buffer {
        [0x16, 0x03, ..] => Some("it looks like a TLS handshake; this listener speaks plain MQTT"),
        [b'G', b'E', b'T', b' ', ..] | [b'P', b'O', b'S', b'T', ..] | [b'H', b'E', b'A', b'D', ..] => {
            Some("it looks like an HTTP request; this listener speaks plain MQTT")
        }
        [b'P', b'R', b'O', b'X', b'Y', ..] | [0x0D, 0x0A, 0x0D, 0x0A, ..] => {
            Some("it looks like the PROXY protocol, which this listener does not expect")
        }
        [b'S', b'S', b'H', b'-', ..] => Some("it looks like SSH"),
        _ => None,
    }
}

/// Refuses the CONNECT at the front of `sent`, as far as that is one, and parts.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, failure: &Failure, sent: &[u8]) {
    let version = connect_version(sent).unwrap_or(ProtocolVersion::V3_1_1);
    let mut bytes = Vec::new();
    if let Some(answer) = failure.answer(version) {
        answer.encode(false, &mut bytes);
    }
    // Who takes less is told nothing [MQTT-3.1.2-24].
    let size = read_header(sent).ok().flatten().map_or(0, |header| header.frame_length());
    let connect = sent.get(..size).and_then(|frame| decode_connect(frame).ok());
    let limit = connect.and_then(|connect| connect.properties.maximum_packet_size);
    if limit.is_some_and(|limit| bytes.len() > limit as usize) {
        bytes.clear();
    }
    part(stream, &bytes, failure).await;
}

/// Writes last bytes and closes so that the client can read them: closing a socket with unread input would reset
/// the connection and destroy what was sent last.
pub async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8], failure: &Failure) {
    if failure.is_gone() {
        return;
    }
    let goodbye = async {
        if !bytes.is_empty() {
            stream.write_all(bytes).await?;
        }
        stream.shutdown().await?;
        let mut sink = [0; 1_024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut sink).await? {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // Whatever goes wrong now, the connection is closed.
    let _: Result<_, _> = tokio::time::timeout(LINGER, goodbye).await;
}

/// What a client is told about its session and the broker's limits, §3.2.
fn connack<'a>(
    entrance: &Entrance,
    connect: &Connect<'_>,
    admission: &'a Admission<'_>,
    last_word: Option<&'a [u8]>,
) -> ConnAck<'a> {
    let settings = &entrance.shared.broker.settings;
    let mut properties = ConnAckProperties::default();
    if connect.version == ProtocolVersion::V5 {
        properties = ConnAckProperties {
            session_expiry_interval: admission.session_expiry_interval,
            receive_maximum: entrance.receive_maximum(),
            maximum_qos: (settings.maximum_qos < crate::codec::QoS::ExactlyOnce)
                .then_some(settings.maximum_qos),
            retain_available: (!settings.retained.available).then_some(false),
            maximum_packet_size: Some(entrance.limits.max_packet_size),
            assigned_client_identifier: admission.is_assigned.then_some(&*admission.client_id),
            topic_alias_maximum: (settings.topic_alias_maximum > 0).then_some(settings.topic_alias_maximum),
            server_keep_alive: admission.server_keep_alive,
            authentication_method: last_word.map(|_| SCRAM_SHA_256),
            authentication_data: last_word,
            ..ConnAckProperties::default()
        };
    }
    ConnAck { session_present: false, reason: ReasonCode::Success, properties }
}

/// Whether a client that takes packets of `limit` bytes can be sent it.
fn fits(connack: &ConnAck<'_>, version: ProtocolVersion, limit: u32) -> bool {
    Packet::ConnAck(connack.clone()).encode_within(version, Some(limit), &mut Vec::new()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::serve::Serve;
    use super::*;
    use crate::broker::SessionHandle;
    use crate::session::Link;
    use tokio::net::TcpStream;

    fn size_of_result<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn what_a_connection_begins_with_is_small() {
        // The system's allocator is fast up to this size.
        let size = size_of_result(begin::<TcpStream>);
        assert!(size <= 1_032, "it takes {size} bytes");
    }

    #[test]
    fn an_idle_connection_is_small() {
        // What the allocator is asked for while a client is idle; its map entries and tokio's own come on top.
        let sizes = [
            // tokio adds 96 bytes and rounds up to a multiple of 128.
            ("task", size_of::<Serve<TcpStream>>(), 160),
            ("inbound", size_of::<Inbound>(), 104),
            ("link", size_of::<Link>(), 104),
            ("handle", size_of::<SessionHandle>(), 224),
        ];
        for (what, size, most) in sizes {
            assert!(size <= most, "{what} takes {size} bytes");
        }
    }
}
