//! Who may write: the newest session, from exactly what the older ones have committed.

use pgbaton_core::{ProgressRecord, RecordType, hash_of};
use pgbaton_sinks::kafka::{BeginError, FenceError, Fenced, KafkaSession, SessionError, SinkEvent};
use pgbaton_sinks::progress_topic;
use rdkafka::producer::{BaseRecord, Producer};

use crate::broker::Broker;
use crate::world::{
    LIMIT, claim, claimed, close, committed, committed_values, open, outcome, raw_producer, read, record, target, write,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_fence_of_all_makes_the_topics_and_reads_nothing() {
    let target = target(Broker::shared(), "first");
    let Fenced { session, read } = KafkaSession::fence(&target, &open("a", 0, 1)).await.unwrap();
    assert_eq!((read.position, read.last_open), (None, None));
    assert!(read.log_starts_at_zero && read.topic_was_created && read.kafka_cluster.is_some());
    assert_eq!(read.open_at, 0);
    session.abort().await;

    let Fenced { read, .. } = KafkaSession::fence(&target, &open("b", 0, 1)).await.unwrap();
    assert!(!read.topic_was_created);
    assert_eq!((read.position, read.last_open), (None, None), "an aborted claim was read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_fence_reads_the_claim_that_stands_right_below_its_own_open() {
    let broker = Broker::shared();
    let target = target(broker, "second");
    let Fenced { mut session, .. } = KafkaSession::fence(&target, &open("a", 0, 1)).await.unwrap();
    let genesis = record(RecordType::Genesis, "a", 0, 1);
    session.claim(&[genesis.clone(), claim("a", 1)], &[genesis], LIMIT).await.unwrap();

    let Fenced { read, .. } = KafkaSession::fence(&target, &open("b", 0, 2)).await.unwrap();
    let position = read.position.unwrap();
    assert_eq!(position.record, claim("a", 1));
    assert_eq!(position.hash, hash_of(&claim("a", 1).to_bytes()));
    assert_eq!(read.last_open, Some(open("a", 0, 1)));
    assert_eq!(read.claims, [claim("a", 1)]);
    // open, genesis, claim, and the marker that ends the transaction.
    assert_eq!(read.open_at, 4);
    assert_eq!(committed_values(broker, "__pgbaton.second.markers").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_session_is_fenced_and_its_open_transaction_never_seen() {
    let broker = Broker::shared();
    let target = target(broker, "older");
    let mut old = claimed(&target, "old", 1).await;
    old.prepare_topics(&["older.public.items"]).await.unwrap();
    old.begin(&open("old", 1, 1)).unwrap();
    write(&mut old, "older.public.items", "1", "of the old session").await;

    let mut new = claimed(&target, "new", 2).await;
    old.commit(&close("old", 1, 1), LIMIT);
    assert_eq!(outcome(&mut old, LIMIT).await, SinkEvent::Failed(SessionError::Fenced));
    assert_eq!(old.begin(&open("old", 2, 1)), Err(BeginError::Session(SessionError::Fenced)));

    new.begin(&open("new", 1, 2)).unwrap();
    new.prepare_topics(&["older.public.items"]).await.unwrap();
    write(&mut new, "older.public.items", "1", "of the new session").await;
    new.commit(&close("new", 1, 2), LIMIT);
    committed(&mut new).await;
    assert_eq!(committed_values(broker, "older.public.items"), ["of the new session"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_idle_when_it_was_fenced_is_told_by_its_first_record() {
    let target = target(Broker::shared(), "idle");
    let mut old = claimed(&target, "old", 1).await;
    let _new = claimed(&target, "new", 2).await;
    old.begin(&open("old", 1, 1)).unwrap();
    assert_eq!(outcome(&mut old, LIMIT).await, SinkEvent::Failed(SessionError::Fenced));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_refused_after_a_newer_fence() {
    let target = target(Broker::shared(), "overtaken");
    let Fenced { session: mut old, .. } = KafkaSession::fence(&target, &open("old", 0, 1)).await.unwrap();
    let Fenced { read, .. } = KafkaSession::fence(&target, &open("new", 0, 1)).await.unwrap();
    assert_eq!(read.position, None);
    assert_eq!(old.claim(&[claim("old", 1)], &[], LIMIT).await, Err(SessionError::Fenced));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_transaction_that_a_dead_worker_left_open_is_ended_by_the_next_fence() {
    let broker = Broker::shared();
    let target = target(broker, "dead");
    let mut dead = claimed(&target, "dead", 1).await;
    dead.prepare_topics(&["dead.public.items"]).await.unwrap();
    dead.begin(&open("dead", 1, 1)).unwrap();
    write(&mut dead, "dead.public.items", "1", "never committed").await;
    assert_eq!(dead.event().await, SinkEvent::Delivered);
    drop(dead);

    let Fenced { read: progress, .. } = KafkaSession::fence(&target, &open("next", 0, 2)).await.unwrap();
    assert_eq!(progress.position.unwrap().record, claim("dead", 1));
    assert_eq!(progress.last_open, Some(open("dead", 0, 1)), "the open of an aborted transaction was read");
    assert_eq!(committed_values(broker, "dead.public.items"), [""; 0]);
}

/// Otherwise a lost progress topic would look like a first start, and everything be published again or skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_topic_with_a_record_of_ours_speaks_against_a_first_start() {
    let broker = Broker::shared();
    let mut session = claimed(&target(broker, "witness.one"), "a", 1).await;
    let topic = "witness.public.items";
    session.prepare_topics(&[topic, "witness.public.empty"]).await.unwrap();
    let Fenced { read, .. } = KafkaSession::fence(&target(broker, "witness"), &open("a", 0, 1)).await.unwrap();
    assert_eq!(read.witness, None);
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", "published").await;
    session.commit(&close("a", 1, 1), LIMIT);
    committed(&mut session).await;
    let Fenced { read, .. } = KafkaSession::fence(&target(broker, "witness"), &open("a", 0, 1)).await.unwrap();
    assert_eq!(read.witness.as_deref(), Some(topic));
}

/// What a delayed EndTxn leaves behind: the `open` became visible, its `close` did not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_without_its_close_is_reported_as_the_last_open() {
    let broker = Broker::shared();
    let target = target(broker, "torn");
    drop(claimed(&target, "a", 1).await);
    raw_transactions(broker, "torn", &[vec![open("a", 1, 1)]]);

    let Fenced { read, .. } = KafkaSession::fence(&target, &open("b", 0, 2)).await.unwrap();
    assert_eq!(read.last_open, Some(open("a", 1, 1)));
    assert_eq!(read.position.unwrap().record, claim("a", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_position_is_found_below_thousands_of_opens_alone() {
    let broker = Broker::shared();
    let target = target(broker, "far");
    drop(claimed(&target, "a", 1).await);
    let opens = (1..=2500).map(|number| open("a", number, 1)).collect();
    raw_transactions(broker, "far", &[opens]);

    let Fenced { read, .. } = KafkaSession::fence(&target, &open("b", 0, 2)).await.unwrap();
    assert_eq!(read.position.unwrap().record, claim("a", 1));
    assert_eq!(read.last_open, Some(open("a", 2500, 1)));
    assert_eq!(read.open_at, 2504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_no_progress_record_stops_the_fence() {
    let broker = Broker::shared();
    let target = target(broker, "strange");
    drop(claimed(&target, "a", 1).await);
    let producer = raw_producer(broker, "strange");
    producer.begin_transaction().unwrap();
    let value = r#"{"v":2}"#;
    producer
        .send(BaseRecord::to(&progress_topic("strange")).key("position").payload(value))
        .map_err(|(error, _)| error)
        .unwrap();
    producer.commit_transaction(LIMIT).unwrap();

    let error = KafkaSession::fence(&target, &open("b", 0, 2)).await.unwrap_err();
    assert!(matches!(error, FenceError::InvalidRecord { offset: 3, .. }), "{error}");
    assert_eq!(read(broker, &progress_topic("strange"), "read_committed").len(), 3);
}

fn raw_transactions(broker: &Broker, prefix: &str, transactions: &[Vec<ProgressRecord>]) {
    let (producer, topic) = (raw_producer(broker, prefix), progress_topic(prefix));
    for records in transactions {
        producer.begin_transaction().unwrap();
        for record in records {
            let value = record.to_bytes();
            let out = BaseRecord::to(&topic).key(record.record_type.key()).payload(&value);
            producer.send(out).map_err(|(error, _)| error).unwrap();
        }
        producer.commit_transaction(LIMIT).unwrap();
    }
}
