//! What one listener allows its clients, where that differs from `[limits]`: the fields and their keys.

use std::time::Duration;

use super::key::{Key, Shape};
use super::table::{ANY_RATE, BYTE_RATE, LARGEST_PACKET, TIMEOUT};
use super::{Limits, Listener};

/// Bounds of one listener; `None`: the one of [`Limits`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListenerLimits {
    /// See [`Limits::connections_per_second`].
    pub connections_per_second: Option<u32>,
    /// See [`Limits::handshake_timeout`].
    pub handshake_timeout: Option<Duration>,
    /// See [`Limits::connect_timeout`].
    pub connect_timeout: Option<Duration>,
    /// See [`Limits::max_packet_size`].
    pub max_packet_size: Option<u32>,
    /// See [`Limits::messages_per_second`].
    pub messages_per_second: Option<u32>,
    /// See [`Limits::bytes_per_second`].
    pub bytes_per_second: Option<u32>,
}

impl ListenerLimits {
    /// What is in force: its own, and of `[limits]` what it does not say.
    pub fn over(&self, limits: &Limits) -> Limits {
        Limits {
            connections_per_second: self.connections_per_second.unwrap_or(limits.connections_per_second),
            handshake_timeout: self.handshake_timeout.unwrap_or(limits.handshake_timeout),
            connect_timeout: self.connect_timeout.unwrap_or(limits.connect_timeout),
            max_packet_size: self.max_packet_size.unwrap_or(limits.max_packet_size),
            messages_per_second: self.messages_per_second.unwrap_or(limits.messages_per_second),
            bytes_per_second: self.bytes_per_second.unwrap_or(limits.bytes_per_second),
            ..limits.clone()
        }
    }
}

macro_rules! number {
    ($field:ident, $doc:literal) => {
        Key {
            name: stringify!($field),
            doc: $doc,
            zero: Some(concat!("that of limits.", stringify!($field))),
            shape: Shape::Number {
                bounds: ANY_RATE,
                unit: "",
                get: |listener| listener.limits.$field.unwrap_or(0).into(),
                set: |listener, number| {
                    listener.limits.$field = u32::try_from(number).ok().filter(|number| *number > 0);
                },
            },
        }
    };
}

macro_rules! size {
    ($field:ident, $bounds:expr, $doc:literal) => {
        Key {
            name: stringify!($field),
            doc: $doc,
            zero: Some(concat!("that of limits.", stringify!($field))),
            shape: Shape::Size {
                bounds: $bounds,
                get: |listener| listener.limits.$field.unwrap_or(0).into(),
                set: |listener, number| {
                    listener.limits.$field = u32::try_from(number).ok().filter(|number| *number > 0);
                },
            },
        }
    };
}

macro_rules! timeout {
    ($field:ident, $doc:literal) => {
        Key {
            name: stringify!($field),
            doc: $doc,
            zero: Some(concat!("that of limits.", stringify!($field))),
            shape: Shape::Duration {
                bounds: TIMEOUT,
                get: |listener| listener.limits.$field.unwrap_or_default(),
                set: |listener, duration| {
                    listener.limits.$field = Some(duration).filter(|duration| !duration.is_zero());
                },
            },
        }
    };
}

/// The keys of a listener that stand in for those of `[limits]`.
pub(super) static LISTENER_LIMIT_KEYS: &[Key<Listener>] = &[
    number!(
        connections_per_second,
        "New connections a second on this listener, and as many at once after a quiet second. Those beyond are \
         refused."
    ),
    timeout!(
        handshake_timeout,
        "How long a new connection may take for what comes before MQTT: PROXY protocol, TLS, WebSocket."
    ),
    timeout!(connect_timeout, "How long a new connection may take until it has said who it is."),
    size!(
        max_packet_size,
        16..=LARGEST_PACKET,
        "Largest MQTT packet accepted from clients of this listener, its header included."
    ),
    number!(
        messages_per_second,
        "Messages a second that one client of this listener may publish. One that sends more is read more slowly; \
         nothing is dropped."
    ),
    size!(
        bytes_per_second,
        BYTE_RATE,
        "Bytes a second that one client of this listener may send. One that sends more is read more slowly."
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listener_does_not_say_is_as_everywhere() {
        let limits = Limits { max_packet_size: 1_000, messages_per_second: 5, ..Limits::default() };
        assert_eq!(ListenerLimits::default().over(&limits), limits);
        let own = ListenerLimits {
            messages_per_second: Some(7),
            connect_timeout: Some(Duration::from_secs(1)),
            ..ListenerLimits::default()
        };
        let expected =
            Limits { messages_per_second: 7, connect_timeout: Duration::from_secs(1), ..limits.clone() };
        assert_eq!(own.over(&limits), expected);
    }
}
