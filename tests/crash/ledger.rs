//! Who sent what, what was acknowledged, who subscribed when, what arrived where: the judge of messages.
//!
//! It believes no one: a payload names its publisher and number, and the rest of it can be computed from them,
//! so a message that is mixed up, cut or invented is seen. What it is told is told in the order in which the
//! clients saw it; they all live in one thread.
//!
//! `histories.rs` shows it histories with one fault each.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::kept::Kept;
use crate::payload::{origin, payload};
use crate::report::{Faults, Kind, Stamp};
use crate::wills::Will;

/// What publishers publish to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Subscribers keep their subscription.
    Plain(usize),
    /// Subscribers come and go with theirs.
    Passing(usize),
    /// The members of a group share it.
    Shared(usize),
    /// Where Wills go.
    Will,
}

impl Topic {
    pub fn name(self) -> String {
        match self {
            Self::Plain(index) => format!("crash/plain/{index}"),
            Self::Passing(index) => format!("crash/passing/{index}"),
            Self::Shared(index) => format!("crash/shared/{index}"),
            Self::Will => "crash/will".to_owned(),
        }
    }

    /// Whose books an arrival goes into: the members of a group keep one together.
    fn receiver(self, member: usize) -> Receiver {
        match self {
            Self::Plain(_) | Self::Passing(_) | Self::Will => Receiver::Member(member),
            Self::Shared(group) => Receiver::Group(group),
        }
    }
}

/// Who is to get a message once (or at least once).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Receiver {
    Member(usize),
    Group(usize),
}

/// A message's place in the books.
pub type MessageIndex = usize;

#[derive(Debug)]
struct Message {
    publisher: usize,
    number: usize,
    qos: u8,
    topic: Topic,
    /// Its publisher's session outlives the connection, so it sees every exchange through.
    resumable: bool,
    sent: Moment,
    again: Vec<Stamp>,
    /// PUBREC, QoS 2.
    received: Option<Stamp>,
    /// PUBACK or PUBCOMP.
    finished: Option<Moment>,
    /// The publisher does not know of it any more.
    forgotten: bool,
    /// It is a Will that must not come.
    withheld: bool,
    /// What a Will's client did.
    decisions: Vec<String>,
    claims: Vec<Claim>,
    arrivals: Vec<Arrival>,
}

/// When, for the report, and in what order, for the judge.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Stamp,
    tick: u64,
}

/// A receiver that had subscribed when the message was sent.
#[derive(Debug)]
struct Claim {
    receiver: Receiver,
    qos: u8,
    state: ClaimState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClaimState {
    Waiting,
    Arrived,
    /// It was waited for long enough.
    GivenUp,
    /// The receiver has ended its subscription or its session, and with it the claim.
    Waived,
}

#[derive(Debug)]
struct Arrival {
    member: usize,
    connection: u32,
    /// Which session of the receiver: a new one knows nothing of what came to the last.
    session: u32,
    at: Stamp,
    dup: bool,
    receiver: Receiver,
}

/// One subscription from SUBSCRIBE to UNSUBACK.
#[derive(Debug)]
struct Interval {
    from: u64,
    to: Option<u64>,
}

#[derive(Debug, Default)]
struct Subscription {
    qos: u8,
    /// SUBACK has come, UNSUBSCRIBE is not sent.
    stands: bool,
    intervals: Vec<Interval>,
}

impl Message {
    /// The broker has answered for it. A broker may hand a QoS 2 message on as late as at PUBREL, so PUBREC
    /// counts only if the publisher will come back to send that.
    fn is_promised(&self) -> bool {
        self.finished.is_some() || self.resumable && self.received.is_some()
    }

    fn is_settled(&self) -> bool {
        let exchange_is_over = self.finished.is_some() || self.forgotten;
        let owed = self.claims.iter().any(|claim| claim.state == ClaimState::Waiting);
        exchange_is_over && !(owed && self.is_promised())
    }
}

/// Order is promised within one of these: receiver, its session, publisher, topic, QoS.
type Flow = (Receiver, u32, usize, Topic, u8);

/// Everything that was sent and received.
#[derive(Debug)]
pub struct Ledger {
    members: Vec<String>,
    /// How large payloads are.
    pub scale: u64,
    tick: u64,
    messages: Vec<Message>,
    by_publisher: Vec<Vec<MessageIndex>>,
    subscriptions: HashMap<(Receiver, Topic), Subscription>,
    sessions: HashMap<Receiver, u32>,
    newest: HashMap<Flow, usize>,
    settled: MessageIndex,
    /// Grows with everything that happens.
    pub events: u64,
    /// QoS 1 messages that came again.
    pub doubled: u64,
    /// Those of them that had no DUP flag, although they had come before in the same session.
    pub doubled_without_dup: u64,
    /// QoS 2 messages that came again to somebody whose session had ended in between.
    pub again_in_a_new_session: u64,
}

impl Ledger {
    /// `members`: the names of all clients.
    pub fn new(members: Vec<String>) -> Self {
        Self {
            scale: 1,
            tick: 0,
            messages: Vec::new(),
            by_publisher: members.iter().map(|_| Vec::new()).collect(),
            members,
            subscriptions: HashMap::new(),
            sessions: HashMap::new(),
            newest: HashMap::new(),
            settled: 0,
            events: 0,
            doubled: 0,
            doubled_without_dup: 0,
            again_in_a_new_session: 0,
        }
    }

    /// A client's name.
    pub fn name(&self, member: usize) -> &str {
        &self.members[member]
    }

    /// A Will may not be large.
    fn scale(&self, topic: Topic) -> u64 {
        if topic == Topic::Will { 1 } else { self.scale }
    }

    fn next_tick(&mut self) -> u64 {
        self.events += 1;
        self.tick += 1;
        self.tick
    }

    // --- publishing

    /// Takes the next message of a publisher into the books; returns its place and its payload.
    pub fn send(
        &mut self,
        at: Stamp,
        publisher: usize,
        topic: Topic,
        qos: u8,
        resumable: bool,
    ) -> (MessageIndex, Vec<u8>) {
        let sent = Moment { at, tick: self.next_tick() };
        let number = self.by_publisher[publisher].len();
        let mut claims: Vec<_> = self
            .subscriptions
            .iter()
            .filter(|((_, of), subscription)| *of == topic && subscription.stands)
            .map(|((receiver, _), subscription)| Claim {
                receiver: *receiver,
                qos: subscription.qos.min(qos),
                state: ClaimState::Waiting,
            })
            .collect();
        claims.sort_by_key(|claim| claim.receiver);
        let index = self.messages.len();
        self.messages.push(Message {
            publisher,
            number,
            qos,
            topic,
            resumable,
            sent,
            again: Vec::new(),
            received: None,
            finished: None,
            forgotten: false,
            withheld: false,
            decisions: Vec::new(),
            claims,
            arrivals: Vec::new(),
        });
        self.by_publisher[publisher].push(index);
        (index, payload(publisher, number, self.scale(topic)))
    }

    /// It was sent again, with DUP.
    pub fn sent_again(&mut self, at: Stamp, message: MessageIndex) {
        self.messages[message].again.push(at);
    }

    /// PUBACK or PUBREC; true if it was a PUBACK.
    pub fn acknowledged(&mut self, at: Stamp, message: MessageIndex) -> bool {
        let is_puback = self.messages[message].qos == 1;
        if is_puback {
            self.completed(at, message);
        } else {
            self.messages[message].received = Some(at);
        }
        is_puback
    }

    /// PUBACK or PUBCOMP.
    pub fn completed(&mut self, at: Stamp, message: MessageIndex) {
        let tick = self.next_tick();
        self.messages[message].finished = Some(Moment { at, tick });
    }

    /// The broker has refused it, and so it is over.
    pub fn rejected(&mut self, message: MessageIndex) {
        self.messages[message].forgotten = true;
    }

    /// The publisher's session is gone, and with it what it had in flight.
    pub fn publisher_forgot(&mut self, publisher: usize) {
        for &index in self.by_publisher[publisher].iter().rev() {
            let message = &mut self.messages[index];
            if message.forgotten {
                break;
            }
            message.forgotten |= message.finished.is_none();
        }
    }

    /// What is to become of a Will, as far as is known now.
    /// `why`, for the report.
    pub fn decide(&mut self, at: Stamp, index: MessageIndex, will: Will, why: &str, faults: &mut Faults) {
        if will == Will::Must {
            self.completed(at, index);
        }
        let message = &mut self.messages[index];
        message.forgotten = will != Will::Must;
        message.withheld = will == Will::MustNot;
        message.decisions.push(format!("{will:?} {at}: {why}"));
        if message.withheld && !message.arrivals.is_empty() {
            faults.add(
                Kind::Will,
                at,
                format!(
                    "{}
    had to come to nobody",
                    self.describe(index)
                ),
            );
        }
    }

    // --- subscribing

    fn subscription(&mut self, member: usize, topic: Topic) -> &mut Subscription {
        self.subscriptions.entry((topic.receiver(member), topic)).or_default()
    }

    /// SUBSCRIBE is sent. Messages may come before SUBACK.
    pub fn subscribing(&mut self, member: usize, topic: Topic, qos: u8) {
        let from = self.next_tick();
        let subscription = self.subscription(member, topic);
        subscription.qos = qos;
        if subscription.intervals.last().is_none_or(|last| last.to.is_some()) {
            subscription.intervals.push(Interval { from, to: None });
        }
    }

    /// SUBACK of a session that outlives its connection: from now on the broker owes it what is sent.
    pub fn subscribed(&mut self, member: usize, topic: Topic) {
        self.subscription(member, topic).stands = true;
    }

    /// UNSUBSCRIBE is sent: what has not arrived yet may come or not.
    pub fn unsubscribing(&mut self, member: usize, topic: Topic) {
        self.subscription(member, topic).stands = false;
        self.waive(|claim_topic, receiver| claim_topic == topic && receiver == Receiver::Member(member));
    }

    /// UNSUBACK: what is sent from now on must not come.
    pub fn unsubscribed(&mut self, member: usize, topic: Topic) {
        let tick = self.next_tick();
        if let Some(last) = self.subscription(member, topic).intervals.last_mut() {
            last.to = Some(tick);
        }
    }

    /// The subscriber's session has ended because it asked for that.
    pub fn began_afresh(&mut self, member: usize) {
        self.session_lost(member);
        self.waive(|_, receiver| receiver == Receiver::Member(member));
    }

    /// The subscriber's session has ended although it did not ask for that: what was owed stays owed.
    pub fn session_lost(&mut self, member: usize) {
        let receiver = Receiver::Member(member);
        self.subscriptions.retain(|(of, _), _| *of != receiver);
        *self.sessions.entry(receiver).or_default() += 1;
    }

    fn waive(&mut self, applies: impl Fn(Topic, Receiver) -> bool) {
        // What is settled has no claims to waive.
        for message in &mut self.messages[self.settled..] {
            for claim in &mut message.claims {
                if claim.state == ClaimState::Waiting && applies(message.topic, claim.receiver) {
                    claim.state = ClaimState::Waived;
                }
            }
        }
    }

    // --- arriving

    /// A message has come to a subscriber over its connection of this number.
    pub fn arrived(
        &mut self,
        at: Stamp,
        member: usize,
        connection: u32,
        come: &Come<'_>,
        faults: &mut Faults,
    ) {
        self.events += 1;
        let name = self.name(member).to_owned();
        let found = origin(come.payload)
            .and_then(|(publisher, number)| self.by_publisher.get(publisher)?.get(number).copied());
        let Some(index) = found else {
            let what = format!("{name} got {} bytes on {} that nobody sent", come.payload.len(), come.topic);
            return faults.add(Kind::Corrupt, at, what);
        };
        let message = &self.messages[index];
        let receiver = message.topic.receiver(member);
        let session = self.sessions.get(&receiver).copied().unwrap_or_default();
        let subscription = self.subscriptions.get(&(receiver, message.topic));
        let qos = message.qos.min(subscription.map_or(message.qos, |subscription| subscription.qos));

        let mut wrong = Vec::new();
        if come.payload != payload(message.publisher, message.number, self.scale(message.topic))
            || come.topic != message.topic.name()
            || come.retain
        {
            let Come { topic, payload, retain, .. } = come;
            let fault = format!("arrived on {topic}, {} bytes, RETAIN {retain}", payload.len());
            wrong.push((Kind::Corrupt, fault));
        }
        let ended = message.finished.map_or(u64::MAX, |moment| moment.tick);
        let intervals = subscription.map_or(&[][..], |subscription| &subscription.intervals);
        let asked_for = intervals
            .iter()
            .any(|interval| interval.from <= ended && interval.to.unwrap_or(u64::MAX) >= message.sent.tick);
        if !asked_for {
            wrong.push((Kind::Unasked, format!("came to {name}, who had not subscribed while it was sent")));
        } else if come.qos != qos {
            wrong.push((Kind::Corrupt, format!("came to {name} with QoS {}, not {qos}", come.qos)));
        }

        if message.withheld {
            wrong.push((
                Kind::Will,
                format!("came to {name}: its client is connected, came back or left in peace"),
            ));
        }
        let earlier = message.arrivals.iter().rev().find(|earlier| earlier.receiver == receiver);
        let is_first = earlier.is_none();
        if let Some(earlier) = earlier {
            let in_this_session = earlier.session == session;
            let on_this_connection = earlier.member == member && earlier.connection == connection;
            match qos {
                2 if in_this_session => wrong.push((Kind::Twice, format!("came again, to {name}"))),
                2 => self.again_in_a_new_session += 1,
                _ => {
                    self.doubled += 1;
                    let to_the_same = in_this_session && earlier.member == member;
                    self.doubled_without_dup +=
                        u64::from(to_the_same && !come.dup && message.again.is_empty());
                    if on_this_connection && message.again.is_empty() {
                        let fault = format!("came again to {name}, on one connection and sent only once");
                        wrong.push((Kind::Twice, fault));
                    }
                }
            }
        }

        let has_claim = message.claims.iter().any(|claim| claim.receiver == receiver);
        // The members of a group are served in order each, but not together. And a message sent before SUBACK
        // may be sent on before or after those that follow it, if it is sent again.
        if is_first && has_claim && matches!(receiver, Receiver::Member(_)) {
            let flow = (receiver, session, message.publisher, message.topic, message.qos);
            let newest = self.newest.entry(flow).or_insert(message.number);
            if *newest > message.number {
                let fault = format!("came to {name} after {}/{newest}", self.members[message.publisher]);
                wrong.push((Kind::OutOfOrder, fault));
            }
            *newest = message.number.max(*newest);
        }

        let message = &mut self.messages[index];
        message.arrivals.push(Arrival { member, connection, session, at, dup: come.dup, receiver });
        for claim in message.claims.iter_mut().filter(|claim| claim.receiver == receiver) {
            claim.state = ClaimState::Arrived;
        }
        for (kind, what) in wrong {
            faults.add(kind, at, format!("{}\n    {what}", self.describe(index)));
        }
    }

    // --- judging

    /// Every exchange is over, and nothing is owed.
    pub fn is_settled(&mut self) -> bool {
        while self.messages.get(self.settled).is_some_and(Message::is_settled) {
            self.settled += 1;
        }
        self.settled == self.messages.len()
    }

    /// Nothing more will come.
    pub fn give_up(&mut self) {
        for message in &mut self.messages[self.settled..] {
            for claim in message.claims.iter_mut().filter(|claim| claim.state == ClaimState::Waiting) {
                claim.state = ClaimState::GivenUp;
            }
        }
    }

    /// The faults of omission, and how many promises there were to keep.
    pub fn judge(&self, at: Stamp, faults: &mut Faults) -> Kept {
        let mut kept = Kept::default();
        for (index, message) in self.messages.iter().enumerate() {
            if message.resumable && message.finished.is_none() && !message.forgotten {
                faults.add(Kind::Unfinished, at, self.describe(index));
            }
            if !message.is_promised() {
                continue;
            }
            for claim in &message.claims {
                let row = kept.row(claim.receiver, claim.qos);
                match claim.state {
                    ClaimState::Waived => {}
                    ClaimState::Arrived => row.promised += 1,
                    ClaimState::Waiting | ClaimState::GivenUp => {
                        row.promised += 1;
                        row.lost += 1;
                        let receiver = self.receiver_name(claim.receiver);
                        let what = format!("{}\n    never came to {receiver}", self.describe(index));
                        let is_will = message.topic == Topic::Will;
                        faults.add(if is_will { Kind::Will } else { Kind::Lost }, at, what);
                    }
                }
            }
        }
        kept
    }

    /// How many messages there were.
    pub fn sent(&self) -> usize {
        self.messages.len()
    }

    /// How many of them came to anybody, counting every time.
    pub fn arrivals(&self) -> usize {
        self.messages.iter().map(|message| message.arrivals.len()).sum()
    }

    fn receiver_name(&self, receiver: Receiver) -> String {
        match receiver {
            Receiver::Member(member) => self.members[member].clone(),
            Receiver::Group(group) => format!("any member of group {group}"),
        }
    }

    /// The life of a message.
    fn describe(&self, index: MessageIndex) -> String {
        let message = &self.messages[index];
        let Message { number, qos, topic, sent, .. } = message;
        let mut text = format!(
            "{}/{number} (QoS {qos}, {}): sent {}",
            self.members[message.publisher],
            topic.name(),
            sent.at
        );
        for again in &message.again {
            let _ = write!(text, ", again {again}");
        }
        if let Some(received) = message.received {
            let _ = write!(text, ", PUBREC {received}");
        }
        match (message.finished, message.forgotten) {
            (Some(finished), _) => {
                let packet = if *qos == 1 { "PUBACK" } else { "PUBCOMP" };
                let _ = write!(text, ", {packet} {}", finished.at);
            }
            (None, true) => text.push_str(", then its publisher's session ended"),
            (None, false) => text.push_str(", exchange not over"),
        }
        for decision in &message.decisions {
            let _ = write!(text, "\n    {decision}");
        }
        for arrival in &message.arrivals {
            let dup = if arrival.dup { " with DUP" } else { "" };
            let Arrival { member, connection, at, .. } = arrival;
            let _ = write!(text, "\n    at {} {at}{dup}, connection {connection}", self.members[*member]);
        }
        text
    }
}

/// A PUBLISH as a subscriber sees it.
#[derive(Debug)]
pub struct Come<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
}
