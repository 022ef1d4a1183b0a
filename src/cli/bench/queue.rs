//! Messages that gather while their subscribers are away, and come to them when they return.

use clap::Args;

use super::super::client::{Client, ClientError, Quiet, open, subscribe};
use super::arguments::{CommonArguments, Context, PublishArguments};
use super::connect::linger;
use super::load::{Load, SUBSCRIBER};
use super::publishing::{Flows, Heads, Publishing};
use super::report::{Report, grouped, rounded};
use super::retained::{publish_all, receive};
use crate::codec::QoS;

/// Nanoseconds for what would come twice to come.
const AFTERWARDS: u64 = 200_000_000;

/// Nanoseconds without a delivery after which no more are expected.
const DELIVERY: u64 = 3_000_000_000;

/// Seconds that the sessions outlive their connections.
const EXPIRY: u32 = 3_600;

#[derive(Debug, Clone, Args)]
pub(crate) struct QueueArguments {
    #[command(flatten)]
    pub common: CommonArguments,
    #[command(flatten)]
    publish: PublishArguments,
    /// Messages
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..100_000_000))]
    messages: u64,
    /// Publishing clients
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    /// Sessions that the messages are queued for, each for one of them
    #[arg(short = 'c', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
}

pub(super) fn queue(arguments: QueueArguments) -> Result<Report, ClientError> {
    let mut context = Context::new("queue", arguments.common.clone())?;
    let (publishers, subscribers) = (arguments.publishers as usize, arguments.subscribers as usize);
    let qos = arguments.publish.subscriber_qos().max(QoS::AtLeastOnce);
    let clients = |context: &Context, clean_start| -> Vec<Client> {
        let client = |index| Client {
            clean_start,
            session_expiry: if clean_start { 0 } else { EXPIRY },
            ..context.client('o', index, SUBSCRIBER | index as u32)
        };
        (0..subscribers).map(client).collect()
    };
    let (staying, ending) = (clients(&context, false), clients(&context, true));
    let topics: Vec<_> = (0..subscribers).map(|index| context.topic(&format!("q/{index}"))).collect();

    let concurrency = context.concurrency();
    let opened = open(&mut context.connections, &context.server, &staying, concurrency, &mut Quiet)?;
    let wanted: Vec<_> =
        opened.ids.iter().zip(&topics).map(|(id, topic)| (*id, vec![topic.clone()])).collect();
    let granted = subscribe(&mut context.connections, &context.server, &wanted, qos, 1, &mut Quiet)?;
    context.report.granted(qos, granted.qos);
    for id in opened.ids {
        context.connections.leave(id);
    }

    let opened = context.open('p', publishers, 0)?;
    let publishing = arguments.publish.publishing(context.server.version, opened.limits)?;
    let publishing =
        Publishing { qos: publishing.qos.max(QoS::AtLeastOnce), limit: arguments.messages, ..publishing };
    let payload = publishing.payload;
    let heads = Heads::new(&publishing, topics.into_iter())?;
    // Every publisher takes every topic in turn, so each has all subscribers in common with the others.
    let flows = Flows { publishers, subscribers, is_broadcast: false, copies: 1, is_ordered: false };
    let mut load = Load::new(publishing, flows, heads, 1, &opened.ids, None);
    load.look_for_duplicates();
    linger(&mut context.connections, &mut Quiet, AFTERWARDS, publishers)?;
    let from = context.meter.mark(&context.connections);
    let to = publish_all(&mut context, &mut load, "messages queued")?;
    linger(&mut context.connections, &mut Quiet, AFTERWARDS, publishers)?;

    let queued = context.meter.mark(&context.connections);
    let resumed = open(&mut context.connections, &context.server, &staying, concurrency, &mut load)?;
    let drained = receive(&mut context, &mut load, "messages drained", DELIVERY)?;
    linger(&mut context.connections, &mut load, AFTERWARDS, subscribers)?;
    let drained = drained.with_cost_of(&context.meter.mark(&context.connections));
    let to = to.with_cost_of(&queued);

    let report = &mut context.report;
    let count = arguments.messages;
    let seconds = (to.at - from.at) as f64 / 1e9;
    report.set("messages", count);
    report.set("payload_bytes", payload);
    report.set("subscribers", subscribers);
    report.set("sessions_resumed", resumed.limits.sessions_present);
    report.set("queued_per_s", rounded(count as f64 / seconds));
    report.say("queued", format!("{} in {seconds:.2} s", grouped(count as f64)));
    if context.meter.knows_broker() {
        let each = (to.broker_cpu - from.broker_cpu) * 1e6 / count as f64;
        report.set("broker_cpu_us_per_queued", rounded(each));
        report.say("to queue took", format!("{each:.3} µs of the broker each"));
    }
    let each = "broker_memory_bytes_per_queued";
    report.memory_each(each, "queued message", count, &from, &queued, &context.meter);
    report.operations("queued message drained", load.delivered, &queued, &drained, &context.meter);
    report.set("lost", load.missing());
    report.set("delivered", load.delivered);
    report.set("rejected", load.rejected);
    report.set("duplicates", load.duplicates());
    report.say(
        "messages",
        format!(
            "{} drained, {} lost, {} twice",
            grouped(load.delivered as f64),
            load.missing(),
            load.duplicates().unwrap_or(0)
        ),
    );
    if load.delivered == 0 {
        report.fail(ClientError::Stuck(format!("none of {count} queued messages was delivered")));
    }
    for id in resumed.ids {
        context.connections.leave(id);
    }
    let cleared = open(&mut context.connections, &context.server, &ending, concurrency, &mut Quiet)?;
    for id in cleared.ids {
        context.connections.leave(id);
    }
    Ok(context.finish())
}
