use super::*;
use crate::config::{AclGroup, Place};
use proptest::prelude::*;

fn rule(action: AclAction, access: AclAccess, topics: &[&str]) -> AclRule {
    AclRule { action, access, topics: topics.iter().map(ToString::to_string).collect(), ..AclRule::default() }
}

fn allow(topics: &[&str]) -> AclRule {
    rule(AclAction::Allow, AclAccess::All, topics)
}

fn deny(topics: &[&str]) -> AclRule {
    rule(AclAction::Deny, AclAccess::All, topics)
}

fn acl(rules: &[AclRule]) -> Arc<Acl> {
    let rules = rules.iter().zip(1..).map(|(rule, line)| {
        let place = Place { name: "f".to_owned(), line: Some(line) };
        AclRule { place, ..rule.clone() }
    });
    let groups = vec![AclGroup { name: "ops".to_owned(), users: vec!["alice".to_owned()] }];
    Arc::new(Acl::new([config::Acl { rules: rules.collect(), groups }]))
}

fn subject<'a>(user: &'a str, client_id: &'a str) -> Subject<'a> {
    let address = Some("10.1.2.3".parse().unwrap());
    Subject { user: Some(user).filter(|user| !user.is_empty()), groups: &[], client_id, address }
}

/// User, client, what it wants, the topic, the line of the rule that decides (0: none), and whether it may.
#[test]
fn the_first_rule_that_fits_decides() {
    let user = |name: &str, rule: AclRule| AclRule { user: name.to_owned(), ..rule };
    let acl = acl(&[
        deny(&["secret/#"]),
        user("root", allow(&["#", "$SYS/#"])),
        rule(AclAction::Allow, AclAccess::Subscribe, &["news/+"]),
        AclRule { who: AclWho::Identified, ..allow(&["home/%u/#"]) },
        AclRule { group: "ops".to_owned(), ..allow(&["ops/%g/+"]) },
        AclRule { client: "sensor-*".to_owned(), access: AclAccess::Publish, ..allow(&["data/%c"]) },
        AclRule { address: "10.0.0.0/8".parse().ok(), ..allow(&["lan"]) },
        AclRule { address: "11.0.0.0/8".parse().ok(), ..allow(&["wan"]) },
        AclRule { who: AclWho::Anonymous, ..allow(&["lobby"]) },
    ]);
    use Access::{Publish, Receive, Subscribe};
    for (user, client, access, topic, line, allowed) in [
        ("root", "c", Publish, "secret/a", 1, false),
        ("root", "c", Publish, "a", 2, true),
        ("root", "c", Receive, "$SYS/broker", 2, true),
        ("bob", "c", Receive, "$SYS/broker", 0, false),
        ("bob", "c", Subscribe, "#", 3, true),
        ("bob", "c", Subscribe, "secret/+", 1, false),
        ("bob", "c", Subscribe, "other/#", 0, false),
        ("bob", "c", Receive, "news/today", 3, true),
        ("bob", "c", Publish, "news/today", 0, false),
        ("bob", "c", Publish, "home/bob/lamp", 4, true),
        ("bob", "c", Publish, "home/alice/lamp", 0, false),
        ("", "c", Publish, "home//lamp", 0, false),
        ("alice", "c", Publish, "ops/ops/x", 5, true),
        ("bob", "c", Publish, "ops/ops/x", 0, false),
        ("bob", "sensor-1", Publish, "data/sensor-1", 6, true),
        ("bob", "sensor-1", Receive, "data/sensor-1", 0, false),
        ("bob", "sensor-1", Publish, "data/sensor-2", 0, false),
        ("bob", "actor-1", Publish, "data/actor-1", 0, false),
        ("", "c", Publish, "lan", 7, true),
        ("", "c", Publish, "wan", 0, false),
        ("", "c", Publish, "lobby", 9, true),
        ("bob", "c", Publish, "lobby", 0, false),
    ] {
        let subject = subject(user, client);
        let decision = acl.permissions(&subject).decide_text(access, topic).unwrap();
        let case = format!("{user} {client} {access:?} {topic}");
        assert_eq!((decision.rule.map_or(0, |rule| rule + 1), decision.allowed), (line, allowed), "{case}");
        let told = acl.explain(&subject, access, topic).unwrap();
        let verdict = if allowed { "allowed: " } else { "denied: " };
        let by = if line == 0 { "no rule allows it".to_owned() } else { format!("f:{line} (") };
        assert!(told.last().unwrap().starts_with(&format!("{verdict}{by}")), "{case}: {told:?}");
        assert_eq!(told.len(), if line == 0 { 10 } else { line as usize }, "{case}: {told:?}");
    }
}

#[test]
fn limits_of_a_rule_are_part_of_what_it_decides() {
    let acl = acl(&[AclRule { max_qos: 1, retain: false, ..allow(&["a"]) }]);
    let subject = subject("u", "c");
    let decision = acl.permissions(&subject).decide_text(Access::Publish, "a").unwrap();
    assert_eq!((decision.maximum_qos, decision.retain), (QoS::AtLeastOnce, false));
    assert_eq!(
        acl.explain(&subject, Access::Publish, "a").unwrap(),
        ["allowed, up to QoS 1, not retained: f:1 (allow a)"]
    );
    assert_eq!(acl.explain(&subject, Access::Publish, "a/+"), None);
}

#[test]
fn a_value_with_a_meaning_of_its_own_opens_nothing_and_closes_what_it_closed() {
    let opening = acl(&[allow(&["home/%u/#", "%c/x", "a-%u"])]);
    let closing = acl(&[deny(&["home/%u/private", "%c/x"]), allow(&["#", "$SYS/#"])]);
    for value in ["+", "#", "a/b", "a/#", "+/+", "b/../c", "\u{0}"] {
        let subject = subject(value, value);
        let may = |acl: &Arc<Acl>, topic: &str| {
            acl.permissions(&subject).decide_text(Access::Publish, topic).is_some_and(|one| one.allowed)
        };
        for topic in ["home/alice/lamp", "home/a/b", "home/+", "b/x", "a/b/x", "a-a/b", "a-b", "home/"] {
            assert!(!may(&opening, topic), "{value:?} opened {topic}");
        }
        assert!(!may(&closing, "home/anybody/private"), "{value:?}");
        assert!(!may(&closing, "z/x"), "{value:?}");
        assert!(may(&closing, "home/anybody/public"));
    }
    let system = subject("u", "$SYS");
    assert!(
        !acl(&[allow(&["%c/#"])])
            .permissions(&system)
            .decide_text(Access::Receive, "$SYS/a")
            .unwrap()
            .allowed
    );
    let closed = acl(&[deny(&["%c/#"]), allow(&["$SYS/#"])]);
    assert!(!closed.permissions(&system).decide_text(Access::Receive, "$SYS/a").unwrap().allowed);
}

#[test]
fn a_star_stands_for_anything() {
    for (pattern, text, alike) in [
        ("*", "", true),
        ("*", "abc", true),
        ("a*", "a", true),
        ("a*", "ba", false),
        ("*a", "ba", true),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("aba*aba", "aba", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c", false),
        ("abc", "abc", true),
        ("abc", "abcd", false),
    ] {
        assert_eq!(is_like(pattern, text), alike, "{pattern} {text}");
    }
}

proptest! {
    /// Whatever a client is called, an allowing rule allows it no topic but those that have its very name, as one
    /// level or a part of one, where the placeholder stands.
    #[test]
    fn no_name_widens_a_rule(
        template in "(\\$s|[ab+]|%u|x%u|%uy)(/([ab+]|%u|x%u|%c)){0,3}(/#)?",
        user in "[ab+#/$ ]{0,4}",
        client in "[ab+#/$]{0,3}",
        topic in "[ab$x]{0,2}(/[ab]{0,2}){0,4}",
    ) {
        let Ok(topic) = TopicName::parse(topic.as_bytes()) else { return Ok(()) };
        let subject = subject(&user, &client);
        let decision = acl(&[allow(&[&template])]).permissions(&subject).publish(topic);
        if decision.allowed {
            let mut names = topic.levels();
            for level in template.split('/') {
                if level == "#" {
                    return Ok(());
                }
                let name = names.next();
                prop_assert!(name.is_some());
                let expected = level.replace("%u", &user).replace("%c", &client);
                prop_assert!(level == "+" || name == Some(expected.as_str()), "{template} {topic:?}");
            }
            prop_assert!(names.next().is_none(), "{template} {topic:?}");
            prop_assert!(!topic.is_system() || template.starts_with('$'), "{template} {topic:?}");
        }
    }

    /// A denying rule denies at least what it would deny with the name written out.
    #[test]
    fn no_name_narrows_a_denial(
        template in "([ab]|%u)(/([ab+]|%u)){0,2}(/#)?",
        user in "[ab+#/]{1,3}",
        topic in "[ab](/[ab]){0,4}",
    ) {
        let topic = TopicName::parse(topic.as_bytes()).unwrap();
        let Ok(literal) = TopicFilter::parse(&template.replace("%u", &user)) else { return Ok(()) };
        let decision = acl(&[deny(&[&template]), allow(&["#"])]).permissions(&subject(&user, "c")).publish(topic);
        if literal.matches(topic) {
            prop_assert!(!decision.allowed, "{template} {user} {topic:?}");
        }
    }

    /// What may be received through a subscription, may be subscribed to; and what may not be subscribed to brings
    /// nothing that may be received.
    #[test]
    fn a_refused_filter_hides_nothing_that_may_be_read(
        rules in proptest::collection::vec((any::<bool>(), "[ab+](/[ab+]){0,2}(/#)?|#"), 1..5),
        filter in "[ab+](/[ab+]){0,2}(/#)?|#",
        topic in "[ab](/[ab]){0,3}",
    ) {
        let rules: Vec<_> =
            rules.iter().map(|(good, topic)| if *good { allow(&[topic]) } else { deny(&[topic]) }).collect();
        let permissions = acl(&rules).permissions(&subject("u", "c"));
        let filter = TopicFilter::parse(&filter).unwrap();
        let topic = TopicName::parse(topic.as_bytes()).unwrap();
        if filter.matches(topic) && permissions.receive(topic).allowed {
            prop_assert!(permissions.subscribe(&filter).allowed);
        }
    }
}
