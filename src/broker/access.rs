//! What clients may do, as the broker knows it: the rules in force, and each session's part of them.
//!
//! `server` sets the rules at start and whenever they have changed; a session's part is made when its client connects and
//! when the rules change. What always holds: without any rules, ever, nothing is asked and nothing kept: the number
//! of changes is 0, which is one load a read batch for a publisher and one test a cache miss for its subscribers. With
//! rules, a publisher's decisions are kept by its connection and a subscriber's by the match caches; both are emptied
//! when the rules change. Messages that wait for a session and may not be read any more are dropped when they do.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::handle::{PeerAddress, SessionHandle, SessionState};
use super::{Broker, Counter};
use crate::auth::Identity;
use crate::auth::acl::{Acl, Decision, Permissions, Subject};
use crate::codec::Will;
use crate::message::Message;
use crate::routing::FilterId;
use crate::session::{Close, Report};
use crate::store::Record;
use crate::topic::{TopicFilter, TopicName};

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Rules {
    acl: RwLock<Option<Arc<Acl>>>,
    /// Counts the changes; 0 means that there never were any rules.
    changes: AtomicU64,
}

/// Something that a client may not do, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// `publish`, `subscribe` or `will`.
    pub action: &'static str,
    /// The Topic Name or Topic Filter.
    pub topic: Box<str>,
    /// What decided: where the rule is written.
    pub rule: String,
}

impl std::fmt::Display for Denial {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {:?}: {}", self.action, self.topic, self.rule)
    }
}

impl Denial {
    /// Of a decision that denies.
    pub fn new(action: &'static str, topic: &str, permissions: &Permissions, decision: Decision) -> Self {
        Self { action, topic: topic.into(), rule: permissions.decider(decision) }
    }

    /// Of what no client may do, whatever the rules are, §4.7.2.
    pub fn of_the_broker(action: &'static str, topic: &TopicName) -> Self {
        Self { action, topic: topic.as_str().into(), rule: "$SYS belongs to the broker".to_owned() }
    }
}

impl Broker {
    /// How often the rules have changed; as long as it is 0 there is nothing to ask.
    pub fn rules_changes(&self) -> u64 {
        self.rules.changes.load(Ordering::Acquire)
    }

    /// Puts other rules in force, or none, for everyone at once.
    pub fn set_rules(&self, acl: Option<Arc<Acl>>) {
        *self.rules.acl.write() = acl;
        let mut dropped = 0;
        for handle in self.registry.all() {
            let mut state = handle.lock();
            let permissions =
                self.permissions_of(state.identity.as_deref(), &handle.client_id, state.peer.ip);
            if let Some(permissions) = &permissions {
                dropped += self.drop_unreadable(&mut state, permissions);
                let may_not = |topic: &TopicName| !permissions.publish(topic).allowed;
                if state.will.as_ref().is_some_and(|will| may_not(will.message.topic())) {
                    state.will = None;
                    if state.session.is_kept() {
                        let owner = handle.number.owner();
                        self.append(|records| records.push(&Record::WillEnded { owner }));
                    }
                }
            }
            state.permissions = permissions;
        }
        self.counters.add(Counter::DroppedDenied, dropped);
        self.rules.changes.fetch_add(1, Ordering::AcqRel);
        self.generations.all_changed();
    }

    /// Ends the connections of everyone for whom `is_one` holds; how many those were.
    pub fn close_where(&self, close: Close, is_one: impl Fn(&Identity) -> bool) -> usize {
        let mut closed = 0;
        for handle in self.registry.all() {
            let mut state = handle.lock();
            if !state.identity.as_deref().is_some_and(&is_one) {
                continue;
            }
            let waker = state.session.link.as_mut().and_then(|link| link.request_close(close));
            drop(state);
            closed += usize::from(waker.is_some());
            waker.into_iter().for_each(std::task::Waker::wake);
        }
        closed
    }

    /// What a session's client may do; `None`: everything.
    pub fn permissions(&self, handle: &SessionHandle) -> Option<Arc<Permissions>> {
        handle.lock().permissions.clone()
    }

    pub(super) fn permissions_of(
        &self,
        identity: Option<&Identity>,
        client_id: &str,
        address: Option<IpAddr>,
    ) -> Option<Arc<Permissions>> {
        let own = identity.and_then(|identity| identity.rules.clone());
        let acl = own.or_else(|| self.rules.acl.read().clone())?;
        let (user, groups) = match identity {
            Some(identity) => (identity.user.as_deref(), &*identity.groups),
            None => (None, &[][..]),
        };
        Some(Arc::new(acl.permissions(&Subject { user, groups, client_id, address })))
    }

    /// Gives a session whose client has just connected what that client may do.
    pub(super) fn admit(
        &self,
        state: &mut SessionState,
        identity: &Arc<Identity>,
        peer: PeerAddress,
        permissions: Option<Arc<Permissions>>,
    ) -> Vec<FilterId> {
        if identity.rules.is_some() {
            // From now on there are rules.
            let _: Result<u64, u64> =
                self.rules.changes.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        }
        // Who is nobody in particular needs no place.
        let identity = identity.user.is_some().then(|| identity.clone());
        let same_rights = match (&state.identity, &identity) {
            (Some(old), Some(new)) => old.has_rights_of(new),
            (None, None) => true,
            (None, Some(_)) | (Some(_), None) => false,
        };
        let is_same = same_rights && state.peer.ip == peer.ip;
        state.identity = identity;
        state.peer = peer;
        state.permissions = permissions;
        match state.permissions.clone() {
            Some(permissions) if !is_same => {
                let dropped = self.drop_unreadable(state, &permissions);
                self.counters.add(Counter::DroppedDenied, dropped);
                state.subscriptions.iter().copied().collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Drops what waits for a session that may not read it any more; how many messages that were.
    fn drop_unreadable(&self, state: &mut SessionState, permissions: &Permissions) -> u64 {
        let mut report = Report::default();
        let may_read = |message: &Message| permissions.receive(message.topic()).allowed;
        let dropped = state.session.retain_queued(may_read, &mut report);
        self.append_gathered(None, &mut report);
        dropped
    }

    /// What these filters match is found out anew, as one of their sessions may read other things now.
    pub(super) fn forget_matches(&self, filters: Vec<FilterId>) {
        if filters.is_empty() {
            return;
        }
        let trie = self.trie.read();
        let texts = filters.into_iter().filter_map(|id| trie.filter_text(id));
        for filter in texts.filter_map(|text| TopicFilter::parse(&text).ok()) {
            self.generations.changed(&filter);
        }
    }

    /// Whether a client may have such a Will.
    pub(super) fn check_will_access(
        topic: &TopicName,
        will: &Will<'_>,
        permissions: Option<&Permissions>,
    ) -> Result<(), Denial> {
        let Some(permissions) = permissions else { return Ok(()) };
        let decision = permissions.publish(topic);
        if decision.allowed && will.qos <= decision.maximum_qos && (decision.retain || !will.retain) {
            Ok(())
        } else {
            Err(Denial::new("will", topic.as_str(), permissions, decision))
        }
    }
}
