//! The packets a broker sends, taken apart. Reading checks the form: reserved bits, lengths, nothing left over.

use super::wire::{Fields, Property, Version, find};

/// The first byte of each packet a server may send; that of a PUBLISH without its flags.
pub const CONNACK: u8 = 0x20;
pub const PUBLISH: u8 = 0x30;
pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;
pub const SUBACK: u8 = 0x90;
pub const UNSUBACK: u8 = 0xB0;
pub const PINGRESP: u8 = 0xD0;
pub const DISCONNECT: u8 = 0xE0;
pub const AUTH: u8 = 0xF0;

/// A packet from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub version: Version,
    pub first_byte: u8,
    pub body: Vec<u8>,
}

/// A CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAckView {
    pub session_present: bool,
    pub reason: u8,
    pub properties: Vec<Property>,
}

impl ConnAckView {
    /// The number of the property with this identifier.
    pub fn number(&self, id: u8) -> Option<u32> {
        find(&self.properties, id).and_then(Property::number)
    }
}

/// A PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishView {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    /// 0 with QoS 0.
    pub packet_id: u16,
    pub properties: Vec<Property>,
    pub payload: Vec<u8>,
}

impl PublishView {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The number of the property with this identifier.
    pub fn number(&self, id: u8) -> Option<u32> {
        find(&self.properties, id).and_then(Property::number)
    }

    /// All Subscription Identifiers, in ascending order.
    pub fn subscription_identifiers(&self) -> Vec<u32> {
        let identifiers = self.properties.iter().filter(|property| property.id == 0x0B);
        let mut identifiers: Vec<u32> = identifiers.filter_map(Property::number).collect();
        identifiers.sort_unstable();
        identifiers
    }
}

impl Received {
    /// The kind of packet, comparable with the constants above.
    pub fn kind(&self) -> u8 {
        if self.first_byte & 0xF0 == PUBLISH { PUBLISH } else { self.first_byte }
    }

    /// Panics unless the packet is of this kind.
    #[track_caller]
    pub fn must_be(&self, kind: u8) {
        assert_eq!(self.kind(), kind, "expected {kind:#04x}, got {self:02x?}");
    }

    #[track_caller]
    pub fn connack(&self) -> ConnAckView {
        self.must_be(CONNACK);
        let mut fields = Fields(&self.body);
        let flags = fields.byte();
        assert_eq!(flags & 0xFE, 0, "reserved bits set in the flags of a CONNACK");
        let reason = fields.byte();
        let properties = if self.version.is_v5() { fields.properties() } else { Vec::new() };
        assert!(fields.0.is_empty(), "bytes left over: {self:02x?}");
        self.must_be_allowed(reason);
        assert!(reason == 0 || flags == 0, "Session Present with a refusal");
        ConnAckView { session_present: flags & 1 == 1, reason, properties }
    }

    #[track_caller]
    pub fn publish(&self) -> PublishView {
        self.must_be(PUBLISH);
        let mut fields = Fields(&self.body);
        let qos = self.first_byte >> 1 & 3;
        assert_ne!(qos, 3, "the broker sent a PUBLISH with both QoS bits set");
        let topic = String::from_utf8(fields.text()).expect("the broker sent a topic that is not UTF-8");
        let packet_id = if qos > 0 { fields.two() } else { 0 };
        assert!(qos == 0 || packet_id != 0, "the broker sent packet identifier 0");
        let properties = if self.version.is_v5() { fields.properties() } else { Vec::new() };
        PublishView {
            dup: self.first_byte & 8 != 0,
            qos,
            retain: self.first_byte & 1 != 0,
            topic,
            packet_id,
            properties,
            payload: fields.0.to_vec(),
        }
    }

    /// Packet identifier, reason code and properties of a PUBACK, PUBREC, PUBREL or PUBCOMP.
    #[track_caller]
    pub fn ack(&self, kind: u8) -> (u16, u8, Vec<Property>) {
        self.must_be(kind);
        let mut fields = Fields(&self.body);
        let packet_id = fields.two();
        assert!(
            self.version.is_v5() || fields.0.is_empty(),
            "3.x acknowledgements have two bytes: {self:02x?}"
        );
        let reason = if fields.0.is_empty() { 0 } else { fields.byte() };
        let properties = if fields.0.is_empty() { Vec::new() } else { fields.properties() };
        assert!(fields.0.is_empty(), "bytes left over: {self:02x?}");
        self.must_be_allowed(reason);
        (packet_id, reason, properties)
    }

    /// Packet identifier, properties and reason codes of a SUBACK or UNSUBACK.
    #[track_caller]
    pub fn many_acks(&self, kind: u8) -> (u16, Vec<Property>, Vec<u8>) {
        self.must_be(kind);
        let mut fields = Fields(&self.body);
        let packet_id = fields.two();
        let properties = if self.version.is_v5() { fields.properties() } else { Vec::new() };
        let reasons = fields.0.to_vec();
        reasons.iter().for_each(|reason| self.must_be_allowed(*reason));
        (packet_id, properties, reasons)
    }

    /// Reason code and properties of a DISCONNECT or AUTH.
    #[track_caller]
    pub fn reason(&self, kind: u8) -> (u8, Vec<Property>) {
        self.must_be(kind);
        assert!(self.version.is_v5(), "a server sends no DISCONNECT and no AUTH before 5.0");
        let mut fields = Fields(&self.body);
        let reason = if fields.0.is_empty() { 0 } else { fields.byte() };
        let properties = if fields.0.is_empty() { Vec::new() } else { fields.properties() };
        assert!(fields.0.is_empty(), "bytes left over: {self:02x?}");
        self.must_be_allowed(reason);
        assert!(find(&properties, 0x11).is_none(), "a server sends no Session Expiry Interval here");
        (reason, properties)
    }

    /// Panics unless the standard lets a server use this reason code in this kind of packet.
    #[track_caller]
    fn must_be_allowed(&self, reason: u8) {
        let allowed: &[u8] = match (self.kind(), self.version) {
            (CONNACK, Version::V5) => &CONNACK_REASONS,
            (CONNACK, Version::V3_1 | Version::V3_1_1) => &[0, 1, 2, 3, 4, 5],
            (PUBACK | PUBREC, _) => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            (PUBREL | PUBCOMP, _) => &[0, 0x92],
            (SUBACK, Version::V5) => &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
            (SUBACK, Version::V3_1 | Version::V3_1_1) => &[0, 1, 2, 0x80],
            (UNSUBACK, _) => &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
            (DISCONNECT, _) => &DISCONNECT_REASONS,
            _ => &[0, 0x18],
        };
        assert!(allowed.contains(&reason), "reason code {reason:#04x} is not for {self:02x?}");
    }
}

/// 5.0 §3.2.2.2.
const CONNACK_REASONS: [u8; 22] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
    0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];

/// 5.0 §3.14.2.1, those a server may send.
const DISCONNECT_REASONS: [u8; 28] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
    0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];
