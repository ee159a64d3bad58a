//! A session with Kafka: one producer instance, one term. It decides nothing about positions; it is handed finished
//! records, and tells what became of them.
//!
//! ```text
//! fence -> claim -> ( begin -> write* -> commit -> Committed )* -> abort, or dropped
//! ```
//!
//! Nothing here blocks the caller: what blocks in the library runs on the session's own thread. Whatever fails, the
//! session is over. An abort consumes it, so that no instance can begin again after one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgbaton_core::{EventId, ProgressRecord};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use tokio::runtime::Handle;

use super::back::{FoundRecord, ReadBackError, read_back};
use super::calls::Calls;
use super::clients::Clients;
use super::contract::{Accepted, BeginError, DataRecord, SinkEvent, WriteError};
use super::fault::KafkaFault;
use super::fence::{ABORT_LIMIT, Established, FenceError, establish, queue_full};
use super::instance::{Instance, ORDINARY};
use super::outcome::{CommitReport, SessionError};
use super::progress::ProgressRead;
use super::taint::Taint;
use super::target::KafkaTarget;
use super::told::lock;
use super::topics::{TopicError, TopicShape};
use super::witness::table_topics;
use crate::topic::partition;

/// A session that has fenced all older ones, and what they have left.
#[derive(Debug)]
pub struct Fenced {
    /// The session. Its first transaction is open and waits for its claim.
    pub session: KafkaSession,
    /// Everything that was committed before.
    pub read: ProgressRead,
}

/// One producer instance, and with it one term.
pub struct KafkaSession {
    /// Taken by `drop` only.
    established: Option<Arc<Established>>,
    calls: Calls,
    phase: Phase,
    /// What became of a commit, put there by the session's thread.
    outcome: Arc<Mutex<Option<Result<CommitReport, SessionError>>>>,
    /// Records handed to the library since the instance was created.
    sent: u64,
    /// How many of them are acknowledged at least when the open transaction's first record is.
    open_by: u64,
    topics: HashMap<String, TopicShape>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Idle,
    Open,
    Committing,
    Over(SessionError),
}

impl KafkaSession {
    /// Fences every older session, writes `open` as the first record of a first transaction, and reads everything that
    /// was committed below it. If the future is dropped, the attempt ends by itself.
    pub async fn fence(target: &KafkaTarget, open: &ProgressRecord) -> Result<Fenced, FenceError> {
        KafkaSession::fence_with(target, open, Calls::start()?, None).await
    }

    /// The same on a given thread, with the clients that have been kept there.
    pub(super) async fn fence_with(
        target: &KafkaTarget,
        open: &ProgressRecord,
        calls: Calls,
        clients: Option<Clients>,
    ) -> Result<Fenced, FenceError> {
        let (target, open, runtime) = (target.clone(), open.clone(), Handle::current());
        let cancelled = calls.cancelled().clone();
        let (established, read) = calls.run(move || establish(&target, &open, clients, runtime, &cancelled)).await?;
        let session = KafkaSession {
            established: Some(Arc::new(established)),
            calls,
            phase: Phase::Open,
            outcome: Arc::default(),
            sent: 1,
            open_by: 1,
            topics: HashMap::new(),
        };
        Ok(Fenced { session, read })
    }

    /// Ends the first transaction: `records` in their order, the claim last, to the progress topic; `markers` to the
    /// markers topic. The coordinator may take as long as `limit`.
    pub async fn claim(
        &mut self,
        records: &[ProgressRecord],
        markers: &[ProgressRecord],
        limit: Duration,
    ) -> Result<CommitReport, SessionError> {
        self.end(records.to_vec(), markers.to_vec(), limit);
        loop {
            match self.event().await {
                SinkEvent::Committed(report) => return Ok(report),
                SinkEvent::Failed(error) => return Err(error),
                SinkEvent::Delivered => {}
            }
        }
    }

    /// Every topic of a table below `prefix`, whether its table is still published or not.
    pub async fn table_topics(&self, prefix: &str) -> Result<Vec<String>, KafkaFault> {
        let (established, prefix) = (Arc::clone(self.established()), prefix.to_owned());
        let topics = self.calls.run(move || table_topics(established.topics.reader(), &prefix)).await?;
        Ok(topics.into_iter().map(|(topic, _)| topic).collect())
    }

    /// Reads what stands at the ends of `topics` and is beyond the progress, as `is_beyond` knows it by its id: what a torn
    /// transaction has left. In no order. For a session whose claim is not written yet, so that nobody writes meanwhile.
    ///
    /// Each partition is read from its readable end back until a record of ours that is not beyond, in steps that double.
    /// A million records or 256 MiB of keys are an error: no transaction of ours leaves as much.
    pub async fn read_back(
        &self,
        topics: &[&str],
        is_beyond: impl Fn(&EventId) -> bool + Send + 'static,
        limit: Duration,
    ) -> Result<Vec<FoundRecord>, ReadBackError> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let (established, deadline) = (Arc::clone(self.established()), Instant::now() + limit);
        self.calls.run(move || read_back(established.topics.reader(), &topics, &is_beyond, deadline)).await
    }

    /// Begins a transaction with `open` as its first record. Does not block. Data is taken once `open` is acknowledged: the
    /// leaders of its partitions are other brokers than the progress topic's, and a late end of an older transaction that
    /// falls between would leave data without any trace of a transaction.
    pub fn begin(&mut self, open: &ProgressRecord) -> Result<(), BeginError> {
        match &self.phase {
            Phase::Idle => {}
            Phase::Open | Phase::Committing => return Err(BeginError::NotOver),
            Phase::Over(error) => return Err(error.clone().into()),
        }
        if let Some(taint) = self.tainted() {
            return Err(BeginError::Tainted(taint));
        }
        let Established { producer, names, .. } = &**self.established();
        let begun = producer
            .failure(|topic| self.limit_of(topic))
            .map_or(Ok(()), Err)
            .and_then(|()| producer.begin())
            .and_then(|()| producer.offer(&names.progress, open, ORDINARY))
            .and_then(|accepted| match accepted {
                Accepted::Queued => Ok(()),
                Accepted::QueueFull => Err(queue_full(&names.progress)),
            });
        match begun {
            Ok(()) => {
                self.sent += 1;
                self.open_by = self.sent;
                self.phase = Phase::Open;
                Ok(())
            }
            Err(error) => {
                self.phase = Phase::Over(error.clone());
                Err(error.into())
            }
        }
    }

    /// Hands a record to the library, which copies it. Never blocks.
    pub fn write(&mut self, record: &DataRecord<'_>) -> Result<Accepted, WriteError> {
        let &DataRecord { topic, key, value, headers } = record;
        match &self.phase {
            Phase::Open => {}
            Phase::Idle | Phase::Committing => return Err(WriteError::NoTransaction),
            Phase::Over(error) => return Err(error.clone().into()),
        }
        let Some(shape) = self.topics.get(topic) else {
            return Err(WriteError::TopicNotPrepared(topic.to_owned()));
        };
        if self.instance().delivered() < self.open_by {
            return Ok(Accepted::QueueFull);
        }
        let producer = &self.established().producer;
        let mut out = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, ORDINARY)
            .partition(partition(topic, key, shape.partitions))
            .headers(headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |owned, &(key, value)| {
                owned.insert(Header { key, value: Some(value) })
            }));
        out.key = key;
        out.payload = value;
        let Err((error, _)) = producer.client().send(out) else {
            self.sent += 1;
            return Ok(Accepted::Queued);
        };
        match error.rdkafka_error_code() {
            Some(Code::QueueFull) => Ok(Accepted::QueueFull),
            _ => {
                let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
                let error = producer.why_not_sent(topic, bytes, &error);
                self.phase = Phase::Over(error.clone());
                Err(error.into())
            }
        }
    }

    /// Makes sure that the topics exist and knows how many partitions they have. May be called while a transaction is
    /// open; topics that are already known cost nothing.
    pub async fn prepare_topics(&mut self, topics: &[&str]) -> Result<(), TopicError> {
        let unknown: Vec<String> =
            topics.iter().filter(|topic| !self.topics.contains_key(**topic)).map(|topic| (*topic).to_owned()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let established = Arc::clone(self.established());
        let (unknown, shapes) = self
            .calls
            .run(move || {
                let shapes = established.topics.ensure_data(&unknown, established.producer.largest_batch());
                (unknown, shapes)
            })
            .await;
        self.topics.extend(unknown.into_iter().zip(shapes?));
        Ok(())
    }

    /// Writes `close` as the last record and starts the commit; [`SinkEvent`] tells its outcome. Returns at once. Once
    /// all records are acknowledged, the coordinator may take as long as `limit`.
    ///
    /// # Panics
    ///
    /// If no transaction is open and the session is not over.
    pub fn commit(&mut self, close: &ProgressRecord, limit: Duration) {
        self.end(vec![close.clone()], Vec::new(), limit);
    }

    /// Waits for the next event. Cancel-safe: an event that was not returned is told by the next call.
    pub async fn event(&mut self) -> SinkEvent {
        loop {
            if let Some(event) = self.take_event() {
                return event;
            }
            self.instance().wake.notified().await;
        }
    }

    /// Records handed over and not yet acknowledged.
    pub fn in_flight(&self) -> u64 {
        self.sent.saturating_sub(self.instance().delivered())
    }

    /// Why the next `begin` will be refused, if it is known already.
    pub fn tainted(&self) -> Option<Taint> {
        self.instance().health(|health| health.taint().cloned())
    }

    /// Aborts the open transaction, with a bound of a few seconds; best effort, since the next session ends it anyway.
    pub async fn abort(self) {
        // A commit under way gives up at its next look, so that the abort has its turn.
        self.calls.cancelled().set();
        let established = Arc::clone(self.established());
        let abort = self.calls.run(move || established.producer.abort(ABORT_LIMIT));
        if tokio::time::timeout(2 * ABORT_LIMIT, abort).await.is_err() {
            tracing::debug!("the abort was not waited for");
        }
    }

    fn end(&mut self, records: Vec<ProgressRecord>, markers: Vec<ProgressRecord>, limit: Duration) {
        match self.phase {
            Phase::Open => {}
            Phase::Over(_) => return,
            Phase::Idle | Phase::Committing => panic!("a commit needs an open transaction"),
        }
        self.phase = Phase::Committing;
        self.sent += (records.len() + markers.len()) as u64;
        let established = Arc::clone(self.established());
        let outcome = Arc::clone(&self.outcome);
        let (count, cancelled) = (self.sent, self.calls.cancelled().clone());
        self.calls.submit(move || {
            let Established { producer, names, .. } = &*established;
            let mut out: Vec<_> = markers
                .iter()
                .map(|record| (&names.markers, record))
                .chain(records.iter().map(|record| (&names.progress, record)))
                .collect();
            let last = out.pop();
            let ended = out
                .into_iter()
                .try_for_each(|(topic, record)| producer.write(topic, record, &cancelled))
                .and_then(|()| producer.settle(count - 1, &cancelled))
                .and_then(|()| last.map_or(Ok(()), |(topic, record)| producer.write(topic, record, &cancelled)))
                .and_then(|()| producer.commit(count, limit, &cancelled));
            *lock(&outcome) = Some(ended);
            producer.instance().wake.notify_one();
        });
    }

    fn take_event(&mut self) -> Option<SinkEvent> {
        let outcome = lock(&self.outcome).take();
        if let Some(outcome) = outcome {
            return Some(match outcome {
                Ok(report) => {
                    self.phase = Phase::Idle;
                    SinkEvent::Committed(report)
                }
                Err(error) => self.over(error),
            });
        }
        if let Phase::Over(error) = &self.phase {
            return Some(SinkEvent::Failed(error.clone()));
        }
        // While a commit is under way its outcome tells of failures, too: it alone knows what became of the transaction.
        if self.phase != Phase::Committing
            && let Some(error) = self.established().producer.failure(|topic| self.limit_of(topic))
        {
            return Some(self.over(error));
        }
        self.instance().take_news().then_some(SinkEvent::Delivered)
    }

    fn over(&mut self, error: SessionError) -> SinkEvent {
        self.phase = Phase::Over(error.clone());
        SinkEvent::Failed(error)
    }

    fn limit_of(&self, topic: &str) -> Option<u64> {
        self.topics.get(topic)?.max_message_bytes
    }

    fn established(&self) -> &Arc<Established> {
        self.established.as_ref().expect("it is taken by drop only")
    }

    fn instance(&self) -> &Instance {
        self.established().producer.instance()
    }
}

impl std::fmt::Debug for KafkaSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSession")
            .field("phase", &self.phase)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// The library's clients are let go on the session's thread, where it may take its time.
impl Drop for KafkaSession {
    fn drop(&mut self) {
        self.calls.cancelled().set();
        self.established().producer.silence();
        let established = self.established.take();
        self.calls.submit(move || drop(established));
    }
}
