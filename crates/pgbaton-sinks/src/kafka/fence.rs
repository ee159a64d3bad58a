//! The beginning of a session: fence all older ones, and read what they have committed.
//!
//! The order is the argument: the older sessions' transactions are resolved before our `open` gets its offset, and
//! everything below that offset is read. docs/how-it-works.md says why that is enough.

use std::time::{Duration, Instant};

use pgbaton_core::{InvalidRecord, ProgressRecord};
use tokio::runtime::Handle;
use tracing::debug;

use super::calls::Cancelled;
use super::clients::{Clients, Names};
use super::contract::Accepted;
use super::fault::KafkaFault;
use super::instance::TELL_OFFSET;
use super::outcome::SessionError;
use super::producer::Producer;
use super::progress::{ProgressRead, ReadError, read_below};
use super::reader::SLICE;
use super::target::KafkaTarget;
use super::topics::{TopicError, TopicInvalid, Topics};
use super::witness::find_record_of_ours;

/// Why no session could be begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// A topic of the protocol is not as it has to be.
    #[error(transparent)]
    TopicInvalid(#[from] TopicInvalid),
    /// The readable end did not reach our own transaction within X/2: an older one hangs below it.
    #[error("the progress topic is readable up to offset {readable_to} only, our transaction stands at {open_at}")]
    ProgressBlocked {
        /// Where our `open` stands.
        open_at: i64,
        /// The last stable offset.
        readable_to: i64,
    },
    /// The progress topic holds a value that this program does not understand.
    #[error("progress topic, offset {offset}: {cause}")]
    InvalidRecord {
        /// Where it stands.
        offset: i64,
        /// What is wrong with it.
        cause: InvalidRecord,
    },
    /// The new instance did not get through: fenced by a newer one, or Kafka refuses or is not there.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<KafkaFault> for FenceError {
    fn from(fault: KafkaFault) -> Self {
        FenceError::Session(SessionError::Kafka(fault))
    }
}

impl From<TopicError> for FenceError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Invalid(invalid) => invalid.into(),
            TopicError::Kafka(fault) => fault.into(),
        }
    }
}

impl From<ReadError> for FenceError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Blocked { open_at, readable_to } => FenceError::ProgressBlocked { open_at, readable_to },
            ReadError::Invalid { offset, cause } => FenceError::InvalidRecord { offset, cause },
            ReadError::Superseded => SessionError::Fenced.into(),
            ReadError::Kafka(fault) => fault.into(),
        }
    }
}

/// A fenced cluster: our `open` is the last record of the progress topic.
pub(super) struct Established {
    pub producer: Producer,
    pub topics: Topics,
    pub names: Names,
}

/// How long an abort may take that nobody depends on.
pub(super) const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// Fences and reads. Blocks.
pub(super) fn establish(
    target: &KafkaTarget,
    open: &ProgressRecord,
    clients: Option<Clients>,
    runtime: Handle,
    cancelled: &Cancelled,
) -> Result<(Established, ProgressRead), FenceError> {
    target.check()?;
    let began = Instant::now();
    let mut clients = match clients {
        Some(clients) => clients,
        None => Clients::connect(target, runtime, cancelled.clone())?,
    };
    let (mut producer, made_for) = clients.take_producer(target)?;
    // The library looks for the coordinator while we look at the topics.
    producer.ask_for_id();
    let prepared = clients.ensure_required()?;
    if prepared.message_max_bytes != made_for {
        producer = Producer::connect(target, prepared.message_max_bytes)?;
    }

    // X/2, the protocol's patience, for each of the two steps that wait for others.
    let patience = producer.transaction_timeout() / 2;
    producer.init(patience, cancelled)?;
    let fenced = began.elapsed();
    producer.begin()?;
    let deadline = Instant::now() + patience;
    let Clients { topics, names, .. } = clients;
    let established = Established { producer, topics, names };
    match established.read(target, open, deadline, cancelled) {
        Ok(read) => {
            debug!(?fenced, read = ?began.elapsed(), "fenced and read");
            Ok((established, ProgressRead { topic_was_created: prepared.first_was_created, ..read }))
        }
        Err(error) => {
            established.producer.abort(ABORT_LIMIT);
            Err(error)
        }
    }
}

impl Established {
    /// Writes our `open` and reads everything below it.
    fn read(
        &self,
        target: &KafkaTarget,
        open: &ProgressRecord,
        deadline: Instant,
        cancelled: &Cancelled,
    ) -> Result<ProgressRead, FenceError> {
        let reader = self.topics.reader();
        let open_at = write_open(&self.producer, &self.names, open, deadline, cancelled)?;
        let mut read = read_below(reader, &self.names.progress, open_at, deadline)?;
        read.kafka_cluster = reader.cluster_id();
        if read.position.is_none() && read.last_open.is_none() {
            read.witness = find_record_of_ours(reader, &target.topic_prefix, deadline)?;
        }
        Ok(read)
    }
}

/// Writes our `open` and waits for the offset that the leader gives it.
fn write_open(
    producer: &Producer,
    names: &Names,
    open: &ProgressRecord,
    deadline: Instant,
    cancelled: &Cancelled,
) -> Result<i64, FenceError> {
    if producer.offer(&names.progress, open, TELL_OFFSET)? == Accepted::QueueFull {
        return Err(queue_full(&names.progress).into());
    }
    while !producer.instance().wait_delivered(1, SLICE) {
        if cancelled.is_set() || Instant::now() >= deadline {
            let reason = "the first record of the session was not acknowledged in time".to_owned();
            return Err(KafkaFault::Unreachable { reason }.into());
        }
    }
    match (producer.failure(|_| None), producer.instance().open_offset()) {
        (None, Some(offset)) => Ok(offset),
        (Some(failure), _) => Err(failure.into()),
        (None, None) => Err(SessionError::NotDelivered {
            topic: names.progress.clone(),
            reason: "the broker told no offset".to_owned(),
        }
        .into()),
    }
}

/// A queue that is full before its first record is a setting that allows none.
pub(super) fn queue_full(topic: &str) -> SessionError {
    SessionError::NotDelivered {
        topic: topic.to_owned(),
        reason: "the library's queue has no room for a transaction's first record".to_owned(),
    }
}
