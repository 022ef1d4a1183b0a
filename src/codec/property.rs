//! Properties, 5.0 §2.2.2: the typed values, which may stand where, and lists of them on the wire.
//!
//! Used by every 5.0 packet of the codec; `MessageProperties` hands the typed iterator to tools. A property is
//! described once: [`read`] knows its type and range, [`Property::encode`] writes it, [`allowed_in`] knows its
//! packets.

use std::fmt;
use std::num::NonZeroU16;

use super::wire::{Reader, put_binary, put_two_byte_integer};
use super::{DecodeError, EncodeError, PacketType, QoS, UserProperties, frame};

/// The identifiers of table 2-4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum PropertyId {
    PayloadFormatIndicator = 0x01,
    MessageExpiryInterval = 0x02,
    ContentType = 0x03,
    ResponseTopic = 0x08,
    CorrelationData = 0x09,
    SubscriptionIdentifier = 0x0B,
    SessionExpiryInterval = 0x11,
    AssignedClientIdentifier = 0x12,
    ServerKeepAlive = 0x13,
    AuthenticationMethod = 0x15,
    AuthenticationData = 0x16,
    RequestProblemInformation = 0x17,
    WillDelayInterval = 0x18,
    RequestResponseInformation = 0x19,
    ResponseInformation = 0x1A,
    ServerReference = 0x1C,
    ReasonString = 0x1F,
    ReceiveMaximum = 0x21,
    TopicAliasMaximum = 0x22,
    TopicAlias = 0x23,
    MaximumQoS = 0x24,
    RetainAvailable = 0x25,
    UserProperty = 0x26,
    MaximumPacketSize = 0x27,
    WildcardSubscriptionAvailable = 0x28,
    SubscriptionIdentifierAvailable = 0x29,
    SharedSubscriptionAvailable = 0x2A,
}

impl PropertyId {
    /// The property of an identifier byte, if there is one.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::PayloadFormatIndicator,
            0x02 => Self::MessageExpiryInterval,
            0x03 => Self::ContentType,
            0x08 => Self::ResponseTopic,
            0x09 => Self::CorrelationData,
            0x0B => Self::SubscriptionIdentifier,
            0x11 => Self::SessionExpiryInterval,
            0x12 => Self::AssignedClientIdentifier,
            0x13 => Self::ServerKeepAlive,
            0x15 => Self::AuthenticationMethod,
            0x16 => Self::AuthenticationData,
            0x17 => Self::RequestProblemInformation,
            0x18 => Self::WillDelayInterval,
            0x19 => Self::RequestResponseInformation,
            0x1A => Self::ResponseInformation,
            0x1C => Self::ServerReference,
            0x1F => Self::ReasonString,
            0x21 => Self::ReceiveMaximum,
            0x22 => Self::TopicAliasMaximum,
            0x23 => Self::TopicAlias,
            0x24 => Self::MaximumQoS,
            0x25 => Self::RetainAvailable,
            0x26 => Self::UserProperty,
            0x27 => Self::MaximumPacketSize,
            0x28 => Self::WildcardSubscriptionAvailable,
            0x29 => Self::SubscriptionIdentifierAvailable,
            0x2A => Self::SharedSubscriptionAvailable,
            _ => return None,
        })
    }

    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({:#04x})", *self as u8)
    }
}

/// One property with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum Property<'a> {
    /// 1: the payload is UTF-8. The standard gives no other value but 0 a meaning, and has it forwarded unaltered
    /// [MQTT-3.3.2-4].
    PayloadFormatIndicator(u8),
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(u32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    UserProperty(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

impl Property<'_> {
    /// Its identifier.
    pub fn id(&self) -> PropertyId {
        match self {
            Self::PayloadFormatIndicator(_) => PropertyId::PayloadFormatIndicator,
            Self::MessageExpiryInterval(_) => PropertyId::MessageExpiryInterval,
            Self::ContentType(_) => PropertyId::ContentType,
            Self::ResponseTopic(_) => PropertyId::ResponseTopic,
            Self::CorrelationData(_) => PropertyId::CorrelationData,
            Self::SubscriptionIdentifier(_) => PropertyId::SubscriptionIdentifier,
            Self::SessionExpiryInterval(_) => PropertyId::SessionExpiryInterval,
            Self::AssignedClientIdentifier(_) => PropertyId::AssignedClientIdentifier,
            Self::ServerKeepAlive(_) => PropertyId::ServerKeepAlive,
            Self::AuthenticationMethod(_) => PropertyId::AuthenticationMethod,
            Self::AuthenticationData(_) => PropertyId::AuthenticationData,
            Self::RequestProblemInformation(_) => PropertyId::RequestProblemInformation,
            Self::WillDelayInterval(_) => PropertyId::WillDelayInterval,
            Self::RequestResponseInformation(_) => PropertyId::RequestResponseInformation,
            Self::ResponseInformation(_) => PropertyId::ResponseInformation,
            Self::ServerReference(_) => PropertyId::ServerReference,
            Self::ReasonString(_) => PropertyId::ReasonString,
            Self::ReceiveMaximum(_) => PropertyId::ReceiveMaximum,
            Self::TopicAliasMaximum(_) => PropertyId::TopicAliasMaximum,
            Self::TopicAlias(_) => PropertyId::TopicAlias,
            Self::MaximumQoS(_) => PropertyId::MaximumQoS,
            Self::RetainAvailable(_) => PropertyId::RetainAvailable,
            Self::UserProperty(..) => PropertyId::UserProperty,
            Self::MaximumPacketSize(_) => PropertyId::MaximumPacketSize,
            Self::WildcardSubscriptionAvailable(_) => PropertyId::WildcardSubscriptionAvailable,
            Self::SubscriptionIdentifierAvailable(_) => PropertyId::SubscriptionIdentifierAvailable,
            Self::SharedSubscriptionAvailable(_) => PropertyId::SharedSubscriptionAvailable,
        }
    }

    /// Appends identifier and value.
    ///
    /// # Errors
    /// When a text or binary value has more than 65,535 bytes, or a Subscription Identifier is too large; the
    /// buffer then ends in a part of the property.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(self.id() as u8);
        match *self {
            Self::PayloadFormatIndicator(value) => out.push(value),
            Self::RequestProblemInformation(value)
            | Self::RequestResponseInformation(value)
            | Self::RetainAvailable(value)
            | Self::WildcardSubscriptionAvailable(value)
            | Self::SubscriptionIdentifierAvailable(value)
            | Self::SharedSubscriptionAvailable(value) => out.push(u8::from(value)),
            Self::MaximumQoS(value) => out.push(value as u8),
            Self::ServerKeepAlive(value) | Self::TopicAliasMaximum(value) => put_two_byte_integer(out, value),
            Self::ReceiveMaximum(value) | Self::TopicAlias(value) => put_two_byte_integer(out, value.get()),
            Self::MessageExpiryInterval(value)
            | Self::SessionExpiryInterval(value)
            | Self::WillDelayInterval(value)
            | Self::MaximumPacketSize(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::SubscriptionIdentifier(value) => {
                let (bytes, length) = frame::variable_byte_integer(value as usize)?;
                out.extend(bytes.into_iter().take(length));
            }
            Self::ContentType(value)
            | Self::ResponseTopic(value)
            | Self::AssignedClientIdentifier(value)
            | Self::AuthenticationMethod(value)
            | Self::ResponseInformation(value)
            | Self::ServerReference(value)
            | Self::ReasonString(value) => put_binary(out, value.as_bytes())?,
            Self::CorrelationData(value) | Self::AuthenticationData(value) => put_binary(out, value)?,
            Self::UserProperty(name, value) => {
                put_binary(out, name.as_bytes())?;
                put_binary(out, value.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Where a property list stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the variable header of a packet.
    Packet(PacketType),
    /// The Will Properties in a CONNECT's payload.
    Will,
}

/// Takes a property list with its length before it, unread; returns it without the length.
pub(super) fn take_list<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = reader.variable_byte_integer()?;
    reader.take(length as usize).map_err(|_| DecodeError::PropertyLength)
}

/// Checks a property list and gives each property to `each`, in order.
pub(super) fn read_list<'a>(
    raw: &'a [u8],
    place: Place,
    mut each: impl FnMut(Property<'a>),
) -> Result<(), DecodeError> {
    let allowed = allowed_in(place);
    let mut seen = 0;
    let mut list = Reader::new(raw);
    while !list.is_empty() {
        each(read(&mut list, |id| check_place(id, place, allowed, &mut seen))?);
    }
    Ok(())
}

/// That the property may stand here, and for the first time unless it may be repeated.
fn check_place(id: PropertyId, place: Place, allowed: u64, seen: &mut u64) -> Result<(), DecodeError> {
    let bit = id.bit();
    if allowed & bit == 0 {
        let packet = match place {
            Place::Packet(packet) => packet,
            Place::Will => PacketType::Connect,
        };
        return Err(DecodeError::PropertyNotAllowed { property: id, packet });
    }
    let repeatable = id == PropertyId::UserProperty
        || id == PropertyId::SubscriptionIdentifier && place == Place::Packet(PacketType::Publish);
    if *seen & bit != 0 && !repeatable {
        return Err(DecodeError::PropertyRepeated(id));
    }
    *seen |= bit;
    Ok(())
}

/// Reads one property; `check` has its say before the value is looked at.
fn read<'a>(
    reader: &mut Reader<'a>,
    check: impl FnOnce(PropertyId) -> Result<(), DecodeError>,
) -> Result<Property<'a>, DecodeError> {
    let byte = reader.byte()?;
    let id = PropertyId::from_byte(byte).ok_or(DecodeError::UnknownProperty(byte))?;
    check(id)?;
    read_value(reader, id).map_err(|error| match error {
        // A value that ends behind the list's end: one of both lengths lies.
        DecodeError::Truncated => DecodeError::PropertyLength,
        error => error,
    })
}

fn read_value<'a>(reader: &mut Reader<'a>, id: PropertyId) -> Result<Property<'a>, DecodeError> {
    let out_of_range = |value| DecodeError::PropertyOutOfRange { property: id, value };
    let boolean = |reader: &mut Reader<'a>| match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(out_of_range(u32::from(value))),
    };
    Ok(match id {
        PropertyId::PayloadFormatIndicator => Property::PayloadFormatIndicator(reader.byte()?),
        PropertyId::MessageExpiryInterval => Property::MessageExpiryInterval(reader.four_byte_integer()?),
        PropertyId::ContentType => Property::ContentType(reader.string()?),
        PropertyId::ResponseTopic => {
            let topic = reader.string()?;
            if topic.is_empty() || topic.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
                return Err(DecodeError::ResponseTopicInvalid);
            }
            Property::ResponseTopic(topic)
        }
        PropertyId::CorrelationData => Property::CorrelationData(reader.binary()?),
        PropertyId::SubscriptionIdentifier => match reader.variable_byte_integer()? {
            0 => return Err(out_of_range(0)),
            value => Property::SubscriptionIdentifier(value),
        },
        PropertyId::SessionExpiryInterval => Property::SessionExpiryInterval(reader.four_byte_integer()?),
        PropertyId::AssignedClientIdentifier => Property::AssignedClientIdentifier(reader.string()?),
        PropertyId::ServerKeepAlive => Property::ServerKeepAlive(reader.two_byte_integer()?),
        PropertyId::AuthenticationMethod => Property::AuthenticationMethod(reader.string()?),
        PropertyId::AuthenticationData => Property::AuthenticationData(reader.binary()?),
        PropertyId::RequestProblemInformation => Property::RequestProblemInformation(boolean(reader)?),
        PropertyId::WillDelayInterval => Property::WillDelayInterval(reader.four_byte_integer()?),
        PropertyId::RequestResponseInformation => Property::RequestResponseInformation(boolean(reader)?),
        PropertyId::ResponseInformation => Property::ResponseInformation(reader.string()?),
        PropertyId::ServerReference => Property::ServerReference(reader.string()?),
        PropertyId::ReasonString => Property::ReasonString(reader.string()?),
        PropertyId::ReceiveMaximum => {
            let value = NonZeroU16::new(reader.two_byte_integer()?).ok_or_else(|| out_of_range(0))?;
            Property::ReceiveMaximum(value)
        }
        PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(reader.two_byte_integer()?),
        PropertyId::TopicAlias => {
            let value = NonZeroU16::new(reader.two_byte_integer()?).ok_or(DecodeError::TopicAliasZero)?;
            Property::TopicAlias(value)
        }
        PropertyId::MaximumQoS => match boolean(reader)? {
            false => Property::MaximumQoS(QoS::AtMostOnce),
            true => Property::MaximumQoS(QoS::AtLeastOnce),
        },
        PropertyId::RetainAvailable => Property::RetainAvailable(boolean(reader)?),
        PropertyId::UserProperty => Property::UserProperty(reader.string()?, reader.string()?),
        PropertyId::MaximumPacketSize => match reader.four_byte_integer()? {
            0 => return Err(out_of_range(0)),
            value => Property::MaximumPacketSize(value),
        },
        PropertyId::WildcardSubscriptionAvailable => {
            Property::WildcardSubscriptionAvailable(boolean(reader)?)
        }
        PropertyId::SubscriptionIdentifierAvailable => {
            Property::SubscriptionIdentifierAvailable(boolean(reader)?)
        }
        PropertyId::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(boolean(reader)?),
    })
}

/// The properties of a list that was checked when it was decoded.
#[derive(Debug, Clone)]
pub struct Properties<'a> {
    list: Reader<'a>,
}

impl<'a> Properties<'a> {
    pub(super) fn new(raw: &'a [u8]) -> Self {
        Self { list: Reader::new(raw) }
    }

    /// The next property together with its bytes; `None` at the end, and at the first thing that is none in a
    /// list nobody checked.
    pub(super) fn next_with_bytes(&mut self) -> Option<(Property<'a>, &'a [u8])> {
        let before = self.list.rest();
        let property = read(&mut self.list, |_| Ok(())).ok()?;
        let taken = before.len() - self.list.rest().len();
        Some((property, before.get(..taken)?))
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        self.next_with_bytes().map(|(property, _)| property)
    }
}

/// All values of a list in which nothing but User Properties repeats.
#[derive(Debug, Default)]
pub(super) struct PropertyValues<'a> {
    pub(super) subscription_identifier: Option<u32>,
    pub(super) session_expiry_interval: Option<u32>,
    pub(super) assigned_client_identifier: Option<&'a str>,
    pub(super) server_keep_alive: Option<u16>,
    pub(super) authentication_method: Option<&'a str>,
    pub(super) authentication_data: Option<&'a [u8]>,
    pub(super) request_problem_information: Option<bool>,
    pub(super) request_response_information: Option<bool>,
    pub(super) response_information: Option<&'a str>,
    pub(super) server_reference: Option<&'a str>,
    pub(super) reason_string: Option<&'a str>,
    pub(super) receive_maximum: Option<NonZeroU16>,
    pub(super) topic_alias_maximum: Option<u16>,
    pub(super) maximum_qos: Option<QoS>,
    pub(super) retain_available: Option<bool>,
    pub(super) user_properties: UserProperties<'a>,
    pub(super) maximum_packet_size: Option<u32>,
    pub(super) wildcard_subscription_available: Option<bool>,
    pub(super) subscription_identifiers_available: Option<bool>,
    pub(super) shared_subscription_available: Option<bool>,
}

impl<'a> PropertyValues<'a> {
    /// Reads the list of a packet other than PUBLISH.
    pub(super) fn read(reader: &mut Reader<'a>, packet: PacketType) -> Result<Self, DecodeError> {
        let mut values = Self::default();
        read_list(take_list(reader)?, Place::Packet(packet), |property| values.set(property))?;
        if values.authentication_data.is_some() && values.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataWithoutMethod);
        }
        Ok(values)
    }

    fn set(&mut self, property: Property<'a>) {
        match property {
            Property::SubscriptionIdentifier(value) => self.subscription_identifier = Some(value),
            Property::SessionExpiryInterval(value) => self.session_expiry_interval = Some(value),
            Property::AssignedClientIdentifier(value) => self.assigned_client_identifier = Some(value),
            Property::ServerKeepAlive(value) => self.server_keep_alive = Some(value),
            Property::AuthenticationMethod(value) => self.authentication_method = Some(value),
            Property::AuthenticationData(value) => self.authentication_data = Some(value),
            Property::RequestProblemInformation(value) => self.request_problem_information = Some(value),
            Property::RequestResponseInformation(value) => self.request_response_information = Some(value),
            Property::ResponseInformation(value) => self.response_information = Some(value),
            Property::ServerReference(value) => self.server_reference = Some(value),
            Property::ReasonString(value) => self.reason_string = Some(value),
            Property::ReceiveMaximum(value) => self.receive_maximum = Some(value),
            Property::TopicAliasMaximum(value) => self.topic_alias_maximum = Some(value),
            Property::MaximumQoS(value) => self.maximum_qos = Some(value),
            Property::RetainAvailable(value) => self.retain_available = Some(value),
            Property::UserProperty(name, value) => self.user_properties.push((name, value)),
            Property::MaximumPacketSize(value) => self.maximum_packet_size = Some(value),
            Property::WildcardSubscriptionAvailable(value) => {
                self.wildcard_subscription_available = Some(value);
            }
            Property::SubscriptionIdentifierAvailable(value) => {
                self.subscription_identifiers_available = Some(value);
            }
            Property::SharedSubscriptionAvailable(value) => self.shared_subscription_available = Some(value),
            // Those of an Application Message are kept as bytes, see `MessageProperties`.
            Property::PayloadFormatIndicator(_)
            | Property::MessageExpiryInterval(_)
            | Property::ContentType(_)
            | Property::ResponseTopic(_)
            | Property::CorrelationData(_)
            | Property::WillDelayInterval(_)
            | Property::TopicAlias(_) => {}
        }
    }
}

/// Appends a property if there is a value for it.
pub(super) fn put_optional<'a, T: Copy>(
    out: &mut Vec<u8>,
    value: Option<T>,
    property: impl FnOnce(T) -> Property<'a>,
) -> Result<(), EncodeError> {
    value.map_or(Ok(()), |value| property(value).encode(out))
}

/// Appends User Properties, in order.
pub(super) fn put_user_properties(out: &mut Vec<u8>, pairs: &[(&str, &str)]) -> Result<(), EncodeError> {
    pairs.iter().try_for_each(|(name, value)| Property::UserProperty(name, value).encode(out))
}

/// Table 2-4 as sets of identifiers. PUBLISH from a client must not have Subscription Identifiers, but whose
/// packet it is cannot be seen from here.
const fn allowed_in(place: Place) -> u64 {
    use PropertyId as Id;
    const USER: u64 = Id::UserProperty.bit();
    const REASON: u64 = Id::ReasonString.bit() | USER;
    const MESSAGE: u64 = Id::PayloadFormatIndicator.bit()
        | Id::MessageExpiryInterval.bit()
        | Id::ContentType.bit()
        | Id::ResponseTopic.bit()
        | Id::CorrelationData.bit()
        | USER;
    const AUTHENTICATION: u64 = Id::AuthenticationMethod.bit() | Id::AuthenticationData.bit();
    match place {
        Place::Will => MESSAGE | Id::WillDelayInterval.bit(),
        Place::Packet(packet) => match packet {
            PacketType::Connect => {
                Id::SessionExpiryInterval.bit()
                    | Id::ReceiveMaximum.bit()
                    | Id::MaximumPacketSize.bit()
                    | Id::TopicAliasMaximum.bit()
                    | Id::RequestResponseInformation.bit()
                    | Id::RequestProblemInformation.bit()
                    | AUTHENTICATION
                    | USER
            }
            PacketType::ConnAck => {
                Id::SessionExpiryInterval.bit()
                    | Id::ReceiveMaximum.bit()
                    | Id::MaximumQoS.bit()
                    | Id::RetainAvailable.bit()
                    | Id::MaximumPacketSize.bit()
                    | Id::AssignedClientIdentifier.bit()
                    | Id::TopicAliasMaximum.bit()
                    | Id::WildcardSubscriptionAvailable.bit()
                    | Id::SubscriptionIdentifierAvailable.bit()
                    | Id::SharedSubscriptionAvailable.bit()
                    | Id::ServerKeepAlive.bit()
                    | Id::ResponseInformation.bit()
                    | Id::ServerReference.bit()
                    | AUTHENTICATION
                    | REASON
            }
            PacketType::Publish => MESSAGE | Id::TopicAlias.bit() | Id::SubscriptionIdentifier.bit(),
            PacketType::Subscribe => Id::SubscriptionIdentifier.bit() | USER,
            PacketType::Unsubscribe => USER,
            PacketType::PubAck
            | PacketType::PubRec
            | PacketType::PubRel
            | PacketType::PubComp
            | PacketType::SubAck
            | PacketType::UnsubAck => REASON,
            PacketType::Disconnect => Id::SessionExpiryInterval.bit() | Id::ServerReference.bit() | REASON,
            PacketType::Auth => AUTHENTICATION | REASON,
            PacketType::PingReq | PacketType::PingResp => 0,
        },
    }
}
