//! One trial: the broker, the clients, the kills, the calm after them, and the verdict.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::Broker;
use crate::cast::{RETAINED, cast};
use crate::member::Member;
use crate::report::{Faults, Kind};
use crate::support::light::Version;
use crate::support::random::Random;
use crate::world::{DEEDS, Deed, Phase, Shared, Standing, World};
use crate::{setting, visitor};

/// How long all may take, once the kills are over, while nothing comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long they may take in all.
const CALM: Duration = Duration::from_secs(120);

/// How long the storm lasts if nobody is killed.
const STORM_WITHOUT_KILLS: Duration = Duration::from_secs(3);

/// A deed that is waited for may not come.
const LONGEST_ROUND: Duration = Duration::from_millis(2_500);

/// What to do to a broker.
pub struct Trial {
    seed: u64,
    kills: u64,
    random: Random,
    version: Option<Version>,
    pace: Duration,
    patience: Duration,
    round: Option<Duration>,
}

/// What came of it.
pub struct Verdict {
    seed: u64,
    pub faults: Faults,
    pub table: String,
}

impl Verdict {
    /// Panics with everything that is known if there was a fault.
    pub fn must_pass(self) {
        let Self { seed, faults, table } = self;
        assert!(faults.is_empty(), "FULMAR_CRASH_SEED={seed}\n{table}\n{faults}");
    }
}

impl Trial {
    pub fn new(seed: u64, kills: u64) -> Self {
        let version = std::env::var("FULMAR_CRASH_VERSION").ok().map(|text| match text.as_str() {
            "3.1.1" => Version::V3_1_1,
            "5.0" => Version::V5,
            _ => panic!("FULMAR_CRASH_VERSION={text}: 3.1.1 or 5.0 is expected"),
        });
        let pace = Duration::from_secs(1) / setting("FULMAR_CRASH_RATE").unwrap_or(60) as u32;
        // A message is one or two, now and then a burst.
        let pace = pace.mul_f64(1.95);
        Self {
            seed,
            kills,
            random: Random::new(seed, u64::MAX),
            version,
            pace,
            patience: PATIENCE,
            round: None,
        }
    }

    /// How long to wait, once the kills are over, while nothing comes.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Every round lasts as long, and the moment of the kill is not sought.
    pub fn rounds_of(self, round: Duration) -> Self {
        Self { round: Some(round), ..self }
    }

    /// The trial of this broker, which is not running yet.
    pub fn of(mut self, broker: Broker) -> Verdict {
        println!("FULMAR_CRASH_SEED={}: {}, to be killed {} times", self.seed, broker.name(), self.kills);
        let name = broker.name().to_owned();
        let mut roles = cast(self.version);
        if std::env::var("FULMAR_CRASH_RECEIVE_MAXIMUM").is_ok_and(|text| text == "off") {
            roles.iter_mut().for_each(|role| role.receive_maximum = None);
        }
        if let Ok(only) = std::env::var("FULMAR_CRASH_ONLY") {
            roles.retain(|role| only.split(',').any(|part| role.name.contains(part)));
        }
        let names = roles.iter().map(|role| role.name.clone()).collect();
        let world = Rc::new(RefCell::new(World::new(names, RETAINED)));
        world.borrow_mut().promises_wills = broker.is_fulmar();
        world.borrow_mut().ledger.scale = setting("FULMAR_CRASH_SCALE").unwrap_or(1);
        let (phase, phases) = watch::channel(Phase::Storm);
        let shared = Shared {
            world: world.clone(),
            progress: Rc::new(Notify::new()),
            kill: Rc::new(Notify::new()),
            phase: phases,
            port: broker.port(),
            patience: self.patience / 2,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let Some(broker) = start(broker, &shared).await else { return };
            let mut lives = Vec::new();
            for (index, role) in roles.into_iter().enumerate() {
                let member = Member::new(index, role, shared.clone(), self.seed, self.pace);
                lives.push(tokio::task::spawn_local(member.live()));
            }
            let visits = visitor::live(shared.clone(), self.seed, self.version);
            lives.push(tokio::task::spawn_local(visits));
            let broker = self.go(broker, &shared, &phase).await;
            let _ = phase.send(Phase::Over);
            for life in lives {
                if timeout(PATIENCE, life).await.is_err() {
                    shared
                        .fault(Kind::Protocol, format!("a client does not come to its end in {PATIENCE:?}"));
                }
            }
            drop(broker);
        });
        drop(runtime);
        drop(shared);
        let world = Rc::into_inner(world).expect("all clients are gone").into_inner();
        self.verdict(&name, world)
    }

    /// Storm, calm, and the last messages; gives the broker back unless it is past help.
    async fn go(
        &mut self,
        mut broker: Broker,
        shared: &Shared,
        phase: &watch::Sender<Phase>,
    ) -> Option<Broker> {
        for _ in 0..self.kills {
            self.wait_for_the_moment(shared).await;
            broker = self.kill(broker, shared, true).await?;
        }
        if self.kills == 0 {
            sleep(STORM_WITHOUT_KILLS).await;
        }
        let _ = phase.send(Phase::Calm);
        settle(&mut broker, shared, self.patience, "after the storm").await;
        if self.kills > 0 {
            broker = self.kill(broker, shared, false).await?;
            settle(&mut broker, shared, self.patience, "after the kill at rest").await;
        }
        for (standing, _) in &mut shared.world.borrow_mut().standings {
            *standing = Standing::Busy;
        }
        let _ = phase.send(Phase::Last);
        settle(&mut broker, shared, self.patience, "after the last messages").await;
        // Nothing announces that nothing comes any more.
        sleep(Duration::from_millis(500)).await;
        if !visitor::visit(shared, 0, self.version.unwrap_or(Version::V5)).await {
            shared.fault(Kind::Protocol, "the last visitor's connection broke".to_owned());
        }
        Some(broker)
    }

    /// The moment to kill it: any, or soon after its start, or right after it has done something.
    async fn wait_for_the_moment(&mut self, shared: &Shared) {
        if let Some(round) = self.round {
            return sleep(round).await;
        }
        let any = self.random.below(1_500);
        match self.random.below(10) {
            0..=2 => sleep(Duration::from_millis(any)).await,
            3 => sleep(Duration::from_millis(any / 25)).await,
            _ => {
                let deed = DEEDS[self.random.below(DEEDS.len() as u64) as usize];
                let times = match deed {
                    Deed::ConnAck => 1 + self.random.below(30),
                    Deed::SubAck => 1 + self.random.below(4),
                    Deed::PubAck | Deed::PubRec | Deed::PubComp | Deed::Publish | Deed::PubRel => {
                        1 + self.random.below(250)
                    }
                };
                shared.world.borrow_mut().last_deed = Some((deed, times));
                let _ = timeout(LONGEST_ROUND, shared.kill.notified()).await;
                shared.world.borrow_mut().last_deed = None;
            }
        }
    }

    /// Kills it and starts it again; now and then it is killed while it starts, too.
    async fn kill(
        &mut self,
        mut broker: Broker,
        shared: &Shared,
        also_while_it_starts: bool,
    ) -> Option<Broker> {
        if let Some(end) = broker.end() {
            shared.fault(Kind::Broker, end);
        }
        shared.world.borrow_mut().killing();
        broker.kill();
        if also_while_it_starts && self.random.percent(20) {
            broker.spawn();
            sleep(Duration::from_millis(self.random.below(60))).await;
            shared.world.borrow_mut().killing();
            broker.kill();
        }
        start(broker, shared).await
    }

    fn verdict(&self, name: &str, mut world: World) -> Verdict {
        let at = world.now();
        let kept = world.ledger.judge(at, &mut world.faults);
        if world.ledger.arrivals() == 0 || world.counts.retained_fetched == 0 {
            world.faults.add(Kind::Broker, at, "nothing arrived at all".to_owned());
        }
        let counts = world.counts;
        let mut table = format!("{name}\nkilled {} times, seed {}, {at}\n", world.round, self.seed);
        let _ = writeln!(table, "  {:<36} {:>8} {:>8}", "", "promised", "lost");
        for (label, group, qos) in [
            ("QoS 1 to subscribers", false, 1),
            ("QoS 2 to subscribers", false, 2),
            ("QoS 1 to groups", true, 1),
            ("QoS 2 to groups", true, 2),
        ] {
            let row = kept.of(group, qos);
            let _ = writeln!(table, "  {label:<36} {:>8} {:>8}", row.promised, row.lost);
        }
        let _ = write!(table, "faults:\n{}", world.faults.summary());
        if world.faults.is_empty() {
            table.push_str("  none\n");
        }
        let _ = writeln!(
            table,
            "{} messages sent, {} again; {} arrivals, {} of QoS 1 doubled ({} in one session without DUP), {} \
             of QoS 2 came again in a new session\n{} connections, {} sessions resumed, {} begun; {} retained \
             values published, {} fetched; {:?} Wills that had to come, could come, could not",
            world.ledger.sent(),
            counts.sent_again,
            world.ledger.arrivals(),
            world.ledger.doubled,
            world.ledger.doubled_without_dup,
            world.ledger.again_in_a_new_session,
            counts.connections,
            counts.resumed,
            counts.begun,
            counts.retained_published,
            counts.retained_fetched,
            counts.wills,
        );
        println!("{table}");
        Verdict { seed: self.seed, faults: world.faults, table }
    }
}

/// Starts the broker; none if it does not.
async fn start(mut broker: Broker, shared: &Shared) -> Option<Broker> {
    let (broker, result) = tokio::task::spawn_blocking(move || {
        let result = broker.start();
        (broker, result)
    })
    .await
    .unwrap();
    shared.world.borrow_mut().started();
    match result {
        Ok(()) => Some(broker),
        Err(failure) => {
            shared.fault(Kind::Broker, failure);
            None
        }
    }
}

/// Waits until everybody is there and has what it is owed, or nothing more comes.
async fn settle(broker: &mut Broker, shared: &Shared, patience: Duration, when: &str) {
    let start = Instant::now();
    let mut last = (Instant::now(), 0);
    loop {
        let _ = timeout(Duration::from_millis(100), shared.progress.notified()).await;
        let mut world = shared.world.borrow_mut();
        if world.is_settled() {
            println!("all was settled {when} in {:?}", start.elapsed());
            return;
        }
        if last.1 != world.ledger.events {
            last = (Instant::now(), world.ledger.events);
        }
        if last.0.elapsed() > patience || start.elapsed() > CALM {
            world.ledger.give_up();
            if !world.all_are_ready() {
                let what = format!("{when}, these have no rest: {}", world.missing());
                world.fault(Kind::Unfinished, what);
            }
            println!("nothing more came {when} in {:?}, and not all is settled", start.elapsed());
            if let Some(end) = broker.end() {
                world.fault(Kind::Broker, end);
            }
            return;
        }
    }
}
