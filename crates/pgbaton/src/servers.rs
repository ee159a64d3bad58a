//! How commands reach the servers of a pipeline: as its worker would.

use std::time::Duration;

use pgbaton_core::hash_of;
use pgbaton_postgres::Conninfo;
use pgbaton_postgres::catalog::Waiting;
use pgbaton_sinks::kafka::KafkaTarget;

use crate::config::{Backend, Config, PipelineConfig, PostgresConfig, StandbyBarrier};
use crate::coordination::{Etcd, EtcdError};
use crate::driver;
use crate::driver::Wanted;

/// The pipeline's PostgreSQL.
pub(crate) fn conninfo(settings: &PostgresConfig) -> Result<Conninfo, String> {
    driver::conninfo(settings).map_err(|broken| broken.text)
}

/// The pipeline's Kafka.
pub(crate) fn kafka_target(config: &Config, settings: &PipelineConfig) -> KafkaTarget {
    KafkaTarget {
        brokers: settings.kafka.brokers.clone(),
        topic_prefix: settings.kafka.topic_prefix.clone(),
        properties: settings.kafka.properties.iter().map(|(k, v)| (k.clone(), v.expose().to_owned())).collect(),
        client_id: format!("pgbaton-{}", config.name),
    }
}

/// How long a record is tried where nothing but the lease keeps other workers away.
pub(crate) fn delivery_patience(config: &Config) -> Duration {
    pgbaton_core::delivery_patience(config.coordination.lease_ttl)
}

/// Hash of what in the configuration changes routing or the set of rows.
pub(crate) fn config_hash(settings: &PipelineConfig) -> String {
    let (postgres, kafka) = (&settings.postgres, &settings.kafka);
    hash_of(format!("{}\n{}\n{}", kafka.topic_prefix, postgres.publication, kafka.format.as_str()).as_bytes())
}

/// Which standbys publication waits for; none where it does not wait.
pub(crate) fn waiting(settings: &PipelineConfig) -> Option<Waiting> {
    match settings.standby_barrier {
        StandbyBarrier::Off => None,
        StandbyBarrier::Sync => Some(Waiting::ForSynchronous),
        StandbyBarrier::All => Some(Waiting::ForAll),
    }
}

/// What the pipeline reads from.
pub(crate) fn wanted(settings: &PipelineConfig, conninfo: &Conninfo) -> Wanted {
    Wanted {
        slot: settings.postgres.slot.clone(),
        publication: settings.postgres.publication.clone(),
        database: conninfo.dbname.clone(),
        topic_prefix: settings.kafka.topic_prefix.clone(),
    }
}

/// etcd, below the pipeline's own prefix, if the workers agree there.
pub(crate) fn etcd(config: &Config, pipeline: &str) -> Result<Option<Etcd>, EtcdError> {
    match config.coordination.backend {
        Backend::Etcd => {
            Etcd::new(&config.coordination, format!("{}/{pipeline}", config.coordination.prefix)).map(Some)
        }
        Backend::None => Ok(None),
    }
}

/// The pipeline that is meant: the one of that name, or the only one.
pub(crate) fn pipeline<'c>(config: &'c Config, name: Option<&str>) -> Result<(&'c str, &'c PipelineConfig), String> {
    let names: Vec<&str> = config.pipelines.keys().map(String::as_str).collect();
    let found = match (name, names.as_slice()) {
        (Some(name), _) => config.pipelines.get_key_value(name),
        (None, [only]) => config.pipelines.get_key_value(*only),
        (None, _) => None,
    };
    let named = name.map(|name| format!("there is no pipeline {name}")).unwrap_or("name a pipeline".to_owned());
    found
        .map(|(name, settings)| (name.as_str(), settings))
        .ok_or_else(|| format!("{named}; --pipeline is one of: {}", names.join(", ")))
}
