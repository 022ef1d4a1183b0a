//! The verbs subscribe and unsubscribe.
//!
//! Called by `net`. What always holds: a session stands in the trie under exactly the filters in its state, because
//! both change while the trie's write lock and the session's are held; an ended session is never added.

use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashSet;
use thiserror::Error;

use super::groups::{Group, GroupTable};
use super::handle::{Granted, Replay, SessionHandle, SessionState};
use super::matches::{Subscriber, SubscriberKey};
use super::{Broker, Counter, Denial};
use crate::codec::{QoS, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions};
use crate::routing::{FilterId, Trie};
use crate::session::{GroupNumber, Report};
use crate::store::{CommitSeq, Record};
use crate::topic::{Target, TopicFilter};

/// Why a whole SUBSCRIBE is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubscribeError {
    /// [MQTT-3.8.3-4]
    #[error("it sets No Local on a shared subscription")]
    NoLocalOnShared,
}

/// What became of a SUBSCRIBE.
#[derive(Debug)]
pub struct Subscribed {
    /// A reason code for each filter, in order [MQTT-3.9.3-1].
    pub reasons: Vec<ReasonCode>,
    /// What the SUBACK has to wait for.
    pub sequence: CommitSeq,
    /// What the client may not have.
    pub denials: Vec<Denial>,
}

impl Broker {
    /// Adds or replaces the subscriptions of a SUBSCRIBE.
    pub fn subscribe(
        &self,
        handle: &Arc<SessionHandle>,
        subscribe: &Subscribe<'_>,
    ) -> Result<Subscribed, SubscribeError> {
        let requests = &subscribe.requests;
        if requests.iter().any(|request| request.options.no_local && request.filter.starts_with("$share/")) {
            return Err(SubscribeError::NoLocalOnShared);
        }
        let identifier = subscribe.subscription_identifier.unwrap_or(0);
        let mut sequence = CommitSeq::default();
        let permissions = if self.rules_changes() > 0 { self.permissions(handle) } else { None };
        let mut denials = Vec::new();
        let reasons = requests
            .iter()
            .map(|request| {
                let mut options = request.options;
                options.qos = options.qos.min(self.settings.maximum_qos);
                let target = Target::parse(request.filter);
                if let (Ok(target), Some(permissions)) = (&target, &permissions) {
                    let decision = permissions.subscribe(target.filter());
                    if !decision.allowed {
                        denials.push(Denial::new("subscribe", request.filter, permissions, decision));
                        return ReasonCode::NotAuthorized;
                    }
                    options.qos = options.qos.min(decision.maximum_qos);
                }
                let (reason, appended) = match target {
                    Err(_) => return ReasonCode::TopicFilterInvalid,
                    Ok(Target::Own(filter)) => {
                        self.subscribe_own(handle, filter, options, identifier, Some(request.filter))
                    }
                    Ok(Target::Shared { group, filter }) => self.subscribe_shared(
                        handle,
                        group,
                        filter,
                        options,
                        identifier,
                        Some(request.filter),
                    ),
                };
                sequence = sequence.max(appended);
                reason
            })
            .collect();
        self.counters.add(Counter::DeniedSubscribe, denials.len() as u64);
        Ok(Subscribed { reasons, sequence, denials })
    }

    /// Ends the subscriptions of these filters: a reason code for each, in order.
    pub fn unsubscribe(&self, handle: &Arc<SessionHandle>, filters: &[&str]) -> (Vec<ReasonCode>, CommitSeq) {
        let mut sequence = CommitSeq::default();
        let reasons = filters
            .iter()
            .map(|text| {
                let found = match Target::parse(text) {
                    Err(_) => return ReasonCode::TopicFilterInvalid,
                    Ok(Target::Own(filter)) => self.unsubscribe_own(handle, &filter, text),
                    Ok(Target::Shared { group, filter }) => {
                        self.unsubscribe_shared(handle, &group, &filter, text)
                    }
                };
                let Some(appended) = found else { return ReasonCode::NoSubscriptionExisted };
                sequence = sequence.max(appended);
                ReasonCode::Success
            })
            .collect();
        (reasons, sequence)
    }

    /// How many subscriptions there are, a shared group's members counted singly.
    pub fn subscriptions(&self) -> usize {
        let own = self.trie.read().len();
        let table = self.groups.read();
        // Every group stands in the trie once; one may have been added since that was counted.
        (own + table.members()).saturating_sub(table.len())
    }

    /// How many shared groups there are.
    pub fn shared_subscriptions(&self) -> usize {
        self.groups.read().len()
    }

    /// Takes an ended session's filters out of the trie and its groups.
    pub(super) fn remove_subscriptions(
        &self,
        handle: &Arc<SessionHandle>,
        subscriptions: HashSet<FilterId>,
        groups: Vec<Arc<Group>>,
    ) {
        if !subscriptions.is_empty() {
            let mut trie = self.trie.write();
            for id in subscriptions {
                self.remove_from_trie(&mut trie, id, SubscriberKey::Session(handle.number));
            }
        }
        for group in groups {
            self.leave_group(handle, &group);
        }
    }

    /// `text` is the filter as it was sent; none if the store has the subscription already.
    pub(super) fn subscribe_own(
        &self,
        handle: &Arc<SessionHandle>,
        filter: TopicFilter,
        options: SubscriptionOptions,
        identifier: u32,
        text: Option<&str>,
    ) -> (ReasonCode, CommitSeq) {
        let mut trie = self.trie.write();
        let mut state = handle.lock();
        let is_renewal = || trie.find(&filter).is_some_and(|id| state.subscriptions.contains(&id));
        if !self.may_subscribe(&state, is_renewal) {
            return (ReasonCode::QuotaExceeded, CommitSeq::default());
        }
        let sequence = self.append_subscription(handle, &state, text, options, identifier);
        let entry = Subscriber::Session { handle: handle.clone(), options, identifier };
        let (id, replaced) = trie.insert(&filter, entry);
        self.generations.changed(&filter);
        state.subscriptions.insert(id);
        drop(trie);
        let wants_retained = match options.retain_handling {
            RetainHandling::SendAlways => true,
            RetainHandling::SendIfNew => replaced.is_none(),
            RetainHandling::DoNotSend => false,
        };
        let age = if wants_retained { self.begin_replay(&filter) } else { None };
        if wants_retained && age.is_none() {
            // One that is under way has the terms of an earlier subscription.
            state.extras().and_then(|extras| extras.replays.remove(&id));
        } else if let Some(age) = age {
            let granted = Granted {
                qos: options.qos,
                retain_as_published: true,
                identifiers: (identifier != 0).then(|| [identifier].into()),
            };
            // One that was under way for an earlier subscription begins anew, so that they cannot pile up.
            let replay = Replay { filter, age, cursor: None, granted, no_local: options.no_local };
            state.make_extras().replays.insert(id, replay);
        }
        (granted_reason(options.qos), sequence)
    }

    /// `text` is the filter as it was sent; none if the store has the subscription already.
    pub(super) fn subscribe_shared(
        &self,
        handle: &Arc<SessionHandle>,
        name: Box<str>,
        filter: TopicFilter,
        options: SubscriptionOptions,
        identifier: u32,
        text: Option<&str>,
    ) -> (ReasonCode, CommitSeq) {
        let mut table = self.groups.write();
        let group = match table.find(&name, &filter) {
            Some(group) => group.clone(),
            None => match GroupNumber::new(self.next_session_number()) {
                Some(number) => self.add_group(&mut table, number, name, filter),
                None => return (ReasonCode::QuotaExceeded, CommitSeq::default()),
            },
        };
        let granted = Granted {
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            identifiers: (identifier != 0).then(|| [identifier].into()),
        };
        let mut sequence = CommitSeq::default();
        let reason = {
            let mut state = handle.lock();
            let is_renewal = state.groups().iter().any(|known| Arc::ptr_eq(known, &group));
            if self.may_subscribe(&state, || is_renewal) {
                if !is_renewal {
                    state.make_extras().groups.push(group.clone());
                }
                if state.session.is_kept() && group.keep() {
                    self.append(|records| Self::write_group(&group, records));
                }
                sequence = self.append_subscription(handle, &state, text, options, identifier);
                handle.note_load(&state);
                granted_reason(options.qos)
            } else {
                ReasonCode::QuotaExceeded
            }
        };
        if reason.is_error() {
            if group.members() == 0 {
                self.remove_group(&mut table, &group);
            }
        } else {
            group.join(handle, granted);
        }
        (reason, sequence)
    }

    /// Adds a group without members; the table is that of the groups, locked.
    pub(super) fn add_group(
        &self,
        table: &mut GroupTable,
        number: GroupNumber,
        name: Box<str>,
        filter: TopicFilter,
    ) -> Arc<Group> {
        let (strategy, budget) = (self.settings.shared_strategy, self.budget.clone());
        let group = table.insert(Group::new(number, name, filter, strategy, budget));
        let mut trie = self.trie.write();
        trie.insert(&group.filter, Subscriber::Group(group.clone()));
        self.generations.changed(&group.filter);
        group
    }

    /// What to wait for, if there was such a subscription; `text` is the filter as it was sent.
    fn unsubscribe_own(&self, handle: &SessionHandle, filter: &TopicFilter, text: &str) -> Option<CommitSeq> {
        let mut trie = self.trie.write();
        let id = trie.find(filter)?;
        let mut state = handle.lock();
        if !state.subscriptions.remove(&id) {
            return None;
        }
        state.extras().and_then(|extras| extras.replays.remove(&id));
        let sequence = self.append_end_of_subscription(handle, &state, text);
        drop(state);
        self.remove_from_trie(&mut trie, id, SubscriberKey::Session(handle.number));
        Some(sequence)
    }

    /// The same for a membership.
    fn unsubscribe_shared(
        &self,
        handle: &Arc<SessionHandle>,
        name: &str,
        filter: &TopicFilter,
        text: &str,
    ) -> Option<CommitSeq> {
        let group = self.groups.read().find(name, filter).cloned()?;
        let mut state = handle.lock();
        let groups = &mut state.extras()?.groups;
        let place = groups.iter().position(|known| Arc::ptr_eq(known, &group))?;
        groups.remove(place);
        let sequence = self.append_end_of_subscription(handle, &state, text);
        drop(state);
        self.leave_group(handle, &group);
        Some(sequence)
    }

    fn leave_group(&self, handle: &SessionHandle, group: &Arc<Group>) {
        let mut table = self.groups.write();
        if group.leave(handle.number) {
            self.remove_group(&mut table, group);
        } else {
            // What waits may have waited for this one.
            let mut report = Report::default();
            let transaction = self.reserve(&mut report);
            group.take_back(Vec::new(), self.context(Instant::now()), &mut report);
            self.append_gathered(transaction, &mut report);
            drop(table);
            self.settle(&mut report);
        }
    }

    /// Removes a group that has no member: what it held is gone with it.
    pub(super) fn remove_group(&self, table: &mut GroupTable, group: &Group) {
        table.remove(group);
        // Match caches may hold the group for a while; what waited must not be counted meanwhile.
        group.clear();
        if group.is_kept() {
            self.append(|records| records.push(&Record::Ended { owner: group.number.owner() }));
        }
        let mut trie = self.trie.write();
        if let Some(id) = trie.find(&group.filter) {
            self.remove_from_trie(&mut trie, id, SubscriberKey::Group(group.number));
        }
    }

    fn remove_from_trie(&self, trie: &mut Trie<Subscriber>, id: FilterId, key: SubscriberKey) {
        if let Some(level) = trie.first_level(id) {
            self.generations.changed_below(level);
        }
        trie.remove(id, key);
    }

    /// Whether a session may have one subscription more, or renew one that it has.
    fn may_subscribe(&self, state: &SessionState, is_renewal: impl FnOnce() -> bool) -> bool {
        let has_room = state.subscriptions.len() + state.groups().len() < self.settings.max_subscriptions;
        !state.ended && (has_room || is_renewal())
    }

    fn append_subscription(
        &self,
        handle: &SessionHandle,
        state: &SessionState,
        filter: Option<&str>,
        options: SubscriptionOptions,
        identifier: u32,
    ) -> CommitSeq {
        let Some(filter) = filter.filter(|_| state.session.is_kept()) else { return CommitSeq::default() };
        let owner = handle.number.owner();
        self.append(|records| records.push(&Record::Subscribed { owner, filter, options, identifier }))
    }

    fn append_end_of_subscription(
        &self,
        handle: &SessionHandle,
        state: &SessionState,
        filter: &str,
    ) -> CommitSeq {
        if !state.session.is_kept() {
            return CommitSeq::default();
        }
        let owner = handle.number.owner();
        self.append(|records| records.push(&Record::Unsubscribed { owner, filter }))
    }
}

fn granted_reason(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
