//! Framing, §2.1: the first byte and the Remaining Length, before anything of the body is looked at.
//!
//! Called by `net` for every packet, often before the body has arrived: what the first byte already betrays
//! is refused here. Flags whose meaning depends on the version are left to `decode`.

use std::fmt;

use super::{DecodeError, EncodeError, ProtocolVersion};

/// The most a Variable Byte Integer holds, §1.5.5.
pub const MAXIMUM_REMAINING_LENGTH: usize = 268_435_455;

/// DUP in the first byte.
pub(super) const DUP: u8 = 0b1000;

/// The fixed header of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Packet type and flags.
    pub first_byte: u8,
    /// Bytes of the fixed header itself: 2 to 5.
    pub header_length: usize,
    /// Bytes that follow it.
    pub remaining_length: usize,
}

impl FrameHeader {
    /// Bytes of the whole packet.
    pub fn frame_length(&self) -> usize {
        self.header_length + self.remaining_length
    }

    /// What kind of packet it is; `None` only for a header that `read_header` would not give out.
    pub fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_first_byte(self.first_byte)
    }
}

/// The kinds of Control Packets, §2.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The kind in the high four bits of a packet's first byte; `None` for the reserved 0.
    pub const fn from_first_byte(first_byte: u8) -> Option<Self> {
        Some(match first_byte >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte of such a packet, with the flags §2.1.3 fixes (for PUBLISH: none).
    pub const fn first_byte(self) -> u8 {
        let flags = match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            Self::Connect
            | Self::ConnAck
            | Self::Publish
            | Self::PubAck
            | Self::PubRec
            | Self::PubComp
            | Self::SubAck
            | Self::UnsubAck
            | Self::PingReq
            | Self::PingResp
            | Self::Disconnect
            | Self::Auth => 0,
        };
        (self as u8) << 4 | flags
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        })
    }
}

/// Reads the fixed header at the start of `input`; `None` means that more bytes are needed. What is wrong in
/// every version with the first byte or the length is an error as soon as its byte is there.
#[inline]
pub fn read_header(input: &[u8]) -> Result<Option<FrameHeader>, DecodeError> {
    let Some((&first_byte, rest)) = input.split_first() else { return Ok(None) };
    if !FIRST_BYTE_IS_VALID[usize::from(first_byte)] {
        return Err(first_byte_error(first_byte));
    }
    let (header_length, remaining_length) = match usual_lengths(input) {
        Some(lengths) => lengths,
        None => match read_variable_byte_integer(rest)? {
            Some((length, bytes)) => (1 + bytes, length as usize),
            None => return Ok(None),
        },
    };
    Ok(Some(FrameHeader { first_byte, header_length, remaining_length }))
}

/// The lengths of the fixed header and of what follows it, of a packet that is valid up to there: of most packets, those of
/// less than 16 KiB. `None` for all others.
#[inline]
pub fn usual_lengths(input: &[u8]) -> Option<(usize, usize)> {
    match *input {
        [_, one, ..] if one < 0x80 => Some((2, usize::from(one))),
        [_, one, two, ..] if two < 0x80 && two != 0 => {
            Some((3, usize::from(one & 0x7F) | usize::from(two) << 7))
        }
        _ => None,
    }
}

/// The integer at the start of `input` and how many bytes it takes, §1.5.5; `None` if it goes on behind the end.
pub(super) fn read_variable_byte_integer(input: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in input.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            if byte == 0 && index > 0 {
                return Err(DecodeError::VariableByteIntegerNotMinimal);
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if input.len() >= 4 { Err(DecodeError::VariableByteIntegerTooLong) } else { Ok(None) }
}

/// How many bytes of a packet of this length are its fixed header. That follows from the length, as the Remaining Length
/// is in its shortest form [MQTT-1.5.5-1].
#[inline]
pub const fn header_length(frame_length: usize) -> usize {
    match frame_length {
        0..=0x81 => 2,
        0x82..=0x4002 => 3,
        0x4003..=0x20_0003 => 4,
        _ => 5,
    }
}

/// How many bytes the integer takes. For values that do not fit: four, as `put_variable_byte_integer` refuses.
#[inline]
pub(super) const fn variable_byte_integer_length(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// The bytes of the integer, of which the first so many count.
#[inline]
pub(super) fn variable_byte_integer(value: usize) -> Result<([u8; 4], usize), EncodeError> {
    if value > MAXIMUM_REMAINING_LENGTH {
        return Err(EncodeError::LengthTooLarge(value));
    }
    let mut bytes = [0; 4];
    let mut rest = value;
    let mut length = 0;
    for byte in &mut bytes {
        *byte = (rest & 0x7F) as u8;
        rest >>= 7;
        length += 1;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    Ok((bytes, length))
}

/// What `read_header` cannot decide: flags and types that only some versions know.
pub(super) fn check_first_byte(
    version: ProtocolVersion,
    first_byte: u8,
    packet: PacketType,
) -> Result<(), DecodeError> {
    match packet {
        // 3.1 lets these be repeated with DUP, its §2.1.
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe
            if first_byte & DUP != 0 && version != ProtocolVersion::V3_1 =>
        {
            Err(DecodeError::ReservedFlags { packet, flags: first_byte & 0x0F })
        }
        PacketType::Auth if version != ProtocolVersion::V5 => Err(DecodeError::AuthBeforeV5),
        PacketType::Connect
        | PacketType::ConnAck
        | PacketType::Publish
        | PacketType::PubAck
        | PacketType::PubRec
        | PacketType::PubRel
        | PacketType::PubComp
        | PacketType::Subscribe
        | PacketType::SubAck
        | PacketType::Unsubscribe
        | PacketType::UnsubAck
        | PacketType::PingReq
        | PacketType::PingResp
        | PacketType::Disconnect
        | PacketType::Auth => Ok(()),
    }
}

/// Says what is wrong with a first byte that is not valid in any version.
#[cold]
fn first_byte_error(first_byte: u8) -> DecodeError {
    match PacketType::from_first_byte(first_byte) {
        None => DecodeError::ReservedPacketType,
        Some(PacketType::Publish) if first_byte & 0b0110 == 0b0110 => DecodeError::InvalidQoS,
        Some(PacketType::Publish) => DecodeError::DupWithQoS0,
        Some(packet) => DecodeError::ReservedFlags { packet, flags: first_byte & 0x0F },
    }
}

/// Which first bytes some version allows: one look-up in the hot path instead of a chain of questions.
const FIRST_BYTE_IS_VALID: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    loop {
        table[byte as usize] = match PacketType::from_first_byte(byte) {
            None => false,
            Some(PacketType::Publish) => match byte >> 1 & 0b11 {
                0 => byte & DUP == 0,
                1 | 2 => true,
                _ => false,
            },
            Some(packet @ (PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe)) => {
                byte & !DUP == packet.first_byte()
            }
            Some(packet) => byte == packet.first_byte(),
        };
        if byte == u8::MAX {
            break;
        }
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_as_table_2_2_says() {
        for first_byte in 0..=u8::MAX {
            let flags = first_byte & 0x0F;
            let expected = match first_byte >> 4 {
                0 => Err(DecodeError::ReservedPacketType),
                3 if flags & 0b0110 == 0b0110 => Err(DecodeError::InvalidQoS),
                3 if flags & 0b1110 == 0b1000 => Err(DecodeError::DupWithQoS0),
                3 => Ok(()),
                6 | 8 | 10 if flags & 0b0111 == 0b0010 => Ok(()),
                1 | 2 | 4 | 5 | 7 | 9 | 11..=15 if flags == 0 => Ok(()),
                _ => Err(DecodeError::ReservedFlags {
                    packet: PacketType::from_first_byte(first_byte).unwrap(),
                    flags,
                }),
            };
            // Refused before the length has come.
            assert_eq!(read_header(&[first_byte]), expected.map(|()| None), "{first_byte:#04x}");
        }
    }

    #[test]
    fn remaining_lengths_are_as_table_1_1_says() {
        for (bytes, length) in [
            (&[0x00][..], 0),
            (&[0x7F], 127),
            (&[0x80, 0x01], 128),
            (&[0xFF, 0x7F], 16_383),
            (&[0x80, 0x80, 0x01], 16_384),
            (&[0xFF, 0xFF, 0x7F], 2_097_151),
            (&[0x80, 0x80, 0x80, 0x01], 2_097_152),
            (&[0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
        ] {
            let mut input = vec![0x30];
            input.extend_from_slice(bytes);
            for cut in 0..input.len() {
                assert_eq!(read_header(&input[..cut]), Ok(None), "{bytes:02x?} cut at {cut}");
            }
            let header = read_header(&input).unwrap().unwrap();
            assert_eq!((header.remaining_length, header.header_length), (length, input.len()));
            assert_eq!(header_length(header.frame_length()), header.header_length);
            assert_eq!(header.frame_length(), length + input.len());
            let (written, written_length) = variable_byte_integer(length).unwrap();
            assert_eq!(&written[..written_length], bytes);
            assert_eq!(variable_byte_integer_length(length), bytes.len());
        }
        assert_eq!(variable_byte_integer(268_435_456), Err(EncodeError::LengthTooLarge(268_435_456)));
    }

    #[test]
    fn bad_remaining_lengths_are_refused() {
        // [MQTT-1.5.5-1]
        for (bytes, error) in [
            (&[0x80, 0x00][..], DecodeError::VariableByteIntegerNotMinimal),
            (&[0xFF, 0x00], DecodeError::VariableByteIntegerNotMinimal),
            (&[0x80, 0x80, 0x00], DecodeError::VariableByteIntegerNotMinimal),
            (&[0xFF, 0xFF, 0xFF, 0x00], DecodeError::VariableByteIntegerNotMinimal),
            (&[0x80, 0x80, 0x80, 0x80], DecodeError::VariableByteIntegerTooLong),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0x01], DecodeError::VariableByteIntegerTooLong),
        ] {
            let mut input = vec![0x30];
            input.extend_from_slice(bytes);
            assert_eq!(read_header(&input), Err(error), "{bytes:02x?}");
        }
    }
}
