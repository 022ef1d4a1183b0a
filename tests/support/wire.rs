//! The smallest pieces of the wire format: lengths, texts, properties.

/// Which standard a client speaks; the number is its protocol level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3_1 = 3,
    V3_1_1 = 4,
    V5 = 5,
}

impl Version {
    /// Every version.
    pub const ALL: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
    /// Those with a standard whose statements are numbered.
    pub const NUMBERED: [Version; 2] = [Version::V3_1_1, Version::V5];

    /// Whether packets bear properties and reason codes.
    pub fn is_v5(self) -> bool {
        self == Version::V5
    }
}

/// A Variable Byte Integer in its shortest form.
pub fn variable_byte_integer(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number % 128) as u8;
        number /= 128;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Bytes behind their length in two bytes: a string, or binary data.
pub fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a string field holds at most 65,535 bytes");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A whole packet: the first byte as given, the body behind its length.
pub fn frame(first_byte: u8, body: &[u8]) -> Vec<u8> {
    [&[first_byte][..], &variable_byte_integer(body.len()), body].concat()
}

/// A property list behind its length.
pub fn property_list(properties: &[Property]) -> Vec<u8> {
    let list: Vec<u8> = properties.iter().flat_map(Property::encode).collect();
    [variable_byte_integer(list.len()), list].concat()
}

/// A property as it stands on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its identifier, §2.2.2.2.
    pub id: u8,
    /// Its value.
    pub value: Value,
}

/// The value of a property, or any bytes at all for what no property may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(usize),
    Text(Vec<u8>),
    Pair(Vec<u8>, Vec<u8>),
    Raw(Vec<u8>),
}

macro_rules! properties {
    ($($name:ident $id:literal $kind:ident $argument:ty),* $(,)?) => {
        #[allow(missing_docs, reason = "the names are the standard's")]
        impl Property {
            $(pub fn $name(value: $argument) -> Self {
                Self { id: $id, value: Value::$kind(value.into()) }
            })*
        }
    };
}

properties! {
    payload_format 0x01 Byte u8,
    message_expiry 0x02 Four u32,
    content_type 0x03 Text &str,
    response_topic 0x08 Text &str,
    correlation_data 0x09 Text &[u8],
    subscription_identifier 0x0B Variable usize,
    session_expiry 0x11 Four u32,
    assigned_client_identifier 0x12 Text &str,
    server_keep_alive 0x13 Two u16,
    authentication_method 0x15 Text &str,
    authentication_data 0x16 Text &[u8],
    request_problem_information 0x17 Byte u8,
    will_delay 0x18 Four u32,
    request_response_information 0x19 Byte u8,
    response_information 0x1A Text &str,
    server_reference 0x1C Text &str,
    reason_string 0x1F Text &str,
    receive_maximum 0x21 Two u16,
    topic_alias_maximum 0x22 Two u16,
    topic_alias 0x23 Two u16,
    maximum_qos 0x24 Byte u8,
    retain_available 0x25 Byte u8,
    maximum_packet_size 0x27 Four u32,
    wildcard_subscription_available 0x28 Byte u8,
    subscription_identifiers_available 0x29 Byte u8,
    shared_subscription_available 0x2A Byte u8,
}

impl Property {
    /// A User Property.
    pub fn user(name: &str, value: &str) -> Self {
        Self { id: 0x26, value: Value::Pair(name.into(), value.into()) }
    }

    /// An identifier with any bytes behind it, for what is malformed.
    pub fn raw(id: u8, bytes: &[u8]) -> Self {
        Self { id, value: Value::Raw(bytes.to_vec()) }
    }

    /// Its number, if its value is one.
    pub fn number(&self) -> Option<u32> {
        match self.value {
            Value::Byte(number) => Some(number.into()),
            Value::Two(number) => Some(number.into()),
            Value::Four(number) => Some(number),
            Value::Variable(number) => u32::try_from(number).ok(),
            Value::Text(_) | Value::Pair(..) | Value::Raw(_) => None,
        }
    }

    /// Its text, if its value is one.
    pub fn text(&self) -> Option<String> {
        match &self.value {
            Value::Text(bytes) => String::from_utf8(bytes.clone()).ok(),
            Value::Byte(_)
            | Value::Two(_)
            | Value::Four(_)
            | Value::Variable(_)
            | Value::Pair(..)
            | Value::Raw(_) => None,
        }
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let value = match &self.value {
            Value::Byte(byte) => vec![*byte],
            Value::Two(number) => number.to_be_bytes().to_vec(),
            Value::Four(number) => number.to_be_bytes().to_vec(),
            Value::Variable(number) => variable_byte_integer(*number),
            Value::Text(bytes) => text(bytes),
            Value::Pair(name, value) => [text(name), text(value)].concat(),
            Value::Raw(bytes) => bytes.clone(),
        };
        [vec![self.id], value].concat()
    }
}

/// The first property with this identifier.
pub fn find(properties: &[Property], id: u8) -> Option<&Property> {
    properties.iter().find(|property| property.id == id)
}

/// Reads the fields of a packet's body one after the other; panics where they do not fit.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    /// The next bytes.
    pub fn take(&mut self, count: usize) -> &[u8] {
        assert!(count <= self.0.len(), "{count} bytes announced, but {} left", self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub fn two(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    pub fn four(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    pub fn text(&mut self) -> Vec<u8> {
        let length = self.two().into();
        self.take(length).to_vec()
    }

    /// A Variable Byte Integer; refuses one that is longer than it needs to be [MQTT-1.5.5-1].
    pub fn variable(&mut self) -> usize {
        let mut number = 0;
        for place in 0..4 {
            let byte = self.byte();
            number |= usize::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                assert!(place == 0 || byte != 0, "a Variable Byte Integer is longer than needed");
                return number;
            }
        }
        panic!("a Variable Byte Integer of more than four bytes");
    }

    /// A property list behind its length.
    pub fn properties(&mut self) -> Vec<Property> {
        let length = self.variable();
        let mut fields = Fields(self.take(length));
        let mut properties = Vec::new();
        while !fields.0.is_empty() {
            let id = fields.byte();
            let value = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => Value::Byte(fields.byte()),
                0x13 | 0x21 | 0x22 | 0x23 => Value::Two(fields.two()),
                0x02 | 0x11 | 0x18 | 0x27 => Value::Four(fields.four()),
                0x0B => Value::Variable(fields.variable()),
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => Value::Text(fields.text()),
                0x26 => Value::Pair(fields.text(), fields.text()),
                unknown => panic!("the broker sent a property with the unknown identifier {unknown:#04x}"),
            };
            properties.push(Property { id, value });
        }
        properties
    }
}
