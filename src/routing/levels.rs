//! Level texts, each kept once: a level is compared, hashed and linked by a number of four bytes.
//!
//! A tree acquires a level for each node that bears it and releases it with the node; the last release frees
//! the text. So what clients have named and given up leaves nothing behind.

use super::slab::{Slab, give_back};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// Names a level text while at least one node bears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelId(u32);

impl LevelId {
    /// No level: the root's, and that of a `+`.
    pub(super) const NONE: Self = Self(u32::MAX);

    /// The number, for hashing.
    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// The level texts of one tree.
#[derive(Debug)]
pub(super) struct Levels {
    texts: Slab<Text>,
    /// Finds the number by the text; the texts themselves are in `texts`.
    numbers: HashTable<u32>,
    /// Randomly seeded: clients choose the texts and must not be able to choose collisions.
    hasher: DefaultHashBuilder,
}

impl Levels {
    pub(super) fn new() -> Self {
        Self { texts: Slab::new(), numbers: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    /// The number of a text that some node bears.
    pub(super) fn find(&self, text: impl AsRef<[u8]>) -> Option<LevelId> {
        let text = text.as_ref();
        let number = self.numbers.find(self.hash(text), |&number| self.texts[number].bytes() == text);
        number.copied().map(LevelId)
    }

    /// The number of a text for one more node.
    pub(super) fn acquire(&mut self, text: &str) -> LevelId {
        if let Some(level) = self.find(text) {
            *self.texts[level.0].references() += 1;
            return level;
        }
        let hash = self.hash(text.as_bytes());
        let number = self.texts.insert(Text::new(text.as_bytes()));
        let Self { texts, numbers, hasher } = self;
        numbers.insert_unique(hash, number, |&number| hash_text(hasher, texts[number].bytes()));
        LevelId(number)
    }

    /// One node less bears the level.
    pub(super) fn release(&mut self, level: LevelId) {
        let references = self.texts[level.0].references();
        *references -= 1;
        if *references > 0 {
            return;
        }
        let hash = self.hash(self.texts[level.0].bytes());
        if let Ok(entry) = self.numbers.find_entry(hash, |&number| number == level.0) {
            entry.remove();
        }
        self.texts.remove(level.0);
        let Self { texts, numbers, hasher } = self;
        give_back(numbers, |&number| hash_text(hasher, texts[number].bytes()));
    }

    /// The text, in UTF-8.
    pub(super) fn text(&self, level: LevelId) -> &[u8] {
        self.texts[level.0].bytes()
    }

    /// How many texts are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    fn hash(&self, text: &[u8]) -> u64 {
        hash_text(&self.hasher, text)
    }
}

fn hash_text(hasher: &DefaultHashBuilder, text: &[u8]) -> u64 {
    hasher.hash_one(text)
}

/// As many bytes as fit beside the length and the count in the 24 that a boxed text takes anyway.
const SHORT: usize = 18;

/// A text and how many nodes bear it. Most levels are short and need no allocation of their own.
#[derive(Debug)]
enum Text {
    Short { references: u32, length: u8, bytes: [u8; SHORT] },
    Long { references: u32, bytes: Box<[u8]> },
}

impl Text {
    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(start), Ok(length)) => {
                start.copy_from_slice(text);
                Self::Short { references: 1, length, bytes }
            }
            _ => Self::Long { references: 1, bytes: text.into() },
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes, .. } => &bytes[..usize::from(*length)],
            Self::Long { bytes, .. } => bytes,
        }
    }

    fn references(&mut self) -> &mut u32 {
        match self {
            Self::Short { references, .. } | Self::Long { references, .. } => references,
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::Short { references: 0, length: 0, bytes: [0; SHORT] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_freed_with_its_last_node() {
        let mut levels = Levels::new();
        let long = "x".repeat(SHORT + 1);
        let fits = "y".repeat(SHORT);
        for text in ["", "a", &fits, &long] {
            assert_eq!(levels.find(text), None);
            let level = levels.acquire(text);
            assert_eq!(levels.acquire(text), level);
            assert_eq!(levels.text(level), text.as_bytes());
            levels.release(level);
            assert_eq!(levels.find(text), Some(level));
            levels.release(level);
            assert_eq!(levels.find(text), None);
        }
        assert_eq!((levels.len(), levels.numbers.len()), (0, 0));
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_short_text_costs_no_more_than_a_boxed_one() {
        assert_eq!(size_of::<Text>(), 24);
    }
}
