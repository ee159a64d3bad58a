//! Reads all topics of a pipeline as a read_committed consumer, from the beginning and on, as they grow.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::event::{self, Effect, Raw};
use super::history::{History, Progress};
use super::table::Table;

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
    topic_prefix: String,
    topics: Vec<Topic>,
    history: History,
    ledger_ids: HashSet<String>,
}

impl Reader {
    /// A reader that starts at the beginning of all topics of the pipeline.
    pub fn new(bootstrap: &str, topic_prefix: &str) -> Self {
        Reader {
            bootstrap: bootstrap.into(),
            topic_prefix: topic_prefix.into(),
            topics: Vec::new(),
            history: History::default(),
            ledger_ids: HashSet::new(),
        }
    }

    /// Reads until the end of every partition was met and nothing came for `quiet`, or `limit` is over. Returns
    /// whether the end was met.
    pub fn drain(&mut self, quiet: Duration, limit: Instant) -> Result<bool, KafkaError> {
        self.discover()?;
        let mut last = Instant::now();
        while Instant::now() < limit {
            for topic in &mut self.topics {
                if topic.read(&mut self.history, &mut self.ledger_ids)? {
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
            if let Some(kind) = Kind::of(&self.topic_prefix, topic.name()).filter(|_| !known) {
                let partitions: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
                self.topics.push(Topic::open(&self.bootstrap, topic.name(), kind, &partitions)?);
            }
        }
        Ok(())
    }

    /// What was read so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The ledger rows that were told so far.
    pub fn ledger_ids(&self) -> &HashSet<String> {
        &self.ledger_ids
    }
}

/// What a topic of the pipeline holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data(Table),
    Progress,
    Markers,
    /// A topic of the pipeline for a table that the test database does not have.
    Stranger,
}

impl Kind {
    fn of(topic_prefix: &str, topic: &str) -> Option<Self> {
        if topic == format!("__pgbaton.{topic_prefix}.progress") {
            return Some(Kind::Progress);
        }
        if topic == format!("__pgbaton.{topic_prefix}.markers") {
            return Some(Kind::Markers);
        }
        let table = topic.strip_prefix(topic_prefix)?.strip_prefix('.')?;
        let known = Table::ALL.into_iter().find(|known| table.strip_prefix("public.") == Some(known.name()));
        Some(known.map_or(Kind::Stranger, Kind::Data))
    }
}

/// One topic with a consumer of its own: the end-of-partition event names the partition only.
struct Topic {
    name: String,
    kind: Kind,
    consumer: BaseConsumer,
    partitions: usize,
    at_end: HashSet<i32>,
}

impl Topic {
    fn open(bootstrap: &str, name: &str, kind: Kind, partitions: &[i32]) -> Result<Self, KafkaError> {
        let consumer = consumer(bootstrap)?;
        let mut all = TopicPartitionList::new();
        for partition in partitions {
            all.add_partition_offset(name, *partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        Ok(Topic { name: name.into(), kind, consumer, partitions: partitions.len(), at_end: HashSet::new() })
    }

    fn is_at_end(&self) -> bool {
        self.at_end.len() == self.partitions
    }

    /// Reads what is there now; whether anything was.
    fn read(&mut self, history: &mut History, ledger_ids: &mut HashSet<String>) -> Result<bool, KafkaError> {
        let mut any = false;
        for _ in 0..TURN {
            match self.consumer.poll(POLL) {
                None => return Ok(any),
                Some(Ok(message)) => {
                    any = true;
                    self.at_end.remove(&message.partition());
                    keep(self.kind, &message, history, ledger_ids);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.at_end.insert(partition);
                    if self.is_at_end() {
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
}

fn keep(kind: Kind, message: &impl Message, history: &mut History, ledger_ids: &mut HashSet<String>) {
    let at = || format!("{} partition {} offset {}", message.topic(), message.partition(), message.offset());
    match kind {
        Kind::Data(table) => {
            let header = |name: &str| {
                let headers = message.headers()?;
                headers
                    .iter()
                    .find(|header| header.key == name)
                    .and_then(|header| std::str::from_utf8(header.value?).ok())
            };
            let read = event::read(Raw {
                table,
                partition: message.partition(),
                offset: message.offset(),
                id: header("pgbaton.id"),
                term: header("pgbaton.term"),
                key: message.key(),
                value: message.payload(),
                moves: header("__debezium.newkey").is_some(),
            });
            match read {
                Ok(event) => {
                    if table == Table::Ledger && matches!(event.effect, Effect::Put(_)) {
                        ledger_ids.insert(event.key.clone());
                    }
                    history.events.push(event);
                }
                Err(words) => history.unreadable.push(words),
            }
        }
        Kind::Progress => {
            let value = message.payload().unwrap_or_default();
            match serde_json::from_slice(value) {
                Ok(says) => history.progress.push(Progress {
                    offset: message.offset(),
                    key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
                    value: value.to_vec(),
                    says,
                }),
                Err(error) => history.unreadable.push(format!("{}: {error}", at())),
            }
        }
        Kind::Markers => match serde_json::from_slice(message.payload().unwrap_or_default()) {
            Ok(marker) => history.markers.push(marker),
            Err(error) => history.unreadable.push(format!("{}: {error}", at())),
        },
        Kind::Stranger => history.unreadable.push(format!("{} is of a table that nobody wrote", at())),
    }
}
