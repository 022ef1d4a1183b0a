//! Fulmar's session against a model of a client, without a socket and on virtual time.
//!
//! A pair is driven by a list of operations, made from a seed or by proptest. While faults last, nothing wrong may
//! happen: no window exceeded, no identifier used twice, DUP on what is sent again and on nothing else, the original
//! order, no packet too large. Then the faults end, and everything must arrive, as often as its QoS says, and
//! nothing be left anywhere. A seed that fails is printed; `FULMAR_SEED=n` runs that one alone.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

mod client;
mod monitor;
mod pair;
#[path = "../support/random.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod random;
mod server;
mod stories;

use fulmar::codec::{ProtocolVersion, QoS};
use proptest::prelude::*;

use pair::{Op, Pair, Size, Terms};
use random::Random;

const SEEDS: u64 = 400;

#[test]
fn whatever_a_seed_does_to_the_link_everything_arrives() {
    let seeds = match std::env::var("FULMAR_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("FULMAR_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    for seed in seeds {
        let ran = std::panic::catch_unwind(|| run(seed, terms(seed), &operations(seed)));
        if let Err(panic) = ran {
            eprintln!("seed {seed} failed; run it alone with FULMAR_SEED={seed} cargo test --test session");
            std::panic::resume_unwind(panic);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_a_pair_everything_arrives(
        seed in any::<u64>(),
        operations in prop::collection::vec(any_operation(), 0..120),
    ) {
        run(seed, terms(seed), &operations);
    }
}

fn run(seed: u64, terms: Terms, operations: &[Op]) {
    let mut pair = Pair::new(seed, terms);
    for operation in operations {
        pair.apply(operation);
    }
    pair.heal();
    pair.check();
}

/// Each seed has terms of its own.
fn terms(seed: u64) -> Terms {
    let mut random = Random::new(seed, 2);
    Terms {
        version: if random.percent(25) { ProtocolVersion::V3_1_1 } else { ProtocolVersion::V5 },
        receive_maximum: receive_maximum(random.next()),
        aliases: [0, 0, 1, 8][random.below(4) as usize],
    }
}

fn receive_maximum(number: u64) -> u16 {
    [1, 1, 2, 3, 10, 100, u16::MAX][(number % 7) as usize]
}

fn operations(seed: u64) -> Vec<Op> {
    let mut random = Random::new(seed, 3);
    (0..20 + random.below(200)).map(|_| operation(|bound| random.below(bound))).collect()
}

fn any_operation() -> impl Strategy<Value = Op> {
    prop::array::uniform5(any::<u64>()).prop_map(|numbers| {
        let mut numbers = numbers.into_iter().cycle();
        operation(move |bound| numbers.next().unwrap_or_default() % bound)
    })
}

/// An operation from numbers below given bounds; the common ones come often.
fn operation(mut below: impl FnMut(u64) -> u64) -> Op {
    let qos = |number| [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][number as usize];
    match below(100) {
        0..35 => Op::Deliver {
            qos: qos(below(3)),
            size: [Size::Small, Size::Small, Size::Small, Size::Large, Size::TooLarge][below(5) as usize],
            expiry: (below(8) == 0).then(|| below(4) as u32),
            live: below(2) == 0,
        },
        35..45 => Op::DeliverRun {
            qos: qos(below(3)),
            count: 1 + below(30) as u8,
            size: [Size::Small, Size::Large][below(2) as usize],
        },
        45..57 => Op::Publish { qos: [QoS::AtLeastOnce, QoS::ExactlyOnce][below(2) as usize] },
        57..78 => Op::Run { steps: 1 + below(40) as u16 },
        78..82 => Op::Stall { to_client: below(2) == 0, millis: below(500) as u16 },
        82..85 => Op::Ponder { millis: below(300) as u16 },
        85..90 => Op::Cut,
        _ => Op::Connect { receive_maximum: receive_maximum(below(7)) },
    }
}
