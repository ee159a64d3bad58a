//! Reading back what a torn transaction has left in the data topics.
//!
//! A transaction of an older session may be committed in part: the progress topic does not tell of it, the data topics
//! do. What is found there was published, and is not published again. What is beyond the progress is not decided here.
//!
//! The calls block; they belong on the thread of `calls`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use pgbaton_core::{EventId, Standing, Term};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::fault::KafkaFault;
use super::reader::{Reader, SLICE, passing};
use super::witness::{ID_HEADER, TERM_HEADER};

/// What a record with this id and under this term is to progress.
pub(super) type Judge = dyn Fn(&EventId, Option<Term>) -> Standing;

/// A committed record that the progress does not know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRecord {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its key, if it has one.
    pub key: Option<Box<[u8]>>,
    /// What it says in `pgbaton.id`.
    pub id: EventId,
}

/// Why the topics could not be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadBackError {
    /// More than one transaction can have left, or more than we want to hold: not torn, but progress that was lost.
    #[error("more than {MOST_RECORDS} records or {} MiB of keys are beyond the progress record", MOST_KEY_BYTES >> 20)]
    TooMuch,
    /// A record has an id that none of ours can have.
    #[error("topic {topic}, partition {partition}, offset {offset}: pgbaton.id is not an id")]
    InvalidId {
        /// Its topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Where it stands.
        offset: i64,
    },
    /// Kafka cannot be asked, or not in time.
    #[error(transparent)]
    Kafka(#[from] KafkaFault),
}

/// The most records that are kept.
const MOST_RECORDS: usize = 1_000_000;
/// The most bytes of keys that are kept.
const MOST_KEY_BYTES: usize = 256 << 20;
/// How many offsets of each partition the first look goes back. Each further one goes back twice as far.
const FIRST_WINDOW: i64 = 1000;

/// What is left to be read of a partition: offsets from `start` up to and without `end`. Below `log_start` is nothing.
#[derive(Debug, Clone, Copy)]
struct Window {
    log_start: i64,
    start: i64,
    end: i64,
    /// A record that progress tells of was met: it tells of all older ones, too.
    bottom: bool,
}

/// Of one topic, by partition.
type Windows = HashMap<i32, Window>;

/// Reads every partition of the topics from its readable end back to a record that progress tells of, and returns those that
/// are beyond, in no order. Topics that do not exist hold nothing.
pub(super) fn read_back(
    reader: &Reader,
    topics: &[String],
    judge: &Judge,
    deadline: Instant,
) -> Result<Vec<FoundRecord>, ReadBackError> {
    let mut found = Found::default();
    for topic in topics {
        let topic = Topic { reader, name: topic.as_str().into(), deadline };
        let mut windows = topic.ends()?;
        let mut size = FIRST_WINDOW;
        loop {
            windows.retain(|_, window| !window.bottom && window.start > window.log_start);
            if windows.is_empty() {
                break;
            }
            for window in windows.values_mut() {
                window.end = window.start;
                window.start = (window.end - size).max(window.log_start);
            }
            let outcome = topic.read(&mut windows, judge, &mut found);
            // Nothing is fetched any more from here on; a failure leaves an idle assignment behind.
            let _ = reader.consumer().unassign();
            outcome?;
            size *= 2;
        }
    }
    Ok(found.records)
}

/// One topic at a time: the library tells the end of a partition without saying of which topic.
struct Topic<'a> {
    reader: &'a Reader,
    name: Arc<str>,
    deadline: Instant,
}

impl Topic<'_> {
    /// The readable ends. Nothing of ours is open in a data topic now: the older sessions' transactions were ended before
    /// our own producer got its id, and it writes data only after its claim.
    fn ends(&self) -> Result<Windows, ReadBackError> {
        let mut windows = HashMap::new();
        for partition in 0..self.reader.metadata(&self.name)?.partitions.unwrap_or(0) {
            let (log_start, end) = loop {
                match self.reader.consumer().fetch_watermarks(&self.name, partition, SLICE) {
                    Ok(marks) => break marks,
                    Err(error) => self.in_time(passing(&error, &self.doing())?)?,
                }
            };
            windows.insert(partition, Window { log_start, start: end, end, bottom: false });
        }
        Ok(windows)
    }

    /// Reads all windows side by side.
    fn read(&self, windows: &mut Windows, judge: &Judge, found: &mut Found) -> Result<(), ReadBackError> {
        let failed = |error: KafkaError| KafkaFault::from_error(&error, &self.doing());
        let mut assignment = TopicPartitionList::new();
        for (partition, window) in &*windows {
            assignment.add_partition_offset(&self.name, *partition, Offset::Offset(window.start)).map_err(failed)?;
        }
        self.reader.consumer().assign(&assignment).map_err(failed)?;
        let mut unread: HashSet<i32> = windows.keys().copied().collect();
        while !unread.is_empty() {
            match self.reader.consumer().poll(SLICE) {
                Some(Ok(message)) => {
                    let partition = message.partition();
                    let Some(window) = windows.get_mut(&partition).filter(|_| unread.contains(&partition)) else {
                        continue;
                    };
                    if message.offset() >= window.end {
                        unread.remove(&partition);
                    } else if let Some(id) = id_of(&message)? {
                        match judge(&id, term_of(&message)) {
                            Standing::Beyond => found.add(&self.name, partition, message.key(), id)?,
                            Standing::Phantom => {}
                            Standing::Told => window.bottom = true,
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(unread.remove(&partition)),
                Some(Err(error)) => drop(passing(&error, &self.doing())?),
                None => {}
            }
            self.in_time(KafkaFault::Unreachable { reason: format!("{}: no end in time", self.doing()) })?;
        }
        Ok(())
    }

    /// Ends the wait with the fault behind it, if it is too long.
    fn in_time(&self, fault: KafkaFault) -> Result<(), KafkaFault> {
        if self.reader.is_cancelled() || Instant::now() >= self.deadline { Err(fault) } else { Ok(()) }
    }

    fn doing(&self) -> String {
        format!("read back topic {}", self.name)
    }
}

/// The id of a record; `None` if it is not one of ours.
fn id_of(message: &BorrowedMessage<'_>) -> Result<Option<EventId>, ReadBackError> {
    let Some(headers) = message.headers() else { return Ok(None) };
    let Some(header) = headers.iter().find(|header| header.key == ID_HEADER) else { return Ok(None) };
    let text = header.value.and_then(|value| std::str::from_utf8(value).ok());
    match text.and_then(|text| text.parse().ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(ReadBackError::InvalidId {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
        }),
    }
}

/// The term of a record of ours, if it tells one.
fn term_of(message: &BorrowedMessage<'_>) -> Option<Term> {
    let header = message.headers()?.iter().find(|header| header.key == TERM_HEADER)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok().map(Term)
}

#[derive(Default)]
struct Found {
    records: Vec<FoundRecord>,
    key_bytes: usize,
}

impl Found {
    fn add(&mut self, topic: &Arc<str>, partition: i32, key: Option<&[u8]>, id: EventId) -> Result<(), ReadBackError> {
        self.key_bytes += key.map_or(0, <[u8]>::len);
        if self.records.len() == MOST_RECORDS || self.key_bytes > MOST_KEY_BYTES {
            return Err(ReadBackError::TooMuch);
        }
        self.records.push(FoundRecord { topic: Arc::clone(topic), partition, key: key.map(Box::from), id });
        Ok(())
    }
}
