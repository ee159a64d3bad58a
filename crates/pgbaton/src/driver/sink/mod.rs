//! Where the records of a session go and where its progress is kept: the one seam between the two kinds of delivery. All
//! above it is the same for both.
//!
//! | | exactly once | at least once |
//! |---|---|---|
//! | older sessions | fenced by the producer's epoch | kept away by the lease |
//! | a batch of changes ends | as a Kafka transaction, with its progress | acknowledged, then recorded in etcd |
//! | progress | the progress topic | the `checkpoint` key, guarded by the holder key |

mod at_least_once;
mod exactly_once;

use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::{
    ClaimPlan, Code, EventId, FenceRead, Found, Known, Moment, ProgressRecord, Remains, SessionEnd, Standing, Tenure,
    Term,
};
use pgbaton_sinks::kafka::{
    Accepted, BeginError, DataRecord, FenceError, FoundRecord, KafkaFault, KafkaSession, KafkaStandby, ReadBackError,
    SessionError, SinkEvent, TopicError, WriteError,
};
use tokio::time::timeout;

use super::failures;
use crate::clock::boottime;
use crate::config::Delivery;
use crate::coordination::{Etcd, Kept, KeptError};
use at_least_once::AtLeastOnce;

/// The coordinator's part of a commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(10);
/// Init, `open` and reading progress. Reading alone may take half of the transaction time-out, 30 s, and then says itself
/// what blocks it.
const FENCE_LIMIT: Duration = Duration::from_secs(50);
/// Reading back what progress does not tell of, while our own claim waits.
const READ_BACK_LIMIT: Duration = Duration::from_secs(20);

/// What sessions with Kafka are made of.
pub struct Delivering {
    /// Which kind.
    pub delivery: Delivery,
    /// Kept warm; also says whether Kafka answers.
    pub kafka: Arc<KafkaStandby>,
    /// The pipeline's keys, where there is an etcd.
    pub etcd: Option<Arc<Etcd>>,
    /// The pipeline's name.
    pub pipeline: String,
    /// How long a record is tried where nothing but the lease keeps others away.
    pub patience: Duration,
}

/// Kafka, and where progress is kept, for one session.
pub enum Sink {
    /// Transactions, fenced.
    ExactlyOnce(Box<KafkaSession>),
    /// Acknowledged, then recorded in etcd.
    AtLeastOnce(Box<AtLeastOnce>),
}

/// What a sink tells.
pub enum Told {
    /// What [`Sink::commit`] was asked for is durable; how long it took.
    Committed(Duration),
    /// Records were acknowledged: the front moves, and there is room.
    Delivered,
    /// The session is over.
    Failed(SessionEnd),
}

impl Delivering {
    /// Fences older sessions where that can be done, and reads how far they have come. Which topics Kafka has now is not asked.
    pub async fn fence(&self, worker: &str, session: String, tenure: Tenure) -> Result<(Sink, FenceRead), SessionEnd> {
        match self.delivery {
            Delivery::ExactlyOnce => exactly_once::fence(self, worker, session).await,
            Delivery::AtLeastOnce => at_least_once::fence(self, worker, session, tenure).await,
        }
    }

    /// What etcd says of progress.
    async fn kept(&self) -> Result<Kept, SessionEnd> {
        let Some(etcd) = &self.etcd else { return Ok(Kept::default()) };
        etcd.checkpoint(&self.kafka.target().topic_prefix).await.map_err(|error| {
            let code = match error {
                KeptError::Etcd(_) => Code::EtcdUnreachable,
                KeptError::Invalid(_) => Code::ProgressTopicInvalid,
            };
            SessionEnd::Sink { code, detail: error.to_string() }
        })
    }
}

async fn in_time<T>(fencing: impl Future<Output = Result<T, FenceError>>) -> Result<T, SessionEnd> {
    match timeout(FENCE_LIMIT, fencing).await {
        Ok(fenced) => fenced.map_err(|error| failures::fence(&error)),
        Err(_) => {
            let detail = format!("Kafka did not answer within {} s", FENCE_LIMIT.as_secs());
            Err(SessionEnd::Sink { code: Code::KafkaUnreachable, detail })
        }
    }
}

fn ends_in_ours(topic: &str) -> String {
    format!("topic {topic} ends in a record of this pipeline")
}

impl Sink {
    /// Makes the topics that are missing, and makes the claim durable: from now on what is published belongs to it. Topics are
    /// made only now: a pipeline that may not start leaves none behind.
    pub async fn claim(mut self, plan: &ClaimPlan) -> Result<Sink, SessionEnd> {
        let names: Vec<&str> = plan.topics().iter().map(String::as_str).collect();
        if let Err(error) = self.prepare_topics(&names).await {
            self.close(true).await;
            return Err(failures::topic(&error));
        }
        match &mut self {
            Sink::ExactlyOnce(session) => {
                let records = &plan.records;
                let claimed = session.claim(&records.progress, &records.markers, COMMIT_LIMIT).await;
                claimed.map_err(|error| failures::session(&error))?;
            }
            Sink::AtLeastOnce(sink) => sink.claim(plan).await?,
        }
        Ok(self)
    }

    /// Reads what stands in the topics of the pipeline's tables beyond what progress knows of. Before the claim only.
    pub async fn read_back(&self, prefix: &str, known: Known) -> Result<Remains, (Code, String)> {
        let topics = self.table_topics(prefix).await.map_err(|fault| failures::kafka(&fault))?;
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let found = self.read_ends(&topics, move |id, term| known.standing(id, term)).await;
        let found = found.map_err(|error| failures::read_back(&error))?;
        let found = found.into_iter().map(|FoundRecord { topic, key, id, .. }| Found { topic, key, id });
        Ok(Remains::new(found.collect()))
    }

    async fn table_topics(&self, prefix: &str) -> Result<Vec<String>, KafkaFault> {
        match self {
            Sink::ExactlyOnce(session) => session.table_topics(prefix).await,
            Sink::AtLeastOnce(sink) => sink.session.table_topics(prefix).await,
        }
    }

    async fn read_ends(
        &self,
        topics: &[&str],
        judge: impl Fn(&EventId, Option<Term>) -> Standing + Send + 'static,
    ) -> Result<Vec<FoundRecord>, ReadBackError> {
        match self {
            Sink::ExactlyOnce(session) => session.read_back(topics, judge, READ_BACK_LIMIT).await,
            Sink::AtLeastOnce(sink) => sink.session.read_back(topics, judge, READ_BACK_LIMIT).await,
        }
    }

    /// Makes sure that the topics exist. Cancel-safe: the next call goes on waiting for what was begun.
    pub async fn prepare_topics(&mut self, topics: &[&str]) -> Result<(), TopicError> {
        match self {
            Sink::ExactlyOnce(session) => session.prepare_topics(topics).await,
            Sink::AtLeastOnce(sink) => sink.session.prepare_topics(topics).await,
        }
    }

    /// Begins a batch of changes.
    pub fn begin(&mut self, open: &ProgressRecord) -> Result<(), SessionEnd> {
        match self {
            Sink::ExactlyOnce(session) => session.begin(open).map_err(|error| match error {
                BeginError::Session(error) => failures::session(&error),
                other => SessionEnd::ProducerSpent(other.to_string()),
            }),
            Sink::AtLeastOnce(_) => Ok(()),
        }
    }

    /// A record may be handed over now. `hands_over_until`: what the lease allows where nothing but it keeps others away.
    pub fn has_room(&self, hands_over_until: Option<Moment>) -> bool {
        match self {
            Sink::ExactlyOnce(_) => true,
            Sink::AtLeastOnce(sink) => hands_over_until.is_some_and(|until| boottime() < until) && sink.has_room(),
        }
    }

    /// Hands a record over. Never blocks.
    pub fn write(&mut self, record: &DataRecord<'_>) -> Result<Accepted, SessionEnd> {
        let written = match self {
            Sink::ExactlyOnce(session) => session.write(record),
            Sink::AtLeastOnce(sink) => sink.session.write(record),
        };
        written.map_err(|error| match error {
            WriteError::Session(error) => failures::session(&error),
            other => SessionEnd::Sink { code: Code::KafkaUnreachable, detail: other.to_string() },
        })
    }

    /// Ends the batch: once all of it and `close` are durable, [`Told::Committed`] says so. Returns at once.
    pub fn commit(&mut self, close: ProgressRecord) {
        match self {
            Sink::ExactlyOnce(session) => session.commit(&close, COMMIT_LIMIT),
            Sink::AtLeastOnce(sink) => sink.commit(close),
        }
    }

    /// Waits for the next event. Cancel-safe: an event that was not returned is told by the next call.
    pub async fn event(&mut self) -> Told {
        match self {
            Sink::ExactlyOnce(session) => match session.event().await {
                SinkEvent::Committed(report) => Told::Committed(report.took),
                SinkEvent::Delivered => Told::Delivered,
                SinkEvent::Failed(error) => Told::Failed(failures::session(&error)),
            },
            Sink::AtLeastOnce(sink) => sink.event().await,
        }
    }

    /// Records handed over and not yet acknowledged.
    pub fn in_flight(&self) -> u64 {
        match self {
            Sink::ExactlyOnce(session) => session.in_flight(),
            Sink::AtLeastOnce(sink) => sink.session.in_flight(),
        }
    }

    /// Kafka owes us an answer. `committing`: the end of a batch is under way.
    pub fn waits_for_kafka(&self, committing: bool) -> bool {
        self.in_flight() > 0 || (committing && matches!(self, Sink::ExactlyOnce(_)))
    }

    /// What was published last may come once more in the next session.
    pub fn may_repeat(&self) -> bool {
        matches!(self, Sink::AtLeastOnce(_))
    }

    /// Ends it, best effort; `open`: a transaction is. The next session finds out what came of it.
    pub async fn close(self, open: bool) {
        match self {
            Sink::ExactlyOnce(session) if open => session.abort().await,
            Sink::ExactlyOnce(_) => {}
            Sink::AtLeastOnce(sink) => sink.close().await,
        }
    }
}

fn lost(error: &SessionError) -> SessionEnd {
    failures::session(error)
}
