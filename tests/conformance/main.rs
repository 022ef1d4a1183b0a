//! Every normative statement of MQTT 5.0 and MQTT 3.1.1 that binds a server, tested with bytes on a socket.
//!
//! The tests are named by the statements they check: `mqtt_3_1_0_2_..` for a statement with the same number in
//! both standards, `v5_mqtt_..` and `v311_mqtt_..` for one of them. `table_v5.tsv` and `table_v311.tsv` say for
//! each statement which tests check it, or why none can. The tests know nothing of Fulmar but its command
//! line, so any other broker can be put to them:
//! `FULMAR_CONFORMANCE_BROKER="mosquitto -p {PORT}" cargo test --test conformance`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "../support/mod.rs"]
mod support;

mod acknowledgements;
mod client_identifier;
mod configured;
mod connack;
mod connect;
mod disconnect;
mod extended_authentication;
mod flow_control;
mod keep_alive;
mod malformed;
mod message_properties;
mod ordering;
mod packet_identifiers;
mod publish;
mod quality_of_service;
mod redelivery;
mod retained;
mod sessions;
mod shared_subscriptions;
mod subscribe;
mod table;
mod topic_alias;
mod topics;
mod unsubscribe;
mod websocket;
mod wills;

use support::{Connect, RawClient, Version, broker_under_test, connect, unique};

/// Runs the same test once per version; the output of a failed test ends with the version it failed in.
fn each(versions: &[Version], test: impl Fn(Version)) {
    for version in versions {
        println!("in {version:?}");
        test(*version);
    }
}

/// A CONNECT with a Client Identifier of its own.
fn somebody(version: Version) -> Connect {
    connect(version).client_id(unique("somebody"))
}

/// A connected client with a clean session.
#[track_caller]
fn join(version: Version) -> RawClient {
    somebody(version).open(broker_under_test())
}
