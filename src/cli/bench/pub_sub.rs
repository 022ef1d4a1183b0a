//! Publishers and subscribers, in four patterns; fan-out and latency are two of their special cases.

use clap::{Args, ValueEnum};

use super::super::client::{ClientError, subscribe};
use super::arguments::{CommonArguments, Context, TrafficArguments};
use super::load::{Load, SUBSCRIBER};
use super::publishing::{Flows, Heads, greatest_common_divisor};
use super::report::{Report, grouped, rounded};
use super::traffic::{self, Plan};
use crate::codec::ProtocolVersion;

/// How long persistent sessions outlive their connections, in seconds.
const A_MINUTE: u32 = 60;

/// Filters in one SUBSCRIBE.
const PER_PACKET: usize = 50;

/// Filters of the pattern of that name, if their number is not given.
const FILTERS: u32 = 10_000;

/// Filters that share a level.
const SITES: usize = 100;

#[derive(Debug, Clone, Args)]
pub(crate) struct PubSubArguments {
    #[command(flatten)]
    pub common: CommonArguments,
    #[command(flatten)]
    traffic: TrafficArguments,
    /// Who gets what
    #[arg(long, value_enum, default_value_t = Pattern::Pairs)]
    pattern: Pattern,
    /// Publishing clients
    #[arg(short = 'c', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    /// Subscribing clients; as many as publishers if it is not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: Option<u32>,
    /// Topics, which each publisher takes in turn; with filters: of all publishers together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    topics: u32,
    /// Groups that all get every message, with shared
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    groups: Option<u32>,
    /// Filters of all subscribers together, with filters: of ten, six are exact, three have a + and one a #; 10,000 if
    /// it is not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    filters: Option<u32>,
    /// Subscribers' sessions outlive their connections, by a minute (5.0): the broker has to keep what is theirs
    #[arg(long)]
    persistent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pattern {
    /// Each publisher has a subscriber of its own
    Pairs,
    /// Every subscriber gets every message
    All,
    /// Every group of subscribers gets every message, one member of it each
    Shared,
    /// Many filters stand, and each message matches one of them
    Filters,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct FanOutArguments {
    #[command(flatten)]
    pub common: CommonArguments,
    #[command(flatten)]
    traffic: TrafficArguments,
    /// Subscribing clients
    #[arg(short = 'c', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LatencyArguments {
    #[command(flatten)]
    pub common: CommonArguments,
    #[command(flatten)]
    traffic: TrafficArguments,
    /// Pairs of a publisher and a subscriber
    #[arg(short = 'c', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Subscribers' sessions outlive their connections, by a minute (5.0): the broker has to keep what is theirs
    #[arg(long)]
    persistent: bool,
}

/// Messages a second if nothing else is asked for; few enough for any broker.
const LATENCY_RATE: f64 = 1_000.0;

pub(super) fn fan_out(arguments: FanOutArguments) -> Result<Report, ClientError> {
    let FanOutArguments { common, traffic, subscribers } = arguments;
    let special = PubSubArguments {
        common,
        traffic,
        pattern: Pattern::All,
        publishers: 1,
        subscribers: Some(subscribers),
        topics: 1,
        groups: None,
        filters: None,
        persistent: false,
    };
    run("fan-out", special)
}

pub(super) fn latency(arguments: LatencyArguments) -> Result<Report, ClientError> {
    let LatencyArguments { common, mut traffic, pairs, persistent } = arguments;
    if traffic.window.is_some() || traffic.flood {
        let why = "--window and --flood are for full speed, and latency is measured at a rate";
        return Err(ClientError::Misused(why.to_owned()));
    }
    traffic.rate.get_or_insert(LATENCY_RATE);
    let special = PubSubArguments {
        common,
        traffic,
        pattern: Pattern::Pairs,
        publishers: pairs,
        subscribers: None,
        topics: 1,
        groups: None,
        filters: None,
        persistent,
    };
    run("latency", special)
}

pub(super) fn pub_sub(arguments: PubSubArguments) -> Result<Report, ClientError> {
    run("pub-sub", arguments)
}

impl PubSubArguments {
    /// What was asked for and would not happen.
    fn misused(&self) -> Option<&'static str> {
        if self.groups.is_some() && self.pattern != Pattern::Shared {
            return Some("--groups is for --pattern shared");
        }
        if self.filters.is_some() && self.pattern != Pattern::Filters {
            return Some("--filters is for --pattern filters");
        }
        // Before 5.0 a session that outlives its connection stays for ever.
        if self.persistent && self.common.server.version != ProtocolVersion::V5 {
            return Some("--persistent needs -V 5.0, where a session can be told when to end");
        }
        None
    }
}

/// Who publishes where and who subscribes to what.
struct Layout {
    flows: Flows,
    topics: Vec<String>,
    stride: usize,
    filters: Vec<Vec<String>>,
    /// Several publishers have a subscriber in common.
    meet: bool,
}

fn run(scenario: &str, arguments: PubSubArguments) -> Result<Report, ClientError> {
    if let Some(why) = arguments.misused() {
        return Err(ClientError::Misused(why.to_owned()));
    }
    let mut context = Context::new(scenario, arguments.common.clone())?;
    let layout = layout(&context, &arguments)?;
    let Layout { flows, topics, stride, filters, meet } = layout;
    let traffic = &arguments.traffic;
    let qos = traffic.publish.subscriber_qos();
    let report = &mut context.report;
    report.set("pattern", format!("{:?}", arguments.pattern).to_lowercase());
    report.set("publishers", flows.publishers);
    report.set("subscribers", flows.subscribers);
    report.set("topics", topics.len());
    report.set("qos", traffic.publish.qos as u8);
    report.set("payload_bytes", traffic.publish.payload);
    report.set("rate", traffic.rate.map_or(serde_json::Value::Null, rounded));
    report.say(
        "load",
        format!(
            "{} publishers, {} subscribers, {} topics, QoS {} and {}, {} bytes, {}",
            flows.publishers,
            flows.subscribers,
            topics.len(),
            traffic.publish.qos as u8,
            qos as u8,
            traffic.publish.payload,
            traffic.rate.map_or("at full speed".to_owned(), |rate| format!("{rate} messages/s"))
        ),
    );

    let expiry = if arguments.persistent { A_MINUTE } else { 0 };
    let subscribers = context.open_lasting('s', flows.subscribers, SUBSCRIBER, expiry)?;
    let wanted: Vec<_> = subscribers.ids.into_iter().zip(filters).collect();
    let publishers = context.open('p', flows.publishers, 0)?;
    let limits = publishers.limits.and(subscribers.limits);
    let publishing = traffic.publishing(context.server.version, limits, &flows, meet)?;
    let under_way = if publishing.qos as u8 == 0 { u64::MAX } else { publishing.in_flight }
        .min(publishing.window.unwrap_or(u64::MAX))
        .saturating_mul(flows.publishers as u64)
        .saturating_mul(flows.per_message());
    let heads = Heads::new(&publishing, topics.into_iter())?;
    let mut load = Load::new(publishing, flows, heads, stride, &publishers.ids, traffic.schedule());

    let from = context.meter.mark(&context.connections);
    let granted = subscribe(&mut context.connections, &context.server, &wanted, qos, PER_PACKET, &mut load)?;
    let to = context.meter.mark(&context.connections);
    drop(wanted);
    subscribed(&mut context.report, granted.count, to.at - from.at);
    context.report.granted(qos, granted.qos);
    if arguments.pattern == Pattern::Filters {
        let each = "broker_memory_bytes_per_subscription";
        context.report.memory_each(each, "subscription", granted.count as u64, &from, &to, &context.meter);
    }

    let is_counted = traffic.messages.is_some();
    let plan = Plan {
        warm_up: if is_counted { 0 } else { traffic.warm_up },
        duration: if is_counted { u64::MAX / 4 } else { traffic.duration },
        is_counted,
        under_way,
    };
    if is_counted {
        load.look_for_duplicates();
    }
    traffic::run(&mut context, &mut load, plan)?;
    if arguments.pattern == Pattern::Shared {
        spread(&mut context.report, load.per_subscriber());
    }
    Ok(context.finish())
}

fn layout(context: &Context, arguments: &PubSubArguments) -> Result<Layout, ClientError> {
    let publishers = arguments.publishers as usize;
    let subscribers = arguments.subscribers.unwrap_or(arguments.publishers) as usize;
    let count = arguments.topics as usize;
    let base = Flows { publishers, subscribers, is_broadcast: false, copies: 1, is_ordered: true };
    let topics =
        |count: usize| -> Vec<_> { (0..count).map(|index| context.topic(&format!("t/{index}"))).collect() };
    Ok(match arguments.pattern {
        Pattern::Pairs => {
            if subscribers != publishers {
                let why =
                    "in pairs there are as many --subscribers as --publishers; see --pattern".to_owned();
                return Err(ClientError::Misused(why));
            }
            let topics = topics(publishers * count);
            let of = |pair: usize| topics.iter().skip(pair).step_by(publishers).cloned().collect();
            let filters = (0..publishers).map(of).collect();
            Layout { flows: base, topics, stride: publishers, filters, meet: false }
        }
        Pattern::All => {
            let topics = topics(count);
            let flows = Flows { is_broadcast: subscribers > 1, ..base };
            let filters = vec![topics.clone(); subscribers];
            Layout { flows, topics, stride: 1, filters, meet: publishers > 1 }
        }
        Pattern::Shared => {
            let groups = arguments.groups.unwrap_or(1) as usize;
            if !subscribers.is_multiple_of(groups) {
                let why = format!("{subscribers} --subscribers cannot be divided into {groups} --groups");
                return Err(ClientError::Misused(why));
            }
            let topics = topics(count);
            let of = |subscriber: usize| {
                topics.iter().map(|topic| format!("$share/g{}/{topic}", subscriber % groups)).collect()
            };
            let filters = (0..subscribers).map(of).collect();
            let flows = Flows { copies: groups as u64, is_ordered: false, ..base };
            Layout { flows, topics, stride: 1, filters, meet: true }
        }
        Pattern::Filters => {
            let all = arguments.filters.unwrap_or(FILTERS) as usize;
            let of = |subscriber: usize| {
                (subscriber..all).step_by(subscribers).map(|index| context.topic(&filter(index).0)).collect()
            };
            let filters = (0..subscribers).map(of).collect();
            // Spread over all filters, in an order that no cache foresees.
            let step = stride(all);
            let topic = |index: usize| context.topic(&filter((index * step) % all).1);
            let topics = (0..count).map(topic).collect();
            let flows = Flows { is_ordered: false, ..base };
            Layout { flows, topics, stride: publishers, filters, meet: true }
        }
    })
}

/// A step that visits each of `all` places once before it comes back to the first: it has no divisor in common with them.
fn stride(all: usize) -> usize {
    let mut step = (all as f64 * 0.618_034) as usize | 1;
    while greatest_common_divisor(step, all) != 1 {
        step += 2;
    }
    step
}

/// A filter, and a topic that it alone matches. All share levels, so that a broker has to look at several branches.
fn filter(index: usize) -> (String, String) {
    let (site, device) = (index % SITES, index / SITES);
    match index * 7 % 10 {
        0..6 => (format!("f/{site}/d{device}/state"), format!("f/{site}/d{device}/state")),
        6..9 => (format!("f/{site}/d{device}/+/set"), format!("f/{site}/d{device}/lamp/set")),
        _ => (format!("f/{site}/d{device}/#"), format!("f/{site}/d{device}/log/warning")),
    }
}

fn subscribed(report: &mut Report, count: usize, nanoseconds: u64) {
    let rate = count as f64 / (nanoseconds as f64 / 1e9);
    report.set("subscriptions", count);
    report.set("subscriptions_per_s", rounded(rate));
    report.say("subscriptions", format!("{}, {}/s", grouped(count as f64), grouped(rate)));
}

/// How evenly the members of groups were served.
fn spread(report: &mut Report, counts: &[u64]) {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64;
    let share = |count: Option<&u64>| count.map_or(0.0, |count| *count as f64 / mean);
    let (least, most) = (share(counts.iter().min()), share(counts.iter().max()));
    report.set("least_of_mean", rounded(least));
    report.set("most_of_mean", rounded(most));
    report.say("members", format!("the least had {least:.2} of the mean, the most {most:.2}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_published_are_spread_over_all_filters() {
        for all in [1, 2, 3, 10, 999, 1_000, 200_000, 1_000_000] {
            let step = stride(all);
            let mut visited = vec![false; all];
            (0..all).for_each(|index| visited[index * step % all] = true);
            assert!(visited.into_iter().all(|is_visited| is_visited), "{all} filters, a step of {step}");
        }
    }
}
