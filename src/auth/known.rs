//! What was found out about credentials, for a while and without the credentials: they are kept as keyed hashes.
//!
//! Owners: [`super::hashing`] and [`super::http`]. What always holds: the key is this process's own and never leaves it; no
//! two lists of parts have the same fingerprint; no more than [`MOST`] are known.

use std::time::Instant;

use hashbrown::HashMap;
use parking_lot::Mutex;
use ring::hmac;

/// Known at most; then it starts anew.
const MOST: usize = 100_000;

/// Stands for credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// See the module.
#[derive(Debug)]
pub struct Known<T> {
    /// `None` if the system had no randomness for it: then nothing is remembered.
    key: Option<hmac::Key>,
    /// With the time until which each holds.
    entries: Mutex<HashMap<Fingerprint, (T, Instant)>>,
}

impl<T: Clone> Known<T> {
    /// Nothing yet.
    pub fn new() -> Self {
        let mut key = [0; 32];
        let key = getrandom::fill(&mut key).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &key));
        Self { key, entries: Mutex::default() }
    }

    /// Of parts, of which each may be missing.
    pub fn fingerprint(&self, parts: &[Option<&[u8]>]) -> Option<Fingerprint> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        for part in parts {
            // Each part is preceded by its length, so that no two lists look the same; no part is that long.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            context.update(&length.to_be_bytes());
            context.update(part.unwrap_or_default());
        }
        context.sign().as_ref().try_into().ok().map(Fingerprint)
    }

    /// What is known, if it still holds.
    pub fn get(&self, fingerprint: &Fingerprint, now: Instant) -> Option<T> {
        let entries = self.entries.lock();
        entries.get(fingerprint).filter(|(_, until)| now < *until).map(|(what, _)| what.clone())
    }

    /// Remembers until then.
    pub fn remember(&self, fingerprint: Fingerprint, what: T, until: Instant) {
        let mut entries = self.entries.lock();
        if entries.len() >= MOST {
            entries.clear();
        }
        entries.insert(fingerprint, (what, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_known_holds_for_its_time_and_for_these_parts_alone() {
        let known = Known::new();
        let now = Instant::now();
        let print = |parts: &[Option<&[u8]>]| known.fingerprint(parts).unwrap();
        let until = now + Duration::from_secs(10);
        known.remember(print(&[Some(b"ab"), Some(b"c"), None]), 7, until);
        let get =
            |parts: &[Option<&[u8]>], seconds| known.get(&print(parts), now + Duration::from_secs(seconds));
        assert_eq!(get(&[Some(b"ab"), Some(b"c"), None], 9), Some(7));
        assert_eq!(get(&[Some(b"ab"), Some(b"c"), None], 10), None);
        for others in [
            &[Some(&b"a"[..]), Some(&b"bc"[..]), None][..],
            &[Some(b"ab"), Some(b"c"), Some(b"")],
            &[Some(b"ab"), Some(b"c")],
            &[Some(b"ab"), Some(b"d"), None],
            &[None, Some(b"ab"), Some(b"c")],
        ] {
            assert_eq!(get(others, 0), None, "{others:?}");
        }
        let other = Known::<i32>::new();
        assert_ne!(
            other.fingerprint(&[Some(b"ab")]),
            known.fingerprint(&[Some(b"ab")]),
            "each has a key of its own"
        );
    }
}
