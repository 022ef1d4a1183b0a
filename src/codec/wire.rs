//! The data types of §1.5, read from a slice and written to a buffer.
//!
//! Used by every packet's file. A read never goes behind the slice's end and never allocates; a write either
//! succeeds or says which field does not fit the format.

use super::frame::{read_variable_byte_integer, variable_byte_integer};
use super::{DecodeError, EncodeError, PacketId, PacketType};

/// A position in the bytes of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that was not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(super) fn two_byte_integer(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn four_byte_integer(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        let (value, length) = read_variable_byte_integer(self.rest)?.ok_or(DecodeError::Truncated)?;
        self.take(length)?;
        Ok(value)
    }

    /// Binary Data, §1.5.6.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.two_byte_integer()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 Encoded String, §1.5.4.
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        if bytes.contains(&0) {
            return Err(DecodeError::NullCharacter);
        }
        std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)
    }

    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.two_byte_integer()?).ok_or(DecodeError::PacketIdZero)
    }

    /// That nothing is left.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes(left)),
        }
    }
}

/// Appends a packet whose body `body` writes. On an error `out` is as it was.
pub(super) fn put_frame(
    out: &mut Vec<u8>,
    packet: PacketType,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.push(packet.first_byte());
    let result = put_with_length(out, body);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Appends what `body` writes, with its length before it as a Variable Byte Integer. The length is put in
/// afterwards, which moves the body by a byte or more: control packets are small and rare, and so there is no
/// second description of every packet just to count its bytes.
pub(super) fn put_with_length(
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    body(out)?;
    let (bytes, length) = variable_byte_integer(out.len() - start)?;
    out.splice(start..start, bytes.into_iter().take(length));
    Ok(())
}

pub(super) fn put_two_byte_integer(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Binary Data, §1.5.6, and of course strings, §1.5.4.
pub(super) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    let length = u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong(bytes.len()))?;
    put_two_byte_integer(out, length);
    out.extend_from_slice(bytes);
    Ok(())
}

pub(super) fn put_packet_id(out: &mut Vec<u8>, packet_id: PacketId) {
    put_two_byte_integer(out, packet_id.get());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_as_section_1_5_4_says() {
        for (bytes, expected) in [
            (&b"\x00\x03abc"[..], Ok("abc")),
            (b"\x00\x00", Ok("")),
            (b"\x00\x03\xEF\xBB\xBF", Ok("\u{FEFF}")),
            (b"\x00\x04\xF0\xAA\x9B\x94", Ok("\u{2A6D4}")),
            (b"\x00\x01\x01", Ok("\u{1}")),
            (b"\x00\x01\x00", Err(DecodeError::NullCharacter)),
            (b"\x00\x03\xED\xA0\x80", Err(DecodeError::NotUtf8)),
            (b"\x00\x02\xC0\x80", Err(DecodeError::NotUtf8)),
            (b"\x00\x04\xF4\x90\x80\x80", Err(DecodeError::NotUtf8)),
            (b"\x00\x01\xFF", Err(DecodeError::NotUtf8)),
            (b"\x00\x04abc", Err(DecodeError::Truncated)),
            (b"\x00", Err(DecodeError::Truncated)),
        ] {
            assert_eq!(Reader::new(bytes).string(), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_the_buffer_alone() {
        let mut out = vec![1, 2, 3];
        let long = vec![b'a'; 65_536];
        let result = put_frame(&mut out, PacketType::Subscribe, |out| put_binary(out, &long));
        assert_eq!(result, Err(EncodeError::FieldTooLong(65_536)));
        assert_eq!(out, [1, 2, 3]);
    }
}
