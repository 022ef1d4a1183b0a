//! The verbs: connect, publish, subscribe, unsubscribe, acknowledge, disconnect; wills, expiry, `$SYS`.
//!
//! Called by `net` for each client's packets and by `server` for start, timer and end. The broker knows no sockets:
//! bytes leave through sessions' outboxes, and a connection is woken through its waker.
//!
//! Locks, in the order in which they may be taken, and what for:
//! 0. a worker's match cache: held for a run's delivery to all who get it;
//! 1. a registry shard: who has a Client Identifier; held for a look-up and a take-over;
//! 2. the group table, a group: membership, the group's queue; held for a run's delivery to the group;
//! 3. the trie: written for a subscription, read on a cache miss; a session may be locked under it, never the
//!    other way round;
//! 4. a session: at most one at a time; held for one run's delivery or one poll of its connection;
//! 5. the retained tree, the deadlines: nothing of these is taken under another;
//! 6. the store's own, inside its calls, under any of the above: a leaf.
//!
//! No lock is held across an await; nothing in here awaits at all.

mod access;
mod connect;
mod counters;
mod deadlines;
mod disconnect;
mod groups;
mod handle;
mod keep;
mod matches;
mod poll;
mod publish;
mod registry;
mod restore;
mod retained;
mod subscribe;
mod sys;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub use access::Denial;
pub use connect::{Accepted, Admission, NewConnection, Refusal};
pub use counters::{Counter, Counters};
pub use disconnect::Ending;
pub use handle::{PeerAddress, SessionHandle, SessionState};
pub use poll::{Polled, Progress};
pub use publish::Routed;
pub use restore::Restored;
pub use retained::RetainedLimits;
pub use subscribe::{SubscribeError, Subscribed};
pub use sys::SysReporter;

use self::deadlines::{DeadlineKey, Deadlines};
use self::groups::GroupTable;
use self::matches::{MatchCache, Subscriber};
use self::registry::Registry;
use self::retained::Retained;
use crate::message::{Message, SessionNumber};
use crate::routing::{Generations, Trie};
use crate::session::{Close, Context, GroupNumber, LinkId, QueueBudget, SessionLimits};
use crate::store::{Store, Timebase};

/// What a broker is to be like; made from the configuration by `server`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bounds of sessions.
    pub session: SessionLimits,
    /// Bytes queued in all sessions together.
    pub total_queue_bytes: u64,
    /// Receive Maximum offered to 5.0 clients.
    pub receive_maximum: u16,
    /// Topic Alias Maximum offered to 5.0 clients.
    pub topic_alias_maximum: u16,
    /// Topic aliases set towards a client at most, whatever it offers.
    pub topic_alias_maximum_outgoing: u16,
    /// Longest Keep Alive in seconds; 0: any, also none.
    pub max_keep_alive: u16,
    /// How long a 3.x session without Clean Session outlives its connection; `None`: for ever.
    pub expiry_3x: Option<Duration>,
    /// Longest Session Expiry Interval granted; `None`: any.
    pub max_expiry: Option<Duration>,
    /// Highest QoS accepted.
    pub maximum_qos: crate::codec::QoS,
    /// Empty Client Identifiers get one assigned.
    pub allow_empty_client_id: bool,
    /// Longest Client Identifier accepted, in bytes.
    pub max_client_id_length: usize,
    /// Sessions at most, connected or not.
    pub max_sessions: usize,
    /// Subscriptions of one session at most.
    pub max_subscriptions: usize,
    /// How shared groups choose.
    pub shared_strategy: crate::config::SharedStrategy,
    /// Bounds of the retained messages.
    pub retained: RetainedLimits,
    /// How long a client may read nothing while there is something for it.
    pub write_timeout: Duration,
    /// Threads that will call the broker.
    pub workers: usize,
}

/// Something to do at a certain time.
#[derive(Debug)]
enum Deadline {
    /// Look whether a connection was silent for too long.
    KeepAlive(Weak<SessionHandle>),
    /// Look whether a client has read nothing for too long. Boxed, as every connection has room for another kind.
    Blocked(Box<(Weak<SessionHandle>, LinkId)>),
    /// End a connection whose client has proved who it is only until now.
    Identity(Weak<SessionHandle>),
    /// End a session that nobody came back to.
    SessionExpiry(Weak<SessionHandle>),
    /// Publish a Will whose delay has passed.
    Will(Weak<SessionHandle>),
    /// Remove a retained message, if it still is this one.
    RetainedExpiry(Weak<Message>),
}

/// See the module.
#[derive(Debug)]
pub struct Broker {
    /// What it was told to be like.
    pub settings: Settings,
    /// What it counted.
    pub counters: Counters,
    /// Where it keeps what must last.
    pub store: Arc<dyn Store>,
    /// Whether it keeps anything.
    keeps: bool,
    timebase: Timebase,
    registry: Registry,
    trie: RwLock<Trie<Subscriber>>,
    generations: Generations,
    rules: access::Rules,
    caches: Box<[Mutex<MatchCache>]>,
    groups: RwLock<GroupTable>,
    retained: Mutex<Retained>,
    deadlines: Mutex<Deadlines<Deadline>>,
    /// The next deadline has come nearer.
    nearer: Notify,
    budget: Arc<QueueBudget>,
    session_numbers: AtomicU64,
    link_ids: AtomicU64,
    sessions: AtomicU64,
    connected: AtomicU64,
    most_connected: AtomicU64,
    stopping: AtomicBool,
    started: Instant,
}

impl Broker {
    /// A broker without sessions.
    pub fn new(settings: Settings, store: Arc<dyn Store>, now: Instant) -> Arc<Self> {
        let threads = settings.workers.max(1) + 1;
        Arc::new(Self {
            counters: Counters::new(threads),
            keeps: store.keeps(),
            timebase: store.timebase(),
            registry: Registry::new(store.secret()),
            store,
            trie: RwLock::new(Trie::new()),
            generations: Generations::new(),
            rules: access::Rules::default(),
            caches: (0..threads).map(|_| Mutex::default()).collect(),
            groups: RwLock::default(),
            retained: Mutex::new(Retained::new(settings.retained)),
            deadlines: Mutex::new(Deadlines::new(now)),
            nearer: Notify::new(),
            budget: Arc::new(QueueBudget::new(settings.total_queue_bytes)),
            session_numbers: AtomicU64::new(0),
            link_ids: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            most_connected: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            started: now,
            settings,
        })
    }

    /// When the next thing is to be done.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.lock().next()
    }

    /// Waits until a deadline was added that comes before all others.
    pub async fn deadline_came_nearer(&self) {
        self.nearer.notified().await;
    }

    /// Does what is due.
    pub fn handle_deadlines(&self, now: Instant) {
        loop {
            // Taken out of the lock one by one: doing it may add others.
            let Some((key, deadline)) = self.deadlines.lock().pop_due(now) else { return };
            match deadline {
                Deadline::KeepAlive(handle) => self.check_keep_alive(handle, key, now),
                Deadline::Blocked(watched) => self.check_blocked(watched, now),
                Deadline::Identity(handle) => self.end_expired(&handle, key),
                Deadline::SessionExpiry(handle) => self.expire_session(&handle, now),
                Deadline::Will(handle) => self.publish_due_will(&handle, now),
                Deadline::RetainedExpiry(message) => self.expire_retained(&message),
            }
        }
    }

    /// Sessions that have a connection.
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// The most sessions that had a connection at a time.
    pub fn most_connected(&self) -> u64 {
        self.most_connected.load(Ordering::Relaxed)
    }

    /// Sessions, connected or not.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Whether the broker is about to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Asks every connection to end because the broker does, with 0x8B; with [`Close::Aborted`], at once. From now
    /// on no connection is accepted.
    pub fn stop(&self, close: Close) {
        self.stopping.store(true, Ordering::Release);
        for handle in self.registry.all() {
            let mut state = handle.lock();
            let waker = state.session.link.as_mut().and_then(|link| link.request_close(close));
            drop(state);
            waker.into_iter().for_each(std::task::Waker::wake);
        }
    }

    fn context(&self, now: Instant) -> Context<'_> {
        Context { limits: &self.settings.session, now, timebase: &self.timebase }
    }

    /// A time as links remember it, which is all that they have room for: in milliseconds since the start, begun anew after
    /// seven weeks. No keep alive is longer than a day and a half.
    fn milliseconds(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.started).as_millis() as u32
    }

    fn next_session_number(&self) -> SessionNumber {
        // Zero is the broker's own.
        SessionNumber(self.session_numbers.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn next_link_id(&self) -> LinkId {
        LinkId(self.link_ids.fetch_add(1, Ordering::Relaxed))
    }

    fn add_deadline(&self, at: Instant, deadline: Deadline) -> DeadlineKey {
        let (key, is_next) = self.deadlines.lock().insert(at, deadline);
        if is_next {
            self.nearer.notify_one();
        }
        key
    }

    fn remove_deadline(&self, key: Option<DeadlineKey>) {
        if let Some(key) = key {
            self.deadlines.lock().remove(key);
        }
    }

    fn group(&self, number: GroupNumber) -> Option<Arc<groups::Group>> {
        self.groups.read().get(number).cloned()
    }
}

/// A small number for the calling thread, different for each of a runtime's workers: for picking counters and
/// caches that no other worker touches.
fn worker_index() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    INDEX.with(|index| {
        if index.get() == usize::MAX {
            index.set(THREADS.fetch_add(1, Ordering::Relaxed));
        }
        index.get()
    })
}
