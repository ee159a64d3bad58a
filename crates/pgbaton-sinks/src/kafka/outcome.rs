//! How a transaction, and with it a session, can end.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::fault::KafkaFault;

/// A committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitReport {
    /// From the request to commit until the coordinator's answer, deliveries included.
    pub took: Duration,
    /// The coordinator's part of it.
    pub end_took: Duration,
}

/// Why a session is over. Whatever it was: rebuild everything from the progress record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A newer session took our place, or the transaction was open for too long: Kafka makes no difference. Nothing of
    /// the open transaction will be visible.
    #[error("the transaction was fenced or timed out")]
    Fenced,
    /// Nobody knows whether the transaction was committed.
    #[error("the outcome of the commit is unknown: {reason}")]
    OutcomeUnknown {
        /// What was waited for.
        reason: String,
    },
    /// The transaction cannot be committed.
    #[error("the transaction cannot be committed: {reason}")]
    NotCommitted {
        /// What the library said.
        reason: String,
    },
    /// A record did not arrive.
    #[error("a record for topic {topic} was not delivered: {reason}")]
    NotDelivered {
        /// Its topic.
        topic: String,
        /// What the library said.
        reason: String,
    },
    /// A record is larger than its topic takes. Trying again does not help.
    #[error("a record of {bytes} bytes for topic {topic} is above the limit of {limit} bytes (max.message.bytes)")]
    RecordTooLarge {
        /// Its topic.
        topic: String,
        /// Size of key and value.
        bytes: u64,
        /// What the topic, or the broker where the topic's is not known, takes.
        limit: u64,
    },
    /// Kafka refuses or is not there.
    #[error(transparent)]
    Kafka(#[from] KafkaFault),
}

impl SessionError {
    /// Reads the error of a transactional call.
    pub(super) fn from_call(error: &KafkaError, doing: &str) -> Self {
        let KafkaError::Transaction(cause) = error else {
            return SessionError::from(KafkaFault::from_error(error, doing));
        };
        let reason = cause.string();
        match cause.code() {
            code if is_fenced(code) => SessionError::Fenced,
            code if is_refused(code) => KafkaFault::from_code(code, &reason, doing).into(),
            _ if cause.txn_requires_abort() => SessionError::NotCommitted { reason },
            code => KafkaFault::from_code(code, &reason, doing).into(),
        }
    }

    /// Reads the code of an instance that the library calls dead.
    pub(super) fn from_fatal(code: Code, reason: String, doing: &str) -> Self {
        if is_fenced(code) { SessionError::Fenced } else { KafkaFault::from_code(code, &reason, doing).into() }
    }
}

fn is_fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}

fn is_refused(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::InvalidTransactionTimeout
    )
}
