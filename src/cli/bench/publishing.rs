//! How publishers publish and who gets it: topics, QoS, limits; and the PUBLISH packets made ready beforehand.

use super::super::client::ClientError;
use crate::codec::{PacketId, ProtocolVersion, PublishHeader, PublishProperties, QoS, encode_publish_head};

/// What stands at the front of each payload: due time (8 bytes), publisher (4), number (4), little-endian.
pub(super) const STAMP: usize = 16;

/// Who gets what: each message is delivered `width` times `copies`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flows {
    pub publishers: usize,
    pub subscribers: usize,
    /// Every subscriber gets every message, and is counted on its own.
    pub is_broadcast: bool,
    /// Deliveries of each message that are counted together, as to several shared groups.
    pub copies: u64,
    /// One subscriber gets all of a publisher's messages, or each gets all, so that their order can be watched.
    pub is_ordered: bool,
}

impl Flows {
    pub fn width(&self) -> usize {
        if self.is_broadcast { self.subscribers } else { 1 }
    }

    /// Deliveries of each message.
    pub fn per_message(&self) -> u64 {
        self.width() as u64 * self.copies
    }
}

/// The largest number that divides both.
pub(super) fn greatest_common_divisor(one: usize, other: usize) -> usize {
    let (mut one, mut other) = (one, other);
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one.max(1)
}

/// How publishers publish.
#[derive(Debug, Clone)]
pub(super) struct Publishing {
    pub version: ProtocolVersion,
    pub qos: QoS,
    pub retain: bool,
    /// Bytes; `STAMP` at least, or none to clear what is retained.
    pub payload: usize,
    /// The largest packet that the broker takes, in bytes.
    pub maximum_packet_size: u32,
    /// Messages a publisher may have unacknowledged.
    pub in_flight: u64,
    /// Messages a publisher may be ahead of its slowest subscriber; `None` floods.
    pub window: Option<u64>,
    /// The fewest messages worth a write.
    pub batch: u64,
    /// Messages of all publishers together.
    pub limit: u64,
}

/// The beginnings of PUBLISH packets, ready to be copied, one a topic.
pub(super) struct Heads {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Where in a head the Packet Identifier is, counted from its end.
    pub packet_id: usize,
}

impl Heads {
    pub fn new(publishing: &Publishing, topics: impl Iterator<Item = String>) -> Result<Self, ClientError> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let Publishing { version, qos, retain, payload, .. } = publishing;
        let packet_id = if *qos == QoS::AtMostOnce { None } else { PacketId::new(1) };
        let header = PublishHeader { dup: false, qos: *qos, retain: *retain, packet_id };
        for topic in topics {
            let properties = PublishProperties::default();
            encode_publish_head(&mut bytes, *version, &header, topic.as_bytes(), properties, *payload)?;
            let length = bytes.len() - ends.last().unwrap_or(&0) + payload;
            if length > publishing.maximum_packet_size as usize {
                return Err(ClientError::MaximumPacketSize(publishing.maximum_packet_size));
            }
            ends.push(bytes.len());
        }
        let properties_length = usize::from(*version == ProtocolVersion::V5);
        Ok(Self { bytes, ends, packet_id: 2 + properties_length })
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    pub fn get(&self, topic: usize) -> &[u8] {
        let start = topic.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(topic).copied().unwrap_or(start);
        self.bytes.get(start..end).unwrap_or_default()
    }
}
