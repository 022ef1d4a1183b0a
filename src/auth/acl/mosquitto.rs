//! The `acl_file` of mosquitto, read as rules of ours.
//!
//! Its lines: `topic [read|write|readwrite|deny] FILTER` for clients without a user name, or below `user NAME` for that
//! user; `pattern [...] FILTER` with `%u` and `%c` for everyone. There, a denial goes before all else of its kind,
//! and what a user's own lines say goes before the patterns, wherever they stand; so it is here.

use thiserror::Error;

use crate::config::{Acl, AclAccess, AclAction, AclRule, AclWho, Place, is_acl_topic};
use crate::topic::TopicFilter;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{fault}")]
pub struct MosquittoAclError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub fault: String,
}

/// Reads a file's text; `name` is what its rules say of where they stand.
///
/// # Errors
/// The first line that is wrong.
pub fn parse_mosquitto(name: &str, text: &str) -> Result<Acl, MosquittoAclError> {
    let mut user: Option<&str> = None;
    let (mut own, mut patterns) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let wrong = |fault: String| MosquittoAclError { line: line_number, fault };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return Err(wrong(format!("expected something behind {word:?}")));
        }
        let place = Place { name: name.to_owned(), line: Some(line_number) };
        match word {
            "user" => user = Some(rest),
            "topic" => {
                let (action, access, topic) = entry(rest).map_err(wrong)?;
                TopicFilter::parse(topic)
                    .map_err(|error| wrong(format!("{topic:?} is no topic filter: {error}")))?;
                let who = if user.is_some() { AclWho::Identified } else { AclWho::Anonymous };
                // In these lines nothing stands for anything else.
                let user = user.unwrap_or_default().to_owned();
                own.push(AclRule { who, literal: true, user, ..rule(action, access, topic, place) });
            }
            "pattern" => {
                let (action, access, topic) = entry(rest).map_err(wrong)?;
                if !is_acl_topic(topic) {
                    return Err(wrong(format!("{topic:?} is no topic filter")));
                }
                patterns.push(rule(action, access, topic, place));
            }
            _ => {
                return Err(wrong(format!("expected a line with user, topic or pattern, not {word:?}")));
            }
        }
    }
    let denials_first = |rules: Vec<AclRule>| {
        let (denials, others): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| rule.action == AclAction::Deny);
        denials.into_iter().chain(others)
    };
    let mut rules: Vec<_> = denials_first(own).chain(denials_first(patterns)).collect();
    if rules.is_empty() {
        // A file without a rule denies everything, as it does there.
        let place = Place { name: name.to_owned(), line: None };
        rules.push(rule(AclAction::Deny, AclAccess::All, "#", place));
    }
    Ok(Acl { rules, groups: Vec::new() })
}

fn rule(action: AclAction, access: AclAccess, topic: &str, place: Place) -> AclRule {
    AclRule { action, access, topics: vec![topic.to_owned()], place, ..AclRule::default() }
}

fn entry(text: &str) -> Result<(AclAction, AclAccess, &str), String> {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or(("", text));
    let kind = match word {
        "read" => Some((AclAction::Allow, AclAccess::Subscribe)),
        "write" => Some((AclAction::Allow, AclAccess::Publish)),
        "readwrite" => Some((AclAction::Allow, AclAccess::All)),
        "deny" => Some((AclAction::Deny, AclAccess::All)),
        _ => None,
    };
    match kind {
        Some((action, access)) => Ok((action, access, rest.trim())),
        // Without one of these words, all of it is the filter, which may have spaces.
        None => Ok((AclAction::Allow, AclAccess::All, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rules_denials_first() {
        let text = "# general\ntopic read news/#\n\nuser alice smith\ntopic home/a b\ntopic write %u/x\n\
                    topic deny home/a/secret\npattern readwrite dev/%c/#\npattern deny dev/%u\n";
        let acl = parse_mosquitto("f", text).unwrap();
        let found: Vec<_> = acl
            .rules
            .iter()
            .map(|rule| {
                (rule.place.line.unwrap(), rule.action, rule.access, rule.topics[0].as_str(), rule.who)
            })
            .collect();
        use {AclAccess as Of, AclAction as Act};
        assert_eq!(
            found,
            [
                (7, Act::Deny, Of::All, "home/a/secret", AclWho::Identified),
                (2, Act::Allow, Of::Subscribe, "news/#", AclWho::Anonymous),
                (5, Act::Allow, Of::All, "home/a b", AclWho::Identified),
                (6, Act::Allow, Of::Publish, "%u/x", AclWho::Identified),
                (9, Act::Deny, Of::All, "dev/%u", AclWho::Anyone),
                (8, Act::Allow, Of::All, "dev/%c/#", AclWho::Anyone),
            ]
        );
        assert!(acl.rules.iter().filter(|rule| rule.literal).all(|rule| rule.place.line < Some(8)));
        assert_eq!(acl.rules[0].user, "alice smith");
    }

    #[test]
    fn a_wrong_line_is_told() {
        for (text, line, fault) in [
            ("topic", 1, "expected something behind \"topic\""),
            ("\ntopics read a", 2, "expected a line with user, topic or pattern"),
            ("topic read a/#/b", 1, "\"a/#/b\" is no topic filter"),
            ("pattern write a+", 1, "\"a+\" is no topic filter"),
        ] {
            let error = parse_mosquitto("f", text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.fault.starts_with(fault), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_without_rules_denies() {
        let acl = parse_mosquitto("f", "# nothing yet\nuser bob\n").unwrap();
        assert_eq!((acl.rules.len(), acl.rules[0].action), (1, AclAction::Deny));
    }
}
