//! The verb connect: a CONNECT becomes the owner of a session, or is refused.
//!
//! Called by `net` with the first packet of a connection. What always holds: when it returns, the new connection owns
//! the session and every earlier one has lost it [MQTT-3.1.4-3], however many fight for the identifier; an earlier
//! owner is told by waking it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::handle::{PeerAddress, PendingWill, SessionHandle, SessionState};
use super::{Broker, Counter, Deadline, Denial};
use crate::auth::Identity;
use crate::codec::{Connect, ProtocolVersion, ReasonCode, Will};
use crate::message::{Message, Publisher};
use crate::session::{Lifetime, Link, LinkId, Outbox, OutgoingAliases, Session};
use crate::store::{CommitSeq, Record};
use crate::topic::{TopicError, TopicName};

/// A connection that has sent its CONNECT.
#[derive(Debug)]
pub struct NewConnection<'a> {
    /// The packet.
    pub connect: &'a Connect<'a>,
    /// What was decided of it, by [`Broker::admission`].
    pub admission: &'a Admission<'a>,
    /// Who sent it.
    pub identity: Arc<Identity>,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    /// Wakes its task.
    pub waker: Waker,
    /// The time.
    pub now: Instant,
}

/// How a client would come in: what is decided before anything is done for it.
#[derive(Debug)]
pub struct Admission<'a> {
    /// Its Client Identifier.
    pub client_id: Cow<'a, str>,
    /// The Client Identifier is one we assigned [MQTT-3.1.3-6].
    pub is_assigned: bool,
    /// The Keep Alive in force, where it is not the client's (5.0) [MQTT-3.1.2-21].
    pub server_keep_alive: Option<u16>,
    /// The Session Expiry Interval in force, where it is not the client's (5.0).
    pub session_expiry_interval: Option<u32>,
}

/// A connection that owns its session.
#[derive(Debug)]
pub struct Accepted {
    /// The session.
    pub handle: Arc<SessionHandle>,
    /// The connection's name.
    pub link: LinkId,
    /// For the CONNACK [MQTT-3.2.2-2], [MQTT-3.2.2-3].
    pub session_present: bool,
    /// What the CONNACK has to wait for.
    pub sequence: CommitSeq,
}

/// Why a CONNECT is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// [MQTT-3.1.3-8], or forbidden by `session.allow_empty_client_id`.
    #[error("the client identifier is empty")]
    EmptyClientId,
    /// `limits.max_client_id_length`
    #[error("the client identifier is longer than limits.max_client_id_length")]
    LongClientId,
    /// `limits.max_sessions`
    #[error("there are limits.max_sessions sessions already")]
    TooManySessions,
    /// [MQTT-3.2.2-12]
    #[error("the will's QoS is higher than session.max_qos")]
    WillQoS,
    /// [MQTT-3.2.2-13]
    #[error("the will is to be retained, and retained.enabled is off")]
    WillRetain,
    /// The Will Topic is no Topic Name.
    #[error("the will topic is not valid: {0}")]
    WillTopic(TopicError),
    /// It may not publish its Will.
    #[error("it may not have its will: {0}")]
    WillDenied(Denial),
    /// [MQTT-4.12.0-1]
    #[error("it asks for an authentication method that is not supported")]
    AuthenticationMethod,
    /// The broker is about to end.
    #[error("the broker is stopping")]
    Stopping,
}

impl Refusal {
    /// The Reason Code of the CONNACK.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::EmptyClientId | Self::LongClientId => ReasonCode::ClientIdentifierNotValid,
            Self::TooManySessions => ReasonCode::QuotaExceeded,
            Self::WillQoS => ReasonCode::QoSNotSupported,
            Self::WillRetain => ReasonCode::RetainNotSupported,
            // 0x90 is for names that are not malformed, §3.2.2.2.
            Self::WillTopic(_) => ReasonCode::ProtocolError,
            Self::WillDenied(_) => ReasonCode::NotAuthorized,
            Self::AuthenticationMethod => ReasonCode::BadAuthenticationMethod,
            Self::Stopping => ReasonCode::ServerUnavailable,
        }
    }
}

impl Broker {
    /// How a client would come in; nothing is done for it yet.
    pub fn admission<'a>(&self, connect: &Connect<'a>) -> Result<Admission<'a>, Refusal> {
        let keep_alive = self.keep_alive(connect);
        Ok(Admission {
            client_id: self.client_id(connect)?,
            is_assigned: connect.client_id.is_empty(),
            server_keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive),
            session_expiry_interval: self.granted_expiry(connect, self.lifetime_of(connect)),
        })
    }

    /// Gives a connection its session: the one that stands under its Client Identifier, or a new one.
    pub fn connect(&self, new: NewConnection<'_>) -> Result<Accepted, Refusal> {
        let NewConnection { connect, admission, .. } = new;
        if self.is_stopping() {
            return Err(Refusal::Stopping);
        }
        let client_id = &*admission.client_id;
        let keep_alive = admission.server_keep_alive.unwrap_or(connect.keep_alive);
        let lifetime = self.lifetime_of(connect);
        let will = self.check_will(connect)?;
        let link_id = self.next_link_id();
        let link = self.link(link_id, &new, keep_alive);
        let silence_allowed = link.silence_allowed();

        let mut place = self.registry.place(client_id);
        // Asked again under the lock: whoever stops the broker goes through all shards after saying so.
        if self.is_stopping() {
            return Err(Refusal::Stopping);
        }
        let address = new.peer.map(|peer| peer.ip());
        // Under the lock, so that a change of the rules finds either this session or none.
        let permissions = self.permissions_of(Some(&new.identity), client_id, address);
        if let Some((topic, will)) = &will {
            Self::check_will_access(topic, will, permissions.as_deref()).map_err(Refusal::WillDenied)?;
        }
        let existing = place.get().cloned();
        let mut replaced = None;
        let mut takeovers = None;
        let mut lost_to: Option<(PeerAddress, u32)> = None;
        let resumed = existing.filter(|existing| {
            let mut state = existing.lock();
            if state.session.link.is_some() {
                let rival = state.peer;
                let count = state.make_extras().takeovers.get_or_insert_default().count(new.now);
                lost_to = Some((rival, count));
            }
            takeovers = state.extras().and_then(|extras| extras.takeovers.take());
            // What waits for one user is not for another who knows the Client Identifier.
            let same_user = state.identity.as_ref().and_then(|identity| identity.user.as_deref())
                == new.identity.user.as_deref();
            let resumable =
                !state.ended && !connect.clean_start && state.session.is_persistent() && same_user;
            if !resumable {
                replaced = Some(existing.clone());
            }
            resumable
        });
        let session_present = resumed.is_some();
        if !session_present && replaced.is_none() {
            let most = self.settings.max_sessions as u64;
            if self.sessions.load(Ordering::Relaxed) >= most {
                return Err(Refusal::TooManySessions);
            }
        }
        let handle = resumed.unwrap_or_else(|| {
            let number = self.next_session_number();
            let owner = (self.keeps() && lifetime != Lifetime::Connection).then(|| number.owner());
            let session = Session::new(lifetime, owner, self.budget.clone());
            let publisher = self.registry.publisher(client_id);
            let handle = Arc::new(SessionHandle::new(number, client_id, publisher, session));
            place.put(handle.clone());
            self.sessions.fetch_add(1, Ordering::Relaxed);
            handle
        });
        let mut state = handle.lock();
        let expired_meanwhile = state.ended;
        if expired_meanwhile {
            // Its expiry was under way: once more, and it is gone from the shard.
            drop(state);
            place.remove();
            drop(place);
            return self.connect(new);
        }
        let will_of_old = state.will.take();
        let old_link_lives = state.session.link.is_some();
        for key in state.take_deadlines() {
            self.remove_deadline(key);
        }
        if takeovers.is_some() {
            state.make_extras().takeovers = takeovers;
        }
        let reads_other_things = self.admit(&mut state, &new.identity, new.peer.into(), permissions);
        state.will = will.map(|(topic, will)| Box::new(pending_will(topic, will, handle.publisher)));
        state.session.lifetime = lifetime;
        let old_link = state.session.attach(link);
        if let Some(allowed) = silence_allowed {
            let deadline = Deadline::KeepAlive(Arc::downgrade(&handle));
            state.keep_alive = Some(self.add_deadline(new.now + allowed, deadline));
        }
        if let Some(expires) = new.identity.expires {
            let deadline = Deadline::Identity(Arc::downgrade(&handle));
            state.make_extras().proof_ends = Some(self.add_deadline(expires, deadline));
        }
        handle.note_load(&state);
        // Under the lock: what happens to the session later is appended later.
        let mut sequence = self.store_session(&handle, &mut state);
        if session_present && self.is_failing() {
            // The store has the session already, and a client that takes what waits for it gives a full disk room.
            sequence = CommitSeq::default();
        }
        if !old_link_lives {
            // Before anyone else can take the link away.
            self.connected.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        drop(place);
        self.forget_matches(reads_other_things);

        if let Some((old_peer, count)) = lost_to {
            self.note_takeover(client_id, old_peer.socket_address(), new.peer, count);
        }
        // The old connection's Will: published if it is gone without a delay, dropped if the session goes on within
        // the delay [MQTT-3.1.3-9]. A session that was not connected has only a Will that waits.
        if old_link_lives {
            self.publish_will(will_of_old.filter(|will| will.delay.is_zero()), &handle, None, new.now);
        }
        old_link.into_iter().for_each(|link| link.waker.wake());
        // The CONNACK must not promise a new session while the store still has the old one.
        let ended = replaced.and_then(|replaced| self.end_session(&replaced, false, new.now));
        self.most_connected.fetch_max(self.connected(), Ordering::Relaxed);
        Ok(Accepted {
            sequence: sequence.max(ended.unwrap_or_default()),
            handle,
            link: link_id,
            session_present,
        })
    }

    /// Whether a connection has the session that stands under this Client Identifier.
    pub fn is_owned(&self, client_id: &str) -> bool {
        self.standing(client_id).is_some_and(|handle| handle.lock().session.link.is_some())
    }

    /// Has the connection that owns the session polled, if there is one, and the waker woken when that has heard what
    /// there is to hear, or is gone. Whether there is one.
    pub fn ask_owner(&self, client_id: &str, successor: &Waker) -> bool {
        let Some(handle) = self.standing(client_id) else { return false };
        let mut state = handle.lock();
        let Some(owner) = state.session.link.as_ref().map(|link| link.waker.clone()) else { return false };
        state.make_extras().successors.push(successor.clone());
        drop(state);
        owner.wake();
        true
    }

    /// Lets those go on that wait for the session's connection to hear what there is.
    pub fn answer_successors(&self, handle: &SessionHandle) {
        let successors = handle.lock().take_successors();
        successors.into_iter().for_each(Waker::wake);
    }

    fn standing(&self, client_id: &str) -> Option<Arc<SessionHandle>> {
        self.registry.place(client_id).get().cloned()
    }

    fn client_id<'a>(&self, connect: &Connect<'a>) -> Result<Cow<'a, str>, Refusal> {
        if connect.client_id.len() > self.settings.max_client_id_length {
            return Err(Refusal::LongClientId);
        }
        if !connect.client_id.is_empty() {
            return Ok(Cow::Borrowed(connect.client_id));
        }
        let may_be_empty = match connect.version {
            ProtocolVersion::V3_1 => false,
            ProtocolVersion::V3_1_1 => connect.clean_start,
            ProtocolVersion::V5 => true,
        };
        if !may_be_empty || !self.settings.allow_empty_client_id {
            return Err(Refusal::EmptyClientId);
        }
        let mut random = [0; 16];
        // Without randomness an identifier could be guessed and taken over.
        getrandom::fill(&mut random).map_err(|_| Refusal::EmptyClientId)?;
        Ok(Cow::Owned(format!("auto-{:032x}", u128::from_be_bytes(random))))
    }

    fn keep_alive(&self, connect: &Connect<'_>) -> u16 {
        let most = self.settings.max_keep_alive;
        let too_long = most > 0 && (connect.keep_alive == 0 || connect.keep_alive > most);
        // Only a 5.0 client can be told of another Keep Alive than its own.
        if too_long && connect.version == ProtocolVersion::V5 { most } else { connect.keep_alive }
    }

    fn lifetime_of(&self, connect: &Connect<'_>) -> Lifetime {
        match connect.version {
            ProtocolVersion::V5 => self.lifetime(connect.properties.session_expiry_interval.unwrap_or(0)),
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 if connect.clean_start => Lifetime::Connection,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
                self.settings.expiry_3x.map_or(Lifetime::Forever, Lifetime::After)
            }
        }
    }

    fn granted_expiry(&self, connect: &Connect<'_>, lifetime: Lifetime) -> Option<u32> {
        let granted = match lifetime {
            Lifetime::Connection => 0,
            Lifetime::After(after) => u32::try_from(after.as_secs()).unwrap_or(u32::MAX),
            Lifetime::Forever => u32::MAX,
        };
        let asked = connect.properties.session_expiry_interval.unwrap_or(0);
        (connect.version == ProtocolVersion::V5 && granted != asked).then_some(granted)
    }

    fn check_will<'c, 'a>(
        &self,
        connect: &'c Connect<'a>,
    ) -> Result<Option<(&'a TopicName, &'c Will<'a>)>, Refusal> {
        let Some(will) = &connect.will else { return Ok(None) };
        if will.qos > self.settings.maximum_qos {
            return Err(Refusal::WillQoS);
        }
        if will.retain && !self.settings.retained.available {
            return Err(Refusal::WillRetain);
        }
        let topic = TopicName::parse(will.topic.as_bytes()).map_err(Refusal::WillTopic)?;
        if topic.is_of_the_broker() {
            return Err(Refusal::WillDenied(Denial::of_the_broker("will", topic)));
        }
        Ok(Some((topic, will)))
    }

    fn link(&self, id: LinkId, new: &NewConnection<'_>, keep_alive: u16) -> Link {
        let properties = &new.connect.properties;
        let aliases =
            properties.topic_alias_maximum.unwrap_or(0).min(self.settings.topic_alias_maximum_outgoing);
        let receive_maximum = properties.receive_maximum.map_or(u16::MAX, |maximum| maximum.get());
        Link {
            id,
            version: new.connect.version,
            maximum_packet_size: properties.maximum_packet_size.unwrap_or(u32::MAX),
            window: receive_maximum.min(self.settings.session.max_inflight),
            aliases: (aliases > 0).then(|| Box::new(OutgoingAliases::new(aliases))),
            outbox: Outbox::default(),
            waker: new.waker.clone(),
            scheduled: false,
            close: None,
            last_packet: self.milliseconds(new.now),
            silence_allowed: NonZeroU32::new(u32::from(keep_alive) * 1_500),
            blocked: None,
            watched: false,
            to_resend: 0,
            untaken: 0,
            gated: None,
        }
    }

    /// Has the session kept as it is now, and its Will.
    fn store_session(&self, handle: &SessionHandle, state: &mut SessionState) -> CommitSeq {
        if !state.session.is_kept() {
            return CommitSeq::default();
        }
        state.will_number += 1;
        self.append(|records| {
            self.write_session(handle, state, None, records);
            match &state.will {
                Some(will) => self.write_will(handle, will, None, records),
                None => records.push(&Record::WillEnded { owner: handle.number.owner() }),
            }
        })
    }

    fn note_takeover(
        &self,
        client_id: &str,
        old: Option<SocketAddr>,
        new: Option<SocketAddr>,
        in_this_minute: u32,
    ) {
        self.counters.add(Counter::Takeovers, 1);
        // Two clients that fight for one identifier do so for hours: a line for 1, 2, 4, 8 … in a minute.
        if in_this_minute.is_power_of_two() {
            tracing::info!(
                client = client_id,
                from = old.map(tracing::field::display),
                by = new.map(tracing::field::display),
                in_this_minute,
                "a session was taken over by another connection with the same client identifier"
            );
        }
    }
}

fn pending_will(topic: &TopicName, will: &Will<'_>, publisher: Publisher) -> PendingWill {
    let seconds = |interval: u32| Duration::from_secs(interval.into());
    PendingWill {
        message: Message::of_will(topic, will, publisher),
        expiry: will.properties.message_expiry_interval.map(seconds),
        delay: will.delay_interval.map_or(Duration::ZERO, seconds),
    }
}
