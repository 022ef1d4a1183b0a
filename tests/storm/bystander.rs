//! Somebody who has no part in the storm: its questions must be answered as if nothing happened.
//!
//! A thread of its own with a blocking socket, so that the thousand clients do not delay the measuring more
//! than the machine itself does. How much that is, is measured too. A second pair of threads plays the same
//! game over the loopback without a broker, for comparison. And the kernel counts, for every thread, the time
//! in which it could have run but all processors were taken by others; the longest such wait, among the
//! broker's threads and our own, while an answer was due is the machine's and not the broker's. The rest is
//! what the claim is about; both are printed.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::Broker;
use crate::support::light::{Event, LightClient, Version};

/// Between two questions; a pace, not a wait.
const PAUSE: Duration = Duration::from_millis(5);

/// A measurement that is running.
pub struct Bystander {
    over: Arc<AtomicBool>,
    broker: JoinHandle<Vec<Answer>>,
    loopback: JoinHandle<Vec<Answer>>,
}

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    /// How long it took, less the wait for a processor.
    took: Duration,
    /// How long a thread that was needed for it had no processor.
    starved: Duration,
    /// From the start of the measurement.
    when: Duration,
}

/// What came of it.
pub struct Measured {
    broker: Vec<Answer>,
    loopback: Vec<Answer>,
}

impl Bystander {
    pub fn start(broker: &Broker) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ask, stop) = (Asker::new(broker), over.clone());
        let broker = thread::spawn(move || ask.until(&stop));
        let stop = over.clone();
        let loopback = thread::spawn(move || without_a_broker(&stop));
        Self { over, broker, loopback }
    }

    pub fn stop(self) -> Measured {
        self.over.store(true, Ordering::Relaxed);
        let mut broker = self.broker.join().expect("the bystander was answered all the time");
        let mut loopback = self.loopback.join().expect("the loopback works");
        broker.sort_unstable();
        loopback.sort_unstable();
        Measured { broker, loopback }
    }
}

impl Measured {
    pub fn slowest(&self) -> Duration {
        self.broker.last().expect("there was an answer").took
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, sorted) in [("bystander", &self.broker), ("the same without a broker", &self.loopback)] {
            let at = |permille: usize| sorted[(sorted.len() - 1) * permille / 1_000].took;
            let (median, high, count) = (at(500), at(990), sorted.len());
            write!(f, "{name}: {count} answers, median {median:?}, 99 % {high:?}, the slowest")?;
            for Answer { took, starved, when } in sorted.iter().rev().take(5) {
                write!(f, "\n    {took:.1?} and {starved:.1?} without a processor, at {when:.1?}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A blocking client that asks and times the answer.
struct Asker {
    pid: u32,
    client: LightClient,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Asker {
    /// Connects the client and subscribes to the topic of its own.
    fn new(broker: &Broker) -> Self {
        let client = LightClient::new("bystander", Version::V3_1_1, false);
        let stream = connect(broker.port());
        let mut asker = Self { pid: broker.pid(), client, stream, buffer: vec![0; 4_096] };
        let mut out = Vec::new();
        asker.client.connect(true, &mut out);
        asker.ask(&out, |event| matches!(event, Event::Connected { .. }));
        out.clear();
        asker.client.subscribe("bystander/echo", 1, &mut out);
        asker.ask(&out, |event| matches!(event, Event::Subscribed { .. }));
        asker
    }

    /// A PINGREQ, a QoS 0 message to itself and a QoS 1 message to itself, in turn.
    fn until(mut self, over: &AtomicBool) -> Vec<Answer> {
        let begin = Instant::now();
        let mut answers = Vec::new();
        let mut out = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let number = answers.len() as u64;
            out.clear();
            let message = number.to_be_bytes();
            let answer: fn(&Event) -> bool = match number % 3 {
                0 => {
                    self.client.ping(&mut out);
                    |event| matches!(event, Event::Pong)
                }
                qos => {
                    let qos = if qos == 1 { 0 } else { 1 };
                    self.client.publish("bystander/echo", &message, qos, number, &mut out);
                    |event| matches!(event, Event::Message { .. })
                }
            };
            let waited_before = waits_for_a_processor(self.pid);
            let start = Instant::now();
            self.ask(&out, answer);
            let elapsed = start.elapsed();
            let waited_after = waits_for_a_processor(self.pid);
            let waited = |(thread, after): (&String, &Duration)| {
                waited_before.get(thread).map_or(Duration::ZERO, |before| after.saturating_sub(*before))
            };
            let starved = waited_after.iter().map(waited).max().unwrap_or_default().min(elapsed);
            answers.push(Answer { took: elapsed - starved, starved, when: start - begin });
            thread::sleep(PAUSE);
        }
        answers
    }

    /// Writes, and reads until an event is the answer.
    fn ask(&mut self, bytes: &[u8], answer: impl Fn(&Event) -> bool) {
        self.stream.write_all(bytes).expect("the broker reads");
        loop {
            let length = match self.stream.read(&mut self.buffer) {
                // The system has stopped this process for a moment.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.expect("the broker answers within 10 s"),
            };
            assert!(length > 0, "the broker closed the bystander's connection");
            let mut out = Vec::new();
            let events = self.client.handle(&self.buffer[..length], &mut out).expect("the broker errs");
            if !out.is_empty() {
                self.stream.write_all(&out).expect("the broker reads");
            }
            if events.iter().any(&answer) {
                return;
            }
        }
    }
}

/// What the machine alone needs for an answer.
fn without_a_broker(over: &AtomicBool) -> Vec<Answer> {
    let begin = Instant::now();
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the other half connects");
        stream.set_nodelay(true).expect("TCP");
        let mut byte = [0; 1];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    let mut stream = connect(port);
    let mut answers = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        stream.write_all(&[1]).expect("the loopback");
        stream.read_exact(&mut [0; 1]).expect("the loopback");
        answers.push(Answer { took: start.elapsed(), starved: Duration::ZERO, when: start - begin });
        thread::sleep(PAUSE);
    }
    drop(stream);
    echo.join().expect("the echo ends with its connection");
    answers
}

/// For each thread of the process and for the calling one: how long it has been ready to run without a
/// processor, since it began. Nothing where the kernel does not count it.
fn waits_for_a_processor(pid: u32) -> HashMap<String, Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the broker runs");
    let threads = threads.filter_map(|thread| thread.ok()?.path().to_str().map(ToOwned::to_owned));
    let waited = |thread: String| {
        let counts = fs::read_to_string(format!("{thread}/schedstat")).ok()?;
        let nanoseconds = counts.split_whitespace().nth(1)?.parse().ok()?;
        Some((thread, Duration::from_nanos(nanoseconds)))
    };
    threads.chain(["/proc/thread-self".to_owned()]).filter_map(waited).collect()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_nodelay(true).expect("TCP");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
    stream
}
