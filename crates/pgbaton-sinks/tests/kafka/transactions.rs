//! What becomes visible, and when.

use pgbaton_sinks::kafka::{Accepted, BeginError, DataRecord, SessionError, SinkEvent, WriteError};
use pgbaton_sinks::{partition, progress_topic};

use crate::broker::Broker;
use crate::world::{LIMIT, claimed, close, committed, committed_values, open, outcome, read, target, with, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_and_close_become_visible_together_and_not_before_the_commit() {
    let broker = Broker::shared();
    let topic = "atomic.public.items";
    let mut session = claimed(&target(broker, "atomic"), "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    for key in 0..50 {
        write(&mut session, topic, &key.to_string(), "v").await;
    }
    while session.in_flight() > 0 {
        assert_eq!(session.event().await, SinkEvent::Delivered);
    }
    let progress = progress_topic("atomic");
    assert_eq!(read(broker, topic, "read_uncommitted").len(), 50);
    assert_eq!(committed_values(broker, topic).len(), 0);
    assert_eq!(committed_values(broker, &progress).len(), 2, "open and claim");

    session.commit(&close("a", 1, 1), LIMIT);
    committed(&mut session).await;
    let seen = read(broker, topic, "read_committed");
    assert_eq!(seen.len(), 50);
    for record in &seen {
        assert_eq!(record.partition, partition(topic, Some(record.key.as_bytes()), 3));
    }
    let bracket: Vec<_> = read(broker, &progress, "read_committed").into_iter().map(|seen| seen.key).collect();
    assert_eq!(bracket, ["open", "position", "open", "position"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_transaction_is_never_seen() {
    let broker = Broker::shared();
    let topic = "aborted.public.items";
    let target = target(broker, "aborted");
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", "aborted").await;
    session.abort().await;

    let mut session = claimed(&target, "b", 2).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("b", 1, 2)).unwrap();
    write(&mut session, topic, "1", "committed").await;
    session.commit(&close("b", 1, 2), LIMIT);
    committed(&mut session).await;
    assert_eq!(committed_values(broker, topic), ["committed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_follow_one_another_without_taint_and_no_two_overlap() {
    let broker = Broker::shared();
    let topic = "many.public.items";
    let mut session = claimed(&target(broker, "many"), "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    for number in 1..=100 {
        session.begin(&open("a", number, 1)).unwrap();
        assert_eq!(session.begin(&open("a", number, 1)), Err(BeginError::NotOver));
        write(&mut session, topic, "1", &number.to_string()).await;
        session.commit(&close("a", number, 1), LIMIT);
        let late = DataRecord { topic, key: None, value: None, headers: &[] };
        assert_eq!(session.write(&late), Err(WriteError::NoTransaction));
        committed(&mut session).await;
    }
    assert_eq!(session.tainted(), None);
    let expected: Vec<_> = (1..=100).map(|number| number.to_string()).collect();
    assert_eq!(committed_values(broker, topic), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_told_and_takes_records_again_after_deliveries() {
    let broker = Broker::shared();
    let topic = "full.public.items";
    let target = with(target(broker, "full"), &[("queue.buffering.max.messages", "100")]);
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    let (mut refused, count) = (0, 2000);
    for key in 0..count {
        let key = format!("{key}");
        let record = DataRecord { topic, key: Some(key.as_bytes()), value: Some(b"v"), headers: &[] };
        while session.write(&record).unwrap() == Accepted::QueueFull {
            refused += 1;
            assert_eq!(session.event().await, SinkEvent::Delivered);
        }
    }
    assert!(refused > 0);
    session.commit(&close("a", 1, 1), LIMIT);
    committed(&mut session).await;
    assert_eq!(committed_values(broker, topic).len(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_library_cannot_take_is_named_with_its_size_and_the_limit() {
    let topic = "large.public.items";
    let mut session = claimed(&target(Broker::shared(), "large"), "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    assert_eq!(session.event().await, SinkEvent::Delivered);
    let value = vec![b'x'; 2_000_000];
    let record = DataRecord { topic, key: Some(b"1"), value: Some(&value), headers: &[] };
    let error = session.write(&record).unwrap_err();
    let limit = 1_048_588;
    let large = SessionError::RecordTooLarge { topic: topic.to_owned(), bytes: 2_000_001, limit };
    assert_eq!(error, WriteError::Session(large));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_broker_refuses_for_its_size_ends_the_session() {
    let topic = "refused.public.items";
    // Uncompressed: what is judged by the broker is the size on the wire.
    let own = [("message.max.bytes", "5000000"), ("compression.type", "none")];
    let target = with(target(Broker::shared(), "refused"), &own);
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", &"x".repeat(2_000_000)).await;
    let event = outcome(&mut session, LIMIT).await;
    let large = SessionError::RecordTooLarge { topic: topic.to_owned(), bytes: 2_000_001, limit: 1_048_588 };
    assert_eq!(event, SinkEvent::Failed(large));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_cluster_takes_larger_records_so_do_we() {
    let broker = Broker::start_with("roomy", |_, _| "message.max.bytes=3000000\n".to_owned());
    let topic = "roomy.public.items";
    let mut session = claimed(&target(&broker, "roomy"), "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", &"x".repeat(2_000_000)).await;
    session.commit(&close("a", 1, 1), LIMIT);
    committed(&mut session).await;
    assert_eq!(committed_values(&broker, topic).len(), 1);
}
