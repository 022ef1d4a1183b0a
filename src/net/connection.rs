//! One client's connection after its CONNECT: a hand-written future that reads, hands over, and writes.
//!
//! Spawned by the listener as part of the client's task. A poll does at most two reads, lets the broker route what
//! came, wakes the subscribers it touched, takes what the session has for the client, and writes it with one call. What
//! always holds: what could not be written stays first in line; while it waits, nothing more is taken from the
//! session and, if the client's own acknowledgements pile up, nothing more is read. It ends as soon as it is known that it
//! is to end; what it still owes the client then is for [`Connection::finish`].

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::bulk::Bulk;
use super::failure::Failure;
use super::inbound::{self, Inbound};
use super::reader::Reader;
use super::scratch::{self, READ_BUFFER, Scratch};
use super::stream::ClientStream;
use super::throttle::{Allowance, Throttle};
use crate::broker::{Counter, Progress};
use crate::session::{Batch, BufferPool, Close};

/// Reads in one poll before others have their turn; fewer, if those bring a buffer full.
const READS_PER_POLL: usize = 2;

/// Acknowledgements waiting to be written beyond which nothing more is read from the client.
const ACKS_SOFT: usize = 64 * 1024;

/// Answers waiting for the store beyond which nothing more is read from the client.
const HELD_SOFT: usize = 16 * 1024;

/// A client that was written to within this time, in microseconds, is under load.
const UNDER_LOAD: u32 = 100;

/// Slices in one vectored write.
const SLICES: usize = 32;

/// See the module.
pub struct Connection<S> {
    stream: S,
    /// Apart, so that a task fits into 256 bytes: tokio rounds it up to a multiple of 128.
    inbound: Box<Inbound>,
    reader: Reader,
    /// What could not be written yet.
    unwritten: Option<Box<Writing>>,
    /// When its CONNECT was accepted, as `Shared::stamp` says it.
    began: u32,
    /// The stream may hold bytes back that were written to it, as TLS does.
    unflushed: bool,
    /// The CONNACK has left; before, nothing else may [MQTT-3.2.0-1].
    acknowledged: bool,
    /// When something of the session's was last written, in microseconds since the broker's start, begun anew after 71
    /// minutes: that a client seems to be under load by chance costs it one turn.
    last_written: Option<NonZeroU32>,
    /// What the session has was left there once, for more to come.
    gathering: bool,
    /// Another connection waits to take the session over until all that the client has sent here is heard.
    has_successors: bool,
    /// Whether the client sends much.
    bulk: Bulk,
    /// There may be a whole packet in `reader` that is still to be handled.
    held_back: bool,
    /// Nothing is read until then: for the sake of slow subscribers, or because the client sends too much.
    pause: Option<Pin<Box<Sleep>>>,
    /// What its listener holds the client to, if to anything.
    throttle: Option<Box<Throttle>>,
    /// The connection is to end with this.
    ending: Option<Box<Failure>>,
}

/// Bytes being written: acknowledgements, then what the session had.
#[derive(Debug, Default)]
struct Writing {
    acks: Vec<u8>,
    acks_written: usize,
    batch: Batch,
}

/// What one poll has heard of the client.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// A whole packet was there.
    a_packet: bool,
    /// There may be more, for the next poll.
    not_all: bool,
}

impl<S: ClientStream> Connection<S> {
    /// Takes over a socket whose CONNECT was accepted. `inbound` owes the CONNACK; `partial` is what was read
    /// behind the CONNECT.
    pub fn new(
        stream: S,
        inbound: Box<Inbound>,
        partial: Vec<u8>,
        throttle: Option<Box<Throttle>>,
        began: u32,
    ) -> Self {
        Self {
            stream,
            inbound,
            // What came together with the CONNECT is not read again.
            held_back: !partial.is_empty(),
            reader: Reader::new(partial),
            unwritten: None,
            unflushed: false,
            acknowledged: false,
            last_written: None,
            gathering: false,
            has_successors: false,
            bulk: Bulk::default(),
            pause: None,
            throttle,
            began,
            ending: None,
        }
    }

    /// The session it has or had, and how the client asked to be disconnected.
    pub fn inbound(&mut self) -> &mut Inbound {
        &mut self.inbound
    }

    /// When its CONNECT was accepted, as `Shared::stamp` says it.
    pub fn began(&self) -> u32 {
        self.began
    }

    /// Whether nothing is left that it owes the client.
    pub fn is_finished(&self) -> bool {
        !self.is_writing() && self.inbound.acks.ready() == 0 && self.inbound.acks.held() == 0
    }

    /// Whether a packet of ours may follow what was written: none may before the CONNACK [MQTT-3.2.0-1], and none in the
    /// midst of another.
    pub fn may_add_a_packet(&self) -> bool {
        self.acknowledged && !self.is_writing()
    }

    /// Once the connection has ended: writes what a write was in the midst of, and acknowledgements as soon as the store has
    /// committed what they promise.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn finish(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            let mut writing = self.unwritten.take().unwrap_or_default();
            self.write_some(cx, &mut writing)?;
            if !writing.is_finished() {
                self.unwritten = Some(writing);
            }
            if self.is_writing() {
                return Poll::Pending;
            }
            self.inbound.release_acknowledgements(cx.waker());
            let acks = self.inbound.acks.take_ready();
            if acks.is_empty() {
                return if self.is_finished() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            self.acknowledged = true;
            self.unwritten = Some(Box::new(Writing { acks, ..Writing::default() }));
        }
    }

    /// The socket.
    pub fn into_stream(self) -> S {
        self.stream
    }

    fn poll_with(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Failure> {
        let now = Instant::now();
        let mut heard = Heard::default();
        if self.ending.is_none() {
            match self.read(cx, scratch, now) {
                Ok(what) => heard = what,
                Err(failure) => self.ending = Some(Box::new(failure)),
            }
        }
        let was_clogged = self.is_clogged();
        // Subscribers are woken once for the whole batch, before our own writing takes its time.
        self.inbound.shared().broker.settle(&mut scratch.report);
        if let Err(failure) = self.write(cx, heard.a_packet, scratch, now) {
            // A client that has said DISCONNECT and closed its socket was heard all the same [MQTT-3.14.4-3].
            let first = self.ending.take().filter(|ending| ending.is_asked_for() || !failure.is_final());
            return Poll::Ready(first.map_or(failure, |ending| *ending));
        }
        if was_clogged && !self.is_clogged() {
            // The socket was not asked for input, so it would not wake anybody.
            cx.waker().wake_by_ref();
        }
        match self.ending.take() {
            // Only when the broker stops in peace is there time to wait for a client that does not read.
            Some(failure) if self.is_writing() && failure.is_peaceful() => {
                self.ending = Some(failure);
                Poll::Pending
            }
            Some(failure) => Poll::Ready(*failure),
            None => {
                if std::mem::take(&mut self.has_successors) && !heard.not_all {
                    self.inbound.shared().broker.answer_successors(self.inbound.handle());
                }
                Poll::Pending
            }
        }
    }

    /// Reads and handles what is there.
    fn read(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> Result<Heard, Failure> {
        let mut heard = Heard::default();
        let mut bytes = 0;
        for round in 1..=READS_PER_POLL {
            // Whoever is not listened to cannot be silent.
            let was_paused = self.pause.is_some();
            let Poll::Ready(allowance) = self.poll_allowance(cx, now) else { return Ok(heard) };
            heard.a_packet |= was_paused;
            if self.is_clogged() {
                return Ok(heard);
            }
            let Scratch { read: shared, report, run } = scratch;
            let buffer = scratch::renewed(shared, &mut report.buffers);
            let mut length = 0;
            if !std::mem::take(&mut self.held_back) {
                let (reader, pool) = (&mut self.reader, &mut report.buffers);
                let read = reader.poll_read(&mut self.stream, cx, buffer, pool, allowance.bytes);
                let Poll::Ready(read) = read else { return Ok(heard) };
                length = read.map_err(Failure::from_io)?;
                if length == 0 {
                    return Err(Failure::Closed);
                }
                self.bulk.note(length, &self.stream);
            } else {
                buffer.clear();
            }
            let mut batch = inbound::Batch { report, now, messages: allowance.messages, run };
            heard.a_packet |= self.reader.handle(&mut self.inbound, shared, &mut batch)?;
            let left = batch.messages;
            self.account(allowance, left, length);
            bytes += length;
            if std::mem::take(&mut scratch.report.pressed) {
                self.begin_stall();
            }
            if round == READS_PER_POLL || bytes >= READ_BUFFER {
                cx.waker().wake_by_ref();
                heard.not_all = true;
                break;
            }
        }
        Ok(heard)
    }

    /// What may be read now. While there is a pause, its end wakes the task.
    fn poll_allowance(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Allowance> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let Some(throttle) = &mut self.throttle else { return Poll::Ready(Allowance::FREE) };
        let wait = match throttle.allowance(now) {
            Ok(allowance) => return Poll::Ready(allowance),
            Err(wait) => wait,
        };
        self.inbound.shared().broker.counters.add(Counter::ReadingPauses, 1);
        if !std::mem::replace(&mut throttle.told, true) {
            self.inbound.shared().lines.held_back(&self.inbound.handle().client_id, now);
        }
        let pause = self.pause.insert(Box::pin(tokio::time::sleep(wait)));
        // What is over at once is looked at again in the next poll, which it brings about.
        if pause.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Notes what the client has sent, and whether it has sent more than it may.
    fn account(&mut self, allowance: Allowance, messages_left: usize, bytes: usize) {
        if let Some(throttle) = &mut self.throttle {
            throttle.spend(allowance.messages - messages_left, bytes);
            self.held_back = messages_left == 0 && !self.reader.is_empty();
            // More small packets than it may send now would wait in the buffer of a large one.
            self.reader.expect_nothing();
        }
    }

    /// Writes what was left, then what is owed and what the session has.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        heard: bool,
        scratch: &mut Scratch,
        now: Instant,
    ) -> Result<(), Failure> {
        let mut progress = Progress { heard, may_gather: self.may_gather(now), ..Progress::default() };
        if self.is_writing() {
            let mut writing = self.unwritten.take().unwrap_or_default();
            progress.wrote = self.write_some(cx, &mut writing)?;
            progress.unwritten = self.keep_unwritten(*writing, scratch);
        }
        self.inbound.release_acknowledgements(cx.waker());
        // The CONNACK is the first to go.
        self.acknowledged |= self.inbound.acks.ready() > 0;
        // A client that has said DISCONNECT gets what it is owed, and no more messages.
        let is_leaving = self.ending.as_ref().is_some_and(|ending| ending.is_asked_for());
        progress.take = !self.is_writing() && self.acknowledged && !is_leaving;
        progress.may_replay = !self.inbound.acks.hold_a_suback();
        let batch = self.take_output(cx, progress, scratch, now)?;
        if self.is_writing() || self.gathering {
            return Ok(());
        }
        let mut writing = Writing { acks: self.inbound.acks.take_ready(), acks_written: 0, batch };
        if !writing.is_finished() {
            self.write_some(cx, &mut writing)?;
        }
        let unwritten = self.keep_unwritten(writing, scratch);
        if unwritten > 0 {
            let progress = Progress { wrote: true, unwritten, ..Progress::default() };
            self.take_output(cx, progress, scratch, now)?;
        }
        Ok(())
    }

    /// Keeps what is left to write, if anything is; how many bytes, as far as can be told.
    fn keep_unwritten(&mut self, writing: Writing, scratch: &mut Scratch) -> usize {
        if writing.is_finished() {
            writing.recycle(&mut scratch.report.buffers);
            return usize::from(self.unflushed);
        }
        let remaining = writing.remaining();
        self.unwritten = Some(Box::new(writing));
        remaining
    }

    /// Whether a packet may be half written.
    pub fn is_writing(&self) -> bool {
        self.unwritten.is_some() || self.unflushed
    }

    /// Tells the session how far writing is, and takes what it has for the client.
    fn take_output(
        &mut self,
        cx: &mut Context<'_>,
        progress: Progress,
        scratch: &mut Scratch,
        now: Instant,
    ) -> Result<Batch, Failure> {
        let report = &mut scratch.report;
        let polled = self.inbound.shared().broker.poll(
            self.inbound.handle(),
            self.inbound.link(),
            progress,
            report,
            cx.waker(),
            now,
        );
        let Some(polled) = polled else {
            // Another connection has the session, and all that it had.
            return Err(Failure::Close(Close::TakenOver));
        };
        if let Some(close) = polled.output.close {
            let failure = Failure::Close(close);
            if failure.is_final() || progress.unwritten > 0 && !failure.is_peaceful() {
                return Err(failure);
            }
            self.ending.get_or_insert_with(|| Box::new(failure));
        }
        if polled.more {
            cx.waker().wake_by_ref();
        }
        self.gathering = polled.gathering;
        self.has_successors = polled.has_successors;
        if !polled.output.batch.is_finished() {
            self.last_written = NonZeroU32::new(self.microseconds(now) | 1);
        }
        Ok(polled.output.batch)
    }

    /// Writes until all is written or the socket takes no more; whether it took any.
    fn write_some(&mut self, cx: &mut Context<'_>, writing: &mut Writing) -> Result<bool, Failure> {
        let was_unflushed = self.unflushed;
        let wrote = self.write_slices(cx, writing)?;
        self.unflushed |= wrote;
        if self.unflushed && writing.is_finished() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(flushed) => flushed.map_err(Failure::Broken)?,
                Poll::Pending => return Ok(wrote),
            }
            self.unflushed = false;
        }
        Ok(wrote || was_unflushed != self.unflushed)
    }

    fn write_slices(&mut self, cx: &mut Context<'_>, writing: &mut Writing) -> Result<bool, Failure> {
        let mut wrote = false;
        while !writing.is_finished() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = writing.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let written = match slices.get(..filled) {
                Some([single]) => stream.poll_write(cx, single),
                Some(several) => stream.poll_write_vectored(cx, several),
                None => return Ok(wrote),
            };
            match written {
                Poll::Ready(Ok(0)) => return Err(Failure::Broken(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(length)) => {
                    wrote = true;
                    self.inbound.shared().broker.counters.add(Counter::BytesSent, length as u64);
                    writing.advance(length);
                }
                Poll::Ready(Err(error)) => return Err(Failure::Broken(error)),
                Poll::Pending => return Ok(wrote),
            }
        }
        Ok(wrote)
    }

    fn begin_stall(&mut self) {
        let pause = self.inbound.shared().limits.publisher_stall;
        if pause > Duration::ZERO {
            self.inbound.shared().broker.counters.add(Counter::PublisherStalls, 1);
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
    }

    /// Under load the subscriber's task runs after each publisher's, with a little to write each time. Letting the
    /// other publishers have their turn first saves most of those writes; a client that was not written to just now
    /// is not kept waiting. Nor is one whose connection ends: there is no next turn.
    fn may_gather(&self, now: Instant) -> bool {
        self.ending.is_none()
            && !self.gathering
            && self
                .last_written
                .is_some_and(|last| self.microseconds(now).wrapping_sub(last.get()) < UNDER_LOAD)
    }

    fn microseconds(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.inbound.shared().started).as_micros() as u32
    }

    fn is_clogged(&self) -> bool {
        let acks = &self.inbound.acks;
        (self.is_writing() && acks.ready() > ACKS_SOFT) || acks.held() > HELD_SOFT
    }
}

impl<S: ClientStream> Future for Connection<S> {
    type Output = Failure;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Failure> {
        let this = self.get_mut();
        let mut scratch = Scratch::take();
        let polled = this.poll_with(cx, &mut scratch);
        scratch.give_back();
        polled
    }
}

impl Writing {
    fn is_finished(&self) -> bool {
        self.acks_written == self.acks.len() && self.batch.is_finished()
    }

    fn remaining(&self) -> usize {
        self.acks.len() - self.acks_written + self.batch.remaining()
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let acks = self.acks.get(self.acks_written..).unwrap_or_default();
        if acks.is_empty() {
            return self.batch.slices(slices);
        }
        let [first, others @ ..] = slices;
        *first = IoSlice::new(acks);
        1 + self.batch.slices(others)
    }

    fn advance(&mut self, written: usize) {
        let acks = written.min(self.acks.len() - self.acks_written);
        self.acks_written += acks;
        self.batch.advance(written - acks);
    }

    fn recycle(self, pool: &mut BufferPool) {
        pool.give(self.acks);
        self.batch.recycle(pool);
    }
}
