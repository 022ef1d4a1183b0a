//! What was found out about credentials, for a while and without the credentials: they are kept as keyed hashes.
//!
//! Owners: [`super::hashing`] and [`super::http`]. What always holds: the key is this process's own and never leaves it; no
//! two lists of parts have the same fingerprint; what is known weighs no more than it may, together.

use std::time::Instant;

use hashbrown::HashMap;
use parking_lot::Mutex;
use ring::hmac;

/// Stands for credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// See the module.
#[derive(Debug)]
pub struct Known<T> {
    /// `None` if the system had no randomness for it: then nothing is remembered.
    key: Option<hmac::Key>,
    entries: Mutex<Entries<T>>,
    most: usize,
}

#[derive(Debug)]
struct Entries<T> {
    /// With the time until which each holds, and its weight.
    by_fingerprint: HashMap<Fingerprint, (T, Instant, usize)>,
    weight: usize,
}

impl<T: Clone> Known<T> {
    /// Nothing yet, and at most so much; then it starts anew.
    pub fn new(most: usize) -> Self {
        let mut key = [0; 32];
        let key = getrandom::fill(&mut key).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &key));
        Self { key, entries: Mutex::new(Entries { by_fingerprint: HashMap::new(), weight: 0 }), most }
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
        let known = entries.by_fingerprint.get(fingerprint);
        known.filter(|(_, until, _)| now < *until).map(|(what, ..)| what.clone())
    }

    /// Remembers until then what weighs so much.
    pub fn remember(&self, fingerprint: Fingerprint, what: T, until: Instant, weight: usize) {
        let mut entries = self.entries.lock();
        if entries.weight.saturating_add(weight) > self.most {
            entries.by_fingerprint.clear();
            entries.weight = 0;
        }
        if weight > self.most {
            return;
        }
        entries.weight += weight;
        if let Some((.., old)) = entries.by_fingerprint.insert(fingerprint, (what, until, weight)) {
            entries.weight -= old;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_known_holds_for_its_time_and_for_these_parts_alone() {
        let known = Known::new(10);
        let now = Instant::now();
        let print = |parts: &[Option<&[u8]>]| known.fingerprint(parts).unwrap();
        let until = now + Duration::from_secs(10);
        known.remember(print(&[Some(b"ab"), Some(b"c"), None]), 7, until, 1);
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
        let other = Known::<i32>::new(10);
        assert_ne!(
            other.fingerprint(&[Some(b"ab")]),
            known.fingerprint(&[Some(b"ab")]),
            "each has a key of its own"
        );
    }

    #[test]
    fn what_weighs_too_much_together_is_forgotten() {
        let known = Known::new(10);
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let print = |name: &str| known.fingerprint(&[Some(name.as_bytes())]).unwrap();
        for (name, weight, left) in [
            ("a", 4, &["a"][..]),
            ("b", 4, &["a", "b"]),
            ("b", 2, &["a", "b"]),
            ("c", 4, &["a", "b", "c"]),
            ("d", 1, &["d"]),
            ("e", 11, &[]),
            ("f", 10, &["f"]),
        ] {
            known.remember(print(name), (), until, weight);
            let all = ["a", "b", "c", "d", "e", "f"];
            let known: Vec<_> =
                all.into_iter().filter(|name| known.get(&print(name), now).is_some()).collect();
            assert_eq!(known, left, "{name}");
        }
    }
}
