//! The line on a terminal that says how it goes; nothing anywhere else.

use std::io::{self, IsTerminal, Write};

use super::report::grouped;

/// Nanoseconds between two lines.
const INTERVAL: u64 = 250_000_000;

/// See the module.
pub(super) struct Progress {
    is_shown: bool,
    what: &'static str,
    start: u64,
    last: (u64, u64),
}

impl Progress {
    /// Of `what` is counted; shown if standard error is a terminal.
    pub fn new(what: &'static str, now: u64) -> Self {
        Self { is_shown: io::stderr().is_terminal(), what, start: now, last: (now, 0) }
    }

    /// Tells of the count if it is time to.
    pub fn tick(&mut self, now: u64, count: u64, note: &str) {
        let (then, before) = self.last;
        if self.is_shown && now >= then + INTERVAL {
            let rate = count.saturating_sub(before) as f64 / ((now - then) as f64 / 1e9);
            let seconds = (now - self.start) as f64 / 1e9;
            let what = self.what;
            let line =
                format!("{seconds:6.1} s  {} {what}  {} /s  {note}", grouped(count as f64), grouped(rate));
            // Somebody may have closed the terminal.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
            self.last = (now, count);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
