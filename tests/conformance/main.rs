//! Every normative statement of MQTT 5.0 and MQTT 3.1.1 that binds a server, tested with bytes on a socket.
//!
//! The tests are named by the statement they check; `table_v5.tsv` and `table_v311.tsv` say for each statement
//! which tests those are, or why there is none. They know nothing of Fulmar but its command line, so any
//! other broker can be put to the same test: `FULMAR_CONFORMANCE_BROKER="mosquitto -p {PORT}" cargo test`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "../support/mod.rs"]
mod support;

mod connect;
