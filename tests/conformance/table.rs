//! The tables that say which tests check a statement, or why none can; and that they are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A standard: the prefix of its test names, its statements, its table.
const STANDARDS: [(&str, &str, &str); 2] = [
    ("v5", include_str!("data/mqtt-5.0-statement-ids.txt"), include_str!("table_v5.tsv")),
    ("v311", include_str!("data/mqtt-3.1.1-statement-ids.txt"), include_str!("table_v311.tsv")),
];

/// The names of all tests of this target but those of this file.
fn test_names() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut names = BTreeSet::new();
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "rs") && !file.ends_with("table.rs") {
            let source = fs::read_to_string(&file).unwrap();
            let mut lines = source.lines();
            while lines.any(|line| line == "#[test]") {
                let line = lines.next().unwrap_or_default();
                let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
                let name = name.unwrap_or_else(|| panic!("{line:?} after #[test] in {}", file.display()));
                assert!(names.insert(name.to_string()), "two tests have the name {name}");
            }
        }
    }
    names
}

/// The statements a test bears in its name, as `(standard, mqtt_3_1_0_2)`.
fn statements_in(name: &str) -> Vec<(&'static str, String)> {
    let mut statements = Vec::new();
    let mut words = name.split('_').peekable();
    let mut standards: &[&str] = &["v5", "v311"];
    while let Some(word) = words.next() {
        match word {
            "v5" => standards = &["v5"],
            "v311" => standards = &["v311"],
            "mqtt" => {
                let mut statement = word.to_string();
                while let Some(number) = words.next_if(|word| word.parse::<u8>().is_ok()) {
                    statement = format!("{statement}_{number}");
                }
                statements.extend(standards.iter().map(|standard| (*standard, statement.clone())));
                standards = &["v5", "v311"];
            }
            _ => break,
        }
    }
    statements
}

/// `MQTT-3.1.0-2` as it stands in a test's name.
fn in_a_name(statement: &str) -> String {
    statement.to_lowercase().replace(['-', '.'], "_")
}

#[test]
fn the_table_is_complete() {
    let names = test_names();
    let mut faults = Vec::new();
    let mut in_a_table = BTreeSet::new();
    for (standard, statements, table) in STANDARDS {
        let statements: Vec<&str> = statements.lines().filter(|line| !line.is_empty()).collect();
        let mut rows = BTreeMap::new();
        for line in table.lines() {
            let [statement, tests, reason] = line.split('\t').collect::<Vec<_>>()[..] else {
                faults.push(format!("{standard}: not three columns: {line:?}"));
                continue;
            };
            if !statements.contains(&statement) {
                faults.push(format!("{standard}: no such statement: {statement}"));
            }
            let tests: BTreeSet<&str> = tests.split(' ').filter(|test| !matches!(*test, "" | "-")).collect();
            if tests.is_empty() && reason.len() < 20 {
                faults.push(format!("{standard}: {statement} has neither a test nor a reason"));
            }
            for test in tests.iter().filter(|test| !names.contains(**test)) {
                faults.push(format!("{standard}: {statement} names a test that does not exist: {test}"));
            }
            in_a_table.extend(tests.iter().map(ToString::to_string));
            if rows.insert(in_a_name(statement), tests).is_some() {
                faults.push(format!("{standard}: {statement} stands in the table twice"));
            }
        }
        for statement in statements.iter().filter(|statement| !rows.contains_key(&in_a_name(statement))) {
            faults.push(format!("{standard}: {statement} is not in the table"));
        }
        for name in &names {
            for (of, statement) in statements_in(name) {
                if of == standard && !rows.get(&statement).is_some_and(|tests| tests.contains(name.as_str()))
                {
                    faults.push(format!("{standard}: {statement} does not name its test {name}"));
                }
            }
        }
    }
    faults.extend(names.difference(&in_a_table).map(|name| format!("{name} is in no table")));
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
