//! paho-mqtt (Python) in MQTT 3.1, 3.1.1 and 5.0: `paho_cases.py` asserts, this counts what it asserted.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::broker_under_test;

const EVERY_VERSION: [&str; 11] = [
    "every_quality_of_service_arrives",
    "the_lower_quality_of_service_counts",
    "a_retained_message_waits_until_it_is_cleared",
    "the_will_of_a_killed_client_is_published",
    "a_persistent_session_gets_what_came_while_it_was_away",
    "a_clean_start_ends_the_session",
    "what_was_in_flight_at_a_cut_arrives_once",
    "a_shared_subscription_gives_each_message_to_one_member",
    "wildcards_match",
    "an_unsubscribed_filter_brings_nothing_more",
    "a_newer_connection_takes_the_client_identifier_over",
];

const ONLY_5_0: [&str; 7] = [
    "properties_travel_unchanged",
    "the_subscription_identifier_comes_with_the_message",
    "a_topic_alias_stands_for_its_topic",
    "the_message_expiry_interval_counts_down",
    "own_messages_stay_away_with_no_local",
    "retain_options_are_obeyed",
    "the_will_delay_interval_is_kept",
];

#[test]
fn every_case_passes_in_3_1() {
    run("3.1", &EVERY_VERSION);
}

#[test]
fn every_case_passes_in_3_1_1() {
    run("3.1.1", &EVERY_VERSION);
}

#[test]
fn every_case_passes_in_5_0() {
    run("5.0", &[&EVERY_VERSION[..], &ONLY_5_0].concat());
}

/// Runs the script and demands that exactly the expected cases have passed.
#[track_caller]
fn run(version: &str, expected: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `bash tests/run --install` makes it.
    let python = root.join("target/paho/bin/python");
    let port = broker_under_test().port().to_string();
    let output = Command::new(&python)
        .arg(root.join("tests/clients/paho_cases.py"))
        .args([&port, version])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!("{} cannot be run ({error}): `bash tests/run --install` makes it", python.display())
        });
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !stderr.contains("No module named 'paho'"),
        "paho-mqtt is missing: `bash tests/run --install` brings it"
    );
    assert!(output.status.success(), "paho-mqtt in {version}: {}\n{stdout}{stderr}", output.status);
    let mut passed: Vec<&str> = stdout.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    let mut expected = expected.to_vec();
    passed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(passed, expected, "the cases that ran in {version}");
}
