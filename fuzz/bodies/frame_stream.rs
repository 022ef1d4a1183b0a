//! Takes any bytes for a stream that a network cuts into pieces: however it is cut, the same packets come out
//! and the stream ends at the same place with the same error.
//!
//! The first byte of the input chooses how large the pieces are, the second the version.

use fulmar::codec::{DecodeError, ProtocolVersion, decode, read_header};

/// What a reader made of a stream: the packets, printed, and why it stopped if it did.
type Outcome = (Vec<String>, Option<DecodeError>);

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let [piece, version, stream @ ..] = data else { return };
    let version = match version % 3 {
        0 => ProtocolVersion::V3_1,
        1 => ProtocolVersion::V3_1_1,
        _ => ProtocolVersion::V5,
    };
    let at_once = read_in_pieces(version, stream, stream.len().max(1));
    let in_pieces = read_in_pieces(version, stream, usize::from(piece % 17) + 1);
    assert_eq!(at_once, in_pieces);
}

/// Reads as a connection does: append what came, take every whole packet off the front.
fn read_in_pieces(version: ProtocolVersion, stream: &[u8], piece: usize) -> Outcome {
    let mut buffer = Vec::new();
    let mut packets = Vec::new();
    for chunk in stream.chunks(piece) {
        buffer.extend_from_slice(chunk);
        let mut taken = 0;
        let error = loop {
            let rest = &buffer[taken..];
            let header = match read_header(rest) {
                Ok(Some(header)) => header,
                Ok(None) => break None,
                Err(error) => break Some(error),
            };
            let Some(frame) = rest.get(..header.frame_length()) else { break None };
            match decode(version, frame) {
                Ok(packet) => packets.push(format!("{packet:?}")),
                Err(error) => break Some(error),
            }
            taken += frame.len();
        };
        if error.is_some() {
            return (packets, error);
        }
        buffer.drain(..taken);
    }
    (packets, None)
}
