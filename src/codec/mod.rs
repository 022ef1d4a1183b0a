//! Bytes to packets and back, for MQTT 3.1, 3.1.1 and 5.0: strict, without IO and without a clock.
//!
//! Called by `net`, which owns the buffers. What always holds: a packet that decodes is well-formed by the
//! standard, decoding allocates no more than the input justifies, and nothing that comes in can panic.

mod packet;
mod reason;

pub use packet::*;
pub use reason::ReasonCode;
