//! Turns for logins that cost something: so many at a time, so many waiting, and those who wait are taken fairly by where
//! they come from.
//!
//! Owners: [`super::hashing`] and [`super::http`]. What always holds: a login waits for no more than one other from each
//! address beside those from its own, however many an attacker sends; who comes when as many wait as may is told so at
//! once, unless somebody from an address with more of them makes room. A login that is given up frees its place.
//!
//! Each that waits has a round in which its turn comes: the next one, or for an address that has some waiting the one after
//! its last. The lowest round is served first; the highest makes room.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Where logins come from: an address of IPv4, a network of IPv6 as one household has it, or nothing that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(Option<IpAddr>);

impl Source {
    fn of(address: Option<IpAddr>) -> Self {
        Self(address.map(|address| match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            v4 @ IpAddr::V4(_) => v4,
        }))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    most_waiting: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Turns that nobody has. None is free while somebody waits.
    free: usize,
    /// The round that is being served.
    round: u64,
    /// By round, and within one by order of arrival.
    waiting: BTreeMap<(u64, u64), Waiting>,
    /// Those that have somebody waiting: how many, and the round of the last.
    sources: HashMap<Source, (usize, u64)>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    source: Source,
    call: oneshot::Sender<Turn>,
}

/// A turn; over when it is dropped.
#[derive(Debug)]
pub struct Turn(Arc<Turns>);

/// Nobody looked: too many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl Turns {
    /// So many at a time, and so many waiting for them.
    pub fn new(at_a_time: usize, most_waiting: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { free: at_a_time, ..State::default() }), most_waiting })
    }

    /// Waits for a turn.
    pub async fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Turn, TooMany> {
        let source = Source::of(address);
        let (call, called) = oneshot::channel();
        let key = {
            let mut state = self.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn(self.clone()));
            }
            state.enter(source, call, self.most_waiting).ok_or(TooMany)?
        };
        let _place = Place { turns: self, key };
        called.await.map_err(|_| TooMany)
    }
}

impl State {
    /// Takes a place, unless all are taken by those who have as good a right to them.
    fn enter(
        &mut self,
        source: Source,
        call: oneshot::Sender<Turn>,
        most_waiting: usize,
    ) -> Option<(u64, u64)> {
        let last = self.sources.get(&source).map_or(0, |(_, last)| *last);
        let round = self.round.max(last) + 1;
        if self.waiting.len() >= most_waiting {
            let worst = *self.waiting.last_key_value()?.0;
            if worst.0 <= round {
                return None;
            }
            self.leave(worst);
        }
        self.arrivals += 1;
        let key = (round, self.arrivals);
        self.waiting.insert(key, Waiting { source, call });
        let (count, last) = self.sources.entry(source).or_insert((0, 0));
        *count += 1;
        *last = round;
        Some(key)
    }

    /// Takes out one that waits.
    fn leave(&mut self, key: (u64, u64)) -> Option<oneshot::Sender<Turn>> {
        let Waiting { source, call } = self.waiting.remove(&key)?;
        if let Some((count, last)) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            } else if *last == key.0 {
                *last -= 1;
            }
        }
        Some(call)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state.lock();
            match state.waiting.first_key_value().map(|(key, _)| *key) {
                Some(key) => {
                    state.round = key.0;
                    state.leave(key)
                }
                None => {
                    state.free += 1;
                    None
                }
            }
        };
        if let Some(call) = next {
            // One that has just been given up gives the turn back by dropping it.
            let _: Result<(), Turn> = call.send(Turn(self.0.clone()));
        }
    }
}

/// A place among those that wait, given up with its future.
struct Place<'a> {
    turns: &'a Turns,
    key: (u64, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let call = self.turns.state.lock().leave(self.key);
        drop(call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    type Taking<'a> = Pin<Box<dyn Future<Output = Result<Turn, TooMany>> + 'a>>;

    fn poll(taking: &mut Taking<'_>) -> Poll<Result<Turn, TooMany>> {
        taking.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn from(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// One that waits, having been asked once.
    fn waits(turns: &Arc<Turns>, address: Option<IpAddr>) -> Taking<'_> {
        let mut taking: Taking<'_> = Box::pin(turns.take(address));
        assert!(poll(&mut taking).is_pending());
        taking
    }

    fn now(turns: &Arc<Turns>, address: Option<IpAddr>) -> Result<Turn, TooMany> {
        let mut taking: Taking<'_> = Box::pin(turns.take(address));
        match poll(&mut taking) {
            Poll::Ready(turn) => turn,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn so_many_at_a_time_and_so_many_waiting() {
        let turns = Turns::new(2, 1);
        let (one, two) = (now(&turns, None).unwrap(), now(&turns, None).unwrap());
        let mut three = waits(&turns, None);
        assert_eq!(now(&turns, None).unwrap_err(), TooMany);
        drop(one);
        let Poll::Ready(Ok(three)) = poll(&mut three) else { panic!("it was its turn") };
        drop((two, three));
        let state = turns.state.lock();
        assert_eq!((state.free, state.waiting.len(), state.sources.len()), (2, 0, 0));
    }

    #[test]
    fn each_address_has_its_turn_however_many_others_send() {
        let turns = Turns::new(1, 4);
        let mut turn = now(&turns, from(1)).unwrap();
        let mut flood: Vec<_> = (0..4).map(|_| waits(&turns, from(1))).collect();
        assert_eq!(now(&turns, from(1)).unwrap_err(), TooMany);
        let mut guest = waits(&turns, from(2));
        assert!(matches!(poll(&mut flood[3]), Poll::Ready(Err(TooMany))), "the last of the flood makes room");
        for (serves_guest, index) in [(false, 0), (true, 0), (false, 1), (false, 2)] {
            drop(turn);
            let next = if serves_guest { &mut guest } else { &mut flood[index] };
            let Poll::Ready(Ok(next)) = poll(next) else { panic!("{serves_guest} {index}") };
            turn = next;
        }
        drop(turn);
        assert_eq!(turns.state.lock().free, 1);
    }

    #[test]
    fn a_place_that_is_given_up_is_free() {
        let turns = Turns::new(1, 2);
        let turn = now(&turns, from(1)).unwrap();
        let (one, mut two) = (waits(&turns, from(1)), waits(&turns, from(1)));
        drop(one);
        let three = waits(&turns, from(1));
        drop(turn);
        let Poll::Ready(Ok(turn)) = poll(&mut two) else { panic!("the first place was given up") };
        // A turn that was called and not taken any more is passed on.
        drop(turn);
        drop(three);
        let state = turns.state.lock();
        assert_eq!((state.free, state.waiting.len(), state.sources.len()), (1, 0, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_so_is_an_address_in_either_form() {
        let of = |text: &str| Source::of(Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    /// Whatever happens in whatever order: no turn is lost, none is made up, nobody waits beside a free one.
    #[test]
    fn no_turn_is_lost() {
        use proptest::prelude::{any, prop};
        proptest::proptest!(|(steps in prop::collection::vec((0_u8..3, any::<u8>()), 1..200))| {
            let turns = Turns::new(2, 5);
            let (mut waiting, mut held): (Vec<Taking<'_>>, Vec<Turn>) = (Vec::new(), Vec::new());
            for (verb, which) in steps {
                match verb {
                    0 => {
                        let mut taking: Taking<'_> = Box::pin(turns.take(from(which % 4)));
                        match poll(&mut taking) {
                            Poll::Ready(turn) => held.extend(turn.ok()),
                            Poll::Pending => waiting.push(taking),
                        }
                    }
                    1 if !held.is_empty() => drop(held.swap_remove(usize::from(which) % held.len())),
                    _ if !waiting.is_empty() => drop(waiting.swap_remove(usize::from(which) % waiting.len())),
                    _ => {}
                }
                // Those whose turn it is take it; some have been given up before they could.
                if which % 3 > 0 {
                    waiting.retain_mut(|taking| match poll(taking) {
                        Poll::Ready(turn) => {
                            held.extend(turn.ok());
                            false
                        }
                        Poll::Pending => true,
                    });
                }
                let state = turns.state.lock();
                assert!(state.free == 0 || state.waiting.is_empty());
                assert!(state.waiting.len() <= 5 && held.len() + state.free <= 2);
                let counted: usize = state.sources.values().map(|(count, _)| count).sum();
                assert_eq!(counted, state.waiting.len());
            }
            drop((waiting, held));
            let state = turns.state.lock();
            assert_eq!((state.free, state.waiting.len(), state.sources.len()), (2, 0, 0));
        });
    }
}
