//! The keys that tokens are verified with: a secret, a public key in PEM, or a set of either (JWKS, RFC 7517).
//!
//! Read at start and at every reload. The crypto is ring's; what is here finds the key and says what it may verify.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;
use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::TokenError;

/// A shorter secret can be found by trying (RFC 7518 §3.2).
const SHORTEST_SECRET: usize = 32;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub struct Keys(Vec<Named>);

#[derive(Debug, PartialEq, Eq)]
struct Named {
    /// `kid`; a key without one serves for every token.
    name: Option<String>,
    key: Key,
}

/// A key that can verify.
#[derive(PartialEq, Eq)]
enum Key {
    Secret(Box<[u8]>),
    /// In DER, as PKCS#1 has it.
    Rsa(Box<[u8]>),
    RsaNumbers {
        modulus: Box<[u8]>,
        exponent: Box<[u8]>,
    },
    /// An uncompressed point.
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

impl fmt::Debug for Key {
    /// Without the key, which must not come into a log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(..)")
    }
}

/// What is wrong with a file of keys.
#[derive(Debug, Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("{}: the keys cannot be read: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// What it holds is no key.
    #[error("{fault}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        fault: String,
    },
}

impl Keys {
    /// Reads a file: a JWKS if it is JSON, public keys if it is PEM, a secret otherwise.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let bytes = fs::read(path).map_err(|error| KeysError::Unreadable { path: path.to_owned(), error })?;
        Self::parse(&bytes).map_err(|fault| KeysError::Key { path: path.to_owned(), fault })
    }

    /// The same from what is in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
        let keys = if text.starts_with('{') {
            parse_set(text)?
        } else if text.contains("-----BEGIN ") {
            parse_pem(text)?
        } else {
            let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            vec![Named { name: None, key: secret_key(secret)? }]
        };
        if keys.is_empty() {
            Err("there is no key in it that can verify a token".to_owned())
        } else {
            Ok(Self(keys))
        }
    }

    /// Whether one of the keys made a signature.
    pub(super) fn verify(
        &self,
        algorithm: &str,
        name: Option<&str>,
        message: &[u8],
        signed: &[u8],
    ) -> Result<(), TokenError> {
        let mut outcome = Err(TokenError::NoKey);
        for named in &self.0 {
            let is_other = matches!((&named.name, name), (Some(own), Some(asked)) if own != asked);
            match (is_other, named.key.verify(algorithm, message, signed)) {
                (true, _) | (_, None) => {}
                (false, Some(true)) => return Ok(()),
                (false, Some(false)) => outcome = Err(TokenError::Signature),
            }
        }
        outcome
    }
}

impl Key {
    /// Whether it made a signature; `None` if it is not for this algorithm.
    fn verify(&self, algorithm: &str, message: &[u8], signed: &[u8]) -> Option<bool> {
        let by_public = |kind: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            Some(UnparsedPublicKey::new(kind, key).verify(message, signed).is_ok())
        };
        match self {
            Self::Secret(secret) => {
                let kind = match algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => return None,
                };
                Some(hmac::verify(&hmac::Key::new(kind, secret), message, signed).is_ok())
            }
            Self::Rsa(key) => by_public(rsa(algorithm)?, key),
            Self::RsaNumbers { modulus, exponent } => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                Some(key.verify(rsa(algorithm)?, message, signed).is_ok())
            }
            Self::P256(key) if algorithm == "ES256" => by_public(&signature::ECDSA_P256_SHA256_FIXED, key),
            Self::P384(key) if algorithm == "ES384" => by_public(&signature::ECDSA_P384_SHA384_FIXED, key),
            Self::Ed25519(key) if algorithm == "EdDSA" => by_public(&signature::ED25519, key),
            Self::P256(_) | Self::P384(_) | Self::Ed25519(_) => None,
        }
    }
}

fn rsa(algorithm: &str) -> Option<&'static signature::RsaParameters> {
    match algorithm {
        "RS256" => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        _ => None,
    }
}

fn secret_key(secret: &[u8]) -> Result<Key, String> {
    if secret.len() < SHORTEST_SECRET {
        return Err(format!(
            "the secret has {} bytes; expected {SHORTEST_SECRET} at least, as a shorter one can be found by trying",
            secret.len()
        ));
    }
    Ok(Key::Secret(secret.into()))
}

fn parse_pem(text: &str) -> Result<Vec<Named>, String> {
    let mut keys = Vec::new();
    for part in text.split("-----BEGIN ").skip(1) {
        let (label, rest) = part.split_once("-----").ok_or("the PEM is damaged")?;
        if label != "PUBLIC KEY" {
            return Err(format!("a {label} is in it; expected a PUBLIC KEY"));
        }
        let (body, _) = rest.split_once("-----END").ok_or("the PEM is damaged")?;
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| "the PEM is damaged")?;
        keys.push(Named { name: None, key: public_key(&der)? });
    }
    Ok(keys)
}

fn public_key(der: &[u8]) -> Result<Key, String> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| "the public key is damaged")?;
    let key: Box<[u8]> = info.subject_public_key.data.as_ref().into();
    match (info.algorithm.algorithm.to_id_string().as_str(), key.len()) {
        ("1.2.840.113549.1.1.1", _) => Ok(Key::Rsa(key)),
        ("1.2.840.10045.2.1", 65) => Ok(Key::P256(key)),
        ("1.2.840.10045.2.1", 97) => Ok(Key::P384(key)),
        ("1.3.101.112", 32) => Ok(Key::Ed25519(key)),
        _ => {
            Err("the public key is of a kind that is not known; expected RSA, P-256, P-384 or Ed25519"
                .to_owned())
        }
    }
}

fn parse_set(text: &str) -> Result<Vec<Named>, String> {
    let set: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("expected a JSON object with \"keys\"")?;
    let mut found = Vec::new();
    for key in keys {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        // Keys for encryption may stand beside those for signatures.
        if text("use").is_some_and(|used| used != "sig") {
            continue;
        }
        let name = text("kid").map(str::to_owned);
        let of = name.as_deref().unwrap_or("without kid");
        let bytes = |field: &str| {
            let value = text(field).and_then(|value| URL_SAFE_NO_PAD.decode(value).ok());
            value.ok_or_else(|| format!("key {of}: {field:?} is missing or no base64url"))
        };
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            let fits = x.len() == size && y.len() == size;
            let point = || [&[4][..], &x, &y].concat().into_boxed_slice();
            fits.then(point).ok_or_else(|| format!("key {of}: its point is not on that curve"))
        };
        let key = match (text("kty").unwrap_or_default(), text("crv").unwrap_or_default()) {
            ("oct", _) => secret_key(&bytes("k")?).map_err(|fault| format!("key {of}: {fault}"))?,
            ("RSA", _) => Key::RsaNumbers { modulus: bytes("n")?.into(), exponent: bytes("e")?.into() },
            ("EC", "P-256") => Key::P256(point(32)?),
            ("EC", "P-384") => Key::P384(point(48)?),
            ("OKP", "Ed25519") => Key::Ed25519(bytes("x")?.into()),
            // A set may hold what others need.
            (_, _) => continue,
        };
        found.push(Named { name, key });
    }
    Ok(found)
}
