//! Who are you: authenticators, asked in order, each of which says yes, no, or not mine.
//!
//! Owner: `server`, which makes an [`Auth`] from the configuration; called by `net` with what a CONNECT says. Knows no
//! packets and no clients' sockets: what is known of a client comes in as [`Credentials`]. What always holds: nobody whom no
//! authenticator knows is let in, unless the listener lets in clients without credentials and this is one; an
//! unknown user and a wrong password get the same answer after the same work; hashing a password never holds up a
//! thread that serves clients.

pub mod acl;
mod certificate;
mod changes;
mod crew;
mod hashing;
pub mod http;
pub mod jwt;
mod known;
mod password;
mod password_file;
mod policy;
mod scram;
mod turns;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::RwLock;
use ring::hmac;
use thiserror::Error;

pub use certificate::{CertificateNames, user_of};
pub use changes::Changes;
pub use password::{Password, PasswordError};
pub use password_file::{PasswordFile, PasswordFileError, remove_from_file, set_in_file};
pub use policy::Policy;
pub use scram::{Exchange, prepare_name};

use self::acl::Acl;
use self::hashing::{Claim, Hashing, Verdict};
use self::http::HttpService;
use self::jwt::{TokenError, Tokens};
use crate::config::DeniedPublish;

/// The method of enhanced authentication, as clients name it.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// The authenticator of that method.
const SCRAM: &str = "scram-sha-256";

/// Characters of a name in a log line at most.
const LONGEST_NAME_TOLD: usize = 100;

/// What is known of a client when it asks to be let in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// Its Client Identifier; may be empty.
    pub client_id: &'a str,
    /// The User Name, if there is one.
    pub username: Option<&'a str>,
    /// The Password, if there is one.
    pub password: Option<&'a [u8]>,
    /// The names in the certificate it showed, if TLS has verified one.
    pub certificate: Option<CertificateNames<'a>>,
    /// Where it really comes from, if that is known.
    pub address: Option<SocketAddr>,
}

impl Credentials<'_> {
    /// Whether the client says nothing of who it is.
    fn are_missing(&self) -> bool {
        self.username.is_none() && self.password.is_none()
    }
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its user name; `None` for one that is anonymous.
    pub user: Option<Arc<str>>,
    /// The groups it is in by word of the authenticator.
    pub groups: Box<[Arc<str>]>,
    /// Rules of its own, in place of all others.
    pub rules: Option<Arc<Acl>>,
    /// When it is not known any more who it is.
    pub expires: Option<Instant>,
    /// Who found out.
    pub authenticator: &'static str,
}

impl Identity {
    /// A client that nobody asked who it is.
    pub fn anonymous() -> Self {
        Self { user: None, groups: Box::default(), rules: None, expires: None, authenticator: "anonymous" }
    }

    /// A user without groups.
    pub fn of_user(user: &str, authenticator: &'static str) -> Self {
        Self { user: Some(user.into()), authenticator, ..Self::anonymous() }
    }

    /// Whether the same may be done by both.
    pub fn has_rights_of(&self, other: &Self) -> bool {
        self.user == other.user && self.groups == other.groups && self.rules == other.rules
    }
}

/// Why a client is not let in, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{why} (authenticator: {authenticator})")]
pub struct Refused {
    /// Who refuses it.
    pub authenticator: &'static str,
    /// Why.
    pub why: Why,
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Why {
    /// There is no such user, or the password is another one: which of both is told to nobody.
    #[error("there is no such user, or the password is wrong")]
    WrongCredentials,
    /// It says nothing of who it is.
    #[error("it says nothing of who it is, and allow_anonymous is off")]
    Anonymous,
    /// No authenticator takes what it says.
    #[error("no authenticator takes credentials of this kind")]
    Unknown,
    /// The exchange came to nothing: there is no such user, or the password is another one.
    #[error("it did not prove that it knows the password of {0:?}")]
    NotProved(Box<str>),
    /// What it sent has nothing to do with the method that it named.
    #[error("its authentication data is no message of SCRAM-SHA-256")]
    NoProof,
    /// Who proves again who he is must be the same.
    #[error("it is another user than before")]
    AnotherUser,
    /// Its token is refused.
    #[error("the token is refused: {0}")]
    Token(TokenError),
    /// The service that was asked says no.
    #[error("the service of auth.http_url denies it")]
    Denied,
    /// The service that was asked gave no answer: nobody is let in.
    #[error("the service of auth.http_url cannot tell: {0}")]
    Unanswered(Box<str>),
    /// Too many logins wait already, as many as this key says.
    #[error("{0} logins wait already")]
    Busy(&'static str),
    /// The answer did not come in time.
    #[error("it was not known in time who it is (connect_timeout)")]
    TooLate,
}

impl Why {
    /// Whether it says something about the client and not about how much there is to do.
    pub fn is_of_the_client(&self) -> bool {
        match self {
            Self::WrongCredentials
            | Self::Anonymous
            | Self::Unknown
            | Self::NotProved(_)
            | Self::NoProof
            | Self::AnotherUser
            | Self::Token(_)
            | Self::Denied => true,
            Self::Unanswered(_) | Self::Busy(_) | Self::TooLate => false,
        }
    }
}

/// What one authenticator says.
#[derive(Debug)]
enum Answer {
    Yes(Identity),
    No(Why),
    NotMine,
}

/// One authenticator.
#[derive(Debug)]
enum Authenticator {
    PasswordFile(Arc<PasswordFile>),
    Jwt(Arc<Tokens>),
    /// In AUTH packets, with the users of the password file.
    Scram(Arc<PasswordFile>),
    /// With the template of user names.
    Certificate(Arc<str>),
    /// A service of the user's.
    Http(Arc<HttpService>),
}

/// See the module. Shared by all connections.
#[derive(Debug)]
pub struct Auth {
    policy: RwLock<Arc<Policy>>,
    hashing: Hashing,
    /// Makes salts for users that there are not. Zero if the system had no randomness.
    scram_secret: hmac::Key,
}

impl Auth {
    /// With a policy that was read and found right.
    pub fn new(policy: Policy) -> Arc<Self> {
        let hashing = Hashing::new(&policy.settings);
        let mut secret = [0; 32];
        let _: Result<(), getrandom::Error> = getrandom::fill(&mut secret);
        let scram_secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Arc::new(Self { policy: RwLock::new(Arc::new(policy)), hashing, scram_secret })
    }

    /// The rules about what clients may do, if there are any.
    pub fn acl(&self) -> Option<Arc<Acl>> {
        self.policy.read().acl.clone()
    }

    /// What happens to a 3.x client that publishes where it may not.
    pub fn denied_publish(&self) -> DeniedPublish {
        self.policy.read().settings.denied_publish
    }

    /// Puts another policy in force, at once and for everyone; what is different in it.
    pub fn replace(&self, policy: Policy) -> Changes {
        let policy = Arc::new(policy);
        let old = std::mem::replace(&mut *self.policy.write(), policy.clone());
        Changes::between(&old, &policy)
    }

    /// Takes the first message of SCRAM-SHA-256 and gives ours. `None` if the listener does not offer it.
    pub fn begin_scram(
        &self,
        listener: &str,
        message: &[u8],
    ) -> Option<Result<(Exchange, Vec<u8>), Refused>> {
        let policy = self.policy.read().clone();
        let file = policy.door(listener).authenticators.iter().find_map(|one| match one {
            Authenticator::Scram(file) => Some(file),
            Authenticator::PasswordFile(_)
            | Authenticator::Jwt(_)
            | Authenticator::Certificate(_)
            | Authenticator::Http(_) => None,
        })?;
        let mut random = [0; 24];
        // A nonce that can be guessed would let an old exchange be repeated.
        let begun = getrandom::fill(&mut random).ok().and_then(|()| {
            let look_up = |user: &str| {
                let known = file.get(user).and_then(Password::verifier).cloned();
                known.ok_or_else(|| file.scram_form(user))
            };
            scram::begin(message, look_up, &self.scram_secret, random)
        });
        Some(begun.ok_or(Refused { authenticator: SCRAM, why: Why::NoProof }))
    }

    /// Takes the second message; who the client is, and our last.
    ///
    /// # Errors
    /// When the client has not proved that it knows the password.
    pub fn finish_scram(&self, exchange: Exchange, message: &[u8]) -> Result<(Identity, Vec<u8>), Refused> {
        let identity = Identity::of_user(exchange.user(), SCRAM);
        let user = || exchange.user().chars().take(LONGEST_NAME_TOLD).collect();
        let refused = Refused { authenticator: SCRAM, why: Why::NotProved(user()) };
        exchange.finish(message).map(|last| (identity, last)).ok_or(refused)
    }

    /// Finds out who a client of a listener is.
    ///
    /// # Errors
    /// Why it is not let in.
    pub async fn authenticate(
        &self,
        listener: &str,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refused> {
        let policy = self.policy.read().clone();
        let door = policy.door(listener);
        let says_nothing = credentials.are_missing();
        for authenticator in &door.authenticators {
            if says_nothing && !authenticator.needs_no_words(&credentials) {
                continue;
            }
            match authenticator.ask(listener, &credentials, &self.hashing).await {
                Answer::Yes(identity) => return Ok(identity),
                Answer::No(why) => return Err(Refused { authenticator: authenticator.name(), why }),
                Answer::NotMine => {}
            }
        }
        door.answer_of_nobody(says_nothing)
    }

    /// The same where nobody is to be asked, so that nobody has to be waited for.
    pub fn authenticate_at_once(
        &self,
        listener: &str,
        credentials: &Credentials<'_>,
    ) -> Option<Result<Identity, Refused>> {
        let policy = self.policy.read();
        let door = policy.door(listener);
        door.authenticators.is_empty().then(|| door.answer_of_nobody(credentials.are_missing()))
    }
}

impl Authenticator {
    /// As it is written in the configuration.
    fn name(&self) -> &'static str {
        match self {
            Self::PasswordFile(_) => "password-file",
            Self::Jwt(_) => "jwt",
            Self::Certificate(_) => "certificate",
            Self::Scram(_) => SCRAM,
            Self::Http(_) => "http",
        }
    }

    /// Whether it can know this client although it has sent neither user name nor password.
    fn needs_no_words(&self, credentials: &Credentials<'_>) -> bool {
        match self {
            Self::Certificate(_) => true,
            Self::Http(_) => credentials.certificate.is_some(),
            Self::PasswordFile(_) | Self::Jwt(_) | Self::Scram(_) => false,
        }
    }

    async fn ask(&self, listener: &str, credentials: &Credentials<'_>, hashing: &Hashing) -> Answer {
        match self {
            Self::Http(service) => service.ask(listener, credentials).await,
            Self::Jwt(tokens) => {
                let given = credentials.password.unwrap_or_default();
                match tokens.check(given, SystemTime::now(), Instant::now()) {
                    Some(Ok(identity)) => Answer::Yes(identity),
                    Some(Err(error)) => Answer::No(Why::Token(error)),
                    None => Answer::NotMine,
                }
            }
            // It is not asked with words of a CONNECT: see `begin_scram`.
            Self::Scram(_) => Answer::NotMine,
            Self::Certificate(template) => {
                let user = credentials.certificate.and_then(|names| user_of(template, &names));
                user.map_or(Answer::NotMine, |user| Answer::Yes(Identity::of_user(&user, self.name())))
            }
            Self::PasswordFile(file) => {
                let Some(user) = credentials.username else { return Answer::NotMine };
                // Without a password there is nothing to be right; it is hashed all the same.
                let given = credentials.password.unwrap_or_default();
                let address = credentials.address.map(|address| address.ip());
                let claim = Claim { user, given, address };
                match hashing.verify(claim, file.get(user), &file.decoy(user)).await {
                    Verdict::Right => Answer::Yes(Identity::of_user(user, self.name())),
                    Verdict::Wrong => Answer::No(Why::WrongCredentials),
                    Verdict::Busy => Answer::No(Why::Busy("auth.hashing_queue")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuthenticatorKind, Config, Listener};

    const USERS: &str =
        "alice:$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$8HwZdQx1hBJcZkN1mHPZTOJDkBi6Yv4M1ljXSc9M4Kc\n";

    fn auth(allow_anonymous: bool, kinds: &[AuthenticatorKind]) -> Arc<Auth> {
        let mut users = PasswordFile::parse("users", USERS).unwrap();
        users.set("bob", Password::make_cheap(b"secret"));
        auth_with(allow_anonymous, kinds, users)
    }

    fn auth_with(allow_anonymous: bool, kinds: &[AuthenticatorKind], users: PasswordFile) -> Arc<Auth> {
        let address = "127.0.0.1:1".parse().unwrap();
        let listener =
            Listener { allow_anonymous, authenticators: kinds.to_vec(), ..Listener::tcp("door", address) };
        let config = Config { listeners: vec![listener], ..Config::default() };
        Auth::new(Policy::new(&config, Some(Arc::new(users)), None, None, None))
    }

    fn ask(auth: &Auth, username: Option<&str>, password: Option<&[u8]>) -> Result<Option<String>, Why> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let credentials = Credentials { client_id: "c", username, password, ..Credentials::default() };
        let answer = runtime.block_on(auth.authenticate("door", credentials));
        answer.map(|identity| identity.user.map(|user| user.to_string())).map_err(|refused| refused.why)
    }

    #[test]
    fn each_kind_of_client_gets_its_answer() {
        let open = auth(true, &[]);
        let guarded = auth(false, &[AuthenticatorKind::PasswordFile]);
        let both = auth(true, &[AuthenticatorKind::PasswordFile]);
        let bob = || Ok(Some("bob".to_owned()));
        for (auth, username, password, answer) in [
            (&open, None, None, Ok(None)),
            (&open, Some("bob"), Some(&b"whatever"[..]), Ok(None)),
            (&guarded, None, None, Err(Why::Anonymous)),
            (&guarded, Some("bob"), Some(b"secret"), bob()),
            (&guarded, Some("bob"), Some(b"secret2"), Err(Why::WrongCredentials)),
            (&guarded, Some("bob"), Some(b""), Err(Why::WrongCredentials)),
            (&guarded, Some("bob"), None, Err(Why::WrongCredentials)),
            (&guarded, Some("Bob"), Some(b"secret"), Err(Why::WrongCredentials)),
            (&guarded, Some("nobody"), Some(b"secret"), Err(Why::WrongCredentials)),
            (&guarded, Some(""), Some(b""), Err(Why::WrongCredentials)),
            (&guarded, None, Some(b"secret"), Err(Why::Unknown)),
            (&both, None, None, Ok(None)),
            (&both, Some("bob"), Some(b"secret"), bob()),
            (&both, Some("bob"), Some(b"wrong"), Err(Why::WrongCredentials)),
        ] {
            // Twice: what was right once is known the second time, and what was wrong is not.
            for _ in 0..2 {
                assert_eq!(ask(auth, username, password), answer, "{username:?} {password:?}");
            }
        }
    }

    #[test]
    fn a_listener_that_nobody_knows_lets_nobody_in() {
        let auth = auth(true, &[]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let refused = runtime.block_on(auth.authenticate("window", Credentials::default())).unwrap_err();
        assert_eq!(refused.why, Why::Anonymous);
    }

    /// Two at a time are compared, as the machine is not as quick all the time.
    #[test]
    fn an_unknown_user_costs_what_a_wrong_password_costs() {
        let mut files = Vec::new();
        for alice in [
            Password::make_with(b"x", 1_024),
            Password::make_pbkdf2(b"x", 2_000),
            Password::make_scram(b"x").unwrap(),
        ] {
            let mut users = PasswordFile::default();
            users.set("alice", alice);
            files.push(users);
        }
        for users in files {
            let auth = auth_with(false, &[AuthenticatorKind::PasswordFile], users);
            let time = |user: &str| {
                let start = Instant::now();
                assert_eq!(ask(&auth, Some(user), Some(b"wrong")), Err(Why::WrongCredentials));
                start.elapsed()
            };
            let mut ratios: Vec<_> =
                (0..61).map(|_| time("alice").as_secs_f64() / time("nobody").as_secs_f64()).collect();
            ratios.sort_unstable_by(f64::total_cmp);
            assert!((0.8..1.25).contains(&ratios[30]), "{ratios:.2?}");
        }
    }
}
