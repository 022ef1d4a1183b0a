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
use super::acl::{parse_json, texts};
use crate::config::{self, Place};

/// How far the clocks of issuer and broker may be apart for a token that is not valid yet.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

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
    /// Its groups are none: a rule that denies something to a group would be overlooked.
    #[error("its groups (auth.jwt_groups_claim) are no list of texts")]
    Groups,
    /// Its rules are none.
    #[error(
        "its rules (auth.jwt_acl_claim) are not of the form {{\"pub\": [..], \"sub\": [..], \"all\": [..]}}"
    )]
    Rules,
}

/// What tokens must be like.
#[derive(Debug, PartialEq, Eq)]
pub struct Tokens {
    keys: Keys,
    settings: config::Jwt,
}

impl Tokens {
    /// With keys that were read.
    pub fn new(keys: Keys, settings: config::Jwt) -> Self {
        Self { keys, settings }
    }

    /// Whether the same keys verify both.
    pub fn has_keys_of(&self, other: &Self) -> bool {
        self.keys == other.keys
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
        let groups = match claims.get(&self.settings.groups_claim).filter(|groups| !groups.is_null()) {
            Some(groups) => texts(groups).ok_or(TokenError::Groups)?,
            None => Vec::new(),
        };
        let rules = match claims.get(&self.settings.acl_claim) {
            Some(rules) => {
                let place = Place::from(format!("the token of {user:?}"));
                Some(Arc::new(parse_json(rules, &place).ok_or(TokenError::Rules)?))
            }
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
            claims.get(name).and_then(texts).is_some_and(|values| values.iter().any(|one| one == value))
        }
    }
}

#[cfg(test)]
mod tests;
