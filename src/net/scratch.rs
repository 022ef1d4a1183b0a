//! What a worker thread lends to the connection it is polling: a read buffer, and a report with buffers to write.
//!
//! Taken at the start of a poll and given back at its end, so that connections own no buffers while they are idle.
//! If it is taken twice (a poll inside a poll does not happen, but would be no harm), a fresh one is made.

use std::cell::Cell;
use std::sync::Arc;

use crate::message::Incoming;
use crate::session::{BufferPool, Report};

/// Bytes read at a time. Measured: 8 KiB costs a third more per small message.
pub const READ_BUFFER: usize = 128 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Scratch {
    /// Room for [`READ_BUFFER`] bytes. What is in it may be on its way to subscribers between two reads: to be written to
    /// by [`renewed`] alone.
    pub read: Arc<Vec<u8>>,
    /// What a batch did.
    pub report: Report,
    /// Room for the messages of a run.
    pub run: Vec<Incoming<'static>>,
}

/// A read buffer to write to: another one, if somebody holds this.
pub fn renewed<'r>(read: &'r mut Arc<Vec<u8>>, pool: &mut BufferPool) -> &'r mut Vec<u8> {
    if Arc::strong_count(read) > 1 {
        let pooled = pool.take_shared(READ_BUFFER);
        *read = Arc::new(pooled.unwrap_or_else(|| Vec::with_capacity(READ_BUFFER)));
    }
    // Nobody else holds it, so nothing is cloned.
    Arc::make_mut(read)
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    /// Takes the thread's scratch.
    pub fn take() -> Box<Self> {
        SCRATCH.take().unwrap_or_else(|| {
            Box::new(Self {
                read: Arc::new(Vec::with_capacity(READ_BUFFER)),
                report: Report::default(),
                run: Vec::new(),
            })
        })
    }

    /// Gives it back.
    pub fn give_back(self: Box<Self>) {
        SCRATCH.set(Some(self));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_somebody_holds_is_not_written_to() {
        let mut pool = BufferPool::default();
        let mut read: Arc<Vec<u8>> = Arc::new(Vec::with_capacity(READ_BUFFER));
        let place = read.as_ptr().addr();
        renewed(&mut read, &mut pool).extend_from_slice(b"first");
        let held = read.clone();
        let other = renewed(&mut read, &mut pool);
        assert_eq!(other.len(), 0);
        other.extend_from_slice(b"second");
        assert_eq!((&held[..], &read[..]), (&b"first"[..], &b"second"[..]));
        assert!(read.capacity() >= READ_BUFFER);
        // Once nobody holds it, it is used again.
        pool.give_shared(Arc::try_unwrap(held).unwrap());
        let second = read.clone();
        assert_eq!(renewed(&mut read, &mut pool).as_ptr().addr(), place);
        drop(second);
    }
}
