//! What a connection reads from and writes to: a socket, or layers over one.
//!
//! Used by the connection and all that leads to it. What always holds: whatever the layers, the bytes are those of MQTT.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// See the module.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// The TCP socket below all layers, if there is one.
    fn tcp(&self) -> Option<&TcpStream>;
}

impl ClientStream for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl ClientStream for UnixStream {
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl<S: ClientStream> ClientStream for TlsStream<S> {
    fn tcp(&self) -> Option<&TcpStream> {
        self.get_ref().0.tcp()
    }
}

impl<S: ClientStream + ?Sized> ClientStream for Box<S> {
    fn tcp(&self) -> Option<&TcpStream> {
        (**self).tcp()
    }
}
