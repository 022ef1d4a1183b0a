//! Opens the store that the configuration names.
//!
//! Called once at start. What always holds: a store that cannot be opened keeps the broker from starting, because it
//! could keep none of its promises.

use std::sync::Arc;

use crate::config::{Config, Durability, Engine};
use crate::store::disk::{DiskStore, OpenError, Options};
use crate::store::{MemoryStore, Recovered, Store, Timebase};

/// A store, and what it held.
#[derive(Debug)]
pub struct Storage {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What it held when it was opened.
    pub recovered: Recovered,
    /// To be closed when the broker has ended, if it is on disk.
    pub disk: Option<Arc<DiskStore>>,
}

impl Storage {
    /// One that keeps nothing.
    pub fn memory() -> Self {
        Self::of(Arc::new(MemoryStore::default()))
    }

    /// A store of the caller's, which holds nothing yet.
    pub fn of(store: Arc<dyn Store>) -> Self {
        Self { store, recovered: Recovered::default(), disk: None }
    }

    /// The one that the configuration names; with `salvage`, what is damaged of it is set aside.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(config: &Config, salvage: bool) -> Result<Self, OpenError> {
        if !is_kept(config) {
            return Ok(Self::memory());
        }
        let config = &config.store;
        let options = Options { salvage, ..Options::default() };
        let timebase = Timebase::now();
        let (disk, recovered) = DiskStore::open(&config.directory, config.durability, options, timebase)?;
        Ok(Self { store: disk.clone(), recovered, disk: Some(disk) })
    }
}

/// Whether anything outlives the process.
pub fn is_kept(config: &Config) -> bool {
    config.store.engine == Engine::Disk && config.store.durability != Durability::None
}

/// Says what an acknowledgement is worth, and where the state is.
pub fn announce(config: &Config) {
    if !is_kept(config) {
        tracing::info!(
            "state is kept in memory and ends with the process (store.engine = \"memory\" or store.durability = \"none\")"
        );
        return;
    }
    let promise = match config.store.durability {
        Durability::Sync => "what is acknowledged is on the disk",
        Durability::Os => {
            "what is acknowledged survives the end of the process; a power cut may cost the last second"
        }
        Durability::None => "state ends with the process",
    };
    tracing::info!(directory = %config.store.directory.display(), "{promise}");
}
