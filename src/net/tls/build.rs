//! From files to what rustls serves with; or what is wrong with them, with file, name and date.
//!
//! Nothing is read here and no clock is asked: files and time are arguments. Everything is checked before
//! anything is used, so a set of files is taken as a whole or not at all.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};
use thiserror::Error;

use super::certificate::{Certificate, Moment, next_update};
use super::files::{File, Files};
use crate::config::{self, ClientCertificates, TlsVersion};

/// What is wrong with the files of a TLS listener.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{} cannot be read: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: String,
    },
    /// A file with something else in it.
    #[error("{} holds no {expected} in PEM{}", .path.display(), .detail)]
    Nothing {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is known about why, or nothing.
        detail: String,
    },
    /// A certificate that cannot be understood.
    #[error("{} holds a certificate that is not valid: {detail}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A key of another certificate.
    #[error("the key {} does not belong to the certificate {} ({subject})", .key.display(), .certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// Whose certificate it is.
        subject: String,
    },
    /// A certificate that was valid once.
    #[error("the certificate {} ({subject}) expired on {date}; put a new one there", .path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        subject: String,
        /// The end of its validity.
        date: Moment,
    },
    /// A certificate that will be valid some time.
    #[error("the certificate {} ({subject}) is not valid before {date}; is the clock right?", .path.display())]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        subject: String,
        /// The beginning of its validity.
        date: Moment,
    },
    /// A name in `server_names` that no certificate bears.
    #[error("no certificate is for {name} (server_names): they are {subjects}")]
    NotForName {
        /// The name.
        name: String,
        /// Whose the certificates are.
        subjects: String,
    },
    /// Authorities or lists that rustls does not take.
    #[error("client certificates cannot be verified with client_ca and revocation_lists: {0}")]
    Verifier(String),
    /// The library refuses to serve.
    #[error("TLS cannot be set up: {0}")]
    Library(rustls::Error),
}

/// What is served with, and what is known about it.
#[derive(Debug)]
pub struct Built {
    /// For new connections.
    pub config: Arc<ServerConfig>,
    /// The server's own certificates: file and contents.
    pub certificates: Vec<(PathBuf, Certificate)>,
    /// Revocation lists: file, and when the next edition is due.
    pub revocation_lists: Vec<(PathBuf, Option<Moment>)>,
}

/// Checks the files and makes of them what is served with.
///
/// Tickets for resumption are sealed with a key made here, so that nobody resumes what was begun under other
/// authorities or another revocation list.
pub fn build(
    settings: &config::Tls,
    files: &Files,
    protocols: &[&[u8]],
    now: Moment,
) -> Result<Built, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut resolver = Resolver { entries: Vec::new() };
    let mut certificates = Vec::new();
    for (chain, key) in files.certificates.iter().zip(&files.keys) {
        let (certified, certificate) = certified_key(chain, key, &provider, now)?;
        certificates.push((chain.path.clone(), certificate.clone()));
        resolver.entries.push((certificate, Arc::new(certified)));
    }
    for name in &settings.server_names {
        if !certificates.iter().any(|(_, certificate)| certificate.is_for(name)) {
            let subjects: Vec<_> =
                certificates.iter().map(|(_, certificate)| certificate.subject()).collect();
            return Err(TlsError::NotForName { name: name.clone(), subjects: subjects.join("; ") });
        }
    }
    let versions = match settings.min_version {
        TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12][..],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(TlsError::Library)?;
    let builder = match settings.client_certificates {
        ClientCertificates::None => builder.with_no_client_auth(),
        ClientCertificates::Optional => builder.with_client_cert_verifier(verifier(files, &provider, false)?),
        ClientCertificates::Required => builder.with_client_cert_verifier(verifier(files, &provider, true)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Library)?;
    // A client keeps one connection and resumes it once.
    config.send_tls13_tickets = 1;
    let mut revocation_lists = Vec::new();
    for file in &files.revocation_lists {
        let due = lists(file)?.iter().filter_map(|list| next_update(list)).min();
        revocation_lists.push((file.path.clone(), due));
    }
    Ok(Built { config: Arc::new(config), certificates, revocation_lists })
}

/// A chain with its key, which belong together and are valid now.
fn certified_key(
    chain: &File,
    key: &File,
    provider: &CryptoProvider,
    now: Moment,
) -> Result<(CertifiedKey, Certificate), TlsError> {
    let ders = certificates(chain)?;
    let invalid = |detail: String| TlsError::Invalid { path: chain.path.clone(), detail };
    let certificate = ders
        .first()
        .and_then(|der| Certificate::read(der))
        .ok_or_else(|| invalid("it cannot be read as X.509".to_owned()))?;
    let subject = certificate.subject();
    let path = chain.path.clone();
    if now > certificate.not_after {
        return Err(TlsError::Expired { path, subject, date: certificate.not_after });
    }
    if now < certificate.not_before {
        return Err(TlsError::NotYetValid { path, subject, date: certificate.not_before });
    }
    let der = PrivateKeyDer::from_pem_slice(contents(key)?).map_err(|error| TlsError::Nothing {
        path: key.path.clone(),
        expected: "private key",
        detail: detail(&error),
    })?;
    match CertifiedKey::from_der(ders, der, provider) {
        Ok(certified) => Ok((certified, certificate)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsError::Mismatch { key: key.path.clone(), certificate: path, subject })
        }
        Err(rustls::Error::InvalidCertificate(error)) => Err(invalid(format!("{error:?}"))),
        Err(error) => Err(TlsError::Nothing {
            path: key.path.clone(),
            expected: "private key of a supported kind (RSA, ECDSA P-256 or P-384, Ed25519)",
            detail: format!(": {error}"),
        }),
    }
}

fn verifier(
    files: &Files,
    provider: &Arc<CryptoProvider>,
    required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for file in &files.client_ca {
        for authority in certificates(file)? {
            roots
                .add(authority)
                .map_err(|error| TlsError::Invalid { path: file.path.clone(), detail: error.to_string() })?;
        }
    }
    let mut revoked = Vec::new();
    for file in &files.revocation_lists {
        revoked.extend(lists(file)?);
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(revoked)
        .only_check_end_entity_revocation();
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| TlsError::Verifier(error.to_string()))
}

fn certificates(file: &File) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let nothing = |detail| TlsError::Nothing { path: file.path.clone(), expected: "certificate", detail };
    let found = CertificateDer::pem_slice_iter(contents(file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| nothing(detail(&error)))?;
    if found.is_empty() { Err(nothing(String::new())) } else { Ok(found) }
}

/// The revocation lists of a file: any number in PEM, or one in DER.
fn lists(file: &File) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = contents(file)?;
    if bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![bytes.to_vec().into()]);
    }
    let nothing = |detail| TlsError::Nothing { path: file.path.clone(), expected: "revocation list", detail };
    let found = CertificateRevocationListDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| nothing(detail(&error)))?;
    if found.is_empty() { Err(nothing(String::new())) } else { Ok(found) }
}

fn contents(file: &File) -> Result<&[u8], TlsError> {
    let unreadable =
        |error: &io::Error| TlsError::Unreadable { path: file.path.clone(), error: error.to_string() };
    file.contents.as_deref().map_err(unreadable)
}

fn detail(error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::NoItemsFound => String::new(),
        other => format!(": {other}"),
    }
}

/// Chooses among the server's certificates by the name the client asks for (SNI, RFC 6066 §3) and the signatures
/// it knows.
#[derive(Debug)]
struct Resolver {
    entries: Vec<(Certificate, Arc<CertifiedKey>)>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Of equals the last is taken, hence from the back: the order of the configuration counts.
        let best = self.entries.iter().rev().max_by_key(|(certificate, key)| {
            let is_named = hello.server_name().is_some_and(|name| certificate.is_for(name));
            (is_named, key.key.choose_scheme(hello.signature_schemes()).is_some())
        });
        best.map(|(_, key)| key.clone())
    }
}

/// The first byte of a list in DER.
const DER_SEQUENCE: u8 = 0x30;
