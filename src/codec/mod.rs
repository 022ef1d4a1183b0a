//! Bytes to packets and back, for MQTT 3.1, 3.1.1 and 5.0: strict, without IO and without a clock.
//!
//! Called by `net`, which owns the buffers. What always holds: a packet that decodes is well-formed by the
//! standard, decoding allocates no more than the input justifies, and nothing that comes in can panic.
//!
//! The way in is [`read_header`], which is happy with a part of a packet, then for a whole one
//! [`decode_connect`], [`decode_publish`] or [`decode`]. The way out is [`Packet::encode`] or, where it has to
//! be quick, [`encode_publish`] and [`encode_acknowledgement`]. [`DecodeError::answer`] says what a bad packet
//! is answered with.
//!
//! # Who does what
//!
//! The `mqttbytes` crate (0.6) is used where it is right and its cost does not matter:
//!
//! | packets | 3.1 and 3.1.1 | 5.0 |
//! |---|---|---|
//! | fixed header, all checks of form | ours | ours |
//! | CONNECT | ours | ours |
//! | CONNACK, SUBACK: decode and encode | `mqttbytes`, after our checks | ours |
//! | UNSUBACK, SUBSCRIBE, UNSUBSCRIBE: encode | `mqttbytes`, after our checks | ours |
//! | SUBSCRIBE, UNSUBSCRIBE: decode | ours: borrowed text | ours |
//! | PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP | ours: every message passes here | ours |
//! | UNSUBACK decode, PINGREQ, PINGRESP, DISCONNECT | ours: nothing to decode | ours |
//! | AUTH | does not exist | ours |
//!
//! Why not more of it; each has its case in `tests/codec/differential.rs`:
//!
//! - It accepts reserved flag bits, U+0000 in text, variable byte integers longer than they need be, bytes left
//!   over at the end, SUBSCRIBE without filters, and packet identifier 0 outside of PUBLISH.
//! - It knows no MQTT 3.1, accepts level 5 in a 3.1.1 CONNECT, takes a password for text, and does not tell an
//!   empty user name from none.
//! - In 5.0 it has no AUTH; refuses a DISCONNECT of Remaining Length 0 or 1; counts a Subscription Identifier
//!   one byte too long and so stops reading properties too early; writes a CONNACK without property length;
//!   accepts repeated properties, values out of range, and property lengths that disagree with the packet;
//!   prints the packet identifier of every UNSUBSCRIBE to stderr.
//! - Every text is an allocation, and a packet is read from a buffer it must own.

mod acknowledgement;
mod connect;
mod decode;
mod disconnect;
mod encode;
mod error;
mod frame;
mod library;
mod packet;
mod property;
mod publish;
mod reason;
mod subscribe;
mod wire;

pub use acknowledgement::{
    AckKind, SHORTEST as SHORTEST_ACKNOWLEDGEMENT, decode_acknowledgement, encode_acknowledgement,
    encode_shortest_acknowledgements, shortest_acknowledgements,
};
pub use connect::connect_version;
pub use decode::{decode, decode_body, decode_connect};
use encode::Detail;
pub use error::{Answer, DecodeError, EncodeError};
pub use frame::{
    FrameHeader, MAXIMUM_REMAINING_LENGTH, PacketType, header_length, read_header, usual_lengths,
};
pub use packet::*;
pub use property::{Properties, Property, PropertyId};
pub use publish::{
    PublishHeader, PublishProperties, decode_publish, encode_publish, encode_publish_head, publish_length,
};
pub use reason::ReasonCode;
