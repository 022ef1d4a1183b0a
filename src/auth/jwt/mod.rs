//! JSON Web Tokens in the password, RFC 7519: who signed it says who the client is, until when, and what it may do.
//!
//! Called by [`super::Auth`]. What always holds: a key verifies the algorithms of its own kind and no others, so a public
//! key never serves as a secret (RFC 8725 §2.1), and `none` is no algorithm; a claim that the configuration requires is
//! there. A password that does not look like a token is not ours to judge.

mod keys;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use thiserror::Error;

pub use keys::{Keys, KeysError};

use super::Identity;
use super::acl::Acl;
use crate::config::{self, AclAccess, AclRule, Place, is_acl_topic};

/// How far the clocks of issuer and broker may be apart for a token that is not valid yet.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Rules in one token at most.
const MOST_RULES: usize = 1_000;

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// No key of this kind, or with this `kid`.
    #[error("no key is known for its algorithm and key identifier")]
    NoKey,
    /// The signature is another one.
    #[error("its signature is not right")]
    Signature,
    /// `exp` has passed.
    #[error("it has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("it is not valid yet")]
    NotYet,
    /// A claim of `auth.jwt_require` is missing or another one.
    #[error("a claim that auth.jwt_require names is missing or has another value")]
    Claim,
    /// There is no user in it.
    #[error("it names no user (auth.jwt_user_claim)")]
    NoUser,
    /// Its rules are none.
    #[error(
        "its rules (auth.jwt_acl_claim) are not of the form {{\"pub\": [..], \"sub\": [..], \"all\": [..]}}"
    )]
    Rules,
}

/// What tokens must be like.
#[derive(Debug)]
pub struct Tokens {
    keys: Keys,
    settings: config::Jwt,
}

impl Tokens {
    /// With keys that were read.
    pub fn new(keys: Keys, settings: config::Jwt) -> Self {
        Self { keys, settings }
    }

    /// Who a password says its client is; `None` if it is no token.
    pub fn check(
        &self,
        password: &[u8],
        now: SystemTime,
        instant: Instant,
    ) -> Option<Result<Identity, TokenError>> {
        let token = Token::parse(std::str::from_utf8(password).ok()?)?;
        Some(self.judge(&token, now, instant))
    }

    fn judge(&self, token: &Token<'_>, now: SystemTime, instant: Instant) -> Result<Identity, TokenError> {
        let kid = token.header.get("kid").and_then(Value::as_str);
        let algorithm = token.header.get("alg").and_then(Value::as_str).unwrap_or_default();
        self.keys.verify(algorithm, kid, token.signed.as_bytes(), &token.signature)?;
        let claims = &token.claims;
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = time_of(claims.get("exp"));
        if claims.contains_key("exp") && expires.is_none_or(|expires| expires <= seconds) {
            return Err(TokenError::Expired);
        }
        if claims.contains_key("nbf")
            && time_of(claims.get("nbf")).is_none_or(|begins| begins > seconds + CLOCK_SKEW)
        {
            return Err(TokenError::NotYet);
        }
        if !self.settings.require.iter().all(|wanted| is_met(wanted, claims)) {
            return Err(TokenError::Claim);
        }
        let user = claims.get(&self.settings.user_claim).and_then(Value::as_str).unwrap_or_default();
        if user.is_empty() {
            return Err(TokenError::NoUser);
        }
        let groups = texts(claims.get(&self.settings.groups_claim)).unwrap_or_default();
        let rules = match claims.get(&self.settings.acl_claim) {
            Some(rules) => Some(Arc::new(rules_of(rules, user)?)),
            None => None,
        };
        Ok(Identity {
            groups: groups.into_iter().map(Arc::from).collect(),
            rules,
            expires: expires.and_then(|expires| instant.checked_add(expires.saturating_sub(seconds))),
            ..Identity::of_user(user, "jwt")
        })
    }
}

/// A token taken apart; nothing in it is believed yet.
struct Token<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| match serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()? {
            Value::Object(object) => Some(object),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
        };
        let header = object(header)?;
        header.contains_key("alg").then_some(())?;
        Some(Self {
            header,
            claims: object(claims)?,
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }
}

/// A NumericDate, which may have a fraction.
fn time_of(value: Option<&Value>) -> Option<Duration> {
    Duration::try_from_secs_f64(value?.as_f64()?).ok()
}

/// `name` must be there, or with `name=value` be this; of several values, one.
fn is_met(wanted: &str, claims: &Map<String, Value>) -> bool {
    match wanted.split_once('=') {
        None => claims.contains_key(wanted),
        Some((name, value)) => {
            texts(claims.get(name)).is_some_and(|values| values.iter().any(|one| one == value))
        }
    }
}

/// A text or a list of them.
fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => values.iter().map(|value| Some(value.as_str()?.to_owned())).collect(),
        Value::Number(number) => Some(vec![number.to_string()]),
        Value::Bool(boolean) => Some(vec![boolean.to_string()]),
        Value::Null | Value::Object(_) => None,
    }
}

/// What a token allows; it allows nothing else, whatever the rules of the configuration say.
fn rules_of(value: &Value, user: &str) -> Result<Acl, TokenError> {
    let object = value.as_object().ok_or(TokenError::Rules)?;
    let mut rules = Vec::new();
    for (name, topics) in object {
        let access = match name.as_str() {
            "pub" => AclAccess::Publish,
            "sub" => AclAccess::Subscribe,
            "all" => AclAccess::All,
            _ => return Err(TokenError::Rules),
        };
        let topics = texts(Some(topics)).ok_or(TokenError::Rules)?;
        if topics.len() > MOST_RULES || !topics.iter().all(|topic| is_acl_topic(topic)) {
            return Err(TokenError::Rules);
        }
        let place = Place::from(format!("the token of {user:?}"));
        rules.push(AclRule { access, topics, place, ..AclRule::default() });
    }
    Ok(Acl::new([config::Acl { rules, groups: Vec::new() }]))
}

#[cfg(test)]
mod tests;
