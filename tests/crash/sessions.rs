//! What Session Present must be, for one client: the judge of CONNACKs.

use std::time::{Duration, Instant};

/// How much later than its expiry a session may still be there.
const LATE: Duration = Duration::from_millis(2_500);

/// How much earlier than seen from here the broker may have lost the connection.
const EARLY: Duration = Duration::from_millis(300);

/// How a client's sessions live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Longer than the test.
    Lasting,
    /// As long as the connection.
    Connection,
    /// So much longer than the connection, 5.0.
    Brief(Duration),
}

/// What a CONNACK was wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Session Present 0, and there must be one.
    Lost,
    /// Session Present 1, and there must be none.
    Raised,
}

/// What the broker knows of the session, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It has never heard of it, or has acknowledged its end.
    No,
    /// A CONNECT was sent that was never answered.
    Perhaps,
    /// It has acknowledged it; `left` is when the connection was lost.
    Yes { left: Option<Instant> },
}

/// One client's.
#[derive(Debug)]
pub struct SessionBook {
    lifetime: Lifetime,
    known: Known,
    connecting: Option<(Instant, bool)>,
    /// This one ends with the connection, whatever the others do: Clean Session in 3.1.1.
    ends: bool,
}

impl SessionBook {
    pub fn new(lifetime: Lifetime) -> Self {
        Self { lifetime, known: Known::No, connecting: None, ends: false }
    }

    /// A CONNECT was sent that was never answered, so a session that is present may be the last one or another.
    pub fn is_unclear(&self) -> bool {
        self.known == Known::Perhaps
    }

    /// CONNECT is sent. `ends`: the session is to end with this connection.
    pub fn connecting(&mut self, now: Instant, clean_start: bool, ends: bool) {
        self.connecting = Some((now, clean_start));
        self.ends = ends;
    }

    /// CONNACK has come. `ready`: when the broker was last started.
    pub fn connected(&mut self, now: Instant, present: bool, ready: Instant) -> Result<(), Wrong> {
        let (asked, clean_start) = self.connecting.take().unwrap_or((now, false));
        let (must, must_not) = match (self.lifetime, self.known) {
            _ if clean_start => (false, true),
            (Lifetime::Connection, _) | (_, Known::No) => (false, true),
            (_, Known::Perhaps) => (false, false),
            (Lifetime::Lasting, Known::Yes { .. }) => (true, false),
            (Lifetime::Brief(_), Known::Yes { left: None }) => (false, false),
            (Lifetime::Brief(expiry), Known::Yes { left: Some(left) }) => {
                (now + EARLY < left + expiry, asked > left.max(ready) + expiry + LATE)
            }
        };
        self.known = Known::Yes { left: None };
        match present {
            false if must => Err(Wrong::Lost),
            true if must_not => Err(Wrong::Raised),
            _ => Ok(()),
        }
    }

    /// The connection is gone; whether the session has ended with it.
    pub fn disconnected(&mut self, now: Instant) -> bool {
        self.known = match self.known {
            _ if self.connecting.take().is_some() => Known::Perhaps,
            Known::Yes { .. } if self.ends => Known::No,
            Known::Yes { .. } => Known::Yes { left: Some(now) },
            known => known,
        };
        self.ends && self.known == Known::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Connects at once, is connected, and leaves after a second.
    fn visited(lifetime: Lifetime, now: Instant) -> SessionBook {
        let mut book = SessionBook::new(lifetime);
        book.connecting(now, false, false);
        assert_eq!(book.connected(now, false, now), Ok(()));
        book.disconnected(now + SECOND);
        book
    }

    fn comes_back(mut book: SessionBook, at: Instant, present: bool, ready: Instant) -> Result<(), Wrong> {
        book.connecting(at, false, false);
        book.connected(at, present, ready)
    }

    #[test]
    fn a_lasting_session_must_be_there() {
        let now = Instant::now();
        let later = now + 100 * SECOND;
        assert_eq!(comes_back(visited(Lifetime::Lasting, now), later, true, now), Ok(()));
        assert_eq!(comes_back(visited(Lifetime::Lasting, now), later, false, now), Err(Wrong::Lost));
    }

    #[test]
    fn a_session_of_a_connection_must_not() {
        let now = Instant::now();
        assert_eq!(comes_back(visited(Lifetime::Connection, now), now, false, now), Ok(()));
        assert_eq!(comes_back(visited(Lifetime::Connection, now), now, true, now), Err(Wrong::Raised));
    }

    #[test]
    fn nobody_is_known_who_never_came() {
        let now = Instant::now();
        assert_eq!(comes_back(SessionBook::new(Lifetime::Lasting), now, true, now), Err(Wrong::Raised));
    }

    #[test]
    fn an_unanswered_connect_may_have_made_a_session() {
        let now = Instant::now();
        for present in [false, true] {
            let mut book = SessionBook::new(Lifetime::Lasting);
            book.connecting(now, false, false);
            book.disconnected(now);
            assert_eq!(comes_back(book, now, present, now), Ok(()));
        }
    }

    #[test]
    fn a_clean_start_finds_nothing_and_is_answered_for() {
        let now = Instant::now();
        let mut book = visited(Lifetime::Lasting, now);
        book.connecting(now, true, false);
        assert_eq!(book.connected(now, true, now), Err(Wrong::Raised));
        book.disconnected(now);
        assert_eq!(comes_back(book, now, false, now), Err(Wrong::Lost));
    }

    #[test]
    fn a_clean_session_of_3_1_1_ends_with_its_connection() {
        let now = Instant::now();
        for (present, expected) in [(false, Ok(())), (true, Err(Wrong::Raised))] {
            let mut book = visited(Lifetime::Lasting, now);
            book.connecting(now, true, true);
            assert_eq!(book.connected(now, false, now), Ok(()));
            book.disconnected(now);
            assert_eq!(comes_back(book, now, present, now), expected);
        }
    }

    #[test]
    fn a_brief_session_lives_for_its_expiry_and_no_longer() {
        let now = Instant::now();
        let brief = || visited(Lifetime::Brief(2 * SECOND), now);
        assert_eq!(comes_back(brief(), now + 2 * SECOND, false, now), Err(Wrong::Lost));
        assert_eq!(comes_back(brief(), now + 2 * SECOND, true, now), Ok(()));
        assert_eq!(comes_back(brief(), now + 4 * SECOND, true, now), Ok(()), "timers may be late");
        assert_eq!(comes_back(brief(), now + 4 * SECOND, false, now), Ok(()));
        assert_eq!(comes_back(brief(), now + 6 * SECOND, true, now), Err(Wrong::Raised));
        let restarted = now + 5 * SECOND;
        assert_eq!(comes_back(brief(), now + 6 * SECOND, true, restarted), Ok(()), "its time starts anew");
    }
}
