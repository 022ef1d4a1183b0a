//! Bits that flip, files that are missing, and what salvaging makes of it.

use fulmar::store::OpenError;

use crate::model::State;
use crate::random::Random;
use crate::sim::Sim;
use crate::world::{End, World, is_long, seeds, try_open};

/// A store at rest, and what it holds.
fn at_rest(seed: u64, sync: bool) -> (Sim, State) {
    let sim = Sim::new(seed);
    let mut world = World::new(sim.clone(), sync, seed);
    world.work(300);
    world.restart(End::Close);
    world.work(200);
    world.flush();
    world.store.close();
    (sim, world.state().clone())
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    for seed in seeds(1) {
        for sync in [true, false] {
            let (sim, state) = at_rest(seed, sync);
            let mut random = Random::new(seed, 3);
            let (mut refused, mut harmless) = (0, 0);
            for _ in 0..if is_long() { 20_000 } else { 400 } {
                let files = sim.files();
                let (name, length) = &files[random.below(files.len() as u64) as usize];
                // Mostly where something is written.
                let within = if random.percent(50) { (*length).min(8_192) } else { *length };
                let (byte, bit) = (random.below(within as u64) as usize, random.below(8) as u8);
                println!("seed {seed}, sync {sync}, {name} byte {byte} bit {bit}");
                let copy = sim.copy();
                copy.flip(name, byte, bit);
                match try_open(&copy, sync, false) {
                    Ok((_, recovered)) => {
                        let found = State::of(&recovered);
                        assert!(found == state, "{}", found.difference(&state));
                        harmless += 1;
                    }
                    Err(OpenError::Damaged { file, .. }) => {
                        assert!(!file.is_empty());
                        refused += 1;
                    }
                    Err(OpenError::Version { .. } | OpenError::Foreign { .. }) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            println!("{refused} refused, {harmless} harmless");
            assert!(refused > 0 && harmless > 0);
        }
    }
}

#[test]
fn a_missing_file_is_refused() {
    let (sim, _) = at_rest(1, true);
    let files = sim.files();
    // The last ones stand ready and hold nothing.
    for (name, _) in &files[..files.len() - 2] {
        let copy = sim.copy();
        copy.remove_file(name);
        let refused = try_open(&copy, true, false);
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "without {name}: {refused:?}");
    }
}

#[test]
fn salvaging_sets_the_damage_aside_and_starts_with_what_is_sound() {
    for sync in [true, false] {
        let (sim, state) = at_rest(3, sync);
        let files = sim.files();
        for (name, _) in &files[..files.len() - 3] {
            for byte in [20, 4_100, 9_000] {
                let copy = sim.copy();
                copy.flip(name, byte, 3);
                if try_open(&copy.copy(), sync, false).is_ok() {
                    continue;
                }
                println!("{name}, byte {byte}, sync {sync}");
                let (store, recovered) = try_open(&copy, sync, true).unwrap();
                assert_ne!(State::of(&recovered), state, "something is lost");
                drop(store);
                let (_, again) = try_open(&copy, sync, false).unwrap();
                assert_eq!(State::of(&again), State::of(&recovered), "what was salvaged stays");
                let aside = |(name, _): &(String, usize)| name.starts_with("salvaged-1/");
                assert!(copy.files().iter().any(aside), "{:?}", copy.files());
            }
        }
    }
}
