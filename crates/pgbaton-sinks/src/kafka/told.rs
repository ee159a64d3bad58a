//! What every client of the library tells by itself: its log, and errors that no call returns.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::{debug, info, warn};

use super::fault::KafkaFault;

/// The last error that a client told, for the text of a time-out that would otherwise say nothing.
#[derive(Debug, Default)]
pub(super) struct LastError(Mutex<Option<(Code, String)>>);

impl LastError {
    /// Keeps an error; returns its code.
    pub fn note(&self, error: &KafkaError, reason: &str) -> Option<Code> {
        let code = error.rdkafka_error_code()?;
        let mut last = lock(&self.0);
        // "All brokers are down" follows the error that says why.
        if code != Code::AllBrokersDown || last.is_none() {
            *last = Some((code, reason.to_owned()));
        }
        Some(code)
    }

    /// The fault behind a call that failed with `error`: a refusal that was told is worth more than a time-out.
    pub fn explain(&self, error: &KafkaError, doing: &str) -> KafkaFault {
        let fault = KafkaFault::from_error(error, doing);
        match (&fault, self.told()) {
            (KafkaFault::Unreachable { .. }, Some((code, reason))) => KafkaFault::from_code(code, &reason, doing),
            _ => fault,
        }
    }

    /// The refusal that was told, if any: no use in waiting longer.
    pub fn refusal(&self, doing: &str) -> Option<KafkaFault> {
        let (code, reason) = self.told()?;
        let fault = KafkaFault::from_code(code, &reason, doing);
        matches!(fault, KafkaFault::AuthFailed { .. } | KafkaFault::TlsFailed { .. }).then_some(fault)
    }

    /// An answer came: what was told before is over.
    pub fn clear(&self) {
        *lock(&self.0) = None;
    }

    fn told(&self) -> Option<(Code, String)> {
        lock(&self.0).clone()
    }
}

/// The context of the reader and the admin client.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub last_error: LastError,
}

impl ClientContext for Told {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        forward(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.last_error.note(&error, reason);
    }
}

impl ConsumerContext for Told {}

/// The library calls every refused connection an error; nobody has to act on one, so that it is a warning here. That it
/// asks for its producer id again is no news at all: it is made to, every few milliseconds.
pub(super) fn forward(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        // What it says of a setting of ours is known, and allowed for.
        _ if facility == "CONFWARN" && message.contains("enable.gapless.guarantee") => {
            debug!(facility, message, "kafka library");
        }
        _ if facility == "GETPID" => debug!(facility, message, "kafka library"),
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => warn!(facility, message, "kafka library"),
        RDKafkaLogLevel::Notice => info!(facility, message, "kafka library"),
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => debug!(facility, message, "kafka library"),
    }
}

/// A panic under the lock leaves facts that are still true.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
