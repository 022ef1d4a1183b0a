//! What the files and the configuration say about who may enter: read as a whole, checked as a whole, used as a whole.
//!
//! Made by `server` at start and at every reload, and by `fulmar check`; never changed afterwards.

use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;

use super::acl::{Acl, parse_mosquitto};
use super::http::HttpService;
use super::jwt::{Keys, KeysError, Tokens};
use super::password_file::{PasswordFile, PasswordFileError};
use super::{Authenticator, Identity, Refused, Why};
use crate::config::{self, AuthenticatorKind, Config, Fault, Place, Problem, Problems};

/// See the module.
#[derive(Debug)]
pub struct Policy {
    pub(super) settings: config::Auth,
    /// `None`: there are no rules, and everyone may do everything.
    pub(super) acl: Option<Arc<Acl>>,
    /// The users with passwords.
    pub(super) passwords: Option<Arc<PasswordFile>>,
    /// What tokens are judged by.
    pub(super) tokens: Option<Arc<Tokens>>,
    /// By the listener's name.
    pub(super) doors: HashMap<Box<str>, Door>,
}

/// Whom one listener lets in.
#[derive(Debug, Default)]
pub(super) struct Door {
    pub(super) allow_anonymous: bool,
    pub(super) authenticators: Vec<Authenticator>,
}

impl Door {
    /// Whom it lets in, told apart by the names of those who are asked.
    pub(super) fn summary(&self) -> (bool, Vec<&'static str>) {
        (self.allow_anonymous, self.authenticators.iter().map(Authenticator::name).collect())
    }

    /// The answer to a client whom none of those who are asked knows.
    pub(super) fn answer_of_nobody(&self, says_nothing: bool) -> Result<Identity, Refused> {
        match (says_nothing, self.allow_anonymous) {
            (true, true) => Ok(Identity::anonymous()),
            (true, false) => Err(Refused { authenticator: "anonymous", why: Why::Anonymous }),
            // Where nobody is asked, it does not matter what a client says.
            (false, true) if self.authenticators.is_empty() => Ok(Identity::anonymous()),
            (false, _) => Err(Refused { authenticator: "none", why: Why::Unknown }),
        }
    }
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
        let mut tokens = None;
        let path = &config.auth.jwt.keys;
        if !path.as_os_str().is_empty() {
            match Keys::read(path) {
                Ok(keys) => tokens = Some(Arc::new(Tokens::new(keys, config.auth.jwt.clone()))),
                Err(KeysError::Key { fault, .. }) => problems.push(unreadable(path, fault)),
                Err(KeysError::Unreadable { error, .. }) => {
                    problems.push(unreadable(path, format!("the keys cannot be read: {error}")));
                }
            }
        }
        let mut service = None;
        if !config.auth.http.url.is_empty() {
            match HttpService::new(&config.auth.http) {
                Ok(made) => service = Some(Arc::new(made)),
                Err(error) => problems
                    .push(Problem { place: Place::default(), fault: Fault::Unreadable(error.to_string()) }),
            }
        }
        let mut parts = vec![config.acl.clone()];
        let path = &config.auth.acl_file;
        if !path.as_os_str().is_empty() {
            match read_rules(path) {
                Ok(part) => parts.push(part),
                Err(found) => problems.extend(found.0),
            }
        }
        let acl = Arc::new(Acl::new(parts));
        let acl = (!acl.is_empty()).then_some(acl);
        if problems.is_empty() {
            Ok(Self::new(config, passwords, tokens, service, acl))
        } else {
            Err(Problems(problems))
        }
    }

    /// From files that were read.
    pub(super) fn new(
        config: &Config,
        passwords: Option<Arc<PasswordFile>>,
        tokens: Option<Arc<Tokens>>,
        service: Option<Arc<HttpService>>,
        acl: Option<Arc<Acl>>,
    ) -> Self {
        let authenticator = |kind: &AuthenticatorKind| match kind {
            // The configuration makes sure that there is one.
            AuthenticatorKind::PasswordFile => passwords.clone().map(Authenticator::PasswordFile),
            AuthenticatorKind::Certificate => {
                Some(Authenticator::Certificate(config.auth.certificate_user.as_str().into()))
            }
            AuthenticatorKind::Scram => passwords.clone().map(Authenticator::Scram),
            AuthenticatorKind::Jwt => tokens.clone().map(Authenticator::Jwt),
            AuthenticatorKind::Http => service.clone().map(Authenticator::Http),
        };
        let doors = config.listeners.iter().map(|listener| {
            let own = &listener.authenticators;
            let kinds = if own.is_empty() { &config.auth.authenticators } else { own };
            let authenticators = kinds.iter().filter_map(authenticator).collect();
            let door = Door { allow_anonymous: listener.allow_anonymous, authenticators };
            (listener.name.as_str().into(), door)
        });
        let doors = doors.collect();
        Self { settings: config.auth.clone(), acl, passwords, tokens, doors }
    }

    /// The rules about what clients may do, if there are any.
    pub fn acl(&self) -> Option<&Arc<Acl>> {
        self.acl.as_ref()
    }

    pub(super) fn door(&self, listener: &str) -> &Door {
        self.doors.get(listener).unwrap_or(&CLOSED)
    }
}

/// Our own form in a file that says so by its name, mosquitto's in any other.
fn read_rules(path: &Path) -> Result<config::Acl, Problems> {
    if path.extension().is_some_and(|extension| extension == "toml") {
        return config::load_acl(path);
    }
    let name = path.display().to_string();
    let wrong = |line, text: String| {
        Problems(vec![Problem { place: Place { name: name.clone(), line }, fault: Fault::Unreadable(text) }])
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| wrong(None, format!("the file of rules cannot be read: {error}")))?;
    parse_mosquitto(&name, &text).map_err(|error| wrong(Some(error.line), error.fault))
}

fn unreadable(path: &Path, fault: String) -> Problem {
    Problem { place: Place { name: path.display().to_string(), line: None }, fault: Fault::Unreadable(fault) }
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
