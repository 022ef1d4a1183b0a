//! The life of one client in the storm.
//!
//! Seven of ten have a persistent session, half speak 5.0. Each connects, subscribes to its inbox and to its
//! group's topics, one of them shared, publishes to the inboxes and groups of others, and is gone after a while: with DISCONNECT,
//! with a closed or reset socket, in the midst of a packet, or because it has connected a second time.
//! Nothing of this is a fault of the client's session: what it knows, it keeps as the standard asks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::ledger::{GROUP, Ledger, Target};
use crate::support::light::{Event, LightClient, Version};
use crate::support::random::Random;

/// What all are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Publishing and being cut.
    Storm,
    /// Only receiving and finishing what is in flight.
    Calm,
    /// Going, one by one, for good.
    Leaving,
}

/// Between two messages of one client, on average.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);

/// A client keeps no more than this in flight.
const WINDOW: usize = 8;

/// How long the broker may take for a CONNACK or a PINGRESP, a thousand clients being busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Disconnect,
    Close,
    Reset,
    InTheMidstOfAPacket,
    Takeover,
}

/// Why serving a connection came to an end.
enum End {
    /// The time of the cut has come, or the phase is over.
    Wanted,
    /// The broker is at fault.
    Fault(String),
}

/// One client.
pub struct Member {
    index: usize,
    port: u16,
    client: LightClient,
    persistent: bool,
    random: Random,
    ledger: Rc<RefCell<Ledger>>,
    progress: Rc<Notify>,
    phase: watch::Receiver<Phase>,
    /// A CONNACK of this session has come, so the broker knows it.
    established: bool,
    /// SUBACKs to come, and the subscriptions that stand.
    subscribing: HashMap<u16, Target>,
    subscribed: Vec<Target>,
    /// A filter subscribed to only to be unsubscribed from again.
    passing: Option<(u16, String)>,
    connected: bool,
    /// The connection before ended before its CONNACK: the broker may come to read that CONNECT after the
    /// next one, and is right to let it take the session over.
    haunted: bool,
    pong: bool,
    out: Vec<u8>,
}

impl Member {
    pub fn new(
        index: usize,
        port: u16,
        seed: u64,
        ledger: Rc<RefCell<Ledger>>,
        progress: Rc<Notify>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let mut random = Random::new(seed, index as u64);
        let persistent = random.percent(70);
        let version = if random.percent(50) { Version::V5 } else { Version::V3_1_1 };
        Self {
            index,
            port,
            client: LightClient::new(format!("storm-{index}"), version, persistent),
            persistent,
            random,
            ledger,
            progress,
            phase,
            established: false,
            subscribing: HashMap::new(),
            subscribed: Vec::new(),
            passing: None,
            connected: false,
            haunted: false,
            pong: false,
            out: Vec::new(),
        }
    }

    /// From the first connection to the last.
    pub async fn live(mut self) {
        if let Err(fault) = self.weather_the_storm().await {
            self.fault(&fault);
        }
        if let Err(fault) = self.leave_for_good().await {
            self.fault(&fault);
        }
    }

    fn fault(&self, fault: &str) {
        self.ledger.borrow_mut().fault(format!("client {}: {fault}", self.index));
        self.progress.notify_one();
    }

    /// Connection after connection until the phase is `Leaving`; the last one ends when all it asked for is
    /// answered, with a DISCONNECT.
    async fn weather_the_storm(&mut self) -> Result<(), String> {
        self.pause().await;
        let mut older = None;
        loop {
            let stream = self.connect(false).await?;
            let early = self.phase() == Phase::Storm && self.random.percent(3);
            let life = if early { self.random.below(5) } else { 300 + self.random.below(3_000) };
            let end = self.serve(&stream, Duration::from_millis(life)).await;
            // Only now: until its CONNACK the newer connection and the older one were both open.
            drop(older.take());
            if let End::Fault(fault) = end
                && !std::mem::take(&mut self.haunted)
            {
                return Err(fault);
            }
            if self.phase() == Phase::Leaving && self.connected {
                self.pause().await;
                return self.say_goodbye(stream).await;
            }
            self.haunted = !self.connected;
            older = self.cut(stream).await;
            self.client.cut();
            self.out.clear();
            self.subscribing.clear();
            self.passing = None;
            self.connected = false;
            if !self.persistent {
                self.subscribed.clear();
            }
            if older.is_none() {
                self.pause().await;
            }
        }
    }

    /// Waits for a while, so that they come back and leave one by one, also when the storm ends: a herd of a
    /// thousand in one instant would be another test.
    async fn pause(&mut self) {
        sleep(Duration::from_millis(self.random.below(1_000))).await;
    }

    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    async fn connect(&mut self, clean: bool) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        self.out.clear();
        self.client.connect(clean, &mut self.out);
        self.ledger.borrow_mut().count(|counts| counts.connections += 1);
        Ok(stream)
    }

    /// Moves bytes both ways, and publishes while the storm lasts, until the connection has lived long enough
    /// (in the storm) or `Leaving` begins.
    async fn serve(&mut self, stream: &TcpStream, life: Duration) -> End {
        let start = Instant::now();
        let mut phases = self.phase.clone();
        let mut publish_at = start + self.until_next_message();
        loop {
            let phase = self.phase();
            if phase == Phase::Leaving && self.connected {
                return End::Wanted;
            }
            let storm = phase == Phase::Storm;
            if storm && start.elapsed() >= life {
                return End::Wanted;
            }
            if !self.connected && start.elapsed() >= PATIENCE {
                return End::Fault(format!("no CONNACK for {PATIENCE:?}"));
            }
            let wake_at = match (storm, self.connected) {
                (true, true) => publish_at.min(start + life),
                (true, false) => start + life,
                (false, _) => start + PATIENCE,
            };
            tokio::select! {
                result = self.transfer(stream) => if let Err(fault) = result {
                    return End::Fault(fault);
                },
                () = sleep_until(wake_at), if storm || !self.connected => {}
                _ = phases.changed() => {}
            }
            if storm && self.connected && Instant::now() >= publish_at {
                publish_at = Instant::now() + self.until_next_message();
                self.publish();
            }
        }
    }

    fn until_next_message(&mut self) -> Duration {
        let average = PUBLISH_EVERY.as_millis() as u64;
        Duration::from_millis(self.random.below(2 * average))
    }

    /// Waits until the socket can be read, or written if there is something to write, and does so.
    async fn transfer(&mut self, stream: &TcpStream) -> Result<(), String> {
        let interest =
            if self.out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let ready = stream.ready(interest).await.map_err(|error| error.to_string())?;
        if ready.is_writable() && !self.out.is_empty() {
            match stream.try_write(&self.out) {
                Ok(length) => drop(self.out.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("write: {error}")),
            }
        }
        if ready.is_readable() || ready.is_read_closed() {
            let mut buffer = [0; 16_384];
            match stream.try_read(&mut buffer) {
                Ok(0) => return Err("the broker closed the connection".to_owned()),
                Ok(length) => self.received(&buffer[..length])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("read: {error}")),
            }
        }
        Ok(())
    }

    fn received(&mut self, bytes: &[u8]) -> Result<(), String> {
        let events = self.client.handle(bytes, &mut self.out)?;
        for event in events {
            self.happened(event)?;
        }
        if self.ledger.borrow().is_settled() {
            self.progress.notify_one();
        }
        Ok(())
    }

    fn happened(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Connected { session_present } => self.welcomed(session_present)?,
            Event::Refused { code } => return Err(format!("CONNACK {code:#04x}")),
            Event::Disconnected { code } => return Err(format!("DISCONNECT {code:#04x}")),
            Event::Rejected { token, code } => return Err(format!("message {token} rejected: {code:#04x}")),
            Event::SentAgain { .. } | Event::Released { .. } => {}
            Event::Clash { topic, .. } => {
                return Err(format!("a QoS 2 message to {topic} came under an identifier in use"));
            }
            Event::Subscribed { packet_id, codes } => self.granted(packet_id, &codes)?,
            Event::Unsubscribed { packet_id } => {
                if self.passing.take().is_none_or(|(expected, _)| expected != packet_id) {
                    return Err(format!("UNSUBACK {packet_id}, which was not asked for"));
                }
            }
            Event::Message { topic, payload, qos, retain, .. } => {
                self.ledger.borrow_mut().arrived(self.index, &topic, qos, retain, &payload);
                self.progress.notify_one();
            }
            // A QoS 2 message may be lost with its publisher's session until the PUBREL has come, so only the
            // end of the exchange counts.
            Event::Acknowledged { token } if token & 3 == 1 => self.finished(token),
            Event::Acknowledged { .. } => {}
            Event::Completed { token } => self.finished(token),
            Event::Pong => self.pong = true,
        }
        Ok(())
    }

    /// The exchange is over: from now on the broker owes the message to its subscribers.
    fn finished(&self, token: u64) {
        self.ledger.borrow_mut().acknowledged(self.index, token as usize >> 2, self.persistent);
    }

    /// CONNACK: whether the broker remembers what it must, and the subscriptions that are missing.
    fn welcomed(&mut self, session_present: bool) -> Result<(), String> {
        if self.persistent && self.established && !session_present {
            return Err("the session is lost".to_owned());
        }
        if !self.persistent && session_present {
            return Err("a clean start found a session".to_owned());
        }
        self.connected = true;
        self.established = true;
        if session_present {
            self.ledger.borrow_mut().count(|counts| counts.sessions_resumed += 1);
        }
        let group = self.index / GROUP;
        let mut targets = vec![Target::Inbox(self.index), Target::Group(group)];
        if self.persistent {
            targets.push(Target::Shared(group));
        }
        for target in targets {
            if !self.subscribed.contains(&target) {
                let packet_id = self.client.subscribe(&target.filter(), 2, &mut self.out);
                self.subscribing.insert(packet_id, target);
            }
        }
        if self.random.percent(25) {
            let filter = format!("storm/passing/{}/+/#", self.random.below(1_000_000));
            let packet_id = self.client.subscribe(&filter, 1, &mut self.out);
            self.passing = Some((packet_id, filter));
        }
        Ok(())
    }

    /// SUBACK.
    fn granted(&mut self, packet_id: u16, codes: &[u8]) -> Result<(), String> {
        if let Some((expected, filter)) = self.passing.take() {
            if expected == packet_id {
                let packet_id = self.client.unsubscribe(&filter, &mut self.out);
                self.passing = Some((packet_id, filter));
                return if codes == [1] { Ok(()) } else { Err(format!("SUBACK {codes:?} for QoS 1")) };
            }
            self.passing = Some((expected, filter));
        }
        let target =
            self.subscribing.remove(&packet_id).ok_or(format!("SUBACK {packet_id} was not asked for"))?;
        if codes != [2] {
            return Err(format!("SUBACK {codes:?} for QoS 2"));
        }
        self.subscribed.push(target);
        if self.persistent {
            self.ledger.borrow_mut().subscribed(self.index, target);
        }
        Ok(())
    }

    fn publish(&mut self) {
        if self.client.in_flight() >= WINDOW {
            return;
        }
        let mut ledger = self.ledger.borrow_mut();
        let to = self.random.below(ledger.clients() as u64) as usize;
        let target = match self.random.below(5) {
            0 | 1 => Target::Inbox(to),
            2 | 3 => Target::Group(to / GROUP),
            _ => Target::Shared(to / GROUP),
        };
        let qos = self.random.below(3) as u8;
        let (number, payload) = ledger.send(self.index, qos, target, self.persistent);
        let token = (number as u64) << 2 | u64::from(qos);
        self.client.publish(&target.topic(), &payload, qos, token, &mut self.out);
    }

    /// Ends the connection in one of the ways there are; the socket comes back if it is to stay open while
    /// the next one is made.
    async fn cut(&mut self, stream: TcpStream) -> Option<TcpStream> {
        let kind = match self.random.below(10) {
            0 => Cut::Disconnect,
            1..=3 => Cut::Close,
            4..=5 => Cut::Reset,
            6..=7 => Cut::InTheMidstOfAPacket,
            _ => Cut::Takeover,
        };
        match kind {
            Cut::Disconnect if self.connected => {
                self.client.disconnect(&mut self.out);
                let _ = stream.try_write(&self.out);
            }
            Cut::Disconnect | Cut::Close => {}
            Cut::Reset => {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            Cut::InTheMidstOfAPacket => {
                // Whatever is to be written ends somewhere; a message nobody booked must never arrive.
                let mut unbooked = LightClient::new("", Version::V3_1_1, false);
                unbooked.publish("storm/inbox/0", b"half a packet", 0, 0, &mut self.out);
                let length = self.out.len() - 1 - self.random.below(self.out.len() as u64 - 1) as usize;
                let _ = stream.try_write(&self.out[..length]);
                self.ledger.borrow_mut().count(|counts| counts.cuts_in_half += 1);
            }
            Cut::Takeover => {
                self.ledger.borrow_mut().count(|counts| counts.takeovers += 1);
                return Some(stream);
            }
        }
        None
    }

    /// Waits until all that was sent before is answered, then DISCONNECT and the end of the connection.
    async fn say_goodbye(&mut self, stream: TcpStream) -> Result<(), String> {
        self.pong = false;
        self.client.ping(&mut self.out);
        let deadline = Instant::now() + PATIENCE;
        while !self.pong || !self.out.is_empty() {
            timeout_at(deadline, self.transfer(&stream))
                .await
                .map_err(|_| format!("no PINGRESP for {PATIENCE:?}"))??;
        }
        self.client.disconnect(&mut self.out);
        loop {
            match timeout_at(deadline, self.transfer(&stream)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) if self.out.is_empty() => return Ok(()),
                Ok(Err(fault)) => return Err(format!("before DISCONNECT was written: {fault}")),
                Err(_) => return Err(format!("the connection is still open {PATIENCE:?} after DISCONNECT")),
            }
        }
    }

    /// Comes back once more with a clean start, which ends the session, and goes.
    async fn leave_for_good(&mut self) -> Result<(), String> {
        while self.phase() != Phase::Leaving {
            self.phase.changed().await.map_err(|error| error.to_string())?;
        }
        self.client.cut();
        (self.persistent, self.connected) = (false, false);
        let stream = self.connect(true).await?;
        let deadline = Instant::now() + PATIENCE;
        while !self.connected {
            timeout_at(deadline, self.transfer(&stream))
                .await
                .map_err(|_| "no last CONNACK".to_owned())??;
        }
        self.say_goodbye(stream).await
    }
}
