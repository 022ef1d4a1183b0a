//! Client Identifier to session: who is known, in shards so that connects do not wait for each other.
//!
//! Owner: [`super::Broker`]. What always holds: at most one session that has not ended stands under an identifier
//! [MQTT-3.1.3-2]; a session is looked up, replaced and taken over under its shard's lock, which is taken before
//! any session's.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::{Mutex, MutexGuard};

use super::handle::SessionHandle;

const SHARDS: usize = 64;

/// One shard: the sessions under their Client Identifiers.
pub type Shard = HashMap<Box<str>, Arc<SessionHandle>>;

/// See the module.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHashBuilder,
}

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Locks the shard of a Client Identifier.
    pub fn shard(&self, client_id: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(client_id);
        // The index is below the number of shards, which is a constant above zero.
        self.shards[(hash as usize >> 7) % SHARDS].lock()
    }

    /// Removes a session, unless another one stands under its identifier by now.
    pub fn remove(&self, handle: &Arc<SessionHandle>) {
        let mut shard = self.shard(&handle.client_id);
        if shard.get(&handle.client_id).is_some_and(|found| Arc::ptr_eq(found, handle)) {
            shard.remove(&handle.client_id);
        }
    }

    /// All sessions, shard by shard.
    pub fn all(&self) -> Vec<Arc<SessionHandle>> {
        self.shards.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}
