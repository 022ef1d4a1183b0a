//! The signals that a broker process obeys. Called by `run` alone: they are the process's, not a broker's.
//!
//! What always holds: from the moment that [`Signals::new`] returns, none of them ends the process by itself, so
//! whoever is told that the broker is ready can rely on it.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Running;
use super::watch::Watch;
use crate::config::Sources;

/// See the module.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Begins to listen for them.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one to end, whose name it gives; reads everything again at SIGHUP and when files change until then.
    pub async fn obey(
        mut self,
        running: &mut Running,
        sources: &Arc<Sources>,
        mut watch: Watch,
    ) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => running.reread(sources, &mut watch).await,
                files = watch.changed(), if running.config.server.watch_files => {
                    tracing::info!(files, "files have changed: everything is read again");
                    running.reread(sources, &mut watch).await;
                }
            }
        }
    }
}
