//! Why a connection ends, and what its client is told.
//!
//! One exhaustive place maps every failure to its answer on the wire (5.0 §4.13); the text is for the log.

use std::io;

use thiserror::Error;

use super::bans::Banned;
use super::proxy::ProxyError;
use super::websocket::{self, Violation};
use crate::auth::{Refused, Why};
use crate::broker::{Denial, Refusal, SubscribeError};
use crate::codec::{Answer, DecodeError, PacketType, ProtocolVersion, ReasonCode};
use crate::session::Close;
use crate::topic::TopicError;

/// Why a connection ends.
#[derive(Debug, Error)]
pub enum Failure {
    /// DISCONNECT from the client.
    #[error("the client disconnected")]
    Disconnected,
    /// DISCONNECT from the client with a Reason Code of its own.
    #[error("the client disconnected with reason {:#04x}", *.0 as u8)]
    DisconnectedWith(ReasonCode),
    /// The client closed the socket.
    #[error("the client closed the connection without DISCONNECT")]
    Closed,
    /// The socket failed.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// No CONNECT in time.
    #[error("no CONNECT came in time (connect_timeout)")]
    ConnectTimeout,
    /// What comes before MQTT took too long.
    #[error("what comes before MQTT was not done in time (handshake_timeout)")]
    HandshakeTimeout,
    /// What a trusted proxy sent is no header.
    #[error("{0}")]
    Proxy(#[from] ProxyError),
    /// The PROXY protocol is spoken only with proxies that are named.
    #[error("only an address in trusted_proxies may connect here, as proxy_protocol is on")]
    UntrustedProxy,
    /// The handshake of TLS failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(Box<rustls::Error>),
    /// The upgrade from HTTP to WebSocket was refused.
    #[error("the upgrade to WebSocket was refused: {0}")]
    Upgrade(Box<websocket::Refusal>),
    /// The client broke the rules of WebSocket.
    #[error("it does not speak WebSocket: {0}")]
    WebSocket(Violation),
    /// The first packet was something else.
    #[error("it does not speak MQTT: {0}")]
    NotMqtt(&'static str),
    /// The CONNECT was refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Nobody knows the client, which claims to be what the first text says.
    #[error("refused: {0}: {1}")]
    NotAuthenticated(String, Refused),
    /// It could not prove again who it is.
    #[error("it did not prove again who it is: {0}")]
    NotProvedAgain(Refused),
    /// There are too many connections.
    #[error("refused: there are max_connections connections already, of [limits] or of the listener")]
    TooManyConnections,
    /// They come too fast.
    #[error("refused: more than connections_per_second new connections have come to the listener")]
    TooManyAtOnce,
    /// It is kept out for a while.
    #[error("refused: {0}")]
    Banned(Box<Banned>),
    /// A packet was malformed, or wrong by itself.
    #[error("a packet is wrong: {0}")]
    Decode(#[from] DecodeError),
    /// [MQTT-3.1.0-2]
    #[error("it sent a second CONNECT")]
    SecondConnect,
    /// A packet that only a server sends, or AUTH without a method.
    #[error("it sent {0}, which a client must not send now")]
    UnexpectedPacket(PacketType),
    /// [MQTT-3.3.2-8], [MQTT-3.3.2-9]
    #[error("it used topic alias {0}, and we offer {1} at most")]
    TopicAliasTooLarge(u16, u16),
    /// §3.3.2.3.4
    #[error("it used topic alias {0} without setting it before")]
    TopicAliasUnknown(u16),
    /// The topic of a PUBLISH.
    #[error("the topic of a PUBLISH is not valid: {0}")]
    Topic(#[from] TopicError),
    /// It may not publish there, and a 3.x client cannot be told otherwise.
    #[error("it published where it may not: {0}")]
    PublishDenied(Denial),
    /// [MQTT-3.3.4-6]
    #[error("it sent a PUBLISH with a subscription identifier")]
    SubscriptionIdentifier,
    /// [MQTT-3.3.4-7]
    #[error("it has more messages in flight than the receive maximum of {0} that we offer")]
    ReceiveMaximumExceeded(u16),
    /// [MQTT-3.2.2-11]
    #[error("it published with a QoS above session.max_qos")]
    QoSNotSupported,
    /// [MQTT-3.2.2-14]
    #[error("it published with RETAIN, and retained.enabled is off")]
    RetainNotSupported,
    /// [MQTT-3.1.2-24]
    #[error("its maximum packet size is too small for the {0} it has to get")]
    AnswerTooLarge(PacketType),
    /// [MQTT-4.3.2-5], [MQTT-4.3.3-5]
    #[error("it sent {0} for packet identifier {1}, which does not belong to what is in flight under it")]
    ContradictoryAcknowledgement(PacketType, u16),
    /// A SUBSCRIBE that is wrong as a whole.
    #[error("a SUBSCRIBE is wrong: {0}")]
    Subscribe(#[from] SubscribeError),
    /// [MQTT-3.14.2-2]
    #[error("its DISCONNECT sets a session expiry interval, and its CONNECT had none")]
    SessionExpiryInterval,
    /// The broker ends it.
    #[error("{}", close_text(*.0))]
    Close(Close),
}

impl Failure {
    /// Of the client's DISCONNECT.
    pub fn of_disconnect(reason: ReasonCode) -> Self {
        match reason {
            ReasonCode::Success => Self::Disconnected,
            reason => Self::DisconnectedWith(reason),
        }
    }

    /// Of a socket that failed to be read from or written to.
    pub fn from_io(error: io::Error) -> Self {
        // In TLS: closed without a word, as a client that is killed does on any transport.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Closed;
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Violation>()) {
            Some(violation) => Self::WebSocket(*violation),
            None => Self::Broken(error),
        }
    }

    /// Of a TLS handshake.
    pub fn from_tls(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(reason) => Self::Tls(Box::new(reason.clone())),
            None => Self::from_io(error),
        }
    }

    /// What is sent before the socket closes.
    pub fn answer(&self, version: ProtocolVersion) -> Option<Answer> {
        let reason = match self {
            Self::Disconnected
            | Self::DisconnectedWith(_)
            | Self::Closed
            | Self::Broken(_)
            | Self::ConnectTimeout
            | Self::HandshakeTimeout
            | Self::Tls(_)
            | Self::Proxy(_)
            | Self::UntrustedProxy
            | Self::Upgrade(_)
            | Self::WebSocket(_)
            | Self::NotMqtt(_) => return None,
            Self::AnswerTooLarge(_) => ReasonCode::PacketTooLarge,
            Self::Refused(Refusal::WillTopic(TopicError::NotUtf8 | TopicError::Null)) => {
                ReasonCode::MalformedPacket
            }
            // 3.1.1 has no return code for it [MQTT-3.2.2-6 of 3.1.1].
            Self::Refused(Refusal::WillTopic(_)) if version != ProtocolVersion::V5 => return None,
            Self::Refused(refusal) => return Some(Answer::refusing(version, refusal.reason())),
            Self::NotAuthenticated(_, refused) => {
                return Some(Answer::refusing(version, reason_of(&refused.why)));
            }
            Self::TooManyConnections => return Some(Answer::refusing(version, ReasonCode::QuotaExceeded)),
            Self::TooManyAtOnce => {
                return Some(Answer::refusing(version, ReasonCode::ConnectionRateExceeded));
            }
            Self::Banned(_) => return Some(Answer::refusing(version, ReasonCode::Banned)),
            Self::Decode(error) => return Some(error.answer(version)),
            Self::Topic(TopicError::NotUtf8 | TopicError::Null) => ReasonCode::MalformedPacket,
            // 0x90 is for names that are correctly formed.
            Self::Topic(
                TopicError::Empty
                | TopicError::TooLong
                | TopicError::WildcardInName
                | TopicError::MisplacedMultiLevel
                | TopicError::MisplacedSingleLevel
                | TopicError::MalformedShare,
            )
            | Self::SecondConnect
            | Self::UnexpectedPacket(_)
            | Self::ContradictoryAcknowledgement(..)
            | Self::TopicAliasUnknown(_)
            | Self::SubscriptionIdentifier
            | Self::Subscribe(SubscribeError::NoLocalOnShared)
            | Self::SessionExpiryInterval => ReasonCode::ProtocolError,
            Self::TopicAliasTooLarge(..) => ReasonCode::TopicAliasInvalid,
            Self::PublishDenied(_) | Self::NotProvedAgain(_) => ReasonCode::NotAuthorized,
            Self::ReceiveMaximumExceeded(_) => ReasonCode::ReceiveMaximumExceeded,
            Self::QoSNotSupported => ReasonCode::QoSNotSupported,
            Self::RetainNotSupported => ReasonCode::RetainNotSupported,
            Self::Close(Close::TakenOver) => ReasonCode::SessionTakenOver,
            Self::Close(Close::KeepAliveTimeout) => ReasonCode::KeepAliveTimeout,
            Self::Close(Close::Expired) => ReasonCode::MaximumConnectTime,
            Self::Close(Close::NotAuthorized) => ReasonCode::NotAuthorized,
            Self::Close(Close::WriteTimeout) => ReasonCode::QuotaExceeded,
            Self::Close(Close::ServerShuttingDown | Close::Aborted) => ReasonCode::ServerShuttingDown,
        };
        Some(Answer::closing(version, reason))
    }

    /// Whether the client said that it was leaving.
    pub fn is_asked_for(&self) -> bool {
        matches!(self, Self::Disconnected | Self::DisconnectedWith(_))
    }

    /// Whether nobody is left to write to.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Closed | Self::Broken(_))
    }

    /// Whether it comes before what was to end the connection until then: nobody is left, or nobody waits any longer.
    pub fn is_final(&self) -> bool {
        self.is_gone() || matches!(self, Self::Close(Close::Aborted))
    }

    /// Whether there is time for a client that does not read.
    pub fn is_peaceful(&self) -> bool {
        matches!(self, Self::Close(Close::ServerShuttingDown))
    }

    /// Whether a connection that ends so soon counts against its client: it does not if that was our doing, nor if it is
    /// counted otherwise.
    pub fn is_flapping(&self) -> bool {
        !matches!(
            self,
            Self::TooManyConnections
                | Self::TooManyAtOnce
                | Self::Banned(_)
                | Self::NotAuthenticated(..)
                | Self::NotProvedAgain(_)
                | Self::Refused(Refusal::TooManySessions | Refusal::Stopping)
                | Self::Close(
                    Close::Expired | Close::NotAuthorized | Close::ServerShuttingDown | Close::Aborted
                )
        )
    }

    /// Whether it ended a connection that may never have wanted to speak MQTT: port scans, health checks.
    pub fn is_of_a_stranger(&self) -> bool {
        if let Self::Tls(error) = self {
            // Not TLS at all, or a version that nobody should speak any more.
            return matches!(**error, rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_));
        }
        if let Self::Upgrade(refusal) = self {
            return refusal.is_of_a_stranger();
        }
        matches!(
            self,
            Self::NotMqtt(_)
                | Self::Closed
                | Self::Broken(_)
                | Self::ConnectTimeout
                | Self::HandshakeTimeout
                | Self::Decode(DecodeError::NotConnect | DecodeError::ProtocolName)
        )
    }

    /// Whether the client is at fault by the standard, so that somebody should look at it.
    pub fn is_offence(&self) -> bool {
        match self {
            Self::Disconnected
            | Self::DisconnectedWith(_)
            | Self::Closed
            | Self::Broken(_)
            | Self::ConnectTimeout
            | Self::HandshakeTimeout
            | Self::Tls(_)
            | Self::Proxy(_)
            | Self::UntrustedProxy
            | Self::Upgrade(_)
            | Self::NotMqtt(_)
            | Self::TooManyConnections
            | Self::TooManyAtOnce
            | Self::Banned(_)
            | Self::AnswerTooLarge(_)
            | Self::Refused(_)
            | Self::NotAuthenticated(..)
            | Self::PublishDenied(_)
            | Self::NotProvedAgain(_)
            | Self::Close(_) => false,
            Self::WebSocket(_)
            | Self::Decode(_)
            | Self::SecondConnect
            | Self::UnexpectedPacket(_)
            | Self::ContradictoryAcknowledgement(..)
            | Self::TopicAliasTooLarge(..)
            | Self::TopicAliasUnknown(_)
            | Self::Topic(_)
            | Self::SubscriptionIdentifier
            | Self::ReceiveMaximumExceeded(_)
            | Self::QoSNotSupported
            | Self::RetainNotSupported
            | Self::Subscribe(_)
            | Self::SessionExpiryInterval => true,
        }
    }
}

/// What a client that nobody knows is told; in 3.x this becomes a return code.
fn reason_of(why: &Why) -> ReasonCode {
    match why {
        Why::WrongCredentials | Why::Token(_) => ReasonCode::BadUserNameOrPassword,
        Why::Anonymous | Why::Unknown | Why::NotProved(_) | Why::NoProof | Why::AnotherUser | Why::Denied => {
            ReasonCode::NotAuthorized
        }
        Why::Busy(_) | Why::TooLate => ReasonCode::ServerBusy,
        Why::Unanswered(_) => ReasonCode::ServerUnavailable,
    }
}

fn close_text(close: Close) -> &'static str {
    match close {
        Close::TakenOver => "another connection took the session over",
        Close::KeepAliveTimeout => "nothing came for one and a half times its keep alive",
        Close::WriteTimeout => "it has read nothing for limits.write_timeout",
        Close::Expired => "its token has expired",
        Close::NotAuthorized => "its user was removed or has another password",
        Close::ServerShuttingDown => "the broker stops",
        Close::Aborted => "the broker stops and did not wait any longer",
    }
}
