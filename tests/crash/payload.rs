//! What is in a message: its publisher and its number, and after them what can be computed from these.

use crate::support::random::Random;

/// A payload that can be told by its first eight bytes; now and then a large one. `scale`: how much larger than some
/// 300 bytes on average.
pub fn payload(publisher: usize, number: usize, scale: u64) -> Vec<u8> {
    let mut random = Random::new(publisher as u64, number as u64);
    let length = if random.percent(2) { 5_000 + random.below(10_000) } else { 8 + random.below(200) };
    let length = length * scale;
    let mut bytes = Vec::with_capacity(length as usize + 8);
    bytes.extend((publisher as u32).to_be_bytes());
    bytes.extend((number as u32).to_be_bytes());
    while bytes.len() < length as usize {
        bytes.extend(random.next().to_be_bytes());
    }
    bytes
}

/// The publisher and the number that a payload names.
pub fn origin(bytes: &[u8]) -> Option<(usize, usize)> {
    let publisher = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let number = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    Some((publisher as usize, number as usize))
}
