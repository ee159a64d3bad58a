//! The document of `GET /status`.

use std::collections::BTreeMap;

use pgbaton_core::{Lsn, Moment, Term, Watermark};
use serde::Serialize;

use super::{
    Audit, Counters, Divergence, Gap, Lag, Lease, Peer, Published, Reason, Role, Server, Sink, Slot, State, Switch,
};
use crate::clock::Timestamp;

/// The document of `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerStatus {
    /// Its name.
    pub worker: String,
    /// The version of the program.
    pub version: &'static str,
    /// When the process started.
    pub started_at: Timestamp,
    /// The store in which workers agree.
    pub coordination: Coordination,
    /// One entry per pipeline.
    pub pipelines: BTreeMap<String, PipelineStatus>,
}

/// The store in which workers agree on who tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coordination {
    /// `etcd` or `none`.
    pub backend: &'static str,
    /// Whether it answers.
    pub reachable: bool,
    /// Since when we go on without it.
    pub degraded_since: Option<Timestamp>,
}

/// All that is said of one pipeline. Every key is always there, null where there is nothing to say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PipelineStatus {
    /// Where it stands in the protocol.
    pub state: State,
    /// What this worker is for it.
    pub role: Role,
    /// Whether this worker can do its role's job now.
    pub healthy: bool,
    /// What is not as it should be.
    pub reasons: Vec<Reason>,
    /// The term of our session, or the last one known.
    pub term: Option<Term>,
    /// Who holds the key.
    pub holder: Option<String>,
    /// The lease, if we hold it.
    pub lease: Option<Lease>,
    /// The slot, as last seen.
    pub slot: Option<Slot>,
    /// The server, as last seen.
    pub server: Option<Server>,
    /// What was published.
    pub position: Option<Published>,
    /// What may be acknowledged.
    pub watermark: Option<Watermark>,
    /// The end of what was received.
    pub received_lsn: Option<Lsn>,
    /// How far behind.
    pub lag: Lag,
    /// The sink.
    pub sink: Sink,
    /// What was done.
    pub counters: Counters,
    /// The last change of the streaming worker.
    pub last_switch: Option<Switch>,
    /// Changes that are gone.
    pub gap: Option<Gap>,
    /// Marked divergences.
    pub divergences: Vec<Divergence>,
    /// The audit of the topics, where it is wanted.
    pub audit: Option<Audit>,
    /// The other workers.
    pub peers: Vec<Peer>,

    /// Until when `Active` may be believed without looking again: no longer than the tenure. A process that was
    /// stopped and continued is not active until its driver has looked.
    #[serde(skip)]
    pub active_until: Option<Moment>,
    /// Whether it could take over now: PostgreSQL, sink and coordination reachable, the slot sound.
    #[serde(skip)]
    pub able_to_take_over: bool,
}

impl PipelineStatus {
    /// A pipeline whose driver has not said anything yet.
    pub fn starting() -> Self {
        PipelineStatus {
            state: State::Boot,
            role: Role::Starting,
            healthy: false,
            reasons: Vec::new(),
            term: None,
            holder: None,
            lease: None,
            slot: None,
            server: None,
            position: None,
            watermark: None,
            received_lsn: None,
            lag: Lag::default(),
            sink: Sink {
                kind: "kafka",
                delivery: "exactly-once",
                in_flight: 0,
                last_commit_ms: None,
                repeats_from: None,
            },
            counters: Counters::default(),
            last_switch: None,
            gap: None,
            divergences: Vec::new(),
            audit: None,
            peers: Vec::new(),
            active_until: None,
            able_to_take_over: false,
        }
    }

    /// The same as it is true at `now`: without the role of `Active` once its time is up.
    pub(super) fn at(mut self, now: Moment) -> Self {
        if self.role == Role::Active && self.active_until.is_none_or(|until| now >= until) {
            self.role = Role::Standby;
            self.healthy = false;
            self.able_to_take_over = false;
        }
        self
    }

    /// Whether it stands by able to take over.
    pub fn stands_by(&self) -> bool {
        self.role == Role::Standby && self.able_to_take_over
    }
}
