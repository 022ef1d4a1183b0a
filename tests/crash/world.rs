//! What all clients share: the books, the clock, what phase it is, and the moment at which the broker is to die.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::ledger::Ledger;
use crate::report::{Faults, Kind, Stamp};
use crate::retained::Retained;

/// What all are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Publishing, coming and going, while the broker is killed.
    Storm,
    /// Nobody publishes, all are there and get what they are owed.
    Calm,
    /// Everyone publishes one last message to every topic.
    Last,
    /// All go.
    Over,
}

/// What a client sees that may be the broker's last deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    ConnAck,
    /// Or UNSUBACK.
    SubAck,
    PubAck,
    PubRec,
    PubComp,
    Publish,
    PubRel,
}

/// All kinds of them.
pub const DEEDS: [Deed; 7] =
    [Deed::ConnAck, Deed::SubAck, Deed::PubAck, Deed::PubRec, Deed::PubComp, Deed::Publish, Deed::PubRel];

/// How a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Away,
    /// Connected, and waiting for an answer.
    Busy,
    /// Connected, and nothing is to come.
    Ready,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub ledger: Ledger,
    pub retained: Retained,
    pub faults: Faults,
    /// And since which round, because a connection may be dead and its client not know it yet.
    pub standings: Vec<(Standing, u32)>,
    pub counts: Counts,
    /// How often the broker has been killed.
    pub round: u32,
    /// When that was.
    pub kills: Vec<Instant>,
    /// When it last began to listen.
    pub ready: Instant,
    /// When it ever did.
    pub starts: Vec<Instant>,
    /// The broker promises the Wills of those who were connected when it was killed.
    pub promises_wills: bool,
    /// Kill it after so many more of these.
    pub last_deed: Option<(Deed, u64)>,
    pub start: Instant,
}

/// For the report.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub connections: u64,
    pub resumed: u64,
    pub begun: u64,
    pub sent_again: u64,
    pub retained_published: u64,
    pub retained_fetched: u64,
    /// That must come, may come, must not come.
    pub wills: [u64; 3],
}

impl World {
    pub fn new(members: Vec<String>, retained: usize) -> Self {
        Self {
            standings: members.iter().map(|_| (Standing::Away, 0)).collect(),
            ledger: Ledger::new(members),
            retained: Retained::new(retained),
            faults: Faults::default(),
            counts: Counts::default(),
            round: 0,
            kills: Vec::new(),
            ready: Instant::now(),
            starts: Vec::new(),
            promises_wills: false,
            last_deed: None,
            start: Instant::now(),
        }
    }

    pub fn now(&self) -> Stamp {
        Stamp { round: self.round, milliseconds: self.start.elapsed().as_millis() as u64 }
    }

    /// The broker is about to be killed.
    pub fn killing(&mut self) {
        self.round += 1;
        self.kills.push(Instant::now());
    }

    /// The broker listens.
    pub fn started(&mut self) {
        self.ready = Instant::now();
        self.starts.push(self.ready);
    }

    pub fn fault(&mut self, kind: Kind, what: String) {
        let at = self.now();
        self.faults.add(kind, at, what);
    }

    /// Everybody is there, every exchange is over, and nothing is owed.
    pub fn is_settled(&mut self) -> bool {
        self.all_are_ready() && self.ledger.is_settled()
    }

    pub fn all_are_ready(&self) -> bool {
        self.standings.iter().all(|standing| *standing == (Standing::Ready, self.round))
    }

    /// Who is not ready, for the report.
    pub fn missing(&self) -> String {
        let names: Vec<_> = self
            .standings
            .iter()
            .enumerate()
            .filter(|(_, standing)| **standing != (Standing::Ready, self.round))
            .map(|(member, (standing, _))| format!("{} ({standing:?})", self.ledger.name(member)))
            .collect();
        names.join(", ")
    }
}

/// A client's hold on it.
#[derive(Clone)]
pub struct Shared {
    pub world: Rc<RefCell<World>>,
    /// Something came.
    pub progress: Rc<Notify>,
    /// The last deed is done.
    pub kill: Rc<Notify>,
    pub phase: watch::Receiver<Phase>,
    pub port: u16,
    /// How long a visitor waits for retained messages.
    pub patience: Duration,
}

impl Shared {
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub fn fault(&self, kind: Kind, what: String) {
        self.world.borrow_mut().fault(kind, what);
    }

    /// The broker has done this.
    pub fn seen(&self, deed: Deed) {
        let mut world = self.world.borrow_mut();
        if let Some((last, more)) = &mut world.last_deed
            && *last == deed
        {
            *more -= 1;
            if *more == 0 {
                world.last_deed = None;
                self.kill.notify_one();
            }
        }
    }
}
