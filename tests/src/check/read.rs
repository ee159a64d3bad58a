//! Reads all topics of a pipeline as a read_committed consumer, from the beginning and on, as they grow.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::history::{History, Record};

const KAFKA_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// Records taken from one topic before the next has its turn.
const TURN: usize = 10_000;

/// A read_committed consumer of nothing yet, that tells the end of a partition.
pub fn consumer(bootstrap: &str) -> Result<BaseConsumer, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "lab")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "10")
        // A broker that comes back is seen at once: the lab measures the product's delay, not the reader's.
        .set("reconnect.backoff.max.ms", "500")
        .create()
}

/// Reads the topics of one pipeline; topics that appear later are taken in as they do.
pub struct Reader {
    bootstrap: String,
    topics: Vec<Topic>,
    history: History,
    ledger_ids: HashSet<String>,
    /// Every record, where they are kept.
    kept: Option<Vec<Record>>,
}

impl Reader {
    /// A reader that starts at the beginning of all topics of the pipeline.
    pub fn new(bootstrap: &str, topic_prefix: &str) -> Self {
        Reader {
            bootstrap: bootstrap.into(),
            topics: Vec::new(),
            history: History::new(topic_prefix),
            ledger_ids: HashSet::new(),
            kept: None,
        }
    }

    /// Keeps every record as it was read, too.
    pub fn keeping(mut self) -> Self {
        self.kept = Some(Vec::new());
        self
    }

    /// Reads until the end of every partition was met and nothing came for `quiet`, or `limit` is over. Returns
    /// whether the end was met.
    pub fn drain(&mut self, quiet: Duration, limit: Instant) -> Result<bool, KafkaError> {
        self.discover()?;
        let mut last = Instant::now();
        while Instant::now() < limit {
            for index in 0..self.topics.len() {
                if self.read(index)? {
                    last = Instant::now();
                }
            }
            if last.elapsed() >= quiet && self.topics.iter().all(Topic::is_at_end) {
                return Ok(true);
            }
            if self.topics.is_empty() {
                std::thread::sleep(POLL);
            }
        }
        Ok(false)
    }

    /// Takes in the topics that were made since.
    fn discover(&mut self) -> Result<(), KafkaError> {
        let metadata = match self.topics.first() {
            Some(topic) => topic.consumer.fetch_metadata(None, KAFKA_LIMIT)?,
            None => consumer(&self.bootstrap)?.fetch_metadata(None, KAFKA_LIMIT)?,
        };
        for topic in metadata.topics() {
            let known = self.topics.iter().any(|known| known.name == topic.name());
            if self.history.wants(topic.name()) && !known {
                let partitions: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
                self.topics.push(Topic::open(&self.bootstrap, topic.name(), &partitions)?);
            }
        }
        Ok(())
    }

    /// Reads what is there now; whether anything was.
    fn read(&mut self, index: usize) -> Result<bool, KafkaError> {
        let topic = &mut self.topics[index];
        let mut any = false;
        for _ in 0..TURN {
            match topic.consumer.poll(POLL) {
                None => return Ok(any),
                Some(Ok(message)) => {
                    any = true;
                    topic.at_end.remove(&message.partition());
                    let record = record(&message);
                    self.ledger_ids.extend(self.history.take(&record));
                    if let Some(kept) = &mut self.kept {
                        kept.push(record);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    topic.at_end.insert(partition);
                    if topic.is_at_end() {
                        return Ok(any);
                    }
                }
                // Passing: the client connects again by itself.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                ))) => return Ok(any),
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(any)
    }

    /// What was read so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The ledger rows that were told so far.
    pub fn ledger_ids(&self) -> &HashSet<String> {
        &self.ledger_ids
    }

    /// All topics of the pipeline with their partitions.
    pub fn partitions(&self) -> Vec<(String, i32)> {
        let partitions = |topic: &Topic| {
            (0..topic.partitions as i32).map(|partition| (topic.name.clone(), partition)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(partitions).collect()
    }

    /// What was read, and the records themselves if they were kept.
    pub fn into_parts(self) -> (History, Vec<Record>) {
        (self.history, self.kept.unwrap_or_default())
    }
}

/// One topic with a consumer of its own: the end-of-partition event names the partition only.
struct Topic {
    name: String,
    consumer: BaseConsumer,
    partitions: usize,
    at_end: HashSet<i32>,
}

impl Topic {
    fn open(bootstrap: &str, name: &str, partitions: &[i32]) -> Result<Self, KafkaError> {
        let consumer = consumer(bootstrap)?;
        let mut all = TopicPartitionList::new();
        for partition in partitions {
            all.add_partition_offset(name, *partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        Ok(Topic { name: name.into(), consumer, partitions: partitions.len(), at_end: HashSet::new() })
    }

    fn is_at_end(&self) -> bool {
        self.at_end.len() == self.partitions
    }
}

fn record(message: &impl Message) -> Record {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        topic: message.topic().into(),
        partition: message.partition(),
        offset: message.offset(),
        at_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(text),
        value: message.payload().map(text),
        headers: headers.map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default()))).collect(),
    }
}
