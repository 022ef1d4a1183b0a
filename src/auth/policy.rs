//! What the files and the configuration say about who may enter: read as a whole, checked as a whole, used as a whole.
//!
//! Made by `server` at start and at every reload, and by `fulmar check`; never changed afterwards.

use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;

use super::Authenticator;
use super::password_file::{PasswordFile, PasswordFileError};
use crate::config::{self, AuthenticatorKind, Config, Fault, Place, Problem, Problems};

/// See the module.
#[derive(Debug)]
pub struct Policy {
    pub(super) settings: config::Auth,
    /// By the listener's name.
    doors: HashMap<Box<str>, Door>,
}

/// Whom one listener lets in.
#[derive(Debug, Default)]
pub(super) struct Door {
    pub(super) allow_anonymous: bool,
    pub(super) authenticators: Vec<Authenticator>,
}

/// Where nobody enters.
static CLOSED: Door = Door { allow_anonymous: false, authenticators: Vec::new() };

impl Policy {
    /// Reads every file that the configuration names.
    ///
    /// # Errors
    /// What is wrong with any of them.
    pub fn load(config: &Config) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let path = &config.auth.password_file;
        let mut passwords = None;
        if !path.as_os_str().is_empty() {
            match PasswordFile::read(path) {
                Ok(file) => passwords = Some(Arc::new(file)),
                Err(error) => problems.push(problem(path, error)),
            }
        }
        if problems.is_empty() { Ok(Self::new(config, passwords)) } else { Err(Problems(problems)) }
    }

    /// From files that were read.
    pub(super) fn new(config: &Config, passwords: Option<Arc<PasswordFile>>) -> Self {
        let authenticator = |kind: &AuthenticatorKind| match kind {
            // The configuration makes sure that there is one.
            AuthenticatorKind::PasswordFile => passwords.clone().map(Authenticator::PasswordFile),
        };
        let doors = config.listeners.iter().map(|listener| {
            let own = &listener.authenticators;
            let kinds = if own.is_empty() { &config.auth.authenticators } else { own };
            let authenticators = kinds.iter().filter_map(authenticator).collect();
            let door = Door { allow_anonymous: listener.allow_anonymous, authenticators };
            (listener.name.as_str().into(), door)
        });
        Self { settings: config.auth.clone(), doors: doors.collect() }
    }

    pub(super) fn door(&self, listener: &str) -> &Door {
        self.doors.get(listener).unwrap_or(&CLOSED)
    }
}

fn problem(path: &Path, error: PasswordFileError) -> Problem {
    let (line, text) = match error {
        PasswordFileError::Line { line, fault, .. } => (Some(line), fault.to_string()),
        PasswordFileError::Unreadable { error, .. } => {
            (None, format!("the password file cannot be read: {error}; make it with fulmar passwd add"))
        }
        PasswordFileError::Unwritable { .. } | PasswordFileError::Name => (None, error.to_string()),
    };
    Problem { place: Place { name: path.display().to_string(), line }, fault: Fault::Unreadable(text) }
}
