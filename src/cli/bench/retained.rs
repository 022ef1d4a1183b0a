//! Retained messages: stored, then replayed to subscribers with a wildcard, then cleared.

use clap::Args;

use super::super::client::{ClientError, Quiet, subscribe, turn};
use super::arguments::{CommonArguments, Context, PublishArguments};
use super::connect::{SETTLE, linger};
use super::load::{Load, SUBSCRIBER};
use super::meter::Mark;
use super::progress::Progress;
use super::publishing::{Flows, Heads, Publishing};
use super::report::{Report, grouped, rounded};
use crate::codec::QoS;

/// Nanoseconds without progress after which it is given up.
const PATIENCE: u64 = 10_000_000_000;

/// The same for deliveries, of which a broker may owe none, or look for the first of a million for a while.
const DELIVERY: u64 = 10_000_000_000;

#[derive(Debug, Clone, Args)]
pub(crate) struct RetainedArguments {
    #[command(flatten)]
    pub common: CommonArguments,
    #[command(flatten)]
    publish: PublishArguments,
    /// Retained messages, each of a topic of its own
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..100_000_000))]
    messages: u64,
    /// Publishing clients
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    /// Subscribing clients, who all get all
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    /// Leave the messages with the broker
    #[arg(long)]
    keep: bool,
}

pub(super) fn retained(arguments: RetainedArguments) -> Result<Report, ClientError> {
    let mut context = Context::new("retained", arguments.common.clone())?;
    let (count, subscribers) = (arguments.messages, arguments.subscribers as usize);
    let publishers = arguments.publishers as usize;
    let flows =
        Flows { publishers, subscribers, is_broadcast: subscribers > 1, copies: 1, is_ordered: false };
    let opened = context.open('p', publishers, 0)?;
    let publishing = arguments.publish.publishing(context.server.version, opened.limits)?;
    // Storing is done when it has been acknowledged.
    let qos = publishing.qos.max(QoS::AtLeastOnce);
    let publishing = Publishing { qos, retain: true, limit: count, ..publishing };
    let topics = |context: &Context| -> Vec<String> {
        (0..count)
            .map(|index| context.topic(&format!("r/{}/{}/{index}", index % 10, index / 10 % 100)))
            .collect()
    };
    let heads = Heads::new(&publishing, topics(&context).into_iter())?;
    let mut load = Load::new(publishing.clone(), flows, heads, publishers, &opened.ids, None);

    let from = context.meter.mark(&context.connections);
    let stored = publish_all(&mut context, &mut load, "messages stored")?;
    linger(&mut context.connections, &mut Quiet, SETTLE, publishers)?;
    let settled = context.meter.mark(&context.connections);
    let listeners = context.open('s', subscribers, SUBSCRIBER)?;
    let wanted: Vec<_> = listeners.ids.iter().map(|id| (*id, vec![context.topic("r/#")])).collect();
    load.measure_from = 0;
    let start = context.meter.mark(&context.connections);
    let subscriber_qos = arguments.publish.subscriber_qos();
    let granted =
        subscribe(&mut context.connections, &context.server, &wanted, subscriber_qos, 1, &mut load)?;
    context.report.granted(subscriber_qos, granted.qos);
    let end = receive(&mut context, &mut load, "messages replayed", DELIVERY)?;
    linger(&mut context.connections, &mut Quiet, SETTLE, subscribers)?;
    let end = end.with_cost_of(&context.meter.mark(&context.connections));
    let stored = stored.with_cost_of(&settled);

    let report = &mut context.report;
    let seconds = (stored.at - from.at) as f64 / 1e9;
    report.set("stored", count);
    report.set("stored_per_s", rounded(count as f64 / seconds));
    report.set("subscribers", subscribers);
    report.set("payload_bytes", publishing.payload);
    report.say("stored", format!("{} in {seconds:.2} s", grouped(count as f64)));
    if context.meter.knows_broker() {
        let each = (stored.broker_cpu - from.broker_cpu) * 1e6 / count as f64;
        report.set("broker_cpu_us_per_store", rounded(each));
        report.say("to store took", format!("{each:.3} µs of the broker each"));
    }
    let each = "broker_memory_bytes_per_retained";
    report.memory_each(each, "retained message", count, &from, &settled, &context.meter);
    report.operations("retained message delivered", load.delivered, &start, &end, &context.meter);
    report.set("lost", load.missing());
    report.set("delivered", load.delivered);
    report.set("rejected", load.rejected);
    report.say("messages", format!("{} replayed, {} lost", grouped(load.delivered as f64), load.missing()));
    if load.delivered == 0 {
        report.fail(ClientError::Stuck(format!("none of {count} retained messages was replayed")));
    }
    if !arguments.keep {
        for id in listeners.ids {
            context.connections.leave(id);
        }
        let clearing = Publishing { payload: 0, ..publishing };
        let heads = Heads::new(&clearing, topics(&context).into_iter())?;
        let mut clear = Load::new(clearing, flows, heads, publishers, &opened.ids, None);
        publish_all(&mut context, &mut clear, "messages cleared")?;
    }
    Ok(context.finish())
}

/// Publishes all there is and waits for the acknowledgements; when that was.
pub(super) fn publish_all(
    context: &mut Context,
    load: &mut Load,
    what: &'static str,
) -> Result<Mark, ClientError> {
    let mut progress = Progress::new(what, context.connections.now());
    let meter = &mut context.meter;
    let is_done = turn(&mut context.connections, load, PATIENCE, |connections, load| {
        load.send_all(connections);
        let now = connections.now();
        meter.look(now);
        progress.tick(now, load.acknowledged, "");
        Ok((load.acknowledged, load.is_sent() && load.unacknowledged() == 0))
    })?;
    if is_done {
        return Ok(context.meter.mark(&context.connections));
    }
    let (done, sent) = (load.acknowledged, load.sent);
    Err(ClientError::Stuck(format!("the broker acknowledged {done} of {sent} messages, and then no more")))
}

/// Receives what has been sent, for as long as something comes; when the last came.
pub(super) fn receive(
    context: &mut Context,
    load: &mut Load,
    what: &'static str,
    patience: u64,
) -> Result<Mark, ClientError> {
    let mut progress = Progress::new(what, context.connections.now());
    let meter = &mut context.meter;
    let (mut seen, mut seen_at) = (0, context.connections.now());
    turn(&mut context.connections, load, patience, |connections, load| {
        let now = connections.now();
        meter.look(now);
        progress.tick(now, load.delivered, "");
        if load.delivered != seen {
            (seen, seen_at) = (load.delivered, now);
        }
        Ok((load.delivered + load.released, load.is_delivered()))
    })?;
    Ok(Mark { at: seen_at, ..context.meter.mark(&context.connections) })
}
