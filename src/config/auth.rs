//! Who may connect, as it is configured: the `[auth]` section, and what is settled when everything is read.
//!
//! `auth` makes its authenticators from this. What always holds after [`super::load`]: an authenticator that is named
//! anywhere has what it needs; nobody is let in unasked beyond the loopback addresses unless that was written.

use std::path::PathBuf;
use std::time::Duration;

use super::key::Worded;
use super::load::{LISTENERS, Loader};
use super::problem::{Fault, Place, Problem};

/// Who may connect, and how that is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Who is asked about clients with credentials, in this order, where a listener does not say otherwise.
    pub authenticators: Vec<AuthenticatorKind>,
    /// User names and hashed passwords; empty: none.
    pub password_file: PathBuf,
    /// How a client's certificate becomes a user name.
    pub certificate_user: String,
    /// What tokens are judged by.
    pub jwt: Jwt,
    /// A service of the user's that is asked over HTTP.
    pub http: HttpService,
    /// Rules beside those of the configuration; empty: none.
    pub acl_file: PathBuf,
    /// What happens to a 3.x client that publishes where it may not.
    pub denied_publish: DeniedPublish,
    /// Passwords hashed at a time; `None`: one fewer than there are cores, at least one.
    pub hashing_threads: Option<usize>,
    /// Logins that may wait for their turn to be hashed.
    pub hashing_queue: usize,
    /// How long a password that was right is known to be without hashing it again; zero: not at all.
    pub password_cache: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            authenticators: Vec::new(),
            password_file: PathBuf::new(),
            certificate_user: "%cn".to_owned(),
            jwt: Jwt::default(),
            http: HttpService::default(),
            acl_file: PathBuf::new(),
            denied_publish: DeniedPublish::Ignore,
            hashing_threads: None,
            hashing_queue: 200,
            password_cache: Duration::from_secs(600),
        }
    }
}

/// What happens to a 3.x client that publishes where it may not: it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedPublish {
    /// The message goes nowhere, and is acknowledged all the same.
    Ignore,
    /// The connection ends.
    Close,
}

/// What tokens are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// The keys that verify them; empty: none.
    pub keys: PathBuf,
    /// Claims that must be there, as `name`, or have a value, as `name=value`.
    pub require: Vec<String>,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim that names the user's groups.
    pub groups_claim: String,
    /// The claim that holds rules.
    pub acl_claim: String,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            keys: PathBuf::new(),
            require: vec!["exp".to_owned()],
            user_claim: "sub".to_owned(),
            groups_claim: "groups".to_owned(),
            acl_claim: "acl".to_owned(),
        }
    }
}

/// A service of the user's that is asked over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpService {
    /// Where it is; empty: nowhere.
    pub url: String,
    /// Authorities that its certificate must come from, in PEM; empty: those that the system trusts.
    pub ca: PathBuf,
    /// How long it may take to answer, the wait for a turn included.
    pub timeout: Duration,
    /// Questions on their way at a time.
    pub concurrent: usize,
    /// Logins that may wait for their turn to be asked about.
    pub queue: usize,
    /// How long it is remembered that it let a client in; zero: not at all.
    pub cache: Duration,
}

impl Default for HttpService {
    fn default() -> Self {
        Self {
            url: String::new(),
            ca: PathBuf::new(),
            timeout: Duration::from_secs(5),
            concurrent: 64,
            queue: 1_000,
            cache: Duration::from_secs(60),
        }
    }
}

/// A way to find out who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticatorKind {
    /// User name and password, against `auth.password_file`.
    PasswordFile,
    /// A signed token in the password.
    Jwt,
    /// The certificate that a client showed to TLS.
    Certificate,
    /// SCRAM-SHA-256 in AUTH packets, against `auth.password_file`.
    Scram,
    /// A service of the user's, over HTTP.
    Http,
}

impl AuthenticatorKind {
    /// The words of all of them.
    pub(super) const ALL_WORDS: &'static [&'static str] =
        &["password-file", "jwt", "certificate", "scram-sha-256", "http"];

    /// Those of a list of words.
    pub(super) fn list(words: &[&str]) -> Vec<Self> {
        words.iter().filter_map(|word| Self::from_word(word)).collect()
    }
}

impl Loader {
    /// Settles whom the listeners let in, and demands what must be written.
    pub(super) fn check_auth(&mut self) {
        self.check_doors();
        let auth = &self.config.auth;
        let place = self.places.get("auth.authenticators").cloned().unwrap_or_default();
        let faults: Vec<_> = needs(&auth.authenticators, auth).collect();
        for fault in faults {
            self.report_in_order(place.clone(), fault);
        }
    }

    /// The part of it that is about each listener.
    pub(super) fn check_doors(&mut self) {
        let mut faults = Vec::new();
        let auth = &self.config.auth;
        for (index, listener) in self.config.listeners.iter_mut().enumerate() {
            let (place, said) = self.listener_places.get(index).cloned().unwrap_or_default();
            let path = format!("{LISTENERS}[{index}]");
            let asked = asked(&listener.authenticators, auth);
            let (address, loopback) = (listener.address, listener.address.ip().is_loopback());
            if !said {
                listener.allow_anonymous = asked.is_empty() && loopback;
            }
            if asked.is_empty() && !said && !loopback {
                let expectation = format!(
                    "{address} can be reached from other machines; write allow_anonymous = true below this listener \
                     if everyone who reaches it may connect, or authenticators = [\"password-file\"] and in [auth] \
                     password_file = \"passwords\" (see fulmar passwd), or listen on 127.0.0.1 only"
                );
                faults.push((
                    place.clone(),
                    Fault::Missing { key: format!("{path}.allow_anonymous"), expectation },
                ));
            } else if asked.is_empty() && !listener.allow_anonymous {
                let fault = format!(
                    "{path}.allow_anonymous = false: nobody could connect, as no authenticator is named; write \
                     authenticators = [\"password-file\"] and in [auth] password_file = \"passwords\", or true, or \
                     remove the listener"
                );
                faults.push((place.clone(), Fault::Conflict(fault)));
            }
            if !listener.authenticators.is_empty() {
                faults.extend(needs(&listener.authenticators, auth).map(|fault| (place.clone(), fault)));
            }
        }
        for (place, fault) in faults {
            self.report_in_order(place, fault);
        }
    }

    /// As [`Loader::report`], but among the problems of the same file at its line.
    fn report_in_order(&mut self, place: Place, fault: Fault) {
        let problem = Problem { place, fault };
        let text = problem.to_string();
        let same_file = |other: &Problem| other.place.name == problem.place.name;
        let behind = |other: &Problem| {
            same_file(other) && (other.place.line, other.to_string()) > (problem.place.line, text.clone())
        };
        let at = self.problems.iter().position(behind);
        let last = self.problems.iter().rposition(same_file).map(|last| last + 1);
        let at = at.or(last).unwrap_or(if problem.place.line.is_some() { 0 } else { self.problems.len() });
        self.problems.insert(at, problem);
    }
}

/// Who is asked on a listener that names these authenticators.
fn asked<'a>(own: &'a [AuthenticatorKind], auth: &'a Auth) -> &'a [AuthenticatorKind] {
    if own.is_empty() { &auth.authenticators } else { own }
}

/// What these authenticators lack.
fn needs(kinds: &[AuthenticatorKind], auth: &Auth) -> impl Iterator<Item = Fault> {
    kinds.iter().filter_map(|kind| match kind {
        AuthenticatorKind::Certificate => None,
        AuthenticatorKind::Jwt => auth.jwt.keys.as_os_str().is_empty().then(|| Fault::Missing {
            key: "auth.jwt_keys".to_owned(),
            expectation:
                "the authenticator \"jwt\" needs the keys that verify tokens: write for instance jwt_keys = \
                          \"keys.json\" in [auth]"
                    .to_owned(),
        }),
        AuthenticatorKind::Http => auth.http.url.is_empty().then(|| Fault::Missing {
            key: "auth.http_url".to_owned(),
            expectation: "the authenticator \"http\" needs to know whom to ask: write for instance http_url = \
                          \"https://accounts.example.org/mqtt\" in [auth]"
                .to_owned(),
        }),
        AuthenticatorKind::PasswordFile | AuthenticatorKind::Scram => {
            auth.password_file.as_os_str().is_empty().then(|| Fault::Missing {
                key: "auth.password_file".to_owned(),
                expectation:
                    "the authenticators \"password-file\" and \"scram-sha-256\" need a file: write for instance password_file = \
                          \"passwords\" in [auth], and add users to it with fulmar passwd add passwords NAME"
                        .to_owned(),
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Listener, Sources, load};
    use std::collections::HashMap;

    /// Authenticators, a listener's address, what it says of anonymous clients; whether those are let in.
    #[test]
    fn nobody_is_let_in_unasked_beyond_the_loopback_addresses() {
        let kinds = [vec![], vec![AuthenticatorKind::PasswordFile]];
        for (kinds, address, said, let_in) in [
            (&kinds[0], "127.0.0.1:1", None, Some(true)),
            (&kinds[0], "0.0.0.0:1", None, None),
            (&kinds[0], "0.0.0.0:1", Some(true), Some(true)),
            (&kinds[0], "127.0.0.1:1", Some(false), None),
            (&kinds[1], "127.0.0.1:1", None, Some(false)),
            (&kinds[1], "127.0.0.1:1", Some(true), Some(true)),
            (&kinds[1], "[::]:1", None, Some(false)),
            (&kinds[1], "[::]:1", Some(true), Some(true)),
            (&kinds[1], "[::]:1", Some(false), Some(false)),
        ] {
            let mut loader = Loader::default();
            loader.config.auth.authenticators.clone_from(kinds);
            loader.config.auth.password_file = "passwords".into();
            let listener = Listener::tcp("a", address.parse().unwrap());
            loader.config.listeners = vec![Listener { allow_anonymous: said.unwrap_or(true), ..listener }];
            loader.listener_places = vec![(Place::default(), said.is_some())];
            loader.check_auth();
            let outcome = loader.problems.is_empty().then(|| loader.config.listeners[0].allow_anonymous);
            assert_eq!(outcome, let_in, "{kinds:?} {address} {said:?}: {:?}", loader.problems);
        }
    }

    #[test]
    fn a_listener_of_the_command_line_asks_the_authenticators_of_the_configuration() {
        let variables = [("AUTHENTICATORS", "password-file"), ("PASSWORD_FILE", "passwords")];
        let environment: HashMap<_, _> =
            variables.map(|(name, value)| (format!("FULMAR__AUTH__{name}"), value.to_owned())).into();
        let listeners = vec![Listener::tcp("mqtt", "127.0.0.1:1".parse().unwrap())];
        let config =
            load(&Sources { listeners, environment: Some(environment), ..Sources::default() }).unwrap();
        assert_eq!(config.auth.authenticators, [AuthenticatorKind::PasswordFile]);
        assert!(!config.listeners[0].allow_anonymous);
    }
}
