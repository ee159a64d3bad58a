//! One place that turns the library's codes into what the caller can act on: wait, or stop and tell a human what.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Something is wrong between us and the Kafka cluster, whatever we were doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaFault {
    /// No answer, or none in time. Passes by itself.
    #[error("kafka does not answer: {reason}")]
    Unreachable {
        /// What the library saw last.
        reason: String,
    },
    /// The credentials were refused.
    #[error("kafka refused the credentials: {reason}")]
    AuthFailed {
        /// What the library saw last.
        reason: String,
    },
    /// No secure connection could be made.
    #[error("no TLS connection to kafka: {reason}")]
    TlsFailed {
        /// What the library saw last.
        reason: String,
    },
    /// A right is missing.
    #[error("kafka denies us to {what}")]
    PermissionDenied {
        /// The operation and what it was on.
        what: String,
    },
    /// A setting cannot be used: with this library, or with this cluster.
    #[error("kafka setting {name}: {reason}")]
    ConfigInvalid {
        /// The setting.
        name: String,
        /// Why it cannot be used. Holds no secret value.
        reason: String,
    },
    /// Anything else, told as it came.
    #[error("{doing} failed: {reason}")]
    Failed {
        /// What we were doing.
        doing: String,
        /// What the library said.
        reason: String,
    },
}

impl KafkaFault {
    /// Whether trying again later may help without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, KafkaFault::Unreachable { .. })
    }

    /// The fault behind `code`, met while doing `doing` (a verb phrase: "write to topic orders.public.items").
    pub(super) fn from_code(code: Code, reason: &str, doing: &str) -> Self {
        let reason = if reason.is_empty() { code.to_string() } else { reason.to_owned() };
        match code {
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState => KafkaFault::AuthFailed { reason },
            Code::SSL => KafkaFault::TlsFailed { reason },
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed => KafkaFault::PermissionDenied { what: doing.to_owned() },
            Code::InvalidTransactionTimeout => KafkaFault::ConfigInvalid {
                name: "transaction.timeout.ms".to_owned(),
                reason: "it is above the broker's transaction.max.timeout.ms".to_owned(),
            },
            code if is_connection_error(code) || is_passing(code) => KafkaFault::Unreachable { reason },
            _ => KafkaFault::Failed { doing: doing.to_owned(), reason },
        }
    }

    /// The fault behind an error of the library.
    pub(super) fn from_error(error: &KafkaError, doing: &str) -> Self {
        match error {
            KafkaError::ClientConfig(_, description, name, value) => {
                // The library's description quotes the value.
                let reason = if is_secret(name) && !value.is_empty() {
                    description.replace(value.as_str(), "(hidden)")
                } else {
                    description.clone()
                };
                KafkaFault::ConfigInvalid { name: name.clone(), reason }
            }
            KafkaError::ClientCreation(reason) => {
                KafkaFault::ConfigInvalid { name: "properties".to_owned(), reason: reason.clone() }
            }
            error => match error.rdkafka_error_code() {
                Some(code) => KafkaFault::from_code(code, &error.to_string(), doing),
                None => KafkaFault::Failed { doing: doing.to_owned(), reason: error.to_string() },
            },
        }
    }
}

/// Whether the code tells of a connection or of an answer that did not come: what the instance rule counts.
pub(super) fn is_connection_error(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::SSL
    )
}

/// Codes of a cluster that is busy with itself: an election, a start, a moved coordinator.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::WaitingForCoordinator
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::ConcurrentTransactions
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NotEnoughReplicas
            | Code::NotController
            | Code::OffsetNotAvailable
            | Code::DestroyBroker
    )
}

/// Whether a property's value must not be shown.
pub(super) fn is_secret(property: &str) -> bool {
    ["password", "secret", "token", "jaas", ".pem", "key.", "oauth"].iter().any(|part| property.contains(part))
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::producer::BaseProducer;

    use super::*;

    #[test]
    fn a_password_that_the_library_refuses_is_not_repeated() {
        let error = KafkaError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "Invalid value \"hunter2\" for configuration property".to_owned(),
            "ssl.key.password".to_owned(),
            "hunter2".to_owned(),
        );
        assert!(!KafkaFault::from_error(&error, "create a producer").to_string().contains("hunter2"));
    }

    #[test]
    fn an_unknown_property_is_named() {
        let error = ClientConfig::new().set("linger.mss", "1").create::<BaseProducer>().err().unwrap();
        let fault = KafkaFault::from_error(&error, "create a producer");
        assert!(matches!(&fault, KafkaFault::ConfigInvalid { name, .. } if name == "linger.mss"), "{fault}");
    }

    #[test]
    fn a_missing_right_names_what_it_was_for() {
        let fault = KafkaFault::from_code(Code::TopicAuthorizationFailed, "", "write to topic a.b");
        assert_eq!(fault.to_string(), "kafka denies us to write to topic a.b");
        assert!(!fault.is_passing());
    }
}
