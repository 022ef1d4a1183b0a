//! The storm: a thousand clients connect, subscribe, publish at every QoS, lose their sockets in the midst of it
//! and come back, for half a minute, against one broker. Then the faults end, and all must be delivered.
//!
//! Everything is judged from the clients' side: [`ledger`] knows what was sent, acknowledged and received;
//! [`bystander`] measures that somebody who has no part in it is answered all the time; [`member`] is a client's
//! life. Afterwards everybody leaves for good, and the broker must be as small as it was.
//!
//! `FULMAR_STORM_SEED`, `FULMAR_STORM_SECONDS` and `FULMAR_STORM_CLIENTS` change it; the seed decides what
//! every client does and when, though not how the machine interleaves them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails must fail its test")]

#[path = "../support/mod.rs"]
mod support;

mod bystander;
mod inspector;
mod ledger;
mod member;

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;

use bystander::Bystander;
use inspector::Inspector;
use ledger::Ledger;
use member::Phase;
use support::Broker;

/// The claim: whatever others do, an answer takes no longer, times without a processor apart.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);

/// How much more memory than at its start the broker may hold when all have left: what its allocator and
/// its buffer pools keep, and no session.
const MEMORY_KEPT_KIB: u64 = 24 * 1_024;

/// How long the broker may take to deliver the rest once the faults have ended, while nothing arrives.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_thousand_clients_come_and_go_and_nothing_is_lost_doubled_or_left_behind() {
    let seed = setting("FULMAR_STORM_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
    });
    let duration = Duration::from_secs(setting("FULMAR_STORM_SECONDS").unwrap_or(30));
    let clients = setting("FULMAR_STORM_CLIENTS").unwrap_or(1_000) as usize;
    println!("FULMAR_STORM_SEED={seed}: {clients} clients for {duration:?}");
    raise_the_limit_of_open_files();

    let broker = Broker::with_config("[sys]\ninterval = \"1s\"\n");
    let mut inspector = Inspector::connect(&broker);
    inspector.until_nobody_else_is_left();
    let before = inspector.resources();
    let bystander = Bystander::start(&broker);

    let ledger = storm(broker.port(), seed, clients, duration);
    let during = inspector.resources();
    let measured = bystander.stop();
    println!("{}", ledger.summary());
    println!("{measured}");
    println!("memory at the start {} KiB, after the storm {} KiB", before.memory_kib, during.memory_kib);

    let faults = ledger.verdict();
    assert!(faults.is_empty(), "seed {seed}: {} faults, the first:\n{}", faults.len(), first(&faults));
    assert!(
        measured.slowest() <= ANSWER_WITHIN,
        "seed {seed}: an answer took {:?}, more than {ANSWER_WITHIN:?}\n{measured}",
        measured.slowest()
    );

    let after = inspector.until_released(&before, MEMORY_KEPT_KIB);
    println!("memory at the end {} KiB, {} open files", after.memory_kib, after.open_files);
}

/// The storm, the calm, and the leaving of all.
fn storm(port: u16, seed: u64, clients: usize, duration: Duration) -> Ledger {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ledger = Rc::new(RefCell::new(Ledger::new(clients)));
    let progress = Rc::new(Notify::new());
    let (phase, phases) = watch::channel(Phase::Storm);
    LocalSet::new().block_on(&runtime, async {
        let lives: Vec<_> = (0..clients)
            .map(|index| {
                let member =
                    member::Member::new(index, port, seed, ledger.clone(), progress.clone(), phases.clone());
                tokio::task::spawn_local(member.live())
            })
            .collect();
        tokio::time::sleep(duration).await;

        phase.send(Phase::Calm).unwrap();
        let calm = Instant::now();
        while !ledger.borrow().is_settled() {
            if tokio::time::timeout(PATIENCE, progress.notified()).await.is_err() {
                ledger.borrow_mut().fault(format!("nothing has arrived for {PATIENCE:?}, and more is owed"));
                break;
            }
        }
        println!("all was settled {:?} after the faults had ended", calm.elapsed());

        phase.send(Phase::Leaving).unwrap();
        for life in lives {
            life.await.unwrap();
        }
    });
    drop(runtime);
    Rc::try_unwrap(ledger).ok().expect("all members are gone").into_inner()
}

fn first(faults: &[String]) -> String {
    faults.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a whole number is expected")))
}

/// A thousand sockets here (two thousand while they take each other over), and as many in the broker,
/// which inherits the limit.
fn raise_the_limit_of_open_files() {
    let pid = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, "--nofile=4096:"]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "4096 open files are needed: raise the hard limit (`ulimit -Hn`), and install util-linux for prlimit"
    );
}
