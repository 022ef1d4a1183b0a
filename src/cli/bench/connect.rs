//! Clients that connect, and are then held or come and go.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::super::client::{ClientError, Connections, Handler, Quiet, open, qos, subscribe};
use super::arguments::{CommonArguments, Context, time};
use super::cycle;
use super::histogram::Times;
use super::progress::Progress;
use super::report::{Report, grouped, rounded};
use crate::codec::QoS;

/// What is over has time to be done and counted before it is judged; nanoseconds.
pub(super) const SETTLE: u64 = 200_000_000;

const TURN: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectArguments {
    #[command(flatten)]
    pub common: CommonArguments,
    /// Clients
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// How long to keep them connected, to see what they cost when idle
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    hold: u64,
    /// Have each subscribe to a topic of its own
    #[arg(long)]
    subscribe: bool,
    /// Ask for sessions that outlive the connections; they are removed in the end
    #[arg(long)]
    persistent: bool,
    /// Instead of holding them: connect, subscribe, publish to oneself, disconnect, again and again
    #[arg(long, conflicts_with_all = ["hold", "subscribe", "persistent"])]
    cycle: bool,
    /// In cycles: only connect and disconnect
    #[arg(long, requires = "cycle")]
    only_connect: bool,
    /// In cycles: the QoS of the message
    #[arg(short = 'q', long, value_name = "QOS", value_parser = qos, default_value = "1", requires = "cycle")]
    pub qos: QoS,
    /// In cycles: how long
    #[arg(short = 'd', long, value_name = "TIME", value_parser = time, default_value = "10s", requires = "cycle")]
    pub duration: u64,
    /// In cycles: how long before that
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s", requires = "cycle")]
    pub warm_up: u64,
}

pub(super) fn connect(arguments: ConnectArguments) -> Result<Report, ClientError> {
    let scenario = if arguments.cycle { "connect-cycle" } else { "connect" };
    let mut context = Context::new(scenario, arguments.common.clone())?;
    context.report.set("resumes_tls", arguments.common.resume && context.server.has_tls());
    if arguments.cycle {
        let steps = cycle::Steps {
            workers: arguments.connections as usize,
            only_connects: arguments.only_connect,
            qos: arguments.qos,
            warm_up: arguments.warm_up,
            duration: arguments.duration,
        };
        cycle::run(&mut context, steps)?;
    } else {
        hold(&mut context, &arguments)?;
    }
    Ok(context.finish())
}

fn hold(context: &mut Context, arguments: &ConnectArguments) -> Result<(), ClientError> {
    let count = arguments.connections as usize;
    let mut clients: Vec<_> = (0..count).map(|index| context.client('c', index, index as u32)).collect();
    for client in &mut clients {
        client.clean_start = !arguments.persistent;
        client.session_expiry = if arguments.persistent { 3_600 } else { 0 };
    }
    let concurrency = context.concurrency();
    let from = context.meter.mark(&context.connections);
    let opened = open(&mut context.connections, &context.server, &clients, concurrency, &mut Quiet)?;
    let to = context.meter.mark(&context.connections);
    linger(&mut context.connections, &mut Quiet, SETTLE, count)?;
    let to = to.with_cost_of(&context.meter.mark(&context.connections));
    if arguments.subscribe {
        let filter = |index: usize| vec![context.topic(&format!("c/{index}"))];
        let wanted: Vec<_> = opened.ids.iter().enumerate().map(|(index, id)| (*id, filter(index))).collect();
        subscribe(&mut context.connections, &context.server, &wanted, QoS::AtLeastOnce, 1, &mut Quiet)?;
    }
    if arguments.subscribe {
        linger(&mut context.connections, &mut Quiet, SETTLE, count)?;
    }
    let idle_from = context.meter.mark(&context.connections);
    linger(&mut context.connections, &mut Quiet, arguments.hold, count)?;
    let idle_to = context.meter.mark(&context.connections);

    let mut times = Times::new();
    for time in &opened.times {
        times.record(*time);
    }
    let report = &mut context.report;
    report.set("connections", count);
    report.set("tls_resumed", opened.resumed);
    report.operations("connection", count as u64, &from, &to, &context.meter);
    report.times("latency_us", "to be connected took", &mut times);
    report.memory_each(
        "broker_memory_bytes_per_connection",
        "connection",
        count as u64,
        &from,
        &idle_to,
        &context.meter,
    );
    if context.meter.knows_broker() && arguments.hold > 0 {
        let share = (idle_to.broker_cpu - idle_from.broker_cpu) / (arguments.hold as f64 / 1e9);
        report.set("broker_idle_cpu_share", rounded(share));
        report.say("idle", format!("{:.2} % of a core", share * 100.0));
    }
    for id in opened.ids {
        context.connections.leave(id);
    }
    if arguments.persistent {
        for client in &mut clients {
            (client.clean_start, client.session_expiry) = (true, 0);
        }
        let again = open(&mut context.connections, &context.server, &clients, concurrency, &mut Quiet)?;
        for id in again.ids {
            context.connections.leave(id);
        }
    }
    Ok(())
}

/// Lets so many nanoseconds pass; what comes meanwhile goes to `handler`.
pub(super) fn linger<H: Handler>(
    connections: &mut Connections,
    handler: &mut H,
    nanoseconds: u64,
    count: usize,
) -> Result<(), ClientError> {
    let end = connections.now() + nanoseconds;
    let mut progress = Progress::new("connections held", connections.now());
    loop {
        let now = connections.now();
        if now >= end {
            return Ok(());
        }
        connections.flush();
        connections.poll(handler, TURN.min(Duration::from_nanos(end - now)))?;
        progress.tick(now, count as u64, "");
    }
}

/// What is told of cycles.
pub(super) fn tell_cycles(report: &mut Report, workers: usize, failed: u64, resumed: u64) {
    report.set("workers", workers);
    report.set("failed", failed);
    report.set("tls_resumed", json!(resumed));
    report.say("clients", format!("{workers} at a time, {} failed", grouped(failed as f64)));
}
