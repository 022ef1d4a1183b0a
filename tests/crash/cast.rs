//! Who takes part: every kind of client that there is a promise for.

use std::time::Duration;

use crate::ledger::Topic;
use crate::sessions::Lifetime;
use crate::support::light::Version;

/// Plain topics, to which every publisher publishes.
pub const PLAIN: usize = 4;
/// Topics to which subscriptions come and go.
pub const PASSING: usize = 2;
/// Shared groups, each with a topic of its own.
pub const SHARED: usize = 2;
/// Retained topics.
pub const RETAINED: usize = 8;

/// When a client is connected while the broker is being killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Steady,
    /// For a second or so, and then away for as long.
    ComesAndGoes,
    /// For half a second in ten.
    Rare,
}

/// A subscription somebody holds.
#[derive(Debug, Clone)]
pub struct Wish {
    pub filter: String,
    pub topics: Vec<Topic>,
    pub qos: u8,
    /// It is ended and made again all the time.
    pub passing: bool,
}

/// One client.
#[derive(Debug, Clone)]
pub struct Role {
    pub name: String,
    pub version: Version,
    pub lifetime: Lifetime,
    pub presence: Presence,
    pub wishes: Vec<Wish>,
    /// Publishes to plain, passing and shared topics.
    pub publishes: bool,
    /// Publishes to these retained topics.
    pub retains: Vec<usize>,
    pub receive_maximum: Option<u16>,
    /// Keeps its answers back for some milliseconds, so that more is in flight.
    pub lazy: bool,
    /// Subscribes once more whenever it connects, as many clients do.
    pub insists: bool,
    /// Has a Will with this delay in seconds.
    pub will: Option<u32>,
    /// Begins a new session now and then, by a clean start; in 3.1.1 that one ends with its connection.
    pub begins_afresh: bool,
}

impl Role {
    fn new(name: &str, version: Version) -> Self {
        Self {
            name: name.to_owned(),
            version,
            lifetime: Lifetime::Lasting,
            presence: Presence::Steady,
            wishes: Vec::new(),
            publishes: false,
            retains: Vec::new(),
            receive_maximum: None,
            lazy: false,
            insists: false,
            will: None,
            begins_afresh: false,
        }
    }

    fn comes_and_goes(self) -> Self {
        Self { presence: Presence::ComesAndGoes, ..self }
    }

    fn rare(self) -> Self {
        Self { presence: Presence::Rare, ..self }
    }

    fn lives(self, lifetime: Lifetime) -> Self {
        Self { lifetime, ..self }
    }

    fn publishes(self) -> Self {
        Self { publishes: true, ..self }
    }

    fn retains(self, remainder: usize) -> Self {
        Self { retains: (0..RETAINED).filter(|topic| topic % 2 == remainder).collect(), ..self }
    }

    fn lazy(self) -> Self {
        Self { lazy: true, ..self }
    }

    fn receives_at_most(self, receive_maximum: u16) -> Self {
        Self { receive_maximum: Some(receive_maximum), ..self }
    }

    fn wants(mut self, filter: &str, topics: Vec<Topic>, qos: u8, passing: bool) -> Self {
        self.wishes.push(Wish { filter: filter.to_owned(), topics, qos, passing });
        self
    }

    fn wants_plain(self, filter: &str, qos: u8) -> Self {
        self.wants(filter, (0..PLAIN).map(Topic::Plain).collect(), qos, false)
    }

    fn wants_wills(self) -> Self {
        self.wants(&Topic::Will.name(), vec![Topic::Will], 2, false)
    }

    fn dies(self, delay: u32) -> Self {
        Self { will: Some(delay), ..self }.comes_and_goes()
    }

    fn wants_passing(mut self, qos: u8) -> Self {
        for topic in (0..PASSING).map(Topic::Passing) {
            self = self.wants(&topic.name(), vec![topic], qos, true);
        }
        self
    }

    fn wants_shared(mut self, qos: u8) -> Self {
        for topic in (0..SHARED).map(Topic::Shared) {
            self = self.wants(&format!("$share/crash/{}", topic.name()), vec![topic], qos, false);
        }
        self
    }
}

/// All of them; `only`: those who speak this.
pub fn cast(only: Option<Version>) -> Vec<Role> {
    use Version::{V3_1_1, V5};
    let brief = Lifetime::Brief(Duration::from_secs(2));
    let all = vec![
        Role::new("publisher-steady-5", V5).publishes(),
        Role::new("publisher-steady-3", V3_1_1).publishes(),
        Role::new("publisher-moving-5", V5).publishes().comes_and_goes().wants_plain("crash/plain/#", 2),
        Role::new("publisher-moving-3", V3_1_1).publishes().comes_and_goes(),
        Role::new("publisher-clean-5", V5).publishes().lives(Lifetime::Connection),
        Role::new("publisher-clean-3", V3_1_1).publishes().lives(Lifetime::Connection).comes_and_goes(),
        Role::new("steady-5", V5).wants_plain("crash/plain/#", 2).wants_wills(),
        Role::new("steady-3-qos-1", V3_1_1).wants_plain("crash/plain/+", 1).lazy(),
        Role::new("moving-3", V3_1_1).wants_plain("crash/plain/+", 2).wants_wills().comes_and_goes().lazy(),
        Role::new("moving-5-qos-1", V5).wants_plain("crash/plain/#", 1).comes_and_goes().receives_at_most(5),
        Role::new("rare-3", V3_1_1).wants_plain("crash/plain/#", 2).rare(),
        Role::new("rare-5", V5).wants_plain("crash/plain/#", 2).rare().receives_at_most(20),
        Role { insists: true, ..Role::new("insists-5", V5).wants_plain("crash/plain/#", 2).lazy() },
        Role::new("clean-5", V5).lives(Lifetime::Connection).wants_plain("crash/plain/#", 2),
        Role::new("clean-3", V3_1_1).lives(Lifetime::Connection).wants_plain("crash/plain/+", 1),
        Role::new("passing-5", V5).wants_passing(2),
        Role::new("passing-3", V3_1_1).wants_passing(2).comes_and_goes(),
        Role { begins_afresh: true, ..Role::new("afresh-5", V5).wants_plain("crash/plain/#", 2) }
            .comes_and_goes(),
        Role { begins_afresh: true, ..Role::new("afresh-3", V3_1_1).wants_plain("crash/plain/#", 2) }
            .comes_and_goes(),
        Role::new("brief-5", V5)
            .lives(brief)
            .wants("crash/plain/0", vec![Topic::Plain(0)], 1, false)
            .comes_and_goes(),
        Role::new("member-5", V5).wants_shared(2).lazy(),
        Role::new("member-3", V3_1_1).wants_shared(2).comes_and_goes(),
        Role::new("member-5-narrow", V5).wants_shared(2).comes_and_goes().receives_at_most(3).lazy(),
        Role::new("mortal-5-a", V5).dies(3),
        Role::new("mortal-5-b", V5).dies(3),
        Role::new("mortal-5-c", V5).dies(2),
        Role::new("mortal-3", V3_1_1).dies(0),
        Role::new("retains-5", V5).retains(0),
        Role::new("retains-3", V3_1_1).retains(1).comes_and_goes(),
    ];
    all.into_iter().filter(|role| only.is_none_or(|version| role.version == version)).collect()
}
