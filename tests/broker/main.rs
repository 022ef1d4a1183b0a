//! The broker's verbs with many sessions and no socket: connections are polled by the test, and time is invented.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "../support/twin.rs"]
mod twin;

#[path = "../support/random.rs"]
mod random;

mod bench;
mod crash;
mod deadlines;
mod delivery;
mod groups;
mod queues;
mod records;
mod retained;
mod takeover;
