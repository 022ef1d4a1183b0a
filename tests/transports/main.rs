//! Every way in, with the real binary: TLS and mutual TLS, what attackers do before MQTT begins, and our own tools.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails must fail its test")]

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod curl;
mod examples;
mod large;
mod limits;
mod order;
mod own_tools;
mod proxied;
mod renewal;
mod secure;
mod sockets;
mod tools;
mod websocket;
