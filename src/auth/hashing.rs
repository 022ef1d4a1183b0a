//! Hashing passwords beside the broker's work: a bounded number at a time, a bounded number waiting.
//!
//! Owner: [`super::Auth`]. What always holds: no thread that serves clients hashes; a flood of logins takes
//! `auth.hashing_threads` threads and no more; who comes when `auth.hashing_queue` logins wait is told so at once. A
//! password that was right is remembered by a keyed hash for `auth.password_cache`, as thousands of clients may come
//! back at once, and each would have to wait for those before it.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use ring::hmac;
use tokio::sync::Semaphore;

use super::password::Password;
use crate::config;

/// Passwords remembered at most; then it starts anew.
const REMEMBERED: usize = 100_000;

/// Whether a password was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// Nobody looked: there are too many logins.
    Busy,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hashing {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    remember_for: Duration,
    /// `None` if the system had no randomness for it: then nothing is remembered.
    key: Option<hmac::Key>,
    known: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Hashing {
    pub(super) fn new(settings: &config::Auth) -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let threads = settings.hashing_threads.unwrap_or(cores - 1).max(1);
        let mut key = [0; 32];
        let key = getrandom::fill(&mut key).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &key));
        Self {
            turns: Arc::new(Semaphore::new(threads)),
            waiting: AtomicUsize::new(0),
            most_waiting: settings.hashing_queue.saturating_add(threads),
            remember_for: settings.password_cache,
            key,
            known: Mutex::default(),
        }
    }

    /// Whether a user's password is `given`. Without a password to compare with, the decoy is hashed and the answer
    /// is no.
    pub(super) async fn verify(
        &self,
        user: &str,
        given: &[u8],
        password: Option<&Password>,
        decoy: Password,
    ) -> Verdict {
        let remembered = password.and_then(|password| self.fingerprint(user, given, password));
        if remembered.is_some_and(|fingerprint| self.knows(&fingerprint, Instant::now())) {
            return Verdict::Right;
        }
        let Some(_waiting) = Waiting::begin(self) else { return Verdict::Busy };
        let Ok(turn) = self.turns.clone().acquire_owned().await else { return Verdict::Busy };
        let exists = password.is_some();
        let password = password.cloned().unwrap_or(decoy);
        let given: Box<[u8]> = given.into();
        let hashed = tokio::task::spawn_blocking(move || {
            let right = password.is(&given);
            drop(turn);
            right
        });
        match hashed.await {
            Ok(true) if exists => {
                if let Some(fingerprint) = remembered {
                    self.remember(fingerprint, Instant::now());
                }
                Verdict::Right
            }
            Ok(_) => Verdict::Wrong,
            // The runtime is ending.
            Err(_) => Verdict::Busy,
        }
    }

    fn fingerprint(&self, user: &str, given: &[u8], password: &Password) -> Option<[u8; 32]> {
        if self.remember_for.is_zero() {
            return None;
        }
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        // Each part is preceded by its length, so that no two triples look the same.
        for part in [user.as_bytes(), password.to_string().as_bytes(), given] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().ok()
    }

    fn knows(&self, fingerprint: &[u8; 32], now: Instant) -> bool {
        let known = self.known.lock();
        known.get(fingerprint).is_some_and(|since| now.duration_since(*since) < self.remember_for)
    }

    fn remember(&self, fingerprint: [u8; 32], now: Instant) {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(fingerprint, now);
    }
}

/// Counts a login that waits for as long as it does.
struct Waiting<'a>(&'a Hashing);

impl<'a> Waiting<'a> {
    fn begin(hashing: &'a Hashing) -> Option<Self> {
        let waiting = Self(hashing);
        (hashing.waiting.fetch_add(1, Ordering::AcqRel) < hashing.most_waiting).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
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

    #[test]
    fn who_comes_when_too_many_wait_is_told_so_and_the_rest_get_their_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let hashing = Arc::new(hashing(1, 3, Duration::ZERO));
        let password = Password::make_cheap(b"right");
        let verdicts = runtime.block_on(async {
            let login = |given: &'static [u8]| {
                let (hashing, password) = (hashing.clone(), password.clone());
                tokio::spawn(async move {
                    hashing.verify("u", given, Some(&password), Password::make_cheap(b"")).await
                })
            };
            let logins = [&b"right"[..], b"wrong", b"wrong", b"right", b"right", b"wrong"].map(login);
            let mut verdicts = Vec::new();
            for login in logins {
                verdicts.push(login.await.unwrap());
            }
            verdicts
        });
        use Verdict::{Busy, Right, Wrong};
        assert_eq!(verdicts, [Right, Wrong, Wrong, Right, Busy, Busy]);
        assert_eq!(hashing.waiting.load(Ordering::Acquire), 0);
    }

    #[test]
    fn what_was_right_is_known_for_its_time_and_only_for_its_user_and_hash() {
        let hashing = hashing(1, 1, Duration::from_secs(10));
        let (one, other) = (Password::make_cheap(b"a"), Password::make_cheap(b"b"));
        let print = |user, given, password| hashing.fingerprint(user, given, password).unwrap();
        let now = Instant::now();
        hashing.remember(print("u", b"a", &one), now);
        assert!(hashing.knows(&print("u", b"a", &one), now + Duration::from_secs(9)));
        assert!(!hashing.knows(&print("u", b"a", &one), now + Duration::from_secs(10)));
        assert!(!hashing.knows(&print("v", b"a", &one), now));
        assert!(!hashing.knows(&print("u", b"b", &one), now));
        assert!(!hashing.knows(&print("u", b"a", &other), now), "the password was changed");
    }

    #[test]
    fn the_decoy_is_nobodys_password() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let hashing = hashing(1, 1, Duration::ZERO);
        let verdict = runtime.block_on(hashing.verify("u", b"x", None, Password::make_cheap(b"x")));
        assert_eq!(verdict, Verdict::Wrong);
    }
}
