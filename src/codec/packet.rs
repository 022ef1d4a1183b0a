//! The fifteen Control Packets as data, borrowed from the bytes they were decoded from.
//!
//! Made by [`super::decode`], taken apart by `broker` and `net`; the same types are what `encode` writes.
//! A value that came from `decode` is well-formed in the sense of the standard; what depends on a session's
//! state (is this packet identifier in use?) is not decided here.

use std::num::NonZeroU16;

use super::ReasonCode;

/// Which standard a connection speaks; fixed by its CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3.
    V3_1,
    /// MQTT 3.1.1, protocol name `MQTT`, level 4.
    V3_1_1,
    /// MQTT 5.0, protocol name `MQTT`, level 5.
    V5,
}

/// Quality of Service, §4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

/// A Packet Identifier: never zero [MQTT-2.2.1-3].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// The identifier of a number, unless it is zero.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number on the wire.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// One Control Packet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Acknowledgement<'a>),
    PubRec(Acknowledgement<'a>),
    PubRel(Acknowledgement<'a>),
    PubComp(Acknowledgement<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// User Properties, in the order they came: the order must be kept [MQTT-3.3.2-18].
pub type UserProperties<'a> = Vec<(&'a str, &'a str)>;

/// CONNECT, §3.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// What the client speaks.
    pub version: ProtocolVersion,
    /// Clean Start (5.0) or Clean Session (3.x).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive: u16,
    /// May be empty.
    pub client_id: &'a str,
    /// The Will, if the Will Flag is set.
    pub will: Option<Will<'a>>,
    /// User Name.
    pub username: Option<&'a str>,
    /// Password, any bytes.
    pub password: Option<&'a [u8]>,
    /// 5.0 only; the default for 3.x.
    pub properties: ConnectProperties<'a>,
}

/// CONNECT properties, 5.0 §3.1.2.11. `None` where the client sent none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub struct ConnectProperties<'a> {
    /// Seconds; `u32::MAX` means never.
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    /// Bytes; never zero.
    pub maximum_packet_size: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub user_properties: UserProperties<'a>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
}

/// The Will of a CONNECT, §3.1.3.2 to §3.1.3.4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will<'a> {
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will Topic: valid UTF-8 without U+0000; whether it is a valid Topic Name is for the broker to check.
    pub topic: &'a str,
    /// Will Payload.
    pub payload: &'a [u8],
    /// Will Delay Interval in seconds (5.0).
    pub delay_interval: Option<u32>,
    /// The other Will Properties (5.0).
    pub properties: MessageProperties<'a>,
}

/// The properties of an Application Message as they stood on the wire, already checked.
///
/// `raw` is the property list without its length prefix. What travels on to subscribers is `raw` less Topic
/// Alias, Message Expiry Interval, Subscription Identifier and Will Delay Interval, in the order it came
/// [MQTT-3.3.2-17], [MQTT-3.3.2-18]; see `MessageProperties::append_forwarded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageProperties<'a> {
    /// The whole list.
    pub raw: &'a [u8],
    /// Topic Alias; never zero [MQTT-3.3.2-8].
    pub topic_alias: Option<NonZeroU16>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_interval: Option<u32>,
    /// Payload Format Indicator 1: the payload is UTF-8.
    pub payload_is_utf8: bool,
    /// `raw` holds something that must not be forwarded as it stands.
    pub needs_filtering: bool,
    /// `raw` holds a Subscription Identifier, which only a server may send [MQTT-3.3.4-6].
    pub has_subscription_identifier: bool,
}

/// PUBLISH, §3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// DUP.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// The Topic Name's bytes, *unchecked*: the hot path compares them with a topic checked before.
    /// `TopicName::parse` checks. Empty only in 5.0 with a Topic Alias.
    pub topic: &'a [u8],
    /// Present exactly when QoS > 0.
    pub packet_id: Option<PacketId>,
    /// 5.0 only; empty for 3.x.
    pub properties: MessageProperties<'a>,
    /// The Application Message's payload.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP, §3.4 to §3.7.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement<'a> {
    /// Of the PUBLISH.
    pub packet_id: PacketId,
    /// Always Success in 3.x.
    pub reason: ReasonCode,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

/// SUBSCRIBE, §3.8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Of this packet.
    pub packet_id: PacketId,
    /// Subscription Identifier, 1 to 268,435,455.
    pub subscription_identifier: Option<u32>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// At least one [MQTT-3.8.3-2].
    pub requests: Vec<SubscriptionRequest<'a>>,
}

/// One Topic Filter of a SUBSCRIBE with its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionRequest<'a> {
    /// Valid UTF-8; whether it is a valid Topic Filter is for the broker to check, filter by filter.
    pub filter: &'a str,
    /// The options.
    pub options: SubscriptionOptions,
}

/// Subscription Options, 5.0 §3.8.3.1. In 3.x only the QoS is sent and the rest is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// Own messages are not sent back.
    pub no_local: bool,
    /// The RETAIN flag is forwarded as published.
    pub retain_as_published: bool,
    /// What of the retained messages is sent when subscribing.
    pub retain_handling: RetainHandling,
}

/// Retain Handling, 5.0 §3.8.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send them at every SUBSCRIBE.
    #[default]
    SendAlways = 0,
    /// Send them if the subscription is new.
    SendIfNew = 1,
    /// Never send them.
    DoNotSend = 2,
}

/// SUBACK, §3.9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// One per filter, in order. In 3.x every error is written as 0x80.
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE, §3.10.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Of this packet.
    pub packet_id: PacketId,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// At least one [MQTT-3.10.3-2]; valid UTF-8, otherwise unchecked.
    pub filters: Vec<&'a str>,
}

/// UNSUBACK, §3.11.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// One per filter, in order; not on the wire in 3.x.
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT, §3.14.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Always Success in 3.x.
    pub reason: ReasonCode,
    /// Session Expiry Interval in seconds.
    pub session_expiry_interval: Option<u32>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// Server Reference.
    pub server_reference: Option<&'a str>,
}

/// AUTH, 5.0 §3.15.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, ContinueAuthentication or ReAuthenticate.
    pub reason: ReasonCode,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

/// CONNACK, §3.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Session Present; false whenever the reason is an error [MQTT-3.2.2-6].
    pub session_present: bool,
    /// In 3.x the encoder maps it to a return code, §3.2.2.3 of 3.1.1.
    pub reason: ReasonCode,
    /// 5.0 only; ignored by the encoder for 3.x.
    pub properties: ConnAckProperties<'a>,
}

/// CONNACK properties, 5.0 §3.2.2.3. `None` is left out on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub struct ConnAckProperties<'a> {
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    /// 0 or 1; 2 is said by leaving it out.
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_identifier: Option<&'a str>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
}
