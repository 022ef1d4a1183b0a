//! Filling in `%u`, `%c` and `%g`: what a client is called becomes part of a filter, and never more of it than one level.

use std::sync::Arc;

use super::Subject;
use crate::config::{AclAction, AclRule};
use crate::topic::TopicFilter;

/// The filters that a rule's topic comes to for somebody: none if it has a placeholder that there is nothing for, one for
/// each of the user's groups with `%g`.
///
/// A value that would change the filter's shape makes an allowing rule fit nothing. A denying rule then fits
/// whatever stands in the place of the value: were it to fit nothing, the value would have opened what it closes.
pub(super) fn fill(
    topic: &str,
    rule: &AclRule,
    subject: &Subject<'_>,
    groups: &[Arc<str>],
) -> Vec<TopicFilter> {
    if rule.literal {
        return TopicFilter::parse(topic).into_iter().collect();
    }
    let groups: Vec<Option<&str>> =
        if topic.contains("%g") { groups.iter().map(|group| Some(&**group)).collect() } else { vec![None] };
    groups.into_iter().flat_map(|group| fill_one(topic, rule.action, subject, group)).collect()
}

fn fill_one(topic: &str, action: AclAction, subject: &Subject<'_>, group: Option<&str>) -> Vec<TopicFilter> {
    let value_of = |mark: &str| match mark {
        "%u" => subject.user,
        "%c" => Some(subject.client_id),
        _ => group,
    };
    let (mut exact, mut wide) = (Vec::new(), Vec::new());
    let mut is_safe = true;
    for (number, level) in topic.split('/').enumerate() {
        let mut filled = String::new();
        let mut rest = level;
        let mut has_mark = false;
        while let Some(position) = rest.find('%') {
            let (before, behind) = rest.split_at(position);
            filled.push_str(before);
            let mark = behind.get(..2).filter(|mark| matches!(*mark, "%u" | "%c" | "%g"));
            let Some(mark) = mark else {
                filled.push('%');
                rest = behind.get(1..).unwrap_or_default();
                continue;
            };
            let Some(value) = value_of(mark).filter(|value| !value.is_empty()) else { return Vec::new() };
            has_mark = true;
            is_safe &= !value.contains(['/', '+', '#', '\0']);
            // Such a level would reach what belongs to the broker.
            is_safe &=
                action == AclAction::Deny || number > 0 || !(filled.is_empty() && value.starts_with('$'));
            filled.push_str(value);
            rest = behind.get(2..).unwrap_or_default();
        }
        filled.push_str(rest);
        wide.push(if has_mark { "+".to_owned() } else { filled.clone() });
        exact.push(filled);
    }
    let parse = |levels: Vec<String>| TopicFilter::parse(&levels.join("/")).ok();
    match (is_safe, action) {
        (true, _) => parse(exact).into_iter().collect(),
        (false, AclAction::Allow) => Vec::new(),
        (false, AclAction::Deny) => parse(wide).into_iter().chain(parse(exact)).collect(),
    }
}
