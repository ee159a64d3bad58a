//! What a session is given, and what it tells.

use super::outcome::{CommitReport, SessionError};
use super::taint::Taint;

/// A record for a data topic.
#[derive(Debug, Clone, Copy)]
pub struct DataRecord<'a> {
    /// A topic that `prepare_topics` has resolved.
    pub topic: &'a str,
    /// Chooses the partition; without it the topic's name does.
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Name and value.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Whether the library took a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a record that was not taken has to be written again"]
pub enum Accepted {
    /// It is on its way.
    Queued,
    /// The queue is full: wait for [`SinkEvent::Delivered`] and write it again.
    QueueFull,
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The topic's partitions are not known yet: [`KafkaSession::prepare_topics`](super::KafkaSession::prepare_topics) first.
    #[error("topic {0} is not prepared")]
    TopicNotPrepared(String),
    /// No transaction is open.
    #[error("no transaction is open")]
    NoTransaction,
    /// The session is over.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Why a transaction was not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// The instance rule: a new session is needed. What was committed stays committed.
    #[error("the producer may not begin again: {0}")]
    Tainted(Taint),
    /// A transaction is open, or its commit has not been reported yet.
    #[error("the last transaction is not over")]
    NotOver,
    /// The session is over.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// What a session tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkEvent {
    /// The transaction is committed.
    Committed(CommitReport),
    /// Records were acknowledged since this was last told: the front moves, and there is room in the queue.
    Delivered,
    /// The session is over. Told again each time.
    Failed(SessionError),
}
