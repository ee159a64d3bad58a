//! What was collected, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_postgres::Meaning;
use pgbaton_postgres::catalog::{Observation, Publication, Standbys, Waiting};
use pgbaton_sinks::kafka::{KafkaFacts, KafkaFault};
use serde::Deserialize;

/// All of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What all pipelines share; none where the workers go without.
    pub etcd: Option<EtcdFacts>,
    /// Each pipeline's.
    pub pipelines: Vec<PipelineFacts>,
}

/// etcd.
#[derive(Debug, Clone)]
pub struct EtcdFacts {
    /// Each endpoint's answer, or why there is none.
    pub endpoints: Vec<(String, Result<EtcdMember, String>)>,
    /// The TTL that is wanted, and the one that was granted.
    pub wanted_ttl: Duration,
    /// What came of granting a lease and writing a key under it, below the configured prefix.
    pub granted_ttl: Result<Duration, String>,
    /// The configured prefix.
    pub prefix: String,
}

/// One endpoint of etcd.
#[derive(Debug, Clone)]
pub struct EtcdMember {
    /// Its version, `3.5.30`.
    pub version: String,
    /// How long an answer took.
    pub latency: Duration,
    /// It knows a leader.
    pub has_leader: bool,
    /// Alarms that it tells: NOSPACE, CORRUPT.
    pub alarms: Vec<String>,
    /// Voting members of its cluster.
    pub members: usize,
}

/// One pipeline and its servers.
#[derive(Debug, Clone)]
pub struct PipelineFacts {
    /// Its name.
    pub name: String,
    /// What the configuration says.
    pub wanted: Wanted,
    /// PostgreSQL over an ordinary connection.
    pub postgres: Result<PostgresFacts, Refused>,
    /// Whether a replication connection could be opened.
    pub replication: Result<(), Refused>,
    /// Patroni, if the configuration names its nodes.
    pub patroni: Option<PatroniFacts>,
    /// Kafka.
    pub kafka: Result<KafkaFacts, KafkaFault>,
}

/// What the configuration says of a pipeline.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The database.
    pub database: String,
    /// The role.
    pub role: String,
    /// Topics begin with it.
    pub topic_prefix: String,
    /// Every host is this machine, or a Unix socket.
    pub local: bool,
    /// The port of the first host; `None` for a Unix socket.
    pub port: Option<u16>,
}

/// No way in.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What it means.
    pub meaning: Meaning,
    /// In words.
    pub text: String,
}

/// PostgreSQL.
#[derive(Debug, Clone)]
pub struct PostgresFacts {
    /// The server and the slot.
    pub seen: Observation,
    /// The server's settings and figures.
    pub server: ServerFacts,
    /// The standbys that publication waits for, where it does.
    pub standbys: Option<(Waiting, Standbys)>,
    /// The publication, if there is one of that name.
    pub publication: Option<Publication>,
    /// The server's wall clock against ours.
    pub clock_ahead_seconds: f64,
}

/// A server's settings and figures.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServerFacts {
    /// From `pg_settings`, in its units.
    pub settings: BTreeMap<String, String>,
    /// Slots of all kinds.
    pub slots: u64,
    /// Walsenders.
    pub senders: u64,
    /// Of them, those of physical standbys.
    pub standbys: u64,
    /// Our connection is encrypted.
    pub encrypted: Option<bool>,
    /// We may read positions of other sessions.
    pub reads_stats: bool,
    /// The port that the server itself listens on; `None` for a Unix socket.
    pub port: Option<u16>,
    /// Names of the publications of this database.
    pub publications: Vec<String>,
    /// The server's wall clock, seconds since 1970.
    pub now: f64,
}

/// Patroni.
#[derive(Debug, Clone, Default)]
pub struct PatroniFacts {
    /// Each node's own version, or why there is none.
    pub nodes: Vec<(String, Result<String, String>)>,
    /// The dynamic configuration, from whichever node answered.
    pub config: Option<serde_json::Value>,
    /// The members as one node sees them: name, role, state.
    pub members: Vec<(String, String, String)>,
    /// Patroni does not act.
    pub paused: bool,
}
