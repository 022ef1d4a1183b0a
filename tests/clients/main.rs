//! Clients that others wrote, against the real binary: what they can do with any broker they must be able to do
//! with Fulmar, in every protocol version they speak.
//!
//! `bash tests/run` installs the tools these tests call; a tool that is missing fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails must fail its test")]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod mosquitto;
mod paho;
mod rumqttc;
