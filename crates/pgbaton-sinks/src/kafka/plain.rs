//! A session without transactions: idempotent, acknowledged by all, fencing nobody. What it has written counts once it is
//! acknowledged *and* recorded elsewhere; whoever follows writes the rest again.
//!
//! ```text
//! begin -> mark -> ( write* -> settled -> recorded by the caller )* -> end
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgbaton_core::{EventId, ProgressRecord, Standing, Term};
use tokio::runtime::Handle;

use super::back::{FoundRecord, ReadBackError};
use super::calls::{Calls, Cancelled};
use super::clients::Names;
use super::contract::{Accepted, DataRecord, SinkEvent, WriteError};
use super::fault::KafkaFault;
use super::fence::{Established, FenceError};
use super::outcome::SessionError;
use super::producer::Producer;
use super::progress::{ProgressRead, read_as_it_is};
use super::sending::Sending;
use super::target::KafkaTarget;
use super::topics::{Required, TopicError, Topics};
use super::witness::find_record_of_ours;
use crate::topic::{markers_topic, progress_topic};

/// How long the reading at the beginning may take.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// What is on its way when a session ends is waited for so long: nothing of it shall arrive after the next one has looked.
const QUIET_LIMIT: Duration = Duration::from_secs(2);

/// A session that has begun, and what stands in Kafka.
#[derive(Debug)]
pub struct Begun {
    /// The session.
    pub session: PlainSession,
    /// What the progress topic says, if there is one: a pipeline that was told exactly once has one. Nobody is fenced, so
    /// more may be committed to it.
    pub progress: Option<ProgressRead>,
    /// A table topic that ends in a record of ours, if that was looked for.
    pub witness: Option<String>,
    /// The cluster's id, if it has one.
    pub kafka_cluster: Option<String>,
}

/// One producer instance that fences nobody.
pub struct PlainSession {
    sending: Sending,
    over: Option<SessionError>,
}

impl PlainSession {
    /// Makes a producer that gives a record up after `patience`, and reads what stands in Kafka: with `look_for_witness` also
    /// whether there are records of ours, which must not be taken for a first start.
    pub async fn begin(target: &KafkaTarget, patience: Duration, look_for_witness: bool) -> Result<Begun, FenceError> {
        let calls = Calls::start()?;
        let (target, runtime, cancelled) = (target.clone(), Handle::current(), calls.cancelled().clone());
        let establishing = move || {
            let established = establish(&target, patience, runtime, &cancelled)?;
            let reader = established.topics.reader();
            let progress = read_as_it_is(reader, &established.names.progress)?;
            let witness = match look_for_witness && progress.is_none() {
                true => find_record_of_ours(reader, &target.topic_prefix, Instant::now() + READ_LIMIT)?,
                false => None,
            };
            let kafka_cluster = reader.cluster_id();
            Ok::<_, FenceError>((established, progress, witness, kafka_cluster))
        };
        let (established, progress, witness, kafka_cluster) = calls.run(establishing).await?;
        let session = PlainSession { sending: Sending::new(established, calls, 0), over: None };
        Ok(Begun { session, progress, witness, kafka_cluster })
    }

    /// Writes `markers` to the markers topic, and waits until they are acknowledged.
    pub async fn mark(&mut self, markers: &[ProgressRecord]) -> Result<(), SessionError> {
        let (established, markers) = (Arc::clone(self.sending.established()), markers.to_vec());
        self.sending.sent += markers.len() as u64;
        let (count, cancelled) = (self.sending.sent, self.sending.calls.cancelled().clone());
        self.sending
            .calls
            .run(move || {
                let Established { producer, names, .. } = &*established;
                markers.iter().try_for_each(|marker| producer.write(&names.markers, marker, &cancelled))?;
                producer.settle(count, &cancelled)
            })
            .await
    }

    /// See [`KafkaSession::table_topics`](super::KafkaSession::table_topics).
    pub async fn table_topics(&self, prefix: &str) -> Result<Vec<String>, KafkaFault> {
        self.sending.table_topics(prefix).await
    }

    /// See [`KafkaSession::read_back`](super::KafkaSession::read_back).
    pub async fn read_back(
        &self,
        topics: &[&str],
        judge: impl Fn(&EventId, Option<Term>) -> Standing + Send + 'static,
        limit: Duration,
    ) -> Result<Vec<FoundRecord>, ReadBackError> {
        self.sending.read_back(topics, judge, limit).await
    }

    /// See [`KafkaSession::prepare_topics`](super::KafkaSession::prepare_topics).
    pub async fn prepare_topics(&mut self, topics: &[&str]) -> Result<(), TopicError> {
        self.sending.prepare_topics(topics).await
    }

    /// Hands a record to the library, which copies it. Never blocks.
    pub fn write(&mut self, record: &DataRecord<'_>) -> Result<Accepted, WriteError> {
        if let Some(error) = &self.over {
            return Err(error.clone().into());
        }
        let partitions = self.sending.partitions(record.topic)?;
        self.sending.write(record, partitions).map_err(|error| {
            self.over = Some(error.clone());
            error.into()
        })
    }

    /// Whether all that was written is acknowledged; an error as soon as something is not and never will be.
    pub fn settled(&mut self) -> Result<bool, SessionError> {
        // The count first: what failed is noted before it is counted.
        let all = self.in_flight() == 0;
        match self.over.clone().or_else(|| self.sending.failure()) {
            Some(error) => Err(self.over.insert(error).clone()),
            None => Ok(all),
        }
    }

    /// Waits for the next event, which is never [`SinkEvent::Committed`]. Cancel-safe: an event that was not returned is told
    /// by the next call.
    pub async fn event(&mut self) -> SinkEvent {
        loop {
            if let Err(error) = self.settled() {
                return SinkEvent::Failed(error);
            }
            if self.sending.instance().take_news() {
                return SinkEvent::Delivered;
            }
            self.sending.instance().wake.notified().await;
        }
    }

    /// Records handed over and not yet acknowledged.
    pub fn in_flight(&self) -> u64 {
        self.sending.in_flight()
    }

    /// Sends nothing more, and waits a little for the outcome of what is on its way.
    pub async fn end(self) {
        let (established, count) = (Arc::clone(self.sending.established()), self.sending.sent);
        let quiet = self.sending.calls.run(move || {
            established.producer.silence();
            established.producer.instance().wait_delivered(count, QUIET_LIMIT)
        });
        if !tokio::time::timeout(2 * QUIET_LIMIT, quiet).await.unwrap_or_default() {
            tracing::debug!("records were on their way when the session ended");
        }
    }
}

impl std::fmt::Debug for PlainSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainSession").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

fn establish(
    target: &KafkaTarget,
    patience: Duration,
    runtime: Handle,
    cancelled: &Cancelled,
) -> Result<Established, FenceError> {
    target.check_plain(patience)?;
    let names = Names { progress: progress_topic(&target.topic_prefix), markers: markers_topic(&target.topic_prefix) };
    let topics = Topics::connect(target, runtime, cancelled.clone())?;
    let prepared = topics.ensure_required(&[Required::markers(names.markers.clone())])?;
    let producer = Producer::plain(target, prepared.message_max_bytes, patience)?;
    Ok(Established { producer, topics, names })
}
