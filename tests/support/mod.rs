//! What the integration tests share: a broker process of their own and a client that speaks in bytes.
//!
//! Nothing here uses Fulmar's codec: the packets are built and read by a second, independent hand, so that a
//! mistake in the codec cannot hide itself. A test target takes it in with
//! `#[path = "../support/mod.rs"] mod support;`.
#![allow(dead_code, unused_imports, reason = "each test target uses the part it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails must fail its test")]

mod broker;
pub mod certificates;
mod client;
pub mod light;
mod packets;
pub mod program;
pub mod random;
mod received;
pub mod site;
pub mod websocket;
mod wire;

pub use broker::{Broker, broker_under_test, free_port, unique};
pub use client::{RawClient, Stream};
pub use packets::{
    Ack, Connect, Filter, Publish, Will, auth, connect, disconnect, disconnect_with, pingreq, puback,
    pubcomp, publish, pubrec, pubrel, subscribe, unsubscribe,
};
pub use received::{
    AUTH, CONNACK, ConnAckView, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, PublishView,
    Received, SUBACK, UNSUBACK,
};
pub use wire::{Property, Value, Version, find, frame, text, variable_byte_integer};

pub use Version::{V3_1, V3_1_1, V5};
