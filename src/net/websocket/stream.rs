//! A byte stream over a WebSocket over a byte stream: what is read are the payloads of the client's frames, what is
//! written leaves in frames of ours.
//!
//! Owner: the connection. What always holds: a control frame never goes into the midst of another frame; of pongs and
//! pings at most one each waits to be sent; when the client breaks the rules, reading fails with the
//! [`Violation`] and closing tells the client.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::super::stream::ClientStream;
use super::frame::{Decoder, End, encode_close, encode_data_header, encode_ping, encode_pong};

/// Reads without any payload in one poll before others have their turn.
const EMPTY_READS: usize = 8;

/// Slices in one vectored write, one of them for headers.
const SLICES: usize = 34;

/// Closing as agreed, RFC 6455 §7.4.1.
const NORMAL: u16 = 1000;

/// See the module.
#[derive(Debug)]
pub struct WebSocket<S> {
    inner: S,
    decoder: Decoder,
    /// What came right behind the request.
    early: Vec<u8>,
    /// Control frames, or the header of a data frame, that are not written yet.
    outgoing: Vec<u8>,
    /// Bytes of the frame being written that are announced and not written.
    frame_left: usize,
    keep_alive: Option<KeepAlive>,
    ping_due: bool,
    close: CloseFrame,
    /// A control frame was written and the stream below may hold it back.
    unflushed: bool,
    /// We are done; what still comes is of no interest.
    is_over: bool,
}

/// Pings while nothing else is sent, so that proxies do not take the connection for dead.
#[derive(Debug)]
struct KeepAlive {
    interval: Duration,
    sleep: Pin<Box<Sleep>>,
    wrote: bool,
}

/// How far our close frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseFrame {
    None,
    Due(u16),
    Sent,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Over a stream on which the upgrade is done. `early` is what was read behind the request; a ping is sent when
    /// nothing else was for `ping_interval`, unless that is zero.
    pub fn new(inner: S, early: Vec<u8>, ping_interval: Duration) -> Self {
        let keep_alive = (!ping_interval.is_zero()).then(|| KeepAlive {
            interval: ping_interval,
            sleep: Box::pin(tokio::time::sleep(ping_interval)),
            wrote: false,
        });
        Self {
            inner,
            decoder: Decoder::default(),
            early,
            outgoing: Vec::new(),
            frame_left: 0,
            keep_alive,
            ping_due: false,
            close: CloseFrame::None,
            unflushed: false,
            is_over: false,
        }
    }

    /// Reads bytes of frames; none means that the client has closed.
    fn poll_read_frames(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        if self.early.is_empty() {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        } else {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(self.early.get(..length).unwrap_or_default());
            self.early.drain(..length);
        }
        Poll::Ready(Ok(buffer.filled().len() - before))
    }

    fn poll_keep_alive(&mut self, cx: &mut Context<'_>) {
        let Some(keep_alive) = &mut self.keep_alive else { return };
        while keep_alive.sleep.as_mut().poll(cx).is_ready() {
            self.ping_due |= !std::mem::take(&mut keep_alive.wrote);
            let next = Instant::now() + keep_alive.interval;
            keep_alive.sleep.as_mut().reset(next);
        }
    }

    /// Writes what control frames are due, unless a frame of data is being written.
    fn poll_controls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frame_left > 0 {
            return Poll::Ready(Ok(()));
        }
        self.gather_controls();
        self.gather_close();
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.drain(..written);
            self.unflushed = true;
            if self.outgoing.is_empty() {
                // An idle connection holds no buffer.
                self.outgoing = Vec::new();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes frames of the pong and the ping that are due.
    fn gather_controls(&mut self) {
        if self.close == CloseFrame::Sent || !self.outgoing.is_empty() {
            return;
        }
        if let Some(payload) = self.decoder.ping.take() {
            encode_pong(&payload, &mut self.outgoing);
        }
        if std::mem::take(&mut self.ping_due) {
            encode_ping(&mut self.outgoing);
        }
    }

    /// Makes a frame of the close that is due. Nothing follows it, so what is written meanwhile goes before it.
    fn gather_close(&mut self) {
        if let CloseFrame::Due(code) = self.close {
            encode_close(code, &mut self.outgoing);
            self.close = CloseFrame::Sent;
        }
    }

    fn close_with(&mut self, code: u16) {
        if self.close == CloseFrame::None {
            self.close = CloseFrame::Due(code);
        }
    }
}

impl<S: ClientStream> ClientStream for WebSocket<S> {
    fn tcp(&self) -> Option<&TcpStream> {
        self.inner.tcp()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_over {
            return Pin::new(&mut this.inner).poll_read(cx, buffer);
        }
        this.poll_keep_alive(cx);
        for _ in 0..EMPTY_READS {
            if let Some(end) = this.decoder.end() {
                return match end {
                    End::Close(code) => {
                        // The client's own code is the answer, §5.5.1.
                        this.close_with(code.unwrap_or(NORMAL));
                        if this.poll_controls(cx)?.is_ready() && this.close == CloseFrame::Sent {
                            // Behind its end the server closes what is below, §7.1.1; TLS has words for that.
                            let _ = Pin::new(&mut this.inner).poll_shutdown(cx)?;
                        }
                        Poll::Ready(Ok(()))
                    }
                    End::Violation(violation) => {
                        this.close_with(violation.close_code());
                        Poll::Ready(Err(io::Error::other(violation)))
                    }
                };
            }
            // If that has to wait, it wakes us.
            let _ = this.poll_controls(cx)?;
            let before = buffer.filled().len();
            let length = ready!(this.poll_read_frames(cx, buffer))?;
            if length == 0 {
                return Poll::Ready(Ok(()));
            }
            let frames = buffer.filled_mut().get_mut(before..).unwrap_or_default();
            let payload = this.decoder.decode(frames);
            buffer.set_filled(before + payload);
            if payload > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        payload: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let payload = payload.get(..SLICES - 1).unwrap_or(payload);
        let length = payload.iter().map(|slice| slice.len()).sum();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        if this.close == CloseFrame::Sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.frame_left == 0 {
            this.gather_controls();
            encode_data_header(length, &mut this.outgoing);
            this.frame_left = length;
        }
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            let mut left = this.frame_left;
            for (slot, bytes) in slices
                .iter_mut()
                .zip(std::iter::once(&this.outgoing[..]).chain(payload.iter().map(|slice| &**slice)))
            {
                // The frame ends where it was announced to, even if there is more to write by now.
                let bytes = if used == 0 { bytes } else { bytes.get(..left).unwrap_or(bytes) };
                left -= if used == 0 { 0 } else { bytes.len() };
                *slot = IoSlice::new(bytes);
                used += 1;
            }
            // Streams that do not know vectors write the first slice that is not empty.
            let first = usize::from(this.outgoing.is_empty());
            let slices = slices.get(first..used).unwrap_or_default();
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(keep_alive) = &mut this.keep_alive {
                keep_alive.wrote = true;
            }
            let headers = written.min(this.outgoing.len());
            this.outgoing.drain(..headers);
            let data = written - headers;
            this.frame_left -= data;
            if this.outgoing.is_empty() && this.frame_left == 0 {
                // An idle connection holds no buffer.
                this.outgoing = Vec::new();
            }
            if data > 0 {
                return Poll::Ready(Ok(data));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_controls(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(End::Violation(violation)) = this.decoder.end() {
            this.close_with(violation.close_code());
        }
        this.close_with(NORMAL);
        ready!(this.poll_controls(cx))?;
        this.is_over = true;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// A client's frame with a mask of zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        assert!(payload.len() < 126);
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_controls_are_answered() {
        let (mut client, server) = duplex(64);
        let early = frame(0x82, b"early ")[..3].to_vec();
        let mut server = WebSocket::new(server, early, Duration::ZERO);
        let rest = [&frame(0x82, b"early ")[3..], &frame(0x89, b"?"), &frame(0x82, b"late")].concat();
        client.write_all(&rest).await.unwrap();
        let mut read = [0; 10];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"early late");
        server.write_all(b"answer").await.unwrap();
        server.flush().await.unwrap();
        let mut frames = [0; 11];
        client.read_exact(&mut frames).await.unwrap();
        assert_eq!(&frames, b"\x8A\x01?\x82\x06answer");

        client.write_all(&frame(0x88, &1001_u16.to_be_bytes())).await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), 0, "a close frame is the end");
        let mut end = Vec::new();
        client.read_to_end(&mut end).await.unwrap();
        assert_eq!(end, [0x88, 2, 0x03, 0xE9], "it is answered with its own code");
    }

    #[tokio::test]
    async fn a_frame_that_is_written_in_pieces_is_one_frame() {
        // The other side takes eight bytes at a time.
        let (mut client, server) = duplex(8);
        let mut server = WebSocket::new(server, Vec::new(), Duration::ZERO);
        let payload = vec![7; 300];
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        server.write_all(&payload).await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        let expected = [&[0x82, 126, 1, 44], &payload[..], &[0x88, 2, 0x03, 0xE8]].concat();
        assert_eq!(reader.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_violation_is_an_error_and_the_client_is_told() {
        let (mut client, server) = duplex(64);
        let mut server = WebSocket::new(server, Vec::new(), Duration::ZERO);
        client.write_all(&[frame(0x82, b"good"), frame(0x81, b"text")].concat()).await.unwrap();
        let mut read = [0; 16];
        assert_eq!(server.read(&mut read).await.unwrap(), 4, "what came before counts");
        let error = server.read(&mut read).await.unwrap_err();
        assert!(error.to_string().contains("text frame"), "{error}");
        server.write_all(b"last").await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, b"\x82\x04last\x88\x02\x03\xEB", "nothing follows the close frame");
    }

    /// Real time, but only its lower bound: nothing may come too early, however slow the machine is.
    #[tokio::test]
    async fn a_silent_connection_is_pinged_and_a_busy_one_is_not() {
        let interval = Duration::from_millis(40);
        let (mut client, server) = duplex(64);
        let start = Instant::now();
        let mut server = WebSocket::new(server, Vec::new(), interval);
        server.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0; 3]).await.unwrap();
        let (mut frame, mut nothing) = ([0; 2], [0; 8]);
        tokio::select! {
            _ = server.read(&mut nothing) => panic!("nothing was sent"),
            read = client.read_exact(&mut frame) => assert!(read.is_ok()),
        }
        assert_eq!(frame, [0x89, 0]);
        assert!(start.elapsed() >= 2 * interval, "in the first interval something was written");
    }
}
