//! Bytes on their way to one client: frames copied one behind the other, and references to what others hold, too: a
//! payload in the message that somebody keeps, frames or a payload in the buffer that they were read into.
//!
//! Filled by [`super::Session`] under its lock; taken as a whole by the client's connection, which writes the
//! [`Batch`] without a lock and gives the emptied buffer back. What always holds: the order of the bytes is the
//! order in which they were put in, and a frame is never torn by another. An empty outbox has no buffer: buffers
//! come from the worker's [`BufferPool`] when there is something to write, and go back when it is written.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use crate::message::{Message, REFERENCE_FROM};

/// Bytes to be written after `position` of the copied ones.
#[derive(Debug)]
struct Reference {
    position: usize,
    held: Held,
}

/// What others may hold, too.
#[derive(Debug)]
enum Held {
    /// A payload.
    Kept(Arc<Message>),
    /// Frames or a payload, in the buffer that they were read into.
    Received(Arc<Vec<u8>>, Range<usize>),
}

impl Held {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Kept(message) => message.payload(),
            Self::Received(buffer, place) => buffer.get(place.clone()).unwrap_or_default(),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Frames, and the heads of those whose payload is referenced.
    pub bytes: Vec<u8>,
    /// Boxed, as an idle client has none.
    referenced: Option<Box<Referenced>>,
}

/// What is not copied.
#[derive(Debug, Default)]
struct Referenced {
    references: Vec<Reference>,
    bytes: usize,
}

impl Outbox {
    /// Bytes waiting, referenced ones included.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.referenced.as_ref().map_or(0, |referenced| referenced.bytes)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.referenced.is_none()
    }

    /// How many references wait.
    pub fn references(&self) -> usize {
        self.referenced.as_ref().map_or(0, |referenced| referenced.references.len())
    }

    /// Adds the payload of a message whose head was just written to `bytes`.
    pub fn push_payload(&mut self, message: &Arc<Message>) {
        if message.payload().len() < REFERENCE_FROM {
            self.bytes.extend_from_slice(message.payload());
        } else {
            self.push_reference(Held::Kept(message.clone()));
        }
    }

    /// Adds what lies in the buffer that it was read into: whole frames, or a payload whose head was just written to
    /// `bytes`.
    pub fn push_received(&mut self, buffer: &Arc<Vec<u8>>, part: &[u8]) {
        let place = place_in(buffer, part);
        debug_assert!(place.is_some(), "what is pushed lies in its buffer");
        match place {
            Some(place) => self.push_reference(Held::Received(buffer.clone(), place)),
            None => self.bytes.extend_from_slice(part),
        }
    }

    fn push_reference(&mut self, held: Held) {
        let referenced = self.referenced.get_or_insert_default();
        referenced.bytes += held.bytes().len();
        referenced.references.push(Reference { position: self.bytes.len(), held });
    }

    /// To be called before something is put in: an outbox without a buffer takes one from the pool.
    pub fn begin(&mut self, pool: &mut BufferPool) {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.take();
        }
    }

    /// Takes all that waits, and the buffer with it.
    pub fn take(&mut self) -> Batch {
        let remaining = self.len();
        let referenced = self.referenced.take();
        Batch {
            bytes: std::mem::take(&mut self.bytes),
            references: referenced.map_or_else(Vec::new, |referenced| referenced.references),
            remaining,
            next_reference: 0,
            position: 0,
            position_in_reference: 0,
        }
    }
}

/// Where in a buffer a slice of it lies.
fn place_in(buffer: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(buffer.as_ptr().addr())?;
    let place = start..start + part.len();
    buffer.get(place.clone()).filter(|found| std::ptr::eq(*found, part)).map(|_| place)
}

/// Bytes taken from an [`Outbox`], being written.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    references: Vec<Reference>,
    /// Bytes still to be written.
    remaining: usize,
    next_reference: usize,
    position: usize,
    position_in_reference: usize,
}

impl Batch {
    /// Whether all has been written.
    pub fn is_finished(&self) -> bool {
        self.remaining == 0
    }

    /// Fills `slices` with what is to be written next, in order; how many of them are filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut position = self.position;
        let mut skip = self.position_in_reference;
        let references = self.references.get(self.next_reference..).unwrap_or_default();
        let mut add = |bytes: &'a [u8]| {
            if bytes.is_empty() {
                return true;
            }
            match slices.get_mut(filled) {
                Some(slice) => {
                    *slice = IoSlice::new(bytes);
                    filled += 1;
                    true
                }
                None => false,
            }
        };
        for reference in references {
            let held = reference.held.bytes().get(skip..).unwrap_or_default();
            let copied = self.bytes.get(position..reference.position).unwrap_or_default();
            if !add(copied) || !add(held) {
                return filled;
            }
            position = reference.position;
            skip = 0;
        }
        add(self.bytes.get(position..).unwrap_or_default());
        filled
    }

    /// Notes that this many bytes of what [`Batch::slices`] gave were written.
    pub fn advance(&mut self, mut written: usize) {
        self.remaining -= written.min(self.remaining);
        while written > 0 {
            let end = match self.references.get(self.next_reference) {
                Some(reference) => reference.position,
                None => self.bytes.len(),
            };
            let copied = written.min(end - self.position);
            self.position += copied;
            written -= copied;
            let Some(reference) = self.references.get(self.next_reference) else { return };
            let left = reference.held.bytes().len() - self.position_in_reference;
            let referenced = written.min(left);
            self.position_in_reference += referenced;
            written -= referenced;
            if self.position == end && referenced == left {
                self.next_reference += 1;
                self.position_in_reference = 0;
            }
        }
    }

    /// Bytes still to be written.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Gives the buffers back.
    pub fn recycle(self, pool: &mut BufferPool) {
        pool.give(self.bytes);
        for reference in self.references {
            if let Held::Received(buffer, _) = reference.held
                && let Some(buffer) = Arc::into_inner(buffer)
            {
                pool.give_shared(buffer);
            }
        }
    }
}

/// Empty buffers of one worker thread, to be used again.
#[derive(Debug, Default)]
pub struct BufferPool {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// Those of large packets, full reads and copies that were shared, the one that was given last at the end.
    shared: VecDeque<Vec<u8>>,
    shared_bytes: usize,
}

impl BufferPool {
    /// Larger buffers are freed.
    const LARGEST: usize = 512 * 1024;
    /// Bytes kept at most.
    const MOST: usize = 16 * 1024 * 1024;
    /// Bytes kept of those that were shared at most.
    const MOST_SHARED: usize = 8 * 1024 * 1024;
    /// Smaller buffers are not worth looking through.
    const LEAST_SHARED: usize = 16 * 1024;

    /// A buffer, empty.
    pub fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Takes a buffer that is not needed any more.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if (1..=Self::LARGEST).contains(&capacity) && self.bytes + capacity <= Self::MOST {
            buffer.clear();
            self.bytes += capacity;
            self.buffers.push(buffer);
        }
    }

    /// A buffer to be shared, empty, with room for this many bytes and not much more, if there is one.
    pub fn take_shared(&mut self, length: usize) -> Option<Vec<u8>> {
        let most = length + length / 4;
        if most < Self::LEAST_SHARED {
            return None;
        }
        let fits = |buffer: &Vec<u8>| (length..=most).contains(&buffer.capacity());
        let found = self.shared.iter().rposition(fits).and_then(|index| self.shared.remove(index));
        self.shared_bytes -= found.as_ref().map_or(0, Vec::capacity);
        found
    }

    /// Takes a buffer that was shared and is not needed any more; the oldest ones make room.
    pub fn give_shared(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if !(Self::LEAST_SHARED..=Self::MOST_SHARED).contains(&capacity) {
            return;
        }
        while self.shared_bytes + capacity > Self::MOST_SHARED
            && let Some(oldest) = self.shared.pop_front()
        {
            self.shared_bytes -= oldest.capacity();
        }
        buffer.clear();
        self.shared_bytes += capacity;
        self.shared.push_back(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::QoS;
    use crate::topic::TopicName;

    #[test]
    fn bytes_come_out_in_order_however_they_are_cut() {
        let topic = TopicName::parse(b"t").unwrap();
        let large = Message::own(topic, &vec![b'L'; REFERENCE_FROM], QoS::AtMostOnce, false);
        let small = Message::own(topic, b"small", QoS::AtMostOnce, false);
        let received = Arc::new([&b"head"[..], &[b'R'; 5_000]].concat());
        for step in [1, 2, 7, 4_096, 4_099, 100_000] {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (head, message) in [("a", &small), ("bc", &large), ("", &large), ("d", &small), ("e", &large)]
            {
                outbox.bytes.extend_from_slice(head.as_bytes());
                outbox.push_payload(message);
                expected.extend_from_slice(head.as_bytes());
                expected.extend_from_slice(message.payload());
                outbox.push_received(&received, &received[4..]);
                expected.extend_from_slice(&[b'R'; 5_000]);
            }
            assert_eq!(outbox.len(), expected.len());
            let mut batch = outbox.take();
            assert!(outbox.is_empty());
            let mut written = Vec::new();
            while !batch.is_finished() {
                assert_eq!(batch.remaining(), expected.len() - written.len());
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = batch.slices(&mut slices);
                let mut left = step;
                for slice in &slices[..filled] {
                    let taken = left.min(slice.len());
                    written.extend_from_slice(&slice[..taken]);
                    left -= taken;
                }
                batch.advance(step - left);
            }
            assert_eq!(written, expected, "step {step}");
        }
    }

    #[test]
    fn shared_buffers_come_back_when_the_last_who_shared_one_has_written_it() {
        let mut pool = BufferPool::default();
        let mut outboxes = [Outbox::default(), Outbox::default()];
        let packet = Arc::new(vec![1; 100_000]);
        for outbox in &mut outboxes {
            outbox.push_received(&packet, &packet[5_000..95_000]);
            assert_eq!(outbox.len(), 90_000);
        }
        drop(packet);
        let [first, second] = outboxes.map(|mut outbox| outbox.take());
        first.recycle(&mut pool);
        assert_eq!(pool.shared_bytes, 0);
        second.recycle(&mut pool);
        assert_eq!(pool.shared_bytes, 100_000);
        // One that is much larger than what is asked for stays where it is.
        assert_eq!(pool.take_shared(50_000), None);
        assert_eq!(pool.take_shared(95_000).map(|buffer| buffer.capacity()), Some(100_000));
        assert_eq!(pool.shared_bytes, 0);
    }

    #[test]
    fn the_pool_has_a_bound_and_forgets_the_oldest_first() {
        let mut pool = BufferPool::default();
        for size in (1..100).map(|number| number * 100_000) {
            pool.give_shared(Vec::with_capacity(size));
            assert!(pool.shared_bytes <= BufferPool::MOST_SHARED, "{size}");
            let held: usize = pool.shared.iter().map(Vec::capacity).sum();
            assert_eq!(pool.shared_bytes, held);
        }
        assert_eq!(
            pool.take_shared(8_300_000).map(|buffer| buffer.capacity()),
            Some(8_300_000),
            "the last that is not too large"
        );
        assert!(pool.shared.is_empty());
    }
}
