//! Client Identifier to session: who is known, in shards so that connects do not wait for each other.
//!
//! Owner: [`super::Broker`]. What always holds: at most one session that has not ended stands under an identifier
//! [MQTT-3.1.3-2]; a session is looked up, replaced and taken over under its shard's lock, which is taken before
//! any session's. The identifier itself is stored once, in the handle.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::{Mutex, MutexGuard};
use ring::hmac;

use super::handle::SessionHandle;
use crate::message::Publisher;

const SHARDS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Mutex<HashTable<Arc<SessionHandle>>>]>,
    hasher: DefaultHashBuilder,
    /// For what outlives the process: a publisher must be known again after a restart.
    key: hmac::Key,
}

/// The locked shard of one Client Identifier.
#[derive(Debug)]
pub struct Place<'a> {
    shard: MutexGuard<'a, HashTable<Arc<SessionHandle>>>,
    client_id: &'a str,
    hash: u64,
    hasher: &'a DefaultHashBuilder,
}

impl Registry {
    /// An empty one. The secret is the store's.
    pub fn new(secret: [u8; 16]) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
        }
    }

    /// Locks the shard of a Client Identifier.
    pub fn place<'a>(&'a self, client_id: &'a str) -> Place<'a> {
        let hash = self.hasher.hash_one(client_id);
        // The index is below the number of shards, which is a constant above zero.
        let shard = self.shards[(hash as usize >> 7) % SHARDS].lock();
        Place { shard, client_id, hash, hasher: &self.hasher }
    }

    /// What messages of a client are known by.
    pub fn publisher(&self, client_id: &str) -> Publisher {
        let tag = hmac::sign(&self.key, client_id.as_bytes());
        let first = tag.as_ref().first_chunk().copied().unwrap_or_default();
        // Zero is the broker itself.
        Publisher(u64::from_le_bytes(first).max(1))
    }

    /// Removes a session, unless another one stands under its identifier by now.
    pub fn remove(&self, handle: &Arc<SessionHandle>) {
        let mut place = self.place(&handle.client_id);
        if place.get().is_some_and(|found| Arc::ptr_eq(found, handle)) {
            place.remove();
        }
    }

    /// All sessions, shard by shard.
    pub fn all(&self) -> Vec<Arc<SessionHandle>> {
        self.shards.iter().flat_map(|shard| shard.lock().iter().cloned().collect::<Vec<_>>()).collect()
    }
}

impl Place<'_> {
    /// The session that stands here.
    pub fn get(&self) -> Option<&Arc<SessionHandle>> {
        self.shard.find(self.hash, |handle| *handle.client_id == *self.client_id)
    }

    /// Puts a session here, in the place of another if there is one.
    pub fn put(&mut self, handle: Arc<SessionHandle>) {
        self.remove();
        let hasher = self.hasher;
        self.shard.insert_unique(self.hash, handle, |handle| hasher.hash_one(&*handle.client_id));
    }

    /// Clears the place.
    pub fn remove(&mut self) {
        let found = self.shard.find_entry(self.hash, |handle| *handle.client_id == *self.client_id);
        if let Ok(entry) = found {
            entry.remove();
        }
    }
}
