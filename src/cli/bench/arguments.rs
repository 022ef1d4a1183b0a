//! What the scenarios' command lines have in common, and what each run begins with.

use std::num::NonZeroU16;

use clap::Args;

use super::super::client::{
    Client, ClientError, Connections, Limits, Opened, Server, ServerArguments, open_plain, qos,
};
use super::meter::Meter;
use super::publishing::{Flows, Publishing, STAMP};
use super::report::Report;
use super::schedule::Schedule;
use crate::codec::{ProtocolVersion, QoS};
use crate::config::{parse_duration, parse_size};

/// Messages that no subscriber should be further behind than, and all of them together.
const BEHIND: u64 = 1_000;
const ALL_BEHIND: u64 = 20_000;

/// For every scenario.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArguments {
    #[command(flatten)]
    pub server: ServerArguments,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// The broker's process on this machine: its CPU time and memory are told as well
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Clients that connect at the same time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub concurrency: u32,
    /// Resume TLS sessions instead of doing the handshake in full each time
    #[arg(long)]
    pub resume: bool,
    /// Messages that the broker may send without an acknowledgement (Receive Maximum of MQTT 5.0)
    #[arg(long, value_name = "N")]
    pub receive_maximum: Option<NonZeroU16>,
}

/// For scenarios that publish.
#[derive(Debug, Clone, Args)]
pub(crate) struct PublishArguments {
    /// QoS of publishing: 0, 1 or 2
    #[arg(short = 'q', long, value_name = "QOS", value_parser = qos, default_value = "0")]
    pub qos: QoS,
    /// QoS of subscribing; that of publishing if it is not given
    #[arg(long, value_name = "QOS", value_parser = qos)]
    pub subscriber_qos: Option<QoS>,
    /// Bytes of each payload, from 16, such as 64 or 16KiB
    #[arg(short = 's', long, value_name = "SIZE", value_parser = payload, default_value = "64")]
    pub payload: usize,
    /// Unacknowledged messages a publisher may have, with QoS 1 and 2
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..65_536))]
    pub in_flight: u64,
}

/// For scenarios that publish for a while.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrafficArguments {
    #[command(flatten)]
    pub publish: PublishArguments,
    /// How long to measure, such as 10s or 1m
    #[arg(short = 'd', long, value_name = "TIME", value_parser = time, default_value = "10s")]
    pub duration: u64,
    /// How long to publish before that
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    pub warm_up: u64,
    /// Messages a second of all publishers together; as many as the broker takes if it is not given
    #[arg(short = 'r', long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Publish so many messages instead, and measure to the last delivery
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["duration", "warm_up"])]
    pub messages: Option<u64>,
    /// Messages a publisher may be ahead of its slowest subscriber, without a rate; chosen by the number of clients
    /// if it is not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "rate")]
    pub window: Option<u64>,
    /// Publish without regard to the subscribers
    #[arg(long, conflicts_with = "window")]
    pub flood: bool,
}

/// What a run begins with.
pub(super) struct Context {
    pub common: CommonArguments,
    pub server: Server,
    pub connections: Connections,
    pub meter: Meter,
    pub report: Report,
    /// Tells this run's clients and topics from others'.
    pub tag: String,
}

impl Context {
    pub fn new(scenario: &str, common: CommonArguments) -> Result<Self, ClientError> {
        if common.receive_maximum.is_some() && common.server.version != ProtocolVersion::V5 {
            return Err(ClientError::Misused("--receive-maximum needs -V 5.0".to_owned()));
        }
        let server = Server::find(&common.server, common.resume)?;
        let meter = Meter::new(common.pid)?;
        let mut report = Report::default();
        let version = version(server.version);
        report.set("scenario", scenario);
        report.set("url", common.server.url.as_str());
        report.set("version", version);
        report.say("scenario", format!("{scenario}, MQTT {version} at {}", common.server.url));
        // Nobody else on this machine or another has the number; without it, process numbers have to do.
        let tag = getrandom::u32().unwrap_or_else(|_| std::process::id());
        let tag = format!("{tag:08x}");
        Ok(Self { connections: Connections::new()?, common, server, meter, report, tag })
    }

    /// Takes leave of the broker; what was found.
    pub fn finish(mut self) -> Report {
        self.connections.leave_all();
        self.report
    }

    pub fn topic(&self, rest: &str) -> String {
        format!("fulmar-bench/{}/{rest}", self.tag)
    }

    /// The `index`th client of a kind.
    pub fn client(&self, kind: char, index: usize, owner: u32) -> Client {
        let mut client = Client::new(format!("fb{}{kind}{index}", self.tag), owner);
        client.receive_maximum = self.common.receive_maximum;
        client
    }

    /// Connects so many clients of a kind, owned by the numbers from 0 with `mark` set in each.
    pub fn open(&mut self, kind: char, count: usize, mark: u32) -> Result<Opened, ClientError> {
        let clients: Vec<_> = (0..count).map(|index| self.client(kind, index, mark | index as u32)).collect();
        let concurrency = self.concurrency();
        open_plain(&mut self.connections, &self.server, &clients, concurrency)
    }

    /// The same, with sessions that outlive their connections by so many seconds.
    pub fn open_lasting(
        &mut self,
        kind: char,
        count: usize,
        mark: u32,
        session_expiry: u32,
    ) -> Result<Opened, ClientError> {
        let client = |index: usize| Client {
            clean_start: session_expiry == 0,
            session_expiry,
            ..self.client(kind, index, mark | index as u32)
        };
        let clients: Vec<_> = (0..count).map(client).collect();
        let concurrency = self.concurrency();
        open_plain(&mut self.connections, &self.server, &clients, concurrency)
    }

    pub fn concurrency(&self) -> usize {
        self.common.concurrency as usize
    }
}

impl PublishArguments {
    pub fn subscriber_qos(&self) -> QoS {
        self.subscriber_qos.unwrap_or(self.qos)
    }

    /// How publishers publish that need not look after subscribers.
    pub fn publishing(&self, version: ProtocolVersion, limits: Limits) -> Result<Publishing, ClientError> {
        if self.qos > limits.maximum_qos {
            return Err(ClientError::MaximumQoS(limits.maximum_qos as u8));
        }
        let in_flight = self.in_flight.min(limits.receive_maximum.into());
        Ok(Publishing {
            version,
            qos: self.qos,
            retain: false,
            payload: self.payload,
            maximum_packet_size: limits.maximum_packet_size,
            in_flight,
            window: None,
            batch: (in_flight / 4).max(1),
            limit: u64::MAX,
        })
    }
}

impl TrafficArguments {
    pub fn schedule(&self) -> Option<Schedule> {
        self.rate.map(Schedule::new)
    }

    /// How publishers publish; `meet` says that several of them have a subscriber in common.
    pub fn publishing(
        &self,
        version: ProtocolVersion,
        limits: Limits,
        flows: &Flows,
        meet: bool,
    ) -> Result<Publishing, ClientError> {
        let publishers = flows.publishers as u64;
        let each = if meet { BEHIND / publishers } else { BEHIND };
        let all = ALL_BEHIND / (publishers * flows.per_message());
        let window = self.window.unwrap_or(each.min(all).max(10));
        let publishing = self.publish.publishing(version, limits)?;
        let bound =
            if self.publish.qos == QoS::AtMostOnce { window } else { window.min(publishing.in_flight) };
        Ok(Publishing {
            window: Some(window).filter(|_| !self.flood && self.rate.is_none()),
            batch: (bound / 4).max(1),
            limit: self.messages.unwrap_or(u64::MAX),
            ..publishing
        })
    }
}

/// The standard's number for people and programs.
fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V3_1 => "3.1",
        ProtocolVersion::V3_1_1 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}

fn payload(text: &str) -> Result<usize, String> {
    let size = parse_size(text).and_then(|size| usize::try_from(size).ok());
    size.filter(|size| (STAMP..=256 << 20).contains(size)).ok_or_else(|| {
        format!("expected a size from {STAMP} (when it was due, from whom, its number) to 256MiB")
    })
}

/// Nanoseconds.
pub(in crate::cli) fn time(text: &str) -> Result<u64, String> {
    let seconds = || {
        let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok()?;
        (0.0..1e6).contains(&seconds).then_some((seconds * 1e9) as u64)
    };
    let given = parse_duration(text).and_then(|time| u64::try_from(time.as_nanos()).ok());
    given.or_else(seconds).ok_or_else(|| "expected a time such as 10s, 250ms or 1m".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..1e9).contains(rate));
    rate.ok_or_else(|| "expected messages a second, from 0.001".to_owned())
}
