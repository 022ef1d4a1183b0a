//! The crash test: a broker is killed with SIGKILL again and again, at the worst moments, and nothing it had
//! acknowledged may be lost, doubled, re-ordered or risen from the dead.
//!
//! Everything is judged from the clients' side: [`cast`] says who takes part, [`member`] is a client's life,
//! [`visitor`] somebody new who reads retained messages; [`ledger`], [`retained`] and [`sessions`] know what was
//! promised. The clients keep their own session state as the standard asks, so what they send again belongs to
//! the same exchange. When the kills are over, all is delivered; then the broker is killed once more, at rest, and
//! everybody publishes a last message to every topic, by which each subscription is seen to stand.
//!
//! `FULMAR_CRASH_SEED` and `FULMAR_CRASH_KILLS` change it; the seed decides what every client does and when the
//! broker dies, though not how the machine interleaves them. `FULMAR_CRASH_RATE` is how many messages each
//! publisher sends in a second, `FULMAR_CRASH_SCALE` how many times larger than some 300 bytes they are.
//! `FULMAR_CRASH_VERSION` and `FULMAR_CRASH_RECEIVE_MAXIMUM=off` spare a broker what it does not know.
//! To find the reason of a fault, `FULMAR_CRASH_ONLY=publisher,rare-3` lets only clients take part whose names hold
//! one of these, and `FULMAR_CRASH_KEEP=1` leaves the broker's folder behind.
//!
//! `any-broker.sh` judges any other broker with it, and tells how to start one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails must fail its test")]

#[path = "../support/mod.rs"]
mod support;

mod broker;
mod cast;
mod histories;
mod kept;
mod ledger;
mod member;
mod payload;
mod report;
mod retained;
mod sessions;
mod trial;
mod visitor;
mod wills;
mod world;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker::Broker;
use report::Kind;
use trial::Trial;

#[test]
fn killed_again_and_again_it_keeps_what_it_acknowledged() {
    let kills = setting("FULMAR_CRASH_KILLS").unwrap_or(20);
    Trial::new(seed(), kills).of(Broker::any("--durability sync")).must_pass();
}

#[test]
fn killed_again_and_again_it_keeps_it_with_durability_os_too() {
    let kills = setting("FULMAR_CRASH_KILLS").unwrap_or(8);
    Trial::new(seed(), kills).of(Broker::fulmar("--durability os")).must_pass();
}

#[test]
fn without_a_kill_memory_is_enough() {
    Trial::new(seed(), 0).of(Broker::fulmar("--durability none")).must_pass();
}

/// The judge can fail.
#[test]
fn a_broker_that_forgets_is_found_out() {
    let second = Duration::from_secs(1);
    let trial = Trial::new(seed(), 2).rounds_of(second).patience(2 * second);
    let verdict = trial.of(Broker::fulmar("--durability none"));
    for kind in [Kind::Lost, Kind::SessionLost, Kind::RetainedGone] {
        assert!(verdict.faults.count(kind) > 0, "no {kind:?} was found:\n{}", verdict.table);
    }
    for kind in [Kind::OutOfOrder, Kind::Corrupt, Kind::SessionRaised, Kind::RetainedRaised, Kind::Broker] {
        assert_eq!(verdict.faults.count(kind), 0, "{kind:?}:\n{}", verdict.faults);
    }
}

fn seed() -> u64 {
    setting("FULMAR_CRASH_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
    })
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a whole number is expected")))
}
