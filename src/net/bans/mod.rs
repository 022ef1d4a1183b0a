//! Who is kept out for a while, because it failed to log in again and again, or came and went.
//!
//! Owner: `Shared`; asked when a connection is accepted, when its real address is known, and with its CONNECT. What
//! always holds: what is remembered is of a fixed size, whatever addresses and Client Identifiers an attacker makes up;
//! of IPv6 the first 64 bits count, as anybody has all that begin with them; while nobody is banned, asking is one load.

mod table;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thiserror::Error;

use self::table::{Rule, Table};
use crate::config;

/// Where somebody comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The address; a Unix socket has none.
    pub address: Option<SocketAddr>,
    /// It is a trusted proxy's, which stands for nobody in particular.
    pub is_proxy: bool,
}

/// What counts against somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// It could not say who it is.
    FailedLogin,
    /// It was gone again after this time.
    Gone(Duration),
}

/// Whom a ban is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An address, or all that begin like it.
    Address(IpAddr),
    /// A Client Identifier.
    Client(String),
}

/// A ban that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Whom it is on.
    pub subject: Subject,
    /// What for.
    pub reason: &'static str,
    /// So many of them.
    pub count: u32,
    /// Within this time.
    pub window: Duration,
    /// How long it lasts.
    pub duration: Duration,
}

/// Somebody comes who is banned.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{subject} is banned for another {} s (see [bans])", .left.as_secs_f64().ceil())]
pub struct Banned {
    /// Whom the ban is on.
    pub subject: Subject,
    /// How long it lasts still.
    pub left: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Bans {
    state: Mutex<State>,
    /// When the last of all bans ends, in milliseconds since `started`.
    latest: AtomicU64,
    /// Whether those on this machine count.
    loopback: AtomicBool,
    started: Instant,
}

#[derive(Debug)]
struct State {
    settings: config::Bans,
    addresses: Table,
    clients: Table,
    /// Keyed anew in each process, so that nobody can choose who shares a row with him.
    hasher: RandomState,
}

impl Bans {
    /// Nobody is banned at first.
    pub fn new(settings: &config::Bans, now: Instant) -> Self {
        Self {
            state: Mutex::new(State::new(settings)),
            latest: AtomicU64::new(0),
            loopback: AtomicBool::new(settings.loopback),
            started: now,
        }
    }

    /// Puts other settings in force. All bans are lifted, and nothing is held against anybody.
    pub fn replace(&self, settings: &config::Bans) {
        let mut state = self.state.lock();
        *state = State::new(settings);
        self.loopback.store(settings.loopback, Ordering::Relaxed);
        self.latest.store(0, Ordering::Release);
    }

    /// The ban on an address or a Client Identifier, if there is one. An empty identifier is nobody's.
    pub fn on(&self, origin: Origin, client_id: &str, now: Instant) -> Option<Banned> {
        let now = self.millis(now);
        if now >= self.latest.load(Ordering::Acquire) || self.is_left_alone(origin) {
            return None;
        }
        let state = self.state.lock();
        if state.exempts(origin) {
            return None;
        }
        let address = origin.counted();
        let by_address = address.and_then(|address| {
            let until = state.addresses.banned_until(state.key_of_address(address), now)?;
            Some((Subject::Address(network_of(address)), until))
        });
        let by_client = || {
            let key = (!client_id.is_empty()).then(|| state.hasher.hash_one(client_id))?;
            let until = state.clients.banned_until(key, now)?;
            Some((Subject::of_client(client_id), until))
        };
        let (subject, until) = by_address.or_else(by_client)?;
        Some(Banned { subject, left: Duration::from_millis(until - now) })
    }

    /// Notes an offence; the bans it leads to, on the address, the Client Identifier, or both.
    pub fn note(&self, offence: Offence, origin: Origin, client_id: &str, now: Instant) -> Vec<Ban> {
        if self.is_left_alone(origin) {
            return Vec::new();
        }
        let now = self.millis(now);
        let mut state = self.state.lock();
        if state.exempts(origin) {
            return Vec::new();
        }
        let settings = &state.settings;
        let (kind, reason, address_limit, client_limit) = match offence {
            Offence::FailedLogin => {
                (0, "failed logins", settings.address_failed_logins, settings.client_failed_logins)
            }
            Offence::Gone(after) if after < settings.flap_time => {
                (1, "short connections", settings.address_flaps, settings.client_flaps)
            }
            Offence::Gone(_) => return Vec::new(),
        };
        let (window, duration) = (settings.window, settings.duration);
        let rule = |limit| Rule { limit, window: as_millis(window), duration: as_millis(duration) };
        let ban = |subject, count| Ban { subject, reason, count, window, duration };
        let mut bans = Vec::new();
        if let Some(address) = origin.counted() {
            let key = state.key_of_address(address);
            if state.addresses.note(key, kind, rule(address_limit), now) {
                bans.push(ban(Subject::Address(network_of(address)), address_limit));
            }
        }
        if !client_id.is_empty() {
            let key = state.hasher.hash_one(client_id);
            if state.clients.note(key, kind, rule(client_limit), now) {
                bans.push(ban(Subject::of_client(client_id), client_limit));
            }
        }
        if !bans.is_empty() {
            self.latest.fetch_max(now.saturating_add(as_millis(duration)), Ordering::AcqRel);
        }
        bans
    }

    /// Whether somebody is on this machine, and those there do not count.
    fn is_left_alone(&self, origin: Origin) -> bool {
        let is_here = origin.address.is_none_or(|address| address.ip().to_canonical().is_loopback());
        is_here && !self.loopback.load(Ordering::Relaxed)
    }

    fn millis(&self, now: Instant) -> u64 {
        as_millis(now.saturating_duration_since(self.started))
    }
}

impl State {
    fn new(settings: &config::Bans) -> Self {
        let most = settings.max_tracked as usize;
        Self {
            settings: settings.clone(),
            addresses: Table::new(most),
            clients: Table::new(most),
            hasher: RandomState::new(),
        }
    }

    fn exempts(&self, origin: Origin) -> bool {
        let is_in =
            |address: SocketAddr| self.settings.exempt.iter().any(|network| network.contains(address.ip()));
        origin.address.is_some_and(is_in)
    }

    fn key_of_address(&self, address: IpAddr) -> u64 {
        self.hasher.hash_one(network_of(address))
    }
}

impl Origin {
    /// The address that offences are held against.
    fn counted(self) -> Option<IpAddr> {
        self.address.filter(|_| !self.is_proxy).map(|address| address.ip())
    }
}

impl Subject {
    /// Not longer than a line can bear.
    fn of_client(client_id: &str) -> Self {
        const LONGEST: usize = 100;
        Self::Client(client_id.chars().take(LONGEST).collect())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => write!(formatter, "address {address}"),
            Self::Address(IpAddr::V6(address)) => write!(formatter, "address {address}/64"),
            Self::Client(client_id) => write!(formatter, "client identifier {client_id:?}"),
        }
    }
}

/// The address that stands for all those that one owner has.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> config::Bans {
        config::Bans {
            address_failed_logins: 3,
            client_failed_logins: 2,
            address_flaps: 3,
            client_flaps: 2,
            flap_time: Duration::from_secs(5),
            window: Duration::from_secs(60),
            duration: Duration::from_secs(300),
            ..config::Bans::default()
        }
    }

    fn at(text: &str) -> Origin {
        Origin { address: Some(SocketAddr::new(text.parse().unwrap(), 4_000)), is_proxy: false }
    }

    #[test]
    fn addresses_and_client_identifiers_are_banned_each_for_itself() {
        let start = Instant::now();
        let bans = Bans::new(&settings(), start);
        let fail = |address: &str, client: &str| bans.note(Offence::FailedLogin, at(address), client, start);
        assert!(fail("192.0.2.1", "a").is_empty());
        let ban = fail("192.0.2.2", "a").remove(0);
        assert_eq!((ban.subject, ban.count), (Subject::Client("a".to_owned()), 2));
        assert!(fail("192.0.2.1", "").is_empty());
        assert!(fail("192.0.2.2", "").is_empty(), "nobody's identifier is nobody's fault");
        let ban = fail("192.0.2.1", "b").remove(0);
        assert_eq!((ban.subject.to_string(), ban.reason), ("address 192.0.2.1".to_owned(), "failed logins"));

        let on = |address: &str, client: &str, after| {
            let banned = bans.on(at(address), client, start + Duration::from_secs(after));
            banned.map(|banned| banned.to_string())
        };
        assert_eq!(
            on("192.0.2.1", "new", 1).as_deref(),
            Some("address 192.0.2.1 is banned for another 299 s (see [bans])")
        );
        assert!(on("192.0.2.9", "a", 299).unwrap().starts_with("client identifier \"a\" is banned"));
        assert_eq!(on("192.0.2.9", "b", 1), None);
        assert_eq!(on("192.0.2.1", "a", 300), None, "it is over");
    }

    #[test]
    fn only_short_connections_flap() {
        let start = Instant::now();
        let bans = Bans::new(&settings(), start);
        let gone = |after| bans.note(Offence::Gone(Duration::from_secs(after)), at("192.0.2.1"), "", start);
        assert!([5, 5, 5, 60, 4, 4].into_iter().all(|after| gone(after).is_empty()));
        assert_eq!(gone(4).len(), 1);
    }

    #[test]
    fn whoever_has_an_ipv6_network_is_one() {
        let start = Instant::now();
        let bans = Bans::new(&settings(), start);
        let note = |address: &str| bans.note(Offence::FailedLogin, at(address), "", start);
        assert!(note("2001:db8:0:1::1").is_empty());
        assert!(note("2001:db8:0:1:ffff::2").is_empty());
        assert!(note("2001:db8:0:2::1").is_empty(), "another network");
        let ban = note("2001:db8:0:1:1:2:3:4").remove(0);
        assert_eq!(ban.subject.to_string(), "address 2001:db8:0:1::/64");
        assert!(bans.on(at("2001:db8:0:1::99"), "", start).is_some());
        assert!(bans.on(at("2001:db8:0:2::1"), "", start).is_none());
        // An IPv4 address is itself, however it is written.
        assert!(note("192.0.2.1").is_empty() && note("::ffff:192.0.2.1").is_empty());
        assert_eq!(note("192.0.2.1").len(), 1);
    }

    #[test]
    fn those_on_this_machine_and_those_exempt_are_left_alone() {
        let start = Instant::now();
        for loopback in [false, true] {
            let exempt = vec!["10.0.0.0/8".parse().unwrap()];
            let bans = Bans::new(&config::Bans { loopback, exempt, ..settings() }, start);
            let unix = Origin { address: None, is_proxy: false };
            for origin in [at("127.0.0.1"), at("::1"), at("::ffff:127.0.0.1"), unix, at("10.1.2.3")] {
                let is_exempt = origin == at("10.1.2.3");
                let banned = (0..9).any(|_| !bans.note(Offence::FailedLogin, origin, "c", start).is_empty());
                assert_eq!(banned, loopback && !is_exempt, "{origin:?}");
                assert_eq!(bans.on(origin, "c", start).is_some(), loopback && !is_exempt, "{origin:?}");
                let same = bans.state.lock().settings.clone();
                bans.replace(&same);
                assert!(bans.on(origin, "c", start).is_none(), "all bans are lifted");
            }
        }
    }

    #[test]
    fn a_proxy_that_does_not_tell_for_whom_it_speaks_is_not_banned_but_its_clients_are() {
        let start = Instant::now();
        let bans = Bans::new(&settings(), start);
        let proxy = Origin { is_proxy: true, ..at("192.0.2.1") };
        for number in 0..100 {
            assert!(bans.note(Offence::FailedLogin, proxy, &number.to_string(), start).is_empty());
        }
        assert_eq!(bans.note(Offence::FailedLogin, proxy, "7", start).len(), 1);
        assert!(bans.on(proxy, "7", start).is_some() && bans.on(proxy, "8", start).is_none());
    }
}
