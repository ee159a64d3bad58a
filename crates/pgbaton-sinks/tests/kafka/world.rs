//! What the tests say and see: records, sessions, and topics read from outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgbaton_core::{Lsn, Position, ProgressRecord, RecordType, SystemIdentifier, Term, Timeline, Watermark};
use pgbaton_sinks::kafka::{Accepted, DataRecord, Fenced, KafkaSession, KafkaTarget, SinkEvent};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::broker::Broker;

/// Longer than anything healthy takes here.
pub const LIMIT: Duration = Duration::from_secs(20);

pub fn target(broker: &Broker, prefix: &str) -> KafkaTarget {
    KafkaTarget {
        brokers: broker.bootstrap.clone(),
        topic_prefix: prefix.to_owned(),
        properties: BTreeMap::new(),
        client_id: "test".to_owned(),
    }
}

pub fn with(mut target: KafkaTarget, properties: &[(&str, &str)]) -> KafkaTarget {
    target.properties.extend(properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    target
}

pub fn record(record_type: RecordType, session: &str, number: u64, term: u64) -> ProgressRecord {
    let carries_position = record_type != RecordType::Open;
    ProgressRecord {
        v: 1,
        record_type,
        term: Some(Term(term)),
        session: session.to_owned(),
        number,
        worker: "worker-1".to_owned(),
        position: carries_position.then_some(Position {
            system_identifier: SystemIdentifier(7_300_000_000_000_000_000),
            timeline: Timeline(1),
            lsn: Lsn(number),
        }),
        watermark: carries_position.then_some(Watermark { timeline: Timeline(1), lsn: Lsn(number) }),
        history: Some(Vec::new()),
        server_timeline: Some(Timeline(1)),
        last: None,
        partial: None,
        torn: None,
        publication: None,
        config_hash: None,
        kafka_cluster: None,
        lease: None,
        topics: Vec::new(),
        topic_ids: None,
        divergence: None,
        phantoms: Vec::new(),
        previous_hash: None,
        accepted: None,
    }
}

pub fn open(session: &str, number: u64, term: u64) -> ProgressRecord {
    record(RecordType::Open, session, number, term)
}

pub fn close(session: &str, number: u64, term: u64) -> ProgressRecord {
    record(RecordType::Close, session, number, term)
}

pub fn claim(session: &str, term: u64) -> ProgressRecord {
    record(RecordType::Claim, session, 0, term)
}

/// A session that has claimed its term.
pub async fn claimed(target: &KafkaTarget, session: &str, term: u64) -> KafkaSession {
    // A broker that has just come up on a busy machine may not answer its first questions in time.
    let mut tries = 0;
    let Fenced { session: mut kafka, .. } = loop {
        match KafkaSession::fence(target, &open(session, 0, term)).await {
            Ok(fenced) => break fenced,
            Err(error) if tries == 10 => panic!("{error}"),
            Err(_) => tries += 1,
        }
    };
    kafka.claim(&[claim(session, term)], &[], LIMIT).await.unwrap();
    kafka
}

/// Writes a record, which is taken once the transaction's `open` is acknowledged.
pub async fn write(session: &mut KafkaSession, topic: &str, key: &str, value: &str) {
    let headers: [(&str, &[u8]); 2] = [("pgbaton.id", b"1/1/0/1/0"), ("pgbaton.term", b"1")];
    let record = DataRecord { topic, key: Some(key.as_bytes()), value: Some(value.as_bytes()), headers: &headers };
    while session.write(&record).unwrap() == Accepted::QueueFull {
        assert_eq!(session.event().await, SinkEvent::Delivered);
    }
}

/// The next event but for deliveries.
pub async fn outcome(session: &mut KafkaSession, limit: Duration) -> SinkEvent {
    let wait = async {
        loop {
            match session.event().await {
                SinkEvent::Delivered => {}
                event => return event,
            }
        }
    };
    tokio::time::timeout(limit, wait).await.expect("a transaction ends in time")
}

pub async fn committed(session: &mut KafkaSession) {
    let event = outcome(session, LIMIT).await;
    assert!(matches!(event, SinkEvent::Committed(_)), "{event:?}");
}

/// A producer that goes past all our rules, with our transactional id.
pub fn raw_producer(broker: &Broker, prefix: &str) -> BaseProducer {
    raw_producer_of(&target(broker, prefix))
}

/// The same with the target's properties.
pub fn raw_producer_of(target: &KafkaTarget) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &target.brokers).set("transactional.id", target.transactional_id());
    for (name, value) in &target.properties {
        config.set(name, value);
    }
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer
}

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub key: String,
    pub value: String,
}

/// Everything that a consumer can read of a topic now.
pub fn read(broker: &Broker, topic: &str, isolation: &str) -> Vec<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &broker.bootstrap)
        .set("group.id", "test-reader")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let partitions = consumer.fetch_metadata(Some(topic), LIMIT).unwrap().topics()[0].partitions().len();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let (mut seen, mut ended, began) = (Vec::new(), 0, Instant::now());
    while ended < partitions {
        match consumer.poll(LIMIT).expect("the topic is readable") {
            Ok(message) => seen.push(Seen {
                partition: message.partition(),
                offset: message.offset(),
                key: text(message.key()),
                value: text(message.payload()),
            }),
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            // A broker that stood still a moment ago: the library connects again.
            Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
            )) if began.elapsed() < LIMIT => {}
            Err(error) => panic!("{error}"),
        }
    }
    seen
}

/// The values that a read_committed consumer sees.
pub fn committed_values(broker: &Broker, topic: &str) -> Vec<String> {
    read(broker, topic, "read_committed").into_iter().map(|seen| seen.value).collect()
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
}
