//! Who sent what to whom, what was acknowledged, what arrived: the judge of the storm.
//!
//! It believes no one: a payload names its publisher and number, and the rest of it can be computed from them,
//! so a message that is mixed up, cut or invented is seen.

use std::collections::{HashMap, HashSet};

use crate::support::random::Random;

/// How many clients share a group topic.
pub const GROUP: usize = 8;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// To one client.
    Inbox(usize),
    /// To all clients of a group.
    Group(usize),
    /// To one of a group's persistent clients, by a shared subscription.
    Shared(usize),
}

impl Target {
    /// The Topic Name.
    pub fn topic(self) -> String {
        match self {
            Self::Inbox(index) => format!("storm/inbox/{index}"),
            Self::Group(index) => format!("storm/group/{index}"),
            Self::Shared(index) => format!("storm/shared/{index}"),
        }
    }

    /// What its subscribers subscribe to.
    pub fn filter(self) -> String {
        match self {
            Self::Inbox(_) | Self::Group(_) => self.topic(),
            Self::Shared(_) => format!("$share/storm/{}", self.topic()),
        }
    }

    /// Whose books a delivery goes into: all members of a shared subscription keep one together.
    fn receiver(self, subscriber: usize) -> usize {
        match self {
            Self::Inbox(_) | Self::Group(_) => subscriber,
            Self::Shared(index) => usize::MAX - index,
        }
    }
}

/// One message as its publisher knows it.
struct Sent {
    qos: u8,
    target: Target,
    /// Persistent subscribers whose SUBACK had come before the message was sent.
    owed_to: Vec<usize>,
    acknowledged: bool,
}

/// What one subscriber knows of one publisher's messages of one topic and QoS.
type Flow = (usize, usize, Target, u8);

/// Everything that happened.
#[derive(Default)]
pub struct Ledger {
    sent: Vec<Vec<Sent>>,
    subscribed: HashMap<Target, Vec<usize>>,
    arrived: HashSet<(usize, usize, usize)>,
    newest: HashMap<Flow, usize>,
    /// Deliveries owed: acknowledged, subscriber known, not arrived.
    owed: usize,
    /// Messages of persistent publishers whose exchange is not over.
    in_flight: usize,
    faults: Vec<String>,
    counts: Counts,
}

/// For the summary.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub connections: u64,
    pub takeovers: u64,
    pub sessions_resumed: u64,
    pub cuts_in_half: u64,
    pub arrivals: u64,
    pub doubled_qos_1: u64,
}

impl Ledger {
    pub fn new(clients: usize) -> Self {
        Self { sent: (0..clients).map(|_| Vec::new()).collect(), ..Self::default() }
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.sent.len()
    }

    pub fn count(&mut self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.counts);
    }

    pub fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// The SUBACK of a persistent session has come.
    pub fn subscribed(&mut self, subscriber: usize, target: Target) {
        let receivers = self.subscribed.entry(target).or_default();
        if !receivers.contains(&target.receiver(subscriber)) {
            receivers.push(target.receiver(subscriber));
        }
    }

    /// Takes the next message of a publisher into the books and returns its number and payload. `persistent`:
    /// the publisher will see the exchange through, whatever happens.
    pub fn send(&mut self, publisher: usize, qos: u8, target: Target, persistent: bool) -> (usize, Vec<u8>) {
        let number = self.sent[publisher].len();
        let owed_to = self.subscribed.get(&target).cloned().unwrap_or_default();
        self.sent[publisher].push(Sent { qos, target, owed_to, acknowledged: false });
        if persistent && qos > 0 {
            self.in_flight += 1;
        }
        (number, payload(publisher, number))
    }

    /// PUBACK or PUBCOMP: from now on the broker owes the message to its subscribers.
    pub fn acknowledged(&mut self, publisher: usize, number: usize, persistent: bool) {
        let sent = &mut self.sent[publisher][number];
        if std::mem::replace(&mut sent.acknowledged, true) {
            return self.fault(format!("{publisher}/{number} was acknowledged twice"));
        }
        let missing = sent.owed_to.iter().filter(|to| !self.arrived.contains(&(**to, publisher, number)));
        self.owed += missing.count();
        if persistent {
            self.in_flight -= 1;
        }
    }

    /// A message has come to a subscriber.
    pub fn arrived(&mut self, subscriber: usize, topic: &str, qos: u8, retain: bool, bytes: &[u8]) {
        self.counts.arrivals += 1;
        let Some((publisher, number)) = origin(bytes) else {
            return self.fault(format!("{subscriber} got {} bytes that nobody sent", bytes.len()));
        };
        let Some(sent) = self.sent.get(publisher).and_then(|sent| sent.get(number)) else {
            return self.fault(format!("{subscriber} got {publisher}/{number}, which was never sent"));
        };
        let name = format!("{publisher}/{number} (QoS {}, {:?}) at {subscriber}", sent.qos, sent.target);
        if bytes != payload(publisher, number) {
            return self.fault(format!("{name}: the payload is not what was sent"));
        }
        if topic != sent.target.topic() || qos != sent.qos || retain {
            let fault = format!("{name}: arrived on {topic:?} with QoS {qos}, RETAIN {retain}");
            return self.fault(fault);
        }
        let is_shared = matches!(sent.target, Target::Shared(_));
        let subscriber = sent.target.receiver(subscriber);
        let flow = (subscriber, publisher, sent.target, qos);
        let settles = sent.acknowledged && sent.owed_to.contains(&subscriber);
        if !self.arrived.insert((subscriber, publisher, number)) {
            if qos == 1 {
                self.counts.doubled_qos_1 += 1;
            } else {
                self.fault(format!("{name}: arrived twice"));
            }
            return;
        }
        if settles {
            self.owed -= 1;
        }
        // Each member is served in order, the members together are not.
        if !is_shared
            && let Some(newest) = self.newest.insert(flow, number)
            && newest > number
        {
            self.fault(format!("{name}: arrived after {publisher}/{newest}"));
        }
    }

    /// Nothing is owed, and every exchange is over.
    pub fn is_settled(&self) -> bool {
        self.owed == 0 && self.in_flight == 0
    }

    /// All faults, those of omission included.
    pub fn verdict(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        for (publisher, sent) in self.sent.iter().enumerate() {
            for (number, sent) in sent.iter().enumerate().filter(|(_, sent)| sent.acknowledged) {
                for to in sent.owed_to.iter().filter(|to| !self.arrived.contains(&(**to, publisher, number)))
                {
                    let Sent { qos, target, .. } = sent;
                    let to = if *to < self.clients() { to.to_string() } else { "any member".to_owned() };
                    faults.push(format!("{publisher}/{number} (QoS {qos}, {target:?}) never came to {to}"));
                }
            }
        }
        if self.in_flight > 0 {
            faults.push(format!("{} exchanges never ended", self.in_flight));
        }
        if self.counts.arrivals == 0 {
            faults.push("nothing arrived at all".to_owned());
        }
        faults
    }

    pub fn summary(&self) -> String {
        let by_qos = |qos| self.sent.iter().flatten().filter(|sent| sent.qos == qos).count();
        format!("sent QoS 0/1/2: {}/{}/{}; {:?}", by_qos(0), by_qos(1), by_qos(2), self.counts)
    }
}

/// A payload that can be told by its first eight bytes; now and then a large one.
fn payload(publisher: usize, number: usize) -> Vec<u8> {
    let mut random = Random::new(publisher as u64, number as u64);
    let length = if random.percent(2) { 5_000 + random.below(10_000) } else { 8 + random.below(200) };
    let mut bytes = Vec::with_capacity(length as usize + 8);
    bytes.extend((publisher as u32).to_be_bytes());
    bytes.extend((number as u32).to_be_bytes());
    while bytes.len() < length as usize {
        bytes.extend(random.next().to_be_bytes());
    }
    bytes
}

fn origin(bytes: &[u8]) -> Option<(usize, usize)> {
    let publisher = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let number = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    Some((publisher as usize, number as usize))
}
