//! Threads that hash: started when there is work, at a lower priority than whatever serves clients, gone when idle.
//!
//! Owner: [`super::hashing`], which gives them no more work at a time than there are turns. What always holds: there are
//! never more threads than work was given at a time; each keeps the memory that argon2 works in as long as it lives, as
//! giving megabytes back to the system for every login and asking for them again would cost all other threads time.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use argon2::Block;
use parking_lot::{Condvar, Mutex};

/// How long a thread waits for more work.
const IDLE: Duration = Duration::from_secs(5);

/// As low as it gets without ever being left out: a thread that becomes ready to serve a client takes the processor
/// from one like this, and where all processors are busy it still gets a sixtieth of what such a thread gets. With 10,
/// which is a tenth, clients were found to wait three times as long now and then.
const NICEST: i32 = 19;

type Work = Box<dyn FnOnce(&mut Vec<Block>) + Send>;

/// See the module.
#[derive(Default)]
pub(super) struct Crew {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    idle: usize,
}

impl Crew {
    /// Has one of the threads do this.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn hash(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Vec<Block>) + Send + 'static,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let needs_another = state.idle <= state.work.len();
        if needs_another {
            let crew = self.clone();
            thread::Builder::new().name("fulmar-hashing".to_owned()).spawn(move || crew.serve())?;
        }
        state.work.push_back(Box::new(work));
        drop(state);
        if !needs_another {
            self.wake.notify_one();
        }
        Ok(())
    }

    fn serve(&self) {
        be_nice();
        let mut memory = Vec::new();
        while let Some(work) = self.next() {
            work(&mut memory);
        }
    }

    /// `None` when there was nothing to do for a while.
    fn next(&self) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            if let Some(work) = state.work.pop_front() {
                return Some(work);
            }
            state.idle += 1;
            let timed_out = self.wake.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if timed_out && state.work.is_empty() {
                return None;
            }
        }
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Crew").finish_non_exhaustive()
    }
}

/// On Linux a thread has a priority of its own, and "the process" that calls is the thread that calls.
fn be_nice() {
    if let Err(error) = rustix::process::setpriority_process(None, NICEST) {
        tracing::debug!(%error, "hashing goes on at the priority of everything else");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn work_is_done_at_a_lower_priority_and_by_as_many_as_there_is_work_at_a_time() {
        let crew = Arc::new(Crew::default());
        let own = rustix::process::getpriority_process(None).unwrap();
        let (tell, told) = mpsc::channel();
        let mut threads = std::collections::HashSet::new();
        for _ in 0..3 {
            let tell = tell.clone();
            let work = move |_: &mut Vec<Block>| {
                let nice = rustix::process::getpriority_process(None).unwrap();
                tell.send((thread::current().id(), nice)).unwrap();
            };
            crew.hash(work).unwrap();
            let (thread, nice) = told.recv().unwrap();
            assert_eq!(nice, NICEST);
            threads.insert(thread);
            while crew.state.lock().idle == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(threads.len(), 1, "one that is idle takes the next");
        let (start, started) = (Arc::new(std::sync::Barrier::new(3)), Arc::new(std::sync::Barrier::new(3)));
        for _ in 0..2 {
            let (start, started) = (start.clone(), started.clone());
            crew.hash(move |_| {
                started.wait();
                start.wait();
            })
            .unwrap();
        }
        // Both are at work at the same time.
        started.wait();
        start.wait();
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), own, "nobody else is slower");
    }
}
