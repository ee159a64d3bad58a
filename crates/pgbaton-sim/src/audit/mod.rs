//! The checkers: INVARIANTS.md asserted from outside, on what servers and networks have seen, never on what a worker
//! believes. The first violation ends the run.

mod delivery;
mod ownership;
mod progress;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::time::Duration;

use pgbaton_core::{
    DivergenceMark, EventId, Gap, History, Lsn, Moment, Position, ProgressRecord, State, Term, Timeline,
};

use crate::kafka::Stored;
use crate::message::Caller;
use crate::postgres::{ConnectionId, Txn};
use crate::scenario::Scenario;
use crate::time::{Time, seconds};

/// A statement of INVARIANTS.md that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub invariant: u32,
    pub text: String,
}

/// A claim as it was committed.
#[derive(Debug, Clone)]
struct Claim {
    term: Term,
    worker: String,
    history: History,
}

/// A divergence as it was marked.
#[derive(Debug, Clone, Copy)]
struct Mark {
    mark: DivergenceMark,
    /// The transaction that it is in: what it names lies before it.
    txn: u32,
}

/// A replication stream as PostgreSQL has started it.
#[derive(Debug, Clone)]
struct Start {
    term: u64,
    history: History,
    at: Time,
    /// PostgreSQL has shown its worker, after the start, that it is the slot's reader.
    shown: bool,
}

/// A gap that was made on purpose.
#[derive(Debug, Clone, Copy)]
struct Broken {
    since: Time,
    /// The position of the slot that was made in its place.
    anew_at: Option<Lsn>,
    /// How many branches the database had then.
    branches: usize,
}

/// What one worker has been seen doing.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// The last good keepalive, on its own clock.
    kept_alive: Option<(Moment, Duration)>,
    /// etcd has shown it the holder key at this revision.
    verified: BTreeMap<i64, Time>,
    /// It was stopped, or cut off from etcd, until then.
    excused_until: Time,
    /// It has just been woken.
    woken_until: Time,
    /// It heard the holder of this tenure.
    heard: Option<i64>,
}

#[derive(Default)]
pub(crate) struct Audit {
    violation: Option<Violation>,
    strict: bool,
    /// No lease is to be looked for.
    lease_free: bool,
    /// Nothing is published that a standby may not have.
    standby_barrier: bool,
    alive: Vec<Caller>,
    workers: Vec<Seen>,
    // The database.
    ledger: BTreeMap<(Timeline, Lsn), Vec<Rc<Txn>>>,
    branches: Vec<History>,
    broken: Option<Broken>,
    /// Where the slot began that was there when something was claimed first: what had committed before is nobody's.
    begins_at: Lsn,
    // Progress and data.
    latest: Option<Rc<Stored>>,
    latest_open: Option<Rc<Stored>>,
    claims: Vec<Claim>,
    claimed_at: Vec<Time>,
    watermarks: BTreeMap<Timeline, Lsn>,
    marks: Vec<Mark>,
    ids: HashSet<EventId>,
    starts: BTreeMap<ConnectionId, Start>,
    by_term: BTreeMap<u64, ConnectionId>,
    spent: BTreeSet<u64>,
    /// Became visible in part, and no claim has named it yet: session, number, greatest id.
    torn: Option<(String, u64, Option<EventId>)>,
    // etcd.
    written: BTreeMap<(u64, i64), (String, Time)>,
    leases: BTreeSet<(u64, i64)>,
    resets: u32,
    /// Workers stopped for it, rightly.
    reset_too_often: bool,
    verdict: Option<(Gap, Time)>,
    pub owners: Vec<usize>,
}

impl Audit {
    pub fn new(scenario: &Scenario) -> Self {
        Audit {
            workers: vec![Seen::default(); scenario.workers],
            strict: scenario.strict,
            lease_free: scenario.lease_free,
            standby_barrier: scenario.standby_barrier,
            ..Audit::default()
        }
    }

    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub fn violate(&mut self, invariant: u32, text: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, text: text() });
        }
    }

    // Processes.

    pub fn booted(&mut self, caller: Caller) {
        self.alive.push(caller);
        self.alive.sort_unstable();
        self.workers[caller.worker] = Seen::default();
    }

    pub fn died(&mut self, caller: Caller) {
        self.alive.retain(|alive| *alive != caller);
    }

    pub fn alive(&self) -> impl Iterator<Item = Caller> + '_ {
        self.alive.iter().copied()
    }

    /// It cannot know better until then: it was stopped, or etcd was out of its reach.
    pub fn excuse(&mut self, worker: usize, until: Time) {
        let seen = &mut self.workers[worker];
        seen.excused_until = seen.excused_until.max(until);
    }

    /// What its threads do before they have looked at the clock is not its fault.
    pub fn woken(&mut self, worker: usize, now: Time) {
        self.workers[worker].woken_until = now + seconds(1);
    }

    pub fn beat_heard(&mut self, worker: usize, revision: i64) {
        self.workers[worker].heard = Some(revision);
    }

    pub fn kept_alive(&mut self, worker: usize, asked_at: Moment, ttl: Duration) {
        let seen = &mut self.workers[worker];
        if seen.kept_alive.is_none_or(|(last, _)| asked_at > last) {
            seen.kept_alive = Some((asked_at, ttl));
        }
    }

    /// 27: whoever does not hold the lease holds nothing else.
    pub fn resting(&mut self, worker: usize, state: State, holds: bool) {
        if holds && matches!(state, State::Standby | State::Contend | State::Quarantine | State::Cooldown) {
            self.violate(27, || format!("worker {} is in {} and has a session", worker + 1, state.as_str()));
        }
    }

    /// 46, and 24: a produce request leaves the worker.
    pub fn sends(&mut self, worker: usize, instance: u64, local: Moment, now: Time, guarded: bool) {
        if self.spent.contains(&instance) {
            self.violate(46, || format!("instance {instance} writes again after an abort"));
        }
        let seen = &self.workers[worker];
        if self.strict
            && !guarded
            && now >= seen.woken_until
            && let Some((asked_at, ttl)) = seen.kept_alive
            && local > asked_at + ttl.mul_f64(0.73)
        {
            self.violate(24, || {
                format!(
                    "worker {} writes at {local:?} of its clock, its last keepalive was sent at {asked_at:?}",
                    worker + 1
                )
            });
        }
    }

    pub fn aborted(&mut self, instance: u64) {
        self.spent.insert(instance);
    }

    // The database.

    pub fn branch(&mut self, history: &History) {
        self.branches.push(history.clone());
    }

    pub fn is_branch(&self, history: &History) -> bool {
        self.branches.contains(history)
    }

    pub fn committed_in_postgres(&mut self, timeline: Timeline, txn: Rc<Txn>) {
        self.ledger.entry((timeline, txn.final_lsn)).or_default().push(txn);
    }

    /// The slot was dropped, and perhaps made anew there.
    pub fn slot_lost(&mut self, anew_at: Option<Lsn>, now: Time) {
        self.broken.get_or_insert(Broken { since: now, anew_at, branches: self.branches.len() });
        if let Some(at) = anew_at.filter(|_| self.claims.is_empty()) {
            self.begins_at = at;
        }
    }

    /// 40: a server that stops is not held up.
    pub fn stopped_fast(&mut self, took: Duration, _now: Time) {
        if took > seconds(10) {
            self.violate(40, || format!("the fast stop took {took:?}"));
        }
    }

    pub fn recorded_history(&self) -> Option<History> {
        self.latest.as_ref()?.record.history()
    }

    pub fn latest_position(&self) -> Option<ProgressRecord> {
        self.latest.as_ref().map(|stored| stored.record.clone())
    }

    fn latest_term(&self) -> Term {
        self.claims.last().map_or(Term(0), |claim| claim.term)
    }

    /// Published, by the last committed record.
    pub fn position(&self) -> Option<Position> {
        self.latest.as_ref()?.record.position
    }

    pub fn gap_was_made(&self) -> bool {
        self.broken.is_some() || self.reset_too_often
    }
}
