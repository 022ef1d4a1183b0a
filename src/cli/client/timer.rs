//! Waiting for less than a millisecond: epoll counts in milliseconds, a load's schedule does not.
//!
//! On Linux a timer's file descriptor ends the wait; elsewhere the poll itself is exact.

use std::time::Duration;
#[cfg(target_os = "linux")]
use std::time::Instant;

use mio::{Registry, Token};

use super::ClientError;

/// How exact a wait has to be: the timer is not set anew for less, which costs more than a system call usually does.
#[cfg(target_os = "linux")]
const TOLERANCE: Duration = Duration::from_micros(5);

#[cfg(target_os = "linux")]
pub(super) struct Timer {
    descriptor: std::os::fd::OwnedFd,
    /// When it ends, if it is set.
    end: Option<Instant>,
}

#[cfg(target_os = "linux")]
impl Timer {
    /// A timer whose end is an event of `token`.
    pub fn new(registry: &Registry, token: Token) -> Result<Self, ClientError> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        use std::os::fd::AsRawFd;

        let system = |error: std::io::Error| ClientError::System { what: "a timer cannot be made", error };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(|error| system(error.into()))?;
        registry
            .register(&mut mio::unix::SourceFd(&timer.as_raw_fd()), token, mio::Interest::READABLE)
            .map_err(system)?;
        Ok(Self { descriptor: timer, end: None })
    }

    /// Sees to it that a wait ends after so long, at the latest; what the poll itself may wait for.
    pub fn limit(&mut self, wait: Duration) -> Duration {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        if wait.is_zero() || wait.subsec_nanos().is_multiple_of(1_000_000) {
            return wait;
        }
        let later = wait + Duration::from_millis(1);
        let now = Instant::now();
        let end = now + wait;
        let is_set = |set: Instant| set > now && set <= end + TOLERANCE && end <= set + TOLERANCE;
        if self.end.is_some_and(is_set) {
            return later;
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: zero, it_value: value };
        // Without it the wait is a little longer.
        let _ = timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &once);
        self.end = Some(end);
        later
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) struct Timer;

#[cfg(not(target_os = "linux"))]
impl Timer {
    /// Nothing: the poll is exact here.
    pub fn new(_: &Registry, _: Token) -> Result<Self, ClientError> {
        Ok(Self)
    }

    /// The poll may wait for as long as that.
    pub fn limit(&mut self, wait: Duration) -> Duration {
        wait
    }
}
