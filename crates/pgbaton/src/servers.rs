//! How commands reach the servers of a pipeline: as its worker would.

use pgbaton_sinks::kafka::KafkaTarget;

use crate::config::{Config, PipelineConfig};
pub(crate) use crate::driver::conninfo;

/// The pipeline's Kafka.
pub(crate) fn kafka_target(config: &Config, settings: &PipelineConfig) -> KafkaTarget {
    KafkaTarget {
        brokers: settings.kafka.brokers.clone(),
        topic_prefix: settings.kafka.topic_prefix.clone(),
        properties: settings.kafka.properties.iter().map(|(k, v)| (k.clone(), v.expose().to_owned())).collect(),
        client_id: format!("pgbaton-{}", config.name),
    }
}
