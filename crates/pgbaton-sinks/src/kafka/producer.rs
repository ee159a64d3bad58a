//! One producer instance: its thread that serves what the library tells, and its blocking calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgbaton_core::ProgressRecord;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};

use super::calls::Cancelled;
use super::contract::Accepted;
use super::fault::KafkaFault;
use super::instance::{Failure, Instance, ORDINARY};
use super::outcome::{CommitReport, SessionError};
use super::reader::SLICE;
use super::taint::RETRY_IMPOSSIBLE_BELOW;
use super::target::{KafkaTarget, STATISTICS_INTERVAL};

/// How long statistics may be late, in intervals, before they count as missing.
const STATISTICS_LATE: u32 = 20;

/// The shortest of the pieces that a wait for the producer id is cut into. The library asks again at once at each new
/// call, and by itself only after half a second: where it has no connection yet, and where the coordinator is still
/// ending the transaction of the instance before, which takes milliseconds. A question under way is never doubled.
const INIT_SLICE: Duration = Duration::from_millis(5);
/// A piece is at most the time waited so far, divided by this: a coordinator that is long in coming is asked less often.
const INIT_PATIENCE: u32 = 20;

/// How soon a wait notices that the session was given up.
const LOOK_UP: Duration = Duration::from_millis(50);

/// The instance. Dropping it blocks until the library has let go: it belongs on the thread of `calls`.
pub(super) struct Producer {
    client: Arc<BaseProducer<Instance>>,
    transactional_id: String,
    stop: Arc<AtomicBool>,
    poller: Option<JoinHandle<()>>,
    /// The library has its producer id, and may not be asked again.
    initialised: bool,
    /// X, the longest life of a transaction.
    transaction_timeout: Duration,
    message_max_bytes: u64,
    largest_batch: u64,
}

impl Producer {
    /// Creates the transactional instance; it connects by itself.
    pub fn connect(target: &KafkaTarget, message_max_bytes: u64) -> Result<Self, KafkaFault> {
        Producer::with(target, &target.producer(message_max_bytes)?, message_max_bytes, |_| {})
    }

    /// One that fences nobody and gives a record up after `patience`; never initialised.
    pub fn plain(target: &KafkaTarget, message_max_bytes: u64, patience: Duration) -> Result<Self, KafkaFault> {
        // The library would send what stands behind a record that it has given up, whatever its guarantees say of it.
        let give_up = |client: &BaseProducer<Instance>| {
            if client.client().context().failure().is_some() {
                client.purge(PurgeConfig::default().queue().non_blocking());
            }
        };
        Producer::with(target, &target.plain_producer(message_max_bytes, patience)?, message_max_bytes, give_up)
    }

    /// `look`: called whenever the library has told something.
    fn with(
        target: &KafkaTarget,
        config: &ClientConfig,
        message_max_bytes: u64,
        look: impl Fn(&BaseProducer<Instance>) + Send + 'static,
    ) -> Result<Self, KafkaFault> {
        let timeouts = target.timeouts()?;
        let number = |name| config.get(name).and_then(|text| text.parse().ok());
        let message_max_bytes = number("message.max.bytes").unwrap_or(message_max_bytes);
        let largest_batch = number("batch.size").unwrap_or(message_max_bytes);
        let client: BaseProducer<Instance> = config
            .create_with_context(Instance::new(timeouts.socket.mul_f64(0.8)))
            .map_err(|error| KafkaFault::from_error(&error, "create a producer"))?;
        let client = Arc::new(client);
        let stop = Arc::new(AtomicBool::new(false));
        let poller = std::thread::Builder::new()
            .name("kafka-events".to_owned())
            .spawn({
                let (client, stop) = (Arc::clone(&client), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        // Serves each event at once; the time only says how soon the thread sees that it shall stop.
                        client.poll(STATISTICS_INTERVAL);
                        look(&client);
                    }
                }
            })
            .map_err(|error| KafkaFault::Failed { doing: "start a thread".to_owned(), reason: error.to_string() })?;
        Ok(Producer {
            client,
            transactional_id: target.transactional_id(),
            stop,
            poller: Some(poller),
            initialised: false,
            transaction_timeout: timeouts.transaction,
            message_max_bytes,
            largest_batch,
        })
    }

    pub fn instance(&self) -> &Instance {
        self.client.client().context()
    }

    pub fn client(&self) -> &BaseProducer<Instance> {
        &self.client
    }

    /// The most bytes that the library puts together to one batch of several records.
    pub fn largest_batch(&self) -> u64 {
        self.largest_batch
    }

    /// X, the longest life of a transaction.
    pub fn transaction_timeout(&self) -> Duration {
        self.transaction_timeout
    }

    /// Connects to where a transaction begins: a broker to ask for the coordinator, and the topic's leader. Each question
    /// may take as long as `left` says. The coordinator itself is looked for by `init` only.
    pub fn warm(&self, topic: &str, left: impl Fn() -> Duration) -> Result<(), KafkaFault> {
        let client = self.client.client();
        client
            .fetch_metadata(Some(topic), left())
            .and_then(|_| client.fetch_watermarks(topic, 0, left()))
            .map_err(|error| self.instance().last_error.explain(&error, "keep a producer warm"))?;
        self.instance().last_error.clear();
        Ok(())
    }

    /// Begins what `init` ends. Does not wait.
    pub fn ask_for_id(&mut self) {
        // Whatever goes wrong, the next call meets it again.
        self.initialised = self.client.init_transactions(Duration::ZERO).is_ok();
    }

    /// Fences every older instance and ends its transaction.
    pub fn init(&self, limit: Duration, cancelled: &Cancelled) -> Result<(), SessionError> {
        if self.initialised {
            return Ok(());
        }
        let doing = &self.use_id();
        let began = Instant::now();
        let deadline = began + limit;
        loop {
            let slice = (began.elapsed() / INIT_PATIENCE).clamp(INIT_SLICE, SLICE);
            let Err(error) = self.client.init_transactions(slice) else {
                return Ok(());
            };
            let over = cancelled.is_set() || Instant::now() >= deadline;
            let last_error = &self.instance().last_error;
            if let Some(refusal) = last_error.refusal(doing) {
                return Err(refusal.into());
            }
            match &error {
                KafkaError::Transaction(cause) if cause.is_retriable() && !over => {}
                error if over => return Err(last_error.explain(error, doing).into()),
                error => return Err(SessionError::from_call(error, doing)),
            }
        }
    }

    /// Begins a transaction: a local step, the broker hears of it with the first record.
    pub fn begin(&self) -> Result<(), SessionError> {
        self.client.begin_transaction().map_err(|error| SessionError::from_call(&error, "begin a transaction"))
    }

    /// Hands a progress record to the library.
    pub fn offer(&self, topic: &str, record: &ProgressRecord, mark: usize) -> Result<Accepted, SessionError> {
        let value = record.to_bytes();
        let out = BaseRecord::with_opaque_to(topic, mark).partition(0).key(record.record_type.key()).payload(&value);
        match self.client.send(out) {
            Ok(()) => Ok(Accepted::Queued),
            Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) => Ok(Accepted::QueueFull),
            Err((error, _)) => Err(self.why_not_sent(topic, value.len(), &error)),
        }
    }

    /// The same, but waits for room in the queue, at most for X.
    pub fn write(&self, topic: &str, record: &ProgressRecord, cancelled: &Cancelled) -> Result<(), SessionError> {
        let deadline = Instant::now() + self.transaction_timeout;
        while self.offer(topic, record, ORDINARY)? == Accepted::QueueFull {
            if cancelled.is_set() || Instant::now() >= deadline {
                return Err(not_acknowledged());
            }
            let delivered = self.instance().delivered();
            self.instance().wait_delivered(delivered + 1, LOOK_UP);
        }
        Ok(())
    }

    /// Why the library did not take a record.
    pub fn why_not_sent(&self, topic: &str, bytes: usize, error: &KafkaError) -> SessionError {
        match (self.fatal(), error.rdkafka_error_code()) {
            (Some(fatal), _) => fatal,
            (None, Some(Code::MessageSizeTooLarge)) => SessionError::RecordTooLarge {
                topic: topic.to_owned(),
                bytes: bytes as u64,
                limit: self.message_max_bytes,
            },
            _ => SessionError::NotDelivered { topic: topic.to_owned(), reason: error.to_string() },
        }
    }

    /// Why the instance is over, if it is. `limit_of` knows the limits of topics.
    pub fn failure(&self, limit_of: impl Fn(&str) -> Option<u64>) -> Option<SessionError> {
        let failure = self.instance().failure()?;
        Some(match (self.fatal(), failure) {
            (Some(fatal), _) => fatal,
            (None, Failure::Fatal) => {
                SessionError::NotCommitted { reason: "the kafka library ended the producer".to_owned() }
            }
            (None, Failure::NotDelivered { topic, bytes, code }) => match code {
                Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
                    let limit = limit_of(&topic).unwrap_or(self.message_max_bytes);
                    SessionError::RecordTooLarge { topic, bytes, limit }
                }
                Code::TopicAuthorizationFailed => {
                    KafkaFault::PermissionDenied { what: format!("write to topic {topic}") }.into()
                }
                code => SessionError::NotDelivered { topic, reason: code.to_string() },
            },
        })
    }

    /// Commits the open transaction, whose last record makes `count` records in all since the instance was created.
    /// The coordinator's part may take as long as `limit`.
    pub fn commit(&self, count: u64, limit: Duration, cancelled: &Cancelled) -> Result<CommitReport, SessionError> {
        let began = Instant::now();
        self.settle(count, cancelled)?;
        let instance = self.instance();
        let patience = STATISTICS_INTERVAL * STATISTICS_LATE;
        if !instance.wait_health(patience, |health| health.has_statistics()) {
            instance.health(|health| health.statistics_missing(Duration::ZERO));
        }

        instance.health(|health| health.ending());
        let ending = Instant::now();
        let outcome = self.end(ending + limit, cancelled);
        let end_took = ending.elapsed();
        let ended_at = instance.age();
        instance.health(|health| health.ended(ended_at, end_took));
        outcome?;

        if end_took >= RETRY_IMPOSSIBLE_BELOW && !instance.wait_health(patience, |health| health.is_settled()) {
            instance.health(|health| health.statistics_missing(end_took));
        }
        Ok(CommitReport { took: began.elapsed(), end_took })
    }

    /// Nothing that waits in the queue is sent any more. Does not block.
    pub fn silence(&self) {
        self.client.purge(PurgeConfig::default().queue().non_blocking());
    }

    /// Aborts the open transaction, at most for `limit`; the instance is of no use afterwards.
    pub fn abort(&self, limit: Duration) {
        // Whatever comes of it, the next session's init ends the transaction.
        if let Err(error) = self.client.abort_transaction(limit) {
            tracing::debug!(%error, "the abort was not confirmed");
        }
    }

    /// Waits until `count` records, all there are, have been acknowledged: the binding's own flush waits in steps of 100 ms.
    ///
    /// Also done before the closing record. If a late end of the transaction before hits this one, a partition that is
    /// written for the first time opens yet another one at the coordinator, while a closing record sent at the same time
    /// would still be in time for the one that is ended: it would tell of records that may never be committed. Once
    /// everything else is acknowledged, the closing record is either part of the same transaction or refused.
    pub fn settle(&self, count: u64, cancelled: &Cancelled) -> Result<(), SessionError> {
        let deadline = Instant::now() + self.transaction_timeout;
        while !self.instance().wait_delivered(count, LOOK_UP) {
            if cancelled.is_set() || Instant::now() >= deadline {
                return Err(not_acknowledged());
            }
        }
        if let Some(failure) = self.failure(|_| None) {
            return Err(failure);
        }
        // The last report is told before the library has taken it back, microseconds later and without a notice.
        while self.client.in_flight_count() > 0 {
            if cancelled.is_set() || Instant::now() >= deadline {
                return Err(not_acknowledged());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn end(&self, deadline: Instant, cancelled: &Cancelled) -> Result<(), SessionError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.commit_transaction(left.min(LOOK_UP)) {
                Ok(()) => return Ok(()),
                // The commit goes on in the library; the next call waits for the same one.
                Err(KafkaError::Transaction(cause)) if cause.is_retriable() => {
                    if cancelled.is_set() || Instant::now() >= deadline {
                        let reason = cause.string();
                        return Err(SessionError::OutcomeUnknown { reason });
                    }
                }
                Err(KafkaError::Flush(_)) => {
                    return Err(SessionError::OutcomeUnknown {
                        reason: "records were in flight when the transaction was to end".to_owned(),
                    });
                }
                Err(error) => return Err(SessionError::from_call(&error, "commit a transaction")),
            }
        }
    }

    fn use_id(&self) -> String {
        format!("use the transactional id {}", self.transactional_id)
    }

    fn fatal(&self) -> Option<SessionError> {
        let (code, reason) = self.client.client().fatal_error()?;
        Some(SessionError::from_fatal(code, reason, &self.use_id()))
    }
}

fn not_acknowledged() -> SessionError {
    SessionError::NotCommitted { reason: "records were not acknowledged in time".to_owned() }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(poller) = self.poller.take() {
            // A panic of the thread was told when it happened.
            let _ = poller.join();
        }
    }
}
