//! Restarts, kills, power cuts and failing disks, against the model.

use fulmar::store::{Condition, Store};

use crate::random::Random;
use crate::sim::{Fault, Plan, Sim};
use crate::world::{End, World, is_long, open, seeds, try_open};

#[test]
fn random_work_is_as_the_model_says_after_every_restart() {
    for seed in seeds(12) {
        for sync in [true, false] {
            println!("seed {seed}, sync {sync}");
            let mut random = Random::new(seed, 2);
            let mut world = World::new(Sim::new(seed), sync, seed);
            for _ in 0..6 {
                world.work(150);
                if random.percent(50) {
                    world.check_contents();
                }
                let end = [End::Close, End::Kill, End::PowerCut][random.below(3) as usize];
                world.restart(end);
            }
            world.check_contents();
        }
    }
}

/// One run: work, with a fault in it, until all is well again or the process has ended; then what is left.
fn run(seed: u64, sync: bool, plan: Option<Plan>) -> u64 {
    let sim = Sim::new(seed);
    let mut world = World::new(sim.clone(), sync, seed);
    world.work(60);
    sim.plan(plan);
    world.work(170);
    world.flush();
    let operations = sim.operations();
    match plan.map(|plan| plan.fault).filter(|_| sim.is_dead()) {
        Some(Fault::PowerCut) => world.restart(End::PowerCut),
        Some(_) => world.restart(End::Kill),
        None => {
            sim.plan(None);
            world.check_contents();
            world.restart(End::Kill);
        }
    }
    world.work(30);
    world.check_contents();
    world.restart(End::Close);
    world.check_contents();
    operations
}

fn strike(fault: Fault, stride: u64) {
    for sync in [true, false] {
        for seed in seeds(1) {
            let last = run(seed, sync, None);
            let stride = if is_long() { 1 } else { stride };
            // Another part of the operations with each fault.
            for at in (1 + fault as u64 % stride..=last).step_by(stride as usize) {
                let plan = Plan { fault, at, lasts: 1 + at % 23 };
                println!("seed {seed}, sync {sync}, {plan:?}");
                run(seed, sync, Some(plan));
            }
        }
    }
}

#[test]
fn an_operation_that_fails_costs_no_promise() {
    strike(Fault::Error, 9);
}

#[test]
fn a_write_that_is_cut_costs_no_promise() {
    strike(Fault::ShortWrite, 9);
}

#[test]
fn a_disk_that_is_full_costs_no_promise() {
    strike(Fault::NoSpace, 9);
}

#[test]
fn a_sync_that_fails_costs_no_promise() {
    strike(Fault::FailedSync, 9);
}

#[test]
fn a_kill_costs_no_promise() {
    strike(Fault::Kill, 7);
}

#[test]
fn a_power_cut_costs_no_promise() {
    strike(Fault::PowerCut, 7);
}

/// The start meets faults, too, and the one after it finds what was there.
#[test]
fn a_fault_at_start_costs_no_promise() {
    for seed in seeds(2) {
        for sync in [true, false] {
            let sim = Sim::new(seed);
            let mut world = World::new(sim.clone(), sync, seed);
            world.work(150);
            let state = {
                world.flush();
                world.state().clone()
            };
            if !sync {
                world.store.help(true);
            }
            let operations = {
                let copy = sim.copy();
                try_open(&copy, sync, false).unwrap();
                copy.operations()
            };
            for fault in [Fault::Error, Fault::ShortWrite, Fault::FailedSync, Fault::Kill, Fault::PowerCut] {
                for at in 1..=operations {
                    println!("seed {seed}, sync {sync}, {fault:?} at {at}");
                    let sim = sim.copy();
                    sim.plan(Some(Plan { fault, at, lasts: 1 }));
                    let first = try_open(&sim, sync, false);
                    drop(first);
                    if sim.is_dead() && fault == Fault::PowerCut {
                        sim.cut_power();
                    }
                    sim.revive();
                    let (_store, recovered) = try_open(&sim, sync, false).unwrap();
                    assert_eq!(crate::model::State::of(&recovered), state);
                }
            }
        }
    }
}

/// Nothing new fits, but what is delivered can still be told, its space comes back, and then all goes on.
#[test]
fn a_full_disk_drains_and_goes_on() {
    for sync in [true, false] {
        let sim = Sim::new(5);
        let mut world = World::new(sim.clone(), sync, 5);
        assert_eq!(world.fill(100), 100);
        sim.limit(Some(sim.used() + 200_000));
        // Whatever can be gained by copying is gained first.
        let mut filled = 100;
        while world.store.committed() == world.store.appended() {
            filled += world.fill(10_000);
            assert!(filled < 5_000, "it is full by then");
            for _ in 0..50 {
                world.turn();
            }
        }
        assert_eq!(world.store.condition(), Condition::Failing);
        // Most of it is delivered, bit by bit.
        for _ in 0..(filled - 50) / 40 {
            world.finish_first(40);
            world.turn();
        }
        for _ in 0..100 {
            world.turn();
        }
        assert_eq!(world.store.condition(), Condition::Well);
        world.check_contents();
        assert_eq!(world.fill(50), 50);
        world.restart(End::Kill);
        world.check_contents();
    }
}

/// What was delivered while the disk was full is not delivered again.
#[test]
fn progress_is_kept_while_the_disk_is_full() {
    for sync in [true, false] {
        let sim = Sim::new(6);
        let mut world = World::new(sim.clone(), sync, 6);
        assert_eq!(world.fill(100), 100);
        sim.limit(Some(sim.used() + 100_000));
        while world.store.condition() == Condition::Well {
            world.fill(10_000);
            for _ in 0..50 {
                world.turn();
            }
        }
        world.finish_first(3);
        world.finish_first(4);
        for _ in 0..10 {
            world.turn();
        }
        assert_eq!(world.store.condition(), Condition::Failing);
        let rows = world.state().owners[&1].rows.clone();
        sim.limit(None);
        sim.revive();
        let (_store, recovered) = open(&sim, sync);
        let first = recovered.sessions[0].rows[0].seq.0;
        assert_eq!(Some(first), rows.keys().next().copied());
    }
}
