//! Clients that come and go: connect, subscribe, publish to themselves, receive that, disconnect.

use super::super::client::{
    Client, ClientError, Connections, Handler, Incoming, Server, allow_files, connack, put_subscribe,
    refuse_disconnect, suback, turn,
};
use super::arguments::Context;
use super::connect::tell_cycles;
use super::histogram::Times;
use super::progress::Progress;
use super::report::grouped;
use crate::codec::{
    AckKind, PacketId, PacketType, PublishHeader, PublishProperties, QoS, ReasonCode, decode_acknowledgement,
    decode_publish, encode_acknowledgement, encode_publish,
};

/// Nanoseconds without a cycle after which it is given up.
const PATIENCE: u64 = 10_000_000_000;

/// What a client waits for before it leaves: its own message and the end of its handshake.
const ECHO: u8 = 1;
const ACKNOWLEDGEMENT: u8 = 2;
/// QoS 2 towards it: the release of its message.
const RELEASE: u8 = 4;

const PAYLOAD: [u8; 16] = [b'x'; 16];

#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    pub workers: usize,
    pub only_connects: bool,
    pub qos: QoS,
    pub warm_up: u64,
    pub duration: u64,
}

struct Cycle<'a> {
    server: &'a Server,
    clients: Vec<Client>,
    topics: Vec<String>,
    steps: Steps,
    /// What each worker still waits for.
    waits: Vec<u8>,
    is_ending: bool,
    open: usize,
    cycles: u64,
    failed: u64,
    /// Messages that the broker did not take.
    rejected: u64,
    /// The lowest QoS that was granted.
    granted: QoS,
    resumed: u64,
    times: Times,
}

pub(super) fn run(context: &mut Context, steps: Steps) -> Result<(), ClientError> {
    let workers = steps.workers;
    context.connections.spread();
    allow_files(workers)?;
    let clients = (0..workers).map(|index| context.client('h', index, index as u32)).collect();
    let topics = (0..workers).map(|index| context.topic(&format!("h/{index}"))).collect();
    let server = context.server.clone();
    let mut cycle = Cycle {
        server: &server,
        clients,
        topics,
        steps,
        waits: vec![0; workers],
        is_ending: false,
        open: 0,
        cycles: 0,
        failed: 0,
        rejected: 0,
        granted: steps.qos,
        resumed: 0,
        times: Times::new(),
    };
    for worker in 0..workers {
        cycle.begin(&mut context.connections, worker)?;
    }
    let mut progress = Progress::new("cycles", context.connections.now());
    let mut until = |connections: &mut Connections, cycle: &mut Cycle<'_>, end: u64| {
        turn(connections, cycle, PATIENCE, |connections, cycle| {
            let now = connections.now();
            progress.tick(now, cycle.cycles, "");
            Ok((cycle.cycles + cycle.rejected, now >= end))
        })
    };
    let end = context.connections.now() + steps.warm_up;
    until(&mut context.connections, &mut cycle, end)?;
    let from = context.meter.mark(&context.connections);
    let (before, resumed_before) = (cycle.cycles, cycle.resumed);
    cycle.times.clear();
    let end = from.at + steps.duration;
    until(&mut context.connections, &mut cycle, end)?;
    let to = context.meter.mark(&context.connections);
    drop(progress);
    let (cycles, resumed) = (cycle.cycles - before, cycle.resumed - resumed_before);
    context.report.set("qos", steps.qos as u8);
    if !steps.only_connects {
        context.report.granted(steps.qos, cycle.granted);
    }
    context.report.set("rejected", cycle.rejected);
    if cycle.rejected > 0 {
        context.report.say("rejected", format!("{} messages", grouped(cycle.rejected as f64)));
    }
    if cycles == 0 {
        let why =
            format!("no client came to the end of its cycle; the broker refused {} messages", cycle.rejected);
        context.report.fail(ClientError::Stuck(why));
        return Ok(());
    }
    context.report.operations("cycle", cycles, &from, &to, &context.meter);
    context.report.times("latency_us", "a cycle took", &mut cycle.times);
    // Those that are on their way come to their end, so that the broker sees none break off.
    cycle.is_ending = true;
    turn(&mut context.connections, &mut cycle, PATIENCE, |_, cycle| Ok((cycle.cycles, cycle.open == 0)))?;
    tell_cycles(&mut context.report, workers, cycle.failed, resumed);
    if cycle.open > 0 {
        let (stuck, seconds) = (cycle.open, PATIENCE / 1_000_000_000);
        let why = format!(
            "{stuck} of {workers} clients never came to the end of their cycle, waited {seconds} s for"
        );
        context.report.fail(ClientError::Stuck(why));
    }
    Ok(())
}

impl Cycle<'_> {
    fn begin(&mut self, connections: &mut Connections, worker: usize) -> Result<(), ClientError> {
        let Some(client) = self.clients.get(worker).filter(|_| !self.is_ending) else { return Ok(()) };
        let id = connections.open(self.server, client.owner)?;
        client.connect(self.server, connections.queue(id))?;
        self.open += 1;
        Ok(())
    }

    fn publish(
        &mut self,
        connections: &mut Connections,
        id: usize,
        worker: usize,
        granted: QoS,
    ) -> Result<(), ClientError> {
        let qos = self.steps.qos;
        let packet_id = if qos == QoS::AtMostOnce { None } else { PacketId::new(2) };
        let header = PublishHeader { dup: false, qos, retain: false, packet_id };
        let topic = self.topics.get(worker).map_or(&[][..], |topic| topic.as_bytes());
        let properties = PublishProperties::default();
        encode_publish(connections.queue(id), self.server.version, &header, topic, properties, &PAYLOAD)?;
        if let Some(waits) = self.waits.get_mut(worker) {
            *waits = match qos {
                QoS::AtMostOnce => ECHO,
                QoS::AtLeastOnce => ECHO | ACKNOWLEDGEMENT,
                QoS::ExactlyOnce if granted == QoS::ExactlyOnce => ECHO | ACKNOWLEDGEMENT | RELEASE,
                QoS::ExactlyOnce => ECHO | ACKNOWLEDGEMENT,
            };
        }
        Ok(())
    }

    fn happened(
        &mut self,
        connections: &mut Connections,
        id: usize,
        worker: usize,
        what: u8,
    ) -> Result<(), ClientError> {
        if let Some(waits) = self.waits.get_mut(worker) {
            *waits &= !what;
            if *waits == 0 {
                return self.end(connections, id, worker);
            }
        }
        Ok(())
    }

    /// Its message will not come, so it does not come to its end.
    fn reject(&mut self, connections: &mut Connections, id: usize, worker: usize) -> Result<(), ClientError> {
        self.rejected += 1;
        self.leave(connections, id, worker)
    }

    /// It has come to its end.
    fn end(&mut self, connections: &mut Connections, id: usize, worker: usize) -> Result<(), ClientError> {
        self.times.record(connections.now() - connections.since(id));
        self.resumed += u64::from(connections.is_resumed(id));
        self.cycles += 1;
        self.leave(connections, id, worker)
    }

    fn leave(&mut self, connections: &mut Connections, id: usize, worker: usize) -> Result<(), ClientError> {
        connections.leave(id);
        self.open -= 1;
        self.begin(connections, worker)
    }
}

impl Handler for Cycle<'_> {
    fn packet(
        &mut self,
        connections: &mut Connections,
        id: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError> {
        let worker = connections.owner(id) as usize;
        let version = self.server.version;
        let first_byte = packet.header.first_byte;
        let mut answer = |kind, packet_id| {
            encode_acknowledgement(connections.queue(id), version, kind, packet_id, ReasonCode::Success);
        };
        match packet.kind() {
            Some(PacketType::ConnAck) => {
                connack(self.server, packet)?;
                if self.steps.only_connects {
                    return self.end(connections, id, worker);
                }
                let filters = self.topics.get(worker..=worker).unwrap_or_default();
                if let Some(packet_id) = PacketId::new(1) {
                    put_subscribe(version, packet_id, filters, self.steps.qos, connections.queue(id))?;
                }
                Ok(())
            }
            Some(PacketType::SubAck) => {
                let granted = suback(version, packet)?.qos;
                self.granted = self.granted.min(granted);
                self.publish(connections, id, worker, granted)
            }
            Some(PacketType::Publish) => {
                let publish = decode_publish(version, first_byte, packet.body)?;
                match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(packet_id)) => answer(AckKind::PubAck, packet_id),
                    (QoS::ExactlyOnce, Some(packet_id)) => answer(AckKind::PubRec, packet_id),
                    _ => {}
                }
                self.happened(connections, id, worker, ECHO)
            }
            Some(PacketType::PubRec) => {
                let received = decode_acknowledgement(version, AckKind::PubRec, first_byte, packet.body)?;
                if received.reason.is_error() {
                    return self.reject(connections, id, worker);
                }
                answer(AckKind::PubRel, received.packet_id);
                Ok(())
            }
            Some(PacketType::PubRel) => {
                let released = decode_acknowledgement(version, AckKind::PubRel, first_byte, packet.body)?;
                answer(AckKind::PubComp, released.packet_id);
                self.happened(connections, id, worker, RELEASE)
            }
            Some(PacketType::PubAck) => {
                let taken = decode_acknowledgement(version, AckKind::PubAck, first_byte, packet.body)?;
                if taken.reason.is_error() {
                    return self.reject(connections, id, worker);
                }
                self.happened(connections, id, worker, ACKNOWLEDGEMENT)
            }
            Some(PacketType::PubComp) => self.happened(connections, id, worker, ACKNOWLEDGEMENT),
            _ => refuse_disconnect(packet),
        }
    }

    fn closed(
        &mut self,
        connections: &mut Connections,
        owner: u32,
        error: ClientError,
    ) -> Result<(), ClientError> {
        self.failed += 1;
        self.open -= 1;
        if self.failed > 20 + self.cycles / 100 {
            Err(error)
        } else {
            self.begin(connections, owner as usize)
        }
    }
}
