//! A light MQTT client for tests with very many of them: bytes in, bytes out, no socket of its own.
//!
//! It keeps a session as the standard asks of a client: what is not acknowledged is sent again with DUP after a
//! reconnect, in the original order; the packet identifiers of QoS 2 messages received are remembered until
//! their PUBREL. It speaks 3.1.1 and 5.0 and knows nothing of the broker's code, so that no mistake is shared.
//!
//! Order of calls: [`LightClient::connect`], then [`LightClient::handle`] with every byte that arrives, the verbs
//! in between as wanted; [`LightClient::cut`] when the connection is gone, and `connect` again. Whatever a
//! call appends to `out` must be written to the socket in order (or lost together with the connection).

use std::collections::{HashMap, HashSet, VecDeque};

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1, level 4.
    V3_1_1,
    /// 5.0, level 5.
    V5,
}

/// What came of the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// CONNACK with success. What was unacknowledged has been sent again if the session was present.
    Connected { session_present: bool },
    /// CONNACK with an error code.
    Refused { code: u8 },
    /// SUBACK.
    Subscribed { packet_id: u16, codes: Vec<u8> },
    /// UNSUBACK.
    Unsubscribed { packet_id: u16 },
    /// An Application Message, and the Subscription Identifiers by which it comes (5.0); a QoS 2 message is
    /// reported at its first PUBLISH only.
    Message { topic: String, payload: Vec<u8>, qos: u8, retain: bool, dup: bool, identifiers: Vec<u32> },
    /// The broker took over responsibility for the message published under the token: PUBACK or PUBREC.
    Acknowledged { token: u64 },
    /// PUBCOMP: the exchange of the QoS 2 message is over.
    Completed { token: u64 },
    /// PUBREL: the QoS 2 message received under the identifier is forgotten.
    Released { packet_id: u16 },
    /// PUBACK or PUBREC with an error code.
    Rejected { token: u64, code: u8 },
    /// The session was present, so the message published under the token has been sent again.
    SentAgain { token: u64 },
    /// A QoS 2 PUBLISH under an identifier that still belongs to another message. It is taken for that
    /// message, as a client must, and so it is lost.
    Clash { topic: String, payload: Vec<u8> },
    /// PINGRESP.
    Pong,
    /// DISCONNECT from the broker (5.0).
    Disconnected { code: u8 },
}

/// How far an outgoing message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "they are named after the packets")]
enum Awaits {
    PubAck,
    PubRec,
    PubComp,
}

/// An outgoing message in flight.
#[derive(Debug, Clone)]
struct Outgoing {
    packet_id: u16,
    token: u64,
    awaits: Awaits,
    topic: String,
    payload: Vec<u8>,
    retain: bool,
}

/// What a CONNECT asks for.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub clean_start: bool,
    /// Session Expiry Interval in seconds (5.0).
    pub session_expiry: u32,
    /// Receive Maximum (5.0), unless it is to be the default.
    pub receive_maximum: Option<u16>,
    pub will: Option<Will>,
}

/// A Will.
#[derive(Debug, Clone)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    /// Will Delay Interval in seconds (5.0).
    pub delay: u32,
}

/// One client and its session.
#[derive(Debug)]
pub struct LightClient {
    id: String,
    version: Version,
    persistent: bool,
    last_packet_id: u16,
    highest_packet_id: u16,
    outgoing: VecDeque<Outgoing>,
    /// Identifiers of SUBSCRIBE and UNSUBSCRIBE that are not answered.
    asked: HashSet<u16>,
    /// QoS 2 messages that have come and are not released: topic and payload by identifier.
    received: HashMap<u16, (String, Vec<u8>)>,
    input: Vec<u8>,
}

impl LightClient {
    /// A client that has never connected. `persistent`: its session outlives its connections (an hour in 5.0).
    pub fn new(id: impl Into<String>, version: Version, persistent: bool) -> Self {
        Self {
            id: id.into(),
            version,
            persistent,
            last_packet_id: 0,
            highest_packet_id: u16::MAX,
            asked: HashSet::new(),
            outgoing: VecDeque::new(),
            received: HashMap::new(),
            input: Vec::new(),
        }
    }

    /// Uses no Packet Identifiers but the first ones, so that each soon comes again.
    pub fn with_packet_ids_up_to(self, highest_packet_id: u16) -> Self {
        Self { highest_packet_id, ..self }
    }

    /// Appends CONNECT without keep alive. `clean` forces a clean start that ends the session with the
    /// connection; otherwise the client's own kind decides.
    pub fn connect(&mut self, clean: bool, out: &mut Vec<u8>) {
        let clean = clean || !self.persistent;
        let session_expiry = if clean { 0 } else { 3_600 };
        self.connect_with(&Terms { clean_start: clean, session_expiry, ..Terms::default() }, out);
    }

    /// Appends CONNECT without keep alive, with all that can be asked for.
    pub fn connect_with(&mut self, terms: &Terms, out: &mut Vec<u8>) {
        if terms.clean_start {
            self.forget();
        }
        let mut body = Vec::new();
        put_string(&mut body, "MQTT");
        body.push(if self.version == Version::V5 { 5 } else { 4 });
        let will = terms.will.as_ref().map_or(0, |will| 0b100 | will.qos << 3);
        body.push(will | u8::from(terms.clean_start) << 1);
        body.extend([0, 0]);
        if self.version == Version::V5 {
            let mut properties = Vec::new();
            if terms.session_expiry > 0 {
                properties.push(0x11);
                properties.extend(terms.session_expiry.to_be_bytes());
            }
            if let Some(receive_maximum) = terms.receive_maximum {
                properties.push(0x21);
                properties.extend(receive_maximum.to_be_bytes());
            }
            put_short(&mut body, &properties);
        }
        put_string(&mut body, &self.id);
        if let Some(will) = &terms.will {
            if self.version == Version::V5 {
                let mut properties = Vec::new();
                if will.delay > 0 {
                    properties.push(0x18);
                    properties.extend(will.delay.to_be_bytes());
                }
                put_short(&mut body, &properties);
            }
            put_string(&mut body, &will.topic);
            put_binary(&mut body, &will.payload);
        }
        put_packet(out, 0x10, &body);
    }

    /// The connection is gone: half a packet received is dropped, and the state of a clean session with it.
    pub fn cut(&mut self) {
        self.input.clear();
        self.asked.clear();
        if !self.persistent {
            self.forget();
        }
    }

    /// Appends SUBSCRIBE for one filter and returns its packet identifier.
    pub fn subscribe(&mut self, filter: &str, qos: u8, out: &mut Vec<u8>) -> u16 {
        self.subscribe_as(None, filter, qos, out)
    }

    /// The same with a Subscription Identifier below 128, which 3.1.1 does not know.
    pub fn subscribe_as(&mut self, identifier: Option<u8>, filter: &str, qos: u8, out: &mut Vec<u8>) -> u16 {
        let packet_id = self.free_packet_id();
        self.asked.insert(packet_id);
        let mut body = packet_id.to_be_bytes().to_vec();
        match identifier {
            Some(identifier) if self.version == Version::V5 => put_short(&mut body, &[0x0B, identifier]),
            _ => self.put_no_properties(&mut body),
        }
        put_string(&mut body, filter);
        body.push(qos);
        put_packet(out, 0x82, &body);
        packet_id
    }

    /// Appends UNSUBSCRIBE for one filter and returns its packet identifier.
    pub fn unsubscribe(&mut self, filter: &str, out: &mut Vec<u8>) -> u16 {
        let packet_id = self.free_packet_id();
        self.asked.insert(packet_id);
        let mut body = packet_id.to_be_bytes().to_vec();
        self.put_no_properties(&mut body);
        put_string(&mut body, filter);
        put_packet(out, 0xA2, &body);
        packet_id
    }

    /// Appends PUBLISH; the token comes back with the acknowledgement of a QoS 1 or 2 message.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, token: u64, out: &mut Vec<u8>) {
        self.publish_with(topic, payload, qos, false, token, out);
    }

    /// The same, for a message to be retained.
    pub fn publish_retained(&mut self, topic: &str, payload: &[u8], qos: u8, token: u64, out: &mut Vec<u8>) {
        self.publish_with(topic, payload, qos, true, token, out);
    }

    fn publish_with(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
        token: u64,
        out: &mut Vec<u8>,
    ) {
        let packet_id = if qos == 0 { 0 } else { self.free_packet_id() };
        let first = 0x30 | qos << 1 | u8::from(retain);
        put_publish(self.version, first, topic, payload, packet_id, out);
        let awaits = match qos {
            0 => return,
            1 => Awaits::PubAck,
            _ => Awaits::PubRec,
        };
        let (topic, payload) = (topic.to_owned(), payload.to_owned());
        self.outgoing.push_back(Outgoing { packet_id, token, awaits, topic, payload, retain });
    }

    /// Appends PINGREQ.
    pub fn ping(&self, out: &mut Vec<u8>) {
        put_packet(out, 0xC0, &[]);
    }

    /// Appends DISCONNECT.
    pub fn disconnect(&self, out: &mut Vec<u8>) {
        put_packet(out, 0xE0, &[]);
    }

    /// How many messages are on their way without final acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.outgoing.len()
    }

    /// Takes what arrived, appends the answers to `out` and returns what came of it. An error is a fault of the
    /// broker, told in words.
    pub fn handle(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Vec<Event>, String> {
        self.input.extend_from_slice(bytes);
        let mut events = Vec::new();
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while let Some((first, body, behind)) = split_packet(rest)? {
            rest = behind;
            self.packet(first, body, out, &mut events).map_err(|error| format!("{}: {error}", self.id))?;
        }
        self.input = rest.to_vec();
        Ok(events)
    }

    fn packet(
        &mut self,
        first: u8,
        body: &[u8],
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        let mut body = Reader(body);
        match first {
            0x20 => {
                let session_present = body.byte()? & 1 == 1;
                let code = body.byte()?;
                if code != 0 {
                    events.push(Event::Refused { code });
                    return Ok(());
                }
                events.push(Event::Connected { session_present });
                if session_present {
                    self.send_again(out, events);
                } else {
                    self.forget();
                }
            }
            0x30..=0x3F => events.extend(self.published(first, body, out)?),
            0x40 => {
                let (packet_id, code) = body.acknowledgement()?;
                let token = self.finish(packet_id, Awaits::PubAck)?;
                events.push(acknowledged(token, code));
            }
            0x50 => {
                let (packet_id, code) = body.acknowledgement()?;
                let outgoing = self
                    .outgoing
                    .iter_mut()
                    .find(|outgoing| outgoing.packet_id == packet_id)
                    .ok_or_else(|| format!("PUBREC for {packet_id}, which is not in flight"))?;
                match outgoing.awaits {
                    Awaits::PubAck => return Err(format!("PUBREC for {packet_id}, a QoS 1 message")),
                    Awaits::PubRec => {
                        events.push(acknowledged(outgoing.token, code));
                        outgoing.awaits = Awaits::PubComp;
                        if code >= 0x80 {
                            self.finish(packet_id, Awaits::PubComp)?;
                            return Ok(());
                        }
                    }
                    Awaits::PubComp => {}
                }
                put_packet(out, 0x62, &packet_id.to_be_bytes());
            }
            0x62 => {
                let (packet_id, _) = body.acknowledgement()?;
                self.received.remove(&packet_id);
                events.push(Event::Released { packet_id });
                put_packet(out, 0x70, &packet_id.to_be_bytes());
            }
            0x70 => {
                let (packet_id, _) = body.acknowledgement()?;
                let token = self.finish(packet_id, Awaits::PubComp)?;
                events.push(Event::Completed { token });
            }
            0x90 => {
                let packet_id = body.u16()?;
                self.asked.remove(&packet_id);
                self.skip_properties(&mut body)?;
                events.push(Event::Subscribed { packet_id, codes: body.0.to_vec() });
            }
            0xB0 => {
                let packet_id = body.u16()?;
                self.asked.remove(&packet_id);
                events.push(Event::Unsubscribed { packet_id });
            }
            0xD0 => events.push(Event::Pong),
            0xE0 if self.version == Version::V5 => {
                events.push(Event::Disconnected { code: body.byte().unwrap_or(0) });
            }
            _ => return Err(format!("a packet that begins with {first:#04x} is none a server sends")),
        }
        Ok(())
    }

    fn published(
        &mut self,
        first: u8,
        mut body: Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event>, String> {
        let qos = (first >> 1) & 3;
        let topic = body.string()?;
        let packet_id = if qos == 0 { 0 } else { body.u16()? };
        let identifiers = self.subscription_identifiers(&mut body)?;
        let message = Event::Message {
            identifiers,
            topic,
            payload: body.0.to_vec(),
            qos,
            retain: first & 1 == 1,
            dup: first & 8 == 8,
        };
        match qos {
            0 => Ok(Some(message)),
            1 => {
                put_packet(out, 0x40, &packet_id.to_be_bytes());
                Ok(Some(message))
            }
            2 => {
                put_packet(out, 0x50, &packet_id.to_be_bytes());
                let Event::Message { topic, payload, .. } = &message else { return Ok(None) };
                match self.received.get(&packet_id) {
                    None => {
                        self.received.insert(packet_id, (topic.clone(), payload.clone()));
                        Ok(Some(message))
                    }
                    Some((old_topic, old)) if old_topic == topic && old == payload => Ok(None),
                    Some(_) => Ok(Some(Event::Clash { topic: topic.clone(), payload: payload.clone() })),
                }
            }
            _ => Err("a PUBLISH with QoS 3".to_owned()),
        }
    }

    /// Sends again what is not acknowledged, in the original order [MQTT-4.4.0-1], [MQTT-4.6.0-1].
    fn send_again(&self, out: &mut Vec<u8>, events: &mut Vec<Event>) {
        for outgoing in &self.outgoing {
            let qos = match outgoing.awaits {
                Awaits::PubAck => 1,
                Awaits::PubRec => 2,
                Awaits::PubComp => {
                    put_packet(out, 0x62, &outgoing.packet_id.to_be_bytes());
                    continue;
                }
            };
            let Outgoing { topic, payload, packet_id, token, retain, .. } = outgoing;
            let first = 0x38 | qos << 1 | u8::from(*retain);
            put_publish(self.version, first, topic, payload, *packet_id, out);
            events.push(Event::SentAgain { token: *token });
        }
    }

    fn finish(&mut self, packet_id: u16, awaits: Awaits) -> Result<u64, String> {
        let position = self
            .outgoing
            .iter()
            .position(|outgoing| outgoing.packet_id == packet_id && outgoing.awaits == awaits)
            .ok_or_else(|| format!("an answer to {packet_id}, which has no {awaits:?} to come"))?;
        self.outgoing.remove(position).map(|outgoing| outgoing.token).ok_or_else(String::new)
    }

    /// The session has ended: nothing of it is known any more.
    pub fn forget(&mut self) {
        self.outgoing.clear();
        self.received.clear();
    }

    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id % self.highest_packet_id + 1;
            let packet_id = self.last_packet_id;
            let is_in_flight = self.outgoing.iter().any(|outgoing| outgoing.packet_id == packet_id);
            if !is_in_flight && !self.asked.contains(&packet_id) {
                return packet_id;
            }
        }
    }

    fn put_no_properties(&self, body: &mut Vec<u8>) {
        if self.version == Version::V5 {
            body.push(0);
        }
    }

    /// Those among the properties of a PUBLISH.
    fn subscription_identifiers(&self, body: &mut Reader<'_>) -> Result<Vec<u32>, String> {
        let mut identifiers = Vec::new();
        if self.version == Version::V3_1_1 {
            return Ok(identifiers);
        }
        let length = body.variable_byte_integer()?;
        let mut properties = Reader(body.take(length)?);
        while !properties.0.is_empty() {
            match properties.byte()? {
                0x0B => identifiers.push(properties.variable_byte_integer()? as u32),
                0x01 => drop(properties.take(1)?),
                0x23 => drop(properties.take(2)?),
                0x02 => drop(properties.take(4)?),
                0x03 | 0x08 | 0x09 => {
                    let length = properties.u16()?;
                    properties.take(usize::from(length))?;
                }
                0x26 => {
                    properties.string()?;
                    properties.string()?;
                }
                other => return Err(format!("property {other:#04x} is none of a PUBLISH")),
            }
        }
        Ok(identifiers)
    }

    fn skip_properties(&self, body: &mut Reader<'_>) -> Result<(), String> {
        if self.version == Version::V5 {
            let length = body.variable_byte_integer()?;
            body.take(length)?;
        }
        Ok(())
    }
}

fn acknowledged(token: u64, code: u8) -> Event {
    if code >= 0x80 { Event::Rejected { token, code } } else { Event::Acknowledged { token } }
}

fn put_publish(version: Version, first: u8, topic: &str, payload: &[u8], packet_id: u16, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 5);
    put_string(&mut body, topic);
    if first & 0b110 != 0 {
        body.extend(packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    put_packet(out, first, &body);
}

fn put_packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).unwrap_or(0);
        length /= 128;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_binary(out, text.as_bytes());
}

fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Properties, of which a CONNECT here never has more than 127 bytes.
fn put_short(out: &mut Vec<u8>, properties: &[u8]) {
    out.push(u8::try_from(properties.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(properties);
}

/// First byte, body and what is behind the first packet; `None` if it is not whole yet.
#[allow(clippy::type_complexity, reason = "three parts of one slice")]
fn split_packet(bytes: &[u8]) -> Result<Option<(u8, &[u8], &[u8])>, String> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().skip(1).enumerate() {
        if index == 4 {
            return Err("a remaining length of more than four bytes".to_owned());
        }
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let start = index + 2;
            return Ok(bytes
                .get(start..start + length)
                .map(|body| (bytes[0], body, &bytes[start + length..])));
        }
    }
    Ok(None)
}

/// Reads the parts of a packet's body from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        if self.0.len() < length {
            return Err("a packet that ends too early".to_owned());
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1).map(|taken| taken[0])
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.take(2).map(|taken| u16::from_be_bytes([taken[0], taken[1]]))
    }

    fn string(&mut self) -> Result<String, String> {
        let length = self.u16()?;
        let bytes = self.take(usize::from(length))?;
        String::from_utf8(bytes.to_vec()).map_err(|_| "a string that is not UTF-8".to_owned())
    }

    fn variable_byte_integer(&mut self) -> Result<usize, String> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a variable byte integer of more than four bytes".to_owned())
    }

    /// Packet identifier and reason code of a PUBACK, PUBREC, PUBREL or PUBCOMP.
    fn acknowledgement(&mut self) -> Result<(u16, u8), String> {
        let packet_id = self.u16()?;
        Ok((packet_id, self.byte().unwrap_or(0)))
    }
}
