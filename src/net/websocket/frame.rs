//! Frames (RFC 6455 §5): what a client sends is unmasked in place, what we send gets a header.
//!
//! Sans-IO. The decoder takes bytes as they are read, at any boundary, and leaves the payload of data frames at the
//! front of the same buffer. What always holds: after an [`End`] nothing more is decoded.

use thiserror::Error;

/// The longest payload of a control frame, §5.5.
const CONTROL_LENGTH: usize = 125;

/// The longest header of a client's frame: two bytes, an eight-byte length, a mask.
const HEADER_LENGTH: usize = 14;

/// Bytes that are unmasked at a time: a few of the processor's registers.
const BLOCK: usize = 64;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// How a client broke the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// [MQTT-6.0.0-1]
    #[error("it sent a text frame; MQTT is spoken in binary frames")]
    Text,
    /// §5.1
    #[error("it sent a frame that is not masked")]
    NotMasked,
    /// §5.2: no extension was agreed on.
    #[error("it set a reserved bit of a frame")]
    ReservedBit,
    /// §5.2
    #[error("it sent a frame with the unknown opcode {0:#x}")]
    Opcode(u8),
    /// §5.2
    #[error("the length of a frame is not written in its shortest form, or too large")]
    Length,
    /// §5.5
    #[error("it sent a control frame in pieces, or one of more than 125 bytes")]
    Control,
    /// §5.4
    #[error("it sent a continuation of nothing, or a new message in the midst of another")]
    Fragmentation,
    /// §5.5.1, §7.4
    #[error("it sent a close frame with a broken code")]
    CloseCode,
}

impl Violation {
    /// The status code of the close frame that answers it, §7.4.1.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::NotMasked
            | Self::ReservedBit
            | Self::Opcode(_)
            | Self::Length
            | Self::Control
            | Self::Fragmentation
            | Self::CloseCode => 1002,
        }
    }
}

/// Why no more frames are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client sent a close frame, with a code or without.
    Close(Option<u16>),
    /// The client broke the rules.
    Violation(Violation),
}

/// Decodes a client's frames.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// A message has begun whose last fragment has not come.
    in_message: bool,
    end: Option<End>,
    /// The payload of a ping that is to be answered; of several the last, §5.5.3.
    pub ping: Option<Box<[u8]>>,
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; HEADER_LENGTH], filled: u8 },
    Data { left: u64, mask: [u8; 4] },
    Control { opcode: u8, left: u8, mask: [u8; 4], payload: Vec<u8> },
}

impl Default for State {
    fn default() -> Self {
        Self::Header { bytes: [0; HEADER_LENGTH], filled: 0 }
    }
}

impl Decoder {
    /// Decodes all of `buffer`; the payload of data frames in it is at its front afterwards. How many bytes that is.
    pub fn decode(&mut self, buffer: &mut [u8]) -> usize {
        let (mut read, mut written) = (0, 0);
        while read < buffer.len() && self.end.is_none() {
            match &mut self.state {
                State::Header { bytes, filled } => {
                    let at = usize::from(*filled);
                    if let (Some(slot), Some(byte)) = (bytes.get_mut(at), buffer.get(read)) {
                        *slot = *byte;
                    }
                    *filled += 1;
                    read += 1;
                    let header = *bytes;
                    let length = at + 1;
                    match self.begin(header.get(..length).unwrap_or_default()) {
                        Ok(()) => {}
                        Err(violation) => self.end = Some(End::Violation(violation)),
                    }
                }
                State::Data { left, mask } => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len() - read);
                    unmask_to(buffer, read, written, here, mask);
                    *left -= here as u64;
                    (read, written) = (read + here, written + here);
                    if *left == 0 {
                        self.state = State::default();
                    }
                }
                State::Control { left, payload, .. } => {
                    let here = usize::from(*left).min(buffer.len() - read);
                    payload.extend_from_slice(buffer.get(read..read + here).unwrap_or_default());
                    // At most 125.
                    *left -= u8::try_from(here).unwrap_or(*left);
                    read += here;
                    if *left == 0 {
                        self.control();
                    }
                }
            }
        }
        written
    }

    /// Why decoding has ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Goes on to the payload if the header is complete.
    fn begin(&mut self, header: &[u8]) -> Result<(), Violation> {
        let [first, second, rest @ ..] = header else { return Ok(()) };
        let (opcode, is_last) = (first & 0x0F, first & FIN != 0);
        let short = second & !MASKED;
        if rest.is_empty() {
            self.check(*first, *second)?;
        }
        let (length, mask) = match (short, rest) {
            (126, [a, b, mask @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), mask),
            (127, [a, b, c, d, e, f, g, h, mask @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), mask)
            }
            (126 | 127, _) => return Ok(()),
            (short, mask) => (u64::from(short), mask),
        };
        let shortest = match short {
            126 => 126,
            127 => 1 << 16,
            _ => 0,
        };
        if length < shortest || length > i64::MAX as u64 {
            return Err(Violation::Length);
        }
        let Ok(mask) = <[u8; 4]>::try_from(mask) else { return Ok(()) };
        if opcode >= CLOSE {
            self.state = State::Control { opcode, left: short, mask, payload: Vec::new() };
            if short == 0 {
                self.control();
            }
            return Ok(());
        }
        self.in_message = !is_last;
        self.state = if length == 0 { State::default() } else { State::Data { left: length, mask } };
        Ok(())
    }

    /// What the first two bytes of a header must not be.
    fn check(&self, first: u8, second: u8) -> Result<(), Violation> {
        let (opcode, is_last, length) = (first & 0x0F, first & FIN != 0, usize::from(second & !MASKED));
        if first & RESERVED != 0 {
            return Err(Violation::ReservedBit);
        }
        if second & MASKED == 0 {
            return Err(Violation::NotMasked);
        }
        match opcode {
            TEXT => Err(Violation::Text),
            CONTINUATION if !self.in_message => Err(Violation::Fragmentation),
            BINARY if self.in_message => Err(Violation::Fragmentation),
            CONTINUATION | BINARY => Ok(()),
            CLOSE | PING | PONG if !is_last || length > CONTROL_LENGTH => Err(Violation::Control),
            CLOSE | PING | PONG => Ok(()),
            unknown => Err(Violation::Opcode(unknown)),
        }
    }

    /// Takes a control frame that is complete.
    fn control(&mut self) {
        let State::Control { opcode, mut mask, mut payload, .. } = std::mem::take(&mut self.state) else {
            return;
        };
        unmask(&mut payload, &mut mask);
        match opcode {
            CLOSE => self.end = Some(close(&payload)),
            PING => self.ping = Some(payload.into_boxed_slice()),
            // An answer to a ping of ours, or a sign of life: nothing to do.
            _ => {}
        }
    }
}

/// What a close frame's payload says, §5.5.1.
fn close(payload: &[u8]) -> End {
    match payload {
        [] => End::Close(None),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            // §7.4.1, §7.4.2: the others are reserved or must not be sent.
            let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            if may_be_sent && std::str::from_utf8(reason).is_ok() {
                End::Close(Some(code))
            } else {
                End::Violation(Violation::CloseCode)
            }
        }
        [_] => End::Violation(Violation::CloseCode),
    }
}

/// Removes the mask (§5.3) of `length` bytes at `from` while they move forward to `to`, in one pass, and turns the mask
/// to where the next byte continues.
fn unmask_to(buffer: &mut [u8], from: usize, to: usize, length: usize, mask: &mut [u8; 4]) {
    let repeated: [u8; BLOCK] = std::array::from_fn(|index| mask[index % 4]);
    let mut done = 0;
    while let (true, Some(source)) = (done + BLOCK <= length, buffer.get(from + done..from + done + BLOCK)) {
        let mut block = repeated;
        for (byte, masked) in block.iter_mut().zip(source) {
            *byte ^= masked;
        }
        if let Some(target) = buffer.get_mut(to + done..to + done + BLOCK) {
            target.copy_from_slice(&block);
        }
        done += BLOCK;
    }
    buffer.copy_within(from + done..from + length, to + done);
    unmask(buffer.get_mut(to + done..to + length).unwrap_or_default(), mask);
}

/// Removes the mask where the bytes are.
fn unmask(payload: &mut [u8], mask: &mut [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(payload.len() % 4);
}

/// Appends the header of a binary frame of ours: unmasked (§5.1), not fragmented.
pub fn encode_data_header(length: usize, out: &mut Vec<u8>) {
    out.push(FIN | BINARY);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Appends a ping without payload.
pub fn encode_ping(out: &mut Vec<u8>) {
    out.extend_from_slice(&[FIN | PING, 0]);
}

/// Appends the answer to a ping.
pub fn encode_pong(payload: &[u8], out: &mut Vec<u8>) {
    let payload = payload.get(..CONTROL_LENGTH).unwrap_or(payload);
    out.extend_from_slice(&[FIN | PONG, payload.len() as u8]);
    out.extend_from_slice(payload);
}

/// Appends a close frame.
pub fn encode_close(code: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&[FIN | CLOSE, 2]);
    out.extend_from_slice(&code.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(MASKED | length as u8),
            length @ 126..=0xFFFF => {
                bytes.push(MASKED | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(MASKED | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// Decodes in pieces of this size.
    fn decode(decoder: &mut Decoder, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut buffer = piece.to_vec();
            let length = decoder.decode(&mut buffer);
            data.extend_from_slice(&buffer[..length]);
        }
        data
    }

    #[test]
    fn payloads_come_out_however_the_bytes_are_cut() {
        let long: Vec<u8> = (0..70_000).map(|number| (number % 251) as u8).collect();
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for payload in [&long[..1], &long[..0], &long[..125], &long[..126], &long[..65_535], &long[..]] {
            bytes.extend(frame(FIN | BINARY, payload));
            expected.extend_from_slice(payload);
        }
        // One message in three fragments, with a ping in between.
        bytes.extend(frame(BINARY, b"one "));
        bytes.extend(frame(FIN | PING, b"still there?"));
        bytes.extend(frame(CONTINUATION, b"and "));
        bytes.extend(frame(FIN | CONTINUATION, b"the same"));
        expected.extend_from_slice(b"one and the same");
        bytes.extend(frame(FIN | CLOSE, &[0x03, 0xE8, b'b', b'y', b'e']));
        bytes.extend_from_slice(b"what comes behind a close frame is nothing");
        for piece in [1, 2, 3, 7, 8, 13, 1_000, bytes.len()] {
            let mut decoder = Decoder::default();
            assert!(decode(&mut decoder, &bytes, piece) == expected, "in pieces of {piece}");
            assert_eq!(decoder.end(), Some(End::Close(Some(1000))));
            assert_eq!(decoder.ping.as_deref(), Some(&b"still there?"[..]));
        }
    }

    #[test]
    fn what_breaks_the_rules_ends_it() {
        let unmasked = vec![FIN | BINARY, 1, 0];
        let long_form = vec![FIN | BINARY, MASKED | 126, 0, 125];
        let longer_form = vec![FIN | BINARY, MASKED | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF];
        let monstrous = vec![FIN | BINARY, MASKED | 127, 0x80, 0, 0, 0, 0, 0, 0, 0];
        let twice = [frame(BINARY, b"a"), frame(FIN | BINARY, b"b")].concat();
        for (bytes, violation) in [
            (frame(FIN | TEXT, b"text"), Violation::Text),
            (unmasked, Violation::NotMasked),
            (frame(FIN | 0x40 | BINARY, b"compressed?"), Violation::ReservedBit),
            (frame(FIN | 0x3, b""), Violation::Opcode(3)),
            (frame(FIN | 0xB, b""), Violation::Opcode(11)),
            (long_form, Violation::Length),
            (longer_form, Violation::Length),
            (monstrous, Violation::Length),
            (frame(PING, b""), Violation::Control),
            (frame(FIN | PING, &[0; 126]), Violation::Control),
            (frame(FIN | CONTINUATION, b""), Violation::Fragmentation),
            (twice, Violation::Fragmentation),
            (frame(FIN | CLOSE, &[3]), Violation::CloseCode),
            (frame(FIN | CLOSE, &1005_u16.to_be_bytes()), Violation::CloseCode),
            (frame(FIN | CLOSE, &[0x03, 0xE8, 0xFF]), Violation::CloseCode),
        ] {
            for piece in [1, bytes.len()] {
                let mut decoder = Decoder::default();
                decode(&mut decoder, &bytes, piece);
                assert_eq!(decoder.end(), Some(End::Violation(violation)), "{bytes:02x?}");
            }
        }
    }

    #[test]
    fn our_headers_are_in_their_shortest_form() {
        for (length, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (0xFFFF, &[0x82, 126, 0xFF, 0xFF]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            encode_data_header(length, &mut out);
            assert_eq!(out, header, "{length}");
        }
    }
}
