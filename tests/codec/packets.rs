//! Generated packets, every one valid in its version and written back the same.
//!
//! Texts are leaked: packets borrow, and a test process is short. Properties of messages are generated in the
//! order in which `mqttbytes` writes them, so that both can be compared byte by byte.

use std::num::NonZeroU16;

use fulmar::codec::ProtocolVersion::{self, V3_1, V3_1_1, V5};
use fulmar::codec::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// A version and a packet of it.
pub fn packet() -> impl Strategy<Value = (ProtocolVersion, Packet<'static>)> {
    select(crate::VERSIONS.to_vec())
        .prop_flat_map(|version| packet_of(version).prop_map(move |packet| (version, packet)))
}

/// A packet of one version, of any type it knows.
pub fn packet_of(version: ProtocolVersion) -> BoxedStrategy<Packet<'static>> {
    let mut all = vec![
        connect(version).prop_map(Packet::Connect).boxed(),
        connack(version).prop_map(Packet::ConnAck).boxed(),
        publish(version).prop_map(Packet::Publish).boxed(),
        acknowledgement(version, PacketType::PubAck).prop_map(Packet::PubAck).boxed(),
        acknowledgement(version, PacketType::PubRec).prop_map(Packet::PubRec).boxed(),
        acknowledgement(version, PacketType::PubRel).prop_map(Packet::PubRel).boxed(),
        acknowledgement(version, PacketType::PubComp).prop_map(Packet::PubComp).boxed(),
        subscribe(version).prop_map(Packet::Subscribe).boxed(),
        suback(version).prop_map(Packet::SubAck).boxed(),
        unsubscribe(version).prop_map(Packet::Unsubscribe).boxed(),
        unsuback(version).prop_map(Packet::UnsubAck).boxed(),
        Just(Packet::PingReq).boxed(),
        Just(Packet::PingResp).boxed(),
        disconnect(version).prop_map(Packet::Disconnect).boxed(),
    ];
    if version == V5 {
        all.push(auth().prop_map(Packet::Auth).boxed());
    }
    proptest::strategy::Union::new(all).boxed()
}

fn text() -> impl Strategy<Value = &'static str> {
    let character = prop_oneof![
        8 => proptest::char::range('\u{1}', '\u{7F}'),
        1 => any::<char>().prop_filter("U+0000 is not allowed", |character| *character != '\0'),
    ];
    vec(character, 0..20).prop_map(|characters| &*characters.into_iter().collect::<String>().leak())
}

fn some_text() -> impl Strategy<Value = &'static str> {
    text().prop_map(|text| if text.is_empty() { "x" } else { text })
}

fn topic() -> impl Strategy<Value = &'static str> {
    some_text().prop_map(|text| &*text.replace(['+', '#'], "/").leak())
}

fn binary() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![8 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 100..300)]
        .prop_map(|bytes| &*bytes.leak())
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|number| PacketId::new(number).unwrap())
}

fn non_zero() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|number| NonZeroU16::new(number).unwrap())
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn reason(packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let codes = (0..=u8::MAX).filter_map(ReasonCode::from_byte);
    select(codes.filter(|code| code.is_allowed_in(packet)).collect::<Vec<_>>())
}

/// Only what 5.0 has; the default elsewhere.
fn in_v5<S>(version: ProtocolVersion, strategy: S) -> BoxedStrategy<S::Value>
where
    S: Strategy + 'static,
    S::Value: Default + Clone,
{
    if version == V5 { strategy.boxed() } else { Just(S::Value::default()).boxed() }
}

fn user_properties(version: ProtocolVersion) -> BoxedStrategy<UserProperties<'static>> {
    in_v5(version, prop_oneof![2 => Just(Vec::new()), 1 => vec((text(), text()), 0..4)])
}

fn reason_string(version: ProtocolVersion) -> BoxedStrategy<Option<&'static str>> {
    in_v5(version, of(text()))
}

/// Method and data, of which the second needs the first.
fn authentication() -> impl Strategy<Value = (Option<&'static str>, Option<&'static [u8]>)> {
    of((text(), of(binary()))).prop_map(|both| match both {
        Some((method, data)) => (Some(method), data),
        None => (None, None),
    })
}

fn connect(version: ProtocolVersion) -> impl Strategy<Value = Connect<'static>> {
    let head = (any::<bool>(), any::<u16>(), text());
    let login = (of(text()), of(binary()));
    (head, of(will(version)), login, in_v5(version, connect_properties())).prop_map(
        move |((clean_start, keep_alive, client_id), will, (username, password), properties)| {
            let may_be_empty = version == V5 || version == V3_1_1 && clean_start;
            Connect {
                version,
                clean_start,
                keep_alive,
                client_id: if client_id.is_empty() && !may_be_empty { "x" } else { client_id },
                will,
                username,
                password: password.filter(|_| version == V5 || username.is_some()),
                properties,
            }
        },
    )
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties<'static>> {
    let numbers = (of(any::<u32>()), of(non_zero()), of(1..=u32::MAX), of(any::<u16>()));
    let booleans = (of(any::<bool>()), of(any::<bool>()));
    (numbers, booleans, user_properties(V5), authentication()).prop_map(
        |(numbers, booleans, user_properties, authentication)| ConnectProperties {
            session_expiry_interval: numbers.0,
            receive_maximum: numbers.1,
            maximum_packet_size: numbers.2,
            topic_alias_maximum: numbers.3,
            request_response_information: booleans.0,
            request_problem_information: booleans.1,
            user_properties,
            authentication_method: authentication.0,
            authentication_data: authentication.1,
        },
    )
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = Will<'static>> {
    let properties = (of(any::<u32>()), of(any::<bool>()), of(any::<u32>()), of(text()), of(topic()))
        .prop_flat_map(|values| (Just(values), of(binary()), user_properties(V5)));
    (qos(), any::<bool>(), text(), binary(), of(properties)).prop_map(
        move |(qos, retain, topic, payload, properties)| {
            let mut list = List::default();
            let mut delay_interval = None;
            if let Some((values, correlation_data, user_properties)) = properties.filter(|_| version == V5) {
                delay_interval = values.0;
                list.add(values.0.map(Property::WillDelayInterval));
                list.add(values.1.map(u8::from).map(Property::PayloadFormatIndicator));
                list.add(values.2.map(Property::MessageExpiryInterval));
                list.add(values.3.map(Property::ContentType));
                list.add(values.4.map(Property::ResponseTopic));
                list.add(correlation_data.map(Property::CorrelationData));
                list.add_user_properties(user_properties);
            }
            Will { qos, retain, topic, payload, delay_interval, properties: list.finish() }
        },
    )
}

fn publish(version: ProtocolVersion) -> impl Strategy<Value = Publish<'static>> {
    let numbers = (of(any::<bool>()), of(any::<u32>()), of(non_zero()), vec(1..=268_435_455_u32, 0..3));
    let texts = (of(topic()), of(binary()), user_properties(V5), of(text()));
    let flags = (any::<bool>(), qos(), any::<bool>(), packet_id());
    (flags, topic(), any::<bool>(), binary(), of((numbers, texts))).prop_map(
        move |((dup, qos, retain, packet_id), topic, only_alias, payload, properties)| {
            let mut list = List::default();
            if let Some((numbers, texts)) = properties.filter(|_| version == V5) {
                list.add(numbers.0.map(u8::from).map(Property::PayloadFormatIndicator));
                list.add(numbers.1.map(Property::MessageExpiryInterval));
                list.add(numbers.2.map(Property::TopicAlias));
                list.add(texts.0.map(Property::ResponseTopic));
                list.add(texts.1.map(Property::CorrelationData));
                list.add_user_properties(texts.2);
                for identifier in numbers.3 {
                    list.add(Some(Property::SubscriptionIdentifier(identifier)));
                }
                list.add(texts.3.map(Property::ContentType));
            }
            let properties = list.finish();
            let is_alias = only_alias && properties.topic_alias.is_some();
            Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic: if is_alias { b"" } else { topic.as_bytes() },
                packet_id: Some(packet_id).filter(|_| qos != QoS::AtMostOnce),
                properties,
                payload,
            }
        },
    )
}

/// A property list and what is known of it.
#[derive(Default)]
struct List {
    raw: Vec<u8>,
    properties: MessageProperties<'static>,
}

impl List {
    fn add(&mut self, property: Option<Property<'static>>) {
        let Some(property) = property else { return };
        property.encode(&mut self.raw).unwrap();
        let known = &mut self.properties;
        if let Property::PayloadFormatIndicator(value) = property {
            known.payload_is_utf8 = value == 1;
        }
        if let Property::MessageExpiryInterval(value) = property {
            known.message_expiry_interval = Some(value);
        }
        if let Property::TopicAlias(value) = property {
            known.topic_alias = Some(value);
        }
        known.has_subscription_identifier |= property.id() == PropertyId::SubscriptionIdentifier;
        known.needs_filtering |= matches!(
            property.id(),
            PropertyId::MessageExpiryInterval
                | PropertyId::TopicAlias
                | PropertyId::SubscriptionIdentifier
                | PropertyId::WillDelayInterval
        );
    }

    fn add_user_properties(&mut self, pairs: UserProperties<'static>) {
        for (name, value) in pairs {
            self.add(Some(Property::UserProperty(name, value)));
        }
    }

    fn finish(self) -> MessageProperties<'static> {
        MessageProperties { raw: self.raw.leak(), ..self.properties }
    }
}

fn acknowledgement(
    version: ProtocolVersion,
    packet: PacketType,
) -> impl Strategy<Value = Acknowledgement<'static>> {
    (packet_id(), reason(packet), reason_string(version), user_properties(version)).prop_map(
        move |(packet_id, reason, reason_string, user_properties)| Acknowledgement {
            packet_id,
            reason: if version == V5 { reason } else { ReasonCode::Success },
            reason_string,
            user_properties,
        },
    )
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Subscribe<'static>> {
    let retain_handling =
        vec![RetainHandling::SendAlways, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
    let options = (qos(), any::<bool>(), any::<bool>(), select(retain_handling)).prop_map(
        move |(qos, no_local, retain_as_published, retain_handling)| match version {
            V3_1 | V3_1_1 => SubscriptionOptions { qos, ..Default::default() },
            V5 => SubscriptionOptions { qos, no_local, retain_as_published, retain_handling },
        },
    );
    let request = (text(), options).prop_map(|(filter, options)| SubscriptionRequest { filter, options });
    let identifier = in_v5(version, of(1..=268_435_455_u32));
    (packet_id(), identifier, user_properties(version), vec(request, 1..5)).prop_map(
        |(packet_id, subscription_identifier, user_properties, requests)| Subscribe {
            packet_id,
            subscription_identifier,
            user_properties,
            requests,
        },
    )
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Unsubscribe<'static>> {
    (packet_id(), user_properties(version), vec(text(), 1..5))
        .prop_map(|(packet_id, user_properties, filters)| Unsubscribe { packet_id, user_properties, filters })
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = SubAck<'static>> {
    let of_3_x = vec![
        ReasonCode::Success,
        ReasonCode::GrantedQoS1,
        ReasonCode::GrantedQoS2,
        ReasonCode::UnspecifiedError,
    ];
    let reasons = match version {
        V3_1 | V3_1_1 => vec(select(of_3_x).boxed(), 1..5),
        V5 => vec(reason(PacketType::SubAck).boxed(), 1..5),
    };
    (packet_id(), reason_string(version), user_properties(version), reasons).prop_map(
        |(packet_id, reason_string, user_properties, reasons)| SubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        },
    )
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = UnsubAck<'static>> {
    let reasons = in_v5(version, vec(reason(PacketType::UnsubAck), 1..5));
    (packet_id(), reason_string(version), user_properties(version), reasons).prop_map(
        |(packet_id, reason_string, user_properties, reasons)| UnsubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        },
    )
}

fn disconnect(version: ProtocolVersion) -> impl Strategy<Value = Disconnect<'static>> {
    let texts = (reason_string(version), in_v5(version, of(text())));
    let expiry = in_v5(version, of(any::<u32>()));
    (reason(PacketType::Disconnect), expiry, texts, user_properties(version)).prop_map(
        move |(reason, session_expiry_interval, (reason_string, server_reference), user_properties)| {
            Disconnect {
                reason: if version == V5 { reason } else { ReasonCode::Success },
                session_expiry_interval,
                reason_string,
                user_properties,
                server_reference,
            }
        },
    )
}

fn auth() -> impl Strategy<Value = Auth<'static>> {
    let of_nothing = Auth {
        reason: ReasonCode::Success,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    };
    let with_method =
        (reason(PacketType::Auth), text(), of(binary()), reason_string(V5), user_properties(V5)).prop_map(
            |(reason, method, authentication_data, reason_string, user_properties)| Auth {
                reason,
                authentication_method: Some(method),
                authentication_data,
                reason_string,
                user_properties,
            },
        );
    prop_oneof![1 => Just(of_nothing), 4 => with_method]
}

fn connack(version: ProtocolVersion) -> impl Strategy<Value = ConnAck<'static>> {
    let of_3_x = vec![
        ReasonCode::Success,
        ReasonCode::UnsupportedProtocolVersion,
        ReasonCode::ClientIdentifierNotValid,
        ReasonCode::ServerUnavailable,
        ReasonCode::BadUserNameOrPassword,
        ReasonCode::NotAuthorized,
    ];
    let reason = match version {
        V3_1 | V3_1_1 => select(of_3_x).boxed(),
        V5 => prop_oneof![Just(ReasonCode::Success), reason(PacketType::ConnAck)].boxed(),
    };
    (any::<bool>(), reason, in_v5(version, connack_properties())).prop_map(
        move |(session_present, reason, properties)| ConnAck {
            session_present: session_present && reason == ReasonCode::Success && version != V3_1,
            reason,
            properties,
        },
    )
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties<'static>> {
    let numbers = (of(any::<u32>()), of(non_zero()), of(1..=u32::MAX), of(any::<u16>()), of(any::<u16>()));
    let maximum_qos = of(select(vec![QoS::AtMostOnce, QoS::AtLeastOnce]));
    let booleans = (of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<bool>()));
    let texts = (of(text()), of(text()), of(text()), of(text()));
    let rest = (numbers, maximum_qos, booleans, texts, user_properties(V5), authentication());
    rest.prop_map(|(numbers, maximum_qos, booleans, texts, user_properties, authentication)| {
        ConnAckProperties {
            session_expiry_interval: numbers.0,
            receive_maximum: numbers.1,
            maximum_qos,
            retain_available: booleans.0,
            maximum_packet_size: numbers.2,
            assigned_client_identifier: texts.0,
            topic_alias_maximum: numbers.3,
            reason_string: texts.1,
            user_properties,
            wildcard_subscription_available: booleans.1,
            subscription_identifiers_available: booleans.2,
            shared_subscription_available: booleans.3,
            server_keep_alive: numbers.4,
            response_information: texts.2,
            server_reference: texts.3,
            authentication_method: authentication.0,
            authentication_data: authentication.1,
        }
    })
}
