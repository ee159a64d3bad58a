//! A read_committed client that asks and reads; it never makes the broker create a topic by the mere question.
//!
//! All calls block; they belong on the thread of `calls`.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::calls::Cancelled;
use super::fault::KafkaFault;
use super::target::KafkaTarget;
use super::told::Told;

/// How long an administrative question may take before it is a fault.
pub(super) const ADMIN_LIMIT: Duration = Duration::from_secs(10);
/// A blocking call is cut into pieces this long, to look whether anybody still waits.
pub(super) const SLICE: Duration = Duration::from_millis(500);

/// Between two questions for something of which the broker tells nobody.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(5);

/// The client.
pub(super) struct Reader {
    consumer: BaseConsumer<Told>,
    cancelled: Cancelled,
}

impl Reader {
    pub fn connect(target: &KafkaTarget, cancelled: Cancelled) -> Result<Self, KafkaFault> {
        let consumer = target
            .reader()
            .create_with_context(Told::default())
            .map_err(|error| KafkaFault::from_error(&error, "create a reader"))?;
        Ok(Reader { consumer, cancelled })
    }

    pub fn consumer(&self) -> &BaseConsumer<Told> {
        &self.consumer
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_set()
    }

    /// The cluster's id, if it has one.
    pub fn cluster_id(&self) -> Option<String> {
        self.consumer.client().fetch_cluster_id(SLICE)
    }

    /// Asks whether the topic is there, and how the cluster looks.
    pub fn metadata(&self, topic: &str) -> Result<Found, KafkaFault> {
        self.metadata_within(topic, ADMIN_LIMIT)
    }

    /// The same with a limit: also a probe of whether anybody answers at all.
    pub fn metadata_within(&self, topic: &str, limit: Duration) -> Result<Found, KafkaFault> {
        let doing = format!("describe topic {topic}");
        let told = self.consumer.client().context();
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (code, error) = match self.consumer.client().fetch_metadata(Some(topic), left.min(SLICE)) {
                Ok(metadata) => {
                    let topics = metadata.topics();
                    let found = topics.first().map(|topic| (topic.error(), topic.partitions().len()));
                    let code = found.and_then(|(error, _)| error).map(Code::from);
                    let partitions = found.map_or(0, |(_, partitions)| partitions as i32);
                    let answer = |partitions| Found {
                        partitions,
                        brokers: metadata.brokers().len(),
                        // Not the one that answered: it may be known by its address only, and has no id then.
                        any_broker: metadata.brokers().first().map_or(-1, |broker| broker.id()),
                    };
                    match code {
                        None | Some(Code::UnknownTopicOrPartition) => {
                            self.listen();
                            told.last_error.clear();
                            return Ok(answer(Some(partitions).filter(|partitions| *partitions > 0)));
                        }
                        Some(code) => (code, KafkaError::MetadataFetch(code)),
                    }
                }
                Err(error) => (error.rdkafka_error_code().unwrap_or(Code::Unknown), error),
            };
            self.listen();
            let fault = told.last_error.explain(&error, &doing);
            if !KafkaFault::from_code(code, "", &doing).is_passing() || told.last_error.refusal(&doing).is_some() {
                return Err(fault);
            }
            if self.cancelled.is_set() || Instant::now() >= deadline {
                return Err(fault);
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// Takes what the library has to tell: nobody else polls the reader, and it would pile up.
    fn listen(&self) {
        for _ in 0..EVENTS_AT_ONCE {
            let _ = self.consumer.poll(Duration::ZERO);
        }
    }
}

/// More than come between two questions.
const EVENTS_AT_ONCE: usize = 32;

/// The fault to report if an error of reading does not pass in time; an error if waiting does not help.
pub(super) fn passing(error: &KafkaError, doing: &str) -> Result<KafkaFault, KafkaFault> {
    // The reader joins no group: that it may not ask for one does not concern it.
    if error.rdkafka_error_code() == Some(Code::GroupAuthorizationFailed) {
        return Ok(KafkaFault::Unreachable { reason: error.to_string() });
    }
    let fault = KafkaFault::from_error(error, doing);
    if fault.is_passing() { Ok(fault) } else { Err(fault) }
}

/// What metadata says of one topic and its cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// `None`: there is no such topic.
    pub partitions: Option<i32>,
    brokers: usize,
    /// A broker of the cluster.
    pub any_broker: i32,
}

impl Found {
    /// The replication factor of a topic that we make.
    pub fn replication(self) -> i32 {
        self.brokers.clamp(1, 3) as i32
    }
}
