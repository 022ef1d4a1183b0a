//! Rules as others hand them to us in JSON: in a token, or in the answer of a service.

use serde_json::Value;

use super::Acl;
use crate::config::{self, AclAccess, AclRule, Place, is_acl_topic};

/// Topics of one kind at most.
const MOST_TOPICS: usize = 1_000;

/// Of `{"pub": [...], "sub": [...], "all": [...]}`, with topic filters; `None` if it is anything else. They allow nothing
/// that they do not name. `place` is told when one of them decides.
pub fn parse_json(value: &Value, place: &Place) -> Option<Acl> {
    let mut rules = Vec::new();
    for (name, topics) in value.as_object()? {
        let access = match name.as_str() {
            "pub" => AclAccess::Publish,
            "sub" => AclAccess::Subscribe,
            "all" => AclAccess::All,
            _ => return None,
        };
        let topics = texts(topics)?;
        if topics.len() > MOST_TOPICS || !topics.iter().all(|topic| is_acl_topic(topic)) {
            return None;
        }
        rules.push(AclRule { access, topics, place: place.clone(), ..AclRule::default() });
    }
    let rules = Acl::new([config::Acl { rules, groups: Vec::new() }]);
    Some(Acl { origin: Some(place.clone()), ..rules })
}

/// A text or a list of them.
pub fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => values.iter().map(|value| Some(value.as_str()?.to_owned())).collect(),
        Value::Number(number) => Some(vec![number.to_string()]),
        Value::Bool(boolean) => Some(vec![boolean.to_string()]),
        Value::Null | Value::Object(_) => None,
    }
}
