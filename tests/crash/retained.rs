//! Retained messages: every topic has one publisher and a counter as its value, so one can tell how old a value
//! is that a new subscriber gets.

/// All that was published to one topic, in order.
#[derive(Debug, Default)]
struct History {
    /// The value, or `None` where the topic was cleared.
    values: Vec<Option<u64>>,
    /// How many of them are acknowledged, from the first on.
    acknowledged: usize,
}

/// All retained topics.
#[derive(Debug)]
pub struct Retained(Vec<History>);

/// What was acknowledged when a new subscriber came.
#[derive(Debug, Clone)]
pub struct Floor(Vec<usize>);

/// What a new subscriber got that it must not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A value older than the last one acknowledged.
    Older,
    /// Nothing, and a value was acknowledged.
    Gone,
    /// A value, and it had been cleared.
    Raised,
    /// A value that was never published.
    Invented,
}

impl Retained {
    pub fn new(topics: usize) -> Self {
        Self((0..topics).map(|_| History::default()).collect())
    }

    pub fn topics(&self) -> usize {
        self.0.len()
    }

    /// The next value of a topic, or its clearing, is about to be sent; returns its position.
    pub fn publish(&mut self, topic: usize, clear: bool) -> (usize, Option<u64>) {
        let values = &mut self.0[topic].values;
        let value = (!clear).then_some(values.len() as u64);
        values.push(value);
        (values.len() - 1, value)
    }

    /// The exchange at this position is over.
    pub fn acknowledged(&mut self, topic: usize, position: usize) {
        let history = &mut self.0[topic];
        history.acknowledged = history.acknowledged.max(position + 1);
    }

    /// What is acknowledged now: taken before SUBSCRIBE is sent.
    pub fn floor(&self) -> Floor {
        Floor(self.0.iter().map(|history| history.acknowledged).collect())
    }

    /// Judges what a new subscriber got for one topic.
    pub fn judge(&self, floor: &Floor, topic: usize, got: Option<u64>) -> Result<(), Wrong> {
        let (values, acknowledged) = (&self.0[topic].values, floor.0[topic]);
        if acknowledged == 0 && got.is_none() {
            return Ok(());
        }
        let current = &values[acknowledged.saturating_sub(1)..];
        if current.contains(&got) {
            return Ok(());
        }
        Err(match got {
            None => Wrong::Gone,
            Some(_) if !values.contains(&got) => Wrong::Invented,
            Some(_) if current.first() == Some(&None) => Wrong::Raised,
            Some(_) => Wrong::Older,
        })
    }

    /// What a topic should have had, for the report.
    pub fn describe(&self, floor: &Floor, topic: usize) -> String {
        let values = &self.0[topic].values;
        let name =
            |value: &Option<u64>| value.map_or_else(|| "cleared".to_owned(), |value| value.to_string());
        let acknowledged = match floor.0[topic] {
            0 => "none".to_owned(),
            position => name(&values[position - 1]),
        };
        let last = values.last().map_or_else(|| "none".to_owned(), name);
        format!("last acknowledged before it subscribed: {acknowledged}, last sent: {last}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values 0, 1, cleared, 3, 4, of which so many are acknowledged.
    fn published(acknowledged: usize) -> Retained {
        let mut retained = Retained::new(1);
        for position in 0..5 {
            retained.publish(0, position == 2);
        }
        if acknowledged > 0 {
            retained.acknowledged(0, acknowledged - 1);
        }
        retained
    }

    fn judge(acknowledged: usize, got: Option<u64>) -> Result<(), Wrong> {
        let retained = published(acknowledged);
        retained.judge(&retained.floor(), 0, got)
    }

    #[test]
    fn the_last_acknowledged_value_and_newer_ones_are_right() {
        for got in [Some(1), None, Some(3), Some(4)] {
            assert_eq!(judge(2, got), Ok(()), "{got:?}");
        }
        for got in [None, Some(0), Some(4)] {
            assert_eq!(judge(0, got), Ok(()), "{got:?}");
        }
    }

    #[test]
    fn an_older_value_is_found() {
        assert_eq!(judge(2, Some(0)), Err(Wrong::Older));
        assert_eq!(judge(5, Some(3)), Err(Wrong::Older));
    }

    #[test]
    fn a_value_that_is_gone_is_found() {
        assert_eq!(judge(4, None), Err(Wrong::Gone));
    }

    #[test]
    fn a_value_that_was_cleared_and_is_back_is_found() {
        assert_eq!(judge(3, Some(1)), Err(Wrong::Raised));
        assert_eq!(judge(3, None), Ok(()));
    }

    #[test]
    fn a_value_nobody_sent_is_found() {
        assert_eq!(judge(3, Some(2)), Err(Wrong::Invented));
        assert_eq!(judge(0, Some(9)), Err(Wrong::Invented));
    }

    #[test]
    fn what_is_acknowledged_after_the_subscription_does_not_count() {
        let mut retained = published(1);
        let floor = retained.floor();
        retained.acknowledged(0, 4);
        assert_eq!(retained.judge(&floor, 0, Some(0)), Ok(()));
    }
}
