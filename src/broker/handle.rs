//! A session as the broker holds it: the session's own state and what the broker knows about it, under one lock.
//!
//! Owner: the registry; also held by the trie, by match caches, by shared groups and by the connection. What always
//! holds: of all session locks a thread holds at most one, and takes no other lock under it but the leaves (the
//! deadlines, the retained tree, the store's); a shared group's lock is taken before a member's. An ended session takes nothing
//! any more and never comes back.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use hashbrown::HashSet;
use parking_lot::{Mutex, MutexGuard};

use super::deadlines::DeadlineKey;
use super::groups::Group;
use super::retained::RetainedAge;
use crate::auth::Identity;
use crate::auth::acl::Permissions;
use crate::message::{Message, Publisher, SessionNumber};
use crate::routing::{Cursor, FilterId};
use crate::session::{Session, Terms};
use crate::store::RowSeq;
use crate::topic::TopicFilter;

/// See the module.
#[derive(Debug)]
pub struct SessionHandle {
    /// Its number, never used again.
    pub number: SessionNumber,
    /// Its Client Identifier.
    pub client_id: Box<str>,
    /// What its messages are known by.
    pub publisher: Publisher,
    /// [`Session::load`], readable without the lock: a hint for the choice among a group's members.
    load: AtomicU32,
    state: Mutex<SessionState>,
}

/// What the lock guards.
#[derive(Debug)]
pub struct SessionState {
    /// The session.
    pub session: Session,
    /// It has ended: nothing may be added to it.
    pub ended: bool,
    /// The filters under which it stands in the trie, without those of groups.
    pub subscriptions: HashSet<FilterId>,
    /// The Will of its present or last connection, not published yet.
    pub will: Option<Box<PendingWill>>,
    /// Counts its Wills, so that the end of one is not taken for the end of the next.
    pub will_number: u32,
    /// When its keep alive is to be looked at.
    pub keep_alive: Option<DeadlineKey>,
    /// What is to happen if nobody comes back; only while it is not connected.
    pub away: Option<Box<Away>>,
    /// Who its client is; `None`: nobody in particular.
    pub identity: Option<Arc<Identity>>,
    /// Where its client is, or was last.
    pub peer: PeerAddress,
    /// What its client may do; `None`: everything.
    pub permissions: Option<Arc<Permissions>>,
    /// What few sessions have.
    extras: Option<Box<Extras>>,
}

/// What few sessions have, and the others need no room for.
#[derive(Debug, Default)]
pub struct Extras {
    /// The groups it is a member of.
    pub groups: Vec<Arc<Group>>,
    /// Retained messages still to be sent for its subscriptions.
    pub replays: BTreeMap<FilterId, Replay>,
    /// When what its client proved expires.
    pub proof_ends: Option<DeadlineKey>,
    /// How often it was taken over lately.
    pub takeovers: Option<Takeovers>,
    /// Connections that are about to take it over, and let the present one hear what its client has said before.
    pub successors: Vec<Waker>,
}

/// An address as sessions and idle connections remember it: without what IPv6 adds to address and port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerAddress {
    /// `None` where the transport has none.
    pub ip: Option<IpAddr>,
    port: u16,
}

impl PeerAddress {
    /// Address and port.
    pub fn socket_address(self) -> Option<SocketAddr> {
        self.ip.map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl From<Option<SocketAddr>> for PeerAddress {
    fn from(address: Option<SocketAddr>) -> Self {
        Self { ip: address.map(|address| address.ip()), port: address.map_or(0, |address| address.port()) }
    }
}

/// The deadlines of a session whose client is away.
#[derive(Debug, Default)]
pub struct Away {
    /// When it expires.
    pub expiry: Option<DeadlineKey>,
    /// When its Will is to be published.
    pub will: Option<DeadlineKey>,
}

/// Take-overs of one Client Identifier within a minute.
#[derive(Debug, Clone, Copy, Default)]
pub struct Takeovers {
    since: Option<Instant>,
    count: u32,
}

impl Takeovers {
    /// Counts one more; how many there were in this minute.
    pub fn count(&mut self, now: Instant) -> u32 {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(60)) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count
    }
}

/// A Will that waits for the connection to end, or for its delay.
#[derive(Debug)]
pub struct PendingWill {
    /// What is published. Its expiry counts from its publication, so it is kept as an interval.
    pub message: Message,
    /// Message Expiry Interval.
    pub expiry: Option<Duration>,
    /// Will Delay Interval.
    pub delay: Duration,
}

impl PendingWill {
    /// The message that is published now: its expiry begins.
    pub fn into_message(self, now: Instant) -> Message {
        let mut message = self.message;
        message.expires_at = self.expiry.and_then(|expiry| now.checked_add(expiry));
        message
    }
}

/// The retained messages that a new subscription is still to get.
#[derive(Debug)]
pub struct Replay {
    /// The subscription's filter.
    pub filter: TopicFilter,
    /// What was retained before this age was there when the client subscribed; what is newer reaches it by itself.
    pub age: RetainedAge,
    /// Where to go on.
    pub cursor: Option<Cursor>,
    /// On what terms.
    pub granted: Granted,
    /// What the session published itself is left out [MQTT-3.8.3-3].
    pub no_local: bool,
}

/// What the matching subscriptions of one session grant together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The highest granted QoS.
    pub qos: crate::codec::QoS,
    /// RETAIN is passed on as published.
    pub retain_as_published: bool,
    /// The Subscription Identifiers, if any.
    pub identifiers: Option<Arc<[u32]>>,
}

impl Granted {
    /// As terms of a delivery that goes through no group.
    pub fn terms(&self, several: bool) -> Terms<'_> {
        Terms {
            qos: self.qos,
            retain_as_published: self.retain_as_published,
            identifiers: self.identifiers.as_ref(),
            group: None,
            group_row: RowSeq::default(),
            several,
        }
    }
}

impl SessionState {
    /// The groups it is a member of.
    pub fn groups(&self) -> &[Arc<Group>] {
        self.extras.as_ref().map_or(&[], |extras| &extras.groups)
    }

    /// Retained messages still to be sent for its subscriptions.
    pub fn replays(&self) -> impl Iterator<Item = &Replay> {
        self.extras.iter().flat_map(|extras| extras.replays.values())
    }

    /// What few sessions have, if this one does.
    pub fn extras(&mut self) -> Option<&mut Extras> {
        self.extras.as_deref_mut()
    }

    /// Takes what few sessions have.
    pub fn take_extras(&mut self) -> Extras {
        self.extras.take().map_or_else(Extras::default, |extras| *extras)
    }

    /// What few sessions have, and this one from now on.
    pub fn make_extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Takes the connections that wait for the present one to hear what there is.
    pub fn take_successors(&mut self) -> Vec<Waker> {
        self.extras().map_or(Vec::new(), |extras| std::mem::take(&mut extras.successors))
    }

    /// Whether there are retained messages still to be sent.
    pub fn has_replays(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| !extras.replays.is_empty())
    }

    /// Takes all its deadlines.
    pub fn take_deadlines(&mut self) -> [Option<DeadlineKey>; 4] {
        let Away { expiry, will } = self.away.take().map_or(Away::default(), |away| *away);
        let proof_ends = self.extras().and_then(|extras| extras.proof_ends.take());
        [self.keep_alive.take(), proof_ends, expiry, will]
    }
}

impl SessionHandle {
    /// A new session's handle.
    pub fn new(number: SessionNumber, client_id: &str, publisher: Publisher, session: Session) -> Self {
        Self {
            number,
            publisher,
            client_id: client_id.into(),
            load: AtomicU32::new(u32::MAX),
            state: Mutex::new(SessionState {
                session,
                ended: false,
                subscriptions: HashSet::new(),
                will: None,
                will_number: 0,
                keep_alive: None,
                away: None,
                identity: None,
                peer: PeerAddress::default(),
                permissions: None,
                extras: None,
            }),
        }
    }

    /// Locks the session.
    pub fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock()
    }

    /// The hint of how much its client has to do, [`Session::load`].
    pub fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }

    /// Renews the hint, for members of shared groups.
    pub fn note_load(&self, state: &SessionState) {
        if !state.groups().is_empty() {
            self.load.store(state.session.load(), Ordering::Relaxed);
        }
    }
}
