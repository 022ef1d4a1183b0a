//! A password as it is kept: hashed, in one of the forms that password files have.
//!
//! Called by [`super::hashing`] off the threads that serve clients, and by `fulmar passwd`. The forms:
//! `$argon2id$` (RFC 9106, as a PHC string), which is what we write, and the two of mosquitto_passwd, `$7$` (PBKDF2 with
//! SHA-512) and `$6$` (one SHA-512). What always holds: a comparison takes as long whatever differs; no hash that is
//! read can ask for more than [`MOST_MEMORY`] or for minutes of work.

use std::fmt;
use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::{digest, pbkdf2};
use subtle::ConstantTimeEq;

use super::scram::{Form, SALT_LENGTH, Verifier};
use thiserror::Error;

/// What a new hash costs: 19 MiB and two passes, the least that OWASP advises for argon2id.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The most that a hash may ask for: memory in KiB, passes, rounds of PBKDF2.
const MOST_MEMORY: u32 = 1 << 20;
const MOST_PASSES: u32 = 64;
const MOST_LANES: u32 = 64;
const MOST_ROUNDS: u32 = 10_000_000;

const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// `$argon2id$v=19$m=...,t=...,p=...$salt$hash`
    Argon2id {
        /// Memory in KiB.
        memory: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
        /// The salt.
        salt: Box<[u8]>,
        /// The hash.
        hash: Box<[u8]>,
    },
    /// `$7$rounds$salt$hash`
    Pbkdf2 {
        /// Rounds.
        rounds: NonZeroU32,
        /// The salt.
        salt: Box<[u8]>,
        /// The hash.
        hash: Box<[u8]>,
    },
    /// `$scram-sha-256$rounds$salt$stored$server`: what RFC 5802 keeps of a password.
    Scram(Box<Verifier>),
    /// `$6$salt$hash`
    Sha512 {
        /// The salt, put behind the password.
        salt: Box<[u8]>,
        /// The hash.
        hash: Box<[u8]>,
    },
}

/// Why a text is no hashed password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PasswordError {
    /// It begins with none of the known marks.
    #[error(
        "the password is not hashed, or in a form that is not known here: expected $argon2id$, $scram-sha-256$, $7$ or $6$"
    )]
    Form,
    /// Its parts are not what the form asks for.
    #[error("the hashed password is damaged")]
    Damaged,
    /// It would take too much.
    #[error("the hashed password asks for more work than is allowed here")]
    TooExpensive,
    /// A new one could not be made.
    #[error("the system has no randomness to give")]
    Randomness,
}

impl Password {
    /// Hashes a new password.
    ///
    /// # Errors
    /// When there is no randomness for the salt.
    pub fn make(password: &[u8]) -> Result<Self, PasswordError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|_| PasswordError::Randomness)?;
        Self::argon2id(password, &salt, MEMORY, PASSES, LANES)
    }

    /// Keeps of a new password what SCRAM-SHA-256 needs.
    ///
    /// # Errors
    /// When there is no randomness for the salt.
    pub fn make_scram(password: &[u8]) -> Result<Self, PasswordError> {
        let mut salt = [0; SALT_LENGTH];
        getrandom::fill(&mut salt).map_err(|_| PasswordError::Randomness)?;
        Ok(Self::Scram(Box::new(Verifier::of(password, &salt, Form::default().rounds))))
    }

    /// What SCRAM-SHA-256 needs of it, if it was kept for that.
    pub fn verifier(&self) -> Option<&Verifier> {
        match self {
            Self::Scram(verifier) => Some(verifier),
            Self::Argon2id { .. } | Self::Pbkdf2 { .. } | Self::Sha512 { .. } => None,
        }
    }

    /// One that nobody knows the password of, which takes as long to check as a new one.
    pub fn decoy() -> Self {
        Self::Argon2id {
            memory: MEMORY,
            passes: PASSES,
            lanes: LANES,
            salt: Box::new([0; SALT_BYTES]),
            hash: Box::new([0; HASH_BYTES]),
        }
    }

    /// The same for passwords kept like this one.
    pub fn decoy_like(&self) -> Self {
        let nothing = |hash: &[u8]| vec![0; hash.len()].into_boxed_slice();
        let mut decoy = self.clone();
        match &mut decoy {
            Self::Argon2id { hash, .. } | Self::Pbkdf2 { hash, .. } | Self::Sha512 { hash, .. } => {
                *hash = nothing(hash);
            }
            Self::Scram(verifier) => verifier.stored_key = [0; digest::SHA256_OUTPUT_LEN],
        }
        decoy
    }

    /// Whether checking this one is the same work as checking the other.
    pub fn costs_what(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Argon2id { memory, passes, lanes, salt: _, hash },
                Self::Argon2id {
                    memory: of_memory,
                    passes: of_passes,
                    lanes: of_lanes,
                    salt: _,
                    hash: of_hash,
                },
            ) => (memory, passes, lanes) == (of_memory, of_passes, of_lanes) && hash.len() == of_hash.len(),
            (Self::Pbkdf2 { rounds, .. }, Self::Pbkdf2 { rounds: of, .. }) => rounds == of,
            (Self::Scram(verifier), Self::Scram(of)) => verifier.rounds == of.rounds,
            (Self::Sha512 { .. }, Self::Sha512 { .. }) => true,
            (Self::Argon2id { .. } | Self::Pbkdf2 { .. } | Self::Scram(_) | Self::Sha512 { .. }, _) => false,
        }
    }

    /// Reads the form in which a password stands in a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        let parts: Vec<&str> = text.split('$').collect();
        match parts.as_slice() {
            ["", "argon2id", "v=19", parameters, salt, hash] => parse_argon2id(parameters, salt, hash),
            ["", "7", rounds, salt, hash] => {
                let rounds = parse_rounds(rounds)?;
                let (salt, hash) = (decode(salt)?, decode_sha512(hash)?);
                Ok(Self::Pbkdf2 { rounds, salt, hash })
            }
            ["", "6", salt, hash] => Ok(Self::Sha512 { salt: decode(salt)?, hash: decode_sha512(hash)? }),
            ["", "scram-sha-256", rounds, salt, stored, server] => {
                let rounds = parse_rounds(rounds)?;
                let key = |text| decode(text)?.as_ref().try_into().map_err(|_| PasswordError::Damaged);
                let (stored_key, server_key) = (key(stored)?, key(server)?);
                Ok(Self::Scram(Box::new(Verifier { rounds, salt: decode(salt)?, stored_key, server_key })))
            }
            ["", "argon2id" | "7" | "6" | "scram-sha-256", ..] => Err(PasswordError::Damaged),
            _ => Err(PasswordError::Form),
        }
    }

    /// Whether this is the password. Takes long on purpose: never to be called where clients are served.
    pub fn is(&self, password: &[u8]) -> bool {
        self.is_with(password, &mut Vec::new())
    }

    /// As [`Password::is`], in memory that is kept for the next.
    pub(super) fn is_with(&self, password: &[u8], blocks: &mut Vec<Block>) -> bool {
        match self {
            Self::Argon2id { memory, passes, lanes, salt, hash } => {
                let mut computed = vec![0; hash.len()];
                argon2id_into(password, salt, (*memory, *passes, *lanes), &mut computed, blocks).is_ok()
                    && bool::from(computed.ct_eq(hash))
            }
            Self::Pbkdf2 { rounds, salt, hash } => {
                let mut computed = [0; digest::SHA512_OUTPUT_LEN];
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, *rounds, salt, password, &mut computed);
                computed.ct_eq(hash).into()
            }
            Self::Scram(verifier) => {
                let computed = Verifier::of(password, &verifier.salt, verifier.rounds);
                computed.stored_key.ct_eq(&verifier.stored_key).into()
            }
            Self::Sha512 { salt, hash } => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(salt);
                context.finish().as_ref().ct_eq(hash).into()
            }
        }
    }

    fn argon2id(
        password: &[u8],
        salt: &[u8],
        memory: u32,
        passes: u32,
        lanes: u32,
    ) -> Result<Self, PasswordError> {
        let mut hash = [0; HASH_BYTES];
        argon2id_into(password, salt, (memory, passes, lanes), &mut hash, &mut Vec::new())?;
        Ok(Self::Argon2id { memory, passes, lanes, salt: salt.into(), hash: Box::new(hash) })
    }

    #[cfg(test)]
    pub(super) fn make_cheap(password: &[u8]) -> Self {
        Self::make_with(password, 64)
    }

    #[cfg(test)]
    pub(super) fn make_with(password: &[u8], memory: u32) -> Self {
        Self::argon2id(password, b"saltsalt", memory, 1, 1).expect("they are within the bounds")
    }

    #[cfg(test)]
    pub(super) fn make_pbkdf2(password: &[u8], rounds: u32) -> Self {
        let rounds = NonZeroU32::new(rounds).expect("not zero");
        let mut hash = [0; digest::SHA512_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, b"salt", password, &mut hash);
        Self::Pbkdf2 { rounds, salt: (*b"salt").into(), hash: hash.into() }
    }
}

impl fmt::Display for Password {
    /// As it stands in a file.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argon2id { memory, passes, lanes, salt, hash } => {
                let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
                write!(formatter, "$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}")
            }
            Self::Pbkdf2 { rounds, salt, hash } => {
                write!(formatter, "$7${rounds}${}${}", STANDARD.encode(salt), STANDARD.encode(hash))
            }
            Self::Scram(verifier) => {
                let Verifier { rounds, salt, stored_key, server_key } = &**verifier;
                let (salt, stored, server) =
                    (STANDARD.encode(salt), STANDARD.encode(stored_key), STANDARD.encode(server_key));
                write!(formatter, "$scram-sha-256${rounds}${salt}${stored}${server}")
            }
            Self::Sha512 { salt, hash } => {
                write!(formatter, "$6${}${}", STANDARD.encode(salt), STANDARD.encode(hash))
            }
        }
    }
}

impl fmt::Debug for Password {
    /// Without the hash, which must not come into a log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(..)")
    }
}

fn parse_rounds(text: &str) -> Result<NonZeroU32, PasswordError> {
    let rounds: NonZeroU32 = text.parse().map_err(|_| PasswordError::Damaged)?;
    if rounds.get() > MOST_ROUNDS { Err(PasswordError::TooExpensive) } else { Ok(rounds) }
}

fn parse_argon2id(parameters: &str, salt: &str, hash: &str) -> Result<Password, PasswordError> {
    let (mut memory, mut passes, mut lanes) = (None, None, None);
    for parameter in parameters.split(',') {
        let (name, value) = parameter.split_once('=').ok_or(PasswordError::Damaged)?;
        let value: u32 = value.parse().map_err(|_| PasswordError::Damaged)?;
        let field = match name {
            "m" => &mut memory,
            "t" => &mut passes,
            "p" => &mut lanes,
            _ => return Err(PasswordError::Damaged),
        };
        *field = Some(value);
    }
    let (Some(memory), Some(passes), Some(lanes)) = (memory, passes, lanes) else {
        return Err(PasswordError::Damaged);
    };
    if memory > MOST_MEMORY || passes > MOST_PASSES || lanes > MOST_LANES {
        return Err(PasswordError::TooExpensive);
    }
    let decode = |text| STANDARD_NO_PAD.decode(text).map_err(|_| PasswordError::Damaged);
    let (salt, hash) = (decode(salt)?, decode(hash)?);
    let in_bounds = Params::new(memory, passes, lanes, Some(hash.len())).is_ok()
        && (argon2::MIN_SALT_LEN..=64).contains(&salt.len())
        && (16..=64).contains(&hash.len());
    if !in_bounds {
        return Err(PasswordError::Damaged);
    }
    Ok(Password::Argon2id { memory, passes, lanes, salt: salt.into(), hash: hash.into() })
}

fn argon2id_into(
    password: &[u8],
    salt: &[u8],
    (memory, passes, lanes): (u32, u32, u32),
    hash: &mut [u8],
    blocks: &mut Vec<Block>,
) -> Result<(), PasswordError> {
    let parameters =
        Params::new(memory, passes, lanes, Some(hash.len())).map_err(|_| PasswordError::Damaged)?;
    blocks.resize(parameters.block_count(), Block::new());
    blocks.shrink_to(parameters.block_count());
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into_with_memory(password, salt, hash, blocks.as_mut_slice())
        .map_err(|_| PasswordError::Damaged)
}

fn decode(text: &str) -> Result<Box<[u8]>, PasswordError> {
    STANDARD.decode(text).map(Into::into).map_err(|_| PasswordError::Damaged)
}

fn decode_sha512(text: &str) -> Result<Box<[u8]>, PasswordError> {
    decode(text).ok().filter(|hash| hash.len() == digest::SHA512_OUTPUT_LEN).ok_or(PasswordError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by mosquitto_passwd 2.0.
    const SHA512: &str = "$6$CchuyhFXoutwVNAD$53qF8eYe9QiG70OMe7QpAknREcDqAQ1sBrGzucbFNbhZrW6HjMH5LPc358TTD0uvWenHtcrwA1zHjZ5d1b8JjQ==";
    const PBKDF2: &str = "$7$101$HrAtparnnTWRAWTU$ErZaslRr+JyKXJW/oumkmKntKRtvHfzF8LUot+uDqlxl5Kc+0StYX0+w34BztWTLryZurD4afUw00ghhUYr7qA==";

    #[test]
    fn what_mosquitto_passwd_writes_is_read() {
        for (text, password) in [(SHA512, "wonderland"), (PBKDF2, "looking-glass")] {
            let hashed = Password::parse(text).unwrap();
            assert!(hashed.is(password.as_bytes()), "{text}");
            for wrong in ["", "wonderlan", "wonderland ", "Looking-glass"] {
                assert!(!hashed.is(wrong.as_bytes()), "{text} {wrong}");
            }
            assert_eq!(hashed.to_string(), text);
        }
    }

    #[test]
    fn what_is_made_is_read_back_and_salted() {
        let (one, other) = (Password::make(b"secret").unwrap(), Password::make(b"secret").unwrap());
        assert_ne!(one, other);
        let read = Password::parse(&one.to_string()).unwrap();
        assert_eq!(read, one);
        assert!(read.is(b"secret") && !read.is(b"Secret") && !read.is(b""));
        let scram = Password::make_scram(b"secret").unwrap();
        let read = Password::parse(&scram.to_string()).unwrap();
        assert!(read == scram && read.is(b"secret") && !read.is(b"Secret") && read.verifier().is_some());
        assert!(one.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }

    /// What another hash has left in it changes nothing.
    #[test]
    fn memory_is_used_again() {
        let mut memory = Vec::new();
        let passwords = [64, 1_024, 64, 200].map(|size| Password::make_with(b"right", size));
        for password in passwords.iter().chain(&passwords) {
            assert!(password.is_with(b"right", &mut memory) && !password.is_with(b"wrong", &mut memory));
        }
        assert_eq!(memory.len(), 200);
    }

    #[test]
    fn a_decoy_is_no_password_and_of_the_same_cost() {
        for password in [
            Password::parse(SHA512).unwrap(),
            Password::make_cheap(b"x"),
            Password::decoy(),
            Password::make_scram(b"x").unwrap(),
        ] {
            let decoy = password.decoy_like();
            assert!(!decoy.is(b"") && !decoy.is(b"x") && !decoy.is(b"wonderland"));
            assert_eq!(std::mem::discriminant(&decoy), std::mem::discriminant(&password));
        }
    }

    #[test]
    fn what_is_no_hash_says_why() {
        let rounds = PBKDF2.replace("101", "100000000");
        for (text, error) in [
            ("", PasswordError::Form),
            ("secret", PasswordError::Form),
            ("$5$a$b", PasswordError::Form),
            ("$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaA", PasswordError::Form),
            ("$6$CchuyhFXoutwVNAD$AAAA", PasswordError::Damaged),
            ("$6$CchuyhFXoutwVNAD", PasswordError::Damaged),
            ("$7$0$CchuyhFXoutwVNAD$AAAA", PasswordError::Damaged),
            ("$argon2id$v=16$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaA", PasswordError::Damaged),
            ("$argon2id$v=19$m=64,t=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", PasswordError::Damaged),
            ("$argon2id$v=19$m=64,t=1,p=1$c2Fs$aGFzaGhhc2hoYXNoaGFzaA", PasswordError::Damaged),
            ("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaA", PasswordError::Damaged),
            (
                "$argon2id$v=19$m=4000000,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
                PasswordError::TooExpensive,
            ),
            (&rounds, PasswordError::TooExpensive),
        ] {
            assert_eq!(Password::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn no_hash_comes_into_a_log() {
        assert_eq!(format!("{:?}", Password::parse(SHA512).unwrap()), "Password(..)");
    }
}
