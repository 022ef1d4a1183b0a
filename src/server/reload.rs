//! Reading the configuration again while the broker runs: as a whole or not at all.
//!
//! Called at SIGHUP and when a file has changed. Every file is read and checked first: the configuration, passwords, rules, certificates. If
//! anything is wrong, everything stays as it was and a line for each mistake says where it is. Else who may enter and
//! what they may do is swapped at once, and the log says what has changed, and what would only change at the next
//! start. Who was let in by a password that is not in the file any more is sent away.

use std::sync::Arc;

use super::Running;
use super::watch::{Stamps, Watch};
use crate::auth::Policy;
use crate::config::{Config, Problems, Server, Sources, load};
use crate::session::Close;

/// What was read and found right.
struct Reread {
    config: Config,
    policy: Policy,
    stamps: Stamps,
}

impl Running {
    /// Reads the sources again and puts in force what can be changed while running.
    pub(super) async fn reread(&mut self, sources: &Arc<Sources>, watch: &mut Watch) {
        let (sources, old) = (sources.clone(), self.config.clone());
        let read = tokio::task::spawn_blocking(move || {
            // Taken before anything is read: what changes meanwhile is read once more.
            let before = Stamps::of(&old, &sources);
            (read(&sources, &before), before)
        });
        let read = read.await.map(|(read, before)| {
            // The same mistake is not told again until somebody has changed something.
            watch.have_been_read(read.as_ref().map_or(before, |reread| reread.stamps.clone()));
            read
        });
        match read {
            Ok(Ok(Reread { config, policy, stamps: _ })) => {
                self.reload();
                self.apply(config, policy);
            }
            Ok(Err(mistakes)) => {
                for mistake in &mistakes {
                    tracing::error!("nothing was reloaded, everything stays as it was: {mistake}");
                }
            }
            Err(error) => tracing::error!(%error, "nothing was reloaded, everything stays as it was"),
        }
    }

    /// Puts another configuration in force as far as that can be done while running: who may enter, and what they may
    /// do. For programs that embed a broker; blocks while it reads the files that the configuration names.
    ///
    /// # Errors
    /// What is wrong; then everything stays as it was.
    pub fn reconfigure(&mut self, config: Config) -> Result<(), Problems> {
        let policy = Policy::load(&config)?;
        self.apply(config, policy);
        Ok(())
    }

    fn apply(&mut self, config: Config, policy: Policy) {
        let changes = self.shared.auth.replace(policy);
        if changes.rules {
            self.broker.set_rules(self.shared.auth.acl());
        }
        let gone = &changes.users;
        let ended = if gone.is_empty() {
            0
        } else {
            self.broker.close_where(Close::NotAuthorized, |identity| {
                ["password-file", "scram-sha-256"].contains(&identity.authenticator)
                    && identity.user.as_deref().is_some_and(|user| gone.contains(user))
            })
        };
        if self.config.bans != config.bans {
            self.shared.replace_bans(&config.bans);
            tracing::info!("[bans] changed: all bans are lifted");
        }
        let later = needs_a_start(&self.config, &config);
        if !later.is_empty() {
            tracing::warn!("{} changed; that takes effect at the next start", later.join(", "));
        }
        tracing::info!(connections_ended = ended, "reloaded: {changes}");
        self.config = config;
    }
}

fn read(sources: &Sources, before: &Stamps) -> Result<Reread, Vec<String>> {
    let told = |problems: Problems| problems.0.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = load(sources).map_err(told)?;
    let stamps = Stamps::of(&config, sources).not_newer_than(before);
    let policy = Policy::load(&config).map_err(told)?;
    let faults = super::check(&config);
    if faults.is_empty() {
        Ok(Reread { config, policy, stamps })
    } else {
        Err(faults.iter().map(ToString::to_string).collect())
    }
}

/// The sections that have changed and cannot be changed while running.
fn needs_a_start(old: &Config, new: &Config) -> Vec<&'static str> {
    let doors = |config: &Config| {
        let mut listeners = config.listeners.clone();
        for listener in &mut listeners {
            listener.allow_anonymous = true;
            listener.authenticators.clear();
        }
        listeners
    };
    let server = |config: &Config| Server { watch_files: true, ..config.server.clone() };
    let hashing = |config: &Config| {
        (config.auth.hashing_threads, config.auth.hashing_queue, config.auth.password_cache)
    };
    [
        ("[[listeners]]", doors(old) != doors(new)),
        ("[auth] hashing", hashing(old) != hashing(new)),
        ("[limits]", old.limits != new.limits),
        ("[session]", old.session != new.session),
        ("[queue]", old.queue != new.queue),
        ("[retained]", old.retained != new.retained),
        ("[sys]", old.sys != new.sys),
        ("[store]", old.store != new.store),
        ("[log]", old.log != new.log),
        ("[server]", server(old) != server(new)),
    ]
    .into_iter()
    .filter_map(|(section, changed)| changed.then_some(section))
    .collect()
}
