//! Acknowledgements on their way to one client, in the order in which they are owed.
//!
//! Owner: the connection. What always holds: an acknowledgement leaves only when the store has committed what it
//! promises, and none overtakes another [MQTT-4.6.0-2] to [MQTT-4.6.0-4]. They have room of their own: a full queue of
//! messages never drops one.

use std::collections::VecDeque;
use std::task::Waker;

use crate::codec::PacketType;
use crate::session::BufferPool;
use crate::store::{CommitSeq, Store};

/// See the module.
#[derive(Debug, Default)]
pub struct Acks {
    ready: Vec<u8>,
    held: Option<Box<Held>>,
}

/// Bytes that wait for the store.
#[derive(Debug, Default)]
struct Held {
    bytes: VecDeque<u8>,
    /// Of each packet: what it waits for, and its length.
    packets: VecDeque<(CommitSeq, usize)>,
    /// How many of them are PUBACKs.
    pubacks: usize,
    /// How many of them are SUBACKs.
    subacks: usize,
}

/// How these packets begin.
const CONNACK: u8 = PacketType::ConnAck.first_byte();
const PUBACK: u8 = PacketType::PubAck.first_byte();
const SUBACK: u8 = PacketType::SubAck.first_byte();

impl Acks {
    /// Adds one packet that `write` appends to a buffer.
    pub fn push(
        &mut self,
        sequence: CommitSeq,
        store: &dyn Store,
        pool: &mut BufferPool,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if let Some(ready) = self.ready_for(sequence, store, pool) {
            return write(ready);
        }
        let mut packet = Vec::new();
        write(&mut packet);
        let held = self.held.get_or_insert_default();
        held.packets.push_back((sequence, packet.len()));
        held.pubacks += usize::from(packet.first() == Some(&PUBACK));
        held.subacks += usize::from(packet.first() == Some(&SUBACK));
        held.bytes.extend(packet);
    }

    /// Adds a packet that acknowledges nothing and so may overtake what does, but for the CONNACK.
    pub fn push_ahead(&mut self, packet: &[u8], store: &dyn Store, pool: &mut BufferPool) {
        // Nothing was pushed before the CONNACK.
        let waits = self.held.as_ref().is_some_and(|held| held.bytes.front() == Some(&CONNACK));
        if waits {
            return self.push(CommitSeq::default(), store, pool, |bytes| bytes.extend_from_slice(packet));
        }
        self.ready_buffer(pool).extend_from_slice(packet);
    }

    /// Where to write what waits for nothing, if nothing before it does.
    pub fn ready_for(
        &mut self,
        sequence: CommitSeq,
        store: &dyn Store,
        pool: &mut BufferPool,
    ) -> Option<&mut Vec<u8>> {
        let nothing_to_wait_for = sequence == CommitSeq::default() || sequence <= store.committed();
        if self.held.is_some() || !nothing_to_wait_for {
            return None;
        }
        Some(self.ready_buffer(pool))
    }

    fn ready_buffer(&mut self, pool: &mut BufferPool) -> &mut Vec<u8> {
        if self.ready.capacity() == 0 {
            self.ready = pool.take();
        }
        &mut self.ready
    }

    /// Moves to the ready ones what the store has committed meanwhile. If some are left, the connection will be
    /// woken when the first of them is due.
    pub fn release(&mut self, store: &dyn Store, waker: &Waker) {
        let Some(held) = &mut self.held else { return };
        let committed = store.committed();
        while let Some((_, length)) = held.packets.front().filter(|(sequence, _)| *sequence <= committed) {
            held.pubacks -= usize::from(*length > 0 && held.bytes.front() == Some(&PUBACK));
            held.subacks -= usize::from(*length > 0 && held.bytes.front() == Some(&SUBACK));
            self.ready.extend(held.bytes.drain(..*length));
            held.packets.pop_front();
        }
        match held.packets.front() {
            Some((sequence, _)) => store.wake_when_committed(*sequence, waker),
            None => self.held = None,
        }
    }

    /// Packets that wait for the store.
    pub fn held(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.packets.len())
    }

    /// PUBACKs that wait for the store: so many QoS 1 messages of the client's are in flight.
    pub fn held_pubacks(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.pubacks)
    }

    /// Whether a SUBACK waits for the store.
    pub fn hold_a_suback(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.subacks > 0)
    }

    /// Bytes ready to be written.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes the bytes that are ready to be written.
    pub fn take_ready(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ready)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::{Condition, Fetch, Records, Timebase};

    #[derive(Debug, Default)]
    struct SlowStore(AtomicU64);

    impl Store for SlowStore {
        fn keeps(&self) -> bool {
            true
        }
        fn begin(&self) -> CommitSeq {
            CommitSeq(1)
        }
        fn finish(&self, _: CommitSeq, _: &Records) {}
        fn appended(&self) -> CommitSeq {
            CommitSeq(9)
        }
        fn fetch(&self, _: Arc<Fetch>) {}
        fn condition(&self) -> Condition {
            Condition::Well
        }
        fn secret(&self) -> [u8; 16] {
            [0; 16]
        }
        fn timebase(&self) -> Timebase {
            Timebase::now()
        }
        fn committed(&self) -> CommitSeq {
            CommitSeq(self.0.load(Ordering::Relaxed))
        }
        fn wake_when_committed(&self, _: CommitSeq, _: &Waker) {}
    }

    #[test]
    fn what_waits_for_the_store_holds_back_what_comes_after_it() {
        let store = SlowStore::default();
        let mut pool = BufferPool::default();
        let mut acks = Acks::default();
        for (sequence, byte) in [(0, b'a'), (2, b'b'), (0, b'c'), (3, b'd'), (0, b'e')] {
            acks.push(CommitSeq(sequence), &store, &mut pool, |bytes| bytes.push(byte));
        }
        assert_eq!((acks.take_ready(), acks.held()), (b"a".to_vec(), 4));
        for (committed, ready) in [(1, &b""[..]), (2, b"bc"), (2, b""), (9, b"de")] {
            store.0.store(committed, Ordering::Relaxed);
            acks.release(&store, Waker::noop());
            assert_eq!(acks.take_ready(), ready);
        }
        assert!(acks.held.is_none());
    }

    #[test]
    fn what_acknowledges_nothing_overtakes_all_but_the_connack() {
        let store = SlowStore::default();
        let mut pool = BufferPool::default();
        let mut acks = Acks::default();
        let mut push = |acks: &mut Acks, byte| acks.push(CommitSeq(1), &store, &mut pool, |to| to.push(byte));
        push(&mut acks, CONNACK);
        push(&mut acks, SUBACK);
        acks.push_ahead(b"1", &store, &mut BufferPool::default());
        assert!(acks.hold_a_suback());
        assert_eq!(acks.take_ready(), b"");
        store.0.store(1, Ordering::Relaxed);
        acks.release(&store, Waker::noop());
        assert!(!acks.hold_a_suback());
        assert_eq!(acks.take_ready(), [CONNACK, SUBACK, b'1']);
        acks.push(CommitSeq(2), &store, &mut BufferPool::default(), |to| to.push(PUBACK));
        acks.push_ahead(b"2", &store, &mut BufferPool::default());
        assert_eq!((acks.take_ready(), acks.held()), (b"2".to_vec(), 1));
    }
}
