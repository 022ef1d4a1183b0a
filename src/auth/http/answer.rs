//! What the service answers: text to a decision. Whatever is not understood in full is no answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use thiserror::Error;

use super::super::acl::parse_json;
use super::super::{Answer, Identity, Why};
use crate::config::Place;

/// What else may be said with `allow`.
const WITH_ALLOW: [&str; 4] = ["user", "groups", "acl", "lifetime"];

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// It is something else.
    #[error("it is no JSON object")]
    Form,
    /// The result is missing or unknown.
    #[error("\"result\" is not \"allow\", \"deny\" or \"ignore\"")]
    Result,
    /// Nobody was let in.
    #[error("it allows and names no user, and the client has no user name: say \"user\"")]
    NoUser,
    /// A member is not what it should be.
    #[error("{0:?} is not {1}")]
    Member(&'static str, &'static str),
    /// Something may be meant that would be overlooked.
    #[error("{0:?} is not known")]
    Unknown(String),
}

/// Reads an answer about a client with this user name.
pub(super) fn parse(body: &[u8], username: Option<&str>, now: Instant) -> Result<Answer, AnswerError> {
    let Ok(Value::Object(answer)) = serde_json::from_slice(body) else { return Err(AnswerError::Form) };
    match answer.get("result").and_then(Value::as_str) {
        Some("allow") => allow(&answer, username, now).map(Answer::Yes),
        Some("deny") => Ok(Answer::No(Why::Denied)),
        Some("ignore") => Ok(Answer::NotMine),
        Some(_) | None => Err(AnswerError::Result),
    }
}

fn allow(answer: &Map<String, Value>, username: Option<&str>, now: Instant) -> Result<Identity, AnswerError> {
    // A mistyped "acl" would allow everything.
    if let Some(unknown) =
        answer.keys().find(|name| *name != "result" && !WITH_ALLOW.contains(&name.as_str()))
    {
        return Err(AnswerError::Unknown(unknown.chars().take(50).collect()));
    }
    // What is null is not there.
    let member = |name: &str| answer.get(name).filter(|value| !value.is_null());
    let user = match member("user") {
        Some(user) => user.as_str().ok_or(AnswerError::Member("user", "a text"))?,
        None => username.unwrap_or_default(),
    };
    if user.is_empty() {
        return Err(AnswerError::NoUser);
    }
    let groups = match member("groups") {
        Some(groups) => groups_of(groups).ok_or(AnswerError::Member("groups", "a list of texts"))?,
        None => Box::default(),
    };
    let rules = match member("acl") {
        Some(rules) => {
            let place = Place::from(format!("the answer of auth.http_url about {user:?}"));
            let form = "of the form {\"pub\": [..], \"sub\": [..], \"all\": [..]} with topic filters";
            let rules = parse_json(rules, &place).ok_or(AnswerError::Member("acl", form))?;
            Some(Arc::new(rules))
        }
        None => None,
    };
    let expires = match member("lifetime") {
        Some(lifetime) => {
            let seconds = lifetime.as_f64().filter(|seconds| *seconds > 0.0);
            let lifetime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            // One that ends beyond all time does not end.
            now.checked_add(lifetime.ok_or(AnswerError::Member("lifetime", "a number of seconds above 0"))?)
        }
        None => None,
    };
    Ok(Identity { groups, rules, expires, ..Identity::of_user(user, "http") })
}

fn groups_of(value: &Value) -> Option<Box<[Arc<str>]>> {
    value.as_array()?.iter().map(|group| group.as_str().map(Arc::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::acl::Subject;
    use crate::topic::{TopicFilter, TopicName};

    fn read(body: &str, username: Option<&str>) -> Result<Answer, AnswerError> {
        parse(body.as_bytes(), username, Instant::now())
    }

    fn identity(body: &str, username: Option<&str>) -> Identity {
        match read(body, username) {
            Ok(Answer::Yes(identity)) => identity,
            other => panic!("{other:?}"),
        }
    }

    /// Whether it may publish to a topic and subscribe to it.
    fn may(identity: &Identity, topic: &str) -> (bool, bool) {
        let subject = Subject {
            user: identity.user.as_deref(),
            groups: &identity.groups,
            client_id: "c",
            address: None,
        };
        let permissions = identity.rules.as_ref().unwrap().permissions(&subject);
        let publish = permissions.publish(TopicName::parse(topic.as_bytes()).unwrap());
        let subscribe = permissions.subscribe(&TopicFilter::parse(topic).unwrap());
        (publish.allowed, subscribe.allowed)
    }

    #[test]
    fn an_answer_says_yes_no_or_not_mine() {
        assert_eq!(identity(r#"{"result":"allow"}"#, Some("ann")), Identity::of_user("ann", "http"));
        assert_eq!(
            identity(r#"{"result":"allow","user":"bo","acl":null}"#, None),
            Identity::of_user("bo", "http")
        );
        assert!(matches!(read(r#"{"result":"deny","reason":"late"}"#, None), Ok(Answer::No(Why::Denied))));
        assert!(matches!(read(r#"{"result":"ignore"}"#, None), Ok(Answer::NotMine)));
    }

    #[test]
    fn it_may_say_groups_rules_and_a_lifetime() {
        let body =
            r#"{"result":"allow","groups":["a","b"],"acl":{"pub":["in/%u/#"],"sub":"out"},"lifetime":1.5}"#;
        let now = Instant::now();
        let Ok(Answer::Yes(identity)) = parse(body.as_bytes(), Some("ann"), now) else { panic!() };
        assert_eq!(identity.groups.iter().map(|group| &**group).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(identity.expires, Some(now + Duration::from_millis(1_500)));
        assert!(identity.rules.is_some());
        assert_eq!(may(&identity, "in/ann/x"), (true, false));
        assert_eq!(may(&identity, "out"), (false, true));
        assert_eq!(may(&identity, "in/bo/x"), (false, false));
        let forever = self::identity(r#"{"result":"allow","lifetime":1.5e19}"#, Some("ann"));
        assert_eq!(forever.expires, None);
    }

    #[test]
    fn what_is_not_understood_is_no_answer() {
        for (body, error) in [
            ("", AnswerError::Form),
            ("allow", AnswerError::Form),
            ("[]", AnswerError::Form),
            (r#"{"result":"allow"} x"#, AnswerError::Form),
            ("{}", AnswerError::Result),
            (r#"{"result":"Allow"}"#, AnswerError::Result),
            (r#"{"result":true}"#, AnswerError::Result),
            (r#"{"result":"allow"}"#, AnswerError::NoUser),
            (r#"{"result":"allow","user":""}"#, AnswerError::NoUser),
            (r#"{"result":"allow","user":7}"#, AnswerError::Member("user", "a text")),
            (r#"{"result":"allow","user":"a","alc":{}}"#, AnswerError::Unknown("alc".to_owned())),
        ] {
            assert_eq!(read(body, None).unwrap_err(), error, "{body}");
        }
        for member in [
            r#""groups":"a""#,
            r#""groups":[1]"#,
            r#""acl":[]"#,
            r#""acl":{"pub":["a/#/b"]}"#,
            r#""acl":{"read":["a"]}"#,
            r#""lifetime":0"#,
            r#""lifetime":-1"#,
            r#""lifetime":"1""#,
        ] {
            let body = format!(r#"{{"result":"allow",{member}}}"#);
            assert!(matches!(read(&body, Some("ann")), Err(AnswerError::Member(..))), "{body}");
        }
    }

    #[test]
    fn no_answer_makes_it_stumble() {
        let body = br#"{"result":"allow","groups":["a"],"acl":{"pub":["in/%u/#"]},"lifetime":1.5}"#;
        for length in 0..body.len() {
            assert!(parse(&body[..length], Some("ann"), Instant::now()).is_err(), "cut at {length}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&deep, None).unwrap_err(), AnswerError::Form);
    }
}
