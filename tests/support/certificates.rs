//! Certificates for the tests, as a small authority would issue them: good, expired, revoked, for other names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

/// A folder of this test's own, gone when dropped.
pub struct Folder(PathBuf);

/// An authority that signs certificates into a folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    name: String,
}

/// What a certificate is to be.
pub struct Wanted<'a> {
    /// The files will be `name.crt` and `name.key`; it is the Common Name, too.
    pub name: &'a str,
    /// Host names and addresses.
    pub hosts: &'a [&'a str],
    /// From when until when, in days from now.
    pub days: (i64, i64),
}

/// A certificate's files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub serial: Vec<u8>,
}

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fulmar-certificates-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Authority {
    /// Writes `name.crt`.
    pub fn new(folder: &Folder, name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(folder.path().join(format!("{name}.crt")), certificate.pem()).unwrap();
        let folder = folder.path().to_owned();
        Self { issuer: Issuer::new(parameters, key), folder, name: name.to_owned() }
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(format!("{}.crt", self.name))
    }

    /// A certificate for a server on this machine.
    pub fn server(&self, name: &str) -> Pair {
        self.issue(&Wanted { name, hosts: &["localhost"], days: (-1, 365) })
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Pair {
        self.issue(&Wanted { name, hosts: &[], days: (-1, 365) })
    }

    /// A certificate for a server on this machine that is about to end.
    pub fn server_for(&self, name: &str, life: Duration) -> Pair {
        self.sign(&Wanted { name, hosts: &["localhost"], days: (-1, 0) }, life)
    }

    pub fn issue(&self, wanted: &Wanted<'_>) -> Pair {
        self.sign(wanted, Duration::ZERO)
    }

    /// Ends so much later than `wanted` says.
    fn sign(&self, wanted: &Wanted<'_>, life: Duration) -> Pair {
        static SERIAL: AtomicU64 = AtomicU64::new(1_000_000);
        let hosts: Vec<String> = wanted.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut parameters = CertificateParams::new(hosts).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, wanted.name);
        let epoch = date_time_ymd(1970, 1, 1);
        (parameters.not_before, parameters.not_after) =
            (epoch + seconds(wanted.days.0), epoch + seconds(wanted.days.1) + life);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes().to_vec();
        parameters.serial_number = Some(SerialNumber::from_slice(&serial));
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            certificate: self.folder.join(format!("{}.crt", wanted.name)),
            key: self.folder.join(format!("{}.key", wanted.name)),
            serial,
        };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// Writes `name.crl` with the certificates that are revoked.
    pub fn revoke(&self, name: &str, revoked: &[&Pair]) -> PathBuf {
        let epoch = date_time_ymd(1970, 1, 1);
        let revoked_certs = revoked
            .iter()
            .map(|pair| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&pair.serial),
                revocation_time: epoch + seconds(-1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update: epoch + seconds(-1),
            next_update: epoch + seconds(30),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.folder.join(format!("{name}.crl"));
        fs::write(&path, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }

    /// Its own certificate in DER.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.certificate()).unwrap()
    }

    /// For a client that trusts this authority and shows no certificate.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::new(self.client_builder().with_no_client_auth())
    }

    /// For a client that shows this certificate.
    pub fn client_config_with(&self, pair: &Pair) -> Arc<ClientConfig> {
        let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        Arc::new(self.client_builder().with_client_auth_cert(chain, key).unwrap())
    }

    fn client_builder(&self) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots)
    }
}

impl Pair {
    /// The keys of a listener in TOML.
    pub fn toml(&self) -> String {
        format!("certificate = \"{}\"\nkey = \"{}\"\n", self.certificate.display(), self.key.display())
    }
}

/// A day from now, as seconds since the beginning of 1970.
fn seconds(days_from_now: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Duration::from_secs(now.checked_add_signed(days_from_now * 24 * 60 * 60).unwrap())
}
