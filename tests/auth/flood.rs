//! A flood of logins with wrong passwords beside clients that go on with their work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Broker, V5, publish};
use crate::{Folder, user};

/// Clients that exchange messages, each with itself.
const CLIENTS: usize = 10;

/// Wrong passwords a second, from this many threads.
const PER_SECOND: usize = 500;
const ATTACKERS: usize = 50;

/// How long each part lasts.
const SPAN: Duration = Duration::from_secs(3);

/// What a message may take at most beside the flood, however slow the machine: far below what it would take if
/// one of the broker's own threads hashed a password now and then.
const BOUND: Duration = Duration::from_millis(250);

#[test]
fn clients_that_are_in_do_not_notice_those_that_knock() {
    let folder = Folder::new();
    let users = folder.users(&["alice"]);
    let broker = Arc::new(Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"password-file\"]\npassword_file = {users:?}\nhashing_threads = 1\n\
         hashing_queue = 100\n"
    )));
    let quiet = exchange(&broker);
    let over = Arc::new(AtomicBool::new(false));
    let (wrong, busy) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|_| {
            let (broker, over) = (broker.clone(), over.clone());
            let (wrong, busy) = (wrong.clone(), busy.clone());
            thread::spawn(move || {
                let pause = Duration::from_secs(1) * ATTACKERS as u32 / PER_SECOND as u32;
                let mut waiting = Vec::new();
                let mut next = Instant::now();
                while !over.load(Ordering::Acquire) {
                    waiting.push(user(V5, "alice").password("guess").send_to(&broker));
                    next += pause;
                    // The rate is the test's own clock, nothing is waited for.
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                for mut client in waiting {
                    client.set_patience(Duration::from_secs(30));
                    match client.read().connack().reason {
                        0x86 => wrong.fetch_add(1, Ordering::AcqRel),
                        0x89 => busy.fetch_add(1, Ordering::AcqRel),
                        reason => panic!("a guess was answered with {reason:#04x}"),
                    };
                }
            })
        })
        .collect();
    let flooded = exchange(&broker);
    over.store(true, Ordering::Release);
    for attacker in attackers {
        attacker.join().unwrap();
    }
    let (wrong, busy) = (wrong.load(Ordering::Acquire), busy.load(Ordering::Acquire));
    println!("p99 quiet {quiet:?}, beside the flood {flooded:?}; {wrong} hashed, {busy} told to come later");
    assert!(wrong > 0 && wrong + busy > PER_SECOND, "there was no flood: {wrong} + {busy}");
    assert!(flooded < (quiet * 3).max(BOUND), "p99 of {quiet:?} became {flooded:?}");
    user(V5, "alice").open(&broker);
}

/// Clients that send themselves messages one after the other; the 99th percentile of what one takes.
fn exchange(broker: &Arc<Broker>) -> Duration {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let broker = broker.clone();
            thread::spawn(move || {
                let mut client = user(V5, "alice").open(&broker);
                let topic = format!("flood/{number}");
                client.subscribe(&topic, 0);
                let message = publish(&topic, "m").bytes(V5);
                let mut times = Vec::new();
                let end = Instant::now() + SPAN;
                while Instant::now() < end {
                    let start = Instant::now();
                    client.send(&message);
                    client.read_publish();
                    times.push(start.elapsed());
                    thread::sleep(Duration::from_millis(2));
                }
                times
            })
        })
        .collect();
    let mut times: Vec<Duration> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}
