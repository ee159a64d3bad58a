//! What is known of one producer instance, told by the library on whatever thread it likes.
//!
//! The callbacks only note facts. A delivery costs an atomic addition; a lock is taken when something went wrong, or
//! when somebody waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use serde::Deserialize;
use tokio::sync::Notify;
use tracing::warn;

use super::fault::is_connection_error;
use super::taint::{Counters, Health, Snapshot};
use super::told::{LastError, forward, lock};

/// Marks the record whose offset is asked for: the `open`.
pub(super) const TELL_OFFSET: usize = 1;
/// Any other record.
pub(super) const ORDINARY: usize = 0;

/// The context of a producer instance: all that is known about it.
#[derive(Debug)]
pub(super) struct Instance {
    /// Read before the library's own clock of the instance started.
    created: Instant,
    pub last_error: LastError,
    delivered: AtomicU64,
    /// The offset of the last marked record; -1 while it is not known.
    open_offset: AtomicI64,
    /// Something was delivered since it was last asked.
    news: AtomicBool,
    /// Somebody waits for this count of deliveries.
    awaited: AtomicU64,
    /// Something went wrong; what, is in `facts`.
    failed: AtomicBool,
    facts: Mutex<Facts>,
    changed: Condvar,
    /// Wakes whoever waits for the session's next event.
    pub wake: Notify,
}

#[derive(Debug)]
struct Facts {
    health: Health,
    failure: Option<Failure>,
}

/// What ends the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The library calls the instance dead; it can be asked why.
    Fatal,
    /// A record was not delivered.
    NotDelivered { topic: String, bytes: u64, code: Code },
}

impl Instance {
    /// A commit longer than `slow` taints the instance.
    pub fn new(slow: Duration) -> Self {
        Instance {
            created: Instant::now(),
            last_error: LastError::default(),
            delivered: AtomicU64::new(0),
            open_offset: AtomicI64::new(-1),
            news: AtomicBool::new(false),
            awaited: AtomicU64::new(u64::MAX),
            failed: AtomicBool::new(false),
            facts: Mutex::new(Facts { health: Health::new(slow), failure: None }),
            changed: Condvar::new(),
            wake: Notify::new(),
        }
    }

    /// How many records were delivered or given up.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    /// Whether something was delivered since this was last asked.
    pub fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::AcqRel)
    }

    /// The offset of the last marked record.
    pub fn open_offset(&self) -> Option<i64> {
        Some(self.open_offset.load(Ordering::Acquire)).filter(|offset| *offset >= 0)
    }

    /// The first thing that ended the instance, if it is over.
    pub fn failure(&self) -> Option<Failure> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.facts).failure.clone()
    }

    /// The instance's age now, as its statistics count it or a little more.
    pub fn age(&self) -> Duration {
        self.created.elapsed()
    }

    /// Looks at the instance's health, or tells it a fact.
    pub fn health<T>(&self, look: impl FnOnce(&mut Health) -> T) -> T {
        look(&mut lock(&self.facts).health)
    }

    /// Waits until `count` records were delivered or given up, at most for `limit`.
    pub fn wait_delivered(&self, count: u64, limit: Duration) -> bool {
        self.awaited.store(count, Ordering::SeqCst);
        let facts = lock(&self.facts);
        let (facts, _) = self
            .changed
            .wait_timeout_while(facts, limit, |_| self.delivered.load(Ordering::SeqCst) < count)
            .unwrap_or_else(PoisonError::into_inner);
        drop(facts);
        self.awaited.store(u64::MAX, Ordering::SeqCst);
        self.delivered() >= count
    }

    /// Waits until the health is as asked, at most for `limit`.
    pub fn wait_health(&self, limit: Duration, is_so: impl Fn(&Health) -> bool) -> bool {
        let (facts, timeout) = self
            .changed
            .wait_timeout_while(lock(&self.facts), limit, |facts| !is_so(&facts.health))
            .unwrap_or_else(PoisonError::into_inner);
        drop(facts);
        !timeout.timed_out()
    }

    fn note_failure(&self, failure: Failure) {
        lock(&self.facts).failure.get_or_insert(failure);
        self.failed.store(true, Ordering::Release);
    }
}

impl ClientContext for Instance {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        forward(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = self.last_error.note(&error, reason)
            && is_connection_error(code)
        {
            self.health(|health| health.error(reason));
        }
        if matches!(error, KafkaError::Global(Code::Fatal)) {
            self.note_failure(Failure::Fatal);
            self.wake.notify_one();
        }
    }

    fn stats_raw(&self, json: &[u8]) {
        match serde_json::from_slice::<Statistics>(json) {
            Ok(statistics) => {
                self.health(|health| health.statistics(statistics.into()));
                self.changed.notify_all();
            }
            // Without statistics the instance taints itself; here it is only said why.
            Err(error) => warn!(%error, "statistics of the kafka library do not parse"),
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Instance {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, mark: usize) {
        match result {
            Ok(message) if mark == TELL_OFFSET => self.open_offset.store(message.offset(), Ordering::Release),
            Ok(_) => {}
            Err((error, message)) => self.note_failure(Failure::NotDelivered {
                topic: message.topic().to_owned(),
                bytes: (message.key_len() + message.payload_len()) as u64,
                code: error.rdkafka_error_code().unwrap_or(Code::Unknown),
            }),
        }
        let delivered = self.delivered.fetch_add(1, Ordering::SeqCst) + 1;
        if delivered >= self.awaited.load(Ordering::SeqCst) {
            // Taking the lock first makes sure that the waiter either sees the count or is already waiting.
            drop(lock(&self.facts));
            self.changed.notify_all();
        }
        if !self.news.load(Ordering::Relaxed) && !self.news.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }
}

/// The few fields of the library's statistics that are looked at.
#[derive(Deserialize)]
struct Statistics {
    /// Microseconds since the creation of the instance.
    age: u64,
    brokers: BTreeMap<String, Broker>,
}

#[derive(Deserialize)]
struct Broker {
    disconnects: u64,
    req_timeouts: u64,
    txretries: u64,
}

impl From<Statistics> for Snapshot {
    fn from(statistics: Statistics) -> Self {
        let counters = |broker: Broker| Counters {
            disconnects: broker.disconnects,
            req_timeouts: broker.req_timeouts,
            txretries: broker.txretries,
        };
        Snapshot {
            age: Duration::from_micros(statistics.age),
            brokers: statistics.brokers.into_iter().map(|(name, broker)| (name, counters(broker))).collect(),
        }
    }
}
