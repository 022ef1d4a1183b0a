//! Hashing passwords beside the broker's work: a bounded number at a time, a bounded number waiting.
//!
//! Owner: [`super::Auth`]. What always holds: no thread that serves clients hashes; a flood of logins takes
//! `auth.hashing_threads` threads of low priority and no more (see [`super::crew`]); who comes when `auth.hashing_queue`
//! logins wait is told so at once, unless it comes from an address with fewer of them (see [`super::turns`]). A password
//! that was right is remembered by a keyed hash for `auth.password_cache`, as thousands of clients may come back at once,
//! and each would have to wait for those before it.

use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::crew::Crew;
use super::known::{Fingerprint, Known};
use super::password::Password;
use super::turns::Turns;
use crate::config;

/// Passwords remembered at most.
const REMEMBERED: usize = 100_000;

/// Whether a password was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// Nobody looked: there are too many logins.
    Busy,
}

/// A password that somebody claims to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) user: &'a str,
    pub(super) given: &'a [u8],
    /// Where it comes from.
    pub(super) address: Option<IpAddr>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hashing {
    turns: Arc<Turns>,
    crew: Arc<Crew>,
    remember_for: Duration,
    known: Known<()>,
}

impl Hashing {
    pub(super) fn new(settings: &config::Auth) -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let threads = settings.hashing_threads.unwrap_or(cores - 1).max(1);
        Self {
            turns: Turns::new(threads, settings.hashing_queue),
            crew: Arc::new(Crew::default()),
            remember_for: settings.password_cache,
            known: Known::new(REMEMBERED),
        }
    }

    /// Whether a user's password is the given one. Without a password to compare with, the decoy is hashed and the answer
    /// is no.
    pub(super) async fn verify(
        &self,
        claim: Claim<'_>,
        password: Option<&Password>,
        decoy: &Password,
    ) -> Verdict {
        let exists = password.is_some();
        let password = password.unwrap_or(decoy);
        // The same steps for a user that there is not.
        let fingerprint = self.fingerprint(claim, password);
        let is_known = |fingerprint| self.known.get(&fingerprint, Instant::now()).is_some();
        if fingerprint.is_some_and(is_known) && exists {
            return Verdict::Right;
        }
        let Ok(turn) = self.turns.take(claim.address).await else { return Verdict::Busy };
        // Several of one client's connections may have waited together.
        if fingerprint.is_some_and(is_known) && exists {
            return Verdict::Right;
        }
        let (password, given): (_, Box<[u8]>) = (password.clone(), claim.given.into());
        let (tell, told) = oneshot::channel();
        let work = self.crew.hash(move |memory| {
            let right = password.is_with(&given, memory);
            // Whoever asked may be gone.
            let _: Result<(), bool> = tell.send(right);
            drop(turn);
        });
        match (work, told.await) {
            (Ok(()), Ok(true)) if exists => {
                if let Some(fingerprint) = fingerprint {
                    self.known.remember(fingerprint, (), Instant::now() + self.remember_for, 1);
                }
                Verdict::Right
            }
            (Ok(()), Ok(_)) => Verdict::Wrong,
            // The system has no thread to give.
            (Err(_), _) | (_, Err(_)) => Verdict::Busy,
        }
    }

    /// Of the password that is kept, too: with another one nothing is known any more.
    fn fingerprint(&self, claim: Claim<'_>, password: &Password) -> Option<Fingerprint> {
        if self.remember_for.is_zero() {
            return None;
        }
        let kept = password.to_string();
        self.known.fingerprint(&[Some(claim.user.as_bytes()), Some(kept.as_bytes()), Some(claim.given)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashing(threads: usize, queue: usize, cache: Duration) -> Hashing {
        Hashing::new(&config::Auth {
            hashing_threads: Some(threads),
            hashing_queue: queue,
            password_cache: cache,
            ..config::Auth::default()
        })
    }

    fn claim<'a>(user: &'a str, given: &'a [u8]) -> Claim<'a> {
        Claim { user, given, address: None }
    }

    #[test]
    fn who_comes_when_too_many_wait_is_told_so_and_the_rest_get_their_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let hashing = Arc::new(hashing(1, 3, Duration::ZERO));
        let password = Password::make_cheap(b"right");
        let verdicts = runtime.block_on(async {
            let turn = hashing.turns.take(None).await.unwrap();
            let login = |given: &'static [u8]| {
                let (hashing, password) = (hashing.clone(), password.clone());
                tokio::spawn(async move {
                    hashing.verify(claim("u", given), Some(&password), &Password::make_cheap(b"")).await
                })
            };
            let logins = [&b"right"[..], b"wrong", b"right", b"right", b"wrong"].map(login);
            // Each has asked for its turn.
            tokio::task::yield_now().await;
            drop(turn);
            let mut verdicts = Vec::new();
            for login in logins {
                verdicts.push(login.await.unwrap());
            }
            verdicts
        });
        use Verdict::{Busy, Right, Wrong};
        assert_eq!(verdicts, [Right, Wrong, Right, Busy, Busy]);
    }

    #[test]
    fn what_was_right_is_known_only_for_its_user_and_hash() {
        let hashing = hashing(1, 1, Duration::from_secs(10));
        let (one, other) = (Password::make_cheap(b"a"), Password::make_cheap(b"b"));
        let print = |user, given, password| hashing.fingerprint(claim(user, given), password).unwrap();
        hashing.known.remember(print("u", b"a", &one), (), Instant::now() + Duration::from_secs(9), 1);
        let knows = |print| hashing.known.get(&print, Instant::now()).is_some();
        assert!(knows(print("u", b"a", &one)));
        assert!(!knows(print("v", b"a", &one)));
        assert!(!knows(print("u", b"b", &one)));
        assert!(!knows(print("u", b"a", &other)), "the password was changed");
    }

    #[test]
    fn the_decoy_is_nobodys_password() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for cache in [Duration::ZERO, Duration::from_secs(9)] {
            let hashing = hashing(1, 1, cache);
            for _ in 0..2 {
                let decoy = Password::make_cheap(b"x");
                let verdict = runtime.block_on(hashing.verify(claim("u", b"x"), None, &decoy));
                assert_eq!(verdict, Verdict::Wrong);
            }
        }
    }
}
