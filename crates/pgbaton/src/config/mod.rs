//! The configuration: what it holds once it is checked, and how it is loaded. A [`Config`] that exists is valid; all
//! mistakes of one that is not come back together, each with its place.
//!
//! Later wins: defaults, files in their order, `PGBATON_` variables (`__` nests), flags.
//!
//! The schema and the reference in the docs are made from the types below: the comment of a field is what users read.

mod choices;
mod defaults;
mod document;
mod effective;
mod mistake;
mod properties;
mod read;
mod reader;
mod rules;
mod schema;
mod section;
mod sources;
mod urls;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use choices::{
    Backend, Compat, Delivery, Format, LogFormat, OnGap, OnLoss, OnPublicationShrink, StandbyBarrier, VerifyClient,
};
pub use effective::Effective;
pub use mistake::{Invalid, Mistake, Place};
pub(crate) use properties::PASSWORD_PROPERTY;
pub use schema::schema;
pub use sources::Given;

use schemars::JsonSchema;

use crate::secret::Secret;

/// Everything a worker is told.
#[derive(Debug, Clone, JsonSchema)]
pub struct Config {
    /// This worker, unique in the cluster.
    #[schemars(regex(pattern = rules::WORKER_NAME_PATTERN), extend("x-allowed" = rules::WORKER_NAME, "x-default" = "the host's name"))]
    pub name: String,
    /// Where it answers.
    pub http: HttpConfig,
    /// Where the workers agree on who tries.
    pub coordination: CoordinationConfig,
    /// One slot and its sink each; at least one, no two with the same topic prefix.
    #[schemars(extend("minProperties" = 1, "propertyNames" = serde_json::json!({"pattern": rules::PIPELINE_NAME_PATTERN})))]
    pub pipelines: BTreeMap<String, PipelineConfig>,
    /// What is logged.
    pub log: LogConfig,
}

/// `[http]`
#[derive(Debug, Clone, JsonSchema)]
pub struct HttpConfig {
    /// Where health, status, metrics and hand-over are answered; port 0 lets the system choose.
    #[schemars(with = "String", extend("default" = defaults::LISTEN, "x-allowed" = rules::LISTEN))]
    pub listen: SocketAddr,
    /// How peers and `pgbaton status` reach this worker.
    #[schemars(extend("x-allowed" = urls::SERVER, "x-default" = "http://HOST:PORT, https:// with cert_file; the host's name where listen is every address"))]
    pub advertise: Option<String>,
    /// The token for everything that is not a `GET`, read anew at each. Without it those are answered on loopback only, or for
    /// a certificate that was asked for.
    #[schemars(extend("x-allowed" = rules::SECRET_FILE))]
    pub token_file: Option<PathBuf>,
    /// What we show to who connects, and to peers; without it the port speaks plain HTTP.
    #[schemars(flatten)]
    pub certificate: Option<Certificate>,
    /// Who has to show a certificate: nobody, whoever commands, everybody. Only with `cert_file`.
    #[schemars(extend("default" = defaults::VERIFY_CLIENT.as_str()))]
    pub verify_client: VerifyClient,
    /// Who signs the certificates of clients, peers among them; with `verify_client`, and needed by it.
    #[schemars(extend("x-allowed" = rules::PEM_FILE))]
    pub client_ca_file: Option<PathBuf>,
    /// Who signs the certificates of peers whose URL is `https`.
    #[schemars(extend("x-allowed" = rules::PEM_FILE, "x-default" = "the system's authorities"))]
    pub ca_file: Option<PathBuf>,
}

impl HttpConfig {
    /// The URL for peers, without a slash at its end: as configured, else the address bound to; where that is every
    /// address, the host's name.
    pub fn url(&self, bound: SocketAddr) -> String {
        if let Some(url) = &self.advertise {
            return url.clone();
        }
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        let port = bound.port();
        match bound.ip() {
            ip if ip.is_unspecified() => format!("{scheme}://{}:{port}", read::host_name()),
            IpAddr::V4(ip) => format!("{scheme}://{ip}:{port}"),
            IpAddr::V6(ip) => format!("{scheme}://[{ip}]:{port}"),
        }
    }
}

/// `[coordination]`
#[derive(Debug, Clone, JsonSchema)]
pub struct CoordinationConfig {
    /// Where the workers agree on who tries; `none`: nowhere.
    #[schemars(extend("default" = defaults::BACKEND.as_str()))]
    pub backend: Backend,
    /// etcd's members, tried in turn; all `http` or all `https`. Not used without etcd.
    #[schemars(length(min = 1), extend("x-allowed" = urls::SERVERS, "x-default" = "required with etcd"))]
    pub endpoints: Vec<String>,
    /// Who signs etcd's certificates; only with `https`.
    #[schemars(extend("x-allowed" = rules::PEM_FILE, "x-default" = "the system's authorities"))]
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key, if etcd asks for one. Only with `https`.
    #[schemars(flatten)]
    pub certificate: Option<Certificate>,
    /// The user, if etcd asks for one.
    #[schemars(flatten)]
    pub user: Option<EtcdUser>,
    /// Begins every key in etcd: `PREFIX/PIPELINE/...`.
    #[schemars(regex(pattern = rules::ETCD_PREFIX_PATTERN), extend("default" = defaults::ETCD_PREFIX, "x-allowed" = rules::ETCD_PREFIX))]
    pub prefix: String,
    /// The lease that is asked for; the one that etcd grants counts. A worker that is gone is replaced on evidence, mostly long
    /// before it ends. Below 7 s there is no room for a late renewal.
    #[schemars(with = "String", regex(pattern = rules::TIME_PATTERN), extend("default" = defaults::LEASE_TTL, "x-allowed" = rules::LEASE_TTL))]
    pub lease_ttl: Duration,
    /// What the holder does when etcd does not answer: go on while PostgreSQL names it as the slot's reader and Kafka takes its
    /// commits, 15 min at most; or stop after 60 % of the TTL. `strict` is the default where all pipelines deliver at least
    /// once, and all that is allowed beside one that does.
    #[schemars(extend("default" = defaults::ON_LOSS.as_str()))]
    pub on_loss: OnLoss,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone, JsonSchema)]
pub struct Certificate {
    /// Our certificate, and behind it those that lead to its authority; with its key.
    #[schemars(extend("x-allowed" = rules::PEM_FILE))]
    pub cert_file: PathBuf,
    /// The key of `cert_file`.
    #[schemars(extend("x-allowed" = rules::PEM_FILE))]
    pub key_file: PathBuf,
}

/// A user of etcd.
#[derive(Debug, Clone, JsonSchema)]
pub struct EtcdUser {
    /// User of etcd; with a password.
    #[schemars(length(min = 1))]
    pub username: String,
    /// The user's password, here or in `password_file`.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub password: Secret,
    /// A file with the password, in place of `password`; read anew when it changes.
    #[schemars(extend("x-allowed" = rules::SECRET_FILE))]
    pub password_file: Option<PathBuf>,
}

/// `[pipelines.NAME]`
#[derive(Debug, Clone, JsonSchema)]
pub struct PipelineConfig {
    /// What happens when changes are gone: quarantine until a person accepts, or go on at once with a marker (`slot_ahead` and
    /// `publication_changed` only).
    #[schemars(extend("default" = defaults::ON_GAP.as_str()))]
    pub on_gap: OnGap,
    /// What happens when tables of the publication are not published any more (`ALTER PUBLICATION ... DROP TABLE`, a table that is
    /// renamed or dropped): go on with a marker that names their topics, or quarantine until a person accepts.
    #[schemars(extend("default" = defaults::ON_PUBLICATION_SHRINK.as_str()))]
    pub on_publication_shrink: OnPublicationShrink,
    /// Whether publication waits until standbys of PostgreSQL have flushed a transaction: those that it is synchronous with, or all
    /// that stream. Where there is none, it waits, too. What they have a failover to one of them cannot take back. Needs
    /// `pg_monitor`.
    #[schemars(extend("default" = defaults::STANDBY_BARRIER.as_str()))]
    pub standby_barrier: StandbyBarrier,
    /// How long the slot must be idle before a standby takes over from a holder that does not answer or does not try; doubles
    /// with each tenure that did not stream.
    #[schemars(with = "String", regex(pattern = rules::TIME_PATTERN), extend("default" = defaults::TAKEOVER_GRACE, "x-allowed" = rules::TAKEOVER_GRACE))]
    pub takeover_grace: Duration,
    /// Whether this worker, while it stands by, reads the topics as they grow and names what is wrong in them. It reads everything
    /// that is published, on two more connections to each broker, and stops at once when it has to take over.
    #[schemars(extend("default" = defaults::AUDIT, "x-allowed" = "true, false"))]
    pub audit: bool,
    /// Where changes come from.
    pub postgres: PostgresConfig,
    /// Where changes go.
    pub kafka: KafkaConfig,
}

/// `[pipelines.NAME.postgres]`
#[derive(Debug, Clone, JsonSchema)]
pub struct PostgresConfig {
    /// The database's leader, directly or through a proxy. May hold a password.
    #[schemars(with = "String", extend("x-allowed" = urls::CONNECTION))]
    pub url: Secret,
    /// The password, for a URL that has none.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub password: Option<Secret>,
    /// A file with the password, in place of `password`.
    #[schemars(extend("x-allowed" = rules::SECRET_FILE))]
    pub password_file: Option<PathBuf>,
    /// The logical slot. Two pipelines may not have the same `url` and `slot`.
    #[schemars(regex(pattern = rules::SLOT_NAME_PATTERN), extend("x-allowed" = rules::SLOT_NAME))]
    pub slot: String,
    /// The publication.
    #[schemars(length(min = 1), extend("x-allowed" = rules::PUBLICATION_NAME))]
    pub publication: String,
    /// Patroni's REST addresses: `doctor` looks at them, and `slot create` leaves the slot to Patroni where there are any.
    #[schemars(extend("default" = [], "x-allowed" = urls::SERVERS))]
    pub patroni: Vec<String>,
}

/// `[pipelines.NAME.kafka]`
#[derive(Debug, Clone, JsonSchema)]
pub struct KafkaConfig {
    /// Brokers to begin with.
    #[schemars(extend("x-allowed" = rules::BROKERS))]
    pub brokers: String,
    /// **Unique in the Kafka cluster**: topics, progress and the transactional id `pgbaton.PREFIX` are made from it. Progress is
    /// found by it: do not change it for a running pipeline.
    #[schemars(regex(pattern = rules::TOPIC_PREFIX_PATTERN), extend("x-allowed" = rules::TOPIC_PREFIX))]
    pub topic_prefix: String,
    /// What a consumer may rely on: each change once, for those who read committed records; or, without transactions, some of
    /// them again after a takeover.
    #[schemars(extend("default" = defaults::DELIVERY.as_str()))]
    pub delivery: Delivery,
    /// How a change is written.
    #[schemars(extend("default" = defaults::FORMAT.as_str()))]
    pub format: Format,
    /// Where we deliberately differ from Debezium.
    #[schemars(extend("default" = defaults::COMPAT.as_str()))]
    pub compat: Compat,
    /// Rows of one PostgreSQL transaction that are kept in one Kafka transaction; a larger one is published in chunks.
    #[schemars(range(min = *rules::ATOMIC_UP_TO.start(), max = *rules::ATOMIC_UP_TO.end()), extend("default" = defaults::ATOMIC_UP_TO))]
    pub atomic_up_to: u64,
    /// A file with the password that stands for `sasl.password` among the properties; read anew when it changes.
    #[schemars(extend("x-allowed" = rules::SECRET_FILE))]
    pub password_file: Option<PathBuf>,
    /// For librdkafka, as they are; none that the protocol depends on. Some are secrets.
    #[schemars(schema_with = "schema::properties")]
    pub properties: BTreeMap<String, Secret>,
}

/// `[log]`
#[derive(Debug, Clone, JsonSchema)]
pub struct LogConfig {
    /// How it is written, to standard error; JSON is one object per line.
    #[schemars(extend("default" = defaults::LOG_FORMAT.as_str()))]
    pub format: LogFormat,
    /// What is logged; the variable `RUST_LOG` is stronger.
    #[schemars(extend("default" = defaults::LOG_LEVEL, "x-allowed" = rules::LOG_LEVEL))]
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
