//! The library's clients that a session is made of. A fence makes them, or a standby has kept them warm: connected to
//! those brokers that the fence will ask, and knowing what it will ask for.
//!
//! All calls block; they belong on the thread of `calls`.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tracing::debug;

use super::calls::Cancelled;
use super::fault::KafkaFault;
use super::producer::Producer;
use super::reader::SLICE;
use super::target::{DEFAULT_MESSAGE_MAX_BYTES, KafkaTarget};
use super::topics::{Prepared, Required, TopicError, Topics};
use crate::topic::{markers_topic, progress_topic};

/// The topics of the protocol.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub progress: String,
    pub markers: String,
}

/// The clients, and a producer that has not been initialised: nobody is fenced by it yet.
pub(super) struct Clients {
    pub names: Names,
    pub topics: Topics,
    producer: Option<Made>,
}

struct Made {
    producer: Producer,
    /// The cluster's limit for a record that it was made for.
    message_max_bytes: u64,
}

impl Clients {
    pub fn connect(target: &KafkaTarget, runtime: Handle, cancelled: Cancelled) -> Result<Self, KafkaFault> {
        let names =
            Names { progress: progress_topic(&target.topic_prefix), markers: markers_topic(&target.topic_prefix) };
        Ok(Clients { names, topics: Topics::connect(target, runtime, cancelled)?, producer: None })
    }

    /// Makes sure that the topics of the protocol are as they have to be.
    pub fn ensure_required(&self) -> Result<Prepared, TopicError> {
        let Names { progress, markers } = self.names.clone();
        self.topics.ensure_required(&[Required::progress(progress), Required::markers(markers)])
    }

    /// Takes the producer out, or makes one for a cluster with Kafka's usual limit.
    pub fn take_producer(&mut self, target: &KafkaTarget) -> Result<(Producer, u64), KafkaFault> {
        match self.producer.take() {
            Some(Made { producer, message_max_bytes }) => Ok((producer, message_max_bytes)),
            None => Ok((Producer::connect(target, DEFAULT_MESSAGE_MAX_BYTES)?, DEFAULT_MESSAGE_MAX_BYTES)),
        }
    }

    /// Asks whether Kafka answers, at most for `limit`, and with what is left of it connects what is not connected. Fails
    /// only if Kafka does not answer: all else is for the fence to tell.
    pub fn warm(&mut self, target: &KafkaTarget, limit: Duration) -> Result<(), KafkaFault> {
        let deadline = Instant::now() + limit;
        let found = self.topics.reader().metadata_within(&self.names.progress, limit);
        if let Err(error) = found.and_then(|found| match found.partitions {
            // A standby makes no topics; the first fence of all does, and is not in a hurry.
            None => Ok(()),
            Some(_) => self.warm_up(target, deadline).or_else(|reason| {
                debug!(%reason, "kafka is not kept warm");
                self.producer = None;
                Ok(())
            }),
        }) {
            self.producer = None;
            return Err(error);
        }
        Ok(())
    }

    fn warm_up(&mut self, target: &KafkaTarget, deadline: Instant) -> Result<(), TopicError> {
        let left = || deadline.saturating_duration_since(Instant::now()).min(SLICE);
        let doing = "keep kafka warm";
        let failed = |error: KafkaError| KafkaFault::from_error(&error, doing);
        let progress = &self.names.progress;
        if let Some(Made { producer, .. }) = &self.producer {
            return Ok(producer.warm(progress, left)?);
        }
        let message_max_bytes = self.ensure_required()?.message_max_bytes;
        let producer = Producer::connect(target, message_max_bytes)?;
        producer.warm(progress, left)?;
        self.producer = Some(Made { producer, message_max_bytes });

        // The reader's way to the leader: one look at the end of the topic.
        let consumer = self.topics.reader().consumer();
        consumer.fetch_watermarks(progress, 0, left()).map_err(failed)?;
        let mut end = TopicPartitionList::new();
        end.add_partition_offset(progress, 0, Offset::OffsetTail(1))
            .and_then(|()| consumer.assign(&end))
            .map_err(failed)?;
        let _ = consumer.poll(left());
        consumer.unassign().map_err(failed)?;
        Ok(())
    }
}
