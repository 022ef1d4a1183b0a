//! From the configuration, as a person writes it, to what each floor wants to know.

use std::thread::available_parallelism;

use crate::broker::{RetainedLimits, Settings};
use crate::codec::QoS;
use crate::config::Config;
use crate::session::{QueueLimits, SessionLimits};

/// Threads for connections: one core is left to the rest of the machine, because waking a second worker costs more
/// than it brings unless there is work for both.
pub fn workers(config: &Config) -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    config.server.workers.unwrap_or(cores - 1).max(1)
}

/// What the broker is to be like.
pub fn broker(config: &Config) -> Settings {
    let (session, limits, queue) = (&config.session, &config.limits, &config.queue);
    Settings {
        session: SessionLimits {
            max_inflight: session.max_inflight,
            queue: QueueLimits {
                messages: queue.messages as usize,
                bytes: queue.bytes,
                overflow: queue.overflow,
                in_memory: queue.memory_messages as usize,
            },
            outbox_soft: limits.outbox_soft,
            outbox_hard: limits.outbox_hard,
        },
        total_queue_bytes: queue.total_bytes,
        receive_maximum: session.receive_maximum,
        topic_alias_maximum: session.topic_alias_maximum,
        topic_alias_maximum_outgoing: session.topic_alias_maximum_outgoing,
        max_keep_alive: limits.max_keep_alive,
        expiry_3x: Some(session.expiry_3x).filter(|expiry| !expiry.is_zero()),
        max_expiry: session.max_expiry,
        maximum_qos: match session.max_qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        },
        allow_empty_client_id: session.allow_empty_client_id,
        max_client_id_length: limits.max_client_id_length.into(),
        max_sessions: bound(limits.max_sessions.into()),
        max_subscriptions: bound(limits.max_subscriptions_per_session.into()),
        shared_strategy: session.shared_strategy,
        retained: RetainedLimits {
            available: config.retained.enabled,
            messages: bound(config.retained.max_messages),
            bytes: if config.retained.max_bytes == 0 { u64::MAX } else { config.retained.max_bytes },
        },
        write_timeout: limits.write_timeout,
        workers: workers(config),
    }
}

/// A bound as it is written, where 0 means none.
pub fn bound(written: u64) -> usize {
    if written == 0 { usize::MAX } else { usize::try_from(written).unwrap_or(usize::MAX) }
}
