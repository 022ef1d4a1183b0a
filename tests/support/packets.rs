//! The packets a client sends, as bytes. Nothing is checked: a test may build what no client may send.

use super::wire::{Property, Version, frame, property_list, text};

/// A CONNECT to be, with Clean Start, Keep Alive 60 and an empty Client Identifier unless told otherwise.
#[derive(Debug, Clone)]
pub struct Connect {
    pub version: Version,
    pub client_id: Vec<u8>,
    pub clean: bool,
    pub keep_alive: u16,
    pub will: Option<Will>,
    pub username: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    pub properties: Vec<Property>,
    pub protocol_name: Option<Vec<u8>>,
    pub protocol_level: Option<u8>,
    /// Bits turned over in the Connect Flags.
    pub flip_flags: u8,
}

/// Starts a CONNECT.
pub fn connect(version: Version) -> Connect {
    Connect {
        version,
        client_id: Vec::new(),
        clean: true,
        keep_alive: 60,
        will: None,
        username: None,
        password: None,
        properties: Vec::new(),
        protocol_name: None,
        protocol_level: None,
        flip_flags: 0,
    }
}

impl Connect {
    pub fn client_id(mut self, client_id: impl AsRef<[u8]>) -> Self {
        self.client_id = client_id.as_ref().to_vec();
        self
    }

    pub fn clean(mut self, clean: bool) -> Self {
        self.clean = clean;
        self
    }

    /// A session that outlives its connection: Clean Start or Clean Session 0 and, in 5.0, ten minutes of life.
    pub fn persistent(self) -> Self {
        let connect = self.clean(false);
        if connect.version.is_v5() { connect.property(Property::session_expiry(600)) } else { connect }
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub fn username(mut self, username: impl AsRef<[u8]>) -> Self {
        self.username = Some(username.as_ref().to_vec());
        self
    }

    pub fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    /// Adds a property; only sent in 5.0.
    pub fn property(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn protocol_name(mut self, name: impl AsRef<[u8]>) -> Self {
        self.protocol_name = Some(name.as_ref().to_vec());
        self
    }

    pub fn protocol_level(mut self, level: u8) -> Self {
        self.protocol_level = Some(level);
        self
    }

    pub fn flip_flags(mut self, bits: u8) -> Self {
        self.flip_flags = bits;
        self
    }

    pub fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        let flags = will
            | u8::from(self.clean) << 1
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.username.is_some()) << 7;
        flags ^ self.flip_flags
    }

    pub fn bytes(&self) -> Vec<u8> {
        let name = match (&self.protocol_name, self.version) {
            (Some(name), _) => name.clone(),
            (None, Version::V3_1) => b"MQIsdp".to_vec(),
            (None, Version::V3_1_1 | Version::V5) => b"MQTT".to_vec(),
        };
        let mut body = text(name);
        body.push(self.protocol_level.unwrap_or(self.version as u8));
        body.push(self.flags());
        body.extend(self.keep_alive.to_be_bytes());
        if self.version.is_v5() {
            body.extend(property_list(&self.properties));
        }
        body.extend(text(&self.client_id));
        if let Some(will) = &self.will {
            if self.version.is_v5() {
                body.extend(property_list(&will.properties));
            }
            body.extend(text(&will.topic));
            body.extend(text(&will.payload));
        }
        self.username.iter().chain(&self.password).for_each(|field| body.extend(text(field)));
        frame(0x10, &body)
    }
}

/// The Will of a CONNECT.
#[derive(Debug, Clone)]
pub struct Will {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<Property>,
}

impl Will {
    pub fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        let (topic, payload) = (topic.as_ref().to_vec(), payload.as_ref().to_vec());
        Self { topic, payload, qos: 0, retain: false, properties: Vec::new() }
    }

    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn property(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

/// A PUBLISH to be, QoS 0 unless told otherwise.
#[derive(Debug, Clone)]
pub struct Publish {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub packet_id: u16,
    pub retain: bool,
    pub dup: bool,
    pub properties: Vec<Property>,
}

/// Starts a PUBLISH.
pub fn publish(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Publish {
    let (topic, payload) = (topic.as_ref().to_vec(), payload.as_ref().to_vec());
    Publish { topic, payload, qos: 0, packet_id: 1, retain: false, dup: false, properties: Vec::new() }
}

impl Publish {
    /// QoS and packet identifier; the latter is sent only with QoS 1 and above.
    pub fn qos(mut self, qos: u8, packet_id: u16) -> Self {
        (self.qos, self.packet_id) = (qos, packet_id);
        self
    }

    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// Adds a property; only sent in 5.0.
    pub fn property(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let mut body = text(&self.topic);
        if self.qos > 0 {
            body.extend(self.packet_id.to_be_bytes());
        }
        if version.is_v5() {
            body.extend(property_list(&self.properties));
        }
        body.extend(&self.payload);
        frame(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone)]
pub struct Ack {
    first_byte: u8,
    packet_id: u16,
    /// Reason code and properties; 5.0 only.
    reason: Option<(u8, Vec<Property>)>,
}

impl Ack {
    /// Adds a reason code and properties.
    pub fn reason(mut self, reason: u8, properties: &[Property]) -> Self {
        self.reason = Some((reason, properties.to_vec()));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut body = self.packet_id.to_be_bytes().to_vec();
        if let Some((reason, properties)) = &self.reason {
            body.push(*reason);
            body.extend(property_list(properties));
        }
        frame(self.first_byte, &body)
    }
}

pub fn puback(packet_id: u16) -> Ack {
    Ack { first_byte: 0x40, packet_id, reason: None }
}

pub fn pubrec(packet_id: u16) -> Ack {
    Ack { first_byte: 0x50, packet_id, reason: None }
}

pub fn pubrel(packet_id: u16) -> Ack {
    Ack { first_byte: 0x62, packet_id, reason: None }
}

pub fn pubcomp(packet_id: u16) -> Ack {
    Ack { first_byte: 0x70, packet_id, reason: None }
}

/// A Topic Filter with its Subscription Options.
#[derive(Debug, Clone)]
pub struct Filter {
    pub filter: Vec<u8>,
    pub options: u8,
}

impl Filter {
    /// The QoS alone, or any options byte.
    pub fn new(filter: impl AsRef<[u8]>, options: u8) -> Self {
        Self { filter: filter.as_ref().to_vec(), options }
    }

    pub fn no_local(mut self) -> Self {
        self.options |= 0x04;
        self
    }

    pub fn retain_as_published(mut self) -> Self {
        self.options |= 0x08;
        self
    }

    pub fn retain_handling(mut self, handling: u8) -> Self {
        self.options |= handling << 4;
        self
    }
}

/// A SUBSCRIBE; the properties are only sent in 5.0.
pub fn subscribe(version: Version, packet_id: u16, properties: &[Property], filters: &[Filter]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version.is_v5() {
        body.extend(property_list(properties));
    }
    for filter in filters {
        body.extend(text(&filter.filter));
        body.push(filter.options);
    }
    frame(0x82, &body)
}

/// An UNSUBSCRIBE without properties.
pub fn unsubscribe<F: AsRef<[u8]>>(version: Version, packet_id: u16, filters: &[F]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
    }
    filters.iter().for_each(|filter| body.extend(text(filter)));
    frame(0xA2, &body)
}

pub fn pingreq() -> Vec<u8> {
    vec![0xC0, 0]
}

/// The shortest DISCONNECT.
pub fn disconnect() -> Vec<u8> {
    vec![0xE0, 0]
}

/// A DISCONNECT of 5.0 with a reason code and properties.
pub fn disconnect_with(reason: u8, properties: &[Property]) -> Vec<u8> {
    frame(0xE0, &[vec![reason], property_list(properties)].concat())
}

/// An AUTH of 5.0.
pub fn auth(reason: u8, properties: &[Property]) -> Vec<u8> {
    frame(0xF0, &[vec![reason], property_list(properties)].concat())
}
