//! What a client says first and what it must hear: CONNECT and CONNACK, SUBACK, DISCONNECT.

use std::num::NonZeroU16;

use super::{ClientError, Incoming, Server};
use crate::codec::{
    ConnAck, Connect, ConnectProperties, EncodeError, Packet, PacketId, PacketType, ProtocolVersion, QoS,
    ReasonCode, Subscribe, SubscriptionOptions, SubscriptionRequest, decode_body,
};

/// Seconds without a packet of a client after which a broker may take it for dead.
const KEEP_ALIVE: u16 = 300;

/// One client to connect.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Client Identifier.
    pub id: String,
    /// Whether an old session of the name is thrown away.
    pub clean_start: bool,
    /// How long the session outlives the connection, in seconds (5.0; in 3.x it stays if `clean_start` is false).
    pub session_expiry: u32,
    /// Seconds; see [`Connections::keep_alive`](super::Connections::keep_alive), which sees to it.
    pub keep_alive: u16,
    /// Messages that the broker may have unacknowledged (5.0).
    pub receive_maximum: Option<NonZeroU16>,
    /// The number of its connection's owner.
    pub owner: u32,
}

impl Client {
    /// A client with a session that ends with its connection.
    pub fn new(id: String, owner: u32) -> Self {
        Self {
            id,
            clean_start: true,
            session_expiry: 0,
            keep_alive: KEEP_ALIVE,
            receive_maximum: None,
            owner,
        }
    }

    /// Appends the CONNECT.
    pub fn connect(&self, server: &Server, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let is_v5 = server.version == ProtocolVersion::V5;
        let properties = ConnectProperties {
            session_expiry_interval: Some(self.session_expiry).filter(|seconds| is_v5 && *seconds > 0),
            receive_maximum: self.receive_maximum.filter(|_| is_v5),
            ..ConnectProperties::default()
        };
        let login = &server.login;
        Packet::Connect(Connect {
            version: server.version,
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            client_id: &self.id,
            will: None,
            username: login.username.as_deref(),
            password: login.password.as_deref().map(str::as_bytes),
            properties,
        })
        .encode(server.version, out)
    }
}

/// The CONNACK of a packet that must be one, and a good one.
pub(crate) fn connack(server: &Server, packet: Incoming<'_>) -> Result<Limits, ClientError> {
    match decode_body(server.version, packet.header.first_byte, packet.body)? {
        Packet::ConnAck(ConnAck { reason, .. }) if reason.is_error() => Err(ClientError::Refused(reason)),
        Packet::ConnAck(ConnAck { session_present, properties, .. }) => Ok(Limits {
            receive_maximum: properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
            maximum_qos: properties.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            maximum_packet_size: properties.maximum_packet_size.unwrap_or(u32::MAX),
            server_keep_alive: properties.server_keep_alive,
            sessions_present: u64::from(session_present),
        }),
        other => Err(ClientError::Stuck(format!("the broker answered CONNECT by {}", other.packet_type()))),
    }
}

/// The strictest of what brokers have said in their CONNACKs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// QoS 1 and 2 messages that may be unacknowledged.
    pub receive_maximum: u16,
    /// The highest QoS.
    pub maximum_qos: QoS,
    /// Bytes of a packet.
    pub maximum_packet_size: u32,
    /// The Keep Alive that counts instead of the client's, if the broker has one of its own.
    pub server_keep_alive: Option<u16>,
    /// Sessions that were there already.
    pub sessions_present: u64,
}

impl Limits {
    /// Those of a broker that has not said any.
    pub fn none() -> Self {
        Self {
            receive_maximum: u16::MAX,
            maximum_qos: QoS::ExactlyOnce,
            maximum_packet_size: u32::MAX,
            server_keep_alive: None,
            sessions_present: 0,
        }
    }

    /// The stricter of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            receive_maximum: self.receive_maximum.min(other.receive_maximum),
            maximum_qos: self.maximum_qos.min(other.maximum_qos),
            maximum_packet_size: self.maximum_packet_size.min(other.maximum_packet_size),
            server_keep_alive: [self.server_keep_alive, other.server_keep_alive].into_iter().flatten().min(),
            sessions_present: self.sessions_present + other.sessions_present,
        }
    }
}

/// Appends a SUBSCRIBE.
pub(crate) fn put_subscribe(
    version: ProtocolVersion,
    packet_id: PacketId,
    filters: &[String],
    qos: QoS,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    let requests = filters.iter().map(|filter| SubscriptionRequest { filter, options }).collect();
    Packet::Subscribe(Subscribe {
        packet_id,
        subscription_identifier: None,
        user_properties: Vec::new(),
        requests,
    })
    .encode(version, out)
}

/// What SUBACKs grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Subscriptions.
    pub count: usize,
    /// The lowest QoS of them.
    pub qos: QoS,
}

impl Granted {
    /// Nothing yet.
    pub fn none() -> Self {
        Self { count: 0, qos: QoS::ExactlyOnce }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { count: self.count + other.count, qos: self.qos.min(other.qos) }
    }
}

/// What a SUBACK grants; an error if it refuses a filter.
pub(crate) fn suback(version: ProtocolVersion, packet: Incoming<'_>) -> Result<Granted, ClientError> {
    match decode_body(version, packet.header.first_byte, packet.body)? {
        Packet::SubAck(suback) => match suback.reasons.iter().find(|reason| reason.is_error()) {
            Some(reason) => Err(ClientError::SubscriptionRefused(*reason)),
            None => Ok(suback.reasons.iter().map(granted).fold(Granted::none(), Granted::and)),
        },
        other => Err(ClientError::Stuck(format!("the broker answered SUBSCRIBE by {}", other.packet_type()))),
    }
}

fn granted(reason: &ReasonCode) -> Granted {
    let qos = match reason {
        ReasonCode::GrantedQoS1 => QoS::AtLeastOnce,
        ReasonCode::GrantedQoS2 => QoS::ExactlyOnce,
        _ => QoS::AtMostOnce,
    };
    Granted { count: 1, qos }
}

/// An error for a DISCONNECT, which in 5.0 brokers send; other packets pass.
pub(crate) fn refuse_disconnect(packet: Incoming<'_>) -> Result<(), ClientError> {
    if packet.kind() != Some(PacketType::Disconnect) {
        return Ok(());
    }
    match decode_body(ProtocolVersion::V5, packet.header.first_byte, packet.body)? {
        Packet::Disconnect(disconnect) => Err(ClientError::Disconnected(disconnect.reason)),
        _ => Ok(()),
    }
}
