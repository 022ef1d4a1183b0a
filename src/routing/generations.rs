//! Whether a match found earlier still holds, answered without the trie and without its lock.
//!
//! A publisher keeps what its topics matched. Were there one generation for all subscriptions, a storm of them
//! in one corner would empty every such cache. So there is one for each of [`BUCKETS`] groups of first levels,
//! and one for filters that begin with a wildcard: a topic is concerned by two counters only.
//!
//! # Why an equal stamp means an equal match
//!
//! A subscriber's thread, holding the trie's write lock, changes the trie and calls
//! [`changed`](Generations::changed). A publisher's thread, holding the read lock, takes the
//! [`stamp`](Generations::stamp) and then matches. No counter moves while the read lock is held, so the stamp
//! it keeps belongs to exactly the trie it saw. Later it asks, without any lock, whether the stamp
//! [`holds`](Generations::holds). Both counters only grow, and one thread never sees a counter go back, so an
//! equal sum means two equal counters: nothing visible to this thread concerned the topic. A subscription is
//! visible to it at the latest when its owner could have told it so, for the counter is moved (release) before
//! the write lock is released, hence before the SUBACK leaves; the acquire load sees that whenever the SUBACK
//! happened before the publish. If it sees the counter earlier, it only takes the lock in vain, and waits there
//! for the change.

use crate::topic::{TopicFilter, TopicName};
use hashbrown::DefaultHashBuilder;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many groups of first levels are told apart: 8 KiB of counters.
const BUCKETS: usize = 1024;

/// Counts the changes of one trie. Shared by reference; needs no lock.
#[derive(Debug)]
pub struct Generations {
    buckets: Box<[AtomicU64]>,
    /// Changes of filters that begin with `+` or `#`.
    wildcards: AtomicU64,
    hasher: DefaultHashBuilder,
}

/// The state of the subscriptions that concern one topic. Two stamps of one topic from one [`Generations`] are
/// equal only if nothing changed in between that could alter what the topic matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Of the counters below.
    sum: u64,
    bucket: u16,
    /// Whether filters that begin with a wildcard concern the topic [MQTT-4.7.2-1].
    wildcards: bool,
}

impl Generations {
    /// Nothing has changed yet.
    pub fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            wildcards: AtomicU64::new(0),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// An entry of this filter was added, replaced or removed. To be called with the trie's write lock held.
    pub fn changed(&self, filter: &TopicFilter) {
        self.changed_below(first(filter.levels()));
    }

    /// The same of a filter that begins with this level.
    pub fn changed_below(&self, first_level: &[u8]) {
        let counter = match first_level {
            b"+" | b"#" => &self.wildcards,
            level => &self.buckets[usize::from(self.bucket(level))],
        };
        counter.fetch_add(1, Ordering::Release);
    }

    /// What every topic matches may have changed for reasons that do not lie in the trie.
    pub fn all_changed(&self) {
        for counter in &self.buckets {
            counter.fetch_add(1, Ordering::Release);
        }
    }

    /// The stamp of the topic, to be kept beside a match: taken before matching, under the same read lock.
    pub fn stamp(&self, topic: &TopicName) -> Stamp {
        let bucket = self.bucket(first(topic.levels()));
        let wildcards = !topic.is_system();
        Stamp { sum: self.sum(bucket, wildcards), bucket, wildcards }
    }

    /// Whether the match beside which the stamp was kept still holds: two loads, no lock, no look at the topic.
    pub fn holds(&self, stamp: Stamp) -> bool {
        self.sum(stamp.bucket, stamp.wildcards) == stamp.sum
    }

    fn sum(&self, bucket: u16, wildcards: bool) -> u64 {
        let bucket = self.buckets[usize::from(bucket)].load(Ordering::Acquire);
        bucket.wrapping_add(if wildcards { self.wildcards.load(Ordering::Acquire) } else { 0 })
    }

    fn bucket(&self, first_level: &[u8]) -> u16 {
        // The remainder is below `BUCKETS`, so the cast loses nothing.
        (self.hasher.hash_one(first_level) % BUCKETS as u64) as u16
    }
}

impl Default for Generations {
    fn default() -> Self {
        Self::new()
    }
}

fn first<'a>(mut levels: impl Iterator<Item = &'a str>) -> &'a [u8] {
    levels.next().unwrap_or_default().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Entry, Trie};
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn a_change_is_seen_by_the_topics_it_may_concern() {
        let generations = Generations::new();
        for (filter, topic, concerned) in [
            ("a", "a", true),
            ("a/b", "a/c", true), // the first level decides
            ("a/#", "a", true),
            ("/x", "/y", true),
            ("#", "a/b", true),
            ("+/b", "a/b", true),
            ("#", "$SYS/a", false), // [MQTT-4.7.2-1]
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
        ] {
            let filter = TopicFilter::parse(filter).unwrap();
            let topic = TopicName::parse(topic.as_bytes()).unwrap();
            let before = generations.stamp(topic);
            assert_eq!(generations.stamp(topic), before);
            generations.changed(&filter);
            assert_eq!(generations.stamp(topic) != before, concerned, "{filter:?} {topic:?}");
        }
    }

    #[test]
    fn a_storm_in_one_corner_leaves_the_others_alone() {
        let generations = Generations::new();
        let stamp = |n: u32| generations.stamp(TopicName::parse(format!("t{n}/x").as_bytes()).unwrap());
        let before: Vec<_> = (0..1000).map(stamp).collect();
        for n in 0..100_000 {
            generations.changed(&TopicFilter::parse(&format!("storm/{n}")).unwrap());
        }
        let touched = (0..1000).filter(|&n| stamp(n) != before[n as usize]).count();
        // About one of a thousand shares the bucket by chance; twenty never do.
        assert!(touched < 20, "{touched}");
    }

    /// An entry that can be told from the one it replaced.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    struct Version {
        session: u8,
        turn: usize,
    }

    impl Entry for Version {
        type Key = u8;

        fn key(&self) -> u8 {
            self.session
        }
    }

    proptest! {
        #[test]
        fn an_equal_stamp_means_an_equal_match(
            steps in vec(
                (vec(prop::sample::select(vec!["", "a", "b", "$x", "+"]), 1..4), 0_u8..3, any::<bool>()),
                1..60,
            ),
        ) {
            let topics = ["a", "b", "/a", "a/b", "a/b/a", "$x", "$x/a", "b//a", "c"];
            let generations = Generations::new();
            let mut trie = Trie::new();
            let look = |trie: &Trie<Version>, topic: &str| {
                let topic = TopicName::parse(topic.as_bytes()).unwrap();
                let stamp = generations.stamp(topic);
                let mut found = Vec::new();
                trie.for_each_match(topic, |entry| found.push(*entry));
                found.sort_unstable();
                (stamp, found)
            };
            for (turn, (levels, session, insert)) in steps.into_iter().enumerate() {
                let Ok(filter) = TopicFilter::parse(&levels.join("/")) else { continue };
                let before = topics.map(|topic| look(&trie, topic));
                if insert {
                    trie.insert(&filter, Version { session, turn });
                    generations.changed(&filter);
                } else if let Some(id) = trie.find(&filter)
                    && trie.remove(id, session).is_some()
                {
                    generations.changed(&filter);
                }
                for (topic, (stamp, found)) in topics.into_iter().zip(before) {
                    let (stamp_after, found_after) = look(&trie, topic);
                    prop_assert_eq!(generations.holds(stamp), stamp == stamp_after);
                    prop_assert!(stamp != stamp_after || found == found_after, "{:?} {:?}", filter, topic);
                }
            }
        }
    }
}
