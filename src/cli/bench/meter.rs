//! What the broker and the generator cost: CPU time and memory, from the system's own counts.
//!
//! The broker is measured only if its process is named; its counts are read from `/proc`, which Linux has.

use std::fs;

use super::super::client::{ClientError, Connections};

/// Nanoseconds between two looks at the memory.
const LOOK: u64 = 50_000_000;

/// Clock ticks a second in `/proc/PID/stat`: fixed for user space on Linux.
const TICKS: f64 = 100.0;

/// Both processes at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    /// Nanoseconds.
    pub at: u64,
    /// The broker's CPU time so far, in seconds.
    pub broker_cpu: f64,
    /// The broker's memory, in bytes.
    pub broker_memory: u64,
    /// The generator's CPU time so far, in seconds.
    pub own_cpu: f64,
}

impl Mark {
    /// This moment, and what the broker had cost some idle time later: the system counts what a thread takes only when
    /// it stops, or at the next tick of its clock.
    pub fn with_cost_of(self, later: &Self) -> Self {
        Self { broker_cpu: later.broker_cpu, ..self }
    }
}

/// Watches the broker, if it is known, and this process.
pub(super) struct Meter {
    pid: Option<u32>,
    next_look: u64,
    /// The broker's memory at the beginning and at its most.
    pub start_memory: u64,
    pub peak_memory: u64,
}

impl Meter {
    /// Begins to watch.
    pub fn new(pid: Option<u32>) -> Result<Self, ClientError> {
        if let Some(pid) = pid
            && cpu(pid).is_none()
        {
            return Err(ClientError::Misused(format!(
                "--pid {pid}: there is no such process to look at in /proc"
            )));
        }
        let start_memory = pid.and_then(memory).unwrap_or(0);
        Ok(Self { pid, next_look: 0, start_memory, peak_memory: start_memory })
    }

    /// Whether the broker is watched.
    pub fn knows_broker(&self) -> bool {
        self.pid.is_some()
    }

    /// How things are now.
    pub fn mark(&mut self, connections: &Connections) -> Mark {
        let broker_memory = self.pid.and_then(memory).unwrap_or(0);
        self.peak_memory = self.peak_memory.max(broker_memory);
        Mark {
            at: connections.now(),
            broker_cpu: self.pid.and_then(cpu).unwrap_or(0.0),
            broker_memory,
            own_cpu: own_cpu(),
        }
    }

    /// Looks at the memory now and then; cheap to be called at every turn.
    pub fn look(&mut self, now: u64) {
        if let Some(pid) = self.pid
            && now >= self.next_look
        {
            self.next_look = now + LOOK;
            self.peak_memory = self.peak_memory.max(memory(pid).unwrap_or(0));
        }
    }
}

/// CPU seconds of a process: of its threads to the nanosecond, else, or if some have ended, of all of it to the tick.
fn cpu(pid: u32) -> Option<f64> {
    let of_thread = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9)
    };
    let threads: f64 = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().filter_map(of_thread).sum();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let whole = (fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?) / TICKS;
    // Either of its two numbers may be a tick too many.
    Some(if whole > threads + 2.0 / TICKS { whole } else { threads })
}

/// Bytes of a process in memory.
fn memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(unix)]
fn own_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(not(unix))]
fn own_cpu() -> f64 {
    0.0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_measured_and_one_that_is_not_there_cannot() {
        let mut meter = Meter::new(Some(std::process::id())).unwrap();
        let connections = Connections::new().unwrap();
        let mark = meter.mark(&connections);
        assert!(mark.broker_cpu > 0.0 && mark.broker_memory > 100_000 && mark.own_cpu > 0.0, "{mark:?}");
        assert!(Meter::new(Some(u32::MAX)).is_err());
    }
}
