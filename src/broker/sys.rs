//! The `$SYS` topics: the values that users of Mosquitto know, under the names they know.
//!
//! Owner: the server's `$SYS` task, which calls [`SysReporter::publish`] at every interval. Retained, QoS 0, and published
//! only when a value has changed.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::{Broker, Counter};
use crate::codec::QoS;
use crate::message::Message;
use crate::store::Condition;
use crate::topic::TopicName;

/// Minutes over which load averages are taken.
const PERIODS: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

/// Counters of which there are load averages, and the names of those.
const LOADS: [(Counter, &str); 9] = [
    (Counter::PacketsReceived, "messages/received"),
    (Counter::PacketsSent, "messages/sent"),
    (Counter::BytesReceived, "bytes/received"),
    (Counter::BytesSent, "bytes/sent"),
    (Counter::PublishReceived, "publish/received"),
    (Counter::PublishSent, "publish/sent"),
    (Counter::DroppedQueueFull, "publish/dropped"),
    (Counter::SocketsAccepted, "sockets"),
    (Counter::ConnectionsAccepted, "connections"),
];

/// A counter's growth per minute, smoothed.
#[derive(Debug, Default, Clone, Copy)]
struct Load {
    last: u64,
    averages: [f64; 3],
}

/// See the module.
#[derive(Debug)]
pub struct SysReporter {
    published: HashMap<String, String>,
    loads: [Load; LOADS.len()],
    last: Option<Instant>,
}

impl SysReporter {
    /// One that has published nothing yet.
    pub fn new() -> Self {
        Self { published: HashMap::new(), loads: Default::default(), last: None }
    }

    /// Publishes what has changed.
    pub fn publish(&mut self, broker: &Broker, now: Instant) {
        for (name, value) in self.values(broker, now) {
            if self.published.get(&name).is_some_and(|known| *known == value) {
                continue;
            }
            let topic = format!("$SYS/broker/{name}");
            if let Ok(topic) = TopicName::parse(topic.as_bytes()) {
                let message = Message::own(topic, value.as_bytes(), QoS::AtMostOnce, true);
                broker.publish_message(&message, now);
            }
            self.published.insert(name, value);
        }
    }

    fn values(&mut self, broker: &Broker, now: Instant) -> Vec<(String, String)> {
        let count = |counter| broker.counters.get(counter).to_string();
        let sessions = broker.sessions();
        let connected = broker.connected();
        let (retained, retained_bytes) = broker.retained();
        let dropped = [Counter::DroppedOutboxFull, Counter::DroppedQueueFull, Counter::DroppedTooLarge];
        let dropped: u64 = dropped.into_iter().map(|counter| broker.counters.get(counter)).sum();
        let uptime = now.duration_since(broker.started).as_secs();
        let mut values: Vec<(String, String)> = [
            ("version", format!("fulmar version {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{uptime} seconds")),
            ("clients/total", sessions.to_string()),
            ("clients/connected", connected.to_string()),
            ("clients/active", connected.to_string()),
            ("clients/disconnected", sessions.saturating_sub(connected).to_string()),
            ("clients/inactive", sessions.saturating_sub(connected).to_string()),
            ("clients/maximum", broker.most_connected().to_string()),
            ("clients/expired", count(Counter::SessionsExpired)),
            ("clients/takeovers", count(Counter::Takeovers)),
            ("clients/refused", count(Counter::ConnectionsRefused)),
            ("clients/refused/login", count(Counter::LoginsRefused)),
            ("clients/refused/rate", count(Counter::RefusedTooFast)),
            ("clients/refused/banned", count(Counter::RefusedBanned)),
            ("clients/banned", count(Counter::Bans)),
            ("clients/pauses", count(Counter::ReadingPauses)),
            ("messages/received", count(Counter::PacketsReceived)),
            ("messages/sent", count(Counter::PacketsSent)),
            ("messages/stored", retained.to_string()),
            ("store/messages/count", retained.to_string()),
            ("store/messages/bytes", retained_bytes.to_string()),
            ("retained messages/count", retained.to_string()),
            ("subscriptions/count", broker.subscriptions().to_string()),
            ("shared_subscriptions/count", broker.shared_subscriptions().to_string()),
            ("bytes/received", count(Counter::BytesReceived)),
            ("bytes/sent", count(Counter::BytesSent)),
            ("publish/messages/received", count(Counter::PublishReceived)),
            ("publish/messages/sent", count(Counter::PublishSent)),
            ("publish/messages/dropped", dropped.to_string()),
            ("publish/messages/dropped/slow", count(Counter::DroppedOutboxFull)),
            ("publish/messages/dropped/queue", count(Counter::DroppedQueueFull)),
            ("publish/messages/dropped/expired", count(Counter::DroppedExpired)),
            ("publish/messages/dropped/size", count(Counter::DroppedTooLarge)),
            ("publish/messages/dropped/denied", count(Counter::DroppedDenied)),
            ("publish/messages/dropped/unreadable", count(Counter::DroppedUnreadable)),
            ("publish/messages/refused", count(Counter::RefusedByStore)),
            ("publish/messages/denied", count(Counter::DeniedPublish)),
            ("subscriptions/denied", count(Counter::DeniedSubscribe)),
            ("publish/messages/queued", count(Counter::Queued)),
            ("publish/bytes/received", count(Counter::PublishBytesReceived)),
            ("publish/bytes/sent", count(Counter::PublishBytesSent)),
            ("publish/stalls", count(Counter::PublisherStalls)),
            ("queue/bytes", broker.budget.used().to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if let Some(store) = broker.store.statistics() {
            let condition = match broker.store.condition() {
                Condition::Well => "well",
                Condition::Pressed => "pressed",
                Condition::Failing => "failing",
            };
            values.push(("store/condition".to_owned(), condition.to_owned()));
            for (name, value) in [
                ("bytes/written", store.written_bytes),
                ("bytes/live", store.live_bytes),
                ("bytes/total", store.total_bytes),
                ("bytes/waiting", store.waiting_bytes),
                ("commits", store.groups),
                ("syncs", store.syncs),
                ("failures", store.failures),
                ("unreadable", store.unreadable),
            ] {
                values.push((format!("store/{name}"), value.to_string()));
            }
        }
        self.add_loads(broker, now, &mut values);
        values
    }

    fn add_loads(&mut self, broker: &Broker, now: Instant, values: &mut Vec<(String, String)>) {
        let elapsed = self.last.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.last = Some(now);
        for (load, (counter, name)) in self.loads.iter_mut().zip(LOADS) {
            let total = broker.counters.get(counter);
            load.advance(total, elapsed);
            for (average, (_, period)) in load.averages.iter().zip(PERIODS) {
                values.push((format!("load/{name}/{period}"), format!("{average:.2}")));
            }
        }
    }
}

impl Default for SysReporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Load {
    fn advance(&mut self, total: u64, elapsed: Duration) {
        let minutes = elapsed.as_secs_f64() / 60.0;
        let grown = total.saturating_sub(self.last) as f64;
        self.last = total;
        if minutes > 0.0 {
            for (average, (period, _)) in self.averages.iter_mut().zip(PERIODS) {
                let kept = (-minutes / period).exp();
                *average = *average * kept + grown / minutes * (1.0 - kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_becomes_the_average() {
        let mut load = Load::default();
        for second in 1..=3_600 {
            load.advance(second * 10, Duration::from_secs(1));
        }
        for average in load.averages {
            assert!((average - 600.0).abs() < 15.0, "{average}");
        }
        let before = load.averages;
        load.advance(36_000, Duration::from_secs(60));
        assert!(load.averages[0] < before[0] / 2.0, "a minute of silence more than halves the first");
        assert!(load.averages[2] > before[2] * 0.9, "and hardly changes the last");
    }
}
