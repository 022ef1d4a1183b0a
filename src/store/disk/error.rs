//! Why a store cannot be opened, and what mends it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no directory, and none can be made.
    #[error("the store's directory {} cannot be made: {source}; make it: mkdir -p {}", directory.display(), directory.display())]
    Missing {
        /// Which.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing to be looked at.
    #[error("there is no store in {}", directory.display())]
    NoStore {
        /// Where.
        directory: PathBuf,
    },
    /// What should be the directory is something else.
    #[error("{} is no directory; move it away, or name another in store.directory", directory.display())]
    NoDirectory {
        /// Which.
        directory: PathBuf,
    },
    /// The directory, or a file in it, is not this user's.
    #[error(
        "the store's directory {} cannot be written by user {user}: {source}; hand it over: chown -R {user} {}",
        directory.display(),
        directory.display()
    )]
    Denied {
        /// Which.
        directory: PathBuf,
        /// The user that runs the broker, by number.
        user: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The directory is this user's, but may not be written.
    #[error(
        "the store's directory {} may not be written: {source}; allow it: chmod -R u+rwX {}",
        directory.display(),
        directory.display()
    )]
    ReadOnly {
        /// Which.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the store in {} is in use by another broker{}; stop that one, or name another directory in store.directory",
        directory.display(),
        process.map(|process| format!(" (process {process})")).unwrap_or_default()
    )]
    InUse {
        /// Which.
        directory: PathBuf,
        /// Its number, if it is known.
        process: Option<u32>,
    },
    /// A later format, or an earlier one.
    #[error(
        "{file} of the store has format version {version}, and this is a broker for version {known}; \
         move over with the other version's `fulmar store export` and this one's `fulmar store import`"
    )]
    Version {
        /// The file.
        file: String,
        /// What it has.
        version: u32,
        /// What this broker knows.
        known: u32,
    },
    /// A file of another store.
    #[error(
        "{file} belongs to another store; move it out of the directory, or start with --salvage to set it aside"
    )]
    Foreign {
        /// The file.
        file: String,
    },
    /// Something is broken that was once acknowledged.
    #[error(
        "the store is damaged: {file}, byte {offset}: {reason}; restore the directory from a backup, or start with \
         `fulmar run --salvage`, which sets the damaged part aside and goes on with what is sound"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The disk is full.
    #[error("there is no room for the store: {file} cannot be made: {source}; free at least {needed} MiB")]
    Full {
        /// The file.
        file: String,
        /// In MiB.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something.
    #[error("the store cannot {verb} {file}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With what.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no random numbers.
    #[error("the store cannot be made, because the system gives no random numbers: {0}")]
    Random(String),
}

impl OpenError {
    pub(super) fn io(verb: &'static str, file: String, source: io::Error) -> Self {
        Self::Io { verb, file, source }
    }
}
