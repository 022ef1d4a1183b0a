//! What is remembered of many: how often each has failed lately, and who is banned. Of a fixed size.
//!
//! Owner: [`super::Bans`]. Sans-IO; times are milliseconds since some moment. Like a processor's cache: a key has its
//! place in one row of a few, and a newcomer takes the place of whoever failed least there. What always holds: a ban
//! in force is never forgotten for a newcomer's sake; memory is taken at the first failure, once, and never grows.

/// Places of a row. With so many, someone who fails again and again stays known while thousands come and go.
const PLACES: usize = 8;

/// What is remembered of one.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// A hash that nobody outside can foresee; 0: the place is free.
    key: u64,
    /// When it failed first in this window.
    since: u64,
    /// Until when it is banned.
    until: u64,
    /// How often it has failed in this window, by kind.
    counts: [u32; 2],
}

/// When to ban and how.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// So many failures are one too many; 0: any number is fine.
    pub limit: u32,
    /// Within this time.
    pub window: u64,
    /// For so long.
    pub duration: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    entries: Vec<Entry>,
    rows: usize,
}

impl Table {
    /// Remembers as many as that, rounded up to a row.
    pub fn new(most: usize) -> Self {
        Self { entries: Vec::new(), rows: most.div_ceil(PLACES).max(1) }
    }

    /// Notes a failure of a kind, 0 or 1; whether it is banned for it now.
    pub fn note(&mut self, key: u64, kind: usize, rule: Rule, now: u64) -> bool {
        if rule.limit == 0 {
            return false;
        }
        if self.entries.is_empty() {
            self.entries = vec![Entry::default(); self.rows * PLACES];
        }
        let key = key.max(1);
        let row = self.row(key);
        let places = self.entries.get_mut(row..row + PLACES).unwrap_or_default();
        let is_stale = |entry: &Entry| now.saturating_sub(entry.since) > rule.window;
        let known = places.iter().position(|entry| entry.key == key);
        let place = known.or_else(|| {
            let least = places.iter().enumerate().min_by_key(|(_, entry)| {
                let failed = if is_stale(entry) { 0 } else { entry.counts.iter().sum::<u32>() };
                (entry.until > now, failed, entry.since)
            });
            least.filter(|(_, entry)| entry.until <= now).map(|(index, _)| index)
        });
        let Some(entry) = place.and_then(|place| places.get_mut(place)) else { return false };
        if entry.until > now && entry.key == key {
            return false;
        }
        if entry.key != key || is_stale(entry) {
            *entry = Entry { key, since: now, until: 0, counts: [0; 2] };
        }
        let Some(count) = entry.counts.get_mut(kind) else { return false };
        *count = count.saturating_add(1);
        if *count < rule.limit {
            return false;
        }
        *entry = Entry { key, since: now, until: now.saturating_add(rule.duration), counts: [0; 2] };
        true
    }

    /// Until when somebody is banned.
    pub fn banned_until(&self, key: u64, now: u64) -> Option<u64> {
        let key = key.max(1);
        let row = self.row(key);
        let places = self.entries.get(row..row + PLACES).unwrap_or_default();
        places.iter().find(|entry| entry.key == key && entry.until > now).map(|entry| entry.until)
    }

    fn row(&self, key: u64) -> usize {
        usize::try_from(key % self.rows as u64).unwrap_or(0) * PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { limit: 3, window: 1_000, duration: 5_000 };

    /// Well spread, as hashes are.
    fn key(number: u64) -> u64 {
        number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    }

    #[test]
    fn so_many_failures_in_a_window_are_a_ban_for_a_while() {
        let mut table = Table::new(64);
        assert_eq!([0, 400, 999].map(|now| table.note(7, 0, RULE, now)), [false, false, true]);
        assert_eq!(table.banned_until(7, 999), Some(5_999));
        assert_eq!(table.banned_until(8, 999), None);
        assert!(!table.note(7, 0, RULE, 2_000), "it is banned already");
        assert_eq!(table.banned_until(7, 5_998), Some(5_999));
        assert_eq!(table.banned_until(7, 5_999), None, "it is over");
        assert_eq!([6_000, 6_001, 6_002].map(|now| table.note(7, 0, RULE, now)), [false, false, true]);
    }

    #[test]
    fn what_is_long_ago_or_of_another_kind_does_not_count() {
        let mut table = Table::new(64);
        for now in (0..100_000).step_by(501) {
            assert!(!table.note(7, 0, RULE, now), "never three within a second");
        }
        assert_eq!(
            [(0, 0), (1, 1), (1, 2), (0, 3), (1, 4)].map(|(kind, at)| table.note(9, kind, RULE, at)),
            [false, false, false, false, true]
        );
        let never = Rule { limit: 0, ..RULE };
        assert!((0..1_000).all(|now| !table.note(11, 0, never, now)));
    }

    #[test]
    fn whoever_fails_often_is_found_among_thousands_that_fail_once() {
        let mut table = Table::new(10_000);
        let rule = Rule { limit: 20, window: 60_000, duration: 60_000 };
        let mut others = 1_000;
        for round in 0..20 {
            for _ in 0..1_000 {
                others += 1;
                assert!(!table.note(key(others), 0, rule, round));
            }
            assert_eq!(table.note(key(1), 0, rule, round), round == 19, "round {round}");
        }
        // And no crowd makes it forget the ban.
        for number in 0..1_000_000 {
            table.note(key(others + number), 0, rule, 30);
        }
        assert!(table.banned_until(key(1), 50).is_some());
        assert_eq!(table.entries.len(), 10_000, "of a fixed size");
        assert_eq!(size_of::<Entry>(), 32, "as bans.max_tracked says");
    }

    #[test]
    fn a_table_full_of_bans_keeps_them() {
        let mut table = Table::new(16);
        let once = Rule { limit: 1, window: 1_000, duration: 5_000 };
        let banned = (0..1_000).filter(|number| table.note(key(*number), 0, once, 0)).count();
        assert_eq!(banned, 16, "then there is no place left");
        let found = (0..1_000).filter(|number| table.banned_until(key(*number), 1).is_some()).count();
        assert_eq!(found, 16);
        assert!(table.note(key(5_000), 0, once, 5_000), "until they are over");
    }

    #[test]
    fn nothing_is_taken_before_somebody_fails() {
        let table = Table::new(1_000_000);
        assert_eq!(table.entries.capacity(), 0);
        assert_eq!(table.banned_until(1, 0), None);
    }
}
