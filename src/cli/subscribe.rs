//! `fulmar sub`: subscribes and prints what comes, until it is ended or has had enough.

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use clap::Args;

use super::client::{
    Client, ClientError, Connections, Handler, Incoming, PlaceArguments, Server, open_plain, qos,
    refuse_disconnect, subscribe as subscribe_to,
};
use crate::codec::{
    AckKind, PacketType, ProtocolVersion, QoS, ReasonCode, decode_acknowledgement, decode_publish,
    encode_acknowledgement,
};
use crate::topic::TopicFilter;

/// Seconds without a packet after which a client has to be heard of.
const KEEP_ALIVE: u16 = 60;

const TURN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct SubArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Topic filter; may be given several times
    #[arg(short = 't', long = "topic", value_name = "FILTER", required = true, value_parser = filter)]
    filters: Vec<String>,
    /// QoS: 0, 1 or 2
    #[arg(short = 'q', long, value_name = "QOS", value_parser = qos, default_value = "0")]
    qos: QoS,
    /// Print the topic before each message
    #[arg(short = 'v', long)]
    verbose: bool,
    /// End after so many messages
    #[arg(short = 'C', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds; that is a failure if messages are missing
    #[arg(short = 'W', long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// Leave out messages that were retained before
    #[arg(short = 'R', long)]
    no_retained: bool,
    /// No line feed behind each message
    #[arg(short = 'N', long)]
    no_newline: bool,
}

/// Subscribes and prints.
pub(super) fn subscribe(arguments: &SubArguments) -> Result<(), Box<dyn Error>> {
    run(arguments).map_err(|error| format!("fulmar sub: {error}").into())
}

fn run(arguments: &SubArguments) -> Result<(), ClientError> {
    let server = Server::find(&arguments.place.server(), false)?;
    let mut connections = Connections::new()?;
    let mut client = Client::new(arguments.place.client_id("sub"), 0);
    client.keep_alive = KEEP_ALIVE;
    let opened = open_plain(&mut connections, &server, &[client], 1)?;
    let Some(id) = opened.ids.first().copied() else { return Ok(()) };
    let mut printer = Printer {
        version: server.version,
        arguments,
        left: arguments.count.unwrap_or(u64::MAX),
        out: BufWriter::new(io::stdout().lock()),
    };
    let wanted = [(id, arguments.filters.clone())];
    let granted = subscribe_to(&mut connections, &server, &wanted, arguments.qos, usize::MAX, &mut printer)?;
    if granted.qos < arguments.qos {
        eprintln!(
            "fulmar sub: the broker granted QoS {} instead of {}",
            granted.qos as u8, arguments.qos as u8
        );
    }
    let start = connections.now();
    let end = arguments.wait.map(|seconds| start.saturating_add(seconds.saturating_mul(1_000_000_000)));
    while printer.left > 0 {
        let now = connections.now();
        if end.is_some_and(|end| now >= end) {
            connections.leave(id);
            return match arguments.count {
                Some(_) => Err(ClientError::Stuck(format!("{} messages did not come in time", printer.left))),
                None => Ok(()),
            };
        }
        connections.flush();
        let wait = end.map_or(TURN, |end| TURN.min(Duration::from_nanos(end - now)));
        connections.poll(&mut printer, wait)?;
        // Whoever reads should not wait for what is already here.
        printer.flush()?;
    }
    printer.flush()?;
    connections.leave(id);
    Ok(())
}

struct Printer<'a, W: Write> {
    version: ProtocolVersion,
    arguments: &'a SubArguments,
    left: u64,
    out: W,
}

impl<W: Write> Printer<'_, W> {
    fn print(&mut self, topic: &[u8], payload: &[u8]) -> Result<(), ClientError> {
        let mut parts = vec![payload];
        if self.arguments.verbose {
            parts.splice(0..0, [topic, b" "]);
        }
        if !self.arguments.no_newline {
            parts.push(b"\n");
        }
        parts.into_iter().try_for_each(|part| self.out.write_all(part)).map_err(unprintable)
    }

    fn flush(&mut self) -> Result<(), ClientError> {
        self.out.flush().map_err(unprintable)
    }
}

fn unprintable(error: io::Error) -> ClientError {
    ClientError::System { what: "messages cannot be printed", error }
}

impl<W: Write> Handler for Printer<'_, W> {
    fn packet(
        &mut self,
        connections: &mut Connections,
        id: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError> {
        let (version, first_byte) = (self.version, packet.header.first_byte);
        match packet.kind() {
            Some(PacketType::Publish) if self.left > 0 => {
                let message = decode_publish(version, first_byte, packet.body)?;
                if let Some(packet_id) = message.packet_id {
                    let kind =
                        if message.qos == QoS::AtLeastOnce { AckKind::PubAck } else { AckKind::PubRec };
                    let out = connections.queue(id);
                    encode_acknowledgement(out, version, kind, packet_id, ReasonCode::Success);
                }
                if message.retain && self.arguments.no_retained {
                    return Ok(());
                }
                self.left -= 1;
                self.print(message.topic, message.payload)
            }
            Some(PacketType::PubRel) => {
                let release = decode_acknowledgement(version, AckKind::PubRel, first_byte, packet.body)?;
                let out = connections.queue(id);
                encode_acknowledgement(
                    out,
                    version,
                    AckKind::PubComp,
                    release.packet_id,
                    ReasonCode::Success,
                );
                Ok(())
            }
            _ => refuse_disconnect(packet),
        }
    }
}

fn filter(text: &str) -> Result<String, String> {
    TopicFilter::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}
