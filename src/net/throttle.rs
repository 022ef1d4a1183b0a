//! How fast: a bucket of tokens that fills with time, and the two of them that hold a client to its listener's rates.
//!
//! Owner: the connection, which has no [`Throttle`] unless its listener sets a rate; and the accept loop. Sans-IO. What
//! always holds: a bucket holds what comes in a second and no more, and nothing is granted that is not in it; so nobody
//! waits for longer than a second, and a pause is over before a keep alive of one second could run out.

use std::time::{Duration, Instant};

/// Whoever has run out waits until this part of a second's worth is there, so that a fast client that is held back is
/// not woken for each message.
const PARTS: u64 = 20;

/// Tokens are counted in billionths: as many as come in a nanosecond at one a second.
const TOKEN: u64 = 1_000_000_000;

/// See the module.
#[derive(Debug)]
pub struct Bucket {
    /// Tokens that come in a second; never 0.
    rate: u64,
    /// In billionths.
    tokens: u64,
    filled: Instant,
}

/// What a client may still send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// PUBLISH packets.
    pub messages: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Holds a client to the rates of its listener.
#[derive(Debug)]
pub struct Throttle {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    /// It was held back, and the log says so.
    pub told: bool,
}

impl Bucket {
    /// A full one; `None` if there is no rate.
    pub fn new(rate: u32, now: Instant) -> Option<Self> {
        let rate = u64::from(rate);
        (rate > 0).then_some(Self { rate, tokens: rate * TOKEN, filled: now })
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let left = self.tokens.checked_sub(TOKEN);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled).min(Duration::from_secs(1));
        // A second of the highest rate fits.
        let new = since.as_nanos() as u64 * self.rate;
        self.tokens = self.tokens.saturating_add(new).min(self.rate * TOKEN);
        self.filled = now;
    }

    /// How long until it is worth while to take something.
    fn wait(&self) -> Duration {
        let enough = (self.rate / PARTS).max(1) * TOKEN;
        // Rounded up: whoever comes then must find it there.
        Duration::from_nanos(enough.saturating_sub(self.tokens).div_ceil(self.rate))
    }

    fn whole(&self) -> usize {
        usize::try_from(self.tokens / TOKEN).unwrap_or(usize::MAX)
    }

    fn spend(&mut self, number: usize) {
        self.tokens = self.tokens.saturating_sub((number as u64).saturating_mul(TOKEN));
    }
}

impl Allowance {
    /// Of a client that is not held to anything.
    pub const FREE: Self = Self { messages: usize::MAX, bytes: usize::MAX };
}

impl Throttle {
    /// For rates a second, where 0 is none; `None` if there is neither.
    pub fn new(messages: u32, bytes: u32, now: Instant) -> Option<Box<Self>> {
        let (messages, bytes) = (Bucket::new(messages, now), Bucket::new(bytes, now));
        let is_any = messages.is_some() || bytes.is_some();
        is_any.then(|| Box::new(Self { messages, bytes, told: false }))
    }

    /// What the client may send now.
    ///
    /// # Errors
    /// How long it has to wait, a second at most.
    pub fn allowance(&mut self, now: Instant) -> Result<Allowance, Duration> {
        let mut wait = Duration::ZERO;
        let mut of = |bucket: &mut Option<Bucket>| {
            let Some(bucket) = bucket else { return usize::MAX };
            bucket.fill(now);
            wait = wait.max(bucket.wait());
            bucket.whole()
        };
        let allowance = Allowance { messages: of(&mut self.messages), bytes: of(&mut self.bytes) };
        if wait.is_zero() { Ok(allowance) } else { Err(wait) }
    }

    /// Notes what it has sent.
    pub fn spend(&mut self, messages: usize, bytes: usize) {
        for (bucket, number) in [(&mut self.messages, messages), (&mut self.bytes, bytes)] {
            if let Some(bucket) = bucket {
                bucket.spend(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that always has something to send, and waits as it is told.
    fn sent_in(throttle: &mut Throttle, start: Instant, span: Duration) -> (usize, usize, Duration) {
        let (mut at, mut messages, mut bytes, mut longest) = (start, 0, 0, Duration::ZERO);
        while at < start + span {
            match throttle.allowance(at) {
                Ok(allowance) => {
                    // Ten bytes each.
                    let sent = allowance.messages.min(allowance.bytes / 10).max(1);
                    throttle.spend(sent, sent * 10);
                    messages += sent;
                    bytes += sent * 10;
                }
                Err(wait) => {
                    longest = longest.max(wait);
                    at += wait;
                }
            }
        }
        (messages, bytes, longest)
    }

    #[test]
    fn in_the_long_run_the_rate_holds_and_no_pause_is_long() {
        for rate in [1, 3, 50, 1_000, 1_000_000] {
            let start = Instant::now();
            let mut throttle = Throttle::new(rate, 0, start).unwrap();
            let (messages, _, longest) = sent_in(&mut throttle, start, Duration::from_secs(100));
            // What is in the bucket at first comes on top.
            let expected = rate as usize * 101;
            assert!(messages.abs_diff(expected) <= rate as usize / 10 + 1, "{rate}: {messages}");
            assert!(longest <= Duration::from_secs(1), "{rate}: {longest:?}");
        }
    }

    #[test]
    fn the_tighter_of_both_rates_counts() {
        let start = Instant::now();
        let mut throttle = Throttle::new(1_000, 1_000, start).unwrap();
        let (messages, bytes, _) = sent_in(&mut throttle, start, Duration::from_secs(10));
        assert!((10_900..=11_200).contains(&bytes) && messages == bytes / 10, "{messages} {bytes}");
    }

    #[test]
    fn a_long_rest_saves_up_one_second_and_no_more() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10, 0, start).unwrap();
        let later = start + Duration::from_secs(3_600);
        assert_eq!(throttle.allowance(later), Ok(Allowance { messages: 10, bytes: usize::MAX }));
        throttle.spend(10, 0);
        assert_eq!(throttle.allowance(later), Err(Duration::from_millis(100)));
        let then = later + Duration::from_millis(100);
        assert_eq!(throttle.allowance(then), Ok(Allowance { messages: 1, bytes: usize::MAX }));
    }

    #[test]
    fn without_rates_there_is_no_throttle() {
        assert!(Throttle::new(0, 0, Instant::now()).is_none());
        assert!(Bucket::new(0, Instant::now()).is_none());
        // The highest that can be written does not overflow.
        let now = Instant::now();
        let mut bucket = Bucket::new(u32::MAX, now).unwrap();
        assert!(bucket.take(now) && bucket.take(now + Duration::from_secs(1 << 40)));
    }

    #[test]
    fn a_bucket_gives_one_by_one() {
        let now = Instant::now();
        let mut bucket = Bucket::new(2, now).unwrap();
        let taken: Vec<_> =
            [0, 0, 0, 499, 500, 501].map(|at| bucket.take(now + Duration::from_millis(at))).into();
        assert_eq!(taken, [true, true, false, false, true, false]);
    }
}
