//! WebSocket (RFC 6455) as a transport for MQTT: the upgrade from HTTP, the frames, and a stream over both.
//!
//! `upgrade` and `frame` are sans-IO: bytes in, bytes out. `stream` makes a byte stream of a socket and them, so a
//! connection runs over it as over any other. What always holds: frames have no bearing on where MQTT packets begin
//! and end [MQTT-6.0.0-2]; nothing of a frame is gathered, whatever its length says, so a client cannot make memory
//! grow; extensions are not spoken, compression among them.
//!
//! The framing is our own because it sits on the hot path: payloads are unmasked in place, in the buffer that was
//! read into, and written with their header in one call.

mod frame;
mod stream;
mod upgrade;

pub use frame::Violation;
pub use stream::WebSocket;
pub use upgrade::{LARGEST_REQUEST, Refusal, Rules, Upgrade, parse};
