//! A client's subscriptions: made, ended and made again, and what answers that.

use super::{Member, Progress};
use crate::report::Kind;
use crate::sessions::Lifetime;
use crate::support::light::Version;

impl Member {
    /// Ends a passing subscription, or makes it.
    pub(super) fn toggle(&mut self) {
        let passing: Vec<_> =
            (0..self.subscriptions.len()).filter(|index| self.subscriptions[*index].0.passing).collect();
        if passing.is_empty() {
            return;
        }
        let index = passing[self.random.below(passing.len() as u64) as usize];
        match self.subscriptions[index].1 {
            Progress::No => self.subscribe(index),
            Progress::Stands => self.unsubscribe(index),
            Progress::Asked(_) | Progress::Leaving(_) => {}
        }
    }

    pub(super) fn subscribe(&mut self, index: usize) {
        let (wish, progress) = &mut self.subscriptions[index];
        let mut world = self.shared.world.borrow_mut();
        for topic in &wish.topics {
            world.ledger.subscribing(self.index, *topic, wish.qos);
        }
        let identifier = Some(index as u8 + 1);
        let packet_id = self.client.subscribe_as(identifier, &wish.filter, wish.qos, &mut self.out);
        *progress = Progress::Asked(packet_id);
    }

    pub(super) fn unsubscribe(&mut self, index: usize) {
        let (wish, progress) = &mut self.subscriptions[index];
        let mut world = self.shared.world.borrow_mut();
        for topic in &wish.topics {
            world.ledger.unsubscribing(self.index, *topic);
        }
        *progress = Progress::Leaving(self.client.unsubscribe(&wish.filter, &mut self.out));
    }

    /// The subscription's identifier must come with the message (5.0), unless the subscription has ended since.
    pub(super) fn check_identifiers(&self, topic: &str, identifiers: &[u32]) {
        let by =
            self.subscriptions.iter().position(|(wish, _)| wish.topics.iter().any(|of| of.name() == topic));
        let Some(by) = by else { return };
        let expected = [by as u32 + 1];
        let known = self.role.version == Version::V5 && self.subscriptions[by].1 == Progress::Stands;
        if known && identifiers != expected {
            let what = format!("{topic} came by Subscription Identifiers {identifiers:?}, not {expected:?}");
            self.fault(Kind::Corrupt, &what);
        }
    }

    /// SUBACK.
    pub(super) fn granted(&mut self, packet_id: u16, codes: &[u8]) {
        let found =
            self.subscriptions.iter_mut().find(|(_, progress)| *progress == Progress::Asked(packet_id));
        let Some((wish, progress)) = found else {
            return self.fault(Kind::Protocol, &format!("SUBACK {packet_id}, which was not asked for"));
        };
        *progress = Progress::Stands;
        let (topics, filter, qos) = (wish.topics.clone(), wish.filter.clone(), wish.qos);
        if codes != [qos] {
            self.fault(Kind::Protocol, &format!("SUBACK {codes:?} for {filter} with QoS {qos}"));
        }
        // A session that ends with its connection may get everything, and nothing is owed to it.
        if self.role.lifetime != Lifetime::Connection {
            let mut world = self.shared.world.borrow_mut();
            topics.into_iter().for_each(|topic| world.ledger.subscribed(self.index, topic));
        }
    }

    /// UNSUBACK.
    pub(super) fn unsubscribed(&mut self, packet_id: u16) {
        let found =
            self.subscriptions.iter_mut().find(|(_, progress)| *progress == Progress::Leaving(packet_id));
        let Some((wish, progress)) = found else {
            return self.fault(Kind::Protocol, &format!("UNSUBACK {packet_id}, which was not asked for"));
        };
        *progress = Progress::No;
        let mut world = self.shared.world.borrow_mut();
        for topic in &wish.topics {
            world.ledger.unsubscribed(self.index, *topic);
        }
    }
}
