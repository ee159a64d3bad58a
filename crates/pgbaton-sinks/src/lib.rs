//! Where changes go: the sink contract, encodings, and Kafka.

pub mod debezium;
pub mod kafka;
mod topic;

pub use topic::{TopicNameTooLong, markers_topic, partition, progress_topic, table_topic};
