//! Opening connections and subscriptions, many at a time.

use std::time::Duration;

use super::session::{Granted, Limits, connack, put_subscribe, suback};
use super::{Client, ClientError, Connections, Handler, Incoming, Quiet, Server, socket};
use crate::codec::{PacketId, PacketType, QoS};

/// How long nothing may happen before it is given up.
const PATIENCE: u64 = 20_000_000_000;

/// SUBSCRIBE packets under way on each connection.
const SUBSCRIBES: usize = 4;

const TURN: Duration = Duration::from_millis(10);

/// How connecting went.
pub(crate) struct Opened {
    /// The connections, in the order of the clients.
    pub ids: Vec<usize>,
    /// Nanoseconds from opening each socket to its CONNACK.
    pub times: Vec<u64>,
    /// The strictest limits of all CONNACKs.
    pub limits: Limits,
    /// TLS sessions that were resumed.
    pub resumed: usize,
}

/// Turns the loop until `step`, asked before every wait, says that all is done, or its progress has not moved for so
/// many nanoseconds; whether all was done.
pub(crate) fn turn<H: Handler>(
    connections: &mut Connections,
    handler: &mut H,
    patience: u64,
    mut step: impl FnMut(&mut Connections, &mut H) -> Result<(u64, bool), ClientError>,
) -> Result<bool, ClientError> {
    let (mut seen, mut seen_at) = (0, connections.now());
    loop {
        let (progress, is_done) = step(connections, handler)?;
        let now = connections.now();
        if progress != seen {
            (seen, seen_at) = (progress, now);
        }
        connections.flush();
        if is_done || now > seen_at + patience {
            return Ok(is_done);
        }
        connections.poll(handler, TURN)?;
    }
}

/// Connects all clients, of whom so many are under way at a time. What comes besides CONNACKs goes to `handler`.
pub(crate) fn open<H: Handler>(
    connections: &mut Connections,
    server: &Server,
    clients: &[Client],
    concurrency: usize,
    handler: &mut H,
) -> Result<Opened, ClientError> {
    socket::allow_files(connections.count() + clients.len())?;
    let opened = Opened {
        ids: Vec::new(),
        times: Vec::with_capacity(clients.len()),
        limits: Limits::none(),
        resumed: 0,
    };
    let mut opening = Opening { server, opened, inner: handler };
    let all = turn(connections, &mut opening, PATIENCE, |connections, opening| {
        let answered = opening.opened.times.len();
        while let Some(client) = clients.get(opening.opened.ids.len())
            && opening.opened.ids.len() < answered + concurrency
        {
            let id = connections.open(server, client.owner)?;
            client.connect(server, connections.queue(id))?;
            connections.keep_alive(client.keep_alive);
            opening.opened.ids.push(id);
        }
        Ok((answered as u64, answered == clients.len()))
    })?;
    if all {
        return Ok(opening.opened);
    }
    let answered = opening.opened.times.len();
    Err(ClientError::Stuck(format!(
        "the broker answered {answered} of {} connections, and then none for {} s",
        clients.len(),
        PATIENCE / 1_000_000_000
    )))
}

/// Connects all clients, who get nothing yet.
pub(crate) fn open_plain(
    connections: &mut Connections,
    server: &Server,
    clients: &[Client],
    concurrency: usize,
) -> Result<Opened, ClientError> {
    open(connections, server, clients, concurrency, &mut Quiet)
}

struct Opening<'a, H> {
    server: &'a Server,
    opened: Opened,
    inner: &'a mut H,
}

impl<H: Handler> Handler for Opening<'_, H> {
    fn packet(
        &mut self,
        connections: &mut Connections,
        id: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError> {
        if packet.kind() != Some(PacketType::ConnAck) {
            return self.inner.packet(connections, id, packet);
        }
        let limits = connack(self.server, packet)?;
        self.opened.limits = self.opened.limits.and(limits);
        connections.keep_alive(limits.server_keep_alive.unwrap_or(0));
        self.opened.resumed += usize::from(connections.is_resumed(id));
        self.opened.times.push(connections.read_at().saturating_sub(connections.since(id)));
        Ok(())
    }
}

/// The filters of each connection; what was granted. What comes besides SUBACKs goes to `handler`.
pub(crate) fn subscribe<H: Handler>(
    connections: &mut Connections,
    server: &Server,
    wanted: &[(usize, Vec<String>)],
    qos: QoS,
    per_packet: usize,
    handler: &mut H,
) -> Result<Granted, ClientError> {
    let per_packet = per_packet.max(1);
    let total: usize = wanted.iter().map(|(_, filters)| filters.len().div_ceil(per_packet)).sum();
    let places = wanted.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
    let mut subscribing = Subscribing {
        server,
        wanted,
        job_of: vec![usize::MAX; places],
        next: vec![0; wanted.len()],
        qos,
        per_packet,
        answered: 0,
        granted: Granted::none(),
        inner: handler,
    };
    for (job, (id, _)) in wanted.iter().enumerate() {
        if let Some(place) = subscribing.job_of.get_mut(*id) {
            *place = job;
        }
        for _ in 0..SUBSCRIBES {
            subscribing.send_next(connections, job)?;
        }
    }
    let all = turn(connections, &mut subscribing, PATIENCE, |_, subscribing| {
        Ok((subscribing.answered as u64, subscribing.answered == total))
    })?;
    if all {
        return Ok(subscribing.granted);
    }
    Err(ClientError::Stuck(format!(
        "the broker answered {} of {total} SUBSCRIBE packets, and then none for {} s",
        subscribing.answered,
        PATIENCE / 1_000_000_000
    )))
}

struct Subscribing<'a, H> {
    server: &'a Server,
    wanted: &'a [(usize, Vec<String>)],
    /// Which of them a connection is, by its number.
    job_of: Vec<usize>,
    /// The next packet of each.
    next: Vec<usize>,
    qos: QoS,
    per_packet: usize,
    answered: usize,
    granted: Granted,
    inner: &'a mut H,
}

impl<H> Subscribing<'_, H> {
    fn send_next(&mut self, connections: &mut Connections, job: usize) -> Result<(), ClientError> {
        let (Some((id, filters)), Some(next)) = (self.wanted.get(job), self.next.get_mut(job)) else {
            return Ok(());
        };
        let Some(some) = filters.chunks(self.per_packet).nth(*next) else { return Ok(()) };
        let packet_id = u16::try_from(*next % usize::from(u16::MAX)).unwrap_or(0) + 1;
        *next += 1;
        let Some(packet_id) = PacketId::new(packet_id) else { return Ok(()) };
        put_subscribe(self.server.version, packet_id, some, self.qos, connections.queue(*id))?;
        Ok(())
    }
}

impl<H: Handler> Handler for Subscribing<'_, H> {
    fn packet(
        &mut self,
        connections: &mut Connections,
        id: usize,
        packet: Incoming<'_>,
    ) -> Result<(), ClientError> {
        if packet.kind() != Some(PacketType::SubAck) {
            return self.inner.packet(connections, id, packet);
        }
        self.granted = self.granted.and(suback(self.server.version, packet)?);
        self.answered += 1;
        match self.job_of.get(id) {
            Some(job) => self.send_next(connections, *job),
            None => Ok(()),
        }
    }
}
