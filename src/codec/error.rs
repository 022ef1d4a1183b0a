//! What can be wrong with a packet, and what the standard says is to be answered.
//!
//! [`DecodeError`] names each offence; [`DecodeError::answer`] is the only place that turns an offence into a
//! Reason Code and into what is sent before the connection closes (§4.13). [`EncodeError`] is about what we
//! were asked to write.

use thiserror::Error;

use super::connect::encode_connack;
use super::disconnect::encode_disconnect_reason;
use super::{PacketType, PropertyId, ProtocolVersion, ReasonCode};

/// Why bytes are not the packet they claim to be. Whoever sent them is at fault, so the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Packet type 0 is reserved, §2.1.2.
    #[error("packet type 0 is reserved")]
    ReservedPacketType,
    /// AUTH exists since 5.0.
    #[error("AUTH does not exist before MQTT 5.0")]
    AuthBeforeV5,
    /// [MQTT-2.1.3-1]
    #[error("{packet} has the flags {flags:#06b} in its first byte, which the standard reserves")]
    ReservedFlags {
        /// The packet.
        packet: PacketType,
        /// The low four bits of its first byte.
        flags: u8,
    },
    /// [MQTT-1.5.5-1] and §2.1.4: four bytes at most.
    #[error("a variable byte integer takes more than four bytes")]
    VariableByteIntegerTooLong,
    /// [MQTT-1.5.5-1]
    #[error("a variable byte integer takes more bytes than its value needs")]
    VariableByteIntegerNotMinimal,
    /// [MQTT-3.1.2-24]; decided by the caller of `read_header`, from the header.
    #[error("the packet has {size} bytes and the limit is {limit}; raise max_packet_size if it is wanted")]
    PacketTooLarge {
        /// The whole packet's bytes.
        size: usize,
        /// What is accepted.
        limit: usize,
    },
    /// A field ends behind the packet's end.
    #[error("the packet ends in the middle of a field")]
    Truncated,
    /// The packet has more bytes than fields.
    #[error("{0} bytes are left over behind the packet's last field")]
    TrailingBytes(usize),
    /// [MQTT-1.5.4-1]
    #[error("a text is not well-formed UTF-8")]
    NotUtf8,
    /// [MQTT-1.5.4-2]
    #[error("a text contains the null character")]
    NullCharacter,
    /// [MQTT-3.3.1-4], [MQTT-3.1.2-12]: 3 is no QoS.
    #[error("QoS 3 does not exist")]
    InvalidQoS,
    /// [MQTT-3.3.1-2]
    #[error("a QoS 0 PUBLISH has the DUP flag")]
    DupWithQoS0,
    /// [MQTT-2.2.1-3]
    #[error("the packet identifier is 0")]
    PacketIdZero,
    /// [MQTT-4.7.3-1]
    #[error("a PUBLISH has an empty topic name")]
    TopicEmpty,
    /// §3.3.2.3.4: an empty Topic Name needs an alias.
    #[error("a PUBLISH has neither a topic name nor a topic alias")]
    TopicAliasMissing,
    /// [MQTT-3.3.2-8]
    #[error("the topic alias is 0")]
    TopicAliasZero,
    /// [MQTT-3.3.2-14], [MQTT-4.7.3-1]
    #[error("the response topic is empty or contains '+' or '#'")]
    ResponseTopicInvalid,
    /// §2.2.2.2
    #[error("there is no property with the identifier {0:#04x}")]
    UnknownProperty(u8),
    /// §2.2.2.2
    #[error("the property {property} does not belong into {packet}")]
    PropertyNotAllowed {
        /// The property.
        property: PropertyId,
        /// Where it stood.
        packet: PacketType,
    },
    /// §2.2.2.2
    #[error("the property {0} stands there twice")]
    PropertyRepeated(PropertyId),
    /// The property length reaches behind the packet's end, or into a property.
    #[error("the property length disagrees with the properties or with the packet")]
    PropertyLength,
    /// A value the standard forbids: 0 where there must be something, or no boolean.
    #[error("the property {property} must not be {value}")]
    PropertyOutOfRange {
        /// The property.
        property: PropertyId,
        /// The value.
        value: u32,
    },
    /// §3.1.2.11.10, §3.15.2.2.3
    #[error("there is authentication data without an authentication method")]
    AuthenticationDataWithoutMethod,
    /// §3.15.2.2.2
    #[error("AUTH names no authentication method")]
    AuthenticationMethodMissing,
    /// [MQTT-3.1.0-1]
    #[error("the first packet is not CONNECT")]
    NotConnect,
    /// [MQTT-3.1.2-1]
    #[error("the protocol name is neither MQTT nor MQIsdp")]
    ProtocolName,
    /// [MQTT-3.1.2-2]
    #[error("protocol level {0} is not supported; 3 (MQIsdp), 4 and 5 (MQTT) are")]
    UnsupportedProtocolLevel(u8),
    /// [MQTT-3.1.2-3]
    #[error("the reserved bit of the connect flags is set")]
    ConnectFlagReserved,
    /// [MQTT-3.1.2-11], [MQTT-3.1.2-13]
    #[error("Will QoS or Will Retain is set without the Will Flag")]
    WillFlagsWithoutWill,
    /// 3.1.1 [MQTT-3.1.2-22]; allowed since 5.0.
    #[error("there is a password without a user name")]
    PasswordWithoutUserName,
    /// 3.1.1 [MQTT-3.1.3-8], 3.1 §3.1
    #[error("the client identifier is empty, which needs Clean Session and MQTT 3.1.1 or later")]
    ClientIdEmpty,
    /// [MQTT-3.8.3-2], [MQTT-3.10.3-2]
    #[error("{0} has no topic filter")]
    NoTopicFilters(PacketType),
    /// [MQTT-3.8.3-5]
    #[error("the subscription options {0:#010b} have reserved bits")]
    SubscriptionOptionsReserved(u8),
    /// §3.8.3.1, which makes this a Protocol Error, where a PUBLISH or a Will of QoS 3 is malformed.
    #[error("a subscription asks for QoS 3, which does not exist")]
    InvalidMaximumQoS,
    /// §3.8.3.1
    #[error("retain handling 3 does not exist")]
    InvalidRetainHandling,
    /// [MQTT-3.4.2-1] and its like for each packet.
    #[error("{packet} must not have the reason code {code:#04x}")]
    ReasonNotAllowed {
        /// The packet.
        packet: PacketType,
        /// The byte that stood there.
        code: u8,
    },
    /// [MQTT-3.9.3-1], [MQTT-3.11.3-1]
    #[error("{0} has no reason code")]
    NoReasonCodes(PacketType),
    /// [MQTT-3.2.2-1], [MQTT-3.2.2-6]
    #[error("the acknowledge flags {0:#04x} are reserved, or promise a session beside an error")]
    ConnAckFlags(u8),
}

/// What is sent before the connection closes; it always closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The Reason Code, for the log too where nothing is sent.
    pub reason: ReasonCode,
    /// While the CONNECT is not accepted: the version in which a CONNACK is to be written, if at all.
    pub connack: Option<ProtocolVersion>,
    /// After it is accepted: whether a DISCONNECT is sent. Only ever in 5.0.
    pub disconnect: bool,
}

impl Answer {
    /// The answer of `version` with this reason; 3.x closes without a word [MQTT-4.8.0-1 of 3.1.1].
    pub fn closing(version: ProtocolVersion, reason: ReasonCode) -> Self {
        match version {
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
                Self { reason, connack: None, disconnect: false }
            }
            ProtocolVersion::V5 => Self { reason, connack: Some(version), disconnect: true },
        }
    }

    /// A CONNACK in `version`, whatever the version; there is no DISCONNECT for it in 3.x.
    pub fn refusing(version: ProtocolVersion, reason: ReasonCode) -> Self {
        Self { reason, connack: Some(version), disconnect: version == ProtocolVersion::V5 }
    }

    /// Writes what the standard wants sent, which may be nothing. `connected` tells whether the CONNECT was
    /// accepted before.
    pub fn encode(&self, connected: bool, out: &mut Vec<u8>) {
        if connected {
            if self.disconnect {
                encode_disconnect_reason(out, self.reason);
            }
        } else if let Some(version) = self.connack {
            encode_connack(out, version, false, self.reason);
        }
    }
}

impl DecodeError {
    /// What is answered to a client that speaks `version`. For a first packet ask
    /// [`super::connect_version`] which one that is, and take 3.1.1 if it is none.
    pub fn answer(&self, version: ProtocolVersion) -> Answer {
        match *self {
            Self::ReservedPacketType
            | Self::ReservedFlags { .. }
            | Self::VariableByteIntegerTooLong
            | Self::VariableByteIntegerNotMinimal
            | Self::Truncated
            | Self::TrailingBytes(_)
            | Self::NotUtf8
            | Self::NullCharacter
            | Self::InvalidQoS
            | Self::DupWithQoS0
            | Self::UnknownProperty(_)
            | Self::PropertyNotAllowed { .. }
            | Self::PropertyLength
            | Self::ConnectFlagReserved
            | Self::WillFlagsWithoutWill
            | Self::PasswordWithoutUserName
            | Self::SubscriptionOptionsReserved(_)
            | Self::ReasonNotAllowed { .. }
            | Self::ConnAckFlags(_) => Answer::closing(version, ReasonCode::MalformedPacket),
            Self::AuthBeforeV5
            | Self::PacketIdZero
            | Self::TopicEmpty
            | Self::TopicAliasMissing
            | Self::ResponseTopicInvalid
            | Self::PropertyRepeated(_)
            | Self::PropertyOutOfRange { .. }
            | Self::AuthenticationDataWithoutMethod
            | Self::AuthenticationMethodMissing
            | Self::NoTopicFilters(_)
            | Self::InvalidMaximumQoS
            | Self::InvalidRetainHandling
            | Self::NoReasonCodes(_) => Answer::closing(version, ReasonCode::ProtocolError),
            Self::TopicAliasZero => Answer::closing(version, ReasonCode::TopicAliasInvalid),
            Self::PacketTooLarge { .. } => Answer::closing(version, ReasonCode::PacketTooLarge),
            // A stranger to MQTT would not understand any packet of ours.
            Self::NotConnect => {
                Answer { reason: ReasonCode::ProtocolError, connack: None, disconnect: false }
            }
            Self::ProtocolName => {
                Answer { reason: ReasonCode::UnsupportedProtocolVersion, connack: None, disconnect: false }
            }
            Self::UnsupportedProtocolLevel(level) => {
                Answer::refusing(version_to_refuse(level), ReasonCode::UnsupportedProtocolVersion)
            }
            Self::ClientIdEmpty => Answer::refusing(version, ReasonCode::ClientIdentifierNotValid),
        }
    }
}

/// In which version a client of an unknown level is told so. Bridges set the top bit of the level they
/// really speak and try again without it if the refusal is one they can read.
fn version_to_refuse(level: u8) -> ProtocolVersion {
    if level & 0x7F >= 5 { ProtocolVersion::V5 } else { ProtocolVersion::V3_1_1 }
}

/// Why a packet cannot be written. Nothing was appended to the buffer then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// §1.5.4, §1.5.6
    #[error("a text or binary field has {0} bytes; 65,535 is the most the format can hold")]
    FieldTooLong(usize),
    /// §2.1.4, §1.5.5
    #[error("a length of {0} bytes is more than a variable byte integer can hold")]
    LengthTooLarge(usize),
    /// [MQTT-3.1.2-24]: the client said how much it takes; the packet must not be sent.
    #[error("the packet has {size} bytes and the client takes {limit}; it must not be sent")]
    ExceedsMaximumPacketSize {
        /// The packet's bytes, without what may be left out.
        size: usize,
        /// The client's Maximum Packet Size.
        limit: u32,
    },
    /// [MQTT-2.2.1-2]
    #[error("a PUBLISH of QoS 1 or 2 needs a packet identifier")]
    PacketIdMissing,
    /// AUTH exists since 5.0.
    #[error("AUTH cannot be written for MQTT 3.x")]
    AuthBeforeV5,
}
