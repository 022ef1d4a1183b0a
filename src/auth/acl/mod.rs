//! What may you do: rules in order, the first that fits decides, and what none allows is denied.
//!
//! Made by [`super::Policy`] from the configuration and its files; never changed afterwards. `broker` asks for the
//! [`Permissions`] of each client when it connects and whenever the rules have changed: the rules that can fit this
//! client at all, their placeholders filled in, so that a decision walks a few filters and no more. What always holds:
//! no value of a client (user name, client identifier, group) makes an allowing rule fit more than one level where its
//! placeholder stands, nor a denying rule fit less.

mod filter;
mod json;
mod mosquitto;
mod template;

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

pub use json::{parse_json, texts};
pub use mosquitto::{MosquittoAclError, parse_mosquitto};

use self::filter::{covers, intersects};
use crate::codec::QoS;
use crate::config::{self, AclAccess, AclAction, AclRule, AclWho, Place};
use crate::topic::{TopicFilter, TopicName};

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To publish to a topic.
    Publish,
    /// To subscribe to a filter.
    Subscribe,
    /// To be given a message of a topic that one of its subscriptions matches.
    Receive,
}

/// Who wants it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its user name, if it is known who it is.
    pub user: Option<&'a str>,
    /// The groups that the authenticator named; those of the rules come on top.
    pub groups: &'a [Arc<str>],
    /// Its Client Identifier.
    pub client_id: &'a str,
    /// Where it comes from.
    pub address: Option<IpAddr>,
}

/// All rules in force.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// Where they all come from, if it is not the configuration and its files.
    origin: Option<Place>,
    rules: Vec<AclRule>,
    /// User to groups.
    groups: HashMap<Box<str>, Vec<Arc<str>>>,
}

/// What a decision comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may, up to `maximum_qos`, and with RETAIN if `retain`.
    pub allowed: bool,
    /// The highest QoS.
    pub maximum_qos: QoS,
    /// Whether a message may be retained.
    pub retain: bool,
    /// The rule that decided; `None`: no rule fits.
    rule: Option<u32>,
}

impl Decision {
    /// There are no rules.
    pub const FREE: Self = Self { allowed: true, maximum_qos: QoS::ExactlyOnce, retain: true, rule: None };
    const DENIED: Self = Self { allowed: false, maximum_qos: QoS::AtMostOnce, retain: false, rule: None };
}

impl Default for Decision {
    /// What nobody has decided is denied.
    fn default() -> Self {
        Self::DENIED
    }
}

/// The rules as far as they are about one client.
#[derive(Debug)]
pub struct Permissions {
    acl: Arc<Acl>,
    grants: Box<[Grant]>,
}

#[derive(Debug)]
struct Grant {
    rule: u32,
    filter: TopicFilter,
}

impl Acl {
    /// Puts the rules and groups of several places behind each other.
    pub fn new(parts: impl IntoIterator<Item = config::Acl>) -> Self {
        let mut acl = Self::default();
        for part in parts {
            acl.rules.extend(part.rules);
            for group in part.groups {
                let name: Arc<str> = group.name.into();
                for user in group.users {
                    acl.groups.entry(user.into()).or_default().push(name.clone());
                }
            }
        }
        acl
    }

    /// How many rules there are. Without any, nothing is to be asked.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules as far as they are about one client.
    pub fn permissions(self: &Arc<Self>, subject: &Subject<'_>) -> Permissions {
        let groups = self.groups_of(subject);
        let mut grants = Vec::new();
        for (number, rule) in (0_u32..).zip(&self.rules) {
            if skipped(rule, subject, &groups).is_none() {
                let filters =
                    rule.topics.iter().flat_map(|topic| template::fill(topic, rule, subject, &groups));
                grants.extend(filters.map(|filter| Grant { rule: number, filter }));
            }
        }
        Permissions { acl: self.clone(), grants: grants.into() }
    }

    /// Which rule decides and why, a line for each rule on the way there. `None` if the text is no topic for this.
    pub fn explain(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        access: Access,
        topic: &str,
    ) -> Option<Vec<String>> {
        let permissions = self.permissions(subject);
        let decision = permissions.decide_text(access, topic)?;
        let groups = self.groups_of(subject);
        let mut lines = Vec::new();
        for (number, rule) in (0_u32..).zip(&self.rules) {
            if decision.rule == Some(number) {
                break;
            }
            let why = match skipped(rule, subject, &groups) {
                Some(why) => why,
                None if !is_about(rule, access) => "it is about other things".to_owned(),
                None => {
                    let filters: Vec<_> = permissions.filters_of(number).collect();
                    if filters.is_empty() {
                        "a placeholder has no value that may be filled in".to_owned()
                    } else {
                        format!("{} does not fit", filters.join(", "))
                    }
                }
            };
            lines.push(format!("{} does not decide: {why}", permissions.name(Some(number))));
        }
        let verdict = if decision.allowed { "allowed" } else { "denied" };
        let mut limits = String::new();
        if decision.allowed && decision.maximum_qos < QoS::ExactlyOnce {
            limits.push_str(&format!(", up to QoS {}", decision.maximum_qos as u8));
        }
        if decision.allowed && access == Access::Publish && !decision.retain {
            limits.push_str(", not retained");
        }
        lines.push(format!("{verdict}{limits}: {}", permissions.name(decision.rule)));
        Some(lines)
    }

    fn groups_of(&self, subject: &Subject<'_>) -> Vec<Arc<str>> {
        let own = subject.user.and_then(|user| self.groups.get(user));
        own.into_iter().flatten().chain(subject.groups).cloned().collect()
    }
}

impl Permissions {
    /// Whether the client may publish to a topic.
    pub fn publish(&self, topic: &TopicName) -> Decision {
        self.first(Access::Publish, |filter| filter.matches(topic))
    }

    /// Whether the client may be given the messages of a topic.
    pub fn receive(&self, topic: &TopicName) -> Decision {
        self.first(Access::Receive, |filter| filter.matches(topic))
    }

    /// Whether the client may subscribe to a filter: if no rule denies all of it before one allows some of it. What it
    /// then gets is decided topic by topic.
    pub fn subscribe(&self, filter: &TopicFilter) -> Decision {
        let mut granted: Option<Decision> = None;
        for (rule, grant) in self.grants_for(Access::Subscribe) {
            let decision = decide((rule, grant));
            let decides_all = covers(&grant.filter, filter);
            if decision.allowed && intersects(&grant.filter, filter) {
                // Rules further down may allow other topics of it at a higher QoS.
                let maximum_qos =
                    granted.map_or(decision.maximum_qos, |one| one.maximum_qos.max(decision.maximum_qos));
                granted = Some(Decision { maximum_qos, ..granted.unwrap_or(decision) });
            }
            if decides_all {
                return granted.unwrap_or(decision);
            }
        }
        granted.unwrap_or(Decision::DENIED)
    }

    /// Names what decided, for a person: where the rule is written.
    pub fn decider(&self, decision: Decision) -> String {
        self.name(decision.rule)
    }

    fn first(&self, access: Access, fits: impl Fn(&TopicFilter) -> bool) -> Decision {
        self.grants_for(access).find(|(_, grant)| fits(&grant.filter)).map_or(Decision::DENIED, decide)
    }

    fn grants_for(&self, access: Access) -> impl Iterator<Item = (&AclRule, &Grant)> {
        let rule = |grant: &Grant| self.acl.rules.get(grant.rule as usize);
        let with_rule = self.grants.iter().filter_map(move |grant| Some((rule(grant)?, grant)));
        with_rule.filter(move |(rule, _)| is_about(rule, access))
    }

    fn decide_text(&self, access: Access, topic: &str) -> Option<Decision> {
        match access {
            Access::Publish => TopicName::parse(topic.as_bytes()).ok().map(|topic| self.publish(topic)),
            Access::Receive => TopicName::parse(topic.as_bytes()).ok().map(|topic| self.receive(topic)),
            Access::Subscribe => TopicFilter::parse(topic).ok().map(|filter| self.subscribe(&filter)),
        }
    }

    fn filters_of(&self, rule: u32) -> impl Iterator<Item = &str> {
        self.grants.iter().filter(move |grant| grant.rule == rule).map(|grant| grant.filter.as_str())
    }

    fn name(&self, rule: Option<u32>) -> String {
        let Some(rule) = rule.and_then(|rule| self.acl.rules.get(rule as usize)) else {
            return match &self.acl.origin {
                Some(origin) => format!("no rule allows it in {origin}"),
                None => "no rule allows it".to_owned(),
            };
        };
        let AclRule { action, access, place, .. } = rule;
        let verb = match access {
            AclAccess::Publish => " publish",
            AclAccess::Subscribe => " subscribe",
            AclAccess::All => "",
        };
        format!("{place} ({action}{verb} {})", rule.topics.join(", "))
    }
}

fn decide((rule, grant): (&AclRule, &Grant)) -> Decision {
    let rule_number = Some(grant.rule);
    match rule.action {
        AclAction::Deny => Decision { rule: rule_number, ..Decision::DENIED },
        AclAction::Allow => Decision {
            allowed: true,
            maximum_qos: match rule.max_qos {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
            retain: rule.retain,
            rule: rule_number,
        },
    }
}

fn is_about(rule: &AclRule, access: Access) -> bool {
    match (rule.access, access) {
        (AclAccess::All, _)
        | (AclAccess::Publish, Access::Publish)
        | (AclAccess::Subscribe, Access::Subscribe | Access::Receive) => true,
        (AclAccess::Publish, Access::Subscribe | Access::Receive)
        | (AclAccess::Subscribe, Access::Publish) => false,
    }
}

/// Why a rule is not about somebody, if it is not.
fn skipped(rule: &AclRule, subject: &Subject<'_>, groups: &[Arc<str>]) -> Option<String> {
    match (rule.who, subject.user) {
        (AclWho::Identified, None) => return Some("it is about clients that are known".to_owned()),
        (AclWho::Anonymous, Some(_)) => return Some("it is about clients that are not known".to_owned()),
        (AclWho::Anyone, _) | (AclWho::Identified, Some(_)) | (AclWho::Anonymous, None) => {}
    }
    let is_user = |user| if rule.literal { rule.user == user } else { is_like(&rule.user, user) };
    if !rule.user.is_empty() && !subject.user.is_some_and(is_user) {
        return Some(format!("it is about user {}", rule.user));
    }
    if !rule.client.is_empty() && !is_like(&rule.client, subject.client_id) {
        return Some(format!("it is about client {}", rule.client));
    }
    if !rule.group.is_empty() && !groups.iter().any(|group| **group == *rule.group) {
        return Some(format!("it is about group {}", rule.group));
    }
    match rule.address {
        Some(network) if !subject.address.is_some_and(|address| network.contains(address)) => {
            Some(format!("it is about clients from {network}"))
        }
        Some(_) | None => None,
    }
}

/// Whether a text is like a pattern in which `*` stands for any characters.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests;
