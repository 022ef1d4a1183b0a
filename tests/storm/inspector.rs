//! Looks at the broker from outside: what `$SYS` says of it, and what the system says of its process.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::Broker;
use crate::support::light::{Event, LightClient, Version};

/// The inspector.
const OWN_CLIENTS: &str = "1";

/// To `$SYS`.
const OWN_SUBSCRIPTIONS: &str = "2";

/// `$SYS` speaks every few seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// What the process of the broker holds.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    pub memory_kib: u64,
    pub open_files: usize,
}

/// A client that reads `$SYS`.
pub struct Inspector {
    pid: u32,
    client: LightClient,
    stream: TcpStream,
    values: HashMap<String, String>,
    /// `$SYS` has told of somebody else, so what it tells now is not from before.
    has_seen_others: bool,
}

impl Inspector {
    pub fn connect(broker: &Broker) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", broker.port())).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("not zero");
        let client = LightClient::new("inspector", Version::V3_1_1, false);
        let mut inspector =
            Self { pid: broker.pid(), client, stream, values: HashMap::new(), has_seen_others: false };
        let mut out = Vec::new();
        inspector.client.connect(true, &mut out);
        inspector.client.subscribe("$SYS/broker/clients/+", 0, &mut out);
        inspector.client.subscribe("$SYS/broker/subscriptions/count", 0, &mut out);
        inspector.stream.write_all(&out).expect("the broker reads");
        inspector
    }

    /// Waits until `$SYS` tells of nobody else: no session, no connection, no subscription.
    pub fn until_nobody_else_is_left(&mut self) {
        let expected = [
            ("$SYS/broker/clients/connected", OWN_CLIENTS),
            ("$SYS/broker/clients/total", OWN_CLIENTS),
            ("$SYS/broker/subscriptions/count", OWN_SUBSCRIPTIONS),
        ];
        let start = Instant::now();
        while expected.iter().any(|(topic, value)| self.values.get(*topic).is_none_or(|is| is != value)) {
            assert!(
                start.elapsed() < PATIENCE,
                "$SYS does not come to {expected:?} but to {:?}",
                self.values
            );
            self.read();
        }
    }

    /// Waits until `$SYS` has told of the storm, and after that of nobody but the inspector, and until memory and open files are back to what they were, or nearly.
    pub fn until_released(&mut self, before: &Resources, memory_kept_kib: u64) -> Resources {
        let start = Instant::now();
        while !self.has_seen_others {
            assert!(start.elapsed() < PATIENCE, "$SYS never told of the storm: {:?}", self.values);
            self.read();
        }
        self.until_nobody_else_is_left();
        let start = Instant::now();
        loop {
            let now = self.resources();
            if now.open_files <= before.open_files && now.memory_kib <= before.memory_kib + memory_kept_kib {
                return now;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the broker keeps {now:?}; at its start it had {before:?}, and {memory_kept_kib} KiB more \
                 memory is what it may keep"
            );
            // Nothing announces that an allocator gives memory back.
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn resources(&self) -> Resources {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the broker runs");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        let memory_kib = memory.trim().trim_end_matches("kB").trim().parse().expect("a number");
        let open_files = fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("our own child").count();
        Resources { memory_kib, open_files }
    }

    fn read(&mut self) {
        let mut buffer = [0; 16_384];
        let length = match self.stream.read(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            Err(error) => panic!("the inspector's connection: {error}"),
        };
        assert!(length > 0, "the broker closed the inspector's connection");
        let events = self.client.handle(&buffer[..length], &mut Vec::new()).expect("the broker errs");
        for event in events {
            if let Event::Message { topic, payload, .. } = event {
                let value = String::from_utf8_lossy(&payload).into_owned();
                if topic == "$SYS/broker/clients/connected" && value.parse().unwrap_or(0) > 2 {
                    self.has_seen_others = true;
                }
                self.values.insert(topic, value);
            }
        }
    }
}
