//! Who sent a CONNECT: one question to `auth`, or a talk in AUTH packets (5.0 §4.12), before the broker hears of it.
//!
//! Called by [`super::handshake`]. What always holds: it is over within the listener's connect timeout; nothing but AUTH
//! and DISCONNECT is taken from a client whose authentication is going on [MQTT-3.1.2-30]; a method that the listener does
//! not offer is refused with 0x8C.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::bans::Offence;
use super::entrance::Entrance;
use super::failure::Failure;
use super::handshake::read_more;
use super::peer::Peer;
use super::tls::{Certificate, ClientCertificate};
use crate::auth::{CertificateNames, Credentials, Identity, Refused, SCRAM_SHA_256, Why};
use crate::broker::{Counter, Refusal};
use crate::codec::{Auth, Connect, DecodeError, Packet, PacketType, ReasonCode, decode, read_header};

/// An AUTH packet of a client that is not known yet is at most this long, in bytes.
const LONGEST_AUTH: usize = 8 * 1024;

/// What a client may send while its authentication goes on [MQTT-3.1.2-30].
const MAY_FOLLOW: [PacketType; 2] = [PacketType::Auth, PacketType::Disconnect];

/// A client of which it is known who it is.
pub struct Known {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// What proves to the client that we are who we are; with enhanced authentication.
    pub last_word: Option<Vec<u8>>,
    /// What it has sent behind the CONNECT and not been asked for.
    pub behind: Vec<u8>,
}

/// Finds out who sent a CONNECT; `behind` came with it.
pub async fn login<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    entrance: &Entrance,
    peer: &Peer,
    connect: &Connect<'_>,
    behind: &[u8],
) -> Result<Known, Failure> {
    let shared = &entrance.shared;
    let refused = |refused: Refused| {
        shared.broker.counters.add(Counter::LoginsRefused, 1);
        if refused.why.is_of_the_client() {
            entrance.note(Offence::FailedLogin, peer.address, connect.client_id, Instant::now());
        }
        Failure::NotAuthenticated(describe(connect), refused)
    };
    let mut behind = behind.to_vec();
    let at_once = match connect.properties.authentication_method {
        None => shared.auth.authenticate_at_once(&entrance.name, &credentials(peer, connect)),
        Some(_) => None,
    };
    let outcome = match at_once {
        Some(outcome) => outcome.map(|identity| (identity, None)),
        // Apart, so that those of whom nothing is asked have no room for it.
        None => Box::pin(ask(stream, entrance, peer, connect, &mut behind)).await?,
    };
    let (identity, last_word) = outcome.map_err(refused)?;
    Ok(Known { identity: Arc::new(identity), last_word, behind })
}

/// Who a client is, and our last word, with enhanced authentication; or why it is not let in.
type Outcome = Result<(Identity, Option<Vec<u8>>), Refused>;

/// Asks the authenticators, or the client.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    entrance: &Entrance,
    peer: &Peer,
    connect: &Connect<'_>,
    behind: &mut Vec<u8>,
) -> Result<Outcome, Failure> {
    let answer = async {
        match connect.properties.authentication_method {
            None => tokio::select! {
                biased;
                outcome = entrance.shared.auth.authenticate(&entrance.name, credentials(peer, connect)) => {
                    Ok(outcome.map(|identity| (identity, None)))
                }
                failure = until_gone(stream, behind) => Err(failure),
            },
            Some(SCRAM_SHA_256) => scram(stream, entrance, connect, behind).await,
            Some(_) => Err(Failure::Refused(Refusal::AuthenticationMethod)),
        }
    };
    let late = Refused { authenticator: "none", why: Why::TooLate };
    tokio::time::timeout(entrance.limits.connect_timeout, answer).await.unwrap_or(Ok(Err(late)))
}

/// Two messages from each side; who the client is, and the last of ours.
async fn scram<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    entrance: &Entrance,
    connect: &Connect<'_>,
    behind: &mut Vec<u8>,
) -> Result<Outcome, Failure> {
    let auth = &entrance.shared.auth;
    let first = connect.properties.authentication_data.unwrap_or_default();
    let (exchange, answer) = match auth.begin_scram(&entrance.name, first) {
        Some(Ok(begun)) => begun,
        Some(Err(refused)) => return Ok(Err(refused)),
        None => return Err(Failure::Refused(Refusal::AuthenticationMethod)),
    };
    let mut bytes = Vec::new();
    let packet = auth_packet(ReasonCode::ContinueAuthentication, &answer);
    packet
        .encode_within(connect.version, connect.properties.maximum_packet_size, &mut bytes)
        .map_err(|_| Failure::AnswerTooLarge(PacketType::Auth))?;
    stream.write_all(&bytes).await.map_err(Failure::from_io)?;
    let size = loop {
        if let Some(header) = read_header(behind)? {
            // By its type alone, so that no CONNECT is answered as if it were the first.
            let packet_type = header.packet_type();
            if let Some(other) = packet_type.filter(|packet_type| !MAY_FOLLOW.contains(packet_type)) {
                return Err(Failure::UnexpectedPacket(other));
            }
            let (size, limit) = (header.frame_length(), LONGEST_AUTH);
            if size > limit {
                return Err(DecodeError::PacketTooLarge { size, limit }.into());
            }
            if behind.len() >= size {
                break size;
            }
        }
        read_more(stream, behind, usize::MAX).await?;
    };
    let rest = behind.split_off(size);
    let frame = std::mem::replace(behind, rest);
    let outcome = match decode(connect.version, &frame)? {
        Packet::Auth(Auth {
            reason: ReasonCode::ContinueAuthentication,
            authentication_method: Some(SCRAM_SHA_256),
            authentication_data,
            ..
        }) => auth.finish_scram(exchange, authentication_data.unwrap_or_default()),
        Packet::Disconnect(packet) => return Err(Failure::of_disconnect(packet.reason)),
        packet => return Err(Failure::UnexpectedPacket(packet.packet_type())),
    };
    Ok(outcome.map(|(identity, last_word)| (identity, Some(last_word))))
}

/// Waits until the client is gone, so that nobody is asked about it any more: those who come back in a crowd after they
/// have lost patience would else wait behind their own former selves. One that sends something goes on being there.
async fn until_gone<S: AsyncRead + Unpin>(stream: &mut S, behind: &mut Vec<u8>) -> Failure {
    match read_more(stream, behind, 256).await {
        Ok(()) => std::future::pending().await,
        Err(failure) => failure,
    }
}

/// An AUTH packet of ours.
pub fn auth_packet(reason: ReasonCode, data: &[u8]) -> Packet<'_> {
    Packet::Auth(Auth {
        reason,
        authentication_method: Some(SCRAM_SHA_256),
        authentication_data: Some(data),
        reason_string: None,
        user_properties: Vec::new(),
    })
}

/// What there is to know a client by.
fn credentials<'a>(peer: &'a Peer, connect: &Connect<'a>) -> Credentials<'a> {
    // What a proxy says of a certificate is all that is known of it.
    let proxied = || {
        peer.proxied_name
            .as_deref()
            .map(|name| CertificateNames { common_name: Some(name), ..CertificateNames::default() })
    };
    Credentials {
        client_id: connect.client_id,
        username: connect.username,
        password: connect.password,
        certificate: peer.certificate.as_deref().map(names_of).or_else(proxied),
        address: peer.address,
    }
}

fn names_of(shown: &ClientCertificate) -> CertificateNames<'_> {
    let Certificate { common_name, alternative_names, .. } = &shown.certificate;
    CertificateNames {
        common_name: common_name.as_deref(),
        dns: alternative_names.dns.first().map(String::as_str),
        email: alternative_names.emails.first().map(String::as_str),
        uri: alternative_names.uris.first().map(String::as_str),
    }
}

/// Who somebody claims to be, for the log; not longer than a line can bear.
fn describe(connect: &Connect<'_>) -> String {
    const LONGEST: usize = 100;
    let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
    match connect.username {
        Some(user) => format!("client {:?}, user {:?}", short(connect.client_id), short(user)),
        None => format!("client {:?}, no user name", short(connect.client_id)),
    }
}
