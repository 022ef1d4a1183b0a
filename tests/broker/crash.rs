//! What is acknowledged survives: a broker that crashes at any moment, and clients that keep their own state.
//!
//! Everything happens in one thread, from one seed, which is printed when something is wrong; FULMAR_SEED repeats it. The
//! store is a twin that commits only now and then, so most crashes lose something that was not acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fulmar::codec::{AckKind, PacketId, QoS};
use fulmar::session::Acknowledged;
use fulmar::store::{CommitSeq, Store};

use crate::bench::{Bench, Guest, Party, Q1, Q2};
use crate::random::Random;
use crate::twin::Twin;

const PUBLISHERS: usize = 2;
const TOPICS: [&str; 2] = ["t/0", "t/1"];

/// A publisher with a session, and what it remembers of its messages.
#[derive(Default)]
struct Publisher {
    party: Option<Party>,
    next_id: u16,
    /// Not acknowledged in full yet, in order.
    outgoing: Vec<Outgoing>,
    /// Acknowledgements on their way, in order, and what they wait for.
    coming: VecDeque<(CommitSeq, AckKind, PacketId)>,
    published: u32,
}

struct Outgoing {
    id: PacketId,
    qos: QoS,
    topic: &'static str,
    payload: String,
    released: bool,
}

/// A subscriber with a session.
struct Subscriber {
    name: String,
    filter: &'static str,
    qos: QoS,
    party: Option<Party>,
    /// Its subscription was acknowledged, so its session must be there.
    is_settled: bool,
    /// The SUBACK waits for this.
    subscribed: CommitSeq,
    /// QoS 2 identifiers received and not released.
    received: BTreeSet<PacketId>,
    /// Got, not acknowledged yet.
    owed: VecDeque<(AckKind, PacketId)>,
    /// PUBRELs on their way.
    coming: VecDeque<(CommitSeq, PacketId)>,
    /// What it was given.
    got: Vec<(String, QoS)>,
}

struct Life {
    bench: Bench,
    twin: Arc<Twin>,
    random: Random,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let twin = Twin::new();
        let mut random = Random::new(seed, 0);
        let in_memory = random.below(4) as usize;
        let window = 1 + random.below(8) as u16;
        let bench = Bench::with_store(twin.clone(), |settings| {
            settings.session.queue.in_memory = in_memory;
            settings.session.max_inflight = window;
        });
        let subscriber = |name: &str, filter, qos| Subscriber {
            name: name.to_owned(),
            filter,
            qos,
            party: None,
            is_settled: false,
            subscribed: CommitSeq::default(),
            received: BTreeSet::new(),
            owed: VecDeque::new(),
            coming: VecDeque::new(),
            got: Vec::new(),
        };
        let subscribers = vec![
            subscriber("exactly", "t/#", Q2),
            subscriber("at-least", "t/#", Q1),
            subscriber("member-0", "$share/g/t/#", Q2),
            subscriber("member-1", "$share/g/t/#", Q2),
        ];
        let publishers = (0..PUBLISHERS).map(|_| Publisher::default()).collect();
        let mut life = Self { bench, twin, random, publishers, subscribers };
        // Subscriptions stand before anything is published.
        for index in 0..life.subscribers.len() {
            life.connect_subscriber(index);
            life.twin.commit();
            life.settle_subscriber(index);
            assert!(life.subscribers[index].is_settled);
        }
        life
    }

    fn connect_publisher(&mut self, index: usize) {
        let party = self.bench.connect(&Guest::staying(format!("publisher-{index}")));
        let publisher = &mut self.publishers[index];
        publisher.coming.clear();
        publisher.party = Some(party);
        // What is not acknowledged is sent again, in order.
        for position in 0..publisher.outgoing.len() {
            self.send(index, position);
        }
    }

    fn send(&mut self, index: usize, position: usize) {
        let publisher = &mut self.publishers[index];
        let Some(party) = &publisher.party else { return };
        let outgoing = &publisher.outgoing[position];
        let id = outgoing.id;
        if outgoing.released {
            let (_, sequence) = party.answer_to(AckKind::PubRel, id);
            publisher.coming.push_back((sequence, AckKind::PubComp, id));
        } else {
            let sequence = party.publish(outgoing.topic, &outgoing.payload, outgoing.qos, id, self.bench.now);
            let kind = if outgoing.qos == Q2 { AckKind::PubRec } else { AckKind::PubAck };
            publisher.coming.push_back((sequence, kind, id));
        }
    }

    fn publish(&mut self, index: usize) {
        let is_second = self.random.percent(50);
        let topic = TOPICS[self.random.below(2) as usize];
        let publisher = &mut self.publishers[index];
        if publisher.party.is_none() || publisher.outgoing.len() >= 6 {
            return;
        }
        publisher.next_id += 1;
        publisher.published += 1;
        let qos = if is_second { Q2 } else { Q1 };
        publisher.outgoing.push(Outgoing {
            id: PacketId::new(publisher.next_id).unwrap(),
            qos,
            topic,
            payload: format!("{index}:{}", publisher.published),
            released: false,
        });
        let last = publisher.outgoing.len() - 1;
        self.send(index, last);
    }

    /// The next acknowledgement reaches a publisher, if it is committed.
    fn hear(&mut self, index: usize) -> bool {
        let committed = self.twin.committed();
        let publisher = &mut self.publishers[index];
        let Some((_, kind, id)) = publisher.coming.pop_front_if(|(sequence, ..)| *sequence <= committed)
        else {
            return false;
        };
        let position = publisher.outgoing.iter().position(|outgoing| outgoing.id == id);
        let Some(position) = position else { return true };
        if kind == AckKind::PubRec {
            if !std::mem::replace(&mut publisher.outgoing[position].released, true) {
                self.send(index, position);
            }
        } else {
            publisher.outgoing.remove(position);
        }
        true
    }

    fn connect_subscriber(&mut self, index: usize) {
        let window = 1 + self.random.below(5) as u16;
        let subscriber = &mut self.subscribers[index];
        let mut party = self.bench.connect(&Guest::staying(subscriber.name.as_str()).window(window));
        if subscriber.is_settled {
            assert!(party.session_present, "{}'s session is there", subscriber.name);
        } else {
            party.subscribe(subscriber.filter, subscriber.qos);
            subscriber.subscribed = self.bench.broker.store.appended();
        }
        subscriber.owed.clear();
        subscriber.coming.clear();
        subscriber.party = Some(party);
    }

    fn settle_subscriber(&mut self, index: usize) {
        let committed = self.twin.committed();
        let subscriber = &mut self.subscribers[index];
        subscriber.is_settled |= subscriber.party.is_some() && subscriber.subscribed <= committed;
    }

    /// A subscriber reads what is there.
    fn read(&mut self, index: usize) -> bool {
        let now = self.bench.now;
        let subscriber = &mut self.subscribers[index];
        let Some(party) = &mut subscriber.party else { return false };
        let mut heard = false;
        for got in party.poll(now) {
            heard = true;
            let id = got.packet_id.expect("QoS 1 or 2");
            if got.qos == Q2 {
                if subscriber.received.insert(id) {
                    subscriber.got.push((got.text(), got.qos));
                }
                subscriber.owed.push_back((AckKind::PubRec, id));
            } else {
                subscriber.got.push((got.text(), got.qos));
                subscriber.owed.push_back((AckKind::PubAck, id));
            }
        }
        for id in std::mem::take(&mut party.released) {
            heard = true;
            subscriber.received.remove(&id);
            subscriber.owed.push_back((AckKind::PubComp, id));
        }
        let committed = self.twin.committed();
        while let Some((_, id)) = subscriber.coming.pop_front_if(|(sequence, _)| *sequence <= committed) {
            heard = true;
            subscriber.received.remove(&id);
            subscriber.owed.push_back((AckKind::PubComp, id));
        }
        heard
    }

    /// A subscriber acknowledges the next message.
    fn acknowledge(&mut self, index: usize) -> bool {
        let subscriber = &mut self.subscribers[index];
        let Some(party) = &subscriber.party else { return false };
        let Some((kind, id)) = subscriber.owed.pop_front() else { return false };
        let (answer, sequence) = party.answer_to(kind, id);
        if let Acknowledged::Answer(AckKind::PubRel, id, _) = answer {
            subscriber.coming.push_back((sequence, id));
        }
        true
    }

    fn cut(&mut self, subscriber: bool, index: usize) {
        let now = self.bench.now;
        let party = match subscriber {
            true => self.subscribers[index].party.take(),
            false => self.publishers[index].party.take(),
        };
        party.into_iter().for_each(|party| party.cut(now));
        match subscriber {
            true => {
                self.subscribers[index].coming.clear();
                self.subscribers[index].owed.clear();
            }
            false => self.publishers[index].coming.clear(),
        }
    }

    fn crash(&mut self) {
        let (twin, recovered) = self.twin.crash();
        // What was on its way is lost with the connections.
        for publisher in &mut self.publishers {
            publisher.party = None;
            publisher.coming.clear();
        }
        for subscriber in &mut self.subscribers {
            subscriber.party = None;
            subscriber.coming.clear();
            subscriber.owed.clear();
        }
        self.bench.restart(twin.clone(), recovered);
        self.twin = twin;
    }

    fn step(&mut self) {
        let publisher = self.random.below(PUBLISHERS as u64) as usize;
        let subscriber = self.random.below(self.subscribers.len() as u64) as usize;
        match self.random.below(100) {
            0 => self.crash(),
            1..4 => self.cut(true, subscriber),
            4..6 => self.cut(false, publisher),
            6..14 if self.subscribers[subscriber].party.is_none() => self.connect_subscriber(subscriber),
            14..22 if self.publishers[publisher].party.is_none() => self.connect_publisher(publisher),
            22..32 => self.twin.commit(),
            32..50 => self.publish(publisher),
            50..65 => _ = self.hear(publisher),
            65..82 => _ = self.read(subscriber),
            _ => _ = self.acknowledge(subscriber),
        }
    }

    /// Faults end: everyone is connected and everything is committed until nothing moves any more.
    fn heal(&mut self) {
        for index in 0..self.publishers.len() {
            if self.publishers[index].party.is_none() {
                self.connect_publisher(index);
            }
        }
        for index in 0..self.subscribers.len() {
            if self.subscribers[index].party.is_none() {
                self.connect_subscriber(index);
            }
        }
        let mut idle = 0;
        let mut rounds = 0;
        while idle < 3 {
            rounds += 1;
            assert!(rounds < 10_000, "it comes to rest");
            self.twin.commit();
            let mut moved = false;
            for index in 0..self.publishers.len() {
                while self.hear(index) {
                    moved = true;
                }
            }
            for index in 0..self.subscribers.len() {
                moved |= self.read(index);
                while self.acknowledge(index) {
                    moved = true;
                }
            }
            moved |= self.twin.has_uncommitted();
            idle = if moved { 0 } else { idle + 1 };
        }
    }

    fn check(&self) {
        let expected: BTreeSet<String> = (0..PUBLISHERS)
            .flat_map(|index| {
                (1..=self.publishers[index].published).map(move |number| format!("{index}:{number}"))
            })
            .collect();
        for publisher in &self.publishers {
            assert!(publisher.outgoing.is_empty(), "everything is acknowledged");
        }
        let all = |subscriber: &Subscriber| subscriber.got.clone();
        let exactly = all(&self.subscribers[0]);
        let at_least = all(&self.subscribers[1]);
        let mut group = all(&self.subscribers[2]);
        group.extend(all(&self.subscribers[3]));
        for (name, got) in [("exactly", &exactly), ("at-least", &at_least), ("group", &group)] {
            let distinct: BTreeSet<String> = got.iter().map(|(text, _)| text.clone()).collect();
            let lost: Vec<_> = expected.difference(&distinct).collect();
            assert!(lost.is_empty(), "{name} has lost {lost:?}");
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            for (text, _) in got.iter().filter(|(_, qos)| *qos == Q2) {
                *counts.entry(text).or_default() += 1;
            }
            let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
            assert!(twice.is_empty(), "{name} got these more than once with QoS 2: {twice:?}");
        }
        // In order, per publisher and QoS; QoS 1 as it first came.
        for (name, got) in [("exactly", &exactly), ("at-least", &at_least)] {
            let mut seen = BTreeSet::new();
            let mut last: BTreeMap<(String, QoS), u32> = BTreeMap::new();
            for (text, qos) in got.iter().filter(|(text, _)| seen.insert(text.clone())) {
                let (publisher, number) = text.split_once(':').unwrap();
                let number: u32 = number.parse().unwrap();
                let last = last.entry((publisher.to_owned(), *qos)).or_default();
                // The QoS 1 subscriber gets both kinds with QoS 1, which its publisher may send again out of turn.
                assert!(number > *last || name == "at-least", "{name}: {text} came behind {last}");
                *last = number.max(*last);
            }
        }
        assert!(self.twin.is_empty_of_rows(), "nothing is left in the store");
        for subscriber in &self.subscribers {
            let state = subscriber.party.as_ref().unwrap().handle.lock();
            assert_eq!((state.session.in_flight(), state.session.queued()), (0, 0), "{}", subscriber.name);
        }
    }
}

#[test]
fn what_is_acknowledged_survives_any_crash() {
    let given: Option<u64> = std::env::var("FULMAR_SEED").ok().map(|seed| seed.parse().unwrap());
    let lives: u64 = std::env::var("FULMAR_LIVES").ok().map_or(40, |lives| lives.parse().unwrap());
    let seeds = given.map_or(0..lives, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut life = Life::new(seed);
            for _ in 0..600 {
                life.step();
            }
            life.heal();
            life.check();
        });
        if outcome.is_err() {
            panic!("once more with FULMAR_SEED={seed}");
        }
    }
}
