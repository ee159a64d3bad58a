//! What a torn transaction has left in the data topics is found, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use pgbaton_core::{EventId, Known, Lsn, Phantoms, Position, Standing, SystemIdentifier, Term, Timeline};
use pgbaton_sinks::kafka::{Fenced, FoundRecord, KafkaSession, ReadBackError};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::broker::Broker;
use crate::world::{LIMIT, claimed, open, raw_producer, target};

const ITEMS: &str = "public.items";
const LEDGER: &str = "public.ledger";

/// An id of the transaction whose commit record starts at `commit`.
fn id(commit: u64, change: u64) -> String {
    format!("7300000000000000000/1/{}/{change}", Lsn(commit))
}

fn beyond(position: u64) -> impl Fn(&EventId, Option<Term>) -> Standing + Send + 'static {
    move |id, _| if id.commit_lsn >= Lsn(position) { Standing::Beyond } else { Standing::Told }
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, id: Option<&str>) {
    send_under(producer, topic, partition, id, "1");
}

fn send_under(producer: &BaseProducer, topic: &str, partition: i32, id: Option<&str>, term: &str) {
    let headers = id.map(|id| {
        let id = Header { key: "pgbaton.id", value: Some(id) };
        OwnedHeaders::new().insert(id).insert(Header { key: "pgbaton.term", value: Some(term) })
    });
    let record = BaseRecord::to(topic).partition(partition).key("key").payload("value");
    let record = headers.into_iter().fold(record, BaseRecord::headers);
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

async fn fenced(prefix: &str) -> KafkaSession {
    let target = target(Broker::shared(), prefix);
    let Fenced { session, .. } = KafkaSession::fence(&target, &open("b", 0, 2)).await.unwrap();
    session
}

/// A pipeline that has claimed and has its two topics, of three partitions each.
async fn pipeline(prefix: &str) -> (String, String) {
    let mut session = claimed(&target(Broker::shared(), prefix), "a", 1).await;
    let (items, ledger) = (format!("{prefix}.{ITEMS}"), format!("{prefix}.{LEDGER}"));
    session.prepare_topics(&[&items, &ledger]).await.unwrap();
    (items, ledger)
}

fn ids(found: &[FoundRecord]) -> BTreeSet<(String, i32, String)> {
    found.iter().map(|record| (record.topic.to_string(), record.partition, record.id.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_committed_record_beyond_the_progress_is_found_in_every_partition_and_no_other() {
    let (items, ledger) = pipeline("left").await;
    let producer = raw_producer(Broker::shared(), "left");
    for (commit, is_committed) in [(100, true), (150, false), (200, true)] {
        producer.begin_transaction().unwrap();
        for partition in 0..3 {
            send(&producer, &items, partition, Some(&id(commit, partition as u64)));
        }
        send(&producer, &ledger, 1, Some(&id(commit, 3)));
        // Somebody else's.
        send(&producer, &ledger, 2, None);
        producer.flush(LIMIT).unwrap();
        if is_committed {
            producer.commit_transaction(LIMIT).unwrap()
        } else {
            producer.abort_transaction(LIMIT).unwrap()
        }
    }

    let session = fenced("left").await;
    let topics = [items.as_str(), "left.public.absent", &ledger];
    let found = session.read_back(&topics, beyond(150), LIMIT).await.unwrap();
    let of_items = (0..3).map(|partition| (items.clone(), partition, id(200, partition as u64)));
    assert_eq!(ids(&found), of_items.chain([(ledger.clone(), 1, id(200, 3))]).collect());
    assert!(found.iter().all(|record| record.key.as_deref() == Some(b"key")));
    assert_eq!(session.read_back(&topics, beyond(201), LIMIT).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_transaction_longer_than_the_first_look_is_found_whole() {
    let (items, _) = pipeline("long").await;
    let producer = raw_producer(Broker::shared(), "long");
    for (commit, count) in [(100, 2000), (200, 4500)] {
        producer.begin_transaction().unwrap();
        for change in 0..count {
            send(&producer, &items, 0, Some(&id(commit, change)));
        }
        producer.commit_transaction(LIMIT).unwrap();
    }
    let found = fenced("long").await.read_back(&[&items], beyond(101), LIMIT).await.unwrap();
    assert_eq!(ids(&found), (0..4500).map(|change| (items.clone(), 0, id(200, change))).collect());
    assert_eq!(found.len(), 4500, "a record was read twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phantoms_are_passed_over_and_what_stands_before_them_is_found() {
    let (items, _) = pipeline("phantoms").await;
    let producer = raw_producer(Broker::shared(), "phantoms");
    producer.begin_transaction().unwrap();
    for (commit, term) in [(100, "5"), (200, "6"), (400, "6"), (300, "7")] {
        send_under(&producer, &items, 0, Some(&id(commit, 0)), term);
    }
    producer.commit_transaction(LIMIT).unwrap();
    let position =
        Position { system_identifier: SystemIdentifier(7300000000000000000), timeline: Timeline(1), lsn: Lsn(150) };
    let known = Known::new(position, None, &[Phantoms { term: Term(7), from_lsn: Lsn(250), to_lsn: Lsn(400) }]);
    let found = fenced("phantoms").await.read_back(&[&items], move |id, term| known.standing(id, term), LIMIT).await;
    assert_eq!(ids(&found.unwrap()), [200, 300].map(|commit| (items.clone(), 0, id(commit, 0))).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_none_is_named_and_not_passed_over() {
    let (items, _) = pipeline("strange-id").await;
    let producer = raw_producer(Broker::shared(), "strange-id");
    producer.begin_transaction().unwrap();
    send(&producer, &items, 2, Some("7"));
    producer.commit_transaction(LIMIT).unwrap();
    let error = fenced("strange-id").await.read_back(&[&items], beyond(1), LIMIT).await.unwrap_err();
    assert_eq!(error, ReadBackError::InvalidId { topic: items, partition: 2, offset: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_back_that_has_no_time_says_so() {
    let (items, _) = pipeline("hurry").await;
    let producer = raw_producer(Broker::shared(), "hurry");
    producer.begin_transaction().unwrap();
    send(&producer, &items, 0, Some(&id(1, 0)));
    producer.commit_transaction(LIMIT).unwrap();
    let error = fenced("hurry").await.read_back(&[&items], beyond(1), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, ReadBackError::Kafka(_)), "{error}");
}
