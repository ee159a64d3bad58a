//! The one place where the errors of PostgreSQL and Kafka become what the core decides by.

use pgbaton_core::{Code, Failure, FailureKind, SessionEnd};
use pgbaton_postgres::{ConnectError, Meaning, QueryError, StreamError};
use pgbaton_sinks::kafka::{FenceError, KafkaFault, ReadBackError, SessionError, TopicError};

/// A failure after which one tries again.
pub fn passing(code: Code, detail: String) -> Failure {
    Failure { code, detail, kind: FailureKind::Passing }
}

fn postgres(meaning: Meaning, detail: String) -> Failure {
    let (code, kind) = match meaning {
        Meaning::Retry | Meaning::Unexpected | Meaning::NotFound => (Code::PostgresUnreachable, FailureKind::Passing),
        Meaning::ShuttingDown => (Code::PostgresUnreachable, FailureKind::ShuttingDown),
        Meaning::InRecovery => (Code::InRecovery, FailureKind::Passing),
        Meaning::SlotInUse { .. } => (Code::PostgresUnreachable, FailureKind::SlotInUse),
        Meaning::SlotLost => (Code::SlotLost, FailureKind::Passing),
        Meaning::WalRemoved => (Code::WalRemoved, FailureKind::Passing),
        Meaning::AuthFailed => (Code::AuthFailed, FailureKind::Passing),
        Meaning::DatabaseMissing => (Code::ConfigInvalid, FailureKind::Passing),
        Meaning::PermissionDenied => (Code::PermissionDenied, FailureKind::Passing),
        Meaning::TlsFailed => (Code::TlsFailed, FailureKind::Passing),
    };
    Failure { code, detail, kind }
}

/// A connection that could not be opened.
pub fn connect(error: &ConnectError) -> Failure {
    postgres(error.meaning(), error.to_string())
}

/// A statement that was refused, or a connection that was lost under it.
pub fn query(error: &QueryError) -> Failure {
    postgres(error.meaning(), error.to_string())
}

/// A stream that ended with an error.
pub fn stream(error: &StreamError) -> Failure {
    postgres(error.meaning(), error.to_string())
}

/// What is wrong with Kafka.
pub fn kafka(fault: &KafkaFault) -> (Code, String) {
    let code = match fault {
        KafkaFault::Unreachable { .. } | KafkaFault::Failed { .. } => Code::KafkaUnreachable,
        KafkaFault::AuthFailed { .. } => Code::AuthFailed,
        KafkaFault::TlsFailed { .. } => Code::TlsFailed,
        KafkaFault::PermissionDenied { .. } => Code::PermissionDenied,
        KafkaFault::ConfigInvalid { .. } => Code::ConfigInvalid,
    };
    (code, fault.to_string())
}

/// A Kafka session that is over.
pub fn session(error: &SessionError) -> SessionEnd {
    match error {
        SessionError::Kafka(fault) => {
            let (code, detail) = kafka(fault);
            SessionEnd::Sink { code, detail }
        }
        // Also what a transaction time-out looks like: the next session reads progress before anything is concluded.
        SessionError::Fenced => SessionEnd::Sink { code: Code::Fenced, detail: error.to_string() },
        SessionError::RecordTooLarge { .. } => {
            SessionEnd::Sink { code: Code::ConfigInvalid, detail: error.to_string() }
        }
        SessionError::OutcomeUnknown { .. } | SessionError::NotCommitted { .. } | SessionError::NotDelivered { .. } => {
            SessionEnd::ProducerSpent(error.to_string())
        }
    }
}

/// What a torn transaction has left could not be read back.
pub fn read_back(error: &ReadBackError) -> (Code, String) {
    match error {
        ReadBackError::Kafka(fault) => kafka(fault),
        ReadBackError::TooMuch | ReadBackError::InvalidId { .. } => (Code::TornTransaction, error.to_string()),
    }
}

/// A fence that failed.
pub fn fence(error: &FenceError) -> SessionEnd {
    match error {
        FenceError::Session(error) => session(error),
        FenceError::ProgressBlocked { .. } => {
            SessionEnd::Sink { code: Code::ProgressBlocked, detail: error.to_string() }
        }
        FenceError::TopicInvalid(_) | FenceError::InvalidRecord { .. } => {
            SessionEnd::Sink { code: Code::ProgressTopicInvalid, detail: error.to_string() }
        }
    }
}

/// A topic that could not be found or made.
pub fn topic(error: &TopicError) -> SessionEnd {
    let (code, detail) = match error {
        TopicError::Invalid(invalid) => (Code::ProgressTopicInvalid, invalid.to_string()),
        TopicError::Kafka(fault) => kafka(fault),
    };
    SessionEnd::Sink { code, detail }
}

/// A time as progress records carry it: microseconds since 1970, RFC 3339 in UTC.
pub fn rfc3339_micros(micros: i64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    let text = crate::clock::Timestamp::from(time).to_string();
    // Milliseconds as they are shown, and the three digits that follow.
    format!("{}{:03}Z", text.trim_end_matches('Z'), micros.rem_euclid(1000))
}
