//! The store on disk: a segmented log of our own, one writer, and in memory where everything stands.
//!
//! Opened by `server`. Who appends meets only `front`; a thread writes (`writer`), one fetches (`fetch`), one makes
//! and removes files and, in `os`, syncs (`segment`). The log is frames, one a group commit (`frame`), in segments of
//! 32 MiB; `index` knows where what is alive stands; `reclaim` gives space back from the oldest segment on; `recovery`
//! reads the log at start. All that touches a disk goes through [`Files`].
//!
//! What always holds: a sequence is committed only once its records are written, and in `sync` on the disk; what recovery
//! gives is what was committed, and what was being committed, whole or not at all.

mod assemble;
mod batch;
mod error;
mod examine;
mod fetch;
mod files;
mod frame;
mod front;
mod index;
mod place;
mod rebuilt;
mod reclaim;
mod recovery;
mod rows;
mod segment;
mod shared;
mod stepped;
mod writer;

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use self::fetch::Fetches;
use self::frame::Identity;
use self::recovery::{Purpose, Recovery, recover};
use self::segment::{Plan, Yard, segment_name};
use self::shared::Shared;
use self::writer::Writer;
use super::record::Timebase;
use super::{CommitSeq, Condition, Fetch, Records, Recovered, Store};
use crate::config::Durability;

pub use error::OpenError;
pub use examine::{Examined, Live, Summary};
pub use files::{Files, StdFiles, StoreFile};
pub use shared::{Options, Statistics};
pub use stepped::SteppedStore;
pub use writer::Step;

/// See the module.
#[derive(Debug)]
pub struct DiskStore {
    shared: Arc<Shared>,
    fetches: Arc<Fetches>,
    is_closing: Arc<AtomicBool>,
    threads: Mutex<Option<Threads>>,
    /// Locked as long as the store is open.
    _lock: File,
}

#[derive(Debug)]
struct Threads {
    writer: JoinHandle<()>,
    helper: JoinHandle<()>,
    fetcher: JoinHandle<()>,
}

impl DiskStore {
    /// Opens the store in a directory, which is made if there is none, and gives back what it holds. With `Durability::Sync`
    /// every commit waits for the disk; otherwise for the operating system.
    pub fn open(
        directory: &Path,
        durability: Durability,
        options: Options,
        timebase: Timebase,
    ) -> Result<(Arc<Self>, Recovered), OpenError> {
        let lock = lock(directory)?;
        let files = Arc::new(StdFiles::new(directory));
        let is_sync = durability == Durability::Sync;
        let (shared, writer, recovered) =
            start(files, is_sync, options, timebase).map_err(|error| explained(directory, error))?;
        let fetches = Arc::new(Fetches::default());
        let is_closing = Arc::new(AtomicBool::new(false));
        let threads = spawn(&shared, &fetches, &is_closing, writer)
            .map_err(|source| OpenError::io("start", "its threads".to_owned(), source))?;
        let threads = Mutex::new(Some(threads));
        Ok((Arc::new(Self { shared, fetches, is_closing, threads, _lock: lock }), recovered))
    }

    /// What the store has done and has.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }

    /// Commits what was appended, ends the log cleanly and ends the threads. What is appended later is never committed.
    pub fn close(&self) {
        let Some(threads) = self.threads.lock().take() else {
            return;
        };
        self.is_closing.store(true, Ordering::Release);
        self.shared.front.rouse();
        // A thread that panicked has said so.
        let _ = threads.writer.join();
        self.shared.yard.stop();
        let _ = threads.helper.join();
        self.fetches.stop();
        let _ = threads.fetcher.join();
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for DiskStore {
    fn keeps(&self) -> bool {
        true
    }

    fn begin(&self) -> CommitSeq {
        CommitSeq(self.shared.front.begin())
    }

    fn finish(&self, sequence: CommitSeq, records: &Records) {
        self.shared.front.finish(sequence.0, records.as_bytes());
    }

    fn appended(&self) -> CommitSeq {
        CommitSeq(self.shared.front.appended())
    }

    fn committed(&self) -> CommitSeq {
        CommitSeq(self.shared.front.committed())
    }

    fn wake_when_committed(&self, sequence: CommitSeq, waker: &Waker) {
        self.shared.front.wake_when_committed(sequence.0, waker);
    }

    fn fetch(&self, fetch: Arc<Fetch>) {
        self.fetches.ask(self.shared.front.appended(), fetch);
    }

    fn condition(&self) -> Condition {
        self.shared.condition()
    }

    fn statistics(&self) -> Option<Statistics> {
        Some(self.shared.statistics())
    }

    fn secret(&self) -> [u8; 16] {
        self.shared.yard.plan.identity.secret
    }

    fn timebase(&self) -> Timebase {
        self.shared.timebase
    }
}

/// Recovers, and makes everything that writes.
fn start(
    files: Arc<dyn Files>,
    sync: bool,
    options: Options,
    timebase: Timebase,
) -> Result<(Arc<Shared>, Writer, Recovered), OpenError> {
    let purpose = if options.salvage { Purpose::Salvage } else { Purpose::Open };
    let (recovery, losses) = recover(&*files, timebase, purpose)?;
    for loss in losses {
        tracing::warn!("{loss}");
    }
    let recovery = match recovery {
        Some(recovery) => recovery,
        None => {
            let identity = Identity::new().map_err(|error| OpenError::Random(error.to_string()))?;
            Recovery::fresh(Identity { secret: options.secret.unwrap_or(identity.secret), ..identity })
        }
    };
    let Recovery { identity, index, recovered, sealed, dead, next_seq, next_number, oldest } = recovery;
    let plan = Plan {
        identity,
        sync,
        boot: files.boot(),
        size: options.segment_bytes,
        ahead: options.segments_ahead,
    };
    let yard = Yard::new(files, plan, next_number);
    yard.synced.store(next_seq - 1, Ordering::Release);
    yard.written.store(next_seq - 1, Ordering::Release);
    let segment = yard.make().map_err(|source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::Full {
            file: segment_name(next_number),
            needed: (options.segment_bytes * (1 + options.segments_ahead as u64)).div_ceil(1 << 20),
            source,
        },
        _ => OpenError::io("make", segment_name(next_number), source),
    })?;
    let shared = Arc::new(Shared::new(yard, index.owners.clone(), options, timebase));
    let in_use = sealed.iter().map(|sealed| &sealed.segment).chain([&segment]);
    shared.segments.lock().extend(in_use.map(|segment| (segment.number, segment.clone())));
    shared.yard.watch(segment.clone());
    dead.into_iter().for_each(|segment| shared.yard.bury(segment));
    let name = segment_name(segment.number);
    let mut writer = Writer::new(shared.clone(), index, segment, next_seq, sealed, oldest);
    // It says that whatever was cut off stays so.
    writer.write_mark().map_err(|fault| OpenError::io("write", name, fault.into()))?;
    Ok((shared, writer, recovered))
}

fn spawn(
    shared: &Arc<Shared>,
    fetches: &Arc<Fetches>,
    is_closing: &Arc<AtomicBool>,
    writer: Writer,
) -> io::Result<Threads> {
    let named = |name: &str| thread::Builder::new().name(format!("store-{name}"));
    let (closing, of_writer) = (is_closing.clone(), shared.clone());
    let writer = named("writer").spawn(move || write(writer, &of_writer, &closing))?;
    shared.front.set_writer(writer.thread().clone());
    let of_helper = shared.clone();
    let helper = named("helper").spawn(move || {
        let Options { sync_interval, retry, .. } = of_helper.options;
        of_helper.yard.run(sync_interval, retry, || of_helper.front.rouse());
    })?;
    let (fetches, of_fetcher) = (fetches.clone(), shared.clone());
    let fetcher = named("fetcher").spawn(move || fetches.run(&of_fetcher))?;
    // What was appended before the writer was known did not wake it.
    shared.front.rouse();
    Ok(Threads { writer, helper, fetcher })
}

/// What the writer's thread does.
fn write(mut writer: Writer, shared: &Shared, is_closing: &AtomicBool) {
    loop {
        let closes = is_closing.load(Ordering::Acquire);
        match writer.step() {
            Step::Again => {}
            Step::Idle if closes => break,
            Step::Idle => thread::park(),
            Step::Later if closes && shared.condition() == Condition::Failing => break,
            Step::Later => thread::park_timeout(shared.options.retry),
        }
    }
    writer.close();
}

/// Makes the directory if there is none, and locks it against others.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let owned = || directory.to_owned();
    if let Err(source) = make(directory) {
        return Err(match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                OpenError::NoDirectory { directory: owned() }
            }
            _ => OpenError::Missing { directory: owned(), source },
        });
    }
    let path = directory.join("LOCK");
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(|source| refused(directory, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            return Err(OpenError::InUse { directory: owned(), process: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(OpenError::io("lock", "LOCK".to_owned(), source)),
    }
    // For whoever comes next and wants to know who is here; not needed for anything else.
    let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(file)
}

/// Makes the directory, for this user alone, and sees to it that it lasts.
fn make(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Who may not read it cannot sync it either; the name is no less there.
        if let Ok(parent) = File::open(parent.unwrap_or(Path::new("."))) {
            parent.sync_all()?;
        }
    }
    Ok(())
}

/// Adds what only the directory's owner can tell.
fn explained(directory: &Path, error: OpenError) -> OpenError {
    match error {
        OpenError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            refused(directory, source)
        }
        other => other,
    }
}

/// Why something in the directory could not be opened or made.
fn refused(directory: &Path, source: io::Error) -> OpenError {
    let directory: PathBuf = directory.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            let is_own = std::fs::metadata(&directory).is_ok_and(|data| data.uid() == user);
            if is_own {
                OpenError::ReadOnly { directory, source }
            } else {
                OpenError::Denied { directory, user, source }
            }
        }
        _ => OpenError::io("write to", directory.display().to_string(), source),
    }
}
