//! What the transport has learned of a client before it says a word of MQTT.

use std::net::SocketAddr;
use std::time::Instant;

use super::tls::ClientCertificate;

/// Who is at the other end, as far as the transport knows.
#[derive(Debug, Default)]
pub struct Peer {
    /// Its address, in logs and limits; `None` where the transport has none.
    pub address: Option<SocketAddr>,
    /// The certificate it showed, verified by TLS.
    pub certificate: Option<Box<ClientCertificate>>,
    /// The Common Name of the certificate that it showed to a trusted proxy, which verified it (PROXY protocol).
    pub proxied_name: Option<String>,
}

/// A connection that is ready to speak MQTT.
#[derive(Debug)]
pub struct Arrival {
    /// Who it is.
    pub peer: Peer,
    /// When it was accepted.
    pub began: Instant,
    /// When what comes before MQTT must be done.
    pub handshake_by: Instant,
    /// When its CONNECT must be there.
    pub connect_by: Instant,
}
