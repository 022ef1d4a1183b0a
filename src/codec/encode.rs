//! From a packet to bytes, and how a packet is made to fit a client's Maximum Packet Size.

use super::acknowledgement::{self, AckKind};
use super::{EncodeError, Packet, PacketType, ProtocolVersion, connect, disconnect, publish, subscribe};

/// What of a packet's explanations is written: the standard lets them be left out when the packet would be too
/// large for its receiver otherwise, [MQTT-3.2.2-19], [MQTT-3.2.2-20] and their like for the other packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// All.
    Full,
    /// The Reason String without the User Properties.
    ReasonString,
    /// Neither.
    None,
}

impl Detail {
    pub(super) fn reason_string(self, text: Option<&str>) -> Option<&str> {
        match self {
            Self::Full | Self::ReasonString => text,
            Self::None => None,
        }
    }

    pub(super) fn user_properties<'a, 'b>(self, pairs: &'b [(&'a str, &'a str)]) -> &'b [(&'a str, &'a str)] {
        match self {
            Self::Full => pairs,
            Self::ReasonString | Self::None => &[],
        }
    }
}

impl Packet<'_> {
    /// What kind of packet it is.
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet as `version` writes it; what the version does not know is left out. A CONNECT is
    /// written in its own version.
    ///
    /// # Errors
    /// When something does not fit the format; `out` is unchanged then.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode_with(version, Detail::Full, out)
    }

    /// As [`Packet::encode`], for a receiver that takes packets of at most `maximum` bytes: if need be without
    /// User Properties, then without Reason String. CONNECT, PUBLISH, SUBSCRIBE and UNSUBSCRIBE are written in
    /// full or not at all.
    ///
    /// # Errors
    /// As [`Packet::encode`], and when the packet is too large nevertheless: then it must not be sent.
    pub fn encode_within(
        &self,
        version: ProtocolVersion,
        maximum: Option<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        let Some(limit) = maximum else { return self.encode(version, out) };
        let mut size = 0;
        for detail in [Detail::Full, Detail::ReasonString, Detail::None] {
            self.encode_with(version, detail, out)?;
            size = out.len() - start;
            if size <= limit as usize {
                return Ok(());
            }
            out.truncate(start);
        }
        Err(EncodeError::ExceedsMaximumPacketSize { size, limit })
    }

    fn encode_with(
        &self,
        version: ProtocolVersion,
        detail: Detail,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let acknowledgement = |kind, packet, out| acknowledgement::encode(kind, packet, version, detail, out);
        match self {
            Self::Connect(packet) => connect::encode(packet, out),
            Self::ConnAck(packet) => connect::encode_full_connack(packet, version, detail, out),
            Self::Publish(packet) => publish::encode(packet, version, out),
            Self::PubAck(packet) => acknowledgement(AckKind::PubAck, packet, out),
            Self::PubRec(packet) => acknowledgement(AckKind::PubRec, packet, out),
            Self::PubRel(packet) => acknowledgement(AckKind::PubRel, packet, out),
            Self::PubComp(packet) => acknowledgement(AckKind::PubComp, packet, out),
            Self::Subscribe(packet) => subscribe::encode_subscribe(packet, version, out),
            Self::SubAck(packet) => subscribe::encode_suback(packet, version, detail, out),
            Self::Unsubscribe(packet) => subscribe::encode_unsubscribe(packet, version, out),
            Self::UnsubAck(packet) => subscribe::encode_unsuback(packet, version, detail, out),
            Self::PingReq => {
                encode_empty(out, PacketType::PingReq);
                Ok(())
            }
            Self::PingResp => {
                encode_empty(out, PacketType::PingResp);
                Ok(())
            }
            Self::Disconnect(packet) => disconnect::encode_disconnect(packet, version, detail, out),
            Self::Auth(packet) => disconnect::encode_auth(packet, version, detail, out),
        }
    }
}

fn encode_empty(out: &mut Vec<u8>, packet: PacketType) {
    out.extend_from_slice(&[packet.first_byte(), 0]);
}
