//! Reading the progress topic up to our own open transaction: all that older sessions will ever commit.
//!
//! The calls block; they belong on the thread of `calls`.

use std::time::Instant;

use pgbaton_core::{Ids, InvalidRecord, ProgressRecord, RecordType, hash_of};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::fault::KafkaFault;
use super::reader::{ADMIN_LIMIT, ASK_AGAIN, Reader, SLICE, passing};

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressRead {
    /// The last committed record that carries a position.
    pub position: Option<StoredRecord>,
    /// The last committed `open`. Unclosed if the position's session and number are not its own.
    pub last_open: Option<ProgressRecord>,
    /// The claims among the records that were read, the newest last. The newest of all may be older than these.
    pub claims: Vec<ProgressRecord>,
    /// The topic was never cut off at its beginning: with no record in it, there never was one.
    pub log_starts_at_zero: bool,
    /// This very fence made the topic.
    pub topic_was_created: bool,
    /// A table topic of this prefix that holds a record of ours: something was published before. Looked for only where
    /// there is neither a position nor an `open`.
    pub witness: Option<String>,
    /// The ids of the topics that were written, as the newest record that tells them has them.
    pub topic_ids: Option<Ids>,
    /// The cluster's id, if it has one.
    pub kafka_cluster: Option<String>,
    /// Where our own `open` stands; everything below was read.
    pub open_at: i64,
}

/// A record as it stands in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// What it says.
    pub record: ProgressRecord,
    /// The hash of its value: the `previous_hash` of the next one.
    pub hash: String,
}

/// Why the progress could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    /// The readable end did not reach our own transaction: an older one hangs below it.
    #[error("the progress topic is readable up to offset {readable_to} only, our transaction stands at {open_at}")]
    Blocked {
        /// Where our `open` stands.
        open_at: i64,
        /// The last stable offset.
        readable_to: i64,
    },
    /// The readable end went past our own transaction, which therefore is no longer open.
    #[error("our transaction on the progress topic was ended by somebody else")]
    Superseded,
    /// A value that this program does not understand.
    #[error("progress topic, offset {offset}: {cause}")]
    Invalid {
        /// Where it stands.
        offset: i64,
        /// What is wrong with it.
        cause: InvalidRecord,
    },
    /// Kafka cannot be asked.
    #[error(transparent)]
    Kafka(#[from] KafkaFault),
}

/// How far back the first look goes; it doubles until a position, an `open` and the ids of the topics are found.
const FIRST_WINDOW: i64 = 1000;
/// Ids are looked for no further back: a session tells them more often.
const IDS_WINDOW: i64 = 16 * FIRST_WINDOW;

/// Reads everything committed below `open_at`, where our own open transaction stands, from as far back as it takes.
pub(super) fn read_below(
    reader: &Reader,
    topic: &str,
    open_at: i64,
    deadline: Instant,
) -> Result<ProgressRead, ReadError> {
    let log_start = wait_readable(reader, topic, open_at, deadline)?;
    let mut window = FIRST_WINDOW;
    loop {
        let start = (open_at - window).max(log_start);
        let mut read = read_range(reader, topic, start, open_at, deadline)?;
        if read.is_enough(window) || start == log_start {
            read.log_starts_at_zero = log_start == 0;
            read.open_at = open_at;
            return Ok(read);
        }
        window *= 2;
    }
}

/// Reads what is committed now, without a transaction of our own; `None` where there is no such topic.
pub(super) fn read_as_it_is(reader: &Reader, topic: &str) -> Result<Option<ProgressRead>, KafkaFault> {
    if reader.metadata(topic)?.partitions.is_none() {
        return Ok(None);
    }
    let deadline = Instant::now() + ADMIN_LIMIT;
    let (log_start, end) = reader
        .consumer()
        .fetch_watermarks(topic, 0, ADMIN_LIMIT)
        .map_err(|error| KafkaFault::from_error(&error, &reading(topic)))?;
    let mut window = FIRST_WINDOW;
    loop {
        let start = (end - window).max(log_start);
        let failed = |error: ReadError| match error {
            ReadError::Kafka(fault) => fault,
            other => KafkaFault::Failed { doing: reading(topic), reason: other.to_string() },
        };
        let mut read = read_range(reader, topic, start, end, deadline).map_err(failed)?;
        if read.is_enough(window) || start == log_start {
            read.log_starts_at_zero = log_start == 0;
            return Ok(Some(read));
        }
        window *= 2;
    }
}

/// Waits until the last stable offset is our own transaction. From then on it stays there, so that the next end of the
/// partition that the reader tells is that offset. Returns the log start.
fn wait_readable(reader: &Reader, topic: &str, open_at: i64, deadline: Instant) -> Result<i64, ReadError> {
    loop {
        let error = match reader.consumer().fetch_watermarks(topic, 0, SLICE) {
            Ok((log_start, readable_to)) if readable_to == open_at => return Ok(log_start),
            Ok((_, readable_to)) if readable_to > open_at => return Err(ReadError::Superseded),
            Ok((_, readable_to)) => ReadError::Blocked { open_at, readable_to },
            Err(error) => passing(&error, &reading(topic))?.into(),
        };
        if reader.is_cancelled() || Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn read_range(
    reader: &Reader,
    topic: &str,
    start: i64,
    end: i64,
    deadline: Instant,
) -> Result<ProgressRead, ReadError> {
    let mut read = ProgressRead::default();
    if start == end {
        return Ok(read);
    }
    let consumer = reader.consumer();
    let mut assignment = TopicPartitionList::new();
    let assigned =
        assignment.add_partition_offset(topic, 0, Offset::Offset(start)).and_then(|()| consumer.assign(&assignment));
    assigned.map_err(|error| KafkaFault::from_error(&error, &reading(topic)))?;
    let outcome = loop {
        let error = match consumer.poll(SLICE) {
            Some(Ok(message)) => match read.take(message.offset(), message.payload().unwrap_or_default()) {
                Ok(()) => continue,
                Err(error) => break Err(error),
            },
            Some(Err(KafkaError::PartitionEOF(0))) => break Ok(read),
            Some(Err(error)) => match passing(&error, &reading(topic)) {
                Ok(fault) => fault,
                Err(fault) => break Err(fault.into()),
            },
            None => {
                KafkaFault::Unreachable { reason: "the progress topic could not be read to its end in time".to_owned() }
            }
        };
        if reader.is_cancelled() || Instant::now() >= deadline {
            break Err(error.into());
        }
    };
    // Nothing is fetched any more from here on; a failure leaves an idle assignment behind.
    let _ = consumer.unassign();
    outcome
}

impl ProgressRead {
    fn is_enough(&self, window: i64) -> bool {
        self.position.is_some() && self.last_open.is_some() && (self.topic_ids.is_some() || window >= IDS_WINDOW)
    }

    fn take(&mut self, offset: i64, value: &[u8]) -> Result<(), ReadError> {
        let record = ProgressRecord::from_bytes(value).map_err(|cause| ReadError::Invalid { offset, cause })?;
        match record.record_type {
            RecordType::Open => {
                self.last_open = Some(record);
                return Ok(());
            }
            RecordType::Claim => self.claims.push(record.clone()),
            RecordType::Genesis | RecordType::Close | RecordType::Divergence | RecordType::Accept => {}
        }
        if record.topic_ids.is_some() {
            self.topic_ids.clone_from(&record.topic_ids);
        }
        self.position = Some(StoredRecord { record, hash: hash_of(value) });
        Ok(())
    }
}

fn reading(topic: &str) -> String {
    format!("read topic {topic}")
}
