//! `fulmar bench`: how fast a broker is, any broker, measured over the network as its clients see it.
//!
//! One thread with raw sockets and the crate's own codec (`cli::client`) makes the load, so that one core is enough to
//! saturate a broker. A scenario each: `pub_sub` with its special cases fan-out and latency, `connect`,
//! `retained`, `queue`. What always holds: what is measured begins after the warm-up and ends before the drain,
//! and with a number of messages with the last of them; what was lost is counted to the message.

mod arguments;
mod connect;
mod cycle;
mod histogram;
mod load;
mod meter;
mod progress;
mod pub_sub;
mod publishing;
mod queue;
mod report;
mod retained;
mod schedule;
mod traffic;

use std::error::Error;

use clap::Subcommand;

/// The scenarios.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Publishers and subscribers: pairs, all to all, shared groups, or many filters
    PubSub(pub_sub::PubSubArguments),
    /// Clients that connect; held, or in cycles of connect, subscribe, publish and disconnect
    Connect(connect::ConnectArguments),
    /// Messages that are retained, then replayed to new subscribers
    Retained(retained::RetainedArguments),
    /// One publisher whose every message goes to all subscribers
    FanOut(pub_sub::FanOutArguments),
    /// How long messages take at a steady rate
    Latency(pub_sub::LatencyArguments),
    /// Messages that are queued for sessions while nobody is connected, then drained
    Queue(queue::QueueArguments),
}

/// Runs a scenario and prints what it found.
pub(super) fn bench(command: BenchCommand) -> Result<(), Box<dyn Error>> {
    let (as_json, report) = match command {
        BenchCommand::PubSub(arguments) => (arguments.common.json, pub_sub::pub_sub(arguments)),
        BenchCommand::FanOut(arguments) => (arguments.common.json, pub_sub::fan_out(arguments)),
        BenchCommand::Latency(arguments) => (arguments.common.json, pub_sub::latency(arguments)),
        BenchCommand::Connect(arguments) => (arguments.common.json, connect::connect(arguments)),
        BenchCommand::Retained(arguments) => (arguments.common.json, retained::retained(arguments)),
        BenchCommand::Queue(arguments) => (arguments.common.json, queue::queue(arguments)),
    };
    let told = |error| format!("fulmar bench: {error}");
    let report = report.map_err(told)?;
    report.print(as_json)?;
    match report.failure() {
        Some(error) => Err(told(error).into()),
        None => Ok(()),
    }
}
