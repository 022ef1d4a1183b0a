//! The life of one client: it does what its role says, and keeps its session as the standard asks.
//!
//! Connections break because the broker is killed or because the client ends them, with DISCONNECT, with a closed
//! or reset socket, or in the midst of a packet. That the broker closes one while it lives is a fault.

mod publishing;
mod subscribing;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use publishing::RETAINED_TOKEN;
pub use publishing::retained_topic;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cast::{Presence, Role, Wish};
use crate::ledger::{Come, MessageIndex, Topic};
use crate::report::Kind;
use crate::sessions::{Lifetime, SessionBook, Wrong};
use crate::support::light::{Event, LightClient, Terms, Version};
use crate::support::random::Random;
use crate::wills::{Ending, Will};
use crate::world::{Deed, Phase, Shared, Standing};

/// A client keeps no more than this in flight.
const WINDOW: usize = 16;

/// A client uses so many Packet Identifiers, so that one whose end was forgotten is soon found out.
const PACKET_IDS: u16 = 40;

/// How long the broker may take for a CONNACK.
const PATIENCE: Duration = Duration::from_secs(15);

/// How far a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    No,
    /// SUBSCRIBE is sent.
    Asked(u16),
    Stands,
    /// UNSUBSCRIBE is sent.
    Leaving(u16),
}

/// Why a connection ends.
enum End {
    /// The client wants to go.
    Wanted,
    /// The broker has closed it, or is gone.
    Broken(String),
}

/// One client.
pub struct Member {
    index: usize,
    role: Role,
    shared: Shared,
    client: LightClient,
    random: Random,
    /// Between two messages, on average.
    pace: Duration,
    sessions: SessionBook,
    subscriptions: Vec<(Wish, Progress)>,
    /// A clean start was asked for and not answered.
    is_beginning: bool,
    connected: bool,
    connection: u32,
    /// The broker's round when this connection was made.
    round: u32,
    out: Vec<u8>,
    /// Nothing is written before.
    hold_until: Instant,
    /// The Will of the present connection or of the last one.
    will: Option<MessageIndex>,
    /// The Will of a connection whose CONNACK has not come.
    next_will: Option<MessageIndex>,
    /// How the last connection ended, and when.
    ending: Option<(Ending, std::time::Instant)>,
    /// When the last CONNECT was sent.
    asked: std::time::Instant,
    /// What is to be published in the end, once that has begun.
    last: Option<VecDeque<(Topic, u8)>>,
}

impl Member {
    pub fn new(index: usize, role: Role, shared: Shared, seed: u64, pace: Duration) -> Self {
        let persistent = role.lifetime != Lifetime::Connection;
        let subscriptions = role.wishes.iter().map(|wish| (wish.clone(), Progress::No)).collect();
        Self {
            index,
            client: LightClient::new(format!("crash-{}", role.name), role.version, persistent)
                .with_packet_ids_up_to(PACKET_IDS),
            random: Random::new(seed, index as u64 + 1),
            pace,
            sessions: SessionBook::new(role.lifetime),
            subscriptions,
            is_beginning: false,
            connected: false,
            connection: 0,
            round: 0,
            out: Vec::new(),
            hold_until: Instant::now(),
            will: None,
            next_will: None,
            ending: None,
            asked: std::time::Instant::now(),
            last: None,
            role,
            shared,
        }
    }

    /// From the first connection to the last.
    pub async fn live(mut self) {
        sleep(Duration::from_millis(self.random.below(100))).await;
        while self.shared.phase() < Phase::Over {
            let Some(stream) = self.connect().await else { continue };
            let end = self.serve(&stream).await;
            let ending = match end {
                End::Wanted => {
                    let ending = self.leave(stream);
                    // Whatever was said was said to nobody if the broker is dead already.
                    let is_dead = self.shared.world.borrow().round != self.round;
                    if is_dead { Ending::Killed } else { ending }
                }
                End::Broken(how) => {
                    // Whoever is killed may close what it likes.
                    let round = self.shared.world.borrow().round;
                    if round == self.round {
                        self.fault(Kind::Protocol, &format!("{how}, and nobody had killed the broker"));
                        sleep(Duration::from_millis(200)).await;
                    }
                    Ending::Killed
                }
            };
            self.disconnected(ending);
            self.stay_away().await;
        }
    }

    fn fault(&self, kind: Kind, what: &str) {
        self.shared.fault(kind, format!("{}: {what}", self.role.name));
    }

    fn set_standing(&self, standing: Standing) {
        self.shared.world.borrow_mut().standings[self.index] = (standing, self.round);
    }

    async fn stay_away(&mut self) {
        let mut phases = self.shared.phase.clone();
        let milliseconds = match (self.shared.phase(), self.role.presence) {
            (Phase::Storm, Presence::ComesAndGoes) if self.random.percent(70) => match self.role.lifetime {
                Lifetime::Brief(_) if self.random.percent(40) => 5_500,
                _ if self.role.will.is_some() && self.random.percent(60) => 5_000 + self.random.below(2_000),
                _ => 100 + self.random.below(1_200),
            },
            (Phase::Storm, Presence::Rare) => 4_000 + self.random.below(8_000),
            _ => self.random.below(30),
        };
        let until = Instant::now() + Duration::from_millis(milliseconds);
        while self.shared.phase() == Phase::Storm && Instant::now() < until {
            tokio::select! {
                () = sleep_until(until) => {}
                _ = phases.changed() => {}
            }
        }
    }

    /// Connects, if somebody listens, and sends CONNECT.
    async fn connect(&mut self) -> Option<TcpStream> {
        let round = self.shared.world.borrow().round;
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.shared.port)).await else {
            sleep(Duration::from_millis(3 + self.random.below(10))).await;
            return None;
        };
        if self.shared.world.borrow().round != round {
            // Nobody knows with which of two brokers.
            return None;
        }
        let _ = stream.set_nodelay(true);
        let storm = self.shared.phase() == Phase::Storm;
        let clean = self.role.lifetime == Lifetime::Connection;
        // It has forgotten the session by asking for a clean start, so it asks until it is answered.
        self.is_beginning |= storm && self.role.begins_afresh && self.random.percent(20);
        let clean_start = clean || self.is_beginning;
        let session_expiry = match self.role.lifetime {
            Lifetime::Connection => 0,
            Lifetime::Lasting => 3_600,
            Lifetime::Brief(expiry) => expiry.as_secs() as u32,
        };
        let receive_maximum = self.role.receive_maximum;
        self.asked = std::time::Instant::now();
        let will = self.next_will();
        let terms = Terms { clean_start, session_expiry, receive_maximum, will };
        self.out.clear();
        self.client.connect_with(&terms, &mut self.out);
        self.connection += 1;
        let ends = clean_start && self.role.version == Version::V3_1_1;
        self.sessions.connecting(Instant::now().into_std(), clean_start, ends);
        let mut world = self.shared.world.borrow_mut();
        world.counts.connections += 1;
        self.round = world.round;
        Some(stream)
    }

    fn disconnected(&mut self, ending: Ending) {
        let now = Instant::now().into_std();
        if self.sessions.disconnected(now) {
            // Whatever session is present next, it is not this one.
            self.client.forget();
            self.shared.world.borrow_mut().ledger.began_afresh(self.index);
            for (_, progress) in &mut self.subscriptions {
                *progress = Progress::No;
            }
        }
        // Until the client is back, a Will may come; that of a CONNECT without an answer may come for ever, and
        // may have replaced the one before.
        let (will, last) = match (self.connected, self.ending) {
            (true, _) => (self.will, Some((ending, now))),
            (false, last) => (self.next_will.take(), last.map(|(_, at)| (Ending::Unclear, at))),
        };
        self.ending = last;
        if let Some(will) = will {
            self.decide(will, Will::May, &format!("{ending:?}"));
        }
        self.client.cut();
        self.out.clear();
        self.connected = false;
        self.set_standing(Standing::Away);
        if self.role.lifetime == Lifetime::Connection {
            self.shared.world.borrow_mut().ledger.publisher_forgot(self.index);
        }
    }

    /// Moves bytes both ways, and does what the role says.
    async fn serve(&mut self, stream: &TcpStream) -> End {
        let start = Instant::now();
        let mut phases = self.shared.phase.clone();
        let until = start + self.stay();
        let mut publish_at = start;
        let mut toggle_at = start + Duration::from_millis(self.random.below(400));
        self.hold_until = start;
        loop {
            let (phase, now) = (self.shared.phase(), Instant::now());
            if self.connected {
                if phase == Phase::Over || phase == Phase::Storm && now >= until {
                    return End::Wanted;
                }
                if phase == Phase::Storm && now >= publish_at {
                    publish_at = now + self.pace.mul_f64(self.random.below(2_000) as f64 / 1_000.0);
                    self.publish_some();
                }
                if phase == Phase::Storm && now >= toggle_at {
                    toggle_at = now + Duration::from_millis(100 + self.random.below(500));
                    self.toggle();
                }
                if phase == Phase::Last {
                    self.publish_last();
                }
            } else if start.elapsed() > PATIENCE {
                self.fault(Kind::Protocol, &format!("no CONNACK for {PATIENCE:?}"));
                return End::Wanted;
            }
            self.tell_standing();
            let mut wake_at = now + Duration::from_secs(1);
            if self.connected && phase == Phase::Storm {
                wake_at = until.min(toggle_at);
                if self.is_publisher() {
                    wake_at = wake_at.min(publish_at);
                }
            }
            if !self.out.is_empty() && self.hold_until > now {
                wake_at = wake_at.min(self.hold_until);
            }
            tokio::select! {
                result = self.transfer(stream) => if let Err(how) = result {
                    return End::Broken(how);
                },
                () = sleep_until(wake_at) => {}
                _ = phases.changed() => {}
            }
        }
    }

    /// How long to stay while the broker is being killed.
    fn stay(&mut self) -> Duration {
        match self.role.presence {
            Presence::Steady => Duration::from_secs(3_600),
            Presence::ComesAndGoes => Duration::from_millis(50 + self.random.below(1_500)),
            Presence::Rare => Duration::from_millis(300 + self.random.below(500)),
        }
    }

    fn is_publisher(&self) -> bool {
        self.role.publishes || !self.role.retains.is_empty()
    }

    fn tell_standing(&self) {
        let all_answered = self
            .subscriptions
            .iter()
            .all(|(_, progress)| matches!(progress, Progress::No | Progress::Stands));
        let nothing_left = self.client.in_flight() == 0 && self.out.is_empty();
        let last_is_sent = self.shared.phase() < Phase::Last
            || !self.role.publishes
            || self.last.as_ref().is_some_and(VecDeque::is_empty);
        let standing = match self.connected {
            false => Standing::Away,
            true if all_answered && nothing_left && last_is_sent => Standing::Ready,
            true => Standing::Busy,
        };
        self.set_standing(standing);
        self.shared.progress.notify_one();
    }

    // --- what goes out

    /// Waits until the socket can be read, or written if there is something to write, and does so.
    async fn transfer(&mut self, stream: &TcpStream) -> Result<(), String> {
        let may_write = !self.out.is_empty() && Instant::now() >= self.hold_until;
        let interest = if may_write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = stream.ready(interest).await.map_err(|error| error.to_string())?;
        if ready.is_readable() || ready.is_read_closed() {
            let mut buffer = [0; 16_384];
            match stream.try_read(&mut buffer) {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(length) => self.received(&buffer[..length])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("read: {error}")),
            }
        }
        if may_write && ready.is_writable() {
            match stream.try_write(&self.out) {
                Ok(length) => drop(self.out.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // What has come before is still to be read; the end of it is found there.
                Err(_) => self.out.clear(),
            }
        }
        Ok(())
    }

    /// Ends the connection in one of the ways there are.
    fn leave(&mut self, stream: TcpStream) -> Ending {
        match self.random.below(10) {
            0..=2 => {
                self.client.disconnect(&mut self.out);
                let length = stream.try_write(&self.out).unwrap_or(0);
                return if length == self.out.len() { Ending::Disconnect } else { Ending::Cut };
            }
            3..=6 => {}
            7..=8 => {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            _ => {
                // Whatever is to be written ends somewhere; a message nobody booked must never arrive.
                let mut unbooked = LightClient::new("", Version::V3_1_1, false);
                unbooked.publish("crash/plain/0", b"half a packet", 0, 0, &mut self.out);
                let length = self.out.len() - 1 - self.random.below(self.out.len() as u64 - 1) as usize;
                let _ = stream.try_write(&self.out[..length]);
            }
        }
        Ending::Cut
    }

    // --- what comes in

    fn received(&mut self, bytes: &[u8]) -> Result<(), String> {
        let was_empty = self.out.is_empty();
        let events = match self.client.handle(bytes, &mut self.out) {
            Ok(events) => events,
            Err(fault) => {
                self.fault(Kind::Protocol, &fault);
                return Err(fault);
            }
        };
        if self.role.lazy && was_empty && !self.out.is_empty() {
            self.hold_until = Instant::now() + Duration::from_millis(self.random.below(40));
        }
        for event in events {
            self.happened(event);
        }
        Ok(())
    }

    fn happened(&mut self, event: Event) {
        let at = self.shared.world.borrow().now();
        match event {
            Event::Connected { session_present } => {
                self.shared.seen(Deed::ConnAck);
                self.welcomed(session_present);
            }
            Event::Refused { code } => self.fault(Kind::Protocol, &format!("CONNACK {code:#04x}")),
            Event::Disconnected { code } => self.fault(Kind::Protocol, &format!("DISCONNECT {code:#04x}")),
            Event::Subscribed { packet_id, codes } => {
                self.shared.seen(Deed::SubAck);
                self.granted(packet_id, &codes);
            }
            Event::Unsubscribed { packet_id } => {
                self.shared.seen(Deed::SubAck);
                self.unsubscribed(packet_id);
            }
            Event::Message { topic, payload, qos, retain, dup, identifiers } => {
                self.check_identifiers(&topic, &identifiers);
                let come = Come { topic: &topic, payload: &payload, qos, retain, dup };
                {
                    let mut world = self.shared.world.borrow_mut();
                    let world = &mut *world;
                    world.ledger.arrived(at, self.index, self.connection, &come, &mut world.faults);
                }
                self.shared.seen(Deed::Publish);
            }
            Event::Clash { topic, .. } => {
                let what =
                    format!("a QoS 2 message to {topic} came under an identifier that another one has");
                self.fault(Kind::Protocol, &what);
            }
            Event::SentAgain { token } => {
                let mut world = self.shared.world.borrow_mut();
                world.counts.sent_again += 1;
                if token & RETAINED_TOKEN == 0 {
                    world.ledger.sent_again(at, token as usize);
                }
            }
            Event::Acknowledged { token } => self.acknowledged(token, false),
            Event::Completed { token } => self.acknowledged(token, true),
            Event::Rejected { token, code } => {
                self.fault(Kind::Protocol, &format!("a message was refused with {code:#04x}"));
                if token & RETAINED_TOKEN == 0 {
                    self.shared.world.borrow_mut().ledger.rejected(token as usize);
                }
            }
            Event::Released { .. } => self.shared.seen(Deed::PubRel),
            Event::Pong => {}
        }
    }

    /// CONNACK: whether the broker remembers what it must, and the subscriptions that are missing.
    fn welcomed(&mut self, session_present: bool) {
        self.connected = true;
        self.is_beginning = false;
        self.judge_last_will();
        let mut world = self.shared.world.borrow_mut();
        let is_unclear = self.sessions.is_unclear() && matches!(self.role.lifetime, Lifetime::Brief(_));
        let verdict = self.sessions.connected(Instant::now().into_std(), session_present, world.ready);
        let name = &self.role.name;
        match verdict {
            Ok(()) => {}
            Err(Wrong::Lost) => world.fault(Kind::SessionLost, format!("{name}: Session Present is 0")),
            Err(Wrong::Raised) => world.fault(Kind::SessionRaised, format!("{name}: Session Present is 1")),
        }
        if session_present {
            world.counts.resumed += 1;
        } else {
            world.counts.begun += 1;
            world.ledger.publisher_forgot(self.index);
            match verdict {
                Err(Wrong::Lost) => world.ledger.session_lost(self.index),
                _ => world.ledger.began_afresh(self.index),
            }
            for (_, progress) in &mut self.subscriptions {
                *progress = Progress::No;
            }
        }
        if session_present && is_unclear {
            // The last one may have expired, so nothing is owed from it, and what it had may be missing.
            for (wish, progress) in &mut self.subscriptions {
                wish.topics.iter().for_each(|topic| world.ledger.unsubscribing(self.index, *topic));
                *progress = Progress::No;
            }
        }
        drop(world);
        for index in 0..self.subscriptions.len() {
            match self.subscriptions[index].1 {
                Progress::Leaving(_) => self.unsubscribe(index),
                Progress::Asked(_) => self.subscribe(index),
                Progress::Stands if self.role.insists => self.subscribe(index),
                Progress::No if !self.subscriptions[index].0.passing => self.subscribe(index),
                Progress::No | Progress::Stands => {}
            }
        }
    }
}
