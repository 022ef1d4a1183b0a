//! The store on disk: against a model, on disks that fail, fill up and lose power, and with real files and threads.
//!
//! What is random comes from seeds, which are printed. `FULMAR_STORE_SEED` runs one of them, and
//! `FULMAR_STORE_LONG=1` tries every fault at every operation instead of a sample.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails must fail its test")]

mod commits;
mod damage;
mod faults;
mod model;
#[path = "../support/random.rs"]
mod random;
mod real;
mod sim;
mod tools;
mod world;
