//! Who goes first of those whose sockets become readable together: whoever became so first.
//!
//! What a worker of the runtime has waited for is a round. Of the tasks that it wakes, tokio runs the last one woken before
//! all others. That serves a subscriber well, who is woken by its publisher, but of two clients it would hear the
//! later one first: one that subscribes, and a moment later one that publishes. So the first task of a round puts itself
//! behind the others. `server` has the runtime say when a round begins; on a runtime that does not, everything is as
//! tokio has it.

use std::cell::Cell;

thread_local! {
    static BEGINS: Cell<bool> = const { Cell::new(false) };
}

/// The worker that this is has waited, and goes on.
pub fn begin() {
    BEGINS.set(true);
}

/// Whether the task that asks is the first of the worker's round.
pub fn is_first() -> bool {
    BEGINS.replace(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_of_a_round_is_the_first() {
        assert!(!is_first());
        begin();
        assert!(is_first() && !is_first());
        begin();
        std::thread::spawn(|| assert!(!is_first(), "each worker has rounds of its own")).join().unwrap();
        assert!(is_first());
    }
}
