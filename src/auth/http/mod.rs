//! A service of the user's that is asked over HTTP who a client is: one POST a login, with JSON both ways.
//!
//! Owner: [`super::Policy`], made anew when the configuration is read again. What always holds: it fails closed, so only an
//! answer that says so in full lets anybody in; no more than `auth.http_concurrent` questions are on their way and no more
//! than `auth.http_queue` logins wait for one, fairly by address (see [`super::turns`]); an answer is read up to
//! [`LONGEST_ANSWER`]; redirects are not followed, as that would hand a password to somebody else. Who was let in is
//! remembered for `auth.http_cache` by a keyed hash of all that was asked; a refusal never is.
//!
//! The TLS is rustls with *ring*, as everywhere in here.

mod answer;

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode, Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use serde_json::json;
use thiserror::Error;

use super::known::{Fingerprint, Known};
use super::turns::Turns;
use super::{Answer, Credentials, Identity, Why};
use crate::config;

pub use answer::AnswerError;

/// Bytes of an answer at most.
const LONGEST_ANSWER: usize = 256 * 1024;

/// Bytes of answers remembered at most, each with what it takes beside.
const REMEMBERED: usize = 64 * 1024 * 1024;
const BESIDE: usize = 512;

/// How long a connection to the service is kept for the next question.
const KEPT: Duration = Duration::from_secs(30);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What is wrong with the settings.
#[derive(Debug, Error)]
pub enum HttpServiceError {
    /// The URL is none.
    #[error("auth.http_url: {0}")]
    Url(String),
    /// The authorities cannot be read.
    #[error("{}: the authorities of auth.http_ca cannot be read: {reason}", .path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS or the client cannot be set up.
    #[error("auth.http_url cannot be asked: {0}")]
    Client(String),
}

/// See the module.
#[derive(Debug)]
pub struct HttpService {
    client: Client,
    url: Url,
    timeout: Duration,
    remember_for: Duration,
    turns: Arc<Turns>,
    known: Known<Identity>,
}

impl HttpService {
    /// Reads what the settings refer to; asks nobody yet.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(settings: &config::HttpService) -> Result<Self, HttpServiceError> {
        let url = Url::parse(&settings.url).map_err(|error| HttpServiceError::Url(error.to_string()))?;
        if !url.has_host() {
            return Err(HttpServiceError::Url("it names no host".to_owned()));
        }
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_idle_timeout(KEPT)
            .pool_max_idle_per_host(settings.concurrent)
            .user_agent(concat!("fulmar/", env!("CARGO_PKG_VERSION")));
        let tls = tls(&url, &settings.ca)?;
        client = client.tls_backend_preconfigured(tls);
        Ok(Self {
            client: client.build().map_err(|error| HttpServiceError::Client(told(error)))?,
            url,
            timeout: settings.timeout,
            remember_for: settings.cache,
            turns: Turns::new(settings.concurrent, settings.queue),
            known: Known::new(REMEMBERED),
        })
    }

    /// Asks about a client.
    pub(super) async fn ask(&self, listener: &str, credentials: &Credentials<'_>) -> Answer {
        let fingerprint = self.fingerprint(listener, credentials);
        let known = fingerprint.and_then(|fingerprint| self.known.get(&fingerprint, Instant::now()));
        if let Some(identity) = known {
            return Answer::Yes(identity);
        }
        // The wait for a turn counts.
        match tokio::time::timeout(self.timeout, self.question(listener, credentials)).await {
            Ok((answer, length)) => {
                if let (Answer::Yes(identity), Some(fingerprint)) = (&answer, fingerprint) {
                    self.remember(fingerprint, identity, length);
                }
                answer
            }
            Err(_) => {
                let seconds = self.timeout.as_secs_f64();
                Answer::No(Why::Unanswered(
                    format!("no answer came within {seconds} s (auth.http_timeout)").into(),
                ))
            }
        }
    }

    /// What is answered, and the length of that.
    async fn question(&self, listener: &str, credentials: &Credentials<'_>) -> (Answer, usize) {
        let address = credentials.address.map(|address| address.ip());
        let Ok(_turn) = self.turns.take(address).await else {
            return (Answer::No(Why::Busy("auth.http_queue")), 0);
        };
        let unanswered = |reason: String| Answer::No(Why::Unanswered(reason.into()));
        match self.post(question(listener, credentials)).await {
            Err(reason) => (unanswered(reason), 0),
            Ok(body) => {
                let answer = answer::parse(&body, credentials.username, Instant::now());
                let misunderstood = |error| unanswered(format!("its answer is not understood: {error}"));
                (answer.unwrap_or_else(misunderstood), body.len())
            }
        }
    }

    /// The body of the answer, or why there is none.
    async fn post(&self, question: String) -> Result<Vec<u8>, String> {
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, JSON).header(ACCEPT, JSON);
        let mut response = request.body(question).send().await.map_err(told)?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answered with status {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(told)? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(format!("its answer is longer than {LONGEST_ANSWER} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Of all that is asked.
    fn fingerprint(&self, listener: &str, credentials: &Credentials<'_>) -> Option<Fingerprint> {
        if self.remember_for.is_zero() {
            return None;
        }
        let address = credentials.address.map(|address| address.ip().to_string());
        let names = credentials.certificate.unwrap_or_default();
        self.known.fingerprint(&[
            Some(listener.as_bytes()),
            Some(credentials.client_id.as_bytes()),
            credentials.username.map(str::as_bytes),
            credentials.password,
            address.as_deref().map(str::as_bytes),
            credentials.certificate.map(|_| &b"certificate"[..]),
            names.common_name.map(str::as_bytes),
            names.dns.map(str::as_bytes),
            names.email.map(str::as_bytes),
            names.uri.map(str::as_bytes),
        ])
    }

    fn remember(&self, fingerprint: Fingerprint, identity: &Identity, length: usize) {
        let until = Instant::now() + self.remember_for;
        let until = identity.expires.map_or(until, |expires| expires.min(until));
        self.known.remember(fingerprint, identity.clone(), until, length + BESIDE);
    }
}

/// What is asked.
fn question(listener: &str, credentials: &Credentials<'_>) -> String {
    let certificate = credentials.certificate.map(
        |names| json!({"cn": names.common_name, "dns": names.dns, "email": names.email, "uri": names.uri}),
    );
    let mut question = json!({
        "client_id": credentials.client_id,
        "username": credentials.username,
        "password": null,
        "listener": listener,
        "address": credentials.address.map(|address| address.ip().to_canonical().to_string()),
        "certificate": certificate,
    });
    if let Some(password) = credentials.password {
        match std::str::from_utf8(password) {
            Ok(text) => question["password"] = text.into(),
            Err(_) => question["password_base64"] = STANDARD.encode(password).into(),
        }
    }
    question.to_string()
}

/// What the connection is secured with, if it is.
fn tls(url: &Url, authorities: &Path) -> Result<ClientConfig, HttpServiceError> {
    let failed = |error: rustls::Error| HttpServiceError::Client(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = if !authorities.as_os_str().is_empty() {
        builder.with_root_certificates(read_authorities(authorities)?)
    } else if url.scheme() == "https" {
        builder.with_platform_verifier().map_err(failed)?
    } else {
        // A system that trusts nobody can ask without TLS.
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

fn read_authorities(path: &Path) -> Result<RootCertStore, HttpServiceError> {
    let unreadable = |reason: String| HttpServiceError::Authorities { path: path.to_owned(), reason };
    let pem = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        store.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if store.is_empty() { Err(unreadable("there is no certificate in it".to_owned())) } else { Ok(store) }
}

/// An error and what is behind it, without the URL, which may hold a password.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CertificateNames;

    #[test]
    fn the_question_says_what_is_known() {
        let certificate = CertificateNames { common_name: Some("c"), ..CertificateNames::default() };
        let credentials = Credentials {
            client_id: "id",
            username: Some("ann"),
            password: Some("pä\"ss".as_bytes()),
            certificate: Some(certificate),
            address: Some("[::ffff:192.0.2.7]:5".parse().unwrap()),
        };
        let read = |credentials| -> serde_json::Value {
            serde_json::from_str(&question("mqtt", &credentials)).unwrap()
        };
        assert_eq!(
            read(credentials),
            json!({
                "client_id": "id", "username": "ann", "password": "pä\"ss", "listener": "mqtt", "address": "192.0.2.7",
                "certificate": {"cn": "c", "dns": null, "email": null, "uri": null}
            })
        );
        let bytes = Credentials { client_id: "id", password: Some(&[0xFF]), ..Credentials::default() };
        assert_eq!(
            read(bytes),
            json!({
                "client_id": "id", "username": null, "password": null, "password_base64": "/w==", "listener": "mqtt",
                "address": null, "certificate": null
            })
        );
    }

    #[test]
    fn what_cannot_be_asked_is_told_beforehand() {
        let make = |url: &str, ca: &str| {
            let settings =
                config::HttpService { url: url.into(), ca: ca.into(), ..config::HttpService::default() };
            HttpService::new(&settings).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(make("http://127.0.0.1:1/x", ""), Ok(()));
        assert_eq!(make("https://example.org", ""), Ok(()));
        for (url, ca, told) in [
            ("http://", "", "auth.http_url: "),
            ("http://a:b:c", "", "auth.http_url: "),
            (
                "https://example.org",
                "no/such/file",
                "no/such/file: the authorities of auth.http_ca cannot be read",
            ),
            (
                "https://example.org",
                "Cargo.toml",
                "Cargo.toml: the authorities of auth.http_ca cannot be read: there is",
            ),
        ] {
            let error = make(url, ca).unwrap_err();
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn who_differs_in_anything_is_asked_about_again() {
        let service = HttpService::new(&config::HttpService {
            url: "http://127.0.0.1:1".into(),
            ..config::HttpService::default()
        })
        .unwrap();
        let names = CertificateNames { common_name: Some("a"), ..CertificateNames::default() };
        let one = Credentials {
            client_id: "id",
            username: Some("a"),
            password: Some(b"b"),
            certificate: Some(names),
            address: Some("192.0.2.7:5".parse().unwrap()),
        };
        let print =
            |listener, credentials: Credentials<'_>| service.fingerprint(listener, &credentials).unwrap();
        let (from_another_port, first) = (Some("192.0.2.7:6".parse().unwrap()), print("l", one));
        assert_eq!(first, print("l", Credentials { address: from_another_port, ..one }));
        assert_ne!(first, print("m", one));
        for other in [
            Credentials { client_id: "di", ..one },
            Credentials { username: Some("b"), ..one },
            Credentials { username: None, ..one },
            Credentials { password: Some(b"a"), ..one },
            Credentials { password: None, ..one },
            Credentials { certificate: None, ..one },
            Credentials { certificate: Some(CertificateNames { dns: Some("a"), ..names }), ..one },
            Credentials { address: Some("192.0.2.8:5".parse().unwrap()), ..one },
        ] {
            assert_ne!(first, print("l", other), "{other:?}");
        }
    }
}
