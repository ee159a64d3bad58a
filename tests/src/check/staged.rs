//! What only those know who dealt out the faults and watched meanwhile. Without them the rules about it are not judged.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What was done to a cluster, and what was measured then. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// When it began.
    pub since_ms: i64,
    /// Whether the workers publish only what all standbys have flushed.
    #[serde(default)]
    pub standby_barrier: bool,
    /// The faults, all of them.
    pub faults: Vec<Fault>,
    /// What the workers said of a fault.
    pub named: Vec<Named>,
    /// The gaps that were made, each in a pipeline of its own.
    pub gaps: Vec<Gap>,
    /// Takeovers for which there is an aim, and when each had ended.
    pub takeovers: Vec<(i64, Timed)>,
    /// Fast stops of PostgreSQL.
    pub fast_stops: Vec<Timed>,
    /// How long each answer about health took while slow clients crowded the port.
    pub probes: Vec<Timed>,
    /// What an idle slot held back, looked at again and again while other tables were written.
    pub idle: Vec<Idle>,
    /// When rows of the load were sent, and when a consumer had them, in the order of the latter.
    pub rows: Vec<(i64, i64)>,
}

/// A fault that was dealt out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// From when on.
    pub at_ms: i64,
    /// Until when; of one that was never healed, the end of time.
    pub until_ms: i64,
    /// What was done: `kill`, `freeze`, `cut` ...
    pub what: String,
    /// To whom: nodes (`database` for a switchover), or ways by the beginning of their names (`worker-1/kafka-`, `peers/worker-1`).
    pub targets: Vec<String>,
}

/// What one worker said of a fault that struck it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The fault.
    pub fault: String,
    /// The worker.
    pub worker: String,
    /// One of these codes had to be said.
    pub wanted: Vec<String>,
    /// The one that its status said in time.
    pub said: Option<String>,
    /// Whether its metrics said the same.
    pub metric: bool,
}

/// A gap that was made on purpose, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The pipeline.
    pub pipeline: String,
    /// The code that it was reported under.
    pub code: String,
    /// From when it could be seen until a worker said so.
    pub took: Timed,
    /// What was missing: everything behind the first of these, up to the second.
    pub missing: [u64; 2],
    /// What was reported.
    pub reported: [Option<u64>; 2],
    /// The last place from which the range may begin, so that no more than one transaction too much is in it; and the one that it
    /// may end at, if it has to have an end.
    pub widest: [u64; 2],
    /// Rows told from behind the gap before anybody accepted it.
    pub told_beyond: u64,
}

/// How long something took, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// What.
    pub what: String,
    /// How long it took.
    pub ms: u64,
    /// How long it may take.
    pub within_ms: u64,
}

impl Timed {
    /// Whether it took no longer than it may.
    #[must_use]
    pub fn in_time(&self) -> bool {
        self.ms <= self.within_ms
    }
}

/// An idle slot at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// WAL that was written since it is idle.
    pub written_bytes: u64,
    /// From what the slot has confirmed to the end of the WAL.
    pub retained_bytes: u64,
}

/// Now, in milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// The moment in milliseconds since 1970, as of a moment that is now.
#[must_use]
pub fn at_ms(moment: Instant, (now, now_ms): (Instant, i64)) -> i64 {
    let ago = i64::try_from(now.saturating_duration_since(moment).as_millis()).unwrap_or(i64::MAX);
    now_ms - ago
}
