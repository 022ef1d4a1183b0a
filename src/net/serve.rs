//! One client's task: the CONNECT, the connection, and a decent end, one after the other.
//!
//! Spawned by the listener. The beginning and the end have futures of their own on the heap, gone when they are done. A
//! future written by hand, not an async function, because that would have room for the connection twice: as what the
//! beginning returns, and as what runs. What always holds: an idle client's task is its connection, and little more.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::entrance::OpenConnection;
use super::handshake::{Started, begin, end};
use super::peer::Arrival;
use super::round;
use super::stream::ClientStream;

/// See the module.
pub struct Serve<S> {
    step: Step<S>,
    /// Counted until the end.
    open: OpenConnection,
}

enum Step<S> {
    Beginning(Pin<Box<dyn Future<Output = Option<Started<S>>> + Send>>),
    Running(Started<S>),
    Ending(Pin<Box<dyn Future<Output = ()> + Send>>),
    Ended,
}

impl<S: ClientStream + Send + 'static> Serve<S> {
    /// Serves one client until it is gone.
    pub fn new(stream: S, arrival: Box<Arrival>, open: OpenConnection) -> Self {
        Self { step: Step::Beginning(Box::pin(begin(stream, arrival, open.entrance.clone()))), open }
    }
}

impl<S: ClientStream + Send + 'static> Future for Serve<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if round::is_first() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let next = match &mut self.step {
                Step::Beginning(begin) => ready!(begin.as_mut().poll(cx)).map_or(Step::Ended, Step::Running),
                Step::Running(started) => {
                    let failure = ready!(Pin::new(&mut started.connection).poll(cx));
                    match mem::replace(&mut self.step, Step::Ended) {
                        Step::Running(started) => {
                            end(started, failure, &self.open.entrance).map_or(Step::Ended, Step::Ending)
                        }
                        other => other,
                    }
                }
                Step::Ending(end) => {
                    ready!(end.as_mut().poll(cx));
                    Step::Ended
                }
                Step::Ended => return Poll::Ready(()),
            };
            self.step = next;
        }
    }
}
