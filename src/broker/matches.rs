//! Who gets the messages of a topic: the trie asked once, the answer kept as long as it is true.
//!
//! Owner: [`super::Broker`]. Every worker thread has a cache of its own, so the lock around it is never fought for, and
//! may be held while a run is delivered; an entry is good for one stamp of the topic's generations, so a storm of subscriptions elsewhere empties nothing.

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::groups::Group;
use super::handle::{Granted, SessionHandle};
use crate::auth::acl::Decision;
use crate::codec::{QoS, SubscriptionOptions};
use crate::message::{Publisher, SessionNumber, TOPICS_OF_A_RUN};
use crate::routing::{Entry, Generations, Stamp, Trie};
use crate::session::GroupNumber;
use crate::topic::TopicName;

/// Topics a worker's cache remembers at most.
const CACHED_TOPICS: usize = 32 * 1024;

/// Recipients they have together at most.
const CACHED_RECIPIENTS: usize = 256 * 1024;

/// What stands in the trie.
#[derive(Debug)]
pub enum Subscriber {
    /// A session's own subscription.
    Session {
        /// Whose.
        handle: Arc<SessionHandle>,
        /// Its options.
        options: SubscriptionOptions,
        /// Its Subscription Identifier; 0: none.
        identifier: u32,
    },
    /// A shared group.
    Group(Arc<Group>),
}

/// Names a subscriber within one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubscriberKey {
    /// A session.
    Session(SessionNumber),
    /// A group.
    Group(GroupNumber),
}

impl Entry for Subscriber {
    type Key = SubscriberKey;

    fn key(&self) -> SubscriberKey {
        match self {
            Self::Session { handle, .. } => SubscriberKey::Session(handle.number),
            Self::Group(group) => SubscriberKey::Group(group.number),
        }
    }
}

/// One session among a topic's recipients.
#[derive(Debug)]
pub struct Recipient {
    /// Who.
    pub handle: Arc<SessionHandle>,
    granted: Granted,
    own: Own,
}

/// What a session is granted of the messages it published itself [MQTT-3.8.3-3].
#[derive(Debug, PartialEq, Eq)]
enum Own {
    /// The same: none of its subscriptions has No Local.
    Same,
    /// Nothing: all have.
    Nothing,
    /// What those without it grant.
    Less(Box<Granted>),
}

impl Recipient {
    /// Whether it is the same session on the same terms.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle) && self.granted == other.granted && self.own == other.own
    }

    /// What it is granted of a publisher's messages, if anything.
    pub fn granted(&self, publisher: Publisher) -> Option<&Granted> {
        match &self.own {
            Own::Nothing if publisher == self.handle.publisher => None,
            Own::Less(granted) if publisher == self.handle.publisher => Some(granted),
            Own::Same | Own::Nothing | Own::Less(_) => Some(&self.granted),
        }
    }
}

/// The recipients of a topic: one entry a session, however many of its subscriptions match, and the groups.
#[derive(Debug, Default)]
pub struct Matches {
    /// Sessions.
    pub recipients: Box<[Recipient]>,
    /// Shared groups.
    pub groups: Box<[Arc<Group>]>,
}

impl Matches {
    /// Asks the trie and, if there are rules, whether each session may read the topic.
    pub fn find(trie: &Trie<Subscriber>, topic: &TopicName, rules: bool) -> Self {
        let mut found: SmallVec<[Matching<'_>; 8]> = SmallVec::new();
        let mut groups = Vec::new();
        trie.for_each_match(topic, |subscriber| match subscriber {
            Subscriber::Session { handle, options, identifier } => {
                found.push((handle, *options, *identifier));
            }
            Subscriber::Group(group) => groups.push(group.clone()),
        });
        found.sort_by_key(|(handle, _, _)| handle.number);
        let mut recipients = Vec::with_capacity(found.len());
        let of_sessions =
            found.chunk_by(|one, other| one.0.number == other.0.number).filter_map(|matching| {
                let (handle, _, _) = matching.first()?;
                let maximum_qos = if rules { may_read(handle, topic)? } else { QoS::ExactlyOnce };
                let all = combine(matching.iter(), maximum_qos);
                let others = matching.iter().filter(|(_, options, _)| !options.no_local);
                let own = match others.clone().count() {
                    count if count == matching.len() => Own::Same,
                    0 => Own::Nothing,
                    _ => Own::Less(Box::new(combine(others, maximum_qos))),
                };
                Some(Recipient { handle: (*handle).clone(), granted: all, own })
            });
        recipients.extend(of_sessions);
        Self { recipients: recipients.into(), groups: groups.into() }
    }

    /// Whether the same sessions get the messages of both on the same terms, and the same groups.
    pub fn is_same(&self, other: &Self) -> bool {
        let (recipients, groups) = (&self.recipients, &self.groups);
        recipients.len() == other.recipients.len()
            && groups.len() == other.groups.len()
            && recipients.iter().zip(&other.recipients).all(|(one, other)| one.is_same(other))
            && groups.iter().zip(&other.groups).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Whether nobody gets them.
    pub fn is_empty(&self) -> bool {
        self.recipients.is_empty() && self.groups.is_empty()
    }
}

/// A session's subscription that matches.
type Matching<'a> = (&'a Arc<SessionHandle>, SubscriptionOptions, u32);

/// The highest QoS at which a session's client may be given a topic, if it may.
fn may_read(handle: &SessionHandle, topic: &TopicName) -> Option<QoS> {
    let permissions = handle.lock().permissions.clone();
    let decision = permissions.map_or(Decision::FREE, |permissions| permissions.receive(topic));
    decision.allowed.then_some(decision.maximum_qos)
}

/// One copy, at the highest QoS [MQTT-3.3.4-2], with all identifiers [MQTT-3.3.4-3].
fn combine<'a>(matching: impl Iterator<Item = &'a Matching<'a>>, maximum_qos: QoS) -> Granted {
    let mut granted = Granted { qos: Default::default(), retain_as_published: false, identifiers: None };
    let mut identifiers = Vec::new();
    for (_, options, identifier) in matching {
        granted.qos = granted.qos.max(options.qos.min(maximum_qos));
        granted.retain_as_published |= options.retain_as_published;
        if *identifier != 0 {
            identifiers.push(*identifier);
        }
    }
    granted.identifiers = (!identifiers.is_empty()).then(|| identifiers.into());
    granted
}

/// See the module.
#[derive(Debug, Default)]
pub struct MatchCache {
    topics: HashMap<Box<str>, (Stamp, Matches)>,
    recipients: usize,
}

impl MatchCache {
    /// The answer for a topic, if it is known and still true.
    pub fn get(&self, topic: &TopicName, generations: &Generations) -> Option<&Matches> {
        let (stamp, matches) = self.topics.get(topic.as_str())?;
        generations.holds(*stamp).then_some(matches)
    }

    /// The answers for several topics, each asked for if it is not known. `None` if they are not remembered all at
    /// once, as the cache was full and started anew between them.
    pub fn get_all<'c>(
        &'c mut self,
        topics: &[Cow<'_, str>],
        generations: &Generations,
        find: impl Fn(&TopicName) -> (Stamp, Matches),
    ) -> Option<SmallVec<[&'c Matches; TOPICS_OF_A_RUN]>> {
        for topic in topics {
            let topic = TopicName::assume_checked(topic);
            if self.get(topic, generations).is_none() {
                let (stamp, matches) = find(topic);
                self.insert(topic, stamp, matches);
            }
        }
        topics.iter().map(|topic| self.topics.get(&**topic).map(|(_, matches)| matches)).collect()
    }

    /// Remembers an answer. A full cache starts anew: what is in use comes back at once.
    pub fn insert(&mut self, topic: &TopicName, stamp: Stamp, matches: Matches) -> &Matches {
        if self.topics.len() >= CACHED_TOPICS || self.recipients >= CACHED_RECIPIENTS {
            self.clear();
        }
        self.recipients += matches.recipients.len();
        let (known, kept) = self.topics.entry(topic.as_str().into()).or_default();
        self.recipients -= kept.recipients.len();
        (*known, *kept) = (stamp, matches);
        kept
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.topics.clear();
        self.recipients = 0;
    }
}
