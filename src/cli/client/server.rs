//! The broker a tool talks to: its address, the way there, and who the client says it is.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::ClientError;
use super::transport::Transport;
use super::websocket::WebSocket;
use crate::codec::ProtocolVersion;

/// How to reach a broker; the same flags for every tool.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArguments {
    /// Where the broker is: mqtt://HOST:PORT, mqtts:// (TLS), ws://HOST:PORT/PATH or wss://
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883")]
    pub url: String,
    /// Authorities whose certificates are trusted, in PEM, instead of the system's
    #[arg(long, visible_alias = "cafile", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Take any certificate, whoever made it and for whatever name
    #[arg(long)]
    pub insecure: bool,
    /// The client's own certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// User name
    #[arg(short = 'u', long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password; it can be seen by every user of the machine
    #[arg(short = 'P', long, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// MQTT version: 3.1, 3.1.1 or 5.0 (or 3, 4, 5, mqttv31, mqttv311, mqttv5)
    #[arg(short = 'V', long = "protocol-version", value_name = "VERSION", default_value = "3.1.1", value_parser = version)]
    pub version: ProtocolVersion,
}

/// User name and password, as far as they are given.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    /// User name.
    pub username: Option<String>,
    /// Password; without a user name only in 5.0.
    pub password: Option<String>,
}

/// A broker, found and ready to be connected to.
#[derive(Clone)]
pub(crate) struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// What is spoken.
    pub version: ProtocolVersion,
    /// Who the client says it is.
    pub login: Login,
    /// Host and port as in the URL.
    pub authority: String,
    name: Option<ServerName<'static>>,
    tls: Option<Arc<ClientConfig>>,
    /// The path, with WebSocket.
    path: Option<String>,
}

impl ServerArguments {
    /// Nothing is asked for that would silently not happen.
    fn check(&self) -> Result<(), ClientError> {
        if self.password.is_some() && self.username.is_none() && self.version != ProtocolVersion::V5 {
            let why =
                "a password without a user name needs MQTT 5.0 (-V 5); name the user with -u".to_owned();
            return Err(ClientError::Misused(why));
        }
        Ok(())
    }
}

impl Server {
    /// Whether it is spoken to in TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Finds the broker of the arguments. Connections resume TLS sessions of each other only if `resumes` says so.
    pub fn find(arguments: &ServerArguments, resumes: bool) -> Result<Self, ClientError> {
        let url = Url::parse(&arguments.url)?;
        arguments.check()?;
        let unknown = |error| ClientError::Unknown { host: url.host.clone(), error };
        let addresses: Vec<_> = (url.host.as_str(), url.port).to_socket_addrs().map_err(unknown)?.collect();
        // The first may be one that nobody listens on, as ::1 often is for localhost.
        let reachable = |address: &&SocketAddr| {
            addresses.len() == 1
                || std::net::TcpStream::connect_timeout(address, std::time::Duration::from_secs(3)).is_ok()
        };
        let address = addresses.iter().find(reachable).or(addresses.first());
        let address = *address.ok_or_else(|| unknown(std::io::ErrorKind::NotFound.into()))?;
        let (mut tls, mut name) = (None, None);
        if url.scheme.is_secure() {
            tls = Some(Arc::new(configure(arguments, url.scheme.is_websocket(), resumes)?));
            let why = |_| url.wrong("the host is no name that a certificate can have");
            name = Some(ServerName::try_from(url.host.clone()).map_err(why)?);
        }
        Ok(Self {
            address,
            version: arguments.version,
            login: Login { username: arguments.username.clone(), password: arguments.password.clone() },
            authority: url.authority(),
            name,
            tls,
            path: url.scheme.is_websocket().then_some(url.path),
        })
    }

    /// What lies between the packets and the socket of a new connection.
    pub fn transport(&self) -> Result<Transport, ClientError> {
        let websocket = match &self.path {
            Some(path) => Some(WebSocket::new(&self.authority, path)?),
            None => None,
        };
        let tls = match (&self.tls, &self.name) {
            (Some(config), Some(name)) => Some(rustls::ClientConnection::new(config.clone(), name.clone())?),
            _ => None,
        };
        Ok(Transport::new(tls, websocket))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

impl Scheme {
    fn is_secure(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    fn port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 8083,
            Self::Wss => 8084,
        }
    }
}

#[derive(Debug)]
struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, ClientError> {
        let wrong = |why: &str| ClientError::Url { url: text.to_owned(), why: why.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("there is no :// in it"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" | "tcp" => Scheme::Mqtt,
            "mqtts" | "ssl" | "tls" => Scheme::Mqtts,
            "ws" => Scheme::Ws,
            "wss" => Scheme::Wss,
            _ => return Err(wrong("the scheme is unknown")),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err(wrong("user and password have flags of their own"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong("the port is no number from 1 to 65535"))?,
            None => scheme.port(),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong("there is no host in it"));
        }
        let path = match path {
            "" if scheme.is_websocket() => "/mqtt",
            "" | "/" => path,
            _ if !scheme.is_websocket() => return Err(wrong("only ws and wss have a path")),
            path => path,
        };
        let (host, path) = (host.to_owned(), path.to_owned());
        Ok(Self { text: text.to_owned(), scheme, host, port, path })
    }

    fn wrong(&self, why: &str) -> ClientError {
        ClientError::Url { url: self.text.clone(), why: why.to_owned() }
    }

    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

fn configure(
    arguments: &ServerArguments,
    websocket: bool,
    resumes: bool,
) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if arguments.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        builder.with_root_certificates(authorities(arguments.ca.as_deref())?)
    };
    let mut config = match (&arguments.cert, &arguments.key) {
        (Some(cert), Some(key)) => {
            let why = |error| ClientError::File { path: key.clone(), why: told(error) };
            builder
                .with_client_auth_cert(certificates(cert)?, PrivateKeyDer::from_pem_file(key).map_err(why)?)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![if websocket { b"http/1.1".to_vec() } else { b"mqtt".to_vec() }];
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    Ok(config)
}

/// The authorities of a file, or the system's.
fn authorities(file: Option<&Path>) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = "the system has no certificate authorities; name a file with --ca".to_owned();
            return Err(ClientError::Misused(why));
        }
        return Ok(roots);
    };
    for certificate in certificates(path)? {
        let why = |error| ClientError::File { path: path.to_owned(), why: format!("{error}") };
        roots.add(certificate).map_err(why)?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let why = |why| ClientError::File { path: path.to_owned(), why };
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| why(told(error)))?.collect();
    let all = all.map_err(|error| why(told(error)))?;
    if all.is_empty() { Err(why("it holds no certificate in PEM".to_owned())) } else { Ok(all) }
}

fn told(error: rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// The parser of `-V`.
fn version(text: &str) -> Result<ProtocolVersion, String> {
    match text {
        "3" | "3.1" | "31" | "mqttv31" => Ok(ProtocolVersion::V3_1),
        "4" | "3.1.1" | "311" | "mqttv311" => Ok(ProtocolVersion::V3_1_1),
        "5" | "5.0" | "mqttv5" => Ok(ProtocolVersion::V5),
        _ => Err("expected 3.1, 3.1.1 or 5.0".to_owned()),
    }
}

/// Takes any certificate; that its owner has the key is checked nevertheless.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, scheme, host, port, path) in [
            ("mqtt://localhost", Scheme::Mqtt, "localhost", 1883, ""),
            ("MQTTS://broker.example:1", Scheme::Mqtts, "broker.example", 1, ""),
            ("ws://127.0.0.1", Scheme::Ws, "127.0.0.1", 8083, "/mqtt"),
            ("wss://[::1]:9/", Scheme::Wss, "::1", 9, "/"),
            ("ws://[::1]/a/b", Scheme::Ws, "::1", 8083, "/a/b"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(
                (url.scheme, url.host.as_str(), url.port, url.path.as_str()),
                (scheme, host, port, path)
            );
        }
        for (text, why) in [
            ("localhost", "no ://"),
            ("http://localhost", "scheme"),
            ("mqtt://", "no host"),
            ("mqtt://localhost:99999", "port"),
            ("mqtt://localhost/path", "path"),
            ("mqtt://me@localhost", "flags"),
        ] {
            let error = Url::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
