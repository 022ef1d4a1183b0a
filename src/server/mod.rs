//! Wires everything from the configuration: start, the timer, `$SYS`, drain and the end.
//!
//! Called by `cli` for the binary ([`run`]) and by programs that embed a broker ([`start`]): as many as wanted in one
//! process, each stopped at will. What always holds: when [`start`] returns, every listener accepts; when
//! [`Running::stop`] returns, every connection is closed.

mod notify;
mod reload;
mod settings;
mod signals;
mod storage;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::task::JoinHandle;

use self::notify::{State, notify};
use self::signals::Signals;
pub use self::storage::Storage;
use self::watch::{Stamps, Watch};
use crate::auth::{Auth, Policy};
use crate::broker::{Broker, Restored, SysReporter};
use crate::config::{Config, ListenerKind, Problems, Sources};
use crate::net::{self, Inherited, ListenError, Listening, Shared, TlsError, Transport};
use crate::session::Close;
use crate::store::Store;
use crate::store::disk::{DiskStore, OpenError};

/// Tasks that a worker runs from its own queue before one from the queue of all, where those stand that its own had no room
/// for. Tokio's own choice lets some of a thousand busy connections wait for a third of a second.
const GLOBAL_QUEUE_INTERVAL: u32 = 3;

/// Descriptors that there is room for from the start, at most: each takes eight bytes of the system's memory.
const DESCRIPTORS_AT_START: u64 = 32 * 1024;

/// Why a broker does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (listener {name}): {error}{}", hint(.error))]
    Listen {
        /// The listener's name.
        name: String,
        /// Its address, or the path of its socket.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// A listener's certificates are not right.
    #[error("listener {name}: {error}")]
    Tls {
        /// The listener's name.
        name: String,
        /// What is wrong.
        error: TlsError,
    },
    /// The store cannot be opened.
    #[error("{0}")]
    Store(OpenError),
    /// A file that says who may enter is wrong.
    #[error("{0}")]
    Auth(Problems),
    /// The system has no threads to give.
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
}

/// A broker that runs.
#[derive(Debug)]
pub struct Running {
    broker: Arc<Broker>,
    shared: Arc<Shared>,
    listening: Vec<Listening>,
    tasks: Vec<JoinHandle<()>>,
    shutdown_timeout: Duration,
    /// To be closed at the end.
    disk: Option<Arc<DiskStore>>,
    /// As it is in force.
    config: Config,
}

/// Checks what the configuration refers to, without starting anything: certificates and keys. Blocks while it reads.
///
/// # Errors
/// All that would keep the broker from starting.
pub fn check(config: &Config) -> Vec<StartError> {
    let listeners = config.listeners.iter();
    listeners
        .filter_map(|listener| {
            let error = Transport::load(listener).err()?;
            Some(StartError::Tls { name: listener.name.clone(), error })
        })
        .collect()
}

/// Starts a broker with a runtime of its own, and returns when it was told to stop by SIGTERM or SIGINT. `sources` is
/// where the configuration came from: it is read again at SIGHUP, and when a file has changed. With `salvage`, what is
/// damaged of the store is set aside.
///
/// # Errors
/// When it cannot start.
pub fn run(config: Config, sources: Sources, salvage: bool) -> Result<(), StartError> {
    // Whatever changes from here on is read again.
    let watch = Watch::new(Stamps::of(&config, &sources));
    let workers = settings::workers(&config);
    raise_open_files(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
        .on_thread_unpark(net::round::begin)
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    runtime.block_on(async {
        // The listening loop itself runs on a worker, not on this thread.
        let signals = Signals::new().map_err(StartError::Runtime)?;
        let mut inherited = Inherited::from_environment();
        let storage = Storage::open(&config, salvage).map_err(StartError::Store)?;
        let mut running = start_inheriting(config, storage, &mut inherited).await?;
        for address in inherited.left() {
            tracing::warn!(
                address,
                "no listener of the configuration has the address of this inherited socket"
            );
        }
        notify(State::Ready);
        let signal = signals.obey(&mut running, &Arc::new(sources), watch).await;
        notify(State::Stopping);
        tracing::info!(signal, connections = running.connections(), "stopping");
        running.stop().await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Starts a broker on the caller's runtime.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let storage = Storage::open(&config, false).map_err(StartError::Store)?;
    start_inheriting(config, storage, &mut Inherited::default()).await
}

/// As [`start`], with a store of the caller's, which holds nothing yet.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn start_with_store(config: Config, store: Arc<dyn Store>) -> Result<Running, StartError> {
    start_inheriting(config, Storage::of(store), &mut Inherited::default()).await
}

/// As [`start_with_store`]; listeners whose address is among those inherited take that socket.
async fn start_inheriting(
    config: Config,
    storage: Storage,
    inherited: &mut Inherited,
) -> Result<Running, StartError> {
    let now = Instant::now();
    let Storage { store, recovered, disk } = storage;
    let broker = Broker::new(settings::broker(&config), store, now);
    let auth = Auth::new(Policy::load(&config).map_err(StartError::Auth)?);
    if let Some(acl) = auth.acl() {
        broker.set_rules(Some(acl));
    }
    if broker.keeps() {
        let Restored { sessions, subscriptions, messages, retained } = broker.restore(recovered, now);
        tracing::info!(sessions, subscriptions, messages, retained, "the store is open");
    }
    let shared = Shared::new(broker.clone(), auth, &config.limits, &config.bans, now);
    let mut listening = Vec::new();
    for listener in &config.listeners {
        let name = listener.name.clone();
        let bound = net::listen(listener, shared.clone(), inherited).map_err(|error| match error {
            ListenError::Socket(error) => StartError::Listen { name, address: listener.place(), error },
            ListenError::Tls(error) => StartError::Tls { name, error },
        })?;
        let over = match listener.kind {
            ListenerKind::Tcp => "TCP",
            ListenerKind::Tls => "TLS",
            ListenerKind::Ws => "WebSocket",
            ListenerKind::Wss => "WebSocket in TLS",
            ListenerKind::Unix => "a Unix socket",
        };
        let address = bound.address.map_or(listener.place(), |address| address.to_string());
        tracing::info!(%address, name = %listener.name, "listening for MQTT over {over}");
        listening.push(bound);
    }
    storage::announce(&config);
    let mut tasks = vec![tokio::spawn(keep_time(broker.clone()))];
    if !config.sys.interval.is_zero() {
        tasks.push(tokio::spawn(publish_sys(broker.clone(), config.sys.interval)));
    }
    let shutdown_timeout = config.server.shutdown_timeout;
    Ok(Running { broker, shared, listening, tasks, shutdown_timeout, disk, config })
}

impl Running {
    /// Where clients can connect, in the order of the configuration; Unix sockets have no address.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listening.iter().filter_map(|listening| listening.address).collect()
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.open()
    }

    /// Reads certificates, keys and revocation lists again; connections stay as they are.
    pub fn reload(&self) {
        for listening in &self.listening {
            listening.reload();
        }
    }

    /// The broker itself.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Accepts no more, tells 5.0 clients 0x8B, writes what is left for them, and closes; what is not written within
    /// `server.shutdown_timeout` is given up.
    pub async fn stop(self) {
        for listening in &self.listening {
            listening.stop();
        }
        self.broker.stop(Close::ServerShuttingDown);
        self.shared.stop_handshakes();
        if tokio::time::timeout(self.shutdown_timeout, self.shared.closed()).await.is_err() {
            tracing::warn!(
                connections = self.connections(),
                "clients did not read what was left for them within server.shutdown_timeout; closing all the same"
            );
            self.broker.stop(Close::Aborted);
            self.shared.stop_handshakes();
            let grace = Duration::from_secs(1);
            let _: Result<(), _> = tokio::time::timeout(grace, self.shared.closed()).await;
        }
        for task in &self.tasks {
            task.abort();
        }
        if let Some(disk) = self.disk {
            // What the end of the connections has led to is kept, too.
            let closed = tokio::task::spawn_blocking(move || disk.close()).await;
            if let Err(error) = closed {
                tracing::error!(%error, "the store was not closed cleanly; it loses nothing by that");
            }
        }
    }
}

/// Every connection takes a descriptor: as many are asked for as the system permits, and if that is less than the
/// configuration promises, it is said at once and not when the first client is turned away.
fn raise_open_files(config: &Config) {
    let wanted = u64::from(config.limits.max_connections);
    let permitted = rlimit::increase_nofile_limit(u64::MAX);
    let most = permitted.as_ref().map_or(0, |permitted| wanted.min(*permitted).min(DESCRIPTORS_AT_START));
    make_room_for_descriptors(most);
    match permitted {
        Ok(permitted) if permitted < wanted => tracing::info!(
            open_files = permitted,
            max_connections = wanted,
            "the limit of open files (ulimit -Hn) permits fewer connections than limits.max_connections"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Has the system make room for so many descriptors. Linux doubles a process's table when it is full, and with more than
/// one thread that takes some ten milliseconds, in which nobody is let in: so it is done while there is one.
fn make_room_for_descriptors(count: u64) {
    if let Some(last) = count.checked_sub(1).and_then(|last| i32::try_from(last).ok()) {
        // The table stays as large as it is now. If that fails, it grows when it must.
        let _: Result<_, _> = rustix::io::fcntl_dupfd_cloexec(io::stderr(), last);
    }
}

/// Does what is due when it is due.
async fn keep_time(broker: Arc<Broker>) {
    loop {
        let next = broker.next_deadline();
        tokio::select! {
            () = sleep_until(next) => broker.handle_deadlines(Instant::now()),
            () = broker.deadline_came_nearer() => {}
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn publish_sys(broker: Arc<Broker>, interval: Duration) {
    let mut reporter = SysReporter::new();
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        reporter.publish(&broker, Instant::now());
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there: end it, or choose another port with --port"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges: choose another with --port",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}
