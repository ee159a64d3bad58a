//! The instance rule: when a producer instance may not begin another transaction.
//!
//! The end of a transaction (EndTxn) that was delayed on its way can still hit the instance's *next* transaction. A fresh
//! instance has a fresh epoch, so the cure is not to begin again whenever an EndTxn may have been sent twice. This type
//! is the judgement alone, fed with facts: it does no I/O and reads no clock.
//!
//! Errors before the first end are no fact: an instance that has not ended a transaction has no EndTxn under way, and a
//! dead broker of three would otherwise forbid every session. An abort is not seen here: it consumes the session.

use std::collections::BTreeMap;
use std::time::Duration;

/// A commit quicker than this cannot have been sent twice: the library's back-off before it sends a request again is
/// longer.
pub const RETRY_IMPOSSIBLE_BELOW: Duration = Duration::from_millis(50);

/// Why an instance may not begin again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Taint {
    /// The library told of a transport or time-out error.
    #[error("the connection failed: {0}")]
    Error(String),
    /// The end of a transaction took so long that it may have been sent again.
    #[error("a commit took {} ms; more than {} ms may hide a second attempt", took.as_millis(), limit.as_millis())]
    SlowCommit {
        /// How long it took.
        took: Duration,
        /// How long it may take.
        limit: Duration,
    },
    /// A counter moved while a transaction was ended.
    #[error("{counter} of broker {broker} rose while a transaction was committed")]
    Counter {
        /// The broker's name in the statistics.
        broker: String,
        /// The counter that moved.
        counter: &'static str,
    },
    /// The statistics that would have shown a second attempt did not come.
    #[error("no statistics came after a commit of {} ms", took.as_millis())]
    NoStatistics {
        /// How long the commit took.
        took: Duration,
    },
}

/// What the statistics say of one broker's connection: all that a request sent twice must move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections lost.
    pub disconnects: u64,
    /// Requests that timed out.
    pub req_timeouts: u64,
    /// Requests that were sent again.
    pub txretries: u64,
}

/// One emission of the library's statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// When it was taken, since the creation of the instance.
    pub age: Duration,
    /// The counters by broker.
    pub brokers: BTreeMap<String, Counters>,
}

/// The facts about one instance, and the judgement over them.
#[derive(Debug)]
pub struct Health {
    slow: Duration,
    latest: Option<Snapshot>,
    watch: Watch,
    ended_once: bool,
    taint: Option<Taint>,
}

/// The time from the last statistics before an end to the first ones after it.
#[derive(Debug)]
enum Watch {
    Off,
    /// Ends may be under way; what the counters were before the first of them.
    Ending(Snapshot),
    /// The last end was over at that age; statistics of a later age close the watch.
    Ended(Snapshot, Duration),
}

impl Health {
    /// An instance that has done nothing yet. A commit longer than `slow` taints it.
    pub fn new(slow: Duration) -> Self {
        Health { slow, latest: None, watch: Watch::Off, ended_once: false, taint: None }
    }

    /// Whether statistics have come at all: without them there is nothing to compare the first commit with.
    pub fn has_statistics(&self) -> bool {
        self.latest.is_some()
    }

    /// Whether statistics newer than the last end have been judged.
    pub fn is_settled(&self) -> bool {
        matches!(self.watch, Watch::Off)
    }

    /// Why the instance may not begin again, if so. Never taken back.
    pub fn taint(&self) -> Option<&Taint> {
        self.taint.as_ref()
    }

    /// The library told of a transport or time-out error.
    pub fn error(&mut self, text: &str) {
        if self.ended_once {
            self.set(Taint::Error(text.to_owned()));
        }
    }

    /// An EndTxn is about to be sent.
    pub fn ending(&mut self) {
        self.ended_once = true;
        self.watch = match std::mem::replace(&mut self.watch, Watch::Off) {
            Watch::Off => Watch::Ending(self.latest.clone().unwrap_or_default()),
            Watch::Ending(before) | Watch::Ended(before, _) => Watch::Ending(before),
        };
    }

    /// The transaction ended after `took`, at the instance's age `at`.
    pub fn ended(&mut self, at: Duration, took: Duration) {
        if let Watch::Ending(before) = std::mem::replace(&mut self.watch, Watch::Off) {
            self.watch = Watch::Ended(before, at);
        }
        if took > self.slow {
            self.set(Taint::SlowCommit { took, limit: self.slow });
        }
    }

    /// Statistics were awaited after a commit of `took` and did not come.
    pub fn statistics_missing(&mut self, took: Duration) {
        self.set(Taint::NoStatistics { took });
    }

    /// New statistics.
    pub fn statistics(&mut self, snapshot: Snapshot) {
        if let Watch::Ending(before) | Watch::Ended(before, _) = &self.watch
            && let Some(taint) = risen(before, &snapshot)
        {
            self.set(taint);
        }
        if let Watch::Ended(_, at) = &self.watch
            && snapshot.age > *at
        {
            self.watch = Watch::Off;
        }
        self.latest = Some(snapshot);
    }

    /// The first reason stands: later ones usually follow from it.
    fn set(&mut self, taint: Taint) {
        self.taint.get_or_insert(taint);
    }
}

/// The first counter that is higher in `after`.
fn risen(before: &Snapshot, after: &Snapshot) -> Option<Taint> {
    after.brokers.iter().find_map(|(broker, after)| {
        let before = before.brokers.get(broker).copied().unwrap_or_default();
        let counter = if after.disconnects > before.disconnects {
            "disconnects"
        } else if after.req_timeouts > before.req_timeouts {
            "req_timeouts"
        } else if after.txretries > before.txretries {
            "txretries"
        } else {
            return None;
        };
        Some(Taint::Counter { broker: broker.clone(), counter })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(8);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn snapshot(age: u64, disconnects: u64, req_timeouts: u64, txretries: u64) -> Snapshot {
        let counters = Counters { disconnects, req_timeouts, txretries };
        Snapshot { age: ms(age), brokers: BTreeMap::from([("kafka-1:9092/1".to_owned(), counters)]) }
    }

    /// An instance that has ended one transaction at the age of 150 ms, with nothing strange.
    fn after_a_good_commit() -> Health {
        let mut health = Health::new(SLOW);
        health.statistics(snapshot(100, 1, 0, 0));
        health.ending();
        health.ended(ms(150), ms(3));
        health
    }

    #[test]
    fn a_quick_commit_with_still_counters_leaves_no_taint() {
        let mut health = after_a_good_commit();
        health.statistics(snapshot(200, 1, 0, 0));
        assert_eq!(health.taint(), None);
        assert!(health.is_settled());
    }

    #[test]
    fn each_counter_that_rises_over_a_commit_taints() {
        for (after, counter) in [
            (snapshot(200, 2, 0, 0), "disconnects"),
            (snapshot(200, 1, 1, 0), "req_timeouts"),
            (snapshot(200, 1, 0, 1), "txretries"),
        ] {
            let mut health = after_a_good_commit();
            health.statistics(after);
            let broker = "kafka-1:9092/1".to_owned();
            assert_eq!(health.taint(), Some(&Taint::Counter { broker, counter }));
        }
    }

    #[test]
    fn a_counter_of_a_broker_unknown_before_the_commit_taints() {
        let mut health = Health::new(SLOW);
        health.statistics(Snapshot::default());
        health.ending();
        health.statistics(snapshot(200, 1, 0, 0));
        assert!(health.taint().is_some());
    }

    #[test]
    fn what_moves_between_watched_commits_does_not_taint() {
        let mut health = after_a_good_commit();
        health.statistics(snapshot(200, 1, 0, 0));
        health.statistics(snapshot(300, 2, 0, 0));
        health.ending();
        health.ended(ms(350), ms(3));
        health.statistics(snapshot(400, 2, 0, 0));
        assert_eq!(health.taint(), None);
    }

    #[test]
    fn statistics_taken_before_the_end_do_not_close_the_watch() {
        let mut health = after_a_good_commit();
        health.statistics(snapshot(149, 1, 0, 0));
        assert!(!health.is_settled());
        health.statistics(snapshot(249, 1, 0, 1));
        assert!(health.taint().is_some());
    }

    #[test]
    fn a_second_commit_inside_the_watch_keeps_the_first_baseline() {
        let mut health = after_a_good_commit();
        health.ending();
        health.ended(ms(170), ms(3));
        health.statistics(snapshot(200, 1, 1, 0));
        assert!(health.taint().is_some());
    }

    #[test]
    fn a_commit_longer_than_the_limit_taints_and_one_as_long_does_not() {
        let mut health = after_a_good_commit();
        health.ending();
        health.ended(ms(9000), SLOW);
        assert_eq!(health.taint(), None);
        health.ending();
        health.ended(ms(19000), SLOW + ms(1));
        assert!(matches!(health.taint(), Some(Taint::SlowCommit { .. })));
    }

    #[test]
    fn errors_count_from_the_first_end_on() {
        let mut health = Health::new(SLOW);
        health.error("connection refused");
        assert_eq!(health.taint(), None);
        health.ending();
        health.error("connection reset");
        assert_eq!(health.taint(), Some(&Taint::Error("connection reset".to_owned())));
    }

    #[test]
    fn the_first_reason_stands() {
        let mut health = after_a_good_commit();
        health.error("connection reset");
        health.statistics(snapshot(200, 2, 0, 0));
        assert!(matches!(health.taint(), Some(Taint::Error(_))));
    }
}
