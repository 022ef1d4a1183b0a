//! Clients on this machine that send much, and room for what they send.
//!
//! Owner: the connection. On the loopback whoever lets the other side go on pays for what that sends: a publisher whose
//! receive buffer is full sends on in the midst of our read, at our expense. With room for all that it has under way it
//! does so in its own time. What always holds: the room is made once, for a client that has shown that it needs it; over a
//! network the system finds the size itself.

use std::net::{IpAddr, SocketAddr};

use super::socket;
use super::stream::ClientStream;

/// A read of so many bytes is a large one.
const LARGE_READ: usize = 64 * 1024;

/// So many large reads show that a client sends much.
const LARGE_READS: u8 = 32;

/// What is received ahead of such a client, in bytes.
const AHEAD: u32 = 2 * 1024 * 1024;

/// How many large reads there were.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bulk(u8);

impl Bulk {
    /// Notes a read of so many bytes.
    #[inline]
    pub fn note(&mut self, length: usize, stream: &impl ClientStream) {
        if length < LARGE_READ || self.0 == LARGE_READS {
            return;
        }
        self.0 += 1;
        if self.0 == LARGE_READS {
            make_room(stream);
        }
    }
}

#[cold]
fn make_room(stream: &impl ClientStream) {
    let Some(socket) = stream.tcp() else { return };
    if socket.peer_addr().is_ok_and(is_here) {
        // It goes on without, as fast as before.
        let _ = socket::receive_ahead(socket, AHEAD);
    }
}

/// Whether a client with this address is on the same machine.
fn is_here(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.to_canonical().is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::SockRef;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn room_is_made_once_and_for_those_alone_who_send_much() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let room = || SockRef::from(&stream).recv_buffer_size().unwrap();
        let before = room();
        let mut bulk = Bulk::default();
        for length in std::iter::repeat_n(LARGE_READ - 1, 1_000).chain([LARGE_READ; LARGE_READS as usize - 1])
        {
            bulk.note(length, &stream);
        }
        assert_eq!(room(), before);
        bulk.note(LARGE_READ, &stream);
        assert!(room() >= AHEAD as usize, "{} bytes", room());
        for _ in 0..1_000 {
            bulk.note(LARGE_READ, &stream);
        }
        assert_eq!(bulk.0, LARGE_READS);
    }

    #[test]
    fn a_client_is_here_in_either_family() {
        for (address, here) in [
            ("127.0.0.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_here(SocketAddr::new(address.parse().unwrap(), 1883)), here, "{address}");
        }
    }
}
