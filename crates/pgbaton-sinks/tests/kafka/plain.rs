//! Sessions without transactions: what they write is there once it is acknowledged, and what fails takes nothing behind it along.

use std::time::Duration;

use pgbaton_core::{EventId, RecordType, Standing};
use pgbaton_sinks::kafka::{Accepted, Begun, DataRecord, PlainSession, SinkEvent};

use crate::broker::Broker;
use crate::world::{LIMIT, claimed, committed, committed_values, open, record, target, write};

const PATIENCE: Duration = Duration::from_millis(2750);

fn put(session: &mut PlainSession, topic: &str, value: &str) {
    let headers: [(&str, &[u8]); 2] = [("pgbaton.id", b"7/1/0/1/0"), ("pgbaton.term", b"1")];
    let record = DataRecord { topic, key: Some(b"1"), value: Some(value.as_bytes()), headers: &headers };
    assert_eq!(session.write(&record), Ok(Accepted::Queued));
}

async fn settled(session: &mut PlainSession) {
    let wait = async {
        while session.settled() == Ok(false) {
            assert_eq!(session.event().await, SinkEvent::Delivered);
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("it is acknowledged in time");
    assert_eq!(session.settled(), Ok(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_fences_nobody_and_its_records_are_found_by_the_next() {
    let broker = Broker::shared();
    let (target, topic) = (target(broker, "plain"), "plain.public.items");
    let Begun { mut session, progress, witness, .. } = PlainSession::begin(&target, PATIENCE, true).await.unwrap();
    assert_eq!((progress, witness), (None, None), "nothing was ever published");
    session.prepare_topics(&[topic]).await.unwrap();
    let Begun { session: mut other, .. } = PlainSession::begin(&target, PATIENCE, true).await.unwrap();
    put(&mut session, topic, "first");
    put(&mut session, topic, "second");
    settled(&mut session).await;
    session.mark(&[record(RecordType::Divergence, "s", 0, 1)]).await.unwrap();
    assert_eq!(committed_values(broker, topic), ["first", "second"]);
    assert_eq!(committed_values(broker, "__pgbaton.plain.markers").len(), 1);

    other.prepare_topics(&[topic]).await.unwrap();
    put(&mut other, topic, "of another");
    settled(&mut other).await;
    put(&mut session, topic, "not refused");
    settled(&mut session).await;
    session.end().await;

    let begun = PlainSession::begin(&target, PATIENCE, true).await.unwrap();
    assert_eq!((begun.progress, begun.witness.as_deref()), (None, Some(topic)));
    let found = begun.session.read_back(&[topic], |_, _| Standing::Beyond, LIMIT).await.unwrap();
    assert_eq!(found.len(), 4);
    let id: EventId = "7/1/0/1/0".parse().unwrap();
    assert!(found.iter().all(|found| found.id == id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_of_a_pipeline_that_was_told_exactly_once_is_seen() {
    let broker = Broker::shared();
    let (target, topic) = (target(broker, "wasonce"), "wasonce.public.items");
    let mut session = claimed(&target, "a", 4).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 4)).unwrap();
    write(&mut session, topic, "1", "once").await;
    session.commit(&record(RecordType::Close, "a", 1, 4), LIMIT);
    committed(&mut session).await;
    let begun = PlainSession::begin(&target, PATIENCE, true).await.unwrap();
    let position = begun.progress.and_then(|progress| progress.position).unwrap();
    assert_eq!((position.record.number, position.record.record_type), (1, RecordType::Close));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_not_acknowledged_in_time_ends_the_session_and_none_behind_it_is_sent() {
    let broker = Broker::start("plainfrozen");
    let (target, topic) = (target(&broker, "plainfrozen"), "plainfrozen.public.items");
    let Begun { mut session, .. } = PlainSession::begin(&target, PATIENCE, true).await.unwrap();
    session.prepare_topics(&[topic]).await.unwrap();
    put(&mut session, topic, "before");
    settled(&mut session).await;
    broker.stop();
    put(&mut session, topic, "frozen");
    let end = async {
        loop {
            if let SinkEvent::Failed(error) = session.event().await {
                return error;
            }
        }
    };
    tokio::time::timeout(LIMIT, end).await.expect("it is given up");
    let headers: [(&str, &[u8]); 0] = [];
    let behind = DataRecord { topic, key: Some(b"1"), value: Some(b"behind"), headers: &headers };
    assert!(session.write(&behind).is_err());
    broker.cont();
    session.end().await;
    // What was on its way may arrive when the broker goes on; nothing else does.
    let values = committed_values(&broker, topic);
    assert!(values == ["before"] || values == ["before", "frozen"], "{values:?}");
}
