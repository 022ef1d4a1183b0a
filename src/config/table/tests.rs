//! That the table is sound: every key once, every default valid, every bound held.

use super::*;
use crate::config::acl::{GROUP_KEYS, RULE_KEYS};
use ::config::ValueKind;
use std::collections::HashSet;

#[test]
fn no_key_is_defined_twice_and_each_is_in_a_section() {
    let mut seen = HashSet::new();
    for key in keys() {
        assert!(seen.insert(key.name), "{} is there twice", key.name);
        let (section, _) = key.name.split_once('.').unwrap();
        assert!(SECTIONS.iter().any(|(known, _)| *known == section), "{}", key.name);
        assert!(key.doc.ends_with('.'), "{} has no sentence to explain it", key.name);
    }
    for key in listener_keys() {
        assert!(seen.insert(key.name), "{} is there twice", key.name);
        assert!(key.doc.ends_with('.'), "{} has no sentence to explain it", key.name);
    }
    for (section, _) in SECTIONS {
        assert!(keys().any(|key| key.name.starts_with(&format!("{section}."))), "{section} is empty");
    }
}

/// What a key shows it also reads, and to the same effect; a default is a value like any other.
#[test]
fn every_default_is_valid_and_read_back_as_itself() {
    fn round_trip<T: Clone + PartialEq + std::fmt::Debug + 'static>(
        keys: impl Iterator<Item = &'static Key<T>>,
        defaults: &T,
    ) {
        for key in keys {
            let mut target = defaults.clone();
            let shown = key.show(defaults);
            let text = shown.trim_matches(['"', '[', ']']);
            assert_eq!(key.apply_text(&mut target, text), Ok(()), "{} = {shown}", key.name);
            assert_eq!(&target, defaults, "{} = {shown}", key.name);
        }
    }
    round_trip(keys(), &Config::default());
    round_trip(listener_keys(), &Listener::default());
}

/// Both ends of all bounds arrive in the field as they were written; one step beyond is refused.
#[test]
fn bounds_hold_and_fit_their_fields() {
    fn walk<T: Default + 'static>(keys: impl Iterator<Item = &'static Key<T>>) {
        for key in keys {
            let mut target = T::default();
            match &key.shape {
                Shape::Number { bounds, get, .. } | Shape::Size { bounds, get, .. } => {
                    for number in [*bounds.start(), *bounds.end()] {
                        assert_eq!(key.apply(&mut target, &ValueKind::U64(number)), Ok(()), "{}", key.name);
                        assert_eq!(get(&target), number, "{}", key.name);
                    }
                    let beyond = ValueKind::U64(bounds.end() + 1);
                    assert!(key.apply(&mut target, &beyond).is_err(), "{}", key.name);
                    if *bounds.start() > 0 {
                        let allowed = key.apply(&mut target, &ValueKind::I64(0)).is_ok();
                        assert_eq!(allowed, key.zero.is_some(), "{}", key.name);
                        assert_eq!(get(&target) == 0, allowed, "{}", key.name);
                    }
                    assert!(key.apply(&mut target, &ValueKind::I64(-1)).is_err(), "{}", key.name);
                }
                Shape::Duration { bounds, get, .. } => {
                    for duration in [*bounds.start(), *bounds.end()] {
                        let text = format!("{}ms", duration.as_millis());
                        assert_eq!(key.apply_text(&mut target, &text), Ok(()), "{}", key.name);
                        assert_eq!(get(&target), duration, "{}", key.name);
                    }
                    let beyond = format!("{}ms", bounds.end().as_millis() + 1);
                    assert!(key.apply_text(&mut target, &beyond).is_err(), "{}", key.name);
                    let allowed = key.apply_text(&mut target, "0s").is_ok();
                    assert_eq!(allowed, key.zero.is_some(), "{}", key.name);
                    assert!(key.apply(&mut target, &ValueKind::I64(10)).is_err(), "a number has no unit");
                }
                Shape::Boolean { get, .. } => {
                    for boolean in [true, false] {
                        assert_eq!(key.apply(&mut target, &ValueKind::Boolean(boolean)), Ok(()));
                        assert_eq!(get(&target), boolean, "{}", key.name);
                    }
                    assert!(key.apply_text(&mut target, "yes").is_err(), "{}", key.name);
                }
                Shape::Choice { words, later, get, .. } => {
                    for word in words() {
                        assert_eq!(key.apply_text(&mut target, word), Ok(()), "{}", key.name);
                        assert_eq!(get(&target), word, "{}", key.name);
                    }
                    for word in *later {
                        let refusal = key.apply_text(&mut target, word).unwrap_err();
                        assert!(refusal.contains("not in this version"), "{refusal}");
                    }
                    assert!(key.apply_text(&mut target, "nonsense").is_err(), "{}", key.name);
                }
                Shape::Words { words, get, .. } => {
                    assert_eq!(key.apply_text(&mut target, &words.join(",")), Ok(()), "{}", key.name);
                    assert_eq!(&get(&target), words, "{}", key.name);
                    assert!(key.apply_text(&mut target, "nonsense").is_err(), "{}", key.name);
                }
                Shape::Text { .. } => {
                    let optional = key.expects().contains("\"\" for");
                    assert_eq!(key.apply_text(&mut target, "").is_ok(), optional, "{}", key.name);
                    assert!(key.apply(&mut target, &ValueKind::I64(1)).is_err(), "{}", key.name);
                }
                Shape::Texts { get, .. } => {
                    let [one, two] = match key.name {
                        "origins" => ["https://one.example", "null"],
                        "trusted_proxies" | "bans.exempt" => ["10.0.0.0/8", "fd00::1/128"],
                        _ => ["one", "two"],
                    };
                    assert_eq!(key.apply(&mut target, &ValueKind::from(one)), Ok(()), "{}", key.name);
                    assert_eq!(get(&target), [one], "{}", key.name);
                    let both = format!("{one}, {two}");
                    assert_eq!(key.apply_text(&mut target, &both), Ok(()), "{}", key.name);
                    assert_eq!(get(&target), [one, two], "{}", key.name);
                    assert!(key.apply(&mut target, &ValueKind::from("")).is_err(), "{}", key.name);
                    assert!(key.apply(&mut target, &ValueKind::I64(1)).is_err(), "{}", key.name);
                }
            }
        }
    }
    walk(keys());
    walk(listener_keys());
    walk(RULE_KEYS.iter());
    walk(GROUP_KEYS.iter());
}

#[test]
fn a_level_is_a_word_or_a_list() {
    for level in ["info", "DEBUG", "off", "warn,fulmar::net=debug", "fulmar=trace, info"] {
        assert!(is_level_list(level), "{level}");
    }
    for level in ["", "inof", "info,", "fulmar=", "=info", "fulmar::net", "3"] {
        assert!(!is_level_list(level), "{level}");
    }
}
