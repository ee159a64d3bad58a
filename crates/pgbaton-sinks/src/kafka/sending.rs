//! What both kinds of session are made of: a producer, its thread, and what is known of the topics it writes to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgbaton_core::{EventId, Standing, Term};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use super::back::{FoundRecord, ReadBackError, read_back};
use super::calls::{Asked, Calls};
use super::contract::{Accepted, DataRecord, WriteError};
use super::fault::KafkaFault;
use super::fence::Established;
use super::instance::{Instance, ORDINARY};
use super::outcome::SessionError;
use super::producer::Producer;
use super::topics::{TopicError, TopicShape};
use super::witness::table_topics;
use crate::topic::partition;

/// A producer at work.
pub(super) struct Sending {
    /// Taken by `drop` only.
    established: Option<Arc<Established>>,
    pub calls: Calls,
    /// Records handed to the library since the instance was created.
    pub sent: u64,
    topics: HashMap<String, TopicShape>,
    /// Topics that are being found or made, even if nobody waits for them any more.
    preparing: Option<Asked<Prepared>>,
}

/// Topics that were found or made, each with its shape.
type Prepared = Result<Vec<(String, TopicShape)>, TopicError>;

impl Sending {
    pub fn new(established: Established, calls: Calls, sent: u64) -> Self {
        Sending { established: Some(Arc::new(established)), calls, sent, topics: HashMap::new(), preparing: None }
    }

    pub fn established(&self) -> &Arc<Established> {
        self.established.as_ref().expect("it is taken by drop only")
    }

    pub fn producer(&self) -> &Producer {
        &self.established().producer
    }

    pub fn instance(&self) -> &Instance {
        self.producer().instance()
    }

    /// Why the instance is over, if it is.
    pub fn failure(&self) -> Option<SessionError> {
        self.producer().failure(|topic| self.topics.get(topic)?.max_message_bytes)
    }

    pub fn in_flight(&self) -> u64 {
        self.sent.saturating_sub(self.instance().delivered())
    }

    /// Every topic of a table below `prefix`, whether its table is still published or not.
    pub async fn table_topics(&self, prefix: &str) -> Result<Vec<String>, KafkaFault> {
        let (established, prefix) = (Arc::clone(self.established()), prefix.to_owned());
        let topics = self.calls.run(move || table_topics(established.topics.reader(), &prefix)).await?;
        Ok(topics.into_iter().map(|(topic, _)| topic).collect())
    }

    pub async fn read_back(
        &self,
        topics: &[&str],
        judge: impl Fn(&EventId, Option<Term>) -> Standing + Send + 'static,
        limit: Duration,
    ) -> Result<Vec<FoundRecord>, ReadBackError> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let (established, deadline) = (Arc::clone(self.established()), Instant::now() + limit);
        self.calls.run(move || read_back(established.topics.reader(), &topics, &judge, deadline)).await
    }

    /// Makes sure that the topics exist and knows how many partitions they have. Cancel-safe: the next call goes on waiting
    /// for what was begun.
    pub async fn prepare_topics(&mut self, topics: &[&str]) -> Result<(), TopicError> {
        loop {
            if let Some(preparing) = &mut self.preparing {
                let prepared = preparing.value().await;
                self.preparing = None;
                self.topics.extend(prepared?);
            }
            let is_unknown = |topic: &&&str| !self.topics.contains_key(**topic);
            let unknown: Vec<String> = topics.iter().filter(is_unknown).map(|topic| (*topic).to_owned()).collect();
            if unknown.is_empty() {
                return Ok(());
            }
            let established = Arc::clone(self.established());
            self.preparing = Some(self.calls.ask(move || {
                let shapes = established.topics.ensure_data(&unknown, established.producer.largest_batch())?;
                Ok(unknown.into_iter().zip(shapes).collect())
            }));
        }
    }

    /// How many partitions a topic has that was prepared.
    pub fn partitions(&self, topic: &str) -> Result<i32, WriteError> {
        let shape = self.topics.get(topic).ok_or_else(|| WriteError::TopicNotPrepared(topic.to_owned()))?;
        Ok(shape.partitions)
    }

    /// Hands a record to the library, which copies it. Never blocks.
    pub fn write(&mut self, record: &DataRecord<'_>, partitions: i32) -> Result<Accepted, SessionError> {
        let &DataRecord { topic, key, value, headers } = record;
        let mut out = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, ORDINARY)
            .partition(partition(topic, key, partitions))
            .headers(headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |owned, &(key, value)| {
                owned.insert(Header { key, value: Some(value) })
            }));
        out.key = key;
        out.payload = value;
        let Err((error, _)) = self.producer().client().send(out) else {
            self.sent += 1;
            return Ok(Accepted::Queued);
        };
        match error.rdkafka_error_code() {
            Some(Code::QueueFull) => Ok(Accepted::QueueFull),
            _ => {
                let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
                Err(self.producer().why_not_sent(topic, bytes, &error))
            }
        }
    }
}

/// The library's clients are let go on the session's thread, where it may take its time.
impl Drop for Sending {
    fn drop(&mut self) {
        self.calls.cancelled().set();
        self.producer().silence();
        let established = self.established.take();
        self.calls.submit(move || drop(established));
    }
}
