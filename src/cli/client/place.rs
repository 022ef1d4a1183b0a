//! Where a tool for people finds the broker: by host and port as with other projects' tools, or by URL.

use clap::{ArgAction, Args};

use super::ServerArguments;
use crate::codec::QoS;

/// Host, port and who the client is.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlaceArguments {
    /// The broker's host
    #[arg(short = 'h', long, value_name = "HOST", conflicts_with = "url")]
    host: Option<String>,
    /// Its port; without one 1883, or 8883 with TLS
    #[arg(short = 'p', long, value_name = "PORT", conflicts_with = "url")]
    port: Option<u16>,
    #[command(flatten)]
    server: ServerArguments,
    /// Client Identifier
    #[arg(short = 'i', long = "id", value_name = "ID")]
    id: Option<String>,
    /// Print this
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl PlaceArguments {
    /// The broker. Host and port are spoken to with TLS if a file for it is named.
    pub fn server(&self) -> ServerArguments {
        let mut server = self.server.clone();
        if self.host.is_some() || self.port.is_some() {
            let is_secure = server.ca.is_some() || server.cert.is_some() || server.insecure;
            let (scheme, port) = if is_secure { ("mqtts", 8883) } else { ("mqtt", 1883) };
            let host = self.host.as_deref().unwrap_or("localhost");
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            server.url = format!("{scheme}://{host}:{}", self.port.unwrap_or(port));
        }
        server
    }

    /// The identifier, or one of this process.
    pub fn client_id(&self, tool: &str) -> String {
        self.id.clone().unwrap_or_else(|| format!("fulmar-{tool}-{}", std::process::id()))
    }
}

/// The parser of a QoS.
pub(crate) fn qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("expected 0, 1 or 2".to_owned()),
    }
}
