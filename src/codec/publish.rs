//! PUBLISH, §3.3, and the properties of its message: the hot path of the codec.
//!
//! `net` calls [`decode_publish`] for every PUBLISH of a read buffer; `session` writes with
//! [`encode_publish`]. Neither allocates but for the growth of the output buffer. The topic's text is not
//! looked at here: `broker` compares it with topics it has checked before.

use super::frame::{self, DUP, variable_byte_integer, variable_byte_integer_length};
use super::property::{Place, Properties, Property, PropertyId, read_list, take_list};
use super::wire::Reader;
use super::{
    DecodeError, EncodeError, MessageProperties, PacketId, PacketType, ProtocolVersion, Publish, QoS,
};

/// Decodes what follows the fixed header of a PUBLISH. Topic, properties and payload borrow from `body`.
// Measured: passing the packet back through memory costs a processor more than decoding it.
#[inline(always)]
pub fn decode_publish<'a>(
    version: ProtocolVersion,
    first_byte: u8,
    body: &'a [u8],
) -> Result<Publish<'a>, DecodeError> {
    let (topic_length, rest) = body.split_first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    let topic_length = usize::from(u16::from_be_bytes(*topic_length));
    let (topic, mut rest) = rest.split_at_checked(topic_length).ok_or(DecodeError::Truncated)?;
    let dup = first_byte & DUP != 0;
    let qos = match first_byte >> 1 & 0b11 {
        0 if dup => return Err(DecodeError::DupWithQoS0),
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => return Err(DecodeError::InvalidQoS),
    };
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce | QoS::ExactlyOnce => {
            let (id, behind) = rest.split_first_chunk::<2>().ok_or(DecodeError::Truncated)?;
            rest = behind;
            Some(PacketId::new(u16::from_be_bytes(*id)).ok_or(DecodeError::PacketIdZero)?)
        }
    };
    let mut properties = MessageProperties::default();
    if version == ProtocolVersion::V5 {
        // No properties is the usual case even here.
        if let [0, payload @ ..] = rest {
            rest = payload;
        } else {
            let mut reader = Reader::new(rest);
            (properties, _) = read_message_properties(take_list(&mut reader)?, IN_PUBLISH)?;
            rest = reader.rest();
        }
    }
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(empty_topic(version));
    }
    Ok(Publish { dup, qos, retain: first_byte & 1 != 0, topic, packet_id, properties, payload: rest })
}

#[cold]
fn empty_topic(version: ProtocolVersion) -> DecodeError {
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => DecodeError::TopicEmpty,
        ProtocolVersion::V5 => DecodeError::TopicAliasMissing,
    }
}

const IN_PUBLISH: Place = Place::Packet(PacketType::Publish);

/// Reads the property list of a PUBLISH or a Will; the second value is the Will Delay Interval.
pub(super) fn read_message_properties(
    raw: &[u8],
    place: Place,
) -> Result<(MessageProperties<'_>, Option<u32>), DecodeError> {
    let mut properties = MessageProperties { raw, ..MessageProperties::default() };
    let mut delay_interval = None;
    read_list(raw, place, |property| {
        properties.needs_filtering |= is_for_one_hop(property.id());
        match property {
            Property::PayloadFormatIndicator(value) => properties.payload_is_utf8 = value == 1,
            Property::MessageExpiryInterval(seconds) => properties.message_expiry_interval = Some(seconds),
            Property::TopicAlias(alias) => properties.topic_alias = Some(alias),
            Property::SubscriptionIdentifier(_) => properties.has_subscription_identifier = true,
            Property::WillDelayInterval(seconds) => delay_interval = Some(seconds),
            // Kept in `raw`, which is all that is done with them.
            Property::ContentType(_)
            | Property::ResponseTopic(_)
            | Property::CorrelationData(_)
            | Property::UserProperty(..)
            // Not let through by `read_list`.
            | Property::SessionExpiryInterval(_)
            | Property::AssignedClientIdentifier(_)
            | Property::ServerKeepAlive(_)
            | Property::AuthenticationMethod(_)
            | Property::AuthenticationData(_)
            | Property::RequestProblemInformation(_)
            | Property::RequestResponseInformation(_)
            | Property::ResponseInformation(_)
            | Property::ServerReference(_)
            | Property::ReasonString(_)
            | Property::ReceiveMaximum(_)
            | Property::TopicAliasMaximum(_)
            | Property::MaximumQoS(_)
            | Property::RetainAvailable(_)
            | Property::MaximumPacketSize(_)
            | Property::WildcardSubscriptionAvailable(_)
            | Property::SubscriptionIdentifierAvailable(_)
            | Property::SharedSubscriptionAvailable(_) => {}
        }
    })?;
    Ok((properties, delay_interval))
}

/// Whether the property is meant for the receiver alone, or is written anew for each subscriber.
fn is_for_one_hop(id: PropertyId) -> bool {
    matches!(
        id,
        PropertyId::MessageExpiryInterval
            | PropertyId::TopicAlias
            | PropertyId::SubscriptionIdentifier
            | PropertyId::WillDelayInterval
    )
}

impl<'a> MessageProperties<'a> {
    /// Checks a property list without its length prefix, as a PUBLISH may have it.
    pub fn parse(raw: &'a [u8]) -> Result<Self, DecodeError> {
        read_message_properties(raw, IN_PUBLISH).map(|(properties, _)| properties)
    }

    /// Appends the properties that travel on to subscribers, in the order they came [MQTT-3.3.2-17],
    /// [MQTT-3.3.2-18]: all but Topic Alias, Message Expiry Interval, Subscription Identifier and Will Delay
    /// Interval.
    pub fn append_forwarded(&self, out: &mut Vec<u8>) {
        if !self.needs_filtering {
            out.extend_from_slice(self.raw);
            return;
        }
        let mut list = self.iter();
        while let Some((property, bytes)) = list.next_with_bytes() {
            if !is_for_one_hop(property.id()) {
                out.extend_from_slice(bytes);
            }
        }
    }

    /// The properties one by one, typed.
    pub fn iter(&self) -> Properties<'a> {
        Properties::new(self.raw)
    }
}

impl<'a> IntoIterator for &MessageProperties<'a> {
    type Item = Property<'a>;
    type IntoIter = Properties<'a>;

    fn into_iter(self) -> Properties<'a> {
        self.iter()
    }
}

/// What of a PUBLISH differs from subscriber to subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishHeader {
    /// DUP; must be false at QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Needed exactly when QoS > 0; ignored at QoS 0.
    pub packet_id: Option<PacketId>,
}

/// The properties of a PUBLISH that is sent; ignored for 3.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishProperties<'a> {
    /// As [`MessageProperties::append_forwarded`] made them.
    pub forwarded: &'a [u8],
    /// What is left of it, in seconds [MQTT-3.3.2-6].
    pub message_expiry_interval: Option<u32>,
    /// An alias for the topic, or instead of it; never zero.
    pub topic_alias: Option<u16>,
    /// One for each matching subscription that has one, [MQTT-3.3.4-3] to [MQTT-3.3.4-5].
    pub subscription_identifiers: &'a [u32],
}

impl PublishProperties<'_> {
    /// Bytes of the list without its length.
    #[inline]
    fn length(&self) -> usize {
        let mut length = self.forwarded.len();
        if self.message_expiry_interval.is_some() {
            length += 5;
        }
        if self.topic_alias.is_some() {
            length += 3;
        }
        for identifier in self.subscription_identifiers {
            length += 1 + variable_byte_integer_length(*identifier as usize);
        }
        length
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if let Some(seconds) = self.message_expiry_interval {
            Property::MessageExpiryInterval(seconds).encode(out)?;
        }
        if let Some(alias) = self.topic_alias {
            out.push(PropertyId::TopicAlias as u8);
            out.extend_from_slice(&alias.to_be_bytes());
        }
        for identifier in self.subscription_identifiers {
            Property::SubscriptionIdentifier(*identifier).encode(out)?;
        }
        out.extend_from_slice(self.forwarded);
        Ok(())
    }
}

/// Bytes of the whole packet that [`encode_publish`] would write, for a client's Maximum Packet Size.
#[inline]
pub fn publish_length(
    version: ProtocolVersion,
    qos: QoS,
    topic_length: usize,
    properties: &PublishProperties<'_>,
    payload_length: usize,
) -> usize {
    let (remaining, _) = lengths(version, qos, topic_length, properties, payload_length);
    1 + variable_byte_integer_length(remaining) + remaining
}

/// Remaining Length and property length.
#[inline]
fn lengths(
    version: ProtocolVersion,
    qos: QoS,
    topic_length: usize,
    properties: &PublishProperties<'_>,
    payload_length: usize,
) -> (usize, usize) {
    let packet_id_length = if qos == QoS::AtMostOnce { 0 } else { 2 };
    let remaining = 2 + topic_length + packet_id_length + payload_length;
    match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => (remaining, 0),
        ProtocolVersion::V5 => {
            let length = properties.length();
            (remaining + variable_byte_integer_length(length) + length, length)
        }
    }
}

/// Appends a whole PUBLISH.
///
/// # Errors
/// When it does not fit the format, or QoS > 0 has no Packet Identifier; `out` is unchanged then.
#[inline]
pub fn encode_publish(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    header: &PublishHeader,
    topic: &[u8],
    properties: PublishProperties<'_>,
    payload: &[u8],
) -> Result<(), EncodeError> {
    put_head(out, version, header, topic, properties, payload.len(), payload.len())?;
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends all of a PUBLISH but its payload, for writing both with one vectored write.
///
/// # Errors
/// As [`encode_publish`].
#[inline]
pub fn encode_publish_head(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    header: &PublishHeader,
    topic: &[u8],
    properties: PublishProperties<'_>,
    payload_length: usize,
) -> Result<(), EncodeError> {
    put_head(out, version, header, topic, properties, payload_length, 0)
}

/// Writes the head and makes room for `room` bytes behind it.
#[inline]
fn put_head(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    header: &PublishHeader,
    topic: &[u8],
    properties: PublishProperties<'_>,
    payload_length: usize,
    room: usize,
) -> Result<(), EncodeError> {
    let start = out.len();
    let topic_length = u16::try_from(topic.len()).map_err(|_| EncodeError::FieldTooLong(topic.len()))?;
    let (remaining, properties_length) =
        lengths(version, header.qos, topic.len(), &properties, payload_length);
    let (remaining_bytes, remaining_length) = frame::variable_byte_integer(remaining)?;
    let packet_id = match header.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce | QoS::ExactlyOnce => Some(header.packet_id.ok_or(EncodeError::PacketIdMissing)?),
    };
    out.reserve(5 + remaining - payload_length + room);
    out.push(
        PacketType::Publish.first_byte()
            | u8::from(header.dup) << 3
            | (header.qos as u8) << 1
            | u8::from(header.retain),
    );
    out.extend_from_slice(remaining_bytes.get(..remaining_length).unwrap_or_default());
    out.extend_from_slice(&topic_length.to_be_bytes());
    out.extend_from_slice(topic);
    if let Some(packet_id) = packet_id {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
    }
    if version == ProtocolVersion::V5 {
        let result = variable_byte_integer(properties_length).and_then(|(bytes, length)| {
            out.extend_from_slice(bytes.get(..length).unwrap_or_default());
            properties.put(out)
        });
        if result.is_err() {
            out.truncate(start);
        }
        result?;
    }
    Ok(())
}

/// Appends a PUBLISH as it stands, properties and all.
pub(super) fn encode(
    publish: &Publish<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let Publish { dup, qos, retain, topic, packet_id, properties, payload } = publish;
    let header = PublishHeader { dup: *dup, qos: *qos, retain: *retain, packet_id: *packet_id };
    let properties = PublishProperties { forwarded: properties.raw, ..PublishProperties::default() };
    encode_publish(out, version, &header, topic, properties, payload)
}
