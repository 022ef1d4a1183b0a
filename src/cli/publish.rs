//! `fulmar pub`: publishes one message, or one for each line of standard input, and waits until they are acknowledged.

use std::error::Error;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::client::qos;
use super::client::{
    Client, ClientError, Connections, Handler, Incoming, PlaceArguments, Server, open_plain,
    refuse_disconnect,
};
use crate::codec::{
    AckKind, PacketId, PacketType, ProtocolVersion, PublishHeader, PublishProperties, QoS, ReasonCode,
    decode_acknowledgement, encode_acknowledgement, encode_publish,
};
use crate::topic::TopicName;

/// Messages under way at the same time.
const IN_FLIGHT: usize = 100;

/// Lines read ahead.
const LINES: usize = 1_000;

/// Seconds without a packet after which a client has to be heard of.
const KEEP_ALIVE: u16 = 60;

/// How long a wait is at most, so that a lost wake-up costs no more.
const TURN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(disable_help_flag = true, group = ArgGroup::new("message_from").required(true))]
pub(super) struct PubArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Topic
    #[arg(short = 't', long, value_name = "TOPIC", value_parser = topic)]
    topic: String,
    /// Message
    #[arg(short = 'm', long, value_name = "TEXT", group = "message_from")]
    message: Option<String>,
    /// Send an empty message, which with -r removes the retained one
    #[arg(short = 'n', long, group = "message_from")]
    null: bool,
    /// Send the contents of a file
    #[arg(short = 'f', long, value_name = "FILE", group = "message_from")]
    file: Option<PathBuf>,
    /// Send each line of standard input
    #[arg(short = 'l', long, group = "message_from")]
    lines: bool,
    /// Send standard input as one message
    #[arg(short = 's', long, group = "message_from")]
    stdin: bool,
    /// QoS: 0, 1 or 2
    #[arg(short = 'q', long, value_name = "QOS", value_parser = qos, default_value = "0")]
    qos: QoS,
    /// Have the broker keep it for later subscribers
    #[arg(short = 'r', long)]
    retain: bool,
}

/// Publishes and waits.
pub(super) fn publish(arguments: &PubArguments) -> Result<(), Box<dyn Error>> {
    run(arguments).map_err(|error| format!("fulmar pub: {error}").into())
}

fn run(arguments: &PubArguments) -> Result<(), ClientError> {
    let unreadable =
        |path: PathBuf| move |error: std::io::Error| ClientError::File { path, why: error.to_string() };
    let server = Server::find(&arguments.place.server(), false)?;
    let mut connections = Connections::new()?;
    let messages = if arguments.lines {
        let waker = connections.waker()?;
        let (sender, receiver) = sync_channel(LINES);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
                // If it fails, the line is found a moment later.
                let _ = waker.wake();
            }
            drop(sender);
            let _ = waker.wake();
        });
        receiver
    } else {
        let message = match (&arguments.message, &arguments.file, arguments.stdin) {
            (Some(text), ..) => text.clone().into_bytes(),
            (_, Some(path), _) => std::fs::read(path).map_err(unreadable(path.clone()))?,
            (.., true) => {
                let mut all = Vec::new();
                std::io::stdin().lock().read_to_end(&mut all).map_err(unreadable("standard input".into()))?;
                all
            }
            _ => Vec::new(),
        };
        let (sender, receiver) = sync_channel(1);
        // There is room for one.
        let _ = sender.send(message);
        receiver
    };
    let mut client = Client::new(arguments.place.client_id("pub"), 0);
    client.keep_alive = KEEP_ALIVE;
    let opened = open_plain(&mut connections, &server, &[client], 1)?;
    let Some(id) = opened.ids.first().copied() else { return Ok(()) };
    if arguments.qos > opened.limits.maximum_qos {
        return Err(ClientError::MaximumQoS(opened.limits.maximum_qos as u8));
    }
    let mut publisher = Publisher {
        version: server.version,
        in_flight: 0,
        most: IN_FLIGHT.min(opened.limits.receive_maximum.into()),
        next: 0,
        rejected: None,
    };
    publisher.send_all(&mut connections, id, arguments, &messages)?;
    connections.leave(id);
    match publisher.rejected {
        Some(reason) => Err(ClientError::Rejected(reason)),
        None => Ok(()),
    }
}

struct Publisher {
    version: ProtocolVersion,
    in_flight: usize,
    most: usize,
    next: u16,
    rejected: Option<ReasonCode>,
}

impl Publisher {
    fn send_all(
        &mut self,
        connections: &mut Connections,
        id: usize,
        arguments: &PubArguments,
        messages: &Receiver<Vec<u8>>,
    ) -> Result<(), ClientError> {
        let mut is_over = false;
        loop {
            while !is_over && self.in_flight < self.most && connections.backlog(id) < 1 << 20 {
                match messages.try_recv() {
                    Ok(message) => self.put(connections.queue(id), arguments, &message)?,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => is_over = true,
                }
            }
            connections.flush();
            if is_over && self.in_flight == 0 && connections.backlog(id) == 0 {
                return Ok(());
            }
            connections.poll(self, TURN)?;
        }
    }

    fn put(
        &mut self,
        out: &mut Vec<u8>,
        arguments: &PubArguments,
        message: &[u8],
    ) -> Result<(), ClientError> {
        let mut packet_id = None;
        if arguments.qos != QoS::AtMostOnce {
            self.next = self.next.checked_add(1).unwrap_or(1);
            packet_id = PacketId::new(self.next);
            self.in_flight += 1;
        }
        let header = PublishHeader { dup: false, qos: arguments.qos, retain: arguments.retain, packet_id };
        let topic = arguments.topic.as_bytes();
        encode_publish(out, self.version, &header, topic, PublishProperties::default(), message)?;
        Ok(())
    }
}

impl Handler for Publisher {
    fn packet(
        &mut self,
        connections: &mut Connections,
        id: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError> {
        let kind = match packet.kind() {
            Some(PacketType::PubAck) => AckKind::PubAck,
            Some(PacketType::PubRec) => AckKind::PubRec,
            Some(PacketType::PubComp) => AckKind::PubComp,
            _ => return refuse_disconnect(packet),
        };
        let answer = decode_acknowledgement(self.version, kind, packet.header.first_byte, packet.body)?;
        if answer.reason.is_error() {
            self.rejected = Some(answer.reason);
        } else if kind == AckKind::PubRec {
            let out = connections.queue(id);
            encode_acknowledgement(out, self.version, AckKind::PubRel, answer.packet_id, ReasonCode::Success);
            return Ok(());
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        Ok(())
    }
}

fn topic(text: &str) -> Result<String, String> {
    TopicName::parse(text.as_bytes()).map(|_| text.to_owned()).map_err(|error| error.to_string())
}
