//! Topic Aliases of one connection, §3.3.2.3.4: theirs towards us, and ours towards them.
//!
//! Owner: the connection (theirs) and the session's link (ours). They live and die with the connection
//! [MQTT-3.3.2-7].

use std::num::NonZeroU16;

use hashbrown::HashMap;

use crate::topic::TopicName;

/// The aliases a client has set.
#[derive(Debug)]
pub struct IncomingAliases {
    topics: Vec<Option<Box<str>>>,
}

impl IncomingAliases {
    /// For the Topic Alias Maximum we offered; grows with use.
    pub fn new() -> Self {
        Self { topics: Vec::new() }
    }

    /// Sets an alias anew. The caller has checked it against the maximum offered.
    pub fn set(&mut self, alias: NonZeroU16, topic: &TopicName) {
        let index = usize::from(alias.get()) - 1;
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        if let Some(slot) = self.topics.get_mut(index)
            && slot.as_deref() != Some(topic.as_str())
        {
            *slot = Some(topic.as_str().into());
        }
    }

    /// The topic of an alias that was set before.
    pub fn get(&self, alias: NonZeroU16) -> Option<&TopicName> {
        let text = self.topics.get(usize::from(alias.get()) - 1)?.as_deref()?;
        Some(TopicName::assume_checked(text))
    }
}

impl Default for IncomingAliases {
    fn default() -> Self {
        Self::new()
    }
}

/// How a topic is to be written towards a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The topic alone.
    Plain,
    /// The topic with its new alias.
    Introduced(u16),
    /// The alias alone.
    Alias(u16),
}

/// The aliases we have set towards a client: a topic gets one with its first message, as long as there are some.
#[derive(Debug)]
pub struct OutgoingAliases {
    topics: HashMap<Box<str>, u16>,
    maximum: u16,
}

impl OutgoingAliases {
    /// For the smaller of the client's Topic Alias Maximum and our own bound.
    pub fn new(maximum: u16) -> Self {
        Self { topics: HashMap::new(), maximum }
    }

    /// How the next PUBLISH to this topic is written. It must then be sent that way.
    pub fn write(&mut self, topic: &str) -> Written {
        if let Some(alias) = self.topics.get(topic) {
            return Written::Alias(*alias);
        }
        match u16::try_from(self.topics.len()) {
            Ok(assigned) if assigned < self.maximum => {
                self.topics.insert(topic.into(), assigned + 1);
                Written::Introduced(assigned + 1)
            }
            _ => Written::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_topics_get_an_alias_each_and_no_more_than_allowed() {
        let mut aliases = OutgoingAliases::new(2);
        assert_eq!(aliases.write("a"), Written::Introduced(1));
        assert_eq!(aliases.write("a"), Written::Alias(1));
        assert_eq!(aliases.write("b"), Written::Introduced(2));
        for number in 0..1_000 {
            assert_eq!(aliases.write(&number.to_string()), Written::Plain);
        }
        assert_eq!(aliases.write("a"), Written::Alias(1));
        assert_eq!(aliases.write("b"), Written::Alias(2));
        assert_eq!(aliases.topics.len(), 2, "many topics cost a bounded memory");
    }
}
