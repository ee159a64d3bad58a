//! A session with Kafka: one producer instance, one term. It decides nothing about positions; it is handed finished
//! records, and tells what became of them.
//!
//! ```text
//! fence -> claim -> ( begin -> write* -> commit -> Committed )* -> abort, or dropped
//! ```
//!
//! Nothing here blocks the caller: what blocks in the library runs on the session's own thread. Whatever fails, the
//! session is over. An abort consumes it, so that no instance can begin again after one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbaton_core::{EventId, ProgressRecord, Standing, Term};
use tokio::runtime::Handle;

use super::back::{FoundRecord, ReadBackError};
use super::calls::Calls;
use super::clients::Clients;
use super::contract::{Accepted, BeginError, DataRecord, SinkEvent, WriteError};
use super::fault::KafkaFault;
use super::fence::{ABORT_LIMIT, Established, FenceError, establish, queue_full};
use super::instance::{Instance, ORDINARY};
use super::outcome::{CommitReport, SessionError};
use super::progress::ProgressRead;
use super::sending::Sending;
use super::taint::Taint;
use super::target::KafkaTarget;
use super::told::lock;
use super::topics::TopicError;

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
    sending: Sending,
    phase: Phase,
    /// What became of a commit, put there by the session's thread.
    outcome: Arc<Mutex<Option<Result<CommitReport, SessionError>>>>,
    /// How many records are acknowledged at least when the open transaction's first one is.
    open_by: u64,
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
            sending: Sending::new(established, calls, 1),
            phase: Phase::Open,
            outcome: Arc::default(),
            open_by: 1,
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
        self.sending.table_topics(prefix).await
    }

    /// Reads what stands at the ends of `topics` and is beyond the progress, as `judge` knows it by its id and term: what a
    /// torn transaction has left. In no order. For a session whose claim is not written yet, so that nobody writes meanwhile.
    ///
    /// Each partition is read from its readable end back until a record that progress tells of, in steps that double.
    /// A million records or 256 MiB of keys are an error: no transaction of ours leaves as much.
    pub async fn read_back(
        &self,
        topics: &[&str],
        judge: impl Fn(&EventId, Option<Term>) -> Standing + Send + 'static,
        limit: Duration,
    ) -> Result<Vec<FoundRecord>, ReadBackError> {
        self.sending.read_back(topics, judge, limit).await
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
        let Established { producer, names, .. } = &**self.sending.established();
        let begun = self
            .sending
            .failure()
            .map_or(Ok(()), Err)
            .and_then(|()| producer.begin())
            .and_then(|()| producer.offer(&names.progress, open, ORDINARY))
            .and_then(|accepted| match accepted {
                Accepted::Queued => Ok(()),
                Accepted::QueueFull => Err(queue_full(&names.progress)),
            });
        match begun {
            Ok(()) => {
                self.sending.sent += 1;
                self.open_by = self.sending.sent;
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
        match &self.phase {
            Phase::Open => {}
            Phase::Idle | Phase::Committing => return Err(WriteError::NoTransaction),
            Phase::Over(error) => return Err(error.clone().into()),
        }
        let partitions = self.sending.partitions(record.topic)?;
        if self.instance().delivered() < self.open_by {
            return Ok(Accepted::QueueFull);
        }
        self.sending.write(record, partitions).map_err(|error| {
            self.phase = Phase::Over(error.clone());
            error.into()
        })
    }

    /// Makes sure that the topics exist and knows how many partitions they have. May be called while a transaction is
    /// open; topics that are already known cost nothing. Cancel-safe: the next call goes on waiting for what was begun.
    pub async fn prepare_topics(&mut self, topics: &[&str]) -> Result<(), TopicError> {
        self.sending.prepare_topics(topics).await
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
        self.sending.in_flight()
    }

    /// Why the next `begin` will be refused, if it is known already.
    pub fn tainted(&self) -> Option<Taint> {
        self.instance().health(|health| health.taint().cloned())
    }

    /// Aborts the open transaction, with a bound of a few seconds; best effort, since the next session ends it anyway.
    pub async fn abort(self) {
        // A commit under way gives up at its next look, so that the abort has its turn.
        self.sending.calls.cancelled().set();
        let established = Arc::clone(self.sending.established());
        let abort = self.sending.calls.run(move || established.producer.abort(ABORT_LIMIT));
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
        self.sending.sent += (records.len() + markers.len()) as u64;
        let established = Arc::clone(self.sending.established());
        let outcome = Arc::clone(&self.outcome);
        let (count, cancelled) = (self.sending.sent, self.sending.calls.cancelled().clone());
        self.sending.calls.submit(move || {
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
            && let Some(error) = self.sending.failure()
        {
            return Some(self.over(error));
        }
        self.instance().take_news().then_some(SinkEvent::Delivered)
    }

    fn over(&mut self, error: SessionError) -> SinkEvent {
        self.phase = Phase::Over(error.clone());
        SinkEvent::Failed(error)
    }

    fn instance(&self) -> &Instance {
        self.sending.instance()
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
