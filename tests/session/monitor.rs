//! Watches what the server half sends, at the moment it does, and says when the standard forbids it.

use std::collections::{BTreeSet, VecDeque};

use fulmar::codec::{PacketId, QoS};

/// A message on its way to the client, from its first PUBLISH to the end of its exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exchange {
    packet_id: PacketId,
    number: u64,
    /// PUBREC has come.
    received: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Monitor {
    /// In the order of the first PUBLISH.
    exchanges: Vec<Exchange>,
    /// Those that are from before this connection, and have not been taken up again.
    to_resend: VecDeque<Exchange>,
    /// Sent as PUBLISH on this connection and not finished.
    outstanding: BTreeSet<PacketId>,
    receive_maximum: usize,
}

impl Monitor {
    /// A new connection begins.
    pub fn connect(&mut self, receive_maximum: u16) {
        self.to_resend = self.exchanges.iter().cloned().collect();
        self.outstanding.clear();
        self.receive_maximum = receive_maximum.into();
    }

    /// A PUBLISH leaves.
    pub fn publish(&mut self, qos: QoS, packet_id: Option<PacketId>, dup: bool, number: u64) {
        let Some(packet_id) = packet_id else {
            assert!(qos == QoS::AtMostOnce && !dup);
            return;
        };
        if dup {
            // [MQTT-4.4.0-1], [MQTT-4.6.0-1]: again, and in the original order.
            let next = self.to_resend.pop_front();
            assert_eq!(next, Some(Exchange { packet_id, number, received: false }), "what is sent again");
        } else {
            assert!(self.to_resend.is_empty(), "{number} overtakes {:?}", self.to_resend);
            assert!(
                self.exchanges.iter().all(|exchange| exchange.packet_id != packet_id),
                "{packet_id:?} is in use: {:?}",
                self.exchanges
            );
            self.exchanges.push(Exchange { packet_id, number, received: false });
        }
        self.outstanding.insert(packet_id);
        assert!(self.outstanding.len() <= self.receive_maximum, "[MQTT-3.3.4-9]: {:?}", self.outstanding);
    }

    /// A PUBREL leaves that answers nothing: it is sent again.
    pub fn pubrel_again(&mut self, packet_id: PacketId) {
        let next = self.to_resend.pop_front();
        assert!(next.as_ref().is_some_and(|next| next.packet_id == packet_id && next.received), "{next:?}");
    }

    /// A PUBREC has come for what was in flight.
    pub fn received(&mut self, packet_id: PacketId) {
        let exchange = self.exchanges.iter_mut().find(|exchange| exchange.packet_id == packet_id);
        exchange.expect("a PUBREC for nothing is answered with an error").received = true;
    }

    /// An exchange is over.
    pub fn finished(&mut self, packet_id: PacketId) {
        let before = self.exchanges.len();
        self.exchanges.retain(|exchange| exchange.packet_id != packet_id);
        assert_eq!(self.exchanges.len() + 1, before, "{packet_id:?} was not in flight");
        self.outstanding.remove(&packet_id);
    }

    /// Exchanges that are not over.
    pub fn unfinished(&self) -> usize {
        self.exchanges.len()
    }
}
