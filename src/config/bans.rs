//! Who is kept out for a while: the section `[bans]` and its keys.

use std::time::Duration;

use super::Network;
use super::key::{Key, Shape};
use super::{Config, table::ANY_RATE};

/// When an address or a Client Identifier is banned, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bans {
    /// Failed logins from one address within `window`; 0 = it is not banned for them.
    pub address_failed_logins: u32,
    /// Failed logins with one Client Identifier within `window`; 0 = it is not banned for them.
    pub client_failed_logins: u32,
    /// Short connections from one address within `window`; 0 = it is not banned for them.
    pub address_flaps: u32,
    /// Short connections of one Client Identifier within `window`; 0 = it is not banned for them.
    pub client_flaps: u32,
    /// How short is short.
    pub flap_time: Duration,
    /// Within which time they are counted.
    pub window: Duration,
    /// How long a ban lasts.
    pub duration: Duration,
    /// Whether clients on this machine are banned, too.
    pub loopback: bool,
    /// Who never is.
    pub exempt: Vec<Network>,
    /// Addresses, and as many Client Identifiers, of which something is remembered.
    pub max_tracked: u32,
}

impl Default for Bans {
    fn default() -> Self {
        Self {
            address_failed_logins: 30,
            client_failed_logins: 0,
            address_flaps: 600,
            client_flaps: 120,
            flap_time: Duration::from_secs(5),
            window: Duration::from_secs(60),
            duration: Duration::from_secs(5 * 60),
            loopback: false,
            exempt: Vec::new(),
            max_tracked: 10_000,
        }
    }
}

macro_rules! count {
    ($field:ident, $doc:literal) => {
        Key {
            name: concat!("bans.", stringify!($field)),
            doc: $doc,
            zero: Some("never"),
            shape: Shape::Number {
                bounds: ANY_RATE,
                unit: "",
                get: |config| config.bans.$field.into(),
                set: |config, number| config.bans.$field = u32::try_from(number).unwrap_or(u32::MAX),
            },
        }
    };
}

macro_rules! duration {
    ($field:ident, $least:expr, $most:expr, $doc:literal) => {
        Key {
            name: concat!("bans.", stringify!($field)),
            doc: $doc,
            zero: None,
            shape: Shape::Duration {
                bounds: Duration::from_millis($least)..=Duration::from_secs($most),
                get: |config| config.bans.$field,
                set: |config, duration| config.bans.$field = duration,
            },
        }
    };
}

/// The keys of `[bans]`.
pub(super) static BAN_KEYS: &[Key<Config>] = &[
    count!(
        address_failed_logins,
        "Failed logins from one address within bans.window for which it is banned. Of IPv6 addresses, those that have \
         their first 64 bits in common count as one. Behind a proxy that is trusted, it is the client's own address."
    ),
    count!(
        client_failed_logins,
        "Failed logins with one client identifier within bans.window for which that is banned. Whoever knows an \
         identifier could lock its owner out by failing on purpose: switch it on where nobody can."
    ),
    count!(
        address_flaps,
        "Connections from one address that end within bans.flap_time, as many of them within bans.window as it takes \
         for a ban."
    ),
    count!(
        client_flaps,
        "The same of one client identifier. Two clients that fight for an identifier flap, too."
    ),
    duration!(flap_time, 100, 3_600, "A connection that ends within this time was a short one."),
    duration!(window, 100, 86_400, "Within which time failed logins and short connections are counted."),
    duration!(
        duration,
        100,
        30 * 86_400,
        "How long a ban lasts. New connections are refused, with 0x8A in MQTT 5.0; those that are open stay."
    ),
    Key {
        name: "bans.loopback",
        doc: "Whether connections from this machine count and are banned, too: from loopback addresses and over Unix \
              sockets.",
        zero: None,
        shape: Shape::Boolean {
            get: |config| config.bans.loopback,
            set: |config, boolean| config.bans.loopback = boolean,
        },
    },
    Key {
        name: "bans.exempt",
        doc: "Addresses and networks from which nobody is banned, such as a gateway that many clients share.",
        zero: None,
        shape: Shape::Texts {
            expects: "an address or a network such as \"10.0.0.0/8\", or a list of them",
            get: |config| config.bans.exempt.iter().map(ToString::to_string).collect(),
            set: |config, networks| {
                let parsed: Result<Vec<_>, _> = networks.iter().map(|network| network.parse()).collect();
                parsed.map(|networks| config.bans.exempt = networks).is_ok()
            },
        },
    },
    Key {
        name: "bans.max_tracked",
        doc: "Addresses of which failures are remembered, and as many client identifiers, 32 bytes for each. When there \
              are more, those that failed least are forgotten first.",
        zero: None,
        shape: Shape::Number {
            bounds: 64..=1_000_000,
            unit: "",
            get: |config| config.bans.max_tracked.into(),
            set: |config, number| config.bans.max_tracked = u32::try_from(number).unwrap_or(u32::MAX),
        },
    },
];
