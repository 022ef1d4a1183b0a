//! What a connection's client may publish: the decisions it has had, kept by topic until the rules change.
//!
//! Owner: [`super::inbound::Inbound`], which has none as long as there are no rules: then a publisher pays one load and one
//! comparison for each read batch.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::auth::acl::{Decision, Permissions};
use crate::broker::{Broker, Denial, SessionHandle};
use crate::codec::Publish;
use crate::topic::TopicName;

/// Topics whose decisions a connection keeps; then it starts anew.
const TOPICS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Permits {
    /// [`Broker::rules_changes`] when they were asked for.
    changes: u64,
    permissions: Option<Arc<Permissions>>,
    known: HashMap<Box<str>, Decision>,
}

impl Permits {
    /// Makes sure that they are of the rules in force. `None` as long as there are none.
    pub fn renew(permits: &mut Option<Box<Self>>, broker: &Broker, handle: &SessionHandle) {
        let changes = broker.rules_changes();
        if changes != permits.as_ref().map_or(0, |permits| permits.changes) {
            let permissions = broker.permissions(handle);
            *permits = Some(Box::new(Self { changes, permissions, known: HashMap::new() }));
        }
    }

    /// What the client may publish to a topic.
    pub fn decide(&mut self, topic: &TopicName) -> Decision {
        let Some(permissions) = &self.permissions else { return Decision::FREE };
        if let Some(decision) = self.known.get(topic.as_str()) {
            return *decision;
        }
        let decision = permissions.publish(topic);
        if self.known.len() >= TOPICS {
            self.known.clear();
        }
        self.known.insert(topic.as_str().into(), decision);
        decision
    }

    /// Tells a denial.
    pub fn denial(&self, topic: &str, decision: Decision) -> Option<Denial> {
        Some(Denial::new("publish", topic, self.permissions.as_ref()?, decision))
    }
}

/// Whether a decision covers a message as it comes.
pub fn covers(decision: &Decision, publish: &Publish<'_>) -> bool {
    decision.allowed && publish.qos <= decision.maximum_qos && (decision.retain || !publish.retain)
}
