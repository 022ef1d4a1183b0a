//! What a client sends, on its way from the socket to [`Inbound`]: small packets through the worker's buffer, large
//! ones in buffers of their own.
//!
//! Owner: the connection. A read into the worker's buffer serves many small packets; the beginning of one that has not
//! arrived in full is kept. A large packet is read into a buffer that holds it and nothing else, so that it is
//! sent on without a copy, whatever came before it. What always holds: a connection that waits for nothing holds no
//! buffer; the buffer of a packet grows with what has arrived, to [`GROWTH`] times that at most; what was announced is an upper
//! bound and nothing more.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::failure::Failure;
use super::inbound::{Batch, Inbound};
use crate::codec::read_header;
use crate::session::BufferPool;

/// Packets of at least this many bytes get a buffer of their own. Measured: copying less than that costs no more than
/// reading each by itself.
const LARGE: usize = 32 * 1024;

/// A buffer is at most this many times as large as what it holds.
const GROWTH: usize = 4;

/// The largest buffer that is offered to a packet of which next to nothing is there.
const LARGEST_OFFER: usize = 1024 * 1024;

/// See the module. As small as a buffer, as there is one in every idle connection.
#[derive(Debug)]
pub enum Reader {
    /// Nothing waits. The length of the packet before, if that was large, as the next one may be; else 0.
    Empty(u32),
    /// What has arrived and is not handled: the beginning of a packet, or packets that are held back.
    Partial(Vec<u8>),
}

impl Reader {
    /// For a connection of which this was read and not handled.
    pub fn new(partial: Vec<u8>) -> Self {
        if partial.is_empty() { Self::Empty(0) } else { Self::Partial(partial) }
    }

    /// Whether nothing waits to be handled or to become whole.
    pub fn is_empty(&self) -> bool {
        self.partial().is_empty()
    }

    /// Takes the next packet for a small one.
    pub fn expect_nothing(&mut self) {
        if let Self::Empty(expected) = self {
            *expected = 0;
        }
    }

    fn partial(&self) -> &[u8] {
        match self {
            Self::Empty(_) => &[],
            Self::Partial(partial) => partial,
        }
    }

    /// Reads this many bytes at most; how many came. They are in `shared`, behind what was there already, or else in
    /// the packet's own buffer.
    pub fn poll_read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        shared: &mut Vec<u8>,
        pool: &mut BufferPool,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        shared.clear();
        let expected = match self {
            Self::Empty(expected) => *expected as usize,
            Self::Partial(partial) => packet_length(partial),
        };
        if expected < LARGE {
            shared.extend_from_slice(self.partial());
            return poll_read_behind(stream, cx, shared, most);
        }
        match self {
            Self::Partial(partial) if partial.len() * GROWTH >= LARGE => {
                let missing = expected - partial.len();
                if partial.len() == partial.capacity() {
                    partial.reserve_exact(missing.min(partial.len() * (GROWTH - 1)));
                }
                poll_read_behind(stream, cx, partial, most.min(missing))
            }
            Self::Partial(_) | Self::Empty(_) => self.poll_read_first(stream, cx, pool, expected, most),
        }
    }

    /// Offers a large buffer to a packet of which next to nothing is there, and takes it back unless that pays.
    fn poll_read_first(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        pool: &mut BufferPool,
        expected: usize,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let length = expected.min(LARGEST_OFFER);
        let pooled = pool.take_shared(length);
        let is_new = pooled.is_none();
        let mut buffer = pooled.unwrap_or_else(|| Vec::with_capacity(length));
        buffer.extend_from_slice(self.partial());
        let before = buffer.len();
        let read = poll_read_behind(stream, cx, &mut buffer, most.min(expected - before));
        if buffer.len() == before {
            // One that was never used would only drive others out.
            if !is_new {
                pool.give_shared(buffer);
            }
        } else {
            *self = Self::Partial(fitting(buffer, pool));
        }
        read
    }

    /// Handles what was read; whether a whole packet was.
    pub fn handle(
        &mut self,
        inbound: &mut Inbound,
        shared: &Arc<Vec<u8>>,
        batch: &mut Batch<'_>,
    ) -> Result<bool, Failure> {
        if shared.is_empty() {
            return self.handle_partial(inbound, batch);
        }
        let consumed = inbound.handle_bytes(shared, batch)?;
        self.keep(shared, consumed);
        Ok(consumed > 0)
    }

    /// Keeps what is left of what was read.
    fn keep(&mut self, shared: &[u8], consumed: usize) {
        let rest = shared.get(consumed..).unwrap_or_default();
        match self {
            _ if rest.is_empty() => *self = Self::Empty(large_packet(shared)),
            Self::Partial(partial) if rest.len() * GROWTH >= partial.capacity() => {
                partial.clear();
                partial.extend_from_slice(rest);
            }
            Self::Partial(_) | Self::Empty(_) => *self = Self::Partial(rest.to_vec()),
        }
    }

    /// Handles what is there already; whether a whole packet was.
    fn handle_partial(&mut self, inbound: &mut Inbound, batch: &mut Batch<'_>) -> Result<bool, Failure> {
        let Self::Partial(partial) = std::mem::replace(self, Self::Empty(0)) else { return Ok(false) };
        let expected = large_packet(&partial);
        let shared = Arc::new(partial);
        let consumed = inbound.handle_bytes(&shared, batch)?;
        let rest = rest_of(shared, consumed, &mut batch.report.buffers);
        *self = if rest.is_empty() { Self::Empty(expected) } else { Self::Partial(rest) };
        Ok(consumed > 0)
    }
}

/// What is behind so many bytes: in the same buffer, unless somebody holds that.
fn rest_of(buffer: Arc<Vec<u8>>, consumed: usize, pool: &mut BufferPool) -> Vec<u8> {
    match Arc::try_unwrap(buffer) {
        Ok(mut buffer) => {
            buffer.drain(..consumed.min(buffer.len()));
            fitting(buffer, pool)
        }
        Err(held) => held.get(consumed..).unwrap_or_default().to_vec(),
    }
}

/// The same bytes in a smaller buffer, if this one is too large for them.
fn fitting(buffer: Vec<u8>, pool: &mut BufferPool) -> Vec<u8> {
    if buffer.len() * GROWTH >= buffer.capacity() {
        return buffer;
    }
    let fitting = buffer.to_vec();
    pool.give_shared(buffer);
    fitting
}

/// Reads behind what is in a buffer, as far as there is room.
pub fn poll_read_behind(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buffer: &mut Vec<u8>,
    most: usize,
) -> Poll<io::Result<usize>> {
    let room = buffer.capacity() - buffer.len();
    let mut room = buffer.limit(most.min(room));
    pin!(stream.read_buf(&mut room)).poll(cx)
}

/// The length of the packet that begins here, as far as can be told; else 0.
fn packet_length(bytes: &[u8]) -> usize {
    read_header(bytes).ok().flatten().map_or(0, |header| header.frame_length())
}

/// The length of the packet that begins here, if that is whole and large; else 0.
fn large_packet(bytes: &[u8]) -> u32 {
    let length = packet_length(bytes);
    if (LARGE..=bytes.len()).contains(&length) { u32::try_from(length).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    struct Bench {
        reader: Reader,
        client: DuplexStream,
        server: DuplexStream,
        pool: BufferPool,
        shared: Vec<u8>,
    }

    impl Bench {
        fn new() -> Self {
            let (client, server) = duplex(64 << 20);
            let shared = Vec::with_capacity(128 * 1024);
            Self { reader: Reader::new(Vec::new()), client, server, pool: BufferPool::default(), shared }
        }

        /// Sends, and reads until nothing is left, as if no packet were whole.
        async fn arrive(&mut self, bytes: &[u8]) {
            self.client.write_all(bytes).await.unwrap();
            let mut cx = Context::from_waker(Waker::noop());
            let Self { reader, server, pool, shared, .. } = self;
            while let Poll::Ready(read) = reader.poll_read(server, &mut cx, shared, pool, usize::MAX) {
                assert!(read.unwrap() > 0);
                if !shared.is_empty() {
                    reader.keep(shared, 0);
                }
            }
        }
    }

    fn capacity(reader: &Reader) -> usize {
        match reader {
            Reader::Empty(_) => 0,
            Reader::Partial(partial) => partial.capacity(),
        }
    }

    /// The beginning of a PUBLISH of 16 MiB.
    const HEADER: [u8; 5] = [0x30, 0x80, 0x80, 0x80, 0x08];

    #[tokio::test]
    async fn a_buffer_grows_with_what_has_arrived() {
        for expected in [0, 100_000, 2_000_000] {
            let mut bench = Bench::new();
            bench.reader = Reader::Empty(expected);
            let mut sent = Vec::new();
            let pieces = [1, 2, 1, 1, 10, 1_000, 7_000, 300, 40_000, 100_000, 7, 900_000, 3_000_000, 5];
            for length in pieces {
                let piece: Vec<u8> = (sent.len()..sent.len() + length)
                    .map(|at| HEADER.get(at).copied().unwrap_or(at as u8))
                    .collect();
                bench.arrive(&piece).await;
                sent.extend_from_slice(&piece);
                assert!(bench.reader.partial() == sent, "after {} bytes", sent.len());
                let capacity = capacity(&bench.reader);
                assert!(capacity <= GROWTH * sent.len().max(8), "{capacity} bytes for {}", sent.len());
            }
        }
    }

    #[tokio::test]
    async fn no_more_is_read_into_a_packets_own_buffer_than_belongs_there() {
        let mut bench = Bench::new();
        let length = packet_length(&HEADER);
        let packet: Vec<u8> = HEADER.iter().copied().chain(std::iter::repeat(7)).take(length).collect();
        bench.client.write_all(&packet).await.unwrap();
        bench.client.write_all(b"next").await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let Bench { reader, server, pool, shared, .. } = &mut bench;
        while reader.partial().len() < length {
            let read = reader.poll_read(server, &mut cx, shared, pool, usize::MAX);
            assert!(matches!(read, Poll::Ready(Ok(1..))), "{read:?}");
            if !shared.is_empty() {
                reader.keep(shared, 0);
            }
        }
        assert!(reader.partial() == packet);
        assert_eq!(large_packet(reader.partial()) as usize, length);
        let capacity = capacity(reader);
        assert!(capacity < length + length / 4, "{capacity} bytes");
    }

    #[tokio::test]
    async fn a_connection_that_waits_holds_no_buffer_whatever_it_expects() {
        let mut bench = Bench::new();
        bench.reader = Reader::Empty(1_000_000);
        bench.arrive(&[]).await;
        assert_eq!(capacity(&bench.reader), 0);
        // A buffer made for nothing is gone, one from the pool is there for the next packet.
        assert_eq!(bench.pool.take_shared(1_000_000), None);
        bench.pool.give_shared(Vec::with_capacity(1_000_000));
        bench.arrive(&[]).await;
        assert_eq!(bench.pool.take_shared(1_000_000).map(|buffer| buffer.capacity()), Some(1_000_000));
    }

    #[test]
    fn what_is_left_of_a_buffer_does_not_change_what_others_hold_of_it() {
        let mut pool = BufferPool::default();
        let buffer = Arc::new((0..100).collect::<Vec<u8>>());
        let held = buffer.clone();
        assert_eq!(rest_of(buffer, 60, &mut pool), (60..100).collect::<Vec<u8>>());
        assert_eq!(*held, (0..100).collect::<Vec<u8>>());
        let place = held.as_ptr().addr();
        let rest = rest_of(held, 60, &mut pool);
        assert_eq!((rest.as_ptr().addr(), rest), (place, (60..100).collect::<Vec<u8>>()));
    }

    #[test]
    fn the_beginning_of_a_packet_keeps_no_room_of_the_one_before() {
        let mut reader = Reader::Partial(vec![0; 31_999]);
        let mut shared = vec![0; 32_000];
        shared.push(0x30);
        reader.keep(&shared, 32_000);
        assert_eq!(reader.partial(), [0x30]);
        assert!(capacity(&reader) <= 8, "{} bytes", capacity(&reader));
    }
}
