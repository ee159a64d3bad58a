//! Kafka as a transactional, fenced, bracketed sink: a thin adapter over librdkafka.
//!
//! [`KafkaSession`] is one producer instance and one term. What a record says, when a transaction ends and whether a
//! session may go on is decided elsewhere; here is only how that is done so that the protocol's argument holds. The
//! one rule worth a type of its own is [`taint`].

mod back;
mod calls;
mod clients;
mod contract;
mod examine;
mod fault;
mod fence;
mod history;
mod instance;
mod outcome;
mod plain;
mod producer;
mod progress;
mod reader;
mod sending;
mod session;
mod standby;
pub mod taint;
mod target;
mod told;
mod topics;
mod wire;
mod witness;

pub use back::{FoundRecord, ReadBackError};
pub use contract::{Accepted, BeginError, DataRecord, SinkEvent, WriteError};
pub use examine::{KafkaFacts, TopicFacts, examine, read_progress};
pub use fault::KafkaFault;
pub use fence::FenceError;
pub use history::KafkaAudit;
pub use outcome::{CommitReport, SessionError};
pub use plain::{Begun, PlainSession};
pub use progress::{ProgressRead, StoredRecord};
pub use session::{Fenced, KafkaSession};
pub use standby::KafkaStandby;
pub use taint::Taint;
pub use target::KafkaTarget;
pub use topics::{TopicError, TopicInvalid};
pub use wire::{KafkaRights, TopicIdsError};
