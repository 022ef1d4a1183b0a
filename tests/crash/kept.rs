//! How many promises there were, and how many of them were broken by silence.

use crate::ledger::Receiver;

/// How many promises there were, by what was promised.
#[derive(Debug, Default)]
pub struct Kept {
    rows: [[Row; 2]; 2],
}

/// One kind of promise.
#[derive(Debug, Default, Clone, Copy)]
pub struct Row {
    pub promised: u64,
    pub lost: u64,
}

impl Kept {
    /// To this receiver, at the QoS that it gets.
    pub fn row(&mut self, receiver: Receiver, qos: u8) -> &mut Row {
        let group = usize::from(matches!(receiver, Receiver::Group(_)));
        &mut self.rows[group][usize::from(qos == 2)]
    }

    /// To a group, or to a subscriber of its own; the QoS it has there.
    pub fn of(&self, group: bool, qos: u8) -> Row {
        self.rows[usize::from(group)][usize::from(qos == 2)]
    }
}
