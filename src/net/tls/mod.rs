//! TLS of one listener: what new connections are served with, and its renewal while the broker runs.
//!
//! Owner: the listener. What always holds: what is served with was checked as a whole; when files change to
//! something that is not right, the old ones stay in force and one line says why; a connection keeps what it
//! began with.
//!
//! The cryptography is rustls with *ring*, not with aws-lc-rs: it builds in a quarter of the time and needs no
//! CMake; the algorithms a broker's clients use are in both.

mod build;
mod certificate;
mod files;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use build::TlsError;
pub use certificate::{AlternativeNames, Certificate, Moment};

use self::build::{Built, build};
use self::files::{Digest, Files};
use crate::config;

/// How often the files are looked at. A change counts once it has been seen twice: files are often replaced one
/// after the other.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long before its end a certificate is warned about.
const WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How often.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

const DAY: i64 = 24 * 60 * 60;

/// See the module.
#[derive(Debug)]
pub struct Tls {
    /// The listener's name, for the log.
    name: String,
    settings: config::Tls,
    /// What may be spoken inside (ALPN, RFC 7301).
    protocols: &'static [&'static [u8]],
    current: RwLock<Current>,
    reload: Notify,
}

#[derive(Debug)]
struct Current {
    built: Built,
    /// Of the files that were last tried, whether they were good or not.
    tried: Digest,
}

/// A client's own certificate, which TLS has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// What it says.
    pub certificate: Certificate,
    /// All of it, in DER.
    pub der: Vec<u8>,
}

impl Tls {
    /// Reads and checks the files of a listener; blocks for as long as reading takes.
    pub fn load(
        name: &str,
        settings: &config::Tls,
        protocols: &'static [&'static [u8]],
    ) -> Result<Self, TlsError> {
        let files = Files::read(settings);
        let built = build(settings, &files, protocols, now())?;
        Ok(Self {
            name: name.to_owned(),
            settings: settings.clone(),
            protocols,
            current: RwLock::new(Current { built, tried: files.digest() }),
            reload: Notify::new(),
        })
    }

    /// Does the server's part of the handshake. The client is told by an alert why it fails, if it does.
    ///
    /// # Errors
    /// rustls's, or the socket's; with the socket, unless it is gone.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<TlsStream<S>, (io::Error, S)> {
        TlsAcceptor::from(self.config()).accept(stream).into_fallible().await
    }

    /// Reads the files again soon, changed or not.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Watches the files, and warns of certificates that are about to end; never returns.
    pub async fn watch(self: Arc<Self>) {
        let mut seen = None;
        let mut warn_at = Instant::now();
        loop {
            if Instant::now() >= warn_at {
                self.warn(now());
                warn_at = Instant::now() + WARNING_INTERVAL;
            }
            let forced = tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => false,
                () = self.reload.notified() => true,
            };
            let this = self.clone();
            let Ok(files) = tokio::task::spawn_blocking(move || Files::read(&this.settings)).await else {
                continue;
            };
            let digest = files.digest();
            let is_settled = seen.replace(digest) == Some(digest);
            let is_new = digest != self.current.read().tried;
            if (is_new && is_settled) || forced {
                self.renew(&files, digest, is_new);
                warn_at = Instant::now();
            }
        }
    }

    fn renew(&self, files: &Files, digest: Digest, is_new: bool) {
        let listener = self.name.as_str();
        match build(&self.settings, files, self.protocols, now()) {
            Ok(built) => {
                let subjects: Vec<_> = built
                    .certificates
                    .iter()
                    .map(|(_, certificate)| {
                        format!("{} until {}", certificate.subject(), certificate.not_after)
                    })
                    .collect();
                let certificates = subjects.join("; ");
                *self.current.write() = Current { built, tried: digest };
                tracing::info!(listener, certificates, changed = is_new, "certificates were read again");
            }
            Err(error) => {
                self.current.write().tried = digest;
                tracing::error!(listener, %error, "certificates were not renewed; the old ones stay in force");
            }
        }
    }

    /// Tells of what has ended or is about to.
    fn warn(&self, now: Moment) {
        let listener = self.name.as_str();
        let current = self.current.read();
        for (path, certificate) in &current.built.certificates {
            let left = certificate.not_after.0 - now.0;
            let (file, subject) = (path.display(), certificate.subject());
            let until = certificate.not_after;
            if left < 0 {
                tracing::error!(listener, %file, subject, %until, "the certificate has expired: clients will refuse it");
            } else if left < WARNING.as_secs().cast_signed() {
                let days = left / DAY;
                tracing::warn!(listener, %file, subject, %until, days, "the certificate ends soon; renew it");
            }
        }
        for (path, due) in &current.built.revocation_lists {
            if let Some(due) = due.filter(|due| *due < now) {
                let file = path.display();
                tracing::warn!(listener, %file, %due, "a newer edition of the revocation list is due");
            }
        }
    }

    fn config(&self) -> Arc<ServerConfig> {
        self.current.read().built.config.clone()
    }
}

/// The certificate the client showed, if it did.
pub fn client_certificate<S>(stream: &TlsStream<S>) -> Option<Box<ClientCertificate>> {
    let (_, connection) = stream.get_ref();
    let der = connection.peer_certificates()?.first()?;
    let certificate = Certificate::read(der)?;
    Some(Box::new(ClientCertificate { certificate, der: der.to_vec() }))
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
