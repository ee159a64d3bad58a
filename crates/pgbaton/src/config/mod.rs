//! The configuration: what it holds once it is checked, and how it is loaded. A [`Config`] that exists is valid; all
//! mistakes of one that is not come back together, each with its place.
//!
//! Later wins: defaults, files in their order, `PGBATON_` variables (`__` nests), flags.

mod choices;
mod document;
mod effective;
mod mistake;
mod properties;
mod read;
mod reader;
mod rules;
mod section;
mod sources;
mod urls;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use choices::{Backend, Compat, Delivery, Format, LogFormat, OnGap, OnLoss, StandbyBarrier};
pub use effective::Effective;
pub use mistake::{Invalid, Mistake, Place};
pub use sources::Given;

use crate::secret::Secret;

/// Everything a worker is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// This worker, unique in the cluster; the host's name by default.
    pub name: String,
    /// Where it answers.
    pub http: HttpConfig,
    /// Where the workers agree on who tries.
    pub coordination: CoordinationConfig,
    /// One slot and its sink each; at least one, no two with the same topic prefix.
    pub pipelines: BTreeMap<String, PipelineConfig>,
    /// What is logged.
    pub log: LogConfig,
}

/// `[http]`
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where we listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// How peers reach this worker, if it was said; see [`HttpConfig::url`].
    pub advertise: Option<String>,
    /// The token that unsafe methods need, read anew at each of them; without it they are answered on loopback only.
    pub token_file: Option<PathBuf>,
}

impl HttpConfig {
    /// The URL for peers, without a slash at its end: as configured, else the address bound to; where that is every
    /// address, the host's name.
    pub fn url(&self, bound: SocketAddr) -> String {
        if let Some(url) = &self.advertise {
            return url.clone();
        }
        let port = bound.port();
        match bound.ip() {
            ip if ip.is_unspecified() => format!("http://{}:{port}", read::host_name()),
            IpAddr::V4(ip) => format!("http://{ip}:{port}"),
            IpAddr::V6(ip) => format!("http://[{ip}]:{port}"),
        }
    }
}

/// `[coordination]`
#[derive(Debug, Clone)]
pub struct CoordinationConfig {
    /// The kind of store.
    pub backend: Backend,
    /// URLs of etcd, at least one; all `http` or all `https`. Not used without etcd.
    pub endpoints: Vec<String>,
    /// Who signs etcd's certificates; the system's authorities by default. Only with `https`.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key, if etcd asks for one. Only with `https`.
    pub certificate: Option<ClientCertificate>,
    /// The user, if etcd asks for one.
    pub user: Option<EtcdUser>,
    /// Begins with a slash and does not end with one.
    pub prefix: String,
    /// The TTL asked for, whole seconds; the one granted counts.
    pub lease_ttl: Duration,
    /// What the holder does when etcd does not answer.
    pub on_loss: OnLoss,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// A user of etcd.
#[derive(Debug, Clone)]
pub struct EtcdUser {
    /// The name.
    pub username: String,
    /// The password, from the configuration or its file.
    pub password: Secret,
}

/// `[pipelines.NAME]`
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// What happens when changes are gone.
    pub on_gap: OnGap,
    /// Whether publication waits for standbys of PostgreSQL.
    pub standby_barrier: StandbyBarrier,
    /// How long a slot must be idle before its holder is thought to be gone.
    pub takeover_grace: Duration,
    /// Where changes come from.
    pub postgres: PostgresConfig,
    /// Where changes go.
    pub kafka: KafkaConfig,
}

/// `[pipelines.NAME.postgres]`
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// libpq's URL or key=value text, which parses. May hold a password.
    pub url: Secret,
    /// The password, from the configuration or its file, for a URL that has none.
    pub password: Option<Secret>,
    /// The file the password came from, for who wants to read it again.
    pub password_file: Option<PathBuf>,
    /// The slot, valid by PostgreSQL's rule.
    pub slot: String,
    /// The publication, an identifier.
    pub publication: String,
    /// REST URLs of Patroni's nodes; may be empty.
    pub patroni: Vec<String>,
}

/// `[pipelines.NAME.kafka]`
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `HOST:PORT`, separated by commas.
    pub brokers: String,
    /// Begins the name of every topic and of the transactional id.
    pub topic_prefix: String,
    /// What a consumer may rely on.
    pub delivery: Delivery,
    /// How a change is written.
    pub format: Format,
    /// How near the format is to Debezium's.
    pub compat: Compat,
    /// Rows of one PostgreSQL transaction that are kept in one Kafka transaction.
    pub atomic_up_to: u64,
    /// For librdkafka, as they are; none that the protocol depends on. Some are secrets.
    pub properties: BTreeMap<String, Secret>,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// How it is written.
    pub format: LogFormat,
    /// What is written, in the syntax of `RUST_LOG`; that variable is stronger.
    pub level: String,
}

/// A checked configuration and how it came about.
#[derive(Debug)]
pub struct Loaded {
    /// What the worker is told.
    pub config: Config,
    /// The same for people, secrets hidden.
    pub effective: Effective,
}

/// Reads and checks all that was given.
///
/// # Errors
/// All mistakes, in the order of the files' keys, unknown keys last.
pub fn load(given: &Given) -> Result<Loaded, Invalid> {
    read::load(given)
}
