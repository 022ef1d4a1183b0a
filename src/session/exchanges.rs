//! What a session needs for messages with QoS 1 and 2 alone: made with the first of them, so that a client that only sends
//! or gets QoS 0, or nothing, has no room for it.
//!
//! Owner: [`super::Session`]. What always holds: reading makes nothing, and what is not there reads as empty.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};

use super::deliver::DropReason;
use super::queue::{Queue, QueueBudget};
use super::received::Received;
use super::window::Window;

/// The exchanges of one session that are going on, or wait.
#[derive(Debug)]
pub(super) struct Exchanges {
    /// In flight to the client.
    pub window: Window,
    /// What waits for the window.
    pub queue: Queue,
    /// QoS 2 identifiers received and not released yet [MQTT-4.3.3-10].
    pub received: Received,
    /// Messages dropped, by [`DropReason`], with QoS 0 as well.
    pub drops: [u32; DropReason::COUNT],
}

impl Exchanges {
    fn new(budget: Arc<QueueBudget>) -> Self {
        Self {
            window: Window::default(),
            queue: Queue::new(budget),
            received: Received::default(),
            drops: [0; DropReason::COUNT],
        }
    }

    /// Whether none is going on, none waits and none was dropped.
    pub fn is_empty(&self) -> bool {
        self.window.is_empty()
            && self.queue.is_empty()
            && self.received.is_empty()
            && self.drops.iter().all(|count| *count == 0)
    }
}

/// [`Exchanges`] that come into being when they are first written to.
#[derive(Debug)]
pub(super) struct OnDemand {
    made: Option<Box<Exchanges>>,
    budget: Arc<QueueBudget>,
}

impl OnDemand {
    /// None yet; their queue will count against this budget.
    pub fn new(budget: Arc<QueueBudget>) -> Self {
        Self { made: None, budget }
    }

    /// Gives their room back if nothing is in them.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.made = None;
        }
    }
}

impl Deref for OnDemand {
    type Target = Exchanges;

    #[inline]
    fn deref(&self) -> &Exchanges {
        static NONE: LazyLock<Exchanges> = LazyLock::new(|| Exchanges::new(Arc::new(QueueBudget::new(0))));
        self.made.as_deref().unwrap_or_else(|| &NONE)
    }
}

impl DerefMut for OnDemand {
    #[inline]
    fn deref_mut(&mut self) -> &mut Exchanges {
        let Self { made, budget } = self;
        made.get_or_insert_with(|| Box::new(Exchanges::new(budget.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_makes_nothing_and_an_empty_one_is_given_back() {
        let mut exchanges = OnDemand::new(Arc::new(QueueBudget::new(0)));
        assert!(exchanges.queue.is_empty() && exchanges.made.is_none());
        exchanges.drops[0] += 1;
        exchanges.shrink();
        assert!(exchanges.made.is_some());
        exchanges.drops[0] -= 1;
        exchanges.shrink();
        assert!(exchanges.made.is_none());
    }
}
