//! Whether a Will must be published, may be, or must not: the judge of one client's Wills.
//!
//! Nobody acknowledges a Will. So it is owed only if the broker lived on for long enough after the connection
//! had broken to notice that; killed afterwards, it must still publish it. What breaks by the kill itself brings the
//! Will after the restart: a broker may put it off so far (5.0, §3.1.2.5), and Fulmar promises not to lose it.

use std::time::{Duration, Instant};

/// How long the broker may take to notice that a connection is gone, and to write that down.
const NOTICED: Duration = Duration::from_secs(1);

/// How much later than its delay a Will may come.
const LATE: Duration = Duration::from_millis(1_500);

/// How long after its start the broker may take for what was due while it was away.
const STARTED: Duration = Duration::from_millis(300);

/// How much earlier than seen from here the broker may have lost a connection by its own death.
const EARLY: Duration = Duration::from_millis(300);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With DISCONNECT.
    Disconnect,
    /// By the client, without a word.
    Cut,
    /// By the broker's death.
    Killed,
    /// By any of these; and a CONNECT that was never answered may have taken the Will's place.
    Unclear,
}

/// What is to become of the Will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Will {
    Must,
    May,
    MustNot,
}

/// What is known when the client is connected again.
#[derive(Debug, Clone, Copy)]
pub struct Return {
    /// When CONNECT was sent.
    pub asked: Instant,
    /// When CONNACK came.
    pub answered: Instant,
    /// When the broker was last started.
    pub ready: Instant,
    /// When it was first started after the end of the connection, if it was.
    pub restarted: Instant,
    /// The broker promises the Wills of those whom it leaves by its death.
    pub promised: bool,
}

/// When the client is back: what should have become of it? `killed` tells whether the broker was killed between
/// two moments.
pub fn at_the_return(
    ending: Ending,
    ended: Instant,
    delay: Duration,
    back: Return,
    killed: impl Fn(Instant, Instant) -> bool,
) -> Will {
    let Return { asked, answered, ready, restarted, promised } = back;
    let is_exact = matches!(ending, Ending::Disconnect | Ending::Cut);
    let earlier = if is_exact { Duration::ZERO } else { EARLY };
    // Whom it leaves by its death has left when it is back, as far as it can tell.
    let due = if ending == Ending::Killed { restarted } else { ended } + delay;
    let is_due = asked > due + LATE && asked > ready + STARTED;
    if !delay.is_zero() && answered + earlier < ended + delay {
        return Will::MustNot;
    }
    match ending {
        Ending::Unclear => Will::May,
        Ending::Killed if is_due && promised => Will::Must,
        Ending::Killed => Will::May,
        _ if killed(ended, ended + NOTICED.min(asked - ended)) => Will::May,
        // Who is back before the broker has heard the goodbye takes the session over from himself.
        Ending::Disconnect if asked > ended + NOTICED => Will::MustNot,
        Ending::Disconnect => Will::May,
        Ending::Cut if is_due && asked > ended + NOTICED => Will::Must,
        Ending::Cut => Will::May,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client was away for so many tenths of a second; delay three seconds.
    fn away_for(tenths: u64, ending: Ending, killed_after: Option<u64>) -> Will {
        let ended = Instant::now();
        let asked = ended + Duration::from_millis(100 * tenths);
        let killed_at = killed_after.map(|tenths| ended + Duration::from_millis(100 * tenths));
        let ready = killed_at.unwrap_or(ended);
        let killed = |from, to| killed_at.is_some_and(|at| from <= at && at <= to);
        let back = Return { asked, answered: asked, ready, restarted: ready, promised: true };
        at_the_return(ending, ended, Duration::from_secs(3), back, killed)
    }

    #[test]
    fn who_says_goodbye_has_no_will() {
        assert_eq!(away_for(100, Ending::Disconnect, None), Will::MustNot);
        assert_eq!(away_for(100, Ending::Disconnect, Some(5)), Will::May, "it may not have been read");
        let at_once = Duration::from_millis(50);
        let now = Instant::now();
        let back = Return {
            asked: now + at_once,
            answered: now + at_once,
            ready: now,
            restarted: now,
            promised: true,
        };
        let will = at_the_return(Ending::Disconnect, now, Duration::ZERO, back, |_, _| false);
        assert_eq!(will, Will::May, "it may not have been read yet");
    }

    #[test]
    fn who_is_back_in_time_has_none_either() {
        for killed_after in [None, Some(5), Some(15)] {
            assert_eq!(away_for(20, Ending::Cut, killed_after), Will::MustNot);
        }
        assert_eq!(away_for(20, Ending::Killed, None), Will::MustNot);
    }

    #[test]
    fn who_stays_away_must_have_it_also_if_the_broker_is_killed_meanwhile() {
        assert_eq!(away_for(60, Ending::Cut, None), Will::Must);
        assert_eq!(away_for(80, Ending::Cut, Some(15)), Will::Must);
        assert_eq!(away_for(60, Ending::Killed, None), Will::Must);
        assert_eq!(away_for(60, Ending::Killed, Some(20)), Will::May, "it was away for a while");
        assert_eq!(away_for(60, Ending::Cut, Some(55)), Will::Must, "it was due while the broker was up");
        assert_eq!(away_for(60, Ending::Cut, Some(59)), Will::May, "the broker has only just started");
    }

    #[test]
    fn what_the_broker_may_not_have_noticed_may_come_or_not() {
        assert_eq!(away_for(60, Ending::Cut, Some(5)), Will::May);
        assert_eq!(away_for(60, Ending::Unclear, None), Will::May);
        assert_eq!(away_for(35, Ending::Cut, None), Will::May, "timers may be late");
    }
}
