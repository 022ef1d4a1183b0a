//! Waiting for less than a millisecond: epoll counts in milliseconds, a load's schedule does not.
//!
//! On Linux a timer's file descriptor ends the wait; elsewhere the poll itself is exact.

use std::time::Duration;

use mio::{Registry, Token};

use super::ClientError;

#[cfg(target_os = "linux")]
pub(super) struct Timer(std::os::fd::OwnedFd);

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
        Ok(Self(timer))
    }

    /// Sees to it that a wait ends after so long, at the latest; what the poll itself may wait for.
    pub fn limit(&self, wait: Duration) -> Duration {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        if wait.is_zero() || wait.subsec_nanos().is_multiple_of(1_000_000) {
            return wait;
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let end = Timespec {
            tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: zero, it_value: end };
        // Without it the wait is a little longer.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once);
        wait + Duration::from_millis(1)
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
    pub fn limit(&self, wait: Duration) -> Duration {
        wait
    }
}
